//! The control plane as one machine without I/O: `step(now, inputs) → Outputs`.
//!
//! It assembles consensus, state, orchestration and the answers to clients. Its driver ([`host`]
//! in a daemon) owns threads, disk and clock: it passes in what happened and carries out what comes
//! back. Two drivers that pass in the same inputs at the same times get the same outputs.
//!
//! The order that everything rests on stands in `Member::pump` alone: entries leave as
//! [`Outputs::persist`], come back as [`Input::Persisted`], and only then are committed, applied
//! and answered.
//!
//! A daemon without a log is in no cluster and answers `InitCluster` only. That call has the
//! driver create the log ([`Outputs::create_log`]); then this member leads itself and proposes the
//! cluster's first commands.
//!
//! [`host`]: crate::host

mod access;
mod calls;
mod entropy;
mod member;
mod proposals;
pub mod reads;
mod requests;
mod sessions;
mod streams;
mod watches;

use prost::Message as _;

use crate::error::Error;
use crate::fsm::State;
use crate::ids::{ClusterId, Index, MemberId, NodeId, Term};
use crate::pb;
use crate::raft::{self, Persist, Position};
use calls::Calls;
use entropy::Entropy;
use member::Member;
pub use proposals::PROPOSALS_MAX;
pub use reads::{LeaderView, ReadJob};
pub use watches::WATCHES_MAX;

/// Names one call or one stream of the driver; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

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
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// [`raft::TICK_MS`] have passed.
    Tick,
    /// The Python loop is alive; without pulses nobody's silence counts against them.
    Pulse,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
}

/// A line for the daemon's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: Level,
    pub component: &'static str,
    pub message: String,
}

/// Durations measured on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Proposal accepted to committed.
    pub commit_ns: Vec<u64>,
    /// One entry's apply.
    pub apply_ns: Vec<u64>,
    /// One pass of the orchestrator.
    pub reconcile_ns: Vec<u64>,
    /// Container unplaced to bound.
    pub scheduling_ms: Vec<u64>,
    pub elections: u64,
    pub leader_changes: u64,
}

/// What to do, in any order but within each list.
#[derive(Default)]
pub struct Outputs {
    pub create_log: Option<Identity>,
    /// To be made durable in this order.
    pub persist: Vec<Persist>,
    /// To be recorded in the log after all of `persist`: a durable snapshot covers this.
    pub compact: Option<Position>,
    pub snapshot: Option<SnapshotJob>,
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
    fn log(&mut self, level: Level, component: &'static str, message: impl Into<String>) {
        self.log_lines.push(LogLine {
            level,
            component,
            message: message.into(),
        });
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
    /// A snapshot is due when the log behind the last one has grown to this.
    pub snapshot_bytes: u64,
    /// Monotonic nanoseconds, to measure with and never to decide by.
    pub stopwatch: fn() -> u64,
}

/// What was found on disk.
pub struct Recovered {
    pub identity: Identity,
    pub state: State,
    pub snapshot: Option<(Position, raft::ConfState)>,
    pub hard_state: Option<Vec<u8>>,
    pub entries: Vec<raft::LogEntry>,
}

/// What health checks and gauges look at.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub has_space: bool,
    pub sessions: usize,
    pub watches: usize,
    pub proposals: usize,
    pub open_calls: usize,
}

/// The machine. See the module's prose.
pub struct Control {
    config: Config,
    entropy: Entropy,
    calls: Calls,
    founding: Option<Founding>,
    member: Option<Member>,
}

/// An `InitCluster` on its way: the log is being created.
struct Founding {
    call: CallId,
    advertise_addr: String,
    identity: Identity,
}

impl Control {
    /// A machine that belongs to no cluster yet.
    pub fn outside(config: Config) -> Self {
        let entropy = Entropy::new(config.seed);
        Self {
            config,
            entropy,
            calls: Calls::default(),
            founding: None,
            member: None,
        }
    }

    /// A machine that goes on where its log ends. Refuses a log that no version wrote.
    pub fn recover(config: Config, recovered: Recovered) -> Result<Self, raft::Damaged> {
        let mut control = Self::outside(config);
        control.join(recovered)?;
        Ok(control)
    }

    /// One step. `inputs` should be few enough that the step stays under 2 ms.
    pub fn step(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) -> Outputs {
        let mut out = Outputs::default();
        for input in inputs {
            self.handle(now, input, &mut out);
        }
        if let Some(member) = &mut self.member {
            member.pump(now, &mut self.entropy, &mut self.calls, &mut out);
        }
        self.calls.expire(now, &mut out);
        out
    }

    /// The state after the last step; `None` outside a cluster.
    pub fn state(&self) -> Option<&State> {
        self.member.as_ref().map(|member| &member.state)
    }

    pub fn status(&self) -> Status {
        match &self.member {
            Some(member) => member.status(self.calls.open()),
            None => Status {
                in_cluster: false,
                is_leader: false,
                serving: false,
                term: Term(0),
                last_index: Index(0),
                commit_index: Index(0),
                applied_index: Index(0),
                voters: 0,
                has_space: true,
                sessions: 0,
                watches: 0,
                proposals: 0,
                open_calls: self.calls.open(),
            },
        }
    }

    /// The orchestrator's counters; `None` outside a cluster.
    pub fn orchestrator(&self) -> Option<&crate::orchestrator::Orchestrator> {
        self.member.as_ref().map(|member| &member.orchestrator)
    }

    fn handle(&mut self, now: Now, input: Input, out: &mut Outputs) {
        match input {
            Input::Call(call) => self.call(now, call, out),
            Input::Subscribe(call) => self.subscribe(now, call, out),
            Input::LogCreated(result) => self.log_created(now, result, out),
            other => {
                if let Some(member) = &mut self.member {
                    member.handle(now, other, out);
                }
            }
        }
    }

    fn call(&mut self, now: Now, call: Call, out: &mut Outputs) {
        let id = call.id;
        self.calls.open_call(id, call.deadline_mono_ms);
        let method = match access::check(&call.identity, &call.method, access::Kind::Call) {
            Ok(method) => method,
            Err(error) => return self.calls.reply(id, Err(error), out),
        };
        if method == access::Method::Ping {
            return self.calls.reply(id, Ok(Vec::new()), out);
        }
        let done = match &mut self.member {
            Some(member) => member.call(now, method, call, &mut self.entropy),
            None if method == access::Method::InitCluster => self.found(call, out),
            None => Some(Err(Error::NotInCluster)),
        };
        if let Some(result) = done {
            self.calls.reply(id, result, out);
        }
    }

    fn subscribe(&mut self, now: Now, call: Call, out: &mut Outputs) {
        let id = call.id;
        let opened =
            access::check(&call.identity, &call.method, access::Kind::Stream).and_then(|method| {
                match &mut self.member {
                    Some(member) => member.subscribe(now, method, call, &mut self.entropy, out),
                    None => Err(Error::NotInCluster),
                }
            });
        if let Err(error) = opened {
            out.ended.push((id, Some(error)));
        }
    }

    /// Asks for a log of a new cluster; the rest follows when there is one.
    fn found(&mut self, call: Call, out: &mut Outputs) -> Option<Result<Vec<u8>, Error>> {
        let request = match pb::InitClusterRequest::decode(call.body.as_slice()) {
            Ok(request) => request,
            Err(error) => return Some(Err(requests::undecodable(&error))),
        };
        if let Some(founding) = &self.founding {
            let cluster = founding.identity.cluster.to_string();
            return Some(Err(Error::AlreadyInCluster { cluster }));
        }
        let identity = Identity {
            cluster: ClusterId::compose(self.entropy.draw(), 0),
            epoch: 1,
            member: MemberId(self.entropy.draw_u64() | 1),
            data_dir: self.entropy.draw_uuid(),
        };
        out.create_log = Some(identity);
        let advertise_addr = request.advertise_addr;
        self.founding = Some(Founding {
            call: call.id,
            advertise_addr,
            identity,
        });
        None
    }

    fn log_created(&mut self, now: Now, result: Result<(), Error>, out: &mut Outputs) {
        let Some(founding) = self.founding.take() else {
            return;
        };
        let joined = result.and_then(|()| {
            let recovered = Recovered {
                identity: founding.identity,
                state: State::default(),
                snapshot: None,
                hard_state: None,
                entries: Vec::new(),
            };
            self.join(recovered).map_err(|damaged| Error::LogDamaged {
                file: "the new log".into(),
                offset: 0,
                why: damaged.why,
            })
        });
        match (joined, &mut self.member) {
            (Ok(()), Some(member)) => {
                member.found(now, founding.call, founding.advertise_addr);
            }
            (Err(error), _) => self.calls.reply(founding.call, Err(error), out),
            (Ok(()), None) => unreachable!("joining makes a member"),
        }
    }

    fn join(&mut self, recovered: Recovered) -> Result<(), raft::Damaged> {
        let seed = self.entropy.draw_u64();
        self.member = Some(Member::new(self.config.clone(), recovered, seed)?);
        Ok(())
    }
}
