//! Preemption against a twin that tries every set of containers on every node.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::Resources;
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::scheduler::bands::Occupant;
use crate::scheduler::search::mixed;
use crate::scheduler::{Ask, NodeFacts, NodeSet, Preemption, Rules, Scheduler};

const IMAGE: &str = "sha256:a";

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 += 1;
        mixed(self.0) % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn amount(&mut self) -> Resources {
        Resources {
            cpu_milli: 100 * self.below(12),
            memory_bytes: self.below(6) << 20,
            disk_bytes: self.below(3) * self.below(2),
            pids: 0,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct TwinNode {
    allocatable: Resources,
    refused: bool,
    barred: bool,
    /// Of the service that asks.
    own: u32,
    /// What holds room and is not to be touched: it is on its way out.
    fixed: Resources,
    occupants: Vec<Occupant>,
}

impl TwinNode {
    fn free_without(&self, gone: &[ContainerId]) -> Resources {
        let kept = self.occupants.iter().filter(|it| !gone.contains(&it.id));
        let taken = kept.fold(self.fixed, |sum, it| sum.saturating_add(it.resources));
        self.allocatable.saturating_sub(taken)
    }

    /// Every set that makes room for it, as (highest priority, how many).
    fn sets(&self, need: Resources, priority: u32) -> Vec<(u32, usize)> {
        let lower = self.occupants.iter();
        let lower: Vec<_> = lower.filter(|it| it.priority < priority).collect();
        let sets = (1..1u32 << lower.len()).filter_map(|bits| {
            let set = (0..lower.len()).filter(|at| bits >> at & 1 == 1);
            let set: Vec<_> = set.map(|at| lower[at]).collect();
            let ids: Vec<_> = set.iter().map(|it| it.id).collect();
            need.fits(self.free_without(&ids)).then(|| {
                let highest = set.iter().map(|it| it.priority).max();
                (highest.unwrap_or_default(), set.len())
            })
        });
        sets.collect()
    }
}

struct World {
    random: Random,
    scheduler: Scheduler,
    nodes: BTreeMap<NodeId, TwinNode>,
    next: u64,
}

fn node_id(n: u8) -> NodeId {
    NodeId([n; 16])
}

impl World {
    fn new(seed: u64, nodes: u8) -> Self {
        let mut scheduler = Scheduler::new(seed);
        scheduler.bands_keep();
        let mut world = Self {
            random: Random(mixed(seed)),
            scheduler,
            nodes: BTreeMap::new(),
            next: 0,
        };
        (0..nodes).for_each(|n| world.put(node_id(n)));
        world
    }

    fn put(&mut self, id: NodeId) {
        let random = &mut self.random;
        let mut node = TwinNode {
            allocatable: Resources {
                cpu_milli: 1_000 + 500 * random.below(4),
                memory_bytes: (2 + random.below(12)) << 20,
                disk_bytes: random.below(9),
                pids: 9,
            },
            refused: random.one_in(8),
            barred: random.one_in(6),
            own: random.below(3) as u32,
            fixed: match random.one_in(3) {
                true => random.amount(),
                false => Resources::default(),
            },
            occupants: Vec::new(),
        };
        for _ in 0..random.below(9) {
            self.next += 1;
            node.occupants.push(Occupant {
                id: ContainerId(u128::from(self.next).to_be_bytes()),
                priority: random.below(6) as u32 * 10,
                resources: random.amount(),
                created_at_ms: random.below(50),
            });
        }
        self.nodes.insert(id, node);
        self.tell(id);
    }

    /// The scheduler learns of the node as the orchestrator tells it.
    fn tell(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let facts = NodeFacts {
            refusal: node.refused.then_some("it is down"),
            allocatable: node.allocatable,
            allocated: node
                .occupants
                .iter()
                .fold(node.fixed, |sum, it| sum.saturating_add(it.resources)),
            containers: node.occupants.len() as u32,
        };
        self.scheduler
            .node_put_facts(id, facts, [IMAGE].into_iter());
        self.scheduler.occupants_changed(id);
    }

    fn learn(&mut self) {
        while let Some(id) = self.scheduler.next_stale() {
            let occupants = self.nodes[&id].occupants.clone();
            self.scheduler.occupants_put(id, occupants.into_iter());
        }
    }

    fn barred(&self) -> NodeSet {
        let mut barred = NodeSet::default();
        for (id, _) in self.nodes.iter().filter(|(_, node)| node.barred) {
            barred.set(self.scheduler.number(*id).expect("it was put"), true);
        }
        barred
    }

    fn remove(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.scheduler.node_remove(id);
    }

    /// What the twin would do at best: the least (highest priority, victims) of all nodes.
    fn best(&self, need: Resources, priority: u32, most: u32) -> Option<(u32, usize)> {
        let open = self.nodes.values().filter(|node| {
            let room = need.fits(node.free_without(&[]));
            !node.refused && !node.barred && node.own < most && !room
        });
        open.flat_map(|node| node.sets(need, priority)).min()
    }

    fn preempt(&mut self) -> bool {
        let (need, priority) = (self.random.amount(), self.random.below(8) as u32 * 10);
        let most = 1 + self.random.below(4) as u32;
        let barred = self.barred();
        let spread = self
            .nodes
            .iter()
            .map(|(id, node)| (*id, node.own))
            .collect();
        let ask = Ask {
            service: ServiceId([7; 16]),
            resources: need,
            count: 1,
            image: IMAGE,
            image_digest: IMAGE,
            spread: &spread,
            rules: Rules {
                without: &[&barred],
                max_per_node: Some(most),
                ..Rules::default()
            },
        };
        self.learn();
        let found = self.scheduler.preempt(&ask, priority);
        let best = self.best(need, priority, most);
        let Some(found) = found else {
            assert_eq!(best, None, "{need:?} of priority {priority} had a place");
            return false;
        };
        self.check(&found, need, priority, most);
        assert_eq!(best, Some((found.priority, found.victims.len())));
        self.carry_out(&found);
        true
    }

    fn check(&self, found: &Preemption, need: Resources, priority: u32, most: u32) {
        let node = &self.nodes[&found.node];
        assert!(!node.refused && !node.barred && node.own < most);
        assert!(!need.fits(node.free_without(&[])), "it had room");
        assert!(
            need.fits(node.free_without(&found.victims)),
            "it fits after"
        );
        let victims = node.occupants.iter();
        let victims: Vec<_> = victims
            .filter(|it| found.victims.contains(&it.id))
            .collect();
        assert_eq!(victims.len(), found.victims.len(), "they are there");
        assert!(victims.iter().all(|it| it.priority < priority));
        let highest = victims.iter().map(|it| it.priority).max();
        assert_eq!(highest, Some(found.priority));
        let held = victims.iter().fold(Resources::default(), |sum, it| {
            sum.saturating_add(it.resources)
        });
        assert_eq!(found.set_aside, need.saturating_sub(held));
    }

    /// Begins it; the state says later that the victims are on their way out.
    fn carry_out(&mut self, found: &Preemption) {
        self.scheduler.preempt_begin(found);
        if self.random.one_in(2) {
            // It came to nothing.
            self.scheduler.preempt_end(found.node, found.set_aside);
            return;
        }
        let node = self.nodes.get_mut(&found.node).expect("it is there");
        let (gone, kept) = std::mem::take(&mut node.occupants)
            .into_iter()
            .partition::<Vec<_>, _>(|it| found.victims.contains(&it.id));
        node.occupants = kept;
        node.fixed = gone
            .iter()
            .fold(node.fixed, |sum, it| sum.saturating_add(it.resources))
            .saturating_add(found.set_aside);
        self.tell(found.node);
        self.scheduler.preempt_end(found.node, found.set_aside);
    }

    fn something_else(&mut self) {
        let id = node_id(self.random.below(self.nodes.len() as u64 + 1) as u8);
        match self.random.below(4) {
            0 if self.nodes.len() > 2 && self.nodes.contains_key(&id) => self.remove(id),
            1 => self.put(id),
            2 if self.nodes.contains_key(&id) => {
                let node = self.nodes.get_mut(&id).expect("it is there");
                node.occupants.pop();
                self.tell(id);
            }
            _ => {}
        }
    }

    /// Nothing is left of how it came to be: rows are what nodes have, and each grid has every open
    /// node where it belongs.
    fn assert_kept_up(&mut self) {
        self.learn();
        let index = &mut self.scheduler.index;
        let mut bands = self.scheduler.bands.take().expect("kept");
        let below = bands.below(100);
        bands.catch_up(index, &below);
        for (id, node) in &self.nodes {
            let number = self.scheduler.number(*id).expect("known");
            let mut row = node.occupants.clone();
            row.sort_by_key(|it| (it.priority, it.id));
            assert_eq!(bands.occupants(number, u32::MAX), row);
            for (upto, cells) in bands.cells() {
                let lower = row.iter().filter(|it| it.priority <= upto);
                let gone: Vec<_> = lower.map(|it| it.id).collect();
                let held = self.scheduler.index.load(number).held;
                assert_eq!(held, Resources::default(), "nothing is under way");
                let cell = self.scheduler.index.axes().cell(node.free_without(&gone));
                let expected = (!node.refused).then_some(cell);
                assert_eq!(cells[number as usize], expected, "{id} up to {upto}");
            }
        }
        self.scheduler.bands = Some(bands);
    }
}

#[test]
fn the_cheapest_victims_make_room_and_none_where_none_would() {
    let (mut found, mut not) = (0, 0);
    for seed in 0..300 {
        println!("seed {seed}");
        let mut world = World::new(seed, 1 + (seed % 8) as u8);
        for _ in 0..40 {
            match world.preempt() {
                true => found += 1,
                false => not += 1,
            }
            world.something_else();
        }
        world.assert_kept_up();
    }
    // The generator must reach what it is to test.
    assert!(found > 1_000 && not > 1_000, "{found} found, {not} not");
}

#[test]
fn the_same_seed_chooses_the_same() {
    let all = |_| {
        let mut world = World::new(3, 8);
        let chosen = (0..30).map(|_| {
            world.preempt();
            world.something_else();
            format!("{:?}", world.nodes)
        });
        chosen.collect::<Vec<_>>()
    };
    assert_eq!(all(0), all(1));
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let mut world = World::new(5, 6);
    world.learn();
    let spread = BTreeMap::new();
    let ask = Ask {
        service: ServiceId([7; 16]),
        resources: Resources {
            cpu_milli: 1_000,
            ..Resources::default()
        },
        count: 1,
        image: IMAGE,
        image_digest: IMAGE,
        spread: &spread,
        rules: Rules::default(),
    };
    let run = |scheduler: &mut Scheduler| {
        let first = scheduler.preempt(&ask, 100).expect("somewhere");
        scheduler.preempt_begin(&first);
        let second = scheduler.preempt(&ask, 100);
        (first, second)
    };
    let first = world.scheduler.plan(run);
    assert_ne!(Some(&first.0), first.1.as_ref(), "what is taken is taken");
    world.learn();
    assert_eq!(world.scheduler.plan(run), first);
}

/// Many small ones on a node take more steps than there are: then what is chosen has nothing in it
/// that could be spared, and nothing is refused.
#[test]
fn where_the_fewest_are_hard_to_find_none_is_superfluous() {
    use crate::scheduler::victims::{VICTIMS_MAX, choose};
    let rates = Default::default();
    let mut inexact = 0;
    for seed in 0..200 {
        let mut random = Random(mixed(seed));
        let mut occupants: Vec<_> = (0..40)
            .map(|n| Occupant::of(n, random.below(3) as u32, random.amount()))
            .collect();
        occupants.sort_by_key(|it| (it.priority, it.id));
        let lacking = Resources {
            cpu_milli: 500 * (1 + random.below(9)),
            memory_bytes: random.below(20) << 20,
            ..Resources::default()
        };
        let Some(choice) = choose(&occupants, lacking, rates, None) else {
            continue;
        };
        inexact += u32::from(!choice.exact);
        let sum = |without: Option<usize>| {
            let kept = choice.victims.iter().filter(|at| Some(**at) != without);
            kept.fold(Resources::default(), |sum, at| {
                sum.saturating_add(occupants[*at].resources)
            })
        };
        assert!(lacking.fits(sum(None)));
        assert!(choice.victims.len() <= VICTIMS_MAX);
        for at in &choice.victims {
            assert!(!lacking.fits(sum(Some(*at))), "{at} could be spared");
        }
        let unique: BTreeSet<_> = choice.victims.iter().collect();
        assert_eq!(unique.len(), choice.victims.len());
    }
    assert!(inexact > 20, "{inexact}");
}
