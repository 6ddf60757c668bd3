//! What services ask of nodes, by the orchestrator and by a naive twin that knows only the state: on
//! random clusters every bind is one that the twin allows, and what is left pending is refused by the
//! twin on every node.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Replica, Rng, invariants, node_id, put_node, spec};
use warren_core::fsm::placement::Attribute;
use warren_core::fsm::{Container, ContainerState, Event, Node, Service, State};
use warren_core::ids::{NodeId, ServiceId};
use warren_core::orchestrator::{Budget, Orchestrator, Proposal};
use warren_core::pb::{self, command::Body};

const ZONES: [&str; 3] = ["eu", "us", "asia"];
const RACKS: [&str; 5] = ["r1", "r2", "r3", "r4", "r5"];
const EXPRESSIONS: [&str; 5] = [
    "node.labels.zone==eu",
    "node.labels.zone!=us",
    "node.labels.zone in (eu,asia)",
    "node.labels.rack exists",
    "node.arch==arm64",
];

fn zone() -> Attribute {
    Attribute::parse("node.labels.zone").expect("it is one")
}

/// What a container of the service would meet on a node.
struct Twin<'a> {
    state: &'a State,
    service: &'a Service,
    /// Of the service, by node.
    have: BTreeMap<NodeId, u32>,
}

impl<'a> Twin<'a> {
    fn new(state: &'a State, service: &'a Service) -> Self {
        let mut have = BTreeMap::new();
        for container in state.containers_of_service(service.id) {
            if container.occupies() && !container.is_terminal() {
                *have.entry(container.node).or_insert(0) += 1;
            }
        }
        Self {
            state,
            service,
            have,
        }
    }

    /// Whether nothing but counts and room is against the node.
    fn may_go(&self, node: &Node) -> bool {
        self.may_ever_go(node)
            && self.state.refusal(self.service, node).is_none()
            && !self.is_near_another(node)
    }

    /// Whether what the node is allows it, whatever runs there.
    fn may_ever_go(&self, node: &Node) -> bool {
        let image = &self.service.container_spec().image_digest;
        let images = &node.description.images;
        node.accepts_work()
            && images.iter().any(|it| it.digest == *image)
            && self.service.rules.refusal(node).is_none()
    }

    fn is_near_another(&self, node: &Node) -> bool {
        let rules = &self.service.rules;
        rules.anti_affinities.iter().any(|asked| {
            let Some(other) = self.state.service_by_name(&asked.service) else {
                return false;
            };
            let value = asked.attribute.value(node);
            let containers = self.state.containers_of_service(other.id);
            containers
                .filter(|container| !container.is_terminal())
                .filter_map(|container| self.state.node(container.node))
                .any(|there| value.is_some() && asked.attribute.value(there) == value)
        })
    }

    /// Of the service, on nodes with the same value.
    fn count_at(&self, attribute: &Attribute, value: &str) -> u32 {
        let here = |id: &NodeId| {
            let node = self.state.node(*id);
            node.is_some_and(|node| attribute.value(node).as_deref() == Some(value))
        };
        let here = self.have.iter().filter(|(id, _)| here(id));
        here.map(|(_, count)| count).sum()
    }

    /// The fewest of any value that it may ever go to.
    fn least(&self, attribute: &Attribute) -> u32 {
        let nodes = self.state.nodes().filter(|node| self.may_ever_go(node));
        let values: BTreeSet<_> = nodes.filter_map(|node| attribute.value(node)).collect();
        let counts = values.iter().map(|value| self.count_at(attribute, value));
        counts.min().unwrap_or_default()
    }

    fn is_ahead(&self, node: &Node) -> bool {
        self.service.rules.spreads.iter().any(|spread| {
            let Some(most) = spread.max_skew else {
                return false;
            };
            let Some(value) = spread.attribute.value(node) else {
                return true;
            };
            self.count_at(&spread.attribute, &value) + 1 > self.least(&spread.attribute) + most
        })
    }

    fn is_distinct(&self, node: &Node) -> bool {
        self.service.rules.distinct.iter().all(|attribute| {
            let value = attribute.value(node);
            value.is_some_and(|value| self.count_at(attribute, &value) == 0)
        })
    }

    fn takes(&self, node: &Node) -> bool {
        let free = self.state.allocatable(node);
        let free = free.saturating_sub(self.state.node_allocated(node.id));
        let count = self.have.get(&node.id).copied().unwrap_or_default();
        self.may_go(node)
            && self.is_distinct(node)
            && !self.is_ahead(node)
            && count < self.service.per_node_max()
            && self.service.resources().fits(free)
    }
}

struct World {
    rng: Rng,
    replica: Replica,
    orchestrator: Orchestrator,
    now_ms: u64,
    nodes: usize,
    created: u32,
    binds: u64,
    waiting: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng(seed),
            replica: Replica::at_newest_level(),
            orchestrator: Orchestrator::new(seed),
            now_ms: 1_000,
            nodes: 3 + seed as usize % 9,
            created: 0,
            binds: 0,
            waiting: 0,
        };
        for number in 0..world.nodes {
            let body = world.node(number);
            world.apply(body);
        }
        world.orchestrator.lead(world.now_ms);
        for number in 0..world.nodes {
            let id = node_id(&name(number));
            world.orchestrator.session_up(id, world.now_ms);
        }
        world
    }

    fn node(&mut self, number: usize) -> Body {
        let images: &[&str] = if self.rng.chance(90) { &["web"] } else { &[] };
        let mut body = put_node(&name(number), 4_000, 64, images);
        if let Body::PutNode(pb::PutNode {
            description: Some(description),
            ..
        }) = &mut body
        {
            let rng = &mut self.rng;
            let labels = &mut description.labels;
            for (key, values) in [("zone", &ZONES[..]), ("rack", &RACKS[..])] {
                if rng.chance(85) {
                    labels.insert(key.to_owned(), (*rng.pick(values)).to_owned());
                }
            }
            description.architecture = (*rng.pick(&["amd64", "amd64", "arm64"])).to_owned();
            description.devices = [("gpu", ""), ("gpu", "A"), ("fpga", "")]
                .map(|(kind, model)| pb::Device {
                    kind: kind.to_owned(),
                    model: model.to_owned(),
                    count: rng.below(3) as u32,
                })
                .to_vec();
            description.volumes = ["data", "logs"]
                .map(|name| (name, rng.below(5)))
                .into_iter()
                .filter(|(_, kind)| *kind > 1)
                .map(|(name, kind)| pb::NodeVolume {
                    name: name.to_owned(),
                    read_only: kind == 2,
                })
                .collect();
        }
        body
    }

    /// Refusals are as good: what makes no sense is not asked.
    fn apply(&mut self, body: Body) {
        let applied = self.replica.apply(body);
        invariants::check(&self.replica.state);
        let state = &self.replica.state;
        self.orchestrator.observe(state, &applied.events);
        let news = applied.events.iter().filter_map(|event| match event {
            Event::Container { id, .. } => state.container(*id),
            _ => None,
        });
        let started = news.filter(|it| it.status.state == ContainerState::Assigned);
        let started: Vec<_> = started.cloned().collect();
        for container in started {
            self.report(&container, ContainerState::Running);
        }
    }

    fn report(&mut self, container: &Container, state: ContainerState) {
        let removed = state == ContainerState::Shutdown;
        let item = pb::StatusItem {
            container_id: container.id.to_vec(),
            status: Some(pb::ContainerStatus {
                attempt: container.status.attempt,
                state: state.into(),
                removed,
                ..Default::default()
            }),
        };
        self.apply(Body::ReportStatus(pb::ReportStatus {
            node_id: container.node.to_vec(),
            items: vec![item],
        }));
    }

    fn placement(&mut self) -> pb::Placement {
        let rng = &mut self.rng;
        let mut asked = pb::Placement {
            strategy: rng.below(4) as i32,
            ..Default::default()
        };
        for _ in 0..1 + rng.below(2) {
            let attribute = (*rng.pick(&["node.labels.zone", "node.labels.rack"])).to_owned();
            match rng.below(7) {
                0 => asked.constraints = vec![(*rng.pick(&EXPRESSIONS)).to_owned()],
                1 => asked.max_replicas_per_node = 1 + rng.below(2) as u32,
                2 => {
                    let distinct = [attribute, "node.id".to_owned()];
                    asked.distinct = vec![rng.pick(&distinct).clone()];
                }
                3 => asked.anti_affinities.push(pb::AntiAffinity {
                    service: format!("s{}", 1 + rng.below(6)),
                    attribute: if rng.chance(50) {
                        attribute
                    } else {
                        String::new()
                    },
                }),
                4 => asked.affinities.push(pb::Affinity {
                    expression: (*rng.pick(&EXPRESSIONS)).to_owned(),
                    weight: 10 * (1 + rng.below(9)) as i32,
                }),
                5 => asked.tolerations = vec![pb::Toleration::default()],
                _ => asked.spreads.push(pb::Spread {
                    attribute,
                    max_skew: rng.below(3) as u32,
                    ..Default::default()
                }),
            }
        }
        asked
    }

    fn create(&mut self) {
        self.created += 1;
        let replicas = self.rng.below(9) as u32;
        let mut asked = spec(&format!("s{}", self.created), replicas, "web");
        asked.placement = Some(self.placement());
        let rng = &mut self.rng;
        let container = asked.container.as_mut().expect("it has one");
        container.resources = Some(pb::Resources {
            cpu_milli: rng.below(4) * 400,
            ..Default::default()
        });
        match rng.below(8) {
            2 => container.mounts.push(pb::Mount {
                r#type: pb::MountType::Volume.into(),
                source: (*rng.pick(&["data", "data", "logs"])).to_owned(),
                target: "/srv".to_owned(),
                read_only: rng.chance(40),
                exclusive: rng.chance(50),
                ..Default::default()
            }),
            0 => {
                let (port, protocol) = (80 + rng.below(2) as u32, 1);
                container.host_ports = vec![pb::HostPort { port, protocol }];
            }
            1 => {
                container.devices = vec![pb::DeviceAsk {
                    kind: "gpu".to_owned(),
                    milli: *rng.pick(&[1_000, 2_000, 250, 600]),
                    models: match rng.below(3) {
                        0 => vec!["A".to_owned()],
                        _ => Vec::new(),
                    },
                }];
                if rng.chance(30) {
                    container.devices.push(pb::DeviceAsk {
                        kind: "fpga".to_owned(),
                        milli: 1_000,
                        models: Vec::new(),
                    });
                }
            }
            _ => {}
        }
        self.apply(Body::CreateService(pb::CreateService { spec: Some(asked) }));
    }

    fn something_happens(&mut self) {
        let number = self.rng.below(self.nodes as u64) as usize;
        let services: Vec<_> = self.replica.state.services().cloned().collect();
        let service = (!services.is_empty()).then(|| self.rng.pick(&services).clone());
        match (self.rng.below(8), service) {
            (0, _) => {
                let body = self.node(number);
                self.apply(body);
            }
            (1 | 2, _) => {
                let node_id = node_id(&name(number)).to_vec();
                let body = support::asking::update_node(&mut self.rng, node_id);
                self.apply(body);
            }
            (3, Some(service)) => self.apply(Body::RemoveService(pb::RemoveService {
                service_id: service.id.to_vec(),
            })),
            (4, Some(service)) => {
                let mut asked = (*service.spec).clone();
                asked.replicas = self.rng.below(9) as u32;
                if self.rng.chance(50) {
                    asked.placement = Some(self.placement());
                }
                self.apply(Body::UpdateService(pb::UpdateService {
                    service_id: service.id.to_vec(),
                    expected_version: service.version,
                    spec: Some(asked),
                }));
            }
            (5, Some(service)) => {
                let containers = self.replica.state.containers_of_service(service.id);
                let running = containers.filter(|it| !it.is_terminal());
                if let Some(container) = running.last().cloned() {
                    self.report(&container, ContainerState::Failed);
                }
            }
            _ => self.create(),
        }
        self.workers_remove();
    }

    fn workers_remove(&mut self) {
        let state = &self.replica.state;
        let gone = |it: &&Container| it.desired == warren_core::fsm::DesiredState::Remove;
        let removed: Vec<_> = state.containers().filter(gone).cloned().collect();
        for container in removed {
            self.report(&container, ContainerState::Shutdown);
        }
    }

    /// Steps until nothing is left to do; every bind is held to the twin.
    fn run(&mut self) {
        let budget = Budget {
            items: 64,
            looks: 64,
        };
        for _ in 0..2_000 {
            let state = &self.replica.state;
            let proposals = self.orchestrator.step(state, self.now_ms, budget);
            judge_devices(state, &proposals);
            // By the state that they were decided on.
            for proposal in &proposals {
                if let Body::Bind(bind) = &proposal.body {
                    self.judge(bind);
                }
            }
            for proposal in proposals {
                let applied = self.replica.apply(proposal.body);
                let state = &self.replica.state;
                self.orchestrator.observe(state, &applied.events);
                let outcome = applied.response.as_deref().map_err(Clone::clone);
                self.orchestrator
                    .resolved(self.now_ms, proposal.token, outcome);
                let assigned = state.containers();
                let assigned = assigned.filter(|it| it.status.state == ContainerState::Assigned);
                let assigned: Vec<_> = assigned.cloned().collect();
                for container in assigned {
                    self.report(&container, ContainerState::Running);
                }
            }
            self.workers_remove();
            let next = self.orchestrator.next_wakeup(self.now_ms);
            if next.is_none_or(|at_ms| at_ms > self.now_ms) {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn judge(&mut self, bind: &pb::Bind) {
        let state = &self.replica.state;
        let mut by_service: BTreeMap<ServiceId, Vec<NodeId>> = BTreeMap::new();
        for item in &bind.items {
            let service = ServiceId::from_slice(&item.service_id).expect("an id");
            let node = NodeId::from_slice(&item.node_id).expect("an id");
            by_service.entry(service).or_default().push(node);
        }
        for (service, nodes) in by_service {
            let service = state.service(service).expect("it is there");
            let mut twin = Twin::new(state, service);
            for id in &nodes {
                let node = state.node(*id).expect("it is there");
                let refusal = state.refusal(service, node);
                let near = twin.is_near_another(node);
                assert!(
                    twin.may_go(node),
                    "{} on {}: {refusal:?} {near}",
                    service.name,
                    node.name()
                );
                assert!(twin.is_distinct(node), "{} is not apart", service.name);
                *twin.have.entry(*id).or_insert(0) += 1;
                assert!(twin.have[id] <= service.per_node_max());
                self.binds += 1;
            }
            for id in &nodes {
                let node = state.node(*id).expect("it is there");
                for spread in &service.rules.spreads {
                    let value = spread.attribute.value(node);
                    if let Some(most) = spread.max_skew {
                        let value = value.expect("a node without is out");
                        let count = twin.count_at(&spread.attribute, &value);
                        let least = twin.least(&spread.attribute);
                        assert!(count <= least + most, "{}: {count} {least}", service.name);
                    }
                }
            }
        }
    }

    /// Who waits is taken by no node, and the reasons are of as many nodes as there are.
    fn check_waiting(&mut self) {
        let state = &self.replica.state;
        for service in state.services() {
            let pending = self.orchestrator.pending(service.id);
            let Some(slot) = pending.first() else {
                continue;
            };
            let twin = Twin::new(state, service);
            let taker = state.nodes().find(|node| twin.takes(node));
            assert!(
                taker.is_none(),
                "{} waits: {}, but {:?} takes it; {:?}",
                service.name,
                slot.reason,
                taker.map(Node::name),
                service.rules,
            );
            let said = slot.reason.split("; ").map(|reason| {
                let count = reason.split([' ', ':']).next().expect("it has words");
                count.parse::<usize>().expect("a count")
            });
            assert_eq!(said.sum::<usize>(), self.nodes, "{}", slot.reason);
            self.waiting += 1;
        }
    }

    /// A leader that begins from the state says the same of who waits.
    fn check_anew(&self) {
        let mut anew = Orchestrator::new(7);
        anew.lead(self.now_ms);
        for number in 0..self.nodes {
            anew.session_up(node_id(&name(number)), self.now_ms);
        }
        let budget = Budget {
            items: 4_096,
            looks: 1 << 20,
        };
        let state = &self.replica.state;
        // It holds every failure for the first, and waits a second.
        for now_ms in (self.now_ms..self.now_ms + 5_000).step_by(500) {
            anew.step(state, now_ms, budget);
            for number in 0..self.nodes {
                anew.alive(node_id(&name(number)), now_ms);
            }
            anew.pulse(now_ms);
        }
        for service in state.services() {
            let known = self.orchestrator.pending(service.id);
            assert_eq!(anew.pending(service.id), known, "{}", service.name);
        }
    }
}

/// No device is promised beyond all of it, by what containers hold and all that is proposed at once.
fn judge_devices(state: &State, proposals: &[Proposal]) {
    let mut held: BTreeMap<(NodeId, String, u32), u32> = BTreeMap::new();
    for node in state.nodes() {
        for (kind, number, milli) in state.device_claims(node.id) {
            held.insert((node.id, kind.to_owned(), number), milli);
        }
    }
    for proposal in proposals {
        let Body::Bind(bind) = &proposal.body else {
            continue;
        };
        for item in &bind.items {
            let node = NodeId::from_slice(&item.node_id).expect("an id");
            for share in &item.devices {
                let device = (node, share.kind.clone(), share.number);
                let held = held.entry(device).or_default();
                *held += share.milli;
                assert!(*held <= 1_000, "{share:?} is promised twice");
            }
        }
    }
}

fn name(number: usize) -> String {
    format!("n{number}")
}

#[test]
fn binds_are_those_that_a_naive_twin_allows() {
    let (mut binds, mut waiting) = (0, 0);
    for seed in 0..20 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..40 {
            world.something_happens();
            world.run();
            // Past retries and short back-offs; the sweep has its turn.
            for _ in 0..12 {
                world.now_ms += 1_000;
                for number in 0..world.nodes {
                    let id = node_id(&name(number));
                    world.orchestrator.alive(id, world.now_ms);
                }
                world.orchestrator.pulse(world.now_ms);
                world.run();
            }
            world.check_waiting();
        }
        world.check_anew();
        let stats = world.orchestrator.stats();
        assert_eq!(stats.missed, 0, "the sweep found what nobody had marked");
        (binds, waiting) = (binds + world.binds, waiting + world.waiting);
    }
    println!("{binds} binds, {waiting} services waiting");
    assert!(binds > 800 && waiting > 800);
}

/// What is only preferred is followed while it can be, and costs nobody a place.
#[test]
fn a_preferred_spread_evens_out_and_refuses_nobody() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut asked = spec("even", 7, "web");
        asked.placement = Some(pb::Placement {
            spreads: vec![pb::Spread {
                attribute: "node.labels.zone".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        });
        world.apply(Body::CreateService(pb::CreateService { spec: Some(asked) }));
        world.run();
        let state = &world.replica.state;
        let service = state.service_by_name("even").expect("it was created");
        let twin = Twin::new(state, service);
        let placed: u32 = twin.have.values().sum();
        let usable: Vec<_> = state.nodes().filter(|node| twin.may_go(node)).collect();
        assert_eq!(placed, if usable.is_empty() { 0 } else { 7 }, "seed {seed}");
        let zones: BTreeSet<_> = usable
            .iter()
            .filter_map(|node| zone().value(node))
            .collect();
        let counts = zones.iter().map(|value| twin.count_at(&zone(), value));
        let counts: Vec<_> = counts.collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(
            least.zip(most).is_none_or(|(l, m)| m - l <= 1),
            "{counts:?}"
        );
    }
}
