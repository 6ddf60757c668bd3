//! A cluster, those who use it, and what happens to them; one event after the other.
//!
//! A world alternates between chaos, in which the [nemesis](super::nemesis) strikes, and calm, in
//! which everything is healed and the cluster must work again. It ends in calm, when all has
//! settled; then the histories are judged.

mod phases;

use super::check::{Check, Checks, Violation};
use super::clients::{Clients, NAMES};
use super::coverage::{Coverage, Kind};
use super::linear::{self, Answer, Ask, Operation, Verdict};
use super::machine::{Life, Machine, address};
use super::nemesis::Nemesis;
use super::network::End;
use super::operator::{Done, Operator, Task};
use super::queue::{Asked, Event, Freeze};
use super::random::Random;
use super::wire::{Trace, Wire};
use super::workers::Workers;
use crate::control::{Consistency, Input};
use crate::fsm::FEATURE_LEVEL_MAX;
use crate::ids::MemberId;
use crate::pb;

pub const SECOND_NS: u64 = 1_000_000_000;
/// Ends: machines from 0, workers from here, clients, the operator.
const MACHINES_MAX: u8 = 200;
const FIRST_WORKER: u8 = 200;
const FIRST_CLIENT: u8 = 220;
const OPERATOR: End = End(255);
/// Mean pause of a client between two operations.
const THINK_NS: u64 = 4 * SECOND_NS;
/// Part of a million faults that everybody is busy around, and for how long.
const BURST_CHANCE: u64 = 150_000;
pub const BURST_NS: u64 = 4 * SECOND_NS;
const CHAOS_NS_MEAN: u64 = 240 * SECOND_NS;
/// All threads of a process that was paused run again after this.
const WAKES_WITHIN_NS: u64 = 5_000_000;
/// In calm a leader serves after this at the latest.
const LEADER_WITHIN_NS: u64 = 20 * SECOND_NS;
const CALM_NS: u64 = 45 * SECOND_NS;
/// Everything has settled after this at the latest: workers' grace, back-offs and the operator's
/// repairs included.
const SETTLED_WITHIN_NS: u64 = 300 * SECOND_NS;

/// Between two looks for time that can be skipped, and how much is: with the second between two pulses
/// it stays below what makes a leader hand over because its event loop hangs.
const FREEZE_EVERY_NS: u64 = 100_000_000;
const FREEZE: Freeze = Freeze {
    shortest_ns: 200_000_000,
    longest_ns: 3 * SECOND_NS / 2,
    before_ns: 50_000_000,
};

/// What a simulation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub seed: u64,
    /// Simulated time before the last calm.
    pub duration_ns: u64,
    pub pace: Pace,
}

/// How much happens in an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As much as a cluster bears: most of what is found is found here.
    #[default]
    Dense,
    /// A twentieth of the faults, half the clients' work, coarse ticks, and what is idle is skipped:
    /// long reigns, old logs, late surprises.
    Quiet,
}

impl Pace {
    /// How much longer the pauses between faults are, and the phases that have some.
    pub fn between_faults(self) -> u64 {
        match self {
            Self::Dense => 1,
            Self::Quiet => 20,
        }
    }

    /// Ticks that a process takes together: a busy host's timers are late too, and most of a quiet
    /// hour is ticks of followers that hear from their leader anyway.
    pub fn ticks_at_once(self, is_leader: bool) -> u64 {
        match (self, is_leader) {
            (Self::Dense, _) => 1,
            (Self::Quiet, true) => 2,
            (Self::Quiet, false) => 4,
        }
    }

    fn think_ns(self) -> u64 {
        match self {
            Self::Dense => THINK_NS,
            Self::Quiet => 2 * THINK_NS,
        }
    }
}

/// What came of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Simulated.
    pub took_ns: u64,
    pub events: u64,
    /// Of everything that happened, in order.
    pub digest: u64,
    pub operations: u64,
    pub faults: u64,
    pub coverage: Coverage,
    pub looks: super::check::Looks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Founding,
    Chaos { until_ns: u64 },
    Calm { since_ns: u64 },
    Settling { since_ns: u64 },
    Over,
}

pub struct World {
    pub setup: Setup,
    pub wire: Wire,
    pub machines: Vec<Machine>,
    pub checks: Checks,
    pub clients: Clients,
    pub workers: Workers,
    pub operator: Operator,
    pub nemesis: Nemesis,
    /// Since when nothing is wrong any more, who led then, in which term, and how many processes
    /// had begun and ended.
    pub stable_since: Option<(u64, End, (u64, u64))>,
    random: Random,
    phase: Phase,
    size: usize,
    events: u64,
    digest: u64,
    faults: u64,
    /// No time is skipped before.
    freezes_again_ns: u64,
    /// Members that the operator has asked to remove, and those that are.
    ordered_out: Vec<MemberId>,
    removed: Vec<MemberId>,
}

impl World {
    pub fn new(setup: Setup, trace: Option<Trace>) -> Self {
        let seed = setup.seed;
        let mut random = Random::stream(seed, "world", 0);
        let size = [1, 3, 3, 3, 3, 3, 3, 5, 5, 5][random.below(10) as usize];
        let workers = [2, 3, 4, 4, 5, 7][random.below(6) as usize];
        let clients = 3 + random.below(4) as u8;
        let release = FEATURE_LEVEL_MAX - random.below(2) as u32;
        Self {
            setup,
            wire: Wire::new(seed, setup.pace, trace),
            machines: vec![Machine::new(seed, End(0), release)],
            checks: Checks::default(),
            clients: Clients::new(
                seed,
                (FIRST_CLIENT..FIRST_CLIENT + clients).map(End),
                setup.pace.think_ns(),
            ),
            workers: Workers::new(seed, (FIRST_WORKER..FIRST_WORKER + workers).map(End)),
            operator: Operator::new(seed, OPERATOR),
            nemesis: Nemesis::new(seed, setup.pace),
            stable_since: None,
            random,
            phase: Phase::Founding,
            size,
            events: 0,
            digest: seed,
            faults: 0,
            freezes_again_ns: 0,
            ordered_out: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Runs to the end, or to the first violation.
    pub fn run(&mut self) -> Outcome {
        self.checks.looked(Check::Panic);
        self.begin();
        while self.checks.violation.is_none() && self.phase != Phase::Over {
            let Some((at_ns, event)) = self.wire.queue.pop() else {
                self.checks
                    .fail(Check::Liveness, "nothing happens any more");
                break;
            };
            self.events += 1;
            self.wire.now_ns = at_ns;
            let happened = event.fingerprint() ^ at_ns.rotate_left(20);
            self.digest =
                (self.digest.rotate_left(7) ^ happened).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let may_freeze = matches!(event, Event::Tick(_));
            self.happen(event);
            if may_freeze && self.setup.pace == Pace::Quiet {
                self.skip_what_is_idle();
            }
        }
        self.outcome()
    }

    /// In a quiet hour most of the time nothing goes on but heartbeats. While nobody waits for
    /// anything and nothing is wrong, that time is skipped.
    fn skip_what_is_idle(&mut self) {
        let now_ns = self.wire.now_ns;
        let well = |machine: &Machine| {
            let runs = machine.is_up() && machine.paused_ns(now_ns) == 0;
            machine.life == Life::Gone || (runs && machine.blocked_until_ns < now_ns)
        };
        let idle = !matches!(self.phase, Phase::Founding | Phase::Settling { .. })
            && self.nemesis.is_over()
            && self.operator.is_idle()
            && self.leader().is_some()
            && self.machines.iter().all(well)
            && self.workers.are_in_session();
        if now_ns < self.freezes_again_ns || !idle {
            return;
        }
        let bounds = |event: &Event| match event {
            Event::Wake(end, _) => end.0 >= FIRST_CLIENT,
            Event::Nemesis | Event::Heal => true,
            _ => false,
        };
        let ready = |event: &Event| {
            matches!(
                event,
                Event::Tick(_)
                    | Event::Step(_)
                    | Event::Frame { .. }
                    | Event::Phase
                    | Event::Wake(..)
            )
        };
        self.wire.now_ns += self.wire.queue.freeze(now_ns, FREEZE, bounds, ready);
        // Everybody has its ticks in between.
        self.freezes_again_ns = self.wire.now_ns + FREEZE_EVERY_NS;
    }

    fn outcome(&self) -> Outcome {
        let mut coverage = self.wire.coverage.clone();
        coverage.add_many(Kind::Election, self.checks.elections());
        coverage.add_many(Kind::LevelRaised, self.checks.level_raises());
        coverage.add_many(Kind::Frozen, self.checks.freezes());
        coverage.add_many(Kind::SingletonDelayed, self.checks.fenced());
        Outcome {
            seed: self.setup.seed,
            violation: self.checks.violation.clone(),
            took_ns: self.wire.now_ns,
            events: self.events,
            digest: self.digest,
            operations: self.clients.operations,
            faults: self.faults,
            coverage,
            looks: self.checks.looks,
        }
    }

    /// What has happened when something broke off the simulation itself.
    pub fn panicked(&mut self, what: String) -> Outcome {
        self.checks.fail(Check::Panic, what);
        self.outcome()
    }

    fn begin(&mut self) {
        self.machines[0].start_blank(&mut self.wire);
        self.wire.directory = vec![End(0)];
        self.wire.plan_in(SECOND_NS, Event::Phase);
        self.wire.ask(End(0), init_cluster());
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(p)
            | Event::Step(p)
            | Event::LogRuns(p)
            | Event::LogDone(p)
            | Event::Done(p, _)
            | Event::SnapshotRuns(p) => {
                let Some(at) = self
                    .index(p.machine)
                    .filter(|at| self.machines[*at].is_boot(p.boot))
                else {
                    return;
                };
                let paused_ns = self.machines[at].paused_ns(self.wire.now_ns);
                if paused_ns > 0 {
                    return self.wire.plan_in(paused_ns, event);
                }
                self.machine_event(at, event);
            }
            Event::Frame { from, to, bytes } => {
                let arrives = self.wire.network.passes(from, to);
                let Some(at) = self.index(to).filter(|_| arrives) else {
                    return;
                };
                match self.held_ns(at) {
                    0 => self.machines[at].give(&mut self.wire, Input::Frame(bytes)),
                    ns => self.wire.plan_in(ns, Event::Frame { from, to, bytes }),
                }
            }
            Event::Asked(to, asked) => {
                let Some(at) = self.index(to) else { return };
                match self.held_ns(at) {
                    0 => self.machines[at].asked(&mut self.wire, *asked),
                    ns => self.wire.plan_in(ns, Event::Asked(to, asked)),
                }
            }
            Event::Answered { to, token, result } => self.answered(to, token, result),
            Event::Item {
                process,
                call,
                to,
                token,
                bytes,
            } => {
                self.workers.item(&mut self.wire, to, token, &bytes);
                if let Some(at) = self.index(process.machine)
                    && self.machines[at].is_boot(process.boot)
                {
                    self.machines[at].taken(&mut self.wire, call);
                }
                self.absurdities();
            }
            Event::Cancel {
                machine,
                from,
                token,
            } => {
                if let Some(at) = self.index(machine) {
                    self.machines[at].cancel(&mut self.wire, from, token);
                }
            }
            Event::Wake(end, generation) => self.wake(end, generation),
            Event::Start(end) => {
                if let Some(at) = self.index(end) {
                    self.machines[at].start(&mut self.wire, &mut self.checks);
                }
            }
            Event::Nemesis => self.strike(),
            Event::Heal => self.nemesis_heals(),
            Event::Phase => self.next_phase(),
        }
    }

    /// How long the kernel keeps what came for a paused process: its threads wake in any order.
    fn held_ns(&mut self, at: usize) -> u64 {
        match self.machines[at].paused_ns(self.wire.now_ns) {
            0 => 0,
            paused_ns => paused_ns + self.random.below(WAKES_WITHIN_NS),
        }
    }

    fn machine_event(&mut self, at: usize, event: Event) {
        let machine = &mut self.machines[at];
        let (wire, checks) = (&mut self.wire, &mut self.checks);
        match event {
            Event::Tick(_) => machine.tick(wire, checks),
            Event::Step(_) => machine.step(wire, checks),
            Event::LogRuns(_) => machine.log_runs(wire, checks),
            Event::LogDone(_) => machine.log_done(wire),
            Event::SnapshotRuns(_) => machine.snapshot_runs(wire),
            Event::Done(_, input) => machine.give(wire, *input),
            _ => unreachable!("not a machine's"),
        }
    }

    fn answered(&mut self, to: End, token: u64, result: Result<Vec<u8>, super::queue::Failure>) {
        let wire = &mut self.wire;
        match to {
            OPERATOR => {
                if self.phase == Phase::Founding {
                    return self.founded(result.is_ok());
                }
                let done = self.operator.answered(wire, token, result);
                self.operated(done);
            }
            End(FIRST_WORKER..FIRST_CLIENT) => self.workers.answered(wire, to, token, result),
            _ => {
                self.clients.answered(wire, to, token, result);
                self.absurdities();
            }
        }
    }

    fn absurdities(&mut self) {
        self.checks.looked(Check::Client);
        self.checks.looked(Check::Worker);
        if let Some(what) = self.clients.absurd.take() {
            self.checks.fail(Check::Client, what);
        }
        if let Some(what) = self.workers.absurd.take() {
            self.checks.fail(Check::Worker, what);
        }
    }

    fn wake(&mut self, end: End, generation: u32) {
        match end {
            OPERATOR => self.operator.wake(&mut self.wire, generation),
            End(FIRST_WORKER..FIRST_CLIENT) => {
                self.workers.wake(&mut self.wire, end, generation);
                let doubled = self.workers.doubled();
                self.checks.look(Check::Singleton, doubled.is_none(), || {
                    doubled.unwrap_or_default()
                });
            }
            _ => self.clients.wake(&mut self.wire, end, generation),
        }
    }

    fn founded(&mut self, is_founded: bool) {
        if !is_founded {
            return self
                .checks
                .fail(Check::Liveness, "no cluster could be founded");
        }
        self.phase = Phase::Chaos { until_ns: 0 };
        self.workers.begin(&mut self.wire);
        for _ in 1..self.size {
            self.add_machine();
        }
        // The first calm is there to come up in.
        self.phase = Phase::Calm {
            since_ns: self.wire.now_ns,
        };
        self.clients.set_resting(&mut self.wire, false);
    }

    fn operated(&mut self, done: Option<Done>) {
        match done {
            None => {}
            Some(Done::Added {
                machine,
                cluster,
                epoch,
                member,
            }) => {
                self.wire.note(Kind::MemberAdded);
                if let Some(at) = self.index(machine) {
                    let (wire, checks) = (&mut self.wire, &mut self.checks);
                    self.machines[at].join(wire, checks, (cluster, epoch), member);
                    self.wire.directory.push(machine);
                }
            }
            Some(Done::Removed(member)) => {
                self.wire.note(Kind::MemberRemoved);
                self.removed.push(member);
            }
            Some(Done::NodeRemoved(node)) => {
                self.wire.note(Kind::NodeRemoved);
                // One that stands there again speaks up, and is not listened to until it is let in.
                if let Some(end) = self.workers.end_of(node)
                    && self.random.chance(500_000)
                {
                    self.workers.bring_back(&mut self.wire, end);
                }
            }
            Some(Done::NodeAdmitted(node)) => {
                self.wire.note(Kind::NodeAdmitted);
                if let Some(end) = self.workers.end_of(node) {
                    self.workers.bring_back(&mut self.wire, end);
                }
            }
            Some(Done::Transferred) => self.wire.note(Kind::Transferred),
            Some(Done::NotTransferred) => {}
        }
    }

    fn strike(&mut self) {
        let Phase::Chaos { until_ns } = self.phase else {
            return;
        };
        self.faults += 1;
        self.stable_since = None;
        if self.random.chance(BURST_CHANCE) {
            self.clients.hurry(&mut self.wire, BURST_NS);
        }
        self.nemesis_strikes();
        self.repair();
        let pause_ns = self.nemesis.pause_ns();
        if self.wire.now_ns + pause_ns < until_ns {
            self.wire.plan_in(pause_ns, Event::Nemesis);
        }
    }

    /// Machines stay where they are, also when the operator has taken them away.
    fn index(&self, end: End) -> Option<usize> {
        let at = usize::from(end.0);
        (at < self.machines.len()).then_some(at)
    }

    pub fn machine(&self, end: End) -> Option<&Machine> {
        self.machines.get(usize::from(end.0))
    }

    /// Who leads, as far as the world can see.
    pub fn leader(&self) -> Option<End> {
        let serves = |machine: &&Machine| {
            machine
                .control()
                .is_some_and(|control| control.standing().serving)
        };
        let leaders = self.machines.iter().filter(serves);
        let newest = leaders.max_by_key(|m| m.control().map(|control| control.standing().term));
        newest.map(|machine| machine.end)
    }

    /// All ends but the operator's.
    pub fn everybody(&self) -> Vec<End> {
        let machines = self.wire.directory.iter().copied();
        let clients = (FIRST_CLIENT..FIRST_CLIENT + 7).map(End);
        machines.chain(self.workers.ends()).chain(clients).collect()
    }

    /// A new machine that the operator is to make a member; false if there is none left.
    pub fn add_machine(&mut self) -> bool {
        let number = self.machines.len() as u8;
        if number >= MACHINES_MAX {
            return false;
        }
        let release = self
            .machines
            .iter()
            .map(|machine| machine.release)
            .max()
            .unwrap_or(2);
        let machine = Machine::new(self.setup.seed, End(number), release);
        let task = Task::Add {
            machine: machine.end,
            data_dir: machine.data_dir,
            node: machine.node,
            address: address(machine.end),
        };
        self.machines.push(machine);
        self.operator.give(&mut self.wire, task);
        true
    }

    pub fn remove_member(&mut self, member: u64) {
        let led = self.leader().and_then(|end| self.machine(end)?.member);
        if led == Some(MemberId(member)) {
            self.wire.note(Kind::LeaderRemoved);
        }
        self.ordered_out.push(MemberId(member));
        self.operator.give(
            &mut self.wire,
            Task::Remove {
                member: MemberId(member),
            },
        );
    }

    pub fn transfer_to(&mut self, member: u64) {
        self.operator.give(
            &mut self.wire,
            Task::Transfer {
                member: MemberId(member),
            },
        );
    }
}

fn init_cluster() -> Asked {
    Asked {
        from: OPERATOR,
        token: 0,
        identity: "local".into(),
        method: "InitCluster",
        body: prost::Message::encode_to_vec(&pb::InitClusterRequest::default()),
        timeout_ms: 10_000,
        consistency: Consistency::Linearizable,
        stream: false,
    }
}
