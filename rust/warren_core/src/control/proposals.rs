//! What was proposed and is not applied yet, by position.

use std::collections::BTreeMap;

use prost::bytes::Bytes;

use super::CallId;
use crate::ids::{MemberId, NodeId, Term};
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
/// stands until something else is, or an entry of a later term before it.
#[derive(Default)]
pub struct Proposals {
    proposed: BTreeMap<Position, Proposal>,
    /// The newest of which an entry is committed.
    term: Term,
}

impl Proposals {
    pub fn add(&mut self, at: Position, proposal: Proposal) {
        self.proposed.insert(at, proposal);
    }

    /// Everything that an entry committed `at` decides: what stood at or before its index, with its
    /// own position whoever proposed it, and what an earlier term would have had behind it.
    pub fn take(&mut self, at: Position) -> Vec<(Position, Proposal)> {
        let mut taken = Vec::new();
        while let Some(entry) = self.proposed.first_entry()
            && entry.key().index <= at.index
        {
            taken.push(entry.remove_entry());
        }
        if at.term > self.term {
            self.term = at.term;
            let (overtaken, open) = std::mem::take(&mut self.proposed)
                .into_iter()
                .partition(|(proposed, _)| proposed.term < at.term);
            taken.extend::<BTreeMap<_, _>>(overtaken);
            self.proposed = open;
        }
        taken
    }

    pub fn len(&self) -> usize {
        self.proposed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Index;

    fn at(index: u64, term: u64) -> Position {
        let (index, term) = (Index(index), Term(term));
        Position { index, term }
    }

    fn proposal() -> Proposal {
        Proposal {
            origin: Origin::Silent,
            proposed_ns: 0,
            again: None,
        }
    }

    /// The log of the leader that follows may be shorter, and nobody writes to it for long.
    #[test]
    fn the_first_entry_of_a_term_decides_all_of_earlier_ones() {
        let mut proposals = Proposals::default();
        for index in 5..=9 {
            proposals.add(at(index, 2), proposal());
        }
        let taken = |proposals: &mut Proposals, at| {
            let taken = proposals.take(at).into_iter();
            taken.map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(taken(&mut proposals, at(5, 2)), [at(5, 2)]);
        proposals.add(at(8, 3), proposal());
        let overtaken = [at(6, 2), at(7, 2), at(8, 2), at(9, 2)];
        assert_eq!(taken(&mut proposals, at(6, 3)), overtaken);
        assert_eq!(taken(&mut proposals, at(7, 3)), []);
        assert_eq!(taken(&mut proposals, at(8, 3)), [at(8, 3)]);
        assert_eq!(proposals.len(), 0);
    }
}
