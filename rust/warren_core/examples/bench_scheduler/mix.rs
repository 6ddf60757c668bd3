//! Nodes and what is asked of them.

use warren_core::fsm::Resources;
use warren_core::ids::NodeId;
use warren_core::scheduler::{NodeFacts, Scheduler};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// CPU in milli, and how many in a hundred ask for it.
const CPU: [(u64, u64); 8] = [
    (100, 22),
    (250, 22),
    (500, 20),
    (1_000, 16),
    (2_000, 10),
    (4_000, 6),
    (8_000, 3),
    (16_000, 1),
];
/// MiB for a thousandth of a CPU, and how many in a hundred ask for that ratio.
const MEMORY: [(u64, u64); 5] = [(1, 20), (2, 25), (4, 30), (8, 15), (12, 10)];

/// The manifest digest of the one image there is.
pub const IMAGE: &str = "sha256:5a2d1f6b3c4e7890a1b2c3d4e5f60718293a4b5c6d7e8f901234567890abcdef";

pub fn of(cpu_milli: u64, memory_bytes: u64) -> Resources {
    Resources {
        cpu_milli,
        memory_bytes,
        ..Resources::default()
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (u128::from(self.next()) * u128::from(limit)).wrapping_shr(64) as u64
    }

    fn weighted(&mut self, choices: &[(u64, u64)]) -> u64 {
        let mut at = self.below(choices.iter().map(|(_, weight)| weight).sum());
        for (value, weight) in choices {
            if at < *weight {
                return *value;
            }
            at -= weight;
        }
        unreachable!("the weights add up")
    }

    /// One of forty shapes.
    pub fn shape(&mut self) -> Resources {
        let cpu_milli = self.weighted(&CPU);
        let per_milli = self.weighted(&MEMORY);
        of(cpu_milli, cpu_milli * per_milli * MIB * 1024 / 1000)
    }
}

/// What node `number` has.
pub fn capacity(number: u32, four_types: bool) -> Resources {
    let (cores, gib) = match (four_types, number % 4) {
        (false, _) | (true, 1) => (64, 256),
        (true, 0) => (32, 128),
        (true, 2) => (96, 192),
        (true, _) => (48, 384),
    };
    of(cores * 1000, gib * GIB)
}

pub fn id(number: u32) -> NodeId {
    NodeId(u128::from(number + 1).to_be_bytes())
}

/// A cluster of empty nodes, all of which have the image.
pub fn scheduler(nodes: u32, four_types: bool, seed: u64) -> Scheduler {
    let mut scheduler = Scheduler::new(seed);
    for number in 0..nodes {
        let facts = NodeFacts {
            allocatable: capacity(number, four_types),
            ..NodeFacts::default()
        };
        scheduler.node_put_facts(id(number), facts, [IMAGE].into_iter());
    }
    scheduler
}
