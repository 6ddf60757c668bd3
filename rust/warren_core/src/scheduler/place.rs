//! Filter, score, pick.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::fsm::Resources;
use crate::ids::NodeId;
use crate::scheduler::score::Mix;
use crate::scheduler::{Ask, Candidate, Placed, Reason, Scheduler};

/// Less is better, field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Containers of the service on the node: replicas never pile up while another node takes one.
    of_service: u32,
    stranding: i64,
    containers: u32,
    draw: u64,
    node: NodeId,
}

impl Scheduler {
    /// Finds nodes for what is asked and holds the room there, once per bind.
    pub fn place(&mut self, ask: &Ask) -> Placed {
        let mix = self.mix(ask);
        let most = ask.rules.most();
        let has = |id: &NodeId| ask.spread.get(id).copied().unwrap_or_default();
        let feasible = self.nodes.iter().filter(|(id, node)| {
            node.takes(ask) && has(id) < most && ask.rules.refusal(**id).is_none()
        });
        let ranks = feasible.map(|(id, node)| Reverse(self.rank(&mix, ask, *id, node, has(id))));
        let mut heap: BinaryHeap<_> = ranks.collect();
        let mut binds = BTreeMap::new();
        let mut left = ask.count;
        let mut avoided = ask.rules.1.clone();
        while left > 0
            && let Some(Reverse(best)) = heap.pop()
        {
            if ask.rules.taken(&mut avoided, best.node).is_none() {
                continue;
            }
            left -= 1;
            *binds.entry(best.node).or_insert(0) += 1;
            self.hold(best.node, ask.resources);
            let node = &self.nodes[&best.node];
            if node.takes(ask) && best.of_service + 1 < most {
                heap.push(Reverse(self.rank(
                    &mix,
                    ask,
                    best.node,
                    node,
                    best.of_service + 1,
                )));
            }
        }
        Placed {
            binds: binds.into_iter().collect(),
            refused: left,
        }
    }

    /// Holds room for one on this very node, or says why it cannot take it.
    pub fn place_on(&mut self, id: NodeId, ask: &Ask) -> Result<(), Reason> {
        match self.nodes.get(&id).map(|node| node.takes(ask)) {
            Some(true) if ask.rules.refusal(id).is_none() => {
                self.hold(id, ask.resources);
                Ok(())
            }
            _ => Err(self.why_not(id, ask)),
        }
    }

    /// Whether one of these would find a place on `node` if `freed` were given back there.
    pub fn would_fit(&self, ask: &Ask, node: NodeId, freed: Resources) -> bool {
        self.nodes.get(&node).is_some_and(|candidate| {
            let allocated = candidate.allocated.saturating_sub(freed);
            let free = candidate.allocatable.saturating_sub(allocated);
            candidate.takes_given(ask, free.saturating_sub(candidate.held))
                && ask.rules.refusal_of_successor(node).is_none()
        })
    }

    /// Whether one of these would find a place somewhere as things are. A scan.
    pub fn fits_somewhere(&self, ask: &Ask) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|(id, node)| node.takes(ask) && ask.rules.refusal(*id).is_none())
    }

    fn rank(&self, mix: &Mix, ask: &Ask, id: NodeId, node: &Candidate, of_service: u32) -> Rank {
        Rank {
            of_service,
            stranding: mix.stranding(node.free(), ask.resources),
            containers: node.containers + node.held_containers,
            draw: draw(self.seed, &ask.service.0, &id.0),
            node: id,
        }
    }

    fn mix(&self, ask: &Ask) -> Mix {
        let mut total = Resources::default();
        let mut used = Resources::default();
        let mut containers = 0;
        for node in self.nodes.values() {
            total = total.saturating_add(node.allocatable);
            used = used
                .saturating_add(node.allocated)
                .saturating_add(node.held);
            containers += u64::from(node.containers + node.held_containers);
        }
        let mean = |sum: u64| sum.checked_div(containers);
        let demand = match (mean(used.cpu_milli), mean(used.memory_bytes)) {
            (Some(cpu_milli), Some(memory_bytes)) => Resources {
                cpu_milli,
                memory_bytes,
                ..Resources::default()
            },
            _ => ask.resources,
        };
        Mix { demand, total }
    }
}

impl Candidate {
    pub(super) fn takes(&self, ask: &Ask) -> bool {
        self.takes_given(ask, self.free())
    }

    fn takes_given(&self, ask: &Ask, free: Resources) -> bool {
        self.refusal.is_none() && self.images.contains(ask.image_digest) && ask.resources.fits(free)
    }
}

/// A fixed draw for each (service, node), so that ties fall differently for different services.
/// The mixing is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
fn draw(seed: u64, service: &[u8; 16], node: &[u8; 16]) -> u64 {
    let words = service.chunks_exact(8).chain(node.chunks_exact(8));
    words.fold(seed, |state, word| {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        let mut z = (state ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}
