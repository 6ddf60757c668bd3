//! Consensus, behind a contract of our own: no type of the library leaves this module.
//!
//! The contract in one paragraph. [`Raft`] does no I/O. After any call, [`Raft::take_work`] says
//! what to do: entries and hard state to make durable, entries to apply, reads that may be
//! answered. The caller writes the [`Persist`] to its log *in order*, calls [`Raft::persisted`]
//! once it is durable, and applies what comes back committed. A leader's entries count for its own
//! quorum only after `persisted`: nothing is committed before it is durable here (Raft, Ongaro
//! thesis §10.2.1, lets a leader write in parallel with sending, not commit without writing).
//!
//! Commands are opaque bytes. The log since the last snapshot is kept in memory; [`Raft::compact`]
//! drops what a durable snapshot covers.
//!
//! Today a cluster has one voter. A log that was never preceded by a snapshot belongs to the
//! founding member, whose first configuration is itself alone; a member that joins later starts
//! from a snapshot, which carries the configuration.

mod codec;
mod journal;
mod storage;

use raft::{Config as LibraryConfig, RawNode, StateRole};

use crate::error::Error;
use crate::ids::{Index, MemberId, Term};
use crate::mutant::{self, Mutant};
pub use codec::{ConfState, Damaged};
pub use journal::Note;
use storage::Storage;

/// How long a tick is meant to last.
pub const TICK_MS: u64 = 100;
/// Ticks without a leader before an election, at least; at most twice as many.
const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 2;
/// Proposed and not yet committed; beyond it proposals are refused, so that a stuck disk cannot
/// fill the memory.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Committed entries in one [`Work`], so that a step stays short.
const COMMITTED_BYTES_PER_WORK: u64 = 256 << 10;
const BYTES_PER_MESSAGE: u64 = 1 << 20;
const INFLIGHT_MESSAGES_MAX: usize = 256;

/// An entry's place in the log: it is committed there or, overtaken by another term, nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub index: Index,
    pub term: Term,
}

/// One entry on its way to or from the log; `payload` is opaque to both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub payload: Vec<u8>,
}

/// What a member wakes up with.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub member: MemberId,
    /// The newest snapshot, with the configuration it carries.
    pub snapshot: Option<(Position, ConfState)>,
    pub hard_state: Option<Vec<u8>>,
    /// What follows the snapshot, without gaps.
    pub entries: Vec<LogEntry>,
}

/// To be made durable, after every earlier one. Hard state goes before the entries it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    pub number: u64,
    pub hard_state: Option<Vec<u8>>,
    pub entries: Vec<LogEntry>,
}

/// A committed command. An empty `command` is a leader's first entry in its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub at: Position,
    pub command: Vec<u8>,
}

/// A read with this context may be answered from any state at or past `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    pub context: u64,
    pub index: Index,
}

/// What to do next; see the module's prose for the order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub persist: Option<Persist>,
    pub committed: Vec<Committed>,
    pub reads: Vec<ReadReady>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub role: Role,
    pub leader: Option<MemberId>,
    pub term: Term,
    pub last_index: Index,
    pub commit_index: Index,
    pub voters: usize,
}

/// Invariant: `persisted` ≤ `to_persist` ≤ `taken`, all numbers of the library's readies.
pub struct Raft {
    node: RawNode<Storage>,
    member: MemberId,
    /// The last work taken, the last that was to be made durable, the last that is.
    taken: u64,
    to_persist: u64,
    persisted: u64,
    journal: journal::Journal,
    jitter: Jitter,
    /// The (term, role) the election timeout was last drawn for.
    drawn_for: (u64, StateRole),
}

impl Raft {
    /// Wakes a member up. `seed` drives the election jitter.
    pub fn new(recovered: Recovered, seed: u64) -> Result<Self, Damaged> {
        let member = recovered.member;
        let applied = recovered.snapshot.as_ref().map_or(0, |(at, _)| at.index.0);
        let storage = Storage::recover(recovered)?;
        let journal = journal::Journal::default();
        let config = LibraryConfig {
            id: member.0,
            applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: BYTES_PER_MESSAGE,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_WORK,
            ..LibraryConfig::default()
        };
        let node = RawNode::new(&config, storage, &journal.logger()).map_err(|error| Damaged {
            why: error.to_string(),
        })?;
        let drawn_for = (node.raft.term, node.raft.state);
        let mut raft = Self {
            node,
            member,
            taken: 0,
            to_persist: 0,
            persisted: 0,
            journal,
            jitter: Jitter(seed | 1),
            drawn_for,
        };
        raft.draw_election_timeout();
        if raft.is_sole_voter() {
            // Nobody else can be leader: waiting for an election timeout would help no one.
            let _ = raft.node.campaign();
        }
        Ok(raft)
    }

    /// Time passes: call every [`TICK_MS`].
    pub fn tick(&mut self) {
        self.node.tick();
        self.redraw_if_reset();
    }

    /// Appends `command` on the leader; it resolves by the position returned.
    pub fn propose(&mut self, command: Vec<u8>) -> Result<Position, Error> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::NoLeader);
        }
        match self.node.propose(Vec::new(), command) {
            Ok(()) => Ok(Position {
                index: Index(self.node.raft.raft_log.last_index()),
                term: Term(self.node.raft.term),
            }),
            Err(_) => Err(Error::Overloaded {
                queue: "the log",
                limit: UNCOMMITTED_BYTES_MAX as usize,
            }),
        }
    }

    /// Asks from which index on a read is linearizable; the answer comes as [`Work::reads`].
    /// Use a fresh context each time and ask only a leader that has applied an entry of its term.
    pub fn read_index(&mut self, context: u64) {
        self.node.read_index(context.to_le_bytes().to_vec());
    }

    /// Everything up to this [`Persist::number`] is durable.
    pub fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
        // Work without anything to persist is done once all before it is.
        let all = self.persisted == self.to_persist;
        self.node
            .on_persist_ready(if all { self.taken } else { number });
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: Index) {
        self.node.advance_apply_to(index.0);
    }

    /// Drops the log up to a durable snapshot.
    pub fn compact(&mut self, at: Position) {
        self.node.mut_store().compact(at);
    }

    /// The configuration to be kept with a snapshot.
    pub fn conf_state(&self) -> ConfState {
        self.node.store().conf_state()
    }

    /// What is to be done since the last call, or `None`.
    pub fn take_work(&mut self) -> Option<Work> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let entries = ready.take_entries();
        // A commit index alone is not worth an fsync: it is found again from the entries.
        let hard_state = ready
            .hs()
            .filter(|_| ready.must_sync())
            .map(codec::encode_hard_state);
        let persist = (hard_state.is_some() || !entries.is_empty()).then(|| Persist {
            number: ready.number(),
            hard_state,
            entries: entries.iter().map(codec::log_entry).collect(),
        });
        self.node.mut_store().append(&entries);
        let work = Work {
            persist,
            committed: ready
                .take_committed_entries()
                .into_iter()
                .map(codec::committed)
                .collect(),
            reads: ready
                .take_read_states()
                .iter()
                .filter_map(codec::read_ready)
                .collect(),
        };
        self.taken = ready.number();
        self.node.advance_append_async(ready);
        if work.persist.is_some() {
            self.to_persist = self.taken;
            if mutant::is_on(Mutant::AcknowledgesBeforeFsync) {
                self.persisted(self.taken);
            }
        } else if self.persisted == self.to_persist {
            // Only then: the library takes everything up to this number for durable.
            self.node.on_persist_ready(self.taken);
        }
        self.redraw_if_reset();
        Some(work)
    }

    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status {
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            leader: (raft.leader_id != 0).then_some(MemberId(raft.leader_id)),
            term: Term(raft.term),
            last_index: Index(raft.raft_log.last_index()),
            commit_index: Index(raft.raft_log.committed),
            voters: self.node.store().conf_state().voters.len(),
        }
    }

    /// What the library had to say since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.journal.take()
    }

    fn is_sole_voter(&self) -> bool {
        self.node.store().conf_state().voters == [self.member.0]
    }

    /// The library draws its timeout from a thread-local source on every reset; ours is seeded.
    fn redraw_if_reset(&mut self) {
        let now = (self.node.raft.term, self.node.raft.state);
        if now != self.drawn_for {
            self.drawn_for = now;
            self.draw_election_timeout();
        }
    }

    fn draw_election_timeout(&mut self) {
        let ticks = ELECTION_TICKS + self.jitter.below(ELECTION_TICKS);
        self.node.raft.set_randomized_election_timeout(ticks);
    }
}

/// xorshift64* (Vigna 2016): a stream of its own, so that nothing else shifts the elections.
struct Jitter(u64);

impl Jitter {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

#[cfg(test)]
mod tests;
