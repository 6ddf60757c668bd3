use std::collections::{BTreeMap, BTreeSet};

use super::twin::{Twin, TwinAsk};
use crate::fsm::Resources;
use crate::ids::{NodeId, ServiceId};
use crate::scheduler::search::mixed;
use crate::scheduler::{
    Affinity, Ask, Balance, Division, NodeFacts, NodeSet, Placed, Rules, Scheduler, Strategy,
};

const TAGS: [&str; 3] = ["ssd", "eu", "port 80 taken"];
const IMAGES: [&str; 3] = ["sha256:a", "sha256:b", "sha256:c"];
const ZONES: u64 = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 += 1;
        mixed(self.0) % limit
    }

    /// Small amounts as often as large ones.
    fn up_to_bits(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits);
        self.below(1 << bits)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A scheduler and its twin, to which the same things happen.
struct World {
    random: Random,
    scheduler: Scheduler,
    twin: Twin,
    sets: BTreeMap<&'static str, NodeSet>,
    zones: Division,
    /// Of those that are `ssd`.
    pool: Division,
    nodes: u64,
    held: Vec<(NodeId, Resources)>,
}

impl World {
    fn new(seed: u64, nodes: u64) -> Self {
        let mut scheduler = Scheduler::new(seed);
        let (zones, pool) = (scheduler.division_add(), scheduler.division_add());
        let mut world = Self {
            random: Random(mixed(seed)),
            scheduler,
            twin: Twin::default(),
            sets: TAGS.iter().map(|tag| (*tag, NodeSet::default())).collect(),
            zones,
            pool,
            nodes,
            held: Vec::new(),
        };
        for number in 0..nodes {
            world.put(id(number));
        }
        world
    }

    /// A node that is new or has changed.
    fn put(&mut self, id: NodeId) {
        let random = &mut self.random;
        let refusals = [
            Some("it is down"),
            Some("it is no worker"),
            Some("it is being drained"),
        ];
        let facts = NodeFacts {
            refusal: match random.one_in(8) {
                true => refusals[random.below(3) as usize],
                false => None,
            },
            allocatable: of(random.up_to_bits(16), random.below(64) << 26),
            allocated: of(random.below(1_000), random.below(4) << 28),
            containers: random.below(5) as u32,
        };
        let images = IMAGES.iter().filter(|_| !random.one_in(4));
        let images: BTreeSet<String> = images.map(|image| (*image).to_owned()).collect();
        let zone = (!random.one_in(6)).then(|| random.below(ZONES) as u32);
        let tags: BTreeSet<_> = TAGS.into_iter().filter(|_| random.one_in(2)).collect();
        let digests = images.iter().map(String::as_str);
        self.scheduler.node_put_facts(id, facts, digests);
        let number = self.scheduler.number(id).expect("it was put");
        for (tag, set) in &mut self.sets {
            set.set(number, tags.contains(tag));
        }
        self.scheduler.division_set(self.zones, id, zone);
        let pooled = tags.contains("ssd").then_some(0);
        self.scheduler.division_set(self.pool, id, pooled);
        let node = self.twin.nodes.entry(id).or_default();
        (node.facts, node.images) = (facts, images);
        (node.zone, node.tags) = (zone, tags);
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(number) = self.scheduler.number(id) {
            for set in self.sets.values_mut() {
                set.set(number, false);
            }
        }
        self.scheduler.node_remove(id);
        self.twin.nodes.remove(&id);
        self.held.retain(|(held, _)| *held != id);
    }

    fn release(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len() as u64) as usize;
        let (id, resources) = self.held.swap_remove(at);
        self.scheduler.release(id, resources);
        self.twin
            .nodes
            .get_mut(&id)
            .expect("held")
            .release(resources);
    }

    fn ask(&mut self) -> (TwinAsk, Strategy, u32) {
        let random = &mut self.random;
        let tags = |random: &mut Random| -> Vec<&'static str> {
            TAGS.into_iter().filter(|_| random.one_in(5)).collect()
        };
        let resources = match random.below(4) {
            0 => of(0, 0),
            1 => of(random.below(2_000), 0),
            2 => of(0, random.below(1 << 31)),
            _ => of(random.up_to_bits(13), random.up_to_bits(33)),
        };
        let spread = (0..random.below(self.nodes))
            .map(|number| (id(number * 2), (mixed(number) % 9) as u32 / 2));
        let within = tags(random);
        let ask = TwinAsk {
            resources,
            image: IMAGES[random.below(3) as usize].to_owned(),
            possible: within.first().filter(|_| random.one_in(2)).copied(),
            within,
            without: tags(random),
            max_per_node: random.one_in(4).then(|| random.below(4) as u32),
            max_skew: random.one_in(4).then(|| 1 + random.below(2) as u32),
            spread: spread.collect(),
        };
        let strategies = [Strategy::Spread, Strategy::Pack, Strategy::Consolidate];
        let strategy = strategies[random.below(3) as usize];
        let count = match random.below(4) {
            0 => random.below(60) as u32,
            _ => 1,
        };
        (ask, strategy, count)
    }

    /// With the ask as the scheduler takes it.
    fn asked<T>(
        &mut self,
        twin: &TwinAsk,
        (strategy, count): (Strategy, u32),
        act: impl FnOnce(&mut Scheduler, &Ask) -> T,
    ) -> T {
        let set = |tag: &&'static str| &self.sets[tag];
        let within: Vec<_> = twin.within.iter().map(set).collect();
        let without: Vec<_> = twin.without.iter().map(set).collect();
        let affinities = [
            Affinity {
                to: &self.sets["eu"],
                weight: 50,
            },
            Affinity {
                to: &self.sets["ssd"],
                weight: -20,
            },
        ];
        let pooled = twin.within.contains(&"ssd") && twin.max_skew.is_none();
        let rules = Rules {
            strategy,
            within: &within,
            without: &without,
            why: None,
            max_per_node: twin.max_per_node,
            pool: pooled.then_some(self.pool),
            balance: twin.max_skew.map(|skew| Balance {
                over: self.zones,
                weights: &[],
                max_skew: Some(skew),
                possible: twin.possible.as_ref().map(set),
            }),
            affinities: &affinities[..count as usize % 3],
            devices: &[],
        };
        let ask = Ask {
            service: ServiceId([7; 16]),
            resources: twin.resources,
            count,
            image: "web",
            image_digest: &twin.image,
            spread: &twin.spread,
            rules,
        };
        act(&mut self.scheduler, &ask)
    }

    fn place(&mut self) -> Placed {
        let (twin_ask, strategy, count) = self.ask();
        let how = (strategy, count);
        let planned = self.random.one_in(8).then(|| {
            self.asked(&twin_ask, how, |scheduler, ask| {
                let before = scheduler.index.picture();
                let planned = scheduler.plan(|scheduler| scheduler.place(ask));
                assert_eq!(
                    scheduler.index.picture(),
                    before,
                    "a plan changed something"
                );
                planned
            })
        });
        let placed = self.asked(&twin_ask, how, Scheduler::place);
        assert!(
            planned.is_none_or(|planned| planned == placed),
            "a plan is what happens"
        );
        let total: u32 = placed.binds.iter().map(|(_, count)| count).sum();
        assert_eq!(total + placed.refused, count);
        let have = self.twin.follow(&twin_ask, &placed);
        if placed.refused > 0 {
            self.twin.assert_refused(&twin_ask, &have);
        }
        self.twin.assert_skew(&twin_ask, &placed, &have);
        if strategy == Strategy::Spread {
            self.twin.assert_level(&twin_ask, &placed, &have);
        }
        for (id, count) in &placed.binds {
            self.held
                .extend((0..*count).map(|_| (*id, twin_ask.resources)));
        }
        placed
    }

    /// What is asked about one node agrees with the twin, and so does what is said of all.
    fn ask_about(&mut self) {
        let (twin_ask, strategy, _) = self.ask();
        let twin_ask = TwinAsk {
            max_skew: None,
            ..twin_ask
        };
        let twin = self.twin.clone();
        let takes = |id: NodeId| twin.takes(id, &twin_ask, &twin_ask.spread);
        let nodes = self.nodes;
        let probed = id(self.random.below(nodes));
        self.asked(&twin_ask, (strategy, 1), |scheduler, ask| {
            let mut taking = 0;
            for id in twin.nodes.keys() {
                let why = scheduler.explain_node(*id, ask);
                assert_eq!(why.is_none(), takes(*id), "{id}: {why:?}");
                taking += u32::from(takes(*id));
                assert_eq!(scheduler.would_fit(ask, *id, of(0, 0)), takes(*id));
            }
            assert_eq!(scheduler.fits_somewhere(ask), taking > 0);
            let reasons = scheduler.explain(ask).reasons;
            let against: u32 = reasons.iter().map(|reason| reason.nodes).sum();
            let workers = twin.nodes.values();
            let workers = workers.filter(|n| n.facts.refusal != Some("it is no worker"));
            assert_eq!(against + taking, workers.count() as u32);
            let before = scheduler.index.picture();
            scheduler.plan(|scheduler| {
                assert_eq!(scheduler.place_on(probed, ask).is_ok(), takes(probed));
            });
            assert_eq!(scheduler.index.picture(), before);
        });
    }

    /// A division goes, nodes come meanwhile, and it is made anew.
    fn divide_anew(&mut self) {
        self.scheduler.division_remove(self.pool);
        for _ in 0..self.random.below(3) {
            let node = id(self.random.below(2 * self.nodes));
            self.put(node);
        }
        self.pool = self.scheduler.division_add();
        for (id, node) in &self.twin.nodes {
            let pooled = node.tags.contains("ssd").then_some(0);
            self.scheduler.division_set(self.pool, *id, pooled);
        }
    }

    fn turn(&mut self) -> Option<Placed> {
        let nodes = self.nodes;
        let node = id(self.random.below(nodes));
        match self.random.below(13) {
            0 => self.put(node),
            1 => self.remove(node),
            12 => self.divide_anew(),
            2..5 => self.release(),
            5 => self.ask_about(),
            _ => return Some(self.place()),
        }
        None
    }

    /// The index that grew with each change is the one that is made of nodes as they are now.
    fn assert_rebuilt(&self) {
        self.scheduler.index.assert_whole();
        for (id, node) in &self.twin.nodes {
            let number = self.scheduler.number(*id).expect("known");
            assert_eq!(self.scheduler.index.free(number), node.free());
            let count = node.facts.containers + node.held_containers;
            assert_eq!(self.scheduler.index.count(number), count);
        }
    }
}

fn id(number: u64) -> NodeId {
    NodeId(u128::from(mixed(number)).to_be_bytes())
}

fn of(cpu_milli: u64, memory_bytes: u64) -> Resources {
    Resources {
        cpu_milli,
        memory_bytes,
        ..Resources::default()
    }
}

#[test]
fn nothing_is_overcommitted_and_rules_are_kept() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut world = World::new(seed, 2 + seed % 40);
        for _ in 0..60 {
            world.turn();
        }
        world.assert_rebuilt();
    }
}

#[test]
fn a_few_hundred_nodes_are_as_a_few() {
    for seed in 0..2 {
        println!("seed {seed}");
        let mut world = World::new(1_000 + seed, 300);
        for _ in 0..60 {
            world.turn();
        }
        world.assert_rebuilt();
    }
}

#[test]
fn the_same_seed_gives_the_same_answers() {
    for seed in 0..6 {
        let answers = || {
            let mut world = World::new(seed, 40);
            (0..80).filter_map(|_| world.turn()).collect::<Vec<_>>()
        };
        assert_eq!(answers(), answers(), "seed {seed}");
    }
}
