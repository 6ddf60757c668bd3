//! Votes of members whose log was cut.
//!
//! Such a member may have lost what it acknowledged, so its vote does not prove that the candidate
//! has everything. It is granted, but marked, and counts only once *every* voter has granted: then
//! the candidate's log was compared with all there are. A majority of whole members proves as much
//! as ever. Thus a cluster whose members all lost power under load comes up again, and one with a
//! single cut member loses no entry. (A vote may be lost: see *Damage* in `docs/consensus.md`.)

use std::collections::BTreeMap;

use raft::StateRole;
use raft::eraftpb::{self, MessageType};

use super::Raft;
use super::codec::ConfState;

/// Granted votes of one round. Invariant: what is held back is among the granted.
#[derive(Default)]
pub struct Grants {
    /// Term, and whether it is the pre-vote.
    round: (u64, bool),
    /// Who granted, and whether with a whole log.
    granted: BTreeMap<u64, bool>,
    held: Vec<eraftpb::Message>,
}

impl Grants {
    fn enter(&mut self, round: (u64, bool)) {
        if self.round != round {
            *self = Self {
                round,
                ..Self::default()
            };
        }
    }

    /// Whether what is granted decides, the candidate's own vote included.
    ///
    /// `others`: there may be voters besides those of `conf`, so that these are not all.
    fn decides(
        &self,
        conf: &ConfState,
        candidate: u64,
        candidate_is_whole: bool,
        others: bool,
    ) -> bool {
        let grants = |id| id == candidate || self.granted.contains_key(&id);
        let whole = |id| match id == candidate {
            true => candidate_is_whole,
            false => self.granted.get(&id).copied().unwrap_or(false),
        };
        conf.has_quorum(whole) || (!others && conf.is_unanimous(grants))
    }
}

impl Raft {
    /// Hands an answer to a vote or pre-vote to the library, or holds it back.
    pub(super) fn count_vote(&mut self, message: eraftpb::Message, cut_voter: bool) {
        let raft = &self.node.raft;
        let pre_vote = message.get_msg_type() == MessageType::MsgRequestPreVoteResponse;
        let round = match raft.state {
            StateRole::PreCandidate if pre_vote => (raft.term + 1, true),
            // Before the request is sent nobody can have answered it: see `may_campaign`.
            StateRole::Candidate if !pre_vote && self.is_all_durable() => (raft.term, false),
            _ if message.reject || message.term > raft.term => {
                let _ = self.node.step(message);
                return;
            }
            _ => return,
        };
        if message.reject || message.term != round.0 {
            let _ = self.node.step(message);
            return;
        }
        self.grants.enter(round);
        self.grants.granted.insert(message.from, !cut_voter);
        self.grants.held.push(message);
        let is_whole = !self.rejoin.is_cut();
        let others = self.may_have_other_voters();
        let grants = &self.grants;
        let decides = grants.decides(&self.conf, self.member.0, is_whole, others);
        if decides || (is_whole && !cut_voter) {
            self.release_votes(decides);
        }
    }

    /// All that is held if it decides, else what came from whole members.
    fn release_votes(&mut self, all: bool) {
        let held = std::mem::take(&mut self.grants.held);
        let granted = &self.grants.granted;
        let (release, keep): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|message| all || granted.get(&message.from) == Some(&true));
        self.grants.held = keep;
        for message in release {
            let _ = self.node.step(message);
        }
    }
}
