//! What goes wrong, when, and for how long; all of it from the seed.
//!
//! Each seed draws which kinds of fault it has and how dense they are, so that some worlds know one
//! kind only and drive it far. Faults that take acknowledged data away (a damaged or emptied disk)
//! come one at a time, and only while a quorum of others is whole: no consensus survives more. Until
//! the member is replaced no other log is torn, for a cut one cannot vouch for what it acknowledged.

mod members;
mod workers;

use super::check::Check;
use super::coverage::Kind;
use super::disk::{Fate, Operation};
use super::machine::{Life, Machine};
use super::network::{End, Quality};
use super::queue::Event;
use super::random::Random;
use super::world::{BURST_NS, Pace, World};
use crate::fsm::FEATURE_LEVEL_MAX;

const MS_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * MS_NS;
/// A leader that lives through this after a partition was not unseated by its end.
const STABLE_NS: u64 = 2 * SECOND_NS;
/// A kind of fault is in a world with this chance, of a million.
const KIND_CHANCE: u64 = 550_000;

/// A fault of one machine is the leader's with this chance at least, of a million.
const LEADER_CHANCE: u64 = 300_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    BadNetwork,
    PartitionFull,
    PartitionOneWay,
    PartitionBridge,
    LeaderCutOff,
    Crash,
    PowerLoss,
    CrashInWrite,
    SyncFails,
    DiskFull,
    BitFlip,
    SlowDisk,
    ClockJump,
    ClockDrift,
    Pause,
    LoopBlocked,
    Restart,
    MemberAdded,
    MemberRemoved,
    MemberReplaced,
    Transfer,
    EmptyDisk,
    Upgrade,
    Downgrade,
    WorkerCut,
    WorkersCut,
    WorkerOff,
    WorkerRemoved,
}

const FAULTS: &[Fault] = &[
    Fault::BadNetwork,
    Fault::PartitionFull,
    Fault::PartitionOneWay,
    Fault::PartitionBridge,
    Fault::LeaderCutOff,
    Fault::Crash,
    Fault::PowerLoss,
    Fault::CrashInWrite,
    Fault::SyncFails,
    Fault::DiskFull,
    Fault::BitFlip,
    Fault::SlowDisk,
    Fault::ClockJump,
    Fault::ClockDrift,
    Fault::Pause,
    Fault::LoopBlocked,
    Fault::Restart,
    Fault::MemberAdded,
    Fault::MemberRemoved,
    Fault::MemberReplaced,
    Fault::Transfer,
    Fault::EmptyDisk,
    Fault::Upgrade,
    Fault::Downgrade,
    Fault::WorkerCut,
    Fault::WorkersCut,
    Fault::WorkerOff,
    Fault::WorkerRemoved,
];

/// What ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heal {
    Network,
    Partition,
    DiskFull(End),
    SlowDisk(End),
}

pub struct Nemesis {
    random: Random,
    kinds: Vec<Fault>,
    gap_ns: u64,
    heals: Vec<(u64, Heal)>,
    /// Workers that the operator takes out, until they are asked to be let in again.
    taken_out: Vec<End>,
}

impl Nemesis {
    pub fn new(seed: u64, pace: Pace) -> Self {
        let mut random = Random::stream(seed, "nemesis", 0);
        let mut kinds: Vec<Fault> = FAULTS.to_vec();
        kinds.retain(|_| random.chance(KIND_CHANCE));
        if kinds.is_empty() {
            kinds = FAULTS.to_vec();
        }
        let gap_ns = SECOND_NS * [3, 8, 20, 45][random.below(4) as usize] * pace.between_faults();
        Self {
            random,
            kinds,
            gap_ns,
            heals: Vec::new(),
            taken_out: Vec::new(),
        }
    }

    /// Nothing that ends by itself is going on.
    pub fn is_over(&self) -> bool {
        self.heals.is_empty()
    }

    pub fn pause_ns(&mut self) -> u64 {
        self.random.wait(self.gap_ns).max(10 * MS_NS)
    }
}

impl World {
    /// One more thing goes wrong.
    pub fn nemesis_strikes(&mut self) {
        let Some(fault) = self
            .nemesis
            .random
            .pick(&self.nemesis.kinds.clone())
            .copied()
        else {
            return;
        };
        self.wire.say(|| format!("fault: {fault:?}"));
        self.inflict(fault);
    }

    /// Ends what is over.
    pub fn nemesis_heals(&mut self) {
        let now_ns = self.wire.now_ns;
        let (due, later) = std::mem::take(&mut self.nemesis.heals)
            .into_iter()
            .partition(|(at_ns, _)| *at_ns <= now_ns);
        self.nemesis.heals = later;
        let due: Vec<(u64, Heal)> = due;
        due.into_iter().for_each(|(_, heal)| self.heal(heal));
    }

    fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Network => self.wire.network.quality = Quality::GOOD,
            Heal::Partition => {
                self.wire.network.heal();
                self.watch_leader();
            }
            Heal::DiskFull(end) => self.with(end, |machine| machine.set_disk_full(false)),
            Heal::SlowDisk(end) => self.with(end, |machine| machine.set_disk_slowness(1)),
        }
    }

    /// A partition has ended and nothing else is wrong: who leads goes on leading.
    fn watch_leader(&mut self) {
        let now_ns = self.wire.now_ns;
        let well = |machine: &Machine| {
            machine.is_up() && machine.paused_ns(now_ns) == 0 && machine.blocked_until_ns < now_ns
        };
        let quiet = self.nemesis.heals.is_empty()
            && self.operator.is_idle()
            && self.wire.network.quality == Quality::GOOD
            && self
                .machines
                .iter()
                .all(|m| m.life == Life::Gone || well(m));
        self.stable_since = None;
        if quiet && let Some(leader) = self.leader() {
            let led = self.reign(leader);
            self.stable_since = led.map(|led| (now_ns, leader, led));
        }
    }

    /// Term of a leader, and how many processes have begun and ended anywhere.
    fn reign(&self, end: End) -> Option<(u64, u64)> {
        let boots = self.machines.iter().map(|m| u64::from(m.boot())).sum();
        let term = self.machine(end)?.control()?.standing().term.0;
        Some((term, boots))
    }

    /// Some seconds after a partition has ended, if nothing has happened since: not even a fault
    /// that lay in wait, as a crash in the next write does.
    pub fn check_stability(&mut self) {
        let Some((since_ns, leader, (term, boots))) = self.stable_since else {
            return;
        };
        if self.wire.now_ns < since_ns + STABLE_NS {
            return;
        }
        self.stable_since = None;
        let reign = self.reign(leader);
        if reign.is_none_or(|(_, boots_now)| boots_now != boots) {
            return;
        }
        let now = self.leader();
        let same = now == Some(leader) && reign == Some((term, boots));
        self.checks.look(Check::Disruption, same, || {
            let leader = leader.0;
            format!("machine {leader} led in term {term} when a partition ended, and now {now:?}")
        });
    }

    /// Nothing is wrong any more but what needs an operator.
    pub fn heal_everything(&mut self) {
        for (_, heal) in std::mem::take(&mut self.nemesis.heals) {
            self.heal(heal);
        }
        self.wire.network.heal();
        self.wire.network.quality = Quality::GOOD;
        let now_ns = self.wire.now_ns;
        for machine in &mut self.machines {
            machine.pause(now_ns);
            machine.blocked_until_ns = 0;
            machine.disk.set_faults(<_>::default());
        }
        self.workers.switch_on(&mut self.wire);
        self.let_in_removed();
    }

    fn with(&mut self, end: End, act: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.machines.get_mut(usize::from(end.0)) {
            act(machine);
        }
    }

    fn heal_in(&mut self, heal: Heal, least_ns: u64, mean_ns: u64) {
        let at_ns = self.wire.now_ns + least_ns + self.nemesis.random.wait(mean_ns);
        self.nemesis.heals.push((at_ns, heal));
        self.wire.queue.plan(at_ns, Event::Heal);
    }

    fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::BadNetwork => self.bad_network(),
            Fault::PartitionFull | Fault::PartitionOneWay | Fault::PartitionBridge => {
                self.partition(fault);
            }
            Fault::LeaderCutOff => self.cut_leader_off(),
            Fault::PowerLoss => self.power_loss(),
            Fault::WorkerCut | Fault::WorkersCut | Fault::WorkerOff | Fault::WorkerRemoved => {
                self.trouble_worker(fault)
            }
            Fault::MemberAdded | Fault::MemberRemoved | Fault::MemberReplaced | Fault::Transfer => {
                self.change_members(fault);
            }
            Fault::BitFlip | Fault::EmptyDisk => self.damage(fault),
            _ => self.trouble_machine(fault),
        }
    }

    fn bad_network(&mut self) {
        let random = &mut self.nemesis.random;
        let rate = |random: &mut Random, most: u64| {
            if random.chance(600_000) {
                random.below(most)
            } else {
                0
            }
        };
        self.wire.network.quality = Quality {
            loss: rate(random, 200_000),
            duplicate: rate(random, 100_000),
            reorder: rate(random, 500_000),
            spike: rate(random, 100_000),
            delay_ns_min: Quality::GOOD.delay_ns_min,
            delay_ns_mean: random.range(200_000, 20 * MS_NS),
        };
        self.clients.hurry(&mut self.wire, BURST_NS);
        self.heal_in(Heal::Network, SECOND_NS, 20 * SECOND_NS);
    }

    /// Everybody is on one side or the other.
    fn partition(&mut self, fault: Fault) {
        self.wire.network.heal();
        let ends = self.everybody();
        let random = &mut self.nemesis.random;
        let side: Vec<bool> = ends.iter().map(|_| random.chance(500_000)).collect();
        let machines: Vec<End> = self.wire.directory.clone();
        let bridge = (fault == Fault::PartitionBridge)
            .then(|| random.pick(&machines).copied())
            .flatten();
        for (at, a) in ends.iter().enumerate() {
            for (bt, b) in ends.iter().enumerate() {
                let between = side[at] && !side[bt] && Some(*a) != bridge && Some(*b) != bridge;
                match fault {
                    Fault::PartitionOneWay if between => self.wire.network.cut(*a, *b),
                    _ if between => self.wire.network.cut_both(*a, *b),
                    _ => {}
                }
            }
        }
        self.wire.note(match fault {
            Fault::PartitionOneWay => Kind::PartitionOneWay,
            Fault::PartitionBridge => Kind::PartitionBridge,
            _ => Kind::PartitionFull,
        });
        self.heal_in(Heal::Partition, SECOND_NS / 2, 15 * SECOND_NS);
    }

    /// The leader hears nobody, nobody hears the leader, or both.
    fn cut_leader_off(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<End> = self
            .wire
            .directory
            .iter()
            .copied()
            .filter(|end| *end != leader)
            .collect();
        self.clients.hurry(&mut self.wire, BURST_NS);
        let way = self.nemesis.random.below(3);
        for other in others {
            match way {
                0 => self.wire.network.cut(leader, other),
                1 => self.wire.network.cut(other, leader),
                _ => self.wire.network.cut_both(leader, other),
            }
        }
        self.wire.note(if way == 2 {
            Kind::PartitionFull
        } else {
            Kind::PartitionOneWay
        });
        self.heal_in(Heal::Partition, SECOND_NS / 2, 10 * SECOND_NS);
    }

    fn down_ns(&mut self) -> u64 {
        50 * MS_NS + self.nemesis.random.wait(4 * SECOND_NS)
    }

    fn fate(&mut self) -> Fate {
        Fate::ALL[self.nemesis.random.below(4) as usize]
    }

    /// All machines at once.
    fn power_loss(&mut self) {
        let fate = match self.fate() {
            Fate::Kept => Fate::Lost,
            fate => fate,
        };
        for at in 0..self.machines.len() {
            let down_ns = self.down_ns();
            self.machines[at].crash(&mut self.wire, fate, down_ns);
        }
    }

    fn trouble_machine(&mut self, fault: Fault) {
        let up: Vec<usize> = (0..self.machines.len())
            .filter(|at| self.machines[*at].is_up())
            .collect();
        // Leaders have the most to lose.
        let leader = self
            .leader()
            .filter(|_| self.nemesis.random.chance(LEADER_CHANCE));
        let leads = |at: &&usize| Some(self.machines[**at].end) == leader;
        let at = up
            .iter()
            .find(leads)
            .or_else(|| self.nemesis.random.pick(&up));
        let Some(at) = at.copied() else { return };
        let end = self.machines[at].end;
        if Some(end) == leader {
            // What it promised, and what it believes, counts for the most then.
            self.clients.hurry(&mut self.wire, BURST_NS);
        }
        let (fate, down_ns) = (self.fate(), self.down_ns());
        let random = &mut self.nemesis.random;
        let machine = &mut self.machines[at];
        let now_ns = self.wire.now_ns;
        match fault {
            Fault::Crash => machine.crash(&mut self.wire, fate, down_ns),
            Fault::CrashInWrite => {
                let crash_at = Some(machine.disk.operations() + 1 + random.below(12));
                let faults = super::disk::Faults {
                    crash_at,
                    ..<_>::default()
                };
                machine.disk.set_faults(faults);
            }
            Fault::SyncFails => machine.disk.fail_next(Operation::Sync),
            Fault::DiskFull => {
                machine.set_disk_full(true);
                self.heal_in(Heal::DiskFull(end), SECOND_NS, 15 * SECOND_NS);
            }
            Fault::SlowDisk => {
                machine.set_disk_slowness([10, 100, 1_000][random.below(3) as usize]);
                self.wire.note(Kind::SlowDisk);
                self.heal_in(Heal::SlowDisk(end), SECOND_NS, 15 * SECOND_NS);
            }
            Fault::ClockJump => {
                let day_ms = 86_400_000i64;
                machine
                    .clock
                    .jump_wall(random.below(2 * day_ms as u64) as i64 - day_ms);
                self.wire.note(Kind::ClockJump);
            }
            Fault::ClockDrift => {
                machine
                    .clock
                    .set_drift(now_ns, random.below(1_001) as i64 - 500);
                self.wire.note(Kind::ClockDrift);
            }
            Fault::Pause => {
                machine.pause(now_ns + 50 * MS_NS + random.wait(3 * SECOND_NS));
                self.wire.note(Kind::Pause);
            }
            Fault::LoopBlocked => {
                machine.blocked_until_ns = now_ns + SECOND_NS + random.wait(5 * SECOND_NS);
                self.wire.note(Kind::LoopBlocked);
            }
            Fault::Restart => machine.retire(&mut self.wire, down_ns),
            Fault::Upgrade | Fault::Downgrade => self.change_release(at, fault, down_ns),
            _ => {}
        }
    }

    /// Another release starts in place of this one. Releases are neighbours: the older one may come
    /// back only while the cluster has not begun to use what the newer one brings.
    fn change_release(&mut self, at: usize, fault: Fault, down_ns: u64) {
        let machine = &mut self.machines[at];
        let upgrade = fault == Fault::Upgrade;
        let release = FEATURE_LEVEL_MAX - u32::from(!upgrade);
        let level = machine
            .control()
            .and_then(|c| c.state())
            .map_or(1, |s| s.feature_level());
        if machine.release == release || release < level {
            return;
        }
        machine.release = release;
        machine.retire(&mut self.wire, down_ns);
        self.wire.note(if upgrade {
            Kind::Upgraded
        } else {
            Kind::Downgraded
        });
    }
}
