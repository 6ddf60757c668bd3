//! Containers that take the place of others, as fast as that can be decided.
//!
//! Nodes of four types are full of containers of forty shapes with ten low priorities; each that
//! comes has a higher one, and what it takes the place of is gone when the next one comes. It then
//! counts as one of a low priority itself, so that the cluster stays as full as it is. Who finds room
//! takes it and preempts nobody, as anywhere. What is timed is the decision of the others, with
//! everything that keeps the bands up to date: nothing else of the preemption. As each depends on the
//! one before, the thread's clock is read for each; what that takes is left out.

use std::collections::BTreeMap;
use std::time::Instant;

use warren_core::fsm::Resources;
use warren_core::ids::{ContainerId, NodeId, ServiceId};
use warren_core::scheduler::{
    Ask, NodeFacts, Occupant, Placed, Preemption, Rules, Scheduler, Strategy,
};

use crate::mix::{self, Random};
use crate::placement::{Case, Figures, thread_clock_ns, thread_ns};

/// Priorities of those that make room.
const PRIORITIES: u64 = 10;
const URGENT: u32 = 50;
/// Decisions between two readings of the thread's clock.
const BATCH: usize = 256;
/// Containers in a row that find no room: the cluster is full.
const REFUSED_MAX: u32 = 200;

struct Bench {
    scheduler: Scheduler,
    random: Random,
    occupants: BTreeMap<NodeId, Vec<Occupant>>,
    next: u64,
    placed: Placed,
}

pub fn run(case: &Case) {
    let mut bench = Bench {
        scheduler: mix::scheduler(case.nodes, true, case.seed),
        random: Random(case.seed),
        occupants: BTreeMap::new(),
        next: 0,
        placed: Placed::default(),
    };
    bench.fill();
    let containers = bench.occupants.values().map(Vec::len).sum::<usize>();
    eprintln!("{containers} containers fill it");
    bench.decide(case).print(case);
}

impl Bench {
    fn occupant(&mut self, resources: Resources) -> Occupant {
        self.next += 1;
        Occupant {
            id: ContainerId(u128::from(self.next).to_be_bytes()),
            priority: self.random.below(PRIORITIES) as u32 * 4,
            resources,
            created_at_ms: self.next,
        }
    }

    fn fill(&mut self) {
        let mut refused = 0;
        while refused < REFUSED_MAX {
            let resources = self.random.shape();
            refused += u32::from(self.room(resources).is_none());
        }
        // From holds to what the state would say.
        let nodes: Vec<_> = self.occupants.keys().copied().collect();
        for id in nodes {
            for at in 0..self.occupants[&id].len() {
                let resources = self.occupants[&id][at].resources;
                self.scheduler.release(id, resources);
            }
            self.tell(id);
        }
        self.scheduler.bands_keep();
    }

    /// Takes what room there is for it, which is held.
    fn room(&mut self, resources: Resources) -> Option<NodeId> {
        let nowhere = BTreeMap::new();
        let ask = ask(self.next, resources, &nowhere);
        self.scheduler.place_into(&ask, &mut self.placed);
        let (id, _) = self.placed.binds.first().copied()?;
        let occupant = self.occupant(resources);
        self.occupants.entry(id).or_default().push(occupant);
        Some(id)
    }

    /// What does not fit anywhere.
    fn unplaceable(&mut self) -> Resources {
        loop {
            let resources = self.random.shape();
            let Some(id) = self.room(resources) else {
                return resources;
            };
            self.scheduler.release(id, resources);
            self.tell(id);
        }
    }

    fn tell(&mut self, id: NodeId) {
        let occupants = &self.occupants[&id];
        let number = u128::from_be_bytes(id.0) as u32 - 1;
        let allocated = occupants.iter().fold(Resources::default(), |sum, it| {
            sum.saturating_add(it.resources)
        });
        let facts = NodeFacts {
            refusal: None,
            allocatable: mix::capacity(number, true),
            allocated,
            containers: occupants.len() as u32,
        };
        self.scheduler
            .node_put_facts(id, facts, [mix::IMAGE].into_iter());
        self.scheduler.occupants_changed(id);
    }

    /// Catches up, and decides.
    fn one(&mut self, resources: Resources) -> Option<Preemption> {
        while let Some(id) = self.scheduler.next_stale() {
            let occupants = self.occupants.get(&id).into_iter().flatten();
            self.scheduler.occupants_put(id, occupants.copied());
        }
        let nowhere = BTreeMap::new();
        let ask = ask(self.next, resources, &nowhere);
        self.scheduler.preempt(&ask, URGENT)
    }

    /// It has happened.
    fn follow(&mut self, resources: Resources, found: &Preemption) {
        let occupant = self.occupant(resources);
        let there = self.occupants.entry(found.node).or_default();
        there.retain(|it| !found.victims.contains(&it.id));
        there.push(occupant);
        self.tell(found.node);
    }

    fn decide(&mut self, case: &Case) -> Figures {
        let mut figures = Figures::default();
        // The first one makes the grids, once.
        self.one(mix::of(1_000, 1 << 30));
        let (clock_ns, mut singly) = (thread_clock_ns(), false);
        while figures.decided + figures.refused < case.containers {
            let mut took_ns = 0;
            for _ in 0..BATCH {
                let resources = self.unplaceable();
                let found = if singly {
                    let began = Instant::now();
                    let found = self.one(resources);
                    figures.latencies_ns.push(began.elapsed().as_nanos() as u32);
                    found
                } else {
                    let began_ns = thread_ns();
                    let found = self.one(resources);
                    took_ns += (thread_ns() - began_ns).saturating_sub(clock_ns);
                    found
                };
                match found {
                    Some(found) => {
                        figures.decided += 1;
                        self.follow(resources, &found);
                    }
                    None => figures.refused += 1,
                }
            }
            if !singly {
                figures.batch_ns += took_ns;
                figures.batch_decided += BATCH as u64;
            }
            singly = !singly;
        }
        figures
    }
}

fn ask(service: u64, resources: Resources, spread: &BTreeMap<NodeId, u32>) -> Ask<'_> {
    Ask {
        service: ServiceId(u128::from(service).to_le_bytes()),
        resources,
        count: 1,
        image: "web",
        image_digest: mix::IMAGE,
        spread,
        rules: Rules {
            strategy: Strategy::Pack,
            ..Rules::default()
        },
    }
}
