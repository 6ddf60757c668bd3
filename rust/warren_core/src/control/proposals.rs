//! What was proposed and is not applied yet, by position.

use std::collections::BTreeMap;

use super::CallId;
use crate::ids::{Index, NodeId};
use crate::orchestrator::Token;
use crate::raft::Position;

/// Proposals in flight; the orchestrator and the sessions wait beyond it, calls are bounded before.
pub const PROPOSALS_MAX: usize = 4096;

/// Who waits for a proposal.
#[derive(Clone, Debug)]
pub enum Origin {
    Call(CallId),
    /// The orchestrator is told what became of its own.
    Orchestrator(Token),
    /// The last command of a founding; the call gets the ids.
    Founding(CallId),
    /// What a session's hello said; if it gets lost, the next hello says it again.
    Hello(NodeId),
}

pub struct Proposal {
    pub at: Position,
    pub origin: Origin,
    pub proposed_ns: u64,
}

#[derive(Default)]
pub struct Proposals(BTreeMap<Index, Proposal>);

impl Proposals {
    pub fn add(&mut self, at: Position, origin: Origin, proposed_ns: u64) -> Option<Proposal> {
        // An entry at the same index in an older term has been overwritten.
        self.0.insert(
            at.index,
            Proposal {
                at,
                origin,
                proposed_ns,
            },
        )
    }

    pub fn take(&mut self, index: Index) -> Option<Proposal> {
        self.0.remove(&index)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
