//! A cluster that lives: containers come and go, nodes are lost, and what fits nowhere waits. With
//! the state's records, in one thread, without a disk.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use warren_core::fsm::{DesiredState, NodeStatus, Resources};
use warren_core::ids::{ContainerId, NodeId, ServiceId};
use warren_core::pb::{self, command::Body};

use crate::cluster::{Cluster, Shape, create, created, node_id, spread};
use crate::direct::Direct;
use crate::filled::mixed;
use crate::times::{Field, Fields, Times};

const ZONES: u32 = 10;
/// Containers of each service that fills the cluster.
const REPLICAS: u32 = 20;
/// What is settled before the next part of a filling follows.
const SERVICES_AT_ONCE: usize = 64;
/// CPU in milli, and how many in a hundred ask for it; the mix of the density bench.
const CPU: [(u64, u64); 7] = [
    (100, 22),
    (250, 22),
    (500, 20),
    (1_000, 16),
    (2_000, 11),
    (4_000, 6),
    (8_000, 3),
];
/// MiB for a thousandth of a CPU, and how many in a hundred ask for that ratio.
const MEMORY: [(u64, u64); 5] = [(1, 20), (2, 25), (4, 30), (8, 15), (12, 10)];

struct Live {
    direct: Direct,
    /// What is there, the oldest first.
    services: VecDeque<(ServiceId, Resources, u32)>,
    used: (u64, u64),
    total: (u64, u64),
    draws: u64,
    /// Services ask to be even over the zones.
    spreads: bool,
}

impl Live {
    fn new(nodes: u32) -> Self {
        let mut cluster = Cluster::empty();
        for number in 0..nodes {
            cluster.put_node(number, Shape::capacity(), ZONES);
        }
        let capacity = Shape::capacity();
        let mut direct = Direct::new(cluster);
        direct.settle();
        Self {
            direct,
            services: VecDeque::new(),
            used: (0, 0),
            total: (
                capacity.cpu_milli * u64::from(nodes),
                capacity.memory_bytes * u64::from(nodes),
            ),
            draws: 0,
            spreads: false,
        }
    }

    fn draw(&mut self) -> Resources {
        let mut weighted = |choices: &[(u64, u64)]| {
            self.draws += 1;
            let mut at = mixed(self.draws) % 100;
            let found = choices.iter().find(|(_, weight)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            found.map_or(choices[0].0, |(value, _)| *value)
        };
        let cpu_milli = weighted(&CPU);
        let memory_bytes = cpu_milli * weighted(&MEMORY) * (1 << 20);
        Resources {
            cpu_milli,
            memory_bytes,
            ..Resources::default()
        }
    }

    /// Whether this much more leaves the scarcer resource at most so full.
    fn fits(&self, asked: Resources, replicas: u32, full_pct: u64) -> bool {
        let fits = |used: u64, more: u64, total: u64| {
            u128::from(used + more * u64::from(replicas)) * 100
                <= u128::from(total) * u128::from(full_pct)
        };
        fits(self.used.0, asked.cpu_milli, self.total.0)
            && fits(self.used.1, asked.memory_bytes, self.total.1)
    }

    fn ask(&mut self, asked: Resources, replicas: u32) -> ServiceId {
        self.draws += 1;
        let name = format!("s{}", self.draws);
        let placement = self.spreads.then(spread);
        let create = create(&name, replicas, asked, placement);
        let id = created(&self.direct.apply(create));
        self.count(asked, replicas, true);
        self.services.push_back((id, asked, replicas));
        id
    }

    fn count(&mut self, asked: Resources, replicas: u32, more: bool) {
        let by = |used: u64, each: u64| match more {
            true => used + each * u64::from(replicas),
            false => used - each * u64::from(replicas),
        };
        self.used = (
            by(self.used.0, asked.cpu_milli),
            by(self.used.1, asked.memory_bytes),
        );
    }

    fn fill(&mut self, full_pct: u64, replicas: u32) {
        loop {
            for _ in 0..SERVICES_AT_ONCE {
                let asked = self.draw();
                if !self.fits(asked, replicas, full_pct) {
                    self.direct.settle();
                    return;
                }
                self.ask(asked, replicas);
            }
            self.direct.settle();
        }
    }

    /// The oldest service goes, with all that its containers are: their workers say so at once.
    fn remove_oldest(&mut self) {
        let Some((id, asked, replicas)) = self.services.pop_front() else {
            return;
        };
        self.count(asked, replicas, false);
        let service_id = id.to_vec();
        self.direct
            .apply(Body::RemoveService(pb::RemoveService { service_id }));
        let leaves = |live: &Self| {
            let mut all = live.direct.cluster.state.containers_of_service(id);
            all.all(|container| container.desired == DesiredState::Remove)
        };
        while !leaves(self) && self.direct.turn() {}
        let state = &self.direct.cluster.state;
        let mut gone: BTreeMap<NodeId, Vec<ContainerId>> = BTreeMap::new();
        for container in state.containers_of_service(id) {
            assert_eq!(container.desired, DesiredState::Remove);
            gone.entry(container.node).or_default().push(container.id);
        }
        for (node, containers) in gone {
            let items = containers.iter().map(|id| pb::StatusItem {
                container_id: id.to_vec(),
                status: Some(pb::ContainerStatus {
                    attempt: 1,
                    state: pb::ContainerState::Shutdown.into(),
                    removed: true,
                    ..Default::default()
                }),
            });
            let (node_id, items) = (node.to_vec(), items.collect());
            self.direct
                .apply(Body::ReportStatus(pb::ReportStatus { node_id, items }));
        }
    }

    /// One container after the other comes, and the oldest go to make room: from asking for it
    /// until it is bound, and how many were not before there was nothing more to do. Nobody waits
    /// until the leader is done with what the removals made it look at again.
    fn arrivals(&mut self, count: u64, full_pct: u64) -> (Times, u64) {
        let (mut times, mut pending) = (Times::default(), 0);
        for _ in 0..count {
            let asked = self.draw();
            while !self.fits(asked, 1, full_pct) {
                self.remove_oldest();
            }
            let began = Instant::now();
            let id = self.ask(asked, 1);
            let state = |live: &Self| live.direct.cluster.state.container_count_of_service(id);
            while state(self) == 0 && self.direct.turn() {}
            match state(self) {
                0 => pending += 1,
                _ => times.add(began.elapsed().as_nanos() as u64),
            }
        }
        (times, pending)
    }
}

/// Containers come and go on a cluster that is kept so full.
pub fn churn(nodes: u32, full_pct: u64, arrivals: u64) -> Fields {
    let mut live = Live::new(nodes);
    live.fill(full_pct, REPLICAS);
    let containers = live.direct.placed();
    (live.direct.steps, live.direct.applies) = (Times::default(), Times::default());
    let (times, pending) = live.arrivals(arrivals, full_pct);
    let mut fields = vec![
        ("containers", Field::of(containers)),
        ("arrivals", Field::of(arrivals)),
        ("pending", Field::of(pending)),
        ("bound", times.field()),
    ];
    fields.extend(live.direct.fields());
    fields
}

/// So many of a hundred nodes are lost at once, of a cluster that is two thirds full.
pub fn loss(nodes: u32, lost_pct: u64) -> Fields {
    const FULL_PCT: u64 = 66;
    const SPREAD_REPLICAS: u32 = 100;
    /// Prime, so that those that are lost are all over the cluster, and each is another one.
    const STRIDE: u64 = 7_919;
    let mut live = Live::new(nodes);
    live.spreads = true;
    live.fill(FULL_PCT, SPREAD_REPLICAS);
    let wanted = live.direct.placed();
    let before = evenness(&live);
    let nodes = u64::from(nodes);
    let lost: Vec<_> = (0..nodes * lost_pct / 100)
        .map(|number| node_id((number * STRIDE % nodes) as u32))
        .collect();
    let state = &live.direct.cluster.state;
    let hit: usize = lost
        .iter()
        .map(|id| state.container_count_of_node(*id))
        .sum();
    (live.direct.steps, live.direct.applies) = (Times::default(), Times::default());
    let (began, mut bound) = (Instant::now(), Times::default());
    for id in &lost {
        live.direct.apply(Body::SetNodeStatus(pb::SetNodeStatus {
            node_id: id.to_vec(),
            status: NodeStatus::Down.into(),
        }));
    }
    let called_down_ns = began.elapsed().as_nanos() as u64;
    let mut known = live.direct.orchestrator.stats().scheduled;
    loop {
        let busy = live.direct.turn();
        let now = live.direct.orchestrator.stats().scheduled;
        bound.add_many(began.elapsed().as_nanos() as u64, now - known);
        known = now;
        if !busy {
            break;
        }
    }
    let running: u64 = running(&live);
    assert_eq!(running, wanted, "all are there again");
    let after = evenness(&live);
    let mut fields = vec![
        ("containers", Field::of(wanted)),
        ("lost_nodes", Field::of(lost.len() as u64)),
        ("lost_containers", Field::of(hit as u64)),
        ("called_down_seconds", Field::seconds(called_down_ns)),
        ("seconds", Field::seconds(bound.max_ns())),
        ("bound", bound.field()),
        ("node_most_before", Field::of(before.0)),
        ("node_most_after", Field::of(after.0)),
        ("zone_skew_before", Field::float(before.1)),
        ("zone_skew_after", Field::float(after.1)),
    ];
    fields.extend(live.direct.fields());
    fields
}

/// Containers that count, on nodes that are up.
fn running(live: &Live) -> u64 {
    let state = &live.direct.cluster.state;
    let up = state
        .nodes()
        .filter(|node| node.status == NodeStatus::Ready);
    up.map(|node| state.container_count_of_node(node.id) as u64)
        .sum()
}

/// Of a service the most on one node that is up; and in the mean how many more the zone with the
/// most has of it than the one with the fewest.
fn evenness(live: &Live) -> (u64, f64) {
    let state = &live.direct.cluster.state;
    let zone_of: BTreeMap<NodeId, u32> = state
        .nodes()
        .filter(|node| node.status == NodeStatus::Ready)
        .filter_map(|node| {
            let zone = node.description.labels.get("zone")?;
            Some((node.id, zone.trim_start_matches('z').parse().ok()?))
        })
        .collect();
    let (mut most, mut skews) = (0, 0);
    for (id, ..) in &live.services {
        let (mut on_node, mut in_zone) = (BTreeMap::new(), vec![0u64; ZONES as usize]);
        for container in state.containers_of_service(*id) {
            if let Some(zone) = zone_of.get(&container.node) {
                *on_node.entry(container.node).or_insert(0u64) += 1;
                in_zone[*zone as usize] += 1;
            }
        }
        most = most.max(on_node.values().copied().max().unwrap_or(0));
        let (low, high) = (in_zone.iter().min(), in_zone.iter().max());
        skews += high.unwrap_or(&0) - low.unwrap_or(&0);
    }
    (most, skews as f64 / live.services.len().max(1) as f64)
}

/// Containers come and go, first alone, then beside many that fit nowhere.
pub fn flood(nodes: u32, flood: u64, arrivals: u64) -> Fields {
    const FULL_PCT: u64 = 80;
    /// Half of them of one service, half of services of so many.
    const EACH: u32 = 100;
    let mut live = Live::new(nodes);
    live.fill(FULL_PCT, REPLICAS);
    let (alone, pending_alone) = live.arrivals(arrivals, FULL_PCT);
    let steps_alone = std::mem::take(&mut live.direct.steps);
    let nowhere = |number: u64| Resources {
        cpu_milli: Shape::capacity().cpu_milli + 1 + number,
        memory_bytes: 1 << 30,
        ..Resources::default()
    };
    let began = Instant::now();
    let many = (flood / 2) as u32;
    live.direct.apply(create("flood", many, nowhere(0), None));
    for number in 0..flood / 2 / u64::from(EACH) {
        let name = format!("flood-{number}");
        live.direct
            .apply(create(&name, EACH, nowhere(number % 10), None));
    }
    live.direct.settle();
    let settled_ns = began.elapsed().as_nanos() as u64;
    let steps_settling = std::mem::take(&mut live.direct.steps);
    let (beside, pending_beside) = live.arrivals(arrivals, FULL_PCT);
    vec![
        ("containers", Field::of(live.direct.placed())),
        ("flood", Field::of(flood)),
        ("settled_seconds", Field::seconds(settled_ns)),
        ("alone", alone.field()),
        ("beside", beside.field()),
        ("pending", Field::of(pending_alone + pending_beside)),
        ("step_alone", steps_alone.field()),
        ("step_settling", steps_settling.field()),
        ("step_beside", live.direct.steps.field()),
    ]
}
