//! Consensus, behind a contract of our own: no type of the library leaves this module.
//!
//! The contract in one paragraph. [`Raft`] does no I/O. After any call, [`Raft::take_work`] says
//! what to do: hard state and entries to make durable, messages to send, entries to apply, reads
//! that may be answered. The caller writes each [`Persist`] to its log *in order* and calls
//! [`Raft::persisted`] once it is durable; it may send all messages at once, since those that a
//! write must come before are held back here until then. A leader's own entries count for its
//! quorum only after `persisted`: it writes in parallel with sending, but nothing is committed
//! before it is durable on a quorum, and nothing is applied before it is durable here (Raft,
//! Ongaro thesis §10.2.1).
//!
//! Commands are opaque bytes. The log since the last snapshot is kept in memory, and some of what
//! is before it for members that lag; [`Raft::compact`] drops what nobody needs.
//!
//! A log never exists without the snapshot that it continues. A cluster is founded by an empty
//! *genesis snapshot* whose configuration is the founder alone. A member that joins has nothing: it
//! belongs to no configuration, cannot campaign, and waits until a leader has a snapshot sent.
//!
//! A member that finds the end of its log cut off (a torn tail that may have been durable) stands
//! back until it has caught up: see `rejoin` and `votes`.

mod changes;
mod codec;
mod election;
mod heard;
mod journal;
mod messages;
mod rejoin;
mod status;
mod storage;
mod votes;
mod work;

use std::collections::VecDeque;

use prost::bytes::Bytes;
use raft::eraftpb::Entry;
use raft::{Config as LibraryConfig, RawNode, SnapshotStatus, StateRole};

use crate::error::Error;
use crate::ids::{Index, MemberId, Term};
use crate::mutant::{self, Mutant};
use crate::pb;
pub use changes::ConfChange;
use codec::damaged;
pub use codec::{ConfState, Damaged, HardState, command_of};
use election::ElectionTimer;
use heard::Heard;
pub use journal::{Note, Severity};
use pb::RaftMessageType as Type;
use rejoin::Rejoin;
pub use status::{Progress, ProgressState, Role, Status};
use storage::Storage;
use votes::Grants;

/// How long a tick is meant to last.
pub const TICK_MS: u64 = 25;
const HEARTBEAT_TICKS: usize = 2;
/// The library's own election timer must never fire: see [`election`].
const NEVER_TICKS: usize = 1 << 30;
/// Proposed and not yet committed; beyond it proposals are refused, so that a stuck disk cannot
/// fill the memory.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Committed entries in one [`Work`], so that a step stays short.
const COMMITTED_BYTES_PER_WORK: u64 = 16 << 10;
const BYTES_PER_MESSAGE: u64 = 1 << 20;
/// Appends on their way to one follower.
const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Questions for a read index that wait for a quorum; further ones are dropped, to be asked again.
const READS_PENDING_MAX: usize = 1024;
/// What a snapshot covers and is kept in memory all the same, for followers that still need it: at
/// most this part of the log between two snapshots.
const TRAILING_DIVISOR_MAX: u64 = 2;
/// And for whoever may lag when this member comes to lead.
const TRAILING_DIVISOR_MIN: u64 = 32;

/// An entry's place in the log: it is committed there or, overtaken by another term, nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub index: Index,
    pub term: Term,
}

/// One entry on its way to or from the log; `payload` is opaque to both, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// What a member wakes up with.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub member: MemberId,
    /// The newest snapshot, with the configuration it carries; none for a member that joins.
    pub snapshot: Option<(Position, ConfState)>,
    pub hard_state: Option<Vec<u8>>,
    /// What follows the snapshot, without gaps.
    pub entries: Vec<LogEntry>,
    /// The end of the log was cut off, and may have been durable.
    pub cut: bool,
}

/// To be made durable, after every earlier one, in the order of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    pub number: u64,
    /// The log now continues the snapshot at this place, and nothing that it held before follows
    /// (Raft §7).
    pub install: Option<Position>,
    pub hard_state: Option<Vec<u8>>,
    pub entries: Vec<LogEntry>,
}

/// How urgent a message is; order matters only within a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, reads: small, and what keeps the cluster together.
    Urgent,
    /// Appends and their answers.
    Log,
    /// Snapshots.
    Bulk,
}

/// To be sent, now. It may get lost, or arrive twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub to: MemberId,
    pub lane: Lane,
    pub body: pb::RaftMessage,
}

/// A committed command. An empty `command` without a change is a leader's first entry in its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub at: Position,
    pub command: Bytes,
    /// To be given to [`Raft::apply_change`] where the entry is applied.
    pub change: Option<ConfChange>,
}

/// A read with this context may be answered from any state at or past `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    pub context: u64,
    pub index: Index,
}

/// What to do next; see the module's prose for the order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    pub persist: Option<Persist>,
    pub messages: Vec<Message>,
    /// The snapshot given by [`Raft::receive_snapshot`] is taken: the state becomes that one now,
    /// before anything that follows.
    pub installed: Option<Position>,
    pub committed: Vec<Committed>,
    pub reads: Vec<ReadReady>,
    /// Followers that need the newest snapshot; [`Raft::snapshot_sent`] tells what came of it.
    pub snapshots_wanted: Vec<MemberId>,
    /// A follower needs a snapshot newer than the newest that [`Raft::set_snapshot`] named.
    pub snapshot_due: bool,
}

/// Invariants: `persisted` ≤ `to_persist` ≤ `taken` and `term_number` ≤ `to_persist`, all numbers
/// of the library's readies; `conf` is the configuration that the library decides by.
pub struct Raft {
    node: RawNode<Storage>,
    member: MemberId,
    conf: ConfState,
    /// The last work taken, the last that was to be made durable, the last that is.
    taken: u64,
    to_persist: u64,
    persisted: u64,
    /// The last work that changed the term, the vote or the generation.
    term_number: u64,
    /// The hard state last handed out.
    written: HardState,
    /// Messages, and after which number they may go.
    held: VecDeque<(u64, Message)>,
    /// What the caller has applied; the library is told no more than is durable.
    applied: Index,
    /// Entries were appended and not yet sent.
    unsent: bool,
    offered: Option<(Position, ConfState)>,
    grants: Grants,
    rejoin: Rejoin,
    rejoin_unasked: bool,
    reads_unconfirmed: Vec<ReadReady>,
    journal: journal::Journal,
    election: ElectionTimer,
    heard: Heard,
    /// Bytes uncommitted when the lead was lost.
    uncommitted_bytes_seen: usize,
}

impl Raft {
    /// Wakes a member up. `seed` drives its elections and must differ from start to start.
    ///
    /// # Errors
    /// [`Damaged`] if what was recovered contradicts itself.
    pub fn new(recovered: Recovered, seed: u64) -> Result<Self, Damaged> {
        let (member, cut) = (recovered.member, recovered.cut);
        let storage = Storage::recover(recovered)?;
        let (found, conf) = (storage.hard_state(), storage.conf());
        let applied = storage.snapshot_position().unwrap_or_default().index;
        let journal = journal::Journal::default();
        let config = config(member, applied);
        let node = RawNode::new(&config, storage, &journal.logger())
            .map_err(|error| damaged(error.to_string()))?;
        let mut election = ElectionTimer::new(seed);
        let generation = found.generation + u64::from(cut);
        let rejoin = Rejoin::new(cut || found.cut, generation, election.next());
        let mut raft = Self {
            node,
            member,
            conf,
            taken: 0,
            to_persist: 0,
            persisted: 0,
            term_number: 0,
            written: found,
            held: VecDeque::new(),
            applied,
            unsent: false,
            offered: None,
            grants: Grants::default(),
            rejoin,
            rejoin_unasked: false,
            reads_unconfirmed: Vec::new(),
            journal,
            election,
            heard: Heard::default(),
            uncommitted_bytes_seen: 0,
        };
        if raft.conf.voters == [member.0] && !raft.conf.is_joint() {
            // Nobody else can be leader: waiting for an election timeout would help no one.
            raft.campaign();
        }
        Ok(raft)
    }

    /// Time passes: call every [`TICK_MS`].
    pub fn tick(&mut self) {
        self.heard.tick();
        self.tick_rejoin();
        if !self.election_is_due() {
            self.node.tick();
            self.follow_resets();
        } else if self.may_campaign() {
            self.campaign();
        }
    }

    /// Takes a message from another member, who must be who it says it is.
    ///
    /// # Errors
    /// [`Damaged`] if no correct member could have sent it; nothing has changed then.
    pub fn receive(&mut self, from: MemberId, message: pb::RaftMessage) -> Result<(), Damaged> {
        let message_type = messages::check(&message)?;
        if from == self.member || from.0 == 0 {
            return Err(damaged("the sender is this member itself, or nobody"));
        }
        if message.term == self.node.raft.term && self.conf.contains(from.0) {
            self.heard.note(from.0, message.term);
        }
        let (cut_voter, sent_ns) = (message.cut_voter, message.sent_ns);
        let message = match message_type {
            Type::Rejoin => {
                self.rejoin_asked(from, &message);
                return Ok(());
            }
            Type::RejoinAck => {
                self.rejoin_answered(from, &message);
                return Ok(());
            }
            Type::Append | Type::Heartbeat => match self.guard_cut(from, message) {
                Some(message) => message,
                None => return Ok(()),
            },
            Type::AppendResponse | Type::HeartbeatResponse => {
                self.check_answer(&message)?;
                if self.is_from_before_cut(from, &message) {
                    return Ok(());
                }
                message
            }
            Type::TimeoutNow if !self.may_campaign() || self.rejoin.is_cut() => return Ok(()),
            _ => message,
        };
        let mut message = messages::to_library(from, self.member, message_type, message)?;
        if message_type == Type::Heartbeat {
            // What a cut took away the leader may still count on.
            message.commit = message.commit.min(self.node.raft.raft_log.last_index());
        }
        let answers = self.node.raft.msgs.len();
        if matches!(message_type, Type::VoteResponse | Type::PreVoteResponse) {
            self.count_vote(message, cut_voter);
        } else {
            // What it refuses is late, or from a stranger.
            let _ = self.node.step(message);
        }
        if let Some(answer) = self.node.raft.msgs.get_mut(answers) {
            messages::echo(answer, sent_ns);
        }
        self.follow_resets();
        Ok(())
    }

    /// A leader has every entry that somebody can acknowledge to it.
    fn check_answer(&self, message: &pb::RaftMessage) -> Result<(), Damaged> {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader && message.term == raft.term;
        if leads && !message.reject && message.index > raft.raft_log.last_index() {
            return Err(damaged(
                "an acknowledgement of entries that were never sent",
            ));
        }
        Ok(())
    }

    /// Whether something was appended since the last [`take_work`](Self::take_work).
    pub fn has_appended(&self) -> bool {
        self.unsent
    }

    /// Appends `command` on the leader; it resolves by the position returned.
    ///
    /// # Errors
    /// `NoLeader` if this member does not lead or hands the lead over; `Overloaded` while too much
    /// is uncommitted.
    pub fn propose(&mut self, command: Vec<u8>) -> Result<Position, Error> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() {
            return Err(Error::NoLeader);
        }
        self.append(Entry {
            data: codec::command_payload(&command),
            ..Entry::default()
        })
    }

    /// Asks from which index on a read is linearizable; the answer comes as [`Work::reads`], after
    /// a quorum has confirmed with this very context that this member still leads (thesis §6.4).
    /// Use a fresh context each time, ask only a leader that has applied an entry of its term, and
    /// ask again if there is no answer.
    pub fn read_index(&mut self, context: u64) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || raft.pending_read_count() >= READS_PENDING_MAX {
            return;
        }
        if mutant::is_on(Mutant::ReadsWithoutQuorum) {
            let index = Index(raft.raft_log.committed);
            self.reads_unconfirmed.push(ReadReady { context, index });
            return;
        }
        self.node.read_index(context.to_le_bytes().to_vec());
    }

    /// Everything up to this [`Persist::number`] is durable.
    pub fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number.min(self.to_persist));
        // Work without anything to persist is done once all before it is.
        let all = self.is_all_durable();
        self.node
            .on_persist_ready(if all { self.taken } else { self.persisted });
        self.tell_applied();
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: Index) {
        self.applied = self.applied.max(index);
        self.tell_applied();
    }

    /// A snapshot is in place before its marker is durable; the library accepts no such thing.
    fn tell_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        let applied = self.applied.0.min(log.persisted).min(log.committed);
        if applied > log.applied {
            self.node.advance_apply_to(applied);
        }
    }

    /// The newest snapshot that is durable here: what followers that lag too far are given.
    pub fn set_snapshot(&mut self, at: Position, conf: ConfState) {
        self.node.mut_store().set_snapshot(at, conf);
    }

    /// Drops the log in memory up to `at`, which a durable snapshot covers (see
    /// [`set_snapshot`](Self::set_snapshot)), except what followers still need, within a part of
    /// `snapshot_bytes`, the log between two snapshots.
    pub fn compact(&mut self, at: Position, snapshot_bytes: u64) {
        let raft = &self.node.raft;
        let up_to = at.index.0.min(raft.raft_log.applied);
        let others = self.others();
        let progress = others.iter().filter_map(|id| raft.prs().get(*id));
        let active = progress.filter(|progress| progress.recent_active);
        let needed_from = match raft.state {
            StateRole::Leader => active.map(|p| p.matched + 1).min().unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        let bytes_min = match others.is_empty() {
            true => 0,
            false => snapshot_bytes / TRAILING_DIVISOR_MIN,
        };
        let bytes_max = snapshot_bytes / TRAILING_DIVISOR_MAX;
        let storage = self.node.mut_store();
        storage.compact(up_to, needed_from, bytes_min, bytes_max);
    }

    /// A snapshot was received and is durable, file and state: it is taken ([`Work::installed`])
    /// unless this member has as much already.
    pub fn receive_snapshot(&mut self, at: Position, conf: ConfState) {
        self.offered = Some((at, conf));
    }

    /// What became of the snapshot that `to` needed: held by it, or not.
    pub fn snapshot_sent(&mut self, to: MemberId, held: bool) {
        let status = match held {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.node.report_snapshot(to.0, status);
    }

    /// What was last sent to this member is probably lost.
    pub fn unreachable(&mut self, member: MemberId) {
        self.node.report_unreachable(member.0);
    }

    /// Hands the lead to another voter, as soon as it has everything (thesis §3.10). Given up after
    /// an election timeout; until then nothing can be proposed.
    ///
    /// # Errors
    /// `NoLeader` if this member does not lead; `Invalid` if `to` does not vote.
    pub fn transfer_leadership(&mut self, to: MemberId) -> Result<(), Error> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::NoLeader);
        }
        if !self.conf.is_voter(to.0) {
            return Err(Error::Invalid {
                what: "member",
                why: format!(
                    "member {} does not vote, so it cannot lead; name one that does: warrenctl \
                     cluster members shows them",
                    to.0
                ),
            });
        }
        self.node.transfer_leader(to.0);
        Ok(())
    }

    /// To whom the lead is being handed.
    pub fn transfer_target(&self) -> Option<MemberId> {
        self.node.raft.lead_transferee.map(MemberId)
    }

    pub fn abort_transfer(&mut self) {
        self.node.raft.abort_leader_transfer();
    }

    /// What the library had to say since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.journal.take()
    }

    /// Whether the library's lines for those who look for a fault are among them.
    pub fn set_verbose(&self, verbose: bool) {
        self.journal.set_verbose(verbose);
    }

    fn is_all_durable(&self) -> bool {
        self.persisted == self.to_persist
    }
}

fn config(member: MemberId, applied: Index) -> LibraryConfig {
    LibraryConfig {
        id: member.0,
        applied: applied.0,
        election_tick: election::LEASE_TICKS,
        min_election_tick: NEVER_TICKS,
        max_election_tick: NEVER_TICKS + 1,
        heartbeat_tick: HEARTBEAT_TICKS,
        max_size_per_msg: BYTES_PER_MESSAGE,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        check_quorum: true,
        pre_vote: !mutant::is_on(Mutant::NoPreVote),
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_WORK,
        ..LibraryConfig::default()
    }
}

#[cfg(test)]
mod tests;
