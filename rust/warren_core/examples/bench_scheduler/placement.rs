//! Containers as fast as they can be placed.
//!
//! A cluster of four node types fills to nine tenths of its scarcer resource; from then on the
//! oldest go before others come, as on a cluster that lives. Only what the scheduler does to place
//! is timed, each call by itself.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::time::Instant;

use warren_core::fsm::Resources;
use warren_core::ids::{NodeId, ServiceId};
use warren_core::scheduler::{
    Ask, Balance, BalanceRule, Division, NodeSet, Placed, Rule, Rules, Scheduler, Strategy,
};

use crate::mix::{self, Random};

/// Containers of a service that is placed at once.
const REPLICAS: u32 = 1_000;
/// Containers of a service that is placed one by one, spread over zones.
const SPREAD_REPLICAS: u64 = 10;
/// Values of the label that services are spread over or kept to.
const ZONES: u32 = 10;
/// One node of so many is to be avoided.
const AVOIDED: u32 = 20;
const FULL_PCT: u64 = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each container for itself, packed.
    OneOff,
    /// A thousand alike at once, packed.
    Replicas,
    /// The same, spread.
    ReplicasSpread,
    /// One-off, kept to one of ten zones and away from one node in twenty.
    Constrained,
    /// Ten of a service one by one, at most one on a node, even over ten zones, away from one
    /// node in twenty.
    Spread,
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
            other => Err(format!("no shape {other}")),
        }
    }
}

pub struct Case {
    pub nodes: u32,
    pub containers: u64,
    pub shape: Shape,
    pub seed: u64,
}

pub fn run(case: &Case) {
    let mut bench = Bench::new(case);
    bench.place_all(case);
    bench.print(case);
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
    latencies_ns: Vec<u32>,
    decided: u64,
    refused: u64,
    release_ns: u64,
    released: u64,
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
            latencies_ns: Vec::with_capacity(case.containers as usize),
            decided: 0,
            refused: 0,
            release_ns: 0,
            released: 0,
        }
    }

    fn place_all(&mut self, case: &Case) {
        let mut answer = Placed {
            binds: Vec::with_capacity(REPLICAS as usize),
            refused: 0,
        };
        let mut spread = BTreeMap::new();
        let (mut service, mut resources) = (0, Resources::default());
        while self.decided + self.refused < case.containers {
            let begins = case.shape != Shape::Spread || self.decided % SPREAD_REPLICAS == 0;
            if begins {
                (service, resources) = (self.random.next(), self.random.shape());
                spread.clear();
            }
            let count = case.shape.count();
            self.make_room(resources, count);
            let zone = &self.zones.each[self.random.below(self.zones.each.len() as u64) as usize];
            let within = [Rule {
                nodes: &zone.1,
                why: "label zone is another",
            }];
            let without = [Rule {
                nodes: &self.zones.avoided,
                why: "it runs what this is to be kept from",
            }];
            let mut rules = Rules {
                strategy: Strategy::Pack,
                ..Rules::default()
            };
            match case.shape {
                Shape::OneOff | Shape::Replicas => {}
                Shape::ReplicasSpread => rules.strategy = Strategy::Spread,
                Shape::Constrained => {
                    rules.within = &within;
                    rules.without = &without;
                    rules.pool = Some(zone.0);
                }
                Shape::Spread => {
                    rules.strategy = Strategy::Spread;
                    rules.without = &without;
                    rules.max_per_node = Some(1);
                    rules.balance = Some(Balance {
                        over: self.zones.all,
                        rule: BalanceRule::MaxSkew(1),
                    });
                }
            }
            let ask = Ask {
                service: ServiceId(u128::from(service).to_le_bytes()),
                resources,
                count,
                image: "web",
                image_digest: mix::IMAGE,
                spread: &spread,
                rules,
            };
            let began = Instant::now();
            self.scheduler.place_into(&ask, &mut answer);
            let took = began.elapsed();
            self.latencies_ns.push(took.as_nanos() as u32);
            self.note(&answer, resources);
            if case.shape == Shape::Spread {
                for (id, count) in &answer.binds {
                    *spread.entry(*id).or_insert(0) += count;
                }
            }
        }
    }

    fn note(&mut self, answer: &Placed, resources: Resources) {
        self.refused += u64::from(answer.refused);
        for (id, count) in &answer.binds {
            let many = u64::from(*count);
            self.decided += many;
            self.used.0 += resources.cpu_milli * many;
            self.used.1 += resources.memory_bytes * many;
            self.placed.push_back((*id, *count, resources));
        }
    }

    fn make_room(&mut self, resources: Resources, count: u32) {
        let many = u64::from(count);
        let full = |used: u64, more: u64, total: u64| {
            u128::from(used + more * many) * 100 > u128::from(total) * u128::from(FULL_PCT)
        };
        while full(self.used.0, resources.cpu_milli, self.total.0)
            || full(self.used.1, resources.memory_bytes, self.total.1)
        {
            let Some((id, count, resources)) = self.placed.pop_front() else {
                return;
            };
            let began = Instant::now();
            for _ in 0..count {
                self.scheduler.release(id, resources);
            }
            self.release_ns += began.elapsed().as_nanos() as u64;
            self.released += u64::from(count);
            self.used.0 -= resources.cpu_milli * u64::from(count);
            self.used.1 -= resources.memory_bytes * u64::from(count);
        }
    }

    fn print(&mut self, case: &Case) {
        let spent_ns: u64 = self.latencies_ns.iter().map(|ns| u64::from(*ns)).sum();
        self.latencies_ns.sort_unstable();
        let at = |share: f64| {
            let rank = (self.latencies_ns.len() as f64 * share).ceil() as usize;
            self.latencies_ns[rank.clamp(1, self.latencies_ns.len()) - 1]
        };
        println!("{{");
        println!("  \"nodes\": {}, \"containers\": {},", case.nodes, self.decided);
        println!("  \"refused\": {}, \"calls\": {},", self.refused, self.latencies_ns.len());
        println!(
            "  \"per_second\": {:.0},",
            self.decided as f64 * 1e9 / spent_ns.max(1) as f64
        );
        println!(
            "  \"released\": {}, \"release_ns\": {:.1},",
            self.released,
            self.release_ns as f64 / self.released.max(1) as f64
        );
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            println!("  \"{name}_ns\": {},", at(share));
        }
        println!("  \"p99.99_ns\": {}, \"max_ns\": {}", at(0.9999), at(1.0));
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
            zones.avoided.set(dense, number % AVOIDED == 7);
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

impl Shape {
    /// Containers that are asked for in one call.
    fn count(self) -> u32 {
        match self {
            Self::Replicas | Self::ReplicasSpread => REPLICAS,
            _ => 1,
        }
    }
}
