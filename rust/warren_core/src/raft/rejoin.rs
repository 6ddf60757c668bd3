//! How a member whose log was cut becomes whole again.
//!
//! The leader may count on entries that this member acknowledged and no longer has. So it asks to
//! be counted from nothing (REJOIN) before it takes anything from that leader: the leader forgets
//! what matched and answers with the end of its own log. Once this member has everything up to
//! there, durably, it lacks nothing that was ever committed with its help.
//!
//! Acknowledgements from before the cut may still be on their way. Every answer therefore carries
//! the sender's *generation*, a durable count of its cuts, and the leader drops those of an older
//! generation than the one that asked to rejoin.

use std::collections::BTreeMap;

use raft::{ProgressState, StateRole};

use super::{Lane, Message, Raft};
use crate::ids::MemberId;
use crate::pb::{RaftMessage, RaftMessageType as Type};

/// The leader that was asked, and what it answered. Invariant: `asked` is of the present term.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Asked {
    leader: MemberId,
    term: u64,
    /// Where the leader's log ended when it answered.
    target: Option<u64>,
}

pub struct Rejoin {
    cut: bool,
    generation: u64,
    /// Of this process: an answer to an earlier one does not count.
    nonce: u64,
    asked: Option<Asked>,
    /// As a leader: the term, and which generation of whom asked to rejoin in it.
    rejoined: (u64, BTreeMap<u64, u64>),
}

impl Rejoin {
    pub fn new(cut: bool, generation: u64, nonce: u64) -> Self {
        Self {
            cut,
            generation,
            nonce,
            asked: None,
            rejoined: (0, BTreeMap::new()),
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cut
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whoever leads was elected by a whole quorum or by all: its log is the one to compare with.
    pub fn leads(&mut self) {
        self.cut = false;
    }

    /// What this member sent out, and so has on disk.
    pub fn sent(&mut self, message: &Message) {
        let Some(asked) = self.asked else { return };
        let body = &message.body;
        let matches = body.r#type() == Type::AppendResponse && !body.reject;
        let from_here = message.to == asked.leader && body.term == asked.term;
        if matches && from_here && asked.target.is_some_and(|target| body.index >= target) {
            self.cut = false;
            self.asked = None;
        }
    }
}

impl Raft {
    /// Before a leader has answered, nothing is taken from it but that it leads. Its appends are
    /// not even answered: each answer would bring the next.
    pub(super) fn guard_cut(
        &mut self,
        from: MemberId,
        message: RaftMessage,
    ) -> Option<RaftMessage> {
        if !self.rejoin.cut || message.term < self.node.raft.term {
            return Some(message);
        }
        let same = |asked: &Asked| asked.leader == from && asked.term == message.term;
        let asked = self.rejoin.asked.filter(same);
        if asked.is_some_and(|asked| asked.target.is_some()) {
            // Where the leader's commit index stands, this member may still have entries of another
            // history. Appends say what they follow, and carry it too.
            let commit = match message.r#type() {
                Type::Heartbeat => 0,
                _ => message.commit,
            };
            return Some(RaftMessage { commit, ..message });
        }
        if message.r#type() == Type::Append {
            return None;
        }
        if asked.is_none() {
            self.rejoin.asked = Some(Asked {
                leader: from,
                term: message.term,
                target: None,
            });
            self.rejoin_unasked = true;
        }
        Some(RaftMessage {
            commit: 0,
            context: None,
            ..message
        })
    }

    /// Asks again with every tick, until there is an answer.
    pub(super) fn tick_rejoin(&mut self) {
        self.rejoin_unasked |= self.rejoin.cut
            && self
                .rejoin
                .asked
                .is_some_and(|asked| asked.target.is_none());
    }

    pub(super) fn ask_to_rejoin(&mut self) {
        let asked = self.rejoin.asked.filter(|asked| asked.target.is_none());
        if !std::mem::take(&mut self.rejoin_unasked) {
            return;
        }
        let Some(asked) = asked.filter(|asked| asked.term == self.node.raft.term) else {
            return;
        };
        let body = RaftMessage {
            r#type: Type::Rejoin.into(),
            term: asked.term,
            index: self.node.raft.raft_log.last_index(),
            nonce: self.rejoin.nonce,
            ..RaftMessage::default()
        };
        self.hold(asked.leader, body);
    }

    /// A follower lost part of its log: forgets what matched.
    pub(super) fn rejoin_asked(&mut self, from: MemberId, message: &RaftMessage) {
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Leader || message.term != raft.term {
            return;
        }
        let (term, last) = (raft.term, raft.raft_log.last_index());
        let Some(progress) = raft.mut_prs().get_mut(from.0) else {
            return;
        };
        if self.rejoin.rejoined.0 != term {
            self.rejoin.rejoined = (term, BTreeMap::new());
        }
        let known = self.rejoin.rejoined.1.entry(from.0).or_default();
        if message.generation < *known {
            return;
        }
        *known = message.generation;
        if progress.state == ProgressState::Snapshot {
            progress.snapshot_failure();
        }
        progress.matched = 0;
        progress.become_probe();
        progress.next_idx = message.index.min(last) + 1;
        let body = RaftMessage {
            r#type: Type::RejoinAck.into(),
            term,
            index: last,
            nonce: message.nonce,
            ..RaftMessage::default()
        };
        self.hold(from, body);
    }

    pub(super) fn rejoin_answered(&mut self, from: MemberId, message: &RaftMessage) {
        if message.nonce != self.rejoin.nonce {
            return;
        }
        if let Some(asked) = &mut self.rejoin.asked
            && asked.leader == from
            && asked.term == message.term
        {
            asked.target.get_or_insert(message.index);
        }
    }

    /// Whether an answer is from before its sender's log was cut.
    pub(super) fn is_from_before_cut(&self, from: MemberId, message: &RaftMessage) -> bool {
        let (term, generations) = &self.rejoin.rejoined;
        *term == message.term
            && generations
                .get(&from.0)
                .is_some_and(|generation| message.generation < *generation)
    }

    fn hold(&mut self, to: MemberId, body: RaftMessage) {
        let message = Message {
            to,
            lane: Lane::Urgent,
            body,
        };
        self.send_after(self.term_number, message);
    }
}
