//! How others choose a node, as far as CPU and memory decide it.
//!
//! Each looks at every node, also where the original looks at a sample: that is never worse for
//! density. Sources: kube-scheduler's NodeResourcesFit (LeastAllocated) and
//! NodeResourcesBalancedAllocation, with their default weights of 1; swarmkit's spread (fewest
//! containers); Nomad's ScoreFitBinPack, which is BestFit-v3 of Google's cluster papers; L2, the
//! norm-based greedy of Panigrahy et al., Heuristics for Vector Bin Packing, 2011.

use warren_core::fsm::Resources;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    KubeDefault,
    SwarmSpread,
    Nomad,
    BestFit,
    L2,
    /// `stranded(after) − stranded(before)` with the lean toward fuller nodes, in fractions, over
    /// every node.
    StrandingScan,
}

pub const POLICIES: [(&str, Policy); 6] = [
    ("kube default", Policy::KubeDefault),
    ("swarm spread", Policy::SwarmSpread),
    ("nomad", Policy::Nomad),
    ("best fit", Policy::BestFit),
    ("l2", Policy::L2),
    ("stranding, full scan", Policy::StrandingScan),
];

/// How much the scan leans toward fuller nodes.
const PULL: f64 = 0.006;

#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub capacity: Resources,
    pub free: Resources,
    pub containers: u32,
}

/// What all hosts have, and what the mean container asks for.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub total: (f64, f64),
    pub demand: (f64, f64),
}

impl Policy {
    /// The host with the least of this gets it.
    pub fn cost(self, host: &Host, asked: Resources, world: &World) -> f64 {
        let left = host.free.saturating_sub(asked);
        let (left, free) = (pair(left), pair(host.free));
        let has = pair(host.capacity);
        let (cpu, memory) = (left.0 / has.0, left.1 / has.1);
        match self {
            Policy::KubeDefault => {
                let least_allocated = (cpu + memory) / 2.0;
                let balanced = 1.0 - (cpu - memory).abs() / 2.0;
                -(least_allocated + balanced)
            }
            Policy::SwarmSpread => f64::from(host.containers),
            Policy::Nomad => 10f64.powf(cpu) + 10f64.powf(memory),
            Policy::BestFit => cpu + memory,
            Policy::L2 => {
                let asked = pair(asked);
                let gap = |free: f64, asked: f64, total: f64| ((free - asked) / total).powi(2);
                gap(free.0, asked.0, world.total.0) + gap(free.1, asked.1, world.total.1)
            }
            Policy::StrandingScan => {
                let distance = left.0 / world.total.0 + left.1 / world.total.1;
                world.stranded(left) - world.stranded(free) + PULL * distance
            }
        }
    }
}

impl World {
    fn stranded(&self, free: (f64, f64)) -> f64 {
        let mean = (free.0 / self.demand.0).min(free.1 / self.demand.1);
        (free.0 - mean * self.demand.0) / self.total.0
            + (free.1 - mean * self.demand.1) / self.total.1
    }
}

pub fn pair(amounts: Resources) -> (f64, f64) {
    (amounts.cpu_milli as f64, amounts.memory_bytes as f64)
}
