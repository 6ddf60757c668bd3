//! Asks with devices, on random clusters: every decision keeps every rule by a model that knows nothing
//! but amounts, none is refused while the model knows a place, and the ledger is at any time as if made
//! of the nodes as they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::Resources;
use crate::ids::{NodeId, ServiceId};
use crate::pb;
use crate::scheduler::devices::shape;
use crate::scheduler::search::mixed;
use crate::scheduler::{Affinity, Ask, NodeFacts, NodeSet, Rules, Scheduler, Strategy};

const KINDS: [&str; 3] = ["gpu", "fpga", "kvm"];
const MODELS: [&str; 3] = ["", "A", "B"];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 += 1;
        mixed(self.0) % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[derive(Clone, Default)]
struct Host {
    facts: NodeFacts,
    devices: Vec<pb::Device>,
    /// By kind and number, in 1/1000: of containers, and of binds on their way.
    claimed: BTreeMap<(String, u32), u32>,
    held: BTreeMap<(String, u32), u32>,
    held_room: Resources,
}

impl Host {
    fn free(&self) -> Resources {
        let free = self.facts.allocatable.saturating_sub(self.facts.allocated);
        free.saturating_sub(self.held_room)
    }

    /// Models of the devices of a kind, by number.
    fn models(&self, kind: &str) -> Vec<&str> {
        let rows = self.devices.iter().filter(|row| row.kind == kind);
        rows.flat_map(|row| std::iter::repeat_n(row.model.as_str(), row.count as usize))
            .collect()
    }

    fn free_milli(&self, kind: &str, number: u32) -> u32 {
        let key = (kind.to_owned(), number);
        let of = |map: &BTreeMap<_, u32>| map.get(&key).copied().unwrap_or_default();
        1000_u32.saturating_sub(of(&self.claimed) + of(&self.held))
    }

    fn fits(&self, ask: &pb::DeviceAsk) -> bool {
        let each = ask.milli.min(1000);
        let models = self.models(&ask.kind);
        let suits = |number: &usize| {
            let model = models[*number].to_owned();
            (ask.models.is_empty() || ask.models.contains(&model))
                && self.free_milli(&ask.kind, *number as u32) >= each
        };
        (0..models.len()).filter(suits).count() as u32 >= ask.milli / each
    }
}

struct World {
    random: Random,
    scheduler: Scheduler,
    hosts: BTreeMap<NodeId, Host>,
    /// Binds on their way.
    binds: Vec<(NodeId, Resources, Vec<pb::DeviceShare>)>,
    services: BTreeMap<ServiceId, (Resources, Vec<pb::DeviceAsk>, u64)>,
}

fn node(number: u64) -> NodeId {
    NodeId(u128::from(number + 1).to_be_bytes())
}

fn room(cpu_milli: u64, memory_bytes: u64, disk_bytes: u64) -> Resources {
    Resources {
        cpu_milli,
        memory_bytes,
        disk_bytes,
        ..Resources::default()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(mixed(seed)),
            scheduler: Scheduler::new(seed),
            hosts: BTreeMap::new(),
            binds: Vec::new(),
            services: BTreeMap::new(),
        };
        (0..12).for_each(|number| world.put(node(number)));
        world
    }

    fn put(&mut self, id: NodeId) {
        let random = &mut self.random;
        let host = self.hosts.entry(id).or_default();
        host.facts.refusal = random.of(&[None, None, None, None, Some("it is down")]);
        host.facts.allocatable = room(random.below(16) * 1000, random.below(64), 8);
        host.devices.clear();
        for kind in KINDS.into_iter().take(random.below(4) as usize) {
            for _ in 0..1 + random.below(2) {
                host.devices.push(pb::Device {
                    kind: kind.to_owned(),
                    model: random.of(&MODELS).to_owned(),
                    // Now and then more than the fleet takes.
                    count: random.of(&[1, 2, 3, 4, 4, 40]),
                });
            }
        }
        let there =
            |host: &Host, kind: &str, number: u32| (number as usize) < host.models(kind).len();
        let gone = host.clone();
        for map in [&mut host.claimed, &mut host.held] {
            map.retain(|(kind, number), _| there(&gone, kind, *number));
        }
        // What was held of a device went with it.
        for (_, _, shares) in self.binds.iter_mut().filter(|bind| bind.0 == id) {
            shares.retain(|share| there(&gone, &share.kind, share.number));
        }
        tell(&mut self.scheduler, id, host);
    }

    fn remove(&mut self, id: NodeId) {
        self.scheduler.node_remove(id);
        self.hosts.remove(&id);
        self.binds.retain(|(node, ..)| *node != id);
    }

    fn asks(&mut self) -> Vec<pb::DeviceAsk> {
        let random = &mut self.random;
        let mut kinds: Vec<_> = KINDS.into_iter().filter(|_| random.below(2) == 0).collect();
        if kinds.is_empty() {
            kinds.push("gpu");
        }
        let ask = |kind: &str| pb::DeviceAsk {
            kind: kind.to_owned(),
            milli: random.of(&[1000, 1000, 2000, 4000, 35_000, 250, 333, 600]),
            models: match random.below(4) {
                0 => vec!["A".to_owned()],
                1 => vec!["A".to_owned(), "B".to_owned()],
                _ => Vec::new(),
            },
        };
        kinds.into_iter().map(ask).collect()
    }

    fn service(&mut self) {
        let id = ServiceId(u128::from(self.random.below(6)).to_be_bytes());
        if self.random.below(4) == 0 {
            self.services.remove(&id);
            return self.scheduler.devices.demand(id, None);
        }
        let need = room(self.random.below(3) * 500, self.random.below(4), 1);
        let (asks, count) = (self.asks(), self.random.below(20));
        let wanted = Some((shape(need, &asks), count));
        self.scheduler.devices.demand(id, wanted);
        self.services.insert(id, (need, asks, count));
    }

    fn place(&mut self) -> u32 {
        let need = room(self.random.below(3) * 500, self.random.below(4), 1);
        let asks = self.asks();
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        let random = &mut self.random;
        let mut some = |scheduler: &Scheduler, in_ten| -> NodeSet {
            let drawn = ids.iter().filter(|_| random.below(10) < in_ten);
            drawn.filter_map(|id| scheduler.number(*id)).collect()
        };
        let (within, without) = (some(&self.scheduler, 8), some(&self.scheduler, 2));
        let liked = some(&self.scheduler, 5);
        let affinities = [Affinity {
            to: &liked,
            weight: 50,
        }];
        let spread: BTreeMap<_, _> = ids.iter().take(3).map(|id| (*id, 1)).collect();
        let most = self.random.of(&[None, Some(2)]);
        let strategy = self.random.of(&[Strategy::Spread, Strategy::Pack]);
        let prefers = self.random.below(2) == 0;
        let ask = Ask {
            service: ServiceId::default(),
            resources: need,
            count: 1 + self.random.below(4) as u32,
            image: "web",
            image_digest: "sha256:a",
            spread: &spread,
            rules: Rules {
                strategy,
                within: &[&within],
                without: &[&without],
                max_per_node: most,
                affinities: if prefers { &affinities } else { &[] },
                devices: &asks,
                ..Rules::default()
            },
        };
        let before = picture(&mut self.scheduler);
        let planned = self.scheduler.plan(|scheduler| scheduler.place(&ask));
        assert!(
            picture(&mut self.scheduler) == before,
            "plans leave nothing"
        );
        let placed = self.scheduler.place(&ask);
        assert_eq!(placed, planned);
        let (mut have, mut count) = (spread.clone(), 0);
        for (id, shares) in &placed.devices {
            count += shares.len() as u32;
            let times = placed.binds.iter().find(|(node, _)| node == id);
            assert_eq!(times.map(|it| it.1), Some(shares.len() as u32));
            for shares in shares {
                self.bind(*id, &ask, shares);
                *have.entry(*id).or_insert(0) += 1;
            }
        }
        assert_eq!(count + placed.refused, ask.count);
        let may_go = |(id, host): (&NodeId, &Host)| {
            let number = self.scheduler.number(*id).expect("it was put");
            let below = have.get(id).copied().unwrap_or_default() < most.unwrap_or(u32::MAX);
            let rules = within.contains(number) && !without.contains(number) && below;
            let fits = asks.iter().all(|ask| host.fits(ask));
            rules && fits && host.facts.refusal.is_none() && need.fits(host.free())
        };
        if placed.refused > 0 {
            assert!(!self.hosts.iter().any(may_go), "{asks:?}");
        }
        for (id, count) in &have {
            let before = spread.get(id).copied().unwrap_or_default();
            let number = self.scheduler.number(*id).expect("it was put");
            if *count > before {
                assert!(within.contains(number) && !without.contains(number));
                assert!(*count <= most.unwrap_or(u32::MAX));
            }
        }
        count
    }

    /// Takes a decision over as a bind on its way, if it is within the rules.
    fn bind(&mut self, id: NodeId, ask: &Ask, shares: &[pb::DeviceShare]) {
        let host = self.hosts.get_mut(&id).expect("it was put");
        assert!(host.facts.refusal.is_none() && ask.resources.fits(host.free()));
        for ask in ask.rules.devices {
            let of_kind: Vec<_> = shares.iter().filter(|it| it.kind == ask.kind).collect();
            let each = ask.milli.min(1000);
            assert_eq!(of_kind.len() as u32, ask.milli / each);
            let numbers: BTreeSet<_> = of_kind.iter().map(|it| it.number).collect();
            assert_eq!(numbers.len(), of_kind.len());
            for share in of_kind {
                let model = host.models(&ask.kind)[share.number as usize].to_owned();
                assert!(ask.models.is_empty() || ask.models.contains(&model));
                assert!(share.milli == each && host.free_milli(&ask.kind, share.number) >= each);
            }
        }
        assert!(shares.iter().all(|share| {
            let asked = |ask: &pb::DeviceAsk| ask.kind == share.kind;
            ask.rules.devices.iter().any(asked)
        }));
        for share in shares {
            *host
                .held
                .entry((share.kind.clone(), share.number))
                .or_default() += share.milli;
        }
        host.held_room = host.held_room.saturating_add(ask.resources);
        self.binds.push((id, ask.resources, shares.to_vec()));
    }

    /// A bind comes to nothing, or becomes a container; or a container ends.
    fn settle(&mut self) {
        if self.binds.is_empty() {
            return;
        }
        let at = self.random.below(self.binds.len() as u64) as usize;
        let (id, resources, shares) = self.binds.swap_remove(at);
        let applied = self.random.below(2) == 0;
        let host = self.hosts.get_mut(&id).expect("its binds went with it");
        host.held_room = host.held_room.saturating_sub(resources);
        for share in &shares {
            let key = (share.kind.clone(), share.number);
            if let Some(held) = host.held.get_mut(&key) {
                *held = held.saturating_sub(share.milli);
            }
            let there = (share.number as usize) < host.models(&share.kind).len();
            if applied && there {
                let claimed = host.claimed.entry(key).or_default();
                *claimed = (*claimed + share.milli).min(1000);
            }
        }
        if applied {
            host.facts.allocated = host.facts.allocated.saturating_add(resources);
            host.facts.containers += 1;
            tell(&mut self.scheduler, id, host);
        }
        self.scheduler.release(id, resources);
        self.scheduler.release_devices(id, &shares);
    }

    fn end_all_on(&mut self, id: NodeId) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.claimed.clear();
            (host.facts.allocated, host.facts.containers) = (Resources::default(), 0);
            tell(&mut self.scheduler, id, host);
        }
    }

    /// As a new leader has it.
    fn rebuilt(&self, seed: u64) -> Scheduler {
        let mut scheduler = Scheduler::new(seed);
        for (id, host) in self.hosts.iter().rev() {
            tell(&mut scheduler, *id, host);
        }
        for (id, (need, asks, count)) in &self.services {
            let wanted = Some((shape(*need, asks), *count));
            scheduler.devices.demand(*id, wanted);
        }
        for (id, resources, shares) in &self.binds {
            scheduler.hold(*id, *resources);
            scheduler.hold_devices(*id, shares);
        }
        scheduler
    }
}

fn picture(scheduler: &mut Scheduler) -> String {
    scheduler.devices.sync(&mut scheduler.index);
    scheduler.devices.picture()
}

fn tell(scheduler: &mut Scheduler, id: NodeId, host: &Host) {
    scheduler.node_put_facts(id, host.facts, std::iter::once("sha256:a"));
    let claims = host.claimed.iter();
    let claims = claims.map(|((kind, number), milli)| (kind.as_str(), *number, *milli));
    scheduler.node_put_devices(id, &host.devices, claims);
}

#[test]
fn decisions_keep_every_rule_and_the_ledger_is_as_if_rebuilt() {
    let mut placed = 0;
    for seed in 0..40 {
        let mut world = World::new(seed);
        for step in 0..150 {
            let id = node(world.random.below(12));
            match world.random.below(16) {
                0 => world.put(id),
                1 if world.random.below(3) == 0 => world.remove(id),
                2 => world.end_all_on(id),
                3..6 => world.service(),
                6..10 => world.settle(),
                _ => placed += world.place(),
            }
            if step % 10 == 9 {
                let same = picture(&mut world.scheduler) == picture(&mut world.rebuilt(seed));
                assert!(same, "another ledger: seed {seed}, step {step}");
            }
        }
    }
    assert!(
        placed > 1000,
        "only {placed} were placed: the runs say little"
    );
}
