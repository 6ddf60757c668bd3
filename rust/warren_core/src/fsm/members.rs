//! Who takes part in consensus: the members that the cluster wants, and those it never wants again.
//!
//! What is here is the wish, replicated like every other object. The configuration of consensus
//! follows it step by step (learner, voter, removed) and is `raft`'s.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::hash::{self, Sum};
use crate::fsm::objects::{Event, Member, Node};
use crate::fsm::state::State;
use crate::ids::{MemberId, NodeId};
use crate::pb;

/// Members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 64;
/// Removed members that are remembered; the longest removed is forgotten first.
pub const REMOVED_MEMBERS_MAX: usize = 1024;
/// From this feature level on a node's `manager` follows from the members, whatever it says.
pub(super) const ROLE_LEVEL: u32 = 5;

/// Invariants: no id is both present and removed; `removed` holds the ids of `removed_order`, each
/// once, at most [`REMOVED_MEMBERS_MAX`]; no data directory belongs to two members.
#[derive(Clone, Default)]
pub(super) struct Members {
    present: OrdMap<MemberId, Arc<Member>>,
    removed: OrdSet<MemberId>,
    removed_order: Vector<MemberId>,
    sum: Sum,
}

impl Members {
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.present.get(&id).map(|member| &**member)
    }

    /// By id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.present.values().map(|member| &**member)
    }

    pub fn len(&self) -> usize {
        self.present.len()
    }

    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The longest removed first.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed_order.iter().copied()
    }

    pub fn sum(&self) -> Sum {
        self.sum
    }

    pub fn put(&mut self, member: Member) {
        self.sum.add(hash::member(&member));
        if let Some(before) = self.present.insert(member.id, Arc::new(member)) {
            self.sum.take(hash::member(&before));
        }
    }

    /// Notes that `id` was removed; nothing changes if it is known.
    pub fn bury(&mut self, id: MemberId) {
        if let Some(member) = self.present.remove(&id) {
            self.sum.take(hash::member(&member));
        }
        if self.removed.insert(id).is_some() {
            return;
        }
        if let Some(before) = hash::removed_members(self.removed()) {
            self.sum.take(before);
        }
        self.removed_order.push_back(id);
        if self.removed_order.len() > REMOVED_MEMBERS_MAX {
            let forgotten = self.removed_order.pop_front().expect("it is not empty");
            self.removed.remove(&forgotten);
        }
        if let Some(after) = hash::removed_members(self.removed()) {
            self.sum.add(after);
        }
    }
}

impl State {
    /// By id. At most [`MEMBERS_MAX`].
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(id)
    }

    /// Whether the member was taken out for good: nobody listens to it any more.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.members.is_removed(id)
    }

    pub(super) fn put_member(&mut self, cx: &mut Context, put: &pb::PutMember) -> Result<Vec<u8>> {
        let member = put
            .member
            .as_ref()
            .ok_or_else(|| invalid("member", "there is none"))?;
        self.admit(cx, Member::try_from(member)?)?;
        Ok(Vec::new())
    }

    /// Adds or changes a member, unless a rule of [`State::judge_member`] forbids it.
    pub(super) fn admit(&mut self, cx: &mut Context, mut member: Member) -> Result<()> {
        let known = self.judge_member(&member)?;
        member.added_at_ms = known.map_or(self.time_ms, |known| known.added_at_ms);
        if known != Some(&member) {
            let (id, node) = (member.id, member.node);
            self.members.put(member);
            cx.events.push(Event::Member { id, gone: false });
            self.follow_role(cx, node);
        }
        Ok(())
    }

    /// The member of this id as it is now, if it may become `member`.
    fn judge_member(&self, member: &Member) -> Result<Option<&Member>> {
        let Member { id, data_dir, .. } = *member;
        if self.is_removed(id) {
            return Err(Error::MemberRemoved { member: id.0 });
        }
        let elsewhere = |other: &&Member| (other.id == id) != (other.data_dir == data_dir);
        if let Some(other) = self.members().find(elsewhere) {
            return Err(Error::WrongDataDir { member: other.id.0 });
        }
        let level = self.feature_level();
        if member.feature_level_max < level {
            return Err(Error::UnknownLevel { level });
        }
        let known = self.member(id);
        match known {
            None if self.members.len() >= MEMBERS_MAX => Err(invalid(
                "member",
                "the cluster has 64, which is the limit; remove one first",
            )),
            Some(known) if known.node != member.node => {
                Err(invalid("member", "it belongs to another node, for life"))
            }
            Some(known) if !member.voter && self.is_last_voter(known) => Err(last_voter()),
            _ => Ok(known),
        }
    }

    pub(super) fn remove_member(
        &mut self,
        cx: &mut Context,
        command: &pb::RemoveMember,
    ) -> Result<Vec<u8>> {
        let id = MemberId(command.member_id);
        match self.member(id) {
            Some(member) if self.is_last_voter(member) => return Err(last_voter()),
            Some(member) => {
                let node = member.node;
                self.members.bury(id);
                cx.events.push(Event::Member { id, gone: true });
                self.withdraw_offer(cx, node);
                self.follow_role(cx, node);
            }
            None if self.is_removed(id) => {}
            None => return Err(not_found("member", id.0)),
        }
        Ok(Vec::new())
    }

    /// The node offered to manage with the data directory of a member that is removed for good. Until
    /// it has made an offer with another one, it cannot be promoted.
    fn withdraw_offer(&mut self, cx: &mut Context, id: NodeId) {
        let Some(node) = self.node(id).filter(|_| self.feature_level() >= 3) else {
            return;
        };
        if node.description.data_dir.is_empty() {
            return;
        }
        let mut node = node.clone();
        let description = Arc::make_mut(&mut node.description);
        description.data_dir.clear();
        description.peer_address.clear();
        description.api_address.clear();
        self.put_node(node);
        cx.events.push(Event::Node { id });
    }

    /// Makes the record of a node say whether a member belongs to it: at once, also of one that is
    /// down and says nothing of itself.
    fn follow_role(&mut self, cx: &mut Context, id: NodeId) {
        if self.feature_level() < ROLE_LEVEL {
            return;
        }
        let manager = self.manages(id);
        let Some(node) = self.node(id).filter(|node| node.manager != manager) else {
            return;
        };
        self.put_node(Node {
            manager,
            ..node.clone()
        });
        cx.events.push(Event::Node { id });
    }

    /// What [`State::follow_role`] does, to all nodes that were described below its level.
    pub(super) fn follow_roles(&mut self, cx: &mut Context) {
        let nodes: Vec<NodeId> = self.nodes().map(|node| node.id).collect();
        nodes.into_iter().for_each(|id| self.follow_role(cx, id));
    }

    /// Whether a member belongs to the node.
    pub fn manages(&self, node: NodeId) -> bool {
        self.members().any(|member| member.node == node)
    }

    /// Without it nobody could ever commit anything again.
    fn is_last_voter(&self, member: &Member) -> bool {
        member.voter && self.members().filter(|other| other.voter).count() == 1
    }
}

fn last_voter() -> Error {
    invalid(
        "member",
        "it is the only one that is to vote; add another voter first",
    )
}
