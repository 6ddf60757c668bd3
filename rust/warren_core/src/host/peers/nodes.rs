//! Which node each member belongs to, for connections that know whose they are.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use crate::ids::{MemberId, NodeId};

/// As the replicated state has it; a member that it does not have yet may be on any node.
#[derive(Default)]
pub struct Nodes {
    bound: RwLock<BTreeMap<MemberId, NodeId>>,
}

impl Nodes {
    /// From now on these, and no others, are known.
    pub fn set(&self, bound: BTreeMap<MemberId, NodeId>) {
        *self.bound.write().unwrap_or_else(PoisonError::into_inner) = bound;
    }

    /// The node that `member` is bound to.
    pub fn of(&self, member: MemberId) -> Option<NodeId> {
        let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner);
        bound.get(&member).copied()
    }

    /// Whether a connection of `node` is not one of `member`; false where one of them is not known.
    pub fn is_another(&self, member: MemberId, node: Option<NodeId>) -> bool {
        node.is_some_and(|node| self.of(member).is_some_and(|bound| bound != node))
    }
}
