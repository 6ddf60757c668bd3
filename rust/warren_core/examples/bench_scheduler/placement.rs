//! Containers as fast as they can be placed.
//!
//! A cluster of four node types fills to nine tenths of its scarcer resource; from then on the
//! oldest go before others come, as on a cluster that lives. Only what the scheduler does to place
//! is timed: in every other batch of calls each by itself, by the wall clock, and in those between
//! all together, by what the thread consumed; that is the rate.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use warren_core::fsm::Resources;
use warren_core::ids::{NodeId, ServiceId};
use warren_core::scheduler::{Ask, Balance, Division, NodeSet, Placed, Rules, Scheduler, Strategy};

use crate::mix::{self, Random};
use crate::preempting;

/// Containers of a service that is placed one by one, spread over zones.
const SPREAD_REPLICAS: u64 = 10;
/// Values of the label that services are spread over or kept to.
const ZONES: u32 = 10;
/// One node of so many is to be avoided.
const AVOIDED: u32 = 20;
/// How full the cluster is kept, of the scarcer resource.
const FULL_PCT: u64 = 90;
/// Where only some nodes may be used.
const RULED_FULL_PCT: u64 = 85;
/// Calls between two readings of the clock, where single ones are not timed.
const BATCH: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each container for itself, packed.
    OneOff,
    /// Many alike at once, packed.
    Replicas,
    /// The same, spread.
    ReplicasSpread,
    /// One-off, kept to one of ten zones and away from one node in twenty.
    Constrained,
    /// Ten of a service one by one, at most one on a node, even over ten zones, away from one
    /// node in twenty.
    Spread,
    /// One-off, on a cluster that is full of what is less urgent.
    Preempt,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "one-off" => Ok(Self::OneOff),
            "replicas" => Ok(Self::Replicas),
            "replicas-spread" => Ok(Self::ReplicasSpread),
            "constrained" => Ok(Self::Constrained),
            "spread" => Ok(Self::Spread),
            "preempt" => Ok(Self::Preempt),
            other => Err(format!("no shape {other}")),
        }
    }
}

pub struct Case {
    pub nodes: u32,
    pub containers: u64,
    pub shape: Shape,
    /// Containers alike, where they come many at once.
    pub group: u32,
    pub seed: u64,
}

pub fn run(case: &Case) {
    if case.shape == Shape::Preempt {
        return preempting::run(case);
    }
    let mut bench = Bench::new(case);
    bench.place_all(case);
    bench.figures.print(case);
}

/// A label: the division by its values, and for each value its nodes, with a pool of their own.
struct Zones {
    all: Division,
    each: Vec<(Division, NodeSet)>,
    avoided: NodeSet,
}

struct Bench {
    scheduler: Scheduler,
    random: Random,
    zones: Zones,
    /// What is placed, the oldest first.
    placed: VecDeque<(NodeId, u32, Resources)>,
    used: (u64, u64),
    total: (u64, u64),
    figures: Figures,
}

/// What was measured.
#[derive(Default)]
pub struct Figures {
    pub latencies_ns: Vec<u32>,
    /// Of calls that are not timed singly.
    pub batch_ns: u64,
    pub batch_decided: u64,
    pub decided: u64,
    pub refused: u64,
    pub release_ns: u64,
    pub released: u64,
}

impl Bench {
    fn new(case: &Case) -> Self {
        let mut scheduler = mix::scheduler(case.nodes, true, case.seed);
        let mut total = (0, 0);
        for number in 0..case.nodes {
            let capacity = mix::capacity(number, true);
            total.0 += capacity.cpu_milli;
            total.1 += capacity.memory_bytes;
        }
        let zones = Zones::new(&mut scheduler, case);
        Self {
            scheduler,
            random: Random(case.seed),
            zones,
            placed: VecDeque::new(),
            used: (0, 0),
            total,
            figures: Figures {
                latencies_ns: Vec::with_capacity(case.containers as usize),
                ..Figures::default()
            },
        }
    }

    fn place_all(&mut self, case: &Case) {
        let mut answer = Placed {
            binds: Vec::with_capacity(case.group as usize),
            ..Placed::default()
        };
        let batch = if case.shape.count(case.group) > 1 {
            4
        } else {
            BATCH
        };
        let mut singly = false;
        while self.figures.decided + self.figures.refused < case.containers {
            let asks = self.draw(case, batch);
            if case.shape == Shape::Spread {
                self.services(&asks, singly, &mut answer);
            } else {
                self.batch(case, &asks, singly, &mut answer);
            }
            singly = !singly;
        }
    }

    /// What is asked next; there is room for it.
    fn draw(&mut self, case: &Case, count: usize) -> Vec<Asked> {
        let shape = case.shape;
        let many = u64::from(shape.count(case.group)) * shape.replicas();
        let asks = (0..count).map(|_| Asked {
            service: self.random.next(),
            resources: self.random.shape(),
            zone: self.random.below(self.zones.each.len() as u64) as usize,
        });
        let asks: Vec<_> = asks.collect();
        let sum = |of: fn(&Asked) -> u64| asks.iter().map(of).sum::<u64>() * many;
        let coming = (
            sum(|a| a.resources.cpu_milli),
            sum(|a| a.resources.memory_bytes),
        );
        self.make_room(shape, coming);
        asks
    }

    fn batch(&mut self, case: &Case, asks: &[Asked], singly: bool, answer: &mut Placed) {
        let (shape, count) = (case.shape, case.shape.count(case.group));
        let nowhere = BTreeMap::new();
        let mut answers = Vec::with_capacity(asks.len());
        let began = thread_ns();
        for asked in asks {
            let zone = &self.zones.each[asked.zone];
            let (within, without) = ([&zone.1], [&self.zones.avoided]);
            let mut rules = Rules {
                strategy: Strategy::Pack,
                ..Rules::default()
            };
            if shape == Shape::ReplicasSpread {
                rules.strategy = Strategy::Spread;
            }
            if shape == Shape::Constrained {
                rules.within = &within;
                rules.without = &without;
                rules.pool = Some(zone.0);
            }
            let ask = asked.ask(count, &nowhere, rules);
            if singly {
                let began = Instant::now();
                self.scheduler.place_into(&ask, answer);
                self.figures
                    .latencies_ns
                    .push(began.elapsed().as_nanos() as u32);
            } else {
                self.scheduler.place_into(&ask, answer);
            }
            match answer.binds[..] {
                [bind] if answer.refused == 0 => answers.push((bind, Vec::new(), 0)),
                _ => {
                    let binds = std::mem::take(&mut answer.binds);
                    answers.push((Default::default(), binds, answer.refused));
                }
            }
        }
        let took_ns = thread_ns() - began;
        if !singly {
            self.figures.batch_ns += took_ns;
            let placed = answers
                .iter()
                .map(|(_, _, refused)| u64::from(count - refused));
            self.figures.batch_decided += placed.sum::<u64>();
        }
        for (asked, (bind, binds, refused)) in asks.iter().zip(answers) {
            let binds = if bind.1 > 0 { vec![bind] } else { binds };
            self.figures.refused += u64::from(refused);
            self.note(&binds, asked.resources);
        }
    }

    /// Services whose containers come one by one: first one of each, then the next of each, so
    /// that the thread's clock, which takes as long as a decision, is read once for many.
    fn services(&mut self, asks: &[Asked], singly: bool, answer: &mut Placed) {
        let mut spreads = vec![BTreeMap::new(); asks.len()];
        let mut found = Vec::with_capacity(asks.len());
        for _ in 0..SPREAD_REPLICAS {
            found.clear();
            let began = thread_ns();
            for (asked, spread) in asks.iter().zip(&spreads) {
                self.next_of_service(asked, spread, singly, answer);
                found.push(answer.binds.first().map(|(id, _)| *id));
            }
            if !singly {
                self.figures.batch_ns += thread_ns() - began;
                self.figures.batch_decided += found.iter().flatten().count() as u64;
            }
            for ((asked, spread), id) in asks.iter().zip(&mut spreads).zip(&found) {
                let Some(id) = *id else {
                    self.figures.refused += 1;
                    continue;
                };
                *spread.entry(id).or_insert(0) += 1;
                self.note(&[(id, 1)], asked.resources);
            }
        }
    }

    fn next_of_service(
        &mut self,
        asked: &Asked,
        spread: &BTreeMap<NodeId, u32>,
        singly: bool,
        answer: &mut Placed,
    ) {
        let without = [&self.zones.avoided];
        let rules = Rules {
            without: &without,
            max_per_node: Some(1),
            balance: Some(Balance {
                over: self.zones.all,
                weights: &[],
                max_skew: Some(1),
                possible: None,
            }),
            ..Rules::default()
        };
        let ask = asked.ask(1, spread, rules);
        if singly {
            let began = Instant::now();
            self.scheduler.place_into(&ask, answer);
            let took_ns = began.elapsed().as_nanos();
            self.figures.latencies_ns.push(took_ns as u32);
        } else {
            self.scheduler.place_into(&ask, answer);
        }
    }

    fn note(&mut self, binds: &[(NodeId, u32)], resources: Resources) {
        for (id, count) in binds {
            let many = u64::from(*count);
            self.figures.decided += many;
            self.used.0 += resources.cpu_milli * many;
            self.used.1 += resources.memory_bytes * many;
            self.placed.push_back((*id, *count, resources));
        }
    }

    fn make_room(&mut self, shape: Shape, coming: (u64, u64)) {
        let full_pct = match shape {
            Shape::Constrained | Shape::Spread => RULED_FULL_PCT,
            _ => FULL_PCT,
        };
        let full = |used: u64, more: u64, total: u64| {
            u128::from(used + more) * 100 > u128::from(total) * u128::from(full_pct)
        };
        while full(self.used.0, coming.0, self.total.0) || full(self.used.1, coming.1, self.total.1)
        {
            let Some((id, count, resources)) = self.placed.pop_front() else {
                return;
            };
            let began = Instant::now();
            for _ in 0..count {
                self.scheduler.release(id, resources);
            }
            self.figures.release_ns += began.elapsed().as_nanos() as u64;
            self.figures.released += u64::from(count);
            self.used.0 -= resources.cpu_milli * u64::from(count);
            self.used.1 -= resources.memory_bytes * u64::from(count);
        }
    }
}

impl Figures {
    pub fn print(&mut self, case: &Case) {
        self.latencies_ns.sort_unstable();
        let at = |share: f64| {
            let rank = (self.latencies_ns.len() as f64 * share).ceil() as usize;
            self.latencies_ns[rank.clamp(1, self.latencies_ns.len()) - 1]
        };
        println!("{{");
        println!(
            "  \"nodes\": {}, \"containers\": {},",
            case.nodes, self.decided
        );
        println!(
            "  \"refused\": {}, \"calls\": {},",
            self.refused,
            self.latencies_ns.len()
        );
        println!(
            "  \"per_second\": {:.0},",
            self.batch_decided as f64 * 1e9 / self.batch_ns.max(1) as f64
        );
        println!(
            "  \"released\": {}, \"release_ns\": {:.1},",
            self.released,
            self.release_ns as f64 / self.released.max(1) as f64
        );
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            println!("  \"{name}_ns\": {},", at(share));
        }
        println!("  \"p99.99_ns\": {}, \"max_ns\": {},", at(0.9999), at(1.0));
        println!("  \"buckets\": [{}]", buckets(&self.latencies_ns));
        println!("}}");
    }
}

impl Zones {
    /// Node by node, in blocks of one of each type.
    fn new(scheduler: &mut Scheduler, case: &Case) -> Self {
        let all = scheduler.division_add();
        let each = match case.shape {
            Shape::Constrained => ZONES,
            _ => 1,
        };
        let mut zones = Self {
            all,
            each: (0..each)
                .map(|_| (scheduler.division_add(), NodeSet::default()))
                .collect(),
            avoided: NodeSet::default(),
        };
        for number in 0..case.nodes {
            let (id, zone) = (mix::id(number), number / 4 % ZONES);
            let dense = scheduler.number(id).expect("it was put");
            zones.avoided.set(dense, number / 4 % AVOIDED == 7);
            match case.shape {
                Shape::Spread => scheduler.division_set(all, id, Some(zone)),
                Shape::Constrained => {
                    let (pool, set) = &mut zones.each[zone as usize];
                    scheduler.division_set(*pool, id, Some(0));
                    set.set(dense, true);
                }
                _ => {}
            }
        }
        zones
    }
}

/// A service, or its containers, to be placed.
struct Asked {
    service: u64,
    resources: Resources,
    zone: usize,
}

impl Asked {
    fn ask<'a>(&self, count: u32, spread: &'a BTreeMap<NodeId, u32>, rules: Rules<'a>) -> Ask<'a> {
        Ask {
            service: ServiceId(u128::from(self.service).to_le_bytes()),
            resources: self.resources,
            count,
            image: "web",
            image_digest: mix::IMAGE,
            spread,
            rules,
        }
    }
}

/// Sorted latencies, in buckets a thirty-second wide.
fn buckets(latencies_ns: &[u32]) -> String {
    let floor = |ns: &u32| {
        let shift = ns.max(&1).ilog2().saturating_sub(5);
        ns >> shift << shift
    };
    let each = latencies_ns.chunk_by(|left, right| floor(left) == floor(right));
    let each = each.map(|bucket| format!("[{}, {}]", floor(&bucket[0]), bucket.len()));
    each.collect::<Vec<_>>().join(", ")
}

/// What the thread has consumed.
pub fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What reading that takes, where each reading stands alone: the median of many.
pub fn thread_clock_ns() -> u64 {
    let mut each: Vec<_> = (0..10_001)
        .map(|_| {
            let began = thread_ns();
            thread_ns() - began
        })
        .collect();
    let middle = each.len() / 2;
    *each.select_nth_unstable(middle).1
}

impl Shape {
    /// Asks of a service.
    fn replicas(self) -> u64 {
        match self {
            Self::Spread => SPREAD_REPLICAS,
            _ => 1,
        }
    }

    /// Containers that are asked for in one call.
    fn count(self, group: u32) -> u32 {
        match self {
            Self::Replicas | Self::ReplicasSpread => group,
            _ => 1,
        }
    }
}
