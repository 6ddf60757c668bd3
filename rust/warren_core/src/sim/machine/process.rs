//! The threads of a running manager, and what flows between them.

use std::collections::{BTreeMap, VecDeque};

use super::super::check::{Check, Checks};
use super::super::network::End;
use super::super::queue::{Asked, Event, Failure};
use super::super::wire::Wire;
use super::log_thread::{Job, LogThread};
use super::snapshots::SnapshotThread;
use super::{Life, Machine, PULSE_NS, TICK_NS, end_of};
use crate::control::{Call, CallId, Control, Input, Now, Outputs};
use crate::ids::MemberId;
use crate::wal::Wal;

/// Inputs of one step, as in a daemon.
const INPUTS_PER_STEP: usize = 128;

/// An orderly end that has begun.
#[derive(Clone)]
pub struct Retiring {
    pub until_ns: u64,
    /// How long the machine stays down.
    pub down_ns: u64,
}

pub struct Process {
    pub control: Control,
    pub inbox: VecDeque<Input>,
    /// A step is planned.
    stepping: bool,
    pub log: Option<LogThread>,
    pub snapshots: SnapshotThread,
    /// Who waits for an answer.
    calls: BTreeMap<CallId, (End, u64)>,
    streams: BTreeMap<CallId, (End, u64)>,
    calls_opened: u64,
    peers: BTreeMap<MemberId, End>,
    pulsed_ns: u64,
    pub retires: Option<Retiring>,
}

impl Process {
    pub fn new(control: Control, wal: Option<Wal>) -> Self {
        Self {
            control,
            inbox: VecDeque::new(),
            stepping: false,
            log: wal.map(LogThread::new),
            snapshots: SnapshotThread::default(),
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
            calls_opened: 0,
            peers: BTreeMap::new(),
            pulsed_ns: 0,
            retires: None,
        }
    }

    pub fn open(&mut self, asked: Asked, now: Now) {
        self.calls_opened += 1;
        let id = CallId(self.calls_opened);
        let call = Call {
            id,
            identity: asked.identity,
            method: asked.method.to_owned(),
            body: asked.body,
            deadline_mono_ms: now.mono_ms() + asked.timeout_ms,
            consistency: asked.consistency,
        };
        let caller = (asked.from, asked.token);
        if asked.stream {
            self.streams.insert(id, caller);
            self.inbox.push_back(Input::Subscribe(call));
        } else {
            self.calls.insert(id, caller);
            self.inbox.push_back(Input::Call(call));
        }
    }

    pub fn close_stream(&mut self, from: End, token: u64) -> Option<CallId> {
        let is_it = |(_, caller): &(&CallId, &(End, u64))| **caller == (from, token);
        let call = self.streams.iter().find(is_it).map(|(call, _)| *call)?;
        self.streams.remove(&call);
        Some(call)
    }

    /// All connections break.
    pub fn hang_up(&self, wire: &mut Wire, machine: End) {
        for (to, token) in self.calls.values().chain(self.streams.values()) {
            wire.answer(machine, *to, *token, Err(Failure::Broken));
        }
    }
}

impl Machine {
    /// Plans a step, unless one is.
    pub fn wake(&mut self, wire: &mut Wire) {
        let name = self.name();
        if let Some(process) = &mut self.process
            && !std::mem::replace(&mut process.stepping, true)
        {
            wire.hand_over(Event::Step(name));
        }
    }

    pub fn tick(&mut self, wire: &mut Wire, checks: &mut Checks) {
        let mono_ns = self.clock.mono_ns(wire.now_ns);
        let Some(process) = &mut self.process else {
            return;
        };
        let is_leader = process.control.standing().is_leader;
        let ticks = wire.pace.ticks_at_once(is_leader);
        (0..ticks).for_each(|_| process.inbox.push_front(Input::Tick));
        if mono_ns >= process.pulsed_ns + PULSE_NS && wire.now_ns >= self.blocked_until_ns {
            process.pulsed_ns = mono_ns;
            process.inbox.push_back(Input::Pulse);
        }
        wire.plan_in(
            self.clock.world_ns_of(TICK_NS * ticks),
            Event::Tick(self.name()),
        );
        self.step(wire, checks);
    }

    pub fn step(&mut self, wire: &mut Wire, checks: &mut Checks) {
        let now = self.clock.now(wire.now_ns);
        let Some(process) = &mut self.process else {
            return;
        };
        process.stepping = false;
        let count = process.inbox.len().min(INPUTS_PER_STEP);
        let mut outputs = process.control.step(now, process.inbox.drain(..count));
        let mut jobs = Vec::new();
        let again = outputs.again || !process.inbox.is_empty();
        if let Some(member) = self.member {
            for persist in std::mem::take(&mut outputs.persist) {
                let handed = checks.handed(member, &persist);
                jobs.push(Job::Persist(persist, handed));
            }
            checks.stepped(member, &process.control, process.control.standing());
        }
        self.carry_out(wire, checks, outputs, jobs);
        if again {
            self.wake(wire);
        }
        self.end_if_retired(wire);
    }

    fn carry_out(
        &mut self,
        wire: &mut Wire,
        checks: &mut Checks,
        outputs: Outputs,
        mut jobs: Vec<Job>,
    ) {
        for line in &outputs.log_lines {
            wire.say(|| {
                format!(
                    "machine {} {}: {}",
                    self.end.0, line.component, line.message
                )
            });
        }
        if let Some(identity) = outputs.create_log {
            self.found(wire, checks, identity);
        }
        if let Some(stop) = outputs.stop {
            wire.say(|| format!("machine {} stops: {}", self.end.0, stop.why));
            return self.stop(wire, Life::Stopped(stop));
        }
        self.send(wire, checks, outputs.frames, outputs.peers);
        if let Some(process) = &mut self.process {
            process.snapshots.keep(outputs.snapshots_in_use);
        }
        jobs.extend(outputs.compact.map(Job::Compact));
        self.to_log(wire, jobs);
        self.to_snapshots(
            wire,
            outputs.snapshot,
            outputs.snapshot_reads,
            outputs.snapshot_writes,
        );
        let Some(process) = &mut self.process else {
            return;
        };
        let reads = outputs.reads.into_iter().map(|job| (job.id, job.answer()));
        for (call, result) in outputs.replies.into_iter().chain(reads) {
            if let Some((to, token)) = process.calls.remove(&call) {
                wire.answer(self.end, to, token, result.map_err(Failure::Refused));
            }
        }
        let name = super::super::queue::Process {
            machine: self.end,
            boot: self.boot,
        };
        for (call, bytes) in outputs.items {
            if let Some(caller) = process.streams.get(&call) {
                wire.send_item(name, call, *caller, bytes);
            }
        }
        for (call, error) in outputs.ended {
            if let Some((to, token)) = process.streams.remove(&call) {
                let why = error.map_or(Failure::Broken, Failure::Refused);
                wire.answer(self.end, to, token, Err(why));
            }
        }
    }

    fn send(
        &mut self,
        wire: &mut Wire,
        checks: &mut Checks,
        frames: Vec<crate::control::FrameOut>,
        peers: Option<Vec<crate::control::Peer>>,
    ) {
        let Some(process) = &mut self.process else {
            return;
        };
        if let Some(peers) = peers {
            let reached = peers
                .iter()
                .filter_map(|peer| Some((peer.member, end_of(&peer.address)?)));
            process.peers = reached.collect();
        }
        for frame in frames {
            if let Some(member) = self.member {
                checks.leaves(member, &frame);
            }
            if let Some(to) = process.peers.get(&frame.to) {
                wire.send_frame(self.end, *to, frame.lane, frame.bytes);
            }
        }
    }

    /// The log of a new cluster is created on the core's thread: nothing else is going on then.
    fn found(&mut self, wire: &mut Wire, checks: &mut Checks, identity: crate::control::Identity) {
        use crate::control::durable;
        self.data_dir = identity.data_dir;
        let disk = std::sync::Arc::new(self.disk.clone());
        let created = durable::create(
            disk,
            super::raft_dir(),
            &identity,
            true,
            super::wal_options(),
        );
        let result = match (created, &mut self.process) {
            (Ok(wal), Some(process)) => {
                process.log = Some(LogThread::new(wal));
                self.member = Some(identity.member);
                Ok(())
            }
            (Err(error), _) => {
                checks.fail(Check::Start, format!("no log for a new cluster: {error}"));
                Err(error)
            }
            (Ok(_), None) => return,
        };
        self.give(wire, Input::LogCreated(result));
    }
}
