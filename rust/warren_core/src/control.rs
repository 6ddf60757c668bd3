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
mod causes;
pub mod durable;
mod entropy;
mod events;
mod explaining;
mod hashes;
mod history;
mod io;
mod member;
pub mod peer;
mod planning;
mod proposals;
pub mod reads;
mod requests;
mod sessions;
mod streams;
mod transfer;
mod watches;

use prost::Message as _;

use crate::error::Error;
use crate::fsm::State;
use crate::ids::{ClusterId, Index, MemberId, Term};
use crate::pb;
use crate::raft::{self, ConfState, Position};
use calls::Calls;
use entropy::Entropy;
pub use io::{
    BackupJob, Call, CallId, Config, Consistency, FrameOut, Identity, Input, Level, LogLine, Now,
    Outputs, Peer, Recovered, Samples, SnapshotBytes, SnapshotJob, SnapshotRead, SnapshotStep,
    SnapshotWrite, Standing, Status, Stop, Transfers,
};
use member::Member;
pub use member::forwarding;
pub use proposals::PROPOSALS_MAX;
pub use reads::{LeaderView, ReadJob};
pub use sessions::{REPORT_ITEMS_MAX, WAITING_BYTES_MAX};
pub use watches::WATCHES_MAX;

/// Where the genesis snapshot of a cluster stands: an empty state that the founder's log continues
/// from, so that a log never exists without the snapshot it needs.
pub const GENESIS: Position = Position {
    index: Index(1),
    term: Term(1),
};

/// What the genesis snapshot of a cluster that `founder` founds holds.
pub fn genesis(founder: MemberId) -> (State, ConfState) {
    let mut state = State::new();
    state.advance(GENESIS.index, GENESIS.term);
    let conf = ConfState {
        voters: vec![founder.0],
        ..ConfState::default()
    };
    (state, conf)
}

/// The machine. See the module's prose.
pub struct Control {
    config: Config,
    entropy: Entropy,
    calls: Calls,
    founding: Option<Founding>,
    member: Option<Member>,
    verbose: bool,
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
            verbose: false,
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
        if let Some(member) = &mut self.member {
            member.answer_forwards(&mut out);
        }
        out
    }

    /// The state after the last step; `None` outside a cluster.
    pub fn state(&self) -> Option<&State> {
        self.member.as_ref().map(|member| &member.state)
    }

    /// Who this member is; `None` outside a cluster.
    pub fn identity(&self) -> Option<Identity> {
        self.member.as_ref().map(|member| member.identity)
    }

    /// The configuration of consensus as of the last change applied; `None` outside a cluster.
    pub fn conf_state(&self) -> Option<&ConfState> {
        self.member.as_ref().map(|member| member.raft.conf_state())
    }

    /// The part of [`status`](Self::status) that costs nothing, for whoever looks after every step.
    pub fn standing(&self) -> Standing {
        self.member
            .as_ref()
            .map(Member::standing)
            .unwrap_or_default()
    }

    pub fn status(&self) -> Status {
        match &self.member {
            Some(member) => member.status(self.calls.open()),
            None => Status {
                has_space: true,
                open_calls: self.calls.open(),
                retired: true,
                ..Status::default()
            },
        }
    }

    /// What this member knows of the others' logs; empty unless it leads.
    pub fn progress(&self) -> Vec<raft::Progress> {
        let status = self.member.as_ref().map(|member| member.raft.status());
        status.map(|status| status.progress).unwrap_or_default()
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
            Input::Verbose(verbose) => {
                self.verbose = verbose;
                if let Some(member) = &mut self.member {
                    member.set_verbose(verbose);
                }
            }
            other => {
                if let Some(member) = &mut self.member {
                    member.handle(now, other, out);
                }
            }
        }
    }

    fn call(&mut self, now: Now, call: Call, out: &mut Outputs) {
        let id = call.id;
        let method =
            match access::check(&call.identity, &call.method, access::Kind::Call, &call.body) {
                Ok(method) => method,
                Err(error) => return out.replies.push((id, Err(error))),
            };
        self.calls
            .open_call(id, call.deadline_mono_ms, method.is_read());
        if method == access::Method::Ping {
            return self.calls.reply(id, Ok(Vec::new()), out);
        }
        let done = match &mut self.member {
            Some(member) => member.call(now, method, call, &mut self.entropy, &mut self.calls, out),
            None if method == access::Method::InitCluster => self.found(call, out),
            None => Some(Err(Error::NotInCluster)),
        };
        if let Some(result) = done {
            self.calls.reply(id, result, out);
        }
    }

    fn subscribe(&mut self, now: Now, call: Call, out: &mut Outputs) {
        let id = call.id;
        let opened = access::check(
            &call.identity,
            &call.method,
            access::Kind::Stream,
            &call.body,
        )
        .and_then(|method| match &mut self.member {
            Some(member) => member.subscribe(now, method, call, &mut self.entropy, out),
            None => Err(Error::NotInCluster),
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
            let (state, conf) = genesis(founding.identity.member);
            let recovered = Recovered {
                identity: founding.identity,
                state,
                snapshot: Some((GENESIS, conf)),
                hard_state: None,
                entries: Vec::new(),
                cut: false,
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
        let seeds = [self.entropy.draw_u64(), self.entropy.draw_u64()];
        let mut member = Member::new(self.config.clone(), recovered, seeds)?;
        member.set_verbose(self.verbose);
        self.member = Some(member);
        Ok(())
    }
}
