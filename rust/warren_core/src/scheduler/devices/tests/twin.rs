//! A fleet without anything clever: every node judged anew for every ask, by the definitions.

use super::*;
use crate::scheduler::devices::rank::Rank;
use crate::scheduler::devices::room::View;
use crate::scheduler::devices::{DeviceShare, draw};

#[derive(Clone)]
struct Host {
    node: DeviceNode,
    cpu_used: u64,
    memory_used: u64,
    used_milli: Vec<u16>,
}

impl Host {
    fn cpu(&self) -> u64 {
        self.node.cpu_milli.saturating_sub(self.cpu_used)
    }

    fn memory(&self) -> u64 {
        self.node.memory_bytes.saturating_sub(self.memory_used)
    }

    /// What is left on the devices that an ask admits and that have as much as it wants of one.
    fn open(&self, ask: &DeviceAsk) -> Vec<(u16, usize)> {
        let milli = match ask.want {
            Want::Share(milli) => milli,
            _ => DEVICE_MILLI,
        };
        let numbered = self.node.devices.iter().enumerate();
        let admitted = numbered.filter(|(_, (kind, model))| {
            *kind == ask.kind && (ask.models.is_empty() || ask.models.contains(model))
        });
        let left = admitted.map(|(n, _)| (DEVICE_MILLI - self.used_milli[n], n));
        left.filter(|(free, _)| *free >= milli).collect()
    }

    fn fits(&self, ask: &DeviceAsk) -> bool {
        let devices = match ask.want {
            Want::Nothing => true,
            Want::Share(_) => !self.open(ask).is_empty(),
            Want::Whole(count) => self.open(ask).len() >= usize::from(count),
        };
        devices && self.cpu() >= ask.cpu_milli && self.memory() >= ask.memory_bytes
    }

    fn take(&mut self, ask: &DeviceAsk, shares: &[DeviceShare]) {
        self.cpu_used += ask.cpu_milli;
        self.memory_used += ask.memory_bytes;
        for share in shares {
            self.used_milli[usize::from(share.device)] += share.milli;
        }
    }

    /// Each way to place it here.
    fn ways(&self, ask: &DeviceAsk) -> Vec<Vec<DeviceShare>> {
        let share = |device: usize, milli| DeviceShare {
            device: device as u16,
            milli,
        };
        let open = self.open(ask);
        match ask.want {
            Want::Nothing => vec![Vec::new()],
            Want::Share(milli) => open.iter().map(|(_, n)| vec![share(*n, milli)]).collect(),
            Want::Whole(count) => {
                let first = open.iter().take(usize::from(count));
                vec![first.map(|(_, n)| share(*n, DEVICE_MILLI)).collect()]
            }
        }
    }

    /// Usable by the next one and by a run of them, a percent of it each, in 1/1000.
    fn usable(&self, ask: &DeviceAsk, run_percent: u64) -> u64 {
        if ask.want == Want::Nothing || !self.fits(ask) {
            return 0;
        }
        let sum = |open: Vec<(u16, usize)>| open.iter().map(|(free, _)| u64::from(*free)).sum();
        let next: u64 = sum(self.open(ask));
        let mut full = self.clone();
        let mut touched = Vec::new();
        while full.fits(ask) {
            // One device is filled before the next, the one with the least left first.
            let mut ways = full.ways(ask);
            ways.sort_by_key(|shares| {
                let device = shares.first().map_or(0, |share| usize::from(share.device));
                (DEVICE_MILLI - self.used_milli[device], device)
            });
            full.take(ask, &ways[0]);
            touched.extend(ways[0].iter().map(|share| usize::from(share.device)));
        }
        touched.sort_unstable();
        touched.dedup();
        let still_open = full.open(&DeviceAsk {
            cpu_milli: 0,
            ..ask.clone()
        });
        let run: u64 = touched
            .iter()
            .map(|n| {
                let open = still_open.iter().any(|(_, device)| device == n);
                let end = if open {
                    full.used_milli[*n]
                } else {
                    DEVICE_MILLI
                };
                u64::from(end - self.used_milli[*n])
            })
            .sum();
        next * (100 - run_percent) + run * run_percent
    }
}

/// See the module.
struct Twin {
    tuning: Tuning,
    seed: u64,
    hosts: BTreeMap<NodeId, Host>,
    counts: BTreeMap<DeviceAsk, u64>,
    weights: Vec<(DeviceAsk, u64)>,
}

impl Twin {
    fn weigh(&mut self) {
        let run_percent = u64::from(self.tuning.run_percent);
        let counted = self
            .counts
            .iter()
            .filter(|(ask, _)| ask.want != Want::Nothing);
        let rates: Vec<_> = counted
            .map(|(ask, count)| {
                let usable = self
                    .hosts
                    .values()
                    .map(|host| host.usable(ask, run_percent));
                let milli = usable.sum::<u64>() / 100 + 1;
                let scarcity = match self.tuning.scarcity {
                    Scarcity::Ignored => 1 << 20,
                    Scarcity::Root => (1 << 40) / milli.isqrt(),
                    Scarcity::Full => (1 << 40) / milli,
                };
                (ask.clone(), (count * scarcity).max(1))
            })
            .collect();
        let sum: u64 = rates.iter().map(|(_, rate)| rate).sum();
        let part = |rate: u64| (u128::from(rate) * (1 << 20) / u128::from(sum)) as u64;
        let parts = rates.into_iter().map(|(ask, rate)| (ask, part(rate)));
        self.weights = parts.collect();
    }

    fn worth(&self, host: &Host) -> i64 {
        let run_percent = u64::from(self.tuning.run_percent);
        let weighed = self.weights.iter();
        let sum: u64 = weighed
            .map(|(ask, w)| w * host.usable(ask, run_percent))
            .sum();
        sum as i64
    }

    /// `odd`: only nodes with an odd number.
    fn best(&self, ask: &DeviceAsk, odd: bool) -> Option<(NodeId, Vec<DeviceShare>)> {
        let step = (1 << 20) * 100 * i64::from(self.tuning.step_milli);
        let mut all = Vec::new();
        let hosts = self.hosts.iter().filter(|(id, _)| !odd || is_odd(**id));
        for (id, host) in hosts.filter(|(_, host)| host.fits(ask)) {
            for shares in host.ways(ask) {
                let mut after = host.clone();
                after.take(ask, &shares);
                let loss = (self.worth(host) - self.worth(&after)).div_euclid(step);
                all.push((loss, draw(self.seed, *id), *id, shares));
            }
        }
        let best = all.into_iter().min();
        best.map(|(_, _, id, shares)| (id, shares))
    }
}

fn is_odd(id: NodeId) -> bool {
    id.0[15] % 2 == 1
}

/// What is kept for each shape is what would be computed now.
fn check_ranks(fleet: &mut DeviceFleet, asks: &[DeviceAsk]) {
    for ask in asks {
        let ask = ask.canonical().expect("an ask in range");
        let number = fleet.mix.number(&ask, &fleet.classes);
        fleet.refresh(number);
        let need = fleet.mix.shape(number).need;
        let mut anew = Rank::default();
        let scored: Vec<_> = (0..fleet.places.len())
            .map(|at| {
                fleet.places[at].epoch = u64::MAX;
                (fleet.score(at, &need, &[]), fleet.places[at].draw)
            })
            .collect();
        anew.rebuild(scored.into_iter());
        assert_eq!(
            fleet.mix.shape(number).rank.order(),
            anew.order(),
            "{ask:?}"
        );
    }
    let free = fleet
        .places
        .iter()
        .map(|place| place.room.devices_free_milli());
    assert_eq!(fleet.free_milli, free.sum::<u64>());
}

fn compare(seed: u64, tuning: Tuning, steps: u32) -> usize {
    let mut random = Random(seed);
    let mut fleet = DeviceFleet::new(seed, tuning);
    let mut twin = Twin {
        tuning,
        seed,
        hosts: BTreeMap::new(),
        counts: BTreeMap::new(),
        weights: Vec::new(),
    };
    let asks = random_asks(&mut random, 12);
    let mut grants: Vec<DeviceGrant> = Vec::new();
    let (mut nodes, mut placed) = (0, 0);
    for step in 0..steps {
        match if step < 6 { 0 } else { random.below(24) } {
            0 => {
                nodes += 1;
                let put = random_node(&mut random);
                fleet
                    .node_put(node_id(nodes), &put)
                    .expect("a node in range");
                let host = Host {
                    used_milli: vec![0; put.devices.len()],
                    node: put,
                    cpu_used: 0,
                    memory_used: 0,
                };
                twin.hosts.insert(node_id(nodes), host);
            }
            1 if step > 40 => {
                let id = node_id(1 + random.below(nodes));
                fleet.node_remove(id);
                twin.hosts.remove(&id);
                grants.retain(|grant| grant.node != id);
            }
            2..8 if !grants.is_empty() => {
                let grant = grants.swap_remove(random.below(grants.len() as u64) as usize);
                assert!(fleet.release(&grant));
                let host = twin.hosts.get_mut(&grant.node).expect("it is there");
                host.cpu_used -= grant.cpu_milli;
                host.memory_used -= grant.memory_bytes;
                for share in &grant.devices {
                    host.used_milli[usize::from(share.device)] -= share.milli;
                }
            }
            _ => {
                let ask = &asks[random.below(asks.len() as u64) as usize];
                let epoch = fleet.epoch;
                let canonical = ask.canonical().expect("an ask in range");
                *twin.counts.entry(canonical.clone()).or_default() += 1;
                fleet.arrived(ask).expect("an ask in range");
                let odd = random.below(4) == 0;
                let grant = match odd {
                    true => {
                        let ids: Vec<_> = fleet.places.iter().map(|it| it.id).collect();
                        let allowed = |at: usize| ids[at].is_some_and(is_odd);
                        let found = fleet.find(ask, allowed).expect("an ask in range");
                        found.inspect(|grant| assert!(fleet.hold(grant)))
                    }
                    false => fleet.place(ask).expect("an ask in range"),
                };
                if fleet.epoch != epoch {
                    twin.weigh();
                }
                let wanted = twin.best(&canonical, odd);
                let found = grant.as_ref().map(|g| (g.node, g.devices.clone()));
                assert_eq!(found, wanted, "seed {seed}, step {step}: {ask:?}");
                if let Some(grant) = grant {
                    let host = twin.hosts.get_mut(&grant.node).expect("it is there");
                    host.take(&canonical, &grant.devices);
                    grants.push(grant);
                    placed += 1;
                }
            }
        }
        if step % 50 == 49 {
            check_ranks(&mut fleet, &asks);
        }
    }
    placed
}

#[test]
fn a_fleet_decides_as_its_naive_twin() {
    let mut placed = 0;
    for seed in 0..30 {
        placed += compare(seed, Tuning::default(), 250);
    }
    assert!(
        placed > 1500,
        "only {placed} were placed: the runs say little"
    );
}

#[test]
fn so_it_does_with_other_constants() {
    for (seed, scarcity) in [Scarcity::Ignored, Scarcity::Root, Scarcity::Full]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        let tuning = Tuning {
            step_milli: 1 + seed as u32 * 7,
            run_percent: (seed as u32 * 37) % 101,
            scarcity,
            relearn_percent: 105,
            reweigh_percent: 101 + seed as u64 * 11,
        };
        compare(1000 + seed as u64, tuning, 200);
    }
}

#[test]
fn a_view_after_a_need_is_the_view_of_the_room_that_took_it() {
    let mut random = Random(7);
    let mut seen = 0;
    for seed in 0..300 {
        let mut fleet = DeviceFleet::new(seed, Tuning::default());
        let id = node_id(1);
        fleet
            .node_put(id, &random_node(&mut random))
            .expect("a node in range");
        let asks = random_asks(&mut random, 4);
        for ask in &asks {
            let ask = ask.canonical().expect("an ask in range");
            let number = fleet.mix.number(&ask, &fleet.classes);
            let need = fleet.mix.shape(number).need;
            let before = fleet.places[0].room.clone();
            let Some(grant) = fleet.place(&ask).expect("an ask in range") else {
                continue;
            };
            let choice = grant.devices.first().map_or(0, |share| share.device);
            let after = View::after(&before, &need, usize::from(choice), &[]);
            assert_eq!(after, View::of(&fleet.places[0].room));
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
}
