//! One host with a manager: its process, its disk, its clocks.
//!
//! It drives the real control plane and the real log as `host/` does, thread by thread, but one
//! event at a time: inputs gather and are stepped in batches; what queued while the last fsync ran
//! goes into the next; snapshots are written aside.

mod log_thread;
mod process;
mod snapshots;

use std::path::Path;
use std::sync::Arc;

use super::check::{Check, Checks};
use super::clock::Clock;
use super::coverage::Kind;
use super::disk::{Fate, Latency, SimDisk};
use super::network::End;
use super::queue::{Asked, Event, Failure};
use super::random::Random;
use super::wire::Wire;
use crate::control::{CallId, Config, Control, Identity, Input, Stop, durable};
use crate::ids::{ClusterId, MemberId, NodeId};
use crate::raft::{ConfState, TICK_MS};
use crate::wal;
use log_thread::LogThread;
use process::{Process, Retiring};

/// Small, so that segments change, snapshots are taken and logs compacted all the time.
const SEGMENT_BYTES: u64 = 64 << 10;
const SNAPSHOT_BYTES: u64 = 128 << 10;
const DISK_BYTES: u64 = 64 << 20;
const TICK_NS: u64 = TICK_MS * 1_000_000;
/// How long a retiring process is given to hand the lead over.
const RETIRES_WITHIN_NS: u64 = 2_000_000_000;
/// Between two pulses of the event loop.
const PULSE_NS: u64 = 1_000_000_000;
/// A good disk: an fsync takes a third of a millisecond.
const GOOD: Latency = Latency {
    read_ns: 20_000,
    write_ns: 10_000,
    sync_ns: 300_000,
    page_ns: 2_000,
};

/// Why a machine runs, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// In no cluster, and nothing on its disk.
    Blank,
    Up,
    /// It will start again by itself.
    Down,
    /// It does not start: what is on its disk is damaged.
    Refused(String),
    /// It stopped itself.
    Stopped(Stop),
    /// The operator has taken it away.
    Gone,
}

pub struct Machine {
    pub end: End,
    pub node: NodeId,
    pub data_dir: [u8; 16],
    pub disk: SimDisk,
    pub clock: Clock,
    pub life: Life,
    pub member: Option<MemberId>,
    /// The newest feature level that its release knows.
    pub release: u32,
    /// Its disk was damaged on purpose.
    pub damaged: bool,
    /// It has the identity of a member, and not that member's disk.
    pub is_impostor: bool,
    /// No pulse of the event loop before then.
    pub blocked_until_ns: u64,
    paused_until_ns: u64,
    boot: u32,
    random: Random,
    process: Option<Process>,
}

/// The address that other members reach a machine at.
pub fn address(end: End) -> String {
    format!("machine-{}:7400", end.0)
}

/// Whose address it is.
pub fn end_of(address: &str) -> Option<End> {
    let number = address.strip_prefix("machine-")?.strip_suffix(":7400")?;
    number.parse().ok().map(End)
}

fn raft_dir() -> &'static Path {
    Path::new("raft")
}

fn wal_options() -> wal::Options {
    wal::Options {
        segment_bytes: SEGMENT_BYTES,
        ..wal::Options::default()
    }
}

impl Machine {
    pub fn new(seed: u64, end: End, release: u32) -> Self {
        let mut random = Random::stream(seed, "machine", u64::from(end.0));
        let disk = SimDisk::new(DISK_BYTES);
        disk.set_latency(GOOD);
        Self {
            end,
            node: NodeId(random.bytes()),
            data_dir: random.bytes(),
            disk,
            clock: Clock::new(random.below(1 << 50)),
            life: Life::Blank,
            member: None,
            release,
            damaged: false,
            is_impostor: false,
            blocked_until_ns: 0,
            paused_until_ns: 0,
            boot: 0,
            random,
            process: None,
        }
    }

    pub fn control(&self) -> Option<&Control> {
        self.process.as_ref().map(|process| &process.control)
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// How long the process does not run, from `now_ns` on; 0 if it does.
    pub fn paused_ns(&self, now_ns: u64) -> u64 {
        self.paused_until_ns.saturating_sub(now_ns)
    }

    pub fn pause(&mut self, until_ns: u64) {
        self.paused_until_ns = until_ns;
    }

    /// Counts processes, and their ends.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// The process that an event names, unless it has gone.
    pub fn is_boot(&self, boot: u32) -> bool {
        self.boot == boot && self.process.is_some()
    }

    fn config(&mut self) -> Config {
        Config {
            node: self.node,
            node_name: format!("machine-{}", self.end.0),
            advertise_addr: address(self.end),
            log_dir: "raft/wal".into(),
            seed: self.random.bytes(),
            address: address(self.end),
            feature_level_max: self.release,
            snapshot_bytes: SNAPSHOT_BYTES,
            stopwatch: || None,
        }
    }

    /// Begins a life outside of any cluster.
    pub fn start_blank(&mut self, wire: &mut Wire) {
        let control = Control::outside(self.config());
        self.run(wire, Process::new(control, None));
    }

    /// A member that the cluster has taken in begins with an empty log.
    pub fn join(
        &mut self,
        wire: &mut Wire,
        checks: &mut Checks,
        (cluster, epoch): (ClusterId, u64),
        member: MemberId,
    ) {
        let identity = Identity {
            cluster,
            epoch,
            member,
            data_dir: self.data_dir,
        };
        self.member = Some(member);
        let disk = Arc::new(self.disk.clone());
        match durable::create(disk, raft_dir(), &identity, false, wal_options()) {
            Ok(wal) => {
                drop(wal);
                self.start(wire, checks);
            }
            Err(error) => checks.fail(Check::Start, format!("no log for a new member: {error}")),
        }
    }

    /// Starts from what is on the disk.
    pub fn start(&mut self, wire: &mut Wire, checks: &mut Checks) {
        if self.process.is_some() || matches!(self.life, Life::Gone) {
            return;
        }
        checks.looked(Check::Start);
        let disk = Arc::new(self.disk.clone());
        let found = match durable::recover(disk, raft_dir(), wal_options()) {
            Ok(Some(found)) => found,
            Ok(None) if self.member.is_none() => return self.start_blank(wire),
            Ok(None) => return self.refuse(wire, checks, "its log is gone".into()),
            Err(error) => return self.refuse(wire, checks, error.to_string()),
        };
        let recovered = &found.recovered;
        let member = recovered.identity.member;
        if recovered.cut {
            wire.note(Kind::Cut);
        }
        let at = recovered.snapshot.as_ref().map(|(at, _)| *at);
        checks.recovered(
            member,
            at,
            recovered.hard_state.as_deref(),
            &recovered.entries,
        );
        self.member = Some(member);
        let config = self.config();
        match Control::recover(config, found.recovered) {
            Ok(control) => self.run(wire, Process::new(control, Some(found.wal))),
            Err(damaged) => self.refuse(wire, checks, damaged.why),
        }
    }

    fn refuse(&mut self, wire: &mut Wire, checks: &mut Checks, why: String) {
        if !self.damaged {
            checks.fail(
                Check::Start,
                format!("machine {} does not start: {why}", self.end.0),
            );
        }
        wire.say(|| format!("machine {} refuses to start: {why}", self.end.0));
        self.life = Life::Refused(why);
    }

    fn run(&mut self, wire: &mut Wire, process: Process) {
        self.boot += 1;
        self.life = Life::Up;
        self.process = Some(process);
        wire.say(|| format!("machine {} starts", self.end.0));
        wire.plan_in(0, Event::Tick(self.name()));
    }

    fn name(&self) -> super::queue::Process {
        super::queue::Process {
            machine: self.end,
            boot: self.boot,
        }
    }

    /// The process dies; with the power, what `fate` says of what was not synced. It starts again
    /// after `down_ns`.
    pub fn crash(&mut self, wire: &mut Wire, fate: Fate, down_ns: u64) {
        let Some(process) = self.process.take() else {
            return;
        };
        process.hang_up(wire, self.end);
        drop(process);
        self.boot += 1;
        self.paused_until_ns = 0;
        let fate = if wire.a_disk_is_lost && fate != Fate::Kept {
            Fate::Lost
        } else {
            fate
        };
        let before = self.disk.counters();
        self.disk.restart(fate, &mut self.random);
        self.note_fate(wire, before, fate);
        self.life = Life::Down;
        wire.say(|| format!("machine {} crashes, unsynced {fate:?}", self.end.0));
        wire.plan_in(down_ns, Event::Start(self.end));
    }

    fn note_fate(&self, wire: &mut Wire, before: super::disk::Counters, fate: Fate) {
        let after = self.disk.counters();
        let (kind, fired) = match fate {
            Fate::Kept => (Kind::CrashKept, true),
            Fate::Lost => (Kind::CrashLost, after.lost > before.lost),
            Fate::Torn => (Kind::CrashTorn, after.torn > before.torn),
            Fate::Reordered => (Kind::CrashReordered, after.reordered > before.reordered),
        };
        if fired {
            wire.note(kind);
        }
    }

    /// The machine is switched off for good, or until its disk has been replaced.
    pub fn stop(&mut self, wire: &mut Wire, life: Life) {
        if let Some(process) = self.process.take() {
            process.hang_up(wire, self.end);
        }
        self.boot += 1;
        self.disk.restart(Fate::Kept, &mut self.random);
        self.life = life;
    }

    /// From now on its disk takes this much longer for everything.
    pub fn set_disk_slowness(&mut self, factor: u64) {
        self.disk.set_latency(Latency {
            read_ns: GOOD.read_ns * factor,
            write_ns: GOOD.write_ns * factor,
            sync_ns: GOOD.sync_ns * factor,
            page_ns: GOOD.page_ns * factor,
        });
    }

    pub fn set_disk_full(&mut self, full: bool) {
        self.disk.set_free_bytes(if full { 0 } else { DISK_BYTES });
    }

    /// A request has arrived.
    pub fn asked(&mut self, wire: &mut Wire, asked: Asked) {
        let Some(process) = &mut self.process else {
            let (to, token) = (asked.from, asked.token);
            return wire.answer(self.end, to, token, Err(Failure::Unavailable));
        };
        let now = self.clock.now(wire.now_ns);
        process.open(asked, now);
        self.wake(wire);
    }

    /// Another input for the next step.
    pub fn give(&mut self, wire: &mut Wire, input: Input) {
        if let Some(process) = &mut self.process {
            process.inbox.push_back(input);
            self.wake(wire);
        }
    }

    pub fn cancel(&mut self, wire: &mut Wire, from: End, token: u64) {
        if let Some(process) = &mut self.process
            && let Some(call) = process.close_stream(from, token)
        {
            self.give(wire, Input::Cancel(call));
        }
    }

    pub fn taken(&mut self, wire: &mut Wire, call: CallId) {
        self.give(wire, Input::Taken(call));
    }

    /// The configuration that consensus goes by, as this machine knows it.
    pub fn conf_state(&self) -> Option<ConfState> {
        self.control().and_then(Control::conf_state).cloned()
    }

    /// The supervisor ends the process in order: the lead is handed over, then the log is closed.
    pub fn retire(&mut self, wire: &mut Wire, down_ns: u64) {
        if let Some(process) = &mut self.process {
            process.retires = Some(Retiring {
                until_ns: wire.now_ns + RETIRES_WITHIN_NS,
                down_ns,
            });
            self.give(wire, Input::Retire);
        }
    }

    /// Ends a process that has handed the lead over, or has not managed to.
    fn end_if_retired(&mut self, wire: &mut Wire) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(retiring) = process.retires.clone() else {
            return;
        };
        let idle = process.log.as_ref().is_none_or(LogThread::is_idle);
        let ready = process.control.status().retired && idle;
        if !ready && wire.now_ns < retiring.until_ns {
            return;
        }
        if let Some(log) = process.log.take().filter(|_| idle) {
            log.close();
        }
        wire.note(Kind::Restarted);
        self.crash(wire, Fate::Kept, retiring.down_ns);
    }

    /// Somebody gives an empty disk the identity of the member that lived here.
    pub fn pretend(&mut self, wire: &mut Wire, checks: &mut Checks) {
        let Some(identity) = self.control().and_then(Control::identity) else {
            return;
        };
        self.stop(wire, Life::Down);
        self.disk = SimDisk::new(DISK_BYTES);
        self.disk.set_latency(GOOD);
        self.data_dir = self.random.bytes();
        (self.damaged, self.is_impostor) = (true, true);
        wire.note(Kind::EmptyDisk);
        checks.excuse(identity.member);
        self.join(
            wire,
            checks,
            (identity.cluster, identity.epoch),
            identity.member,
        );
    }
}
