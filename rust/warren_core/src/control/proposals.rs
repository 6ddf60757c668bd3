//! What was proposed and is not applied yet, by position.

use std::collections::BTreeMap;

use prost::bytes::Bytes;

use super::CallId;
use crate::ids::{MemberId, NodeId};
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
    /// A new member: the call gets its id.
    AddMember(CallId, MemberId),
    /// A member that goes: the call is answered once it is in no configuration any more.
    RemoveMember(CallId, MemberId),
    Promote(CallId, MemberId),
    AdmitNode(CallId),
    /// What a session's hello said; if it gets lost, the next hello says it again.
    Hello(NodeId),
    /// The cluster's own upkeep, repeated as long as it is needed.
    Upkeep,
    /// What is derived again and again until it is so: nobody waits for this one.
    Silent,
}

pub struct Proposal {
    pub origin: Origin,
    pub proposed_ns: u64,
    /// The command, where a request id makes it safe to propose it again.
    pub again: Option<Bytes>,
}

/// Keyed by index and term: what another term's entry overtook may still be committed where it
/// stands until something else is, so both wait for that index.
#[derive(Default)]
pub struct Proposals(BTreeMap<Position, Proposal>);

impl Proposals {
    pub fn add(&mut self, at: Position, proposal: Proposal) {
        self.0.insert(at, proposal);
    }

    /// Everything that stood at or before `at.index`: with its own position, whoever proposed the
    /// entry that is committed there.
    pub fn take(&mut self, at: Position) -> Vec<(Position, Proposal)> {
        let mut taken = Vec::new();
        while let Some(entry) = self.0.first_entry()
            && entry.key().index <= at.index
        {
            taken.push(entry.remove_entry());
        }
        taken
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
