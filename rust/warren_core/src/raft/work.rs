//! What is to be done, in the one order that is safe: persist, then send, then apply.

use raft::eraftpb::{self, MessageType};
use raft::{ProgressState, Ready, StateRole};

use super::codec::{self, ConfState, HardState};
use super::{Message, Persist, Position, Raft, Work, messages, storage};
use crate::ids::{Index, MemberId, Term};
use crate::mutant::{self, Mutant};
use crate::pb::RaftMessageType as Type;

/// Messages waiting for the disk; beyond it new ones are dropped, which consensus copes with.
const HELD_MESSAGES_MAX: usize = 8192;

impl Raft {
    /// What is to be done since the last call, or `None`. Call it until then.
    pub fn take_work(&mut self) -> Option<Work> {
        self.take_offered_snapshot();
        self.send_appended();
        self.ask_to_rejoin();
        let mut work = Work::default();
        while self.node.has_ready() || self.flags_unwritten() {
            self.take_ready(&mut work);
            if !work.is_empty() {
                break;
            }
        }
        work.messages = self.release_messages();
        work.reads.append(&mut self.reads_unconfirmed);
        work.snapshot_due = self.node.store().take_snapshot_due();
        self.follow_resets();
        (!work.is_empty()).then_some(work)
    }

    fn take_ready(&mut self, work: &mut Work) {
        let mut ready = self.node.ready();
        let number = ready.number();
        self.install(&ready, work);
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        let must_write = ready.must_sync() || self.flags_unwritten();
        let hard_state = must_write
            .then(|| self.hard_state_to_write(number))
            .flatten();
        if work.installed.is_some() || hard_state.is_some() || !entries.is_empty() {
            self.to_persist = number;
            work.persist = Some(Persist {
                number,
                install: work.installed,
                hard_state,
                entries: entries.iter().map(codec::log_entry).collect(),
            });
        }
        self.hold_messages(&mut ready, work);
        let committed = ready.take_committed_entries().into_iter();
        work.committed = committed.map(codec::committed).collect();
        let reads = ready.take_read_states();
        work.reads = reads.iter().filter_map(codec::read_ready).collect();
        self.taken = number;
        self.node.advance_append_async(ready);
        let persisted_at_once = mutant::is_on(Mutant::AcknowledgesBeforeFsync);
        if persisted_at_once {
            self.persisted(self.taken);
        } else if self.is_all_durable() {
            // Only then: the library takes everything up to this number for durable.
            self.node.on_persist_ready(self.taken);
        }
    }

    /// The state comes from the snapshot, which the caller has; its place in the log and its
    /// members are taken over here.
    fn install(&mut self, ready: &Ready, work: &mut Work) {
        let meta = ready.snapshot().get_metadata();
        if meta.index == 0 {
            return;
        }
        let at = Position {
            index: Index(meta.index),
            term: Term(meta.term),
        };
        let conf = ConfState::from_library(meta.get_conf_state());
        self.conf = conf.clone();
        self.node.mut_store().install(at, conf);
        self.applied = self.applied.max(at.index);
        work.installed = Some(at);
    }

    /// The newest hard state, if it is not written yet. The commit index alone is not worth an
    /// fsync, but goes with whatever is: see `changes` for what rests on that.
    fn hard_state_to_write(&mut self, number: u64) -> Option<Vec<u8>> {
        let now = self.hard_state();
        let before = std::mem::replace(&mut self.written, now);
        if (now.term, now.vote, now.generation) != (before.term, before.vote, before.generation) {
            self.term_number = number;
        }
        (now != before).then(|| now.encode())
    }

    fn hard_state(&self) -> HardState {
        let raft = &self.node.raft;
        HardState {
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
            generation: self.rejoin.generation(),
            cut: self.rejoin.is_cut(),
        }
    }

    /// A cut must be on disk before anything is said, and its end before the next restart.
    fn flags_unwritten(&self) -> bool {
        (self.rejoin.generation(), self.rejoin.is_cut())
            != (self.written.generation, self.written.cut)
    }

    /// A leader sends in parallel with its own write (thesis §10.2.1), once its term is durable: a
    /// lone voter becomes leader before that. Answers to heartbeats, too, wait for the term alone:
    /// they acknowledge no entry, and a slow disk must not look like a lost member. Everything else
    /// says what only the disk makes true.
    fn hold_messages(&mut self, ready: &mut Ready, work: &mut Work) {
        let mut all = ready.take_messages();
        let leads = self.node.raft.state == StateRole::Leader;
        all.extend(ready.take_persisted_messages());
        for message in all {
            let to = MemberId(message.to);
            let after = match message.get_msg_type() {
                MessageType::MsgSnapshot => {
                    work.snapshots_wanted.push(to);
                    continue;
                }
                MessageType::MsgHeartbeatResponse => self.term_number,
                _ if leads => self.term_number,
                _ => self.to_persist,
            };
            if let Some(message) = messages::from_library(message)
                && to.0 != 0
            {
                self.send_after(after, message);
            }
        }
    }

    /// To go out once the work with this number is durable.
    pub(super) fn send_after(&mut self, after: u64, mut message: Message) {
        if self.held.len() < HELD_MESSAGES_MAX {
            message.body.generation = self.rejoin.generation();
            let body = &mut message.body;
            let votes = matches!(body.r#type(), Type::VoteResponse | Type::PreVoteResponse);
            body.cut_voter = votes && !body.reject && self.rejoin.is_cut();
            self.held.push_back((after, message));
        }
    }

    fn release_messages(&mut self) -> Vec<Message> {
        let durable = match mutant::is_on(Mutant::SendsBeforeDurable) {
            true => u64::MAX,
            false => self.persisted,
        };
        let held = std::mem::take(&mut self.held);
        let mut released = Vec::with_capacity(held.len());
        for (after, message) in held {
            if after <= durable {
                self.rejoin.sent(&message);
                released.push(message);
            } else {
                self.held.push_back((after, message));
            }
        }
        released
    }

    /// One append to each follower for all that was proposed since the last time, and more if it
    /// does not fit in one.
    fn send_appended(&mut self) {
        if !std::mem::take(&mut self.unsent) || self.node.raft.state != StateRole::Leader {
            return;
        }
        self.node.raft.bcast_append();
        let last = self.node.raft.raft_log.last_index();
        let behind = |progress: &raft::Progress| {
            progress.state == ProgressState::Replicate
                && !progress.is_paused()
                && progress.next_idx <= last
        };
        for member in self.others() {
            while self.node.raft.prs().get(member).is_some_and(behind) {
                self.node.raft.send_append(member);
            }
        }
    }

    /// A snapshot that is durable here is taken as soon as nobody is asked for a vote.
    fn take_offered_snapshot(&mut self) {
        let raft = &self.node.raft;
        if raft.state == StateRole::Leader {
            self.offered = None;
        }
        if raft.state != StateRole::Follower {
            return;
        }
        let Some((at, conf)) = self.offered.take() else {
            return;
        };
        let message = eraftpb::Message {
            msg_type: MessageType::MsgSnapshot,
            // Without a leader the answer goes to nobody; the next append asks again.
            from: raft.leader_id,
            term: raft.term,
            snapshot: Some(storage::library_snapshot(at, &conf)).into(),
            ..Default::default()
        };
        let _ = self.node.step(message);
    }

    /// Every other member of the configuration, ordered.
    pub(super) fn others(&self) -> Vec<u64> {
        let conf = &self.conf;
        let lists = [&conf.voters, &conf.voters_outgoing, &conf.learners];
        let mut all: Vec<u64> = lists.into_iter().flatten().copied().collect();
        all.retain(|id| *id != self.member.0);
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
