//! What goes into the machine and what comes out.

use std::path::PathBuf;

use super::reads::ReadJob;
use crate::error::Error;
use crate::fsm::State;
use crate::ids::{ClusterId, Index, MemberId, NodeId, Term};
use crate::pb;
use crate::raft::{self, ConfState, Lane, Persist, Position};

use super::forwarding;
use super::peer;

/// Names one call or one stream of the driver; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Set in the ids of calls that another member passed on; the driver's have it not.
const OF_ANOTHER_MEMBER: u64 = 1 << 63;

impl CallId {
    pub(super) fn of_another_member(number: u64) -> Self {
        Self(number | OF_ANOTHER_MEMBER)
    }

    pub(super) fn is_of_another_member(self) -> bool {
        self.0 & OF_ANOTHER_MEMBER != 0
    }
}

/// The two clocks: the monotonic one decides, the wall clock is only written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono_ns: u64,
    pub wall_ms: u64,
}

impl Now {
    pub fn mono_ms(self) -> u64 {
        self.mono_ns / 1_000_000
    }
}

/// A request as it came: who, what, and the bytes from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: CallId,
    pub identity: String,
    pub method: String,
    pub body: Vec<u8>,
    /// When it is answered with `OutcomeUnknown` at the latest.
    pub deadline_mono_ms: u64,
    /// Reads only.
    pub consistency: Consistency,
}

/// What a read may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was acknowledged before it was asked.
    #[default]
    Linearizable,
    /// This member's state as it is, which may be old; needs no quorum.
    Stale,
}

/// What happened.
pub enum Input {
    /// [`raft::TICK_MS`] have passed; or more, where this is the only member.
    Tick,
    /// The Python loop is alive; without pulses nobody's silence counts against them.
    Pulse,
    /// Whether lines of [`Level::Debug`] are wanted.
    Verbose(bool),
    Call(Call),
    /// Opens a stream. It is given one item at a time: the next follows [`Input::Taken`].
    Subscribe(Call),
    /// The stream's item has been taken by its reader.
    Taken(CallId),
    /// The reader of the stream has gone.
    Cancel(CallId),
    /// The answer to [`Outputs::create_log`].
    LogCreated(Result<(), Error>),
    /// Everything up to this [`Persist::number`] is durable.
    Persisted(u64),
    /// Whether the log can take more; while it cannot, writes are refused.
    Space(bool),
    /// The answer to [`Outputs::snapshot`].
    Snapshotted(Result<Position, Error>),
    /// One whole frame, as it came from anybody.
    Frame(Vec<u8>),
    /// The answer to one of [`Outputs::snapshot_reads`].
    SnapshotRead {
        token: u64,
        result: Result<SnapshotBytes, Error>,
    },
    /// The answer to a begin or a piece of [`Outputs::snapshot_writes`]: the bytes that are there.
    SnapshotWritten {
        at: Position,
        result: Result<u64, Error>,
    },
    /// The answer to a finish: checked, durable under its name, and read back.
    SnapshotLoaded {
        at: Position,
        result: Result<Box<(State, ConfState)>, Error>,
    },
    /// The daemon is about to end: hand the lead over. [`Status::retired`] says when that is done.
    Retire,
}

/// A part of a snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotBytes {
    pub bytes: Vec<u8>,
    /// Of the whole file.
    pub total_bytes: u64,
}

/// A part of a snapshot's file that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRead {
    /// Comes back with the answer.
    pub token: u64,
    pub at: Position,
    pub offset: u64,
    /// Fewer only at the file's end.
    pub max_bytes: u32,
}

/// A step of taking in a snapshot of another member. Begin, pieces and finish are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotWrite {
    pub at: Position,
    pub step: SnapshotStep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Goes on with what an earlier attempt left of the same snapshot.
    Begin {
        total_bytes: u64,
    },
    Chunk {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Check it, make it durable under its name, read it back.
    Finish,
    /// Nobody will send the rest.
    Abandon,
}

/// A frame to be sent. May be lost; keeps its order per receiver and lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameOut {
    pub to: MemberId,
    pub lane: Lane,
    pub bytes: Vec<u8>,
}

/// Another member, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub member: MemberId,
    /// `host:port`.
    pub address: String,
    /// The host it runs on; unknown of one that is not in this member's state.
    pub node: Option<NodeId>,
}

/// The member must not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// A sentence for the operator.
    pub why: String,
    /// What is on the disk is evidence.
    pub keep_logs: bool,
    /// Nothing is broken: the others have removed this member, and do without it for good.
    pub removed: bool,
}

/// Whose log is to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub epoch: u64,
    pub member: MemberId,
    /// UUID of the data directory that the member is bound to.
    pub data_dir: [u8; 16],
}

/// A state to be written down, with what its file must say.
#[derive(Clone)]
pub struct SnapshotJob {
    pub state: State,
    pub header: pb::SnapshotHeader,
    pub at: Position,
}

/// A backup to be written, and a call to be answered with its header once it is durable.
#[derive(Clone)]
pub struct BackupJob {
    pub id: CallId,
    /// Where; nothing is there yet.
    pub file: PathBuf,
    pub state: State,
    /// Its time is filled in by the driver.
    pub header: pb::BackupHeader,
    /// Of the snapshot in it.
    pub snapshot: pb::SnapshotHeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Made only while somebody wants it: see [`Input::Verbose`].
    Debug,
    Info,
    Warning,
}

/// A line for the daemon's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: Level,
    pub component: &'static str,
    pub message: String,
    /// Further fields by name, by which lines are found.
    pub fields: Vec<(&'static str, String)>,
}

impl LogLine {
    pub fn new(level: Level, component: &'static str, message: impl Into<String>) -> Self {
        Self {
            level,
            component,
            message: message.into(),
            fields: Vec::new(),
        }
    }

    pub fn with(mut self, field: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((field, value.into()));
        self
    }
}

/// Durations measured on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Proposal accepted to committed, and how many in a row took that long: what one step proposed
    /// and another one finds committed took equally long.
    pub commit_ns: Vec<(u64, u32)>,
    /// One entry's apply, the mean of those that were timed together, and how many these were.
    pub apply_ns: Vec<(u64, u32)>,
    /// One pass of the orchestrator.
    pub reconcile_ns: Vec<u64>,
    /// Container unplaced to bound.
    pub scheduling_ms: Vec<u64>,
    /// From a heartbeat to another member's answer to it.
    pub round_trip_ns: Vec<(MemberId, u64)>,
    /// From the first change that a message to a worker tells of to its stream having taken it.
    pub assignment_ns: Vec<u64>,
    pub elections: u64,
    pub leader_changes: u64,
}

impl Samples {
    /// One more proposal is committed, this long after it was accepted.
    pub fn committed(&mut self, took_ns: u64) {
        match self.commit_ns.last_mut() {
            Some((same_ns, count)) if *same_ns == took_ns => *count += 1,
            _ => self.commit_ns.push((took_ns, 1)),
        }
    }
}

/// What to do, in any order but within each list.
#[derive(Default)]
pub struct Outputs {
    /// Founds a cluster: a log with the genesis snapshot; see `durable::create`.
    pub create_log: Option<Identity>,
    /// To be made durable in this order.
    pub persist: Vec<Persist>,
    /// To be recorded in the log after all of `persist`: a durable snapshot covers this.
    pub compact: Option<Position>,
    /// To be sent at once, lossy.
    pub frames: Vec<FrameOut>,
    /// Whom the driver should be able to reach, when that changed.
    pub peers: Option<Vec<Peer>>,
    pub snapshot_reads: Vec<SnapshotRead>,
    /// In this order.
    pub snapshot_writes: Vec<SnapshotWrite>,
    /// Snapshots that are being sent and must not be removed, when that changed.
    pub snapshots_in_use: Option<Vec<Position>>,
    /// Shut down, and say why.
    pub stop: Option<Stop>,
    pub snapshot: Option<SnapshotJob>,
    pub backups: Vec<BackupJob>,
    pub replies: Vec<(CallId, Result<Vec<u8>, Error>)>,
    /// At most one a stream until it is taken.
    pub items: Vec<(CallId, Vec<u8>)>,
    /// Ended streams, with the reason if it is a refusal.
    pub ended: Vec<(CallId, Option<Error>)>,
    pub reads: Vec<ReadJob>,
    pub log_lines: Vec<LogLine>,
    pub samples: Samples,
    /// There is more to do at once: step again, also without inputs.
    pub again: bool,
}

impl Outputs {
    pub(super) fn log(
        &mut self,
        level: Level,
        component: &'static str,
        message: impl Into<String>,
    ) {
        self.log_lines.push(LogLine::new(level, component, message));
    }
}

/// What a machine is started with.
#[derive(Clone)]
pub struct Config {
    pub node: NodeId,
    pub node_name: String,
    pub advertise_addr: String,
    /// Where the log is, for the sentence that its disk is full.
    pub log_dir: String,
    /// Host entropy: ids and session ids are drawn from it.
    pub seed: [u8; 32],
    /// `host:port` that other members reach this one at; empty where nobody is to.
    pub address: String,
    /// The newest feature level that this release knows.
    pub feature_level_max: u32,
    /// A snapshot is due when the log behind the last one has grown to this.
    pub snapshot_bytes: u64,
    /// Monotonic nanoseconds, to measure with and never to decide by; `None` where nobody measures.
    pub stopwatch: fn() -> Option<u64>,
}

/// What was found on disk.
pub struct Recovered {
    pub identity: Identity,
    pub state: State,
    pub snapshot: Option<(Position, raft::ConfState)>,
    pub hard_state: Option<Vec<u8>>,
    pub entries: Vec<raft::LogEntry>,
    /// The log's last batch was cut and may have been acknowledged.
    pub cut: bool,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub is_leader: bool,
    /// Leading, and past the first entry of its own term: requests are served.
    pub serving: bool,
    pub term: Term,
    pub commit_index: Index,
    pub applied_index: Index,
}

/// What health checks and gauges look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub in_cluster: bool,
    pub is_leader: bool,
    /// Leading, and past the first entry of its own term: requests are served.
    pub serving: bool,
    pub term: Term,
    pub last_index: Index,
    pub commit_index: Index,
    pub applied_index: Index,
    pub voters: usize,
    pub learners: usize,
    pub is_joint: bool,
    /// Not yet a full member again after its log was cut.
    pub cut: bool,
    /// Who leads, as far as this member knows.
    pub leader: Option<MemberId>,
    pub has_space: bool,
    pub sessions: usize,
    /// What is on its way to workers and not taken yet.
    pub session_bytes: usize,
    pub watches: usize,
    pub proposals: usize,
    pub open_calls: usize,
    pub feature_level: u32,
    /// Nothing is replaced: too many workers were lost at once.
    pub frozen: bool,
    /// Slots whose containers crash again and again; on the leader.
    pub crash_looping: usize,
    /// Slots that wait for a node; on the leader.
    pub pending: usize,
    pub peers: peer::Stats,
    /// Of each other member, by how many entries it is behind; 0 where this one does not lead.
    pub lags: Vec<(MemberId, u64)>,
    /// Voters that the leader has not heard from lately; 0 where this one does not lead.
    pub silent_voters: usize,
    pub transfers: Transfers,
    pub forwards: forwarding::Stats,
    /// Contradictions between members' states, since the start.
    pub hash_mismatches: u64,
    /// After [`Input::Retire`]: this member does not lead, or nobody else can.
    pub retired: bool,
}

/// Snapshots between members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    pub sending: usize,
    pub receiving: bool,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}
