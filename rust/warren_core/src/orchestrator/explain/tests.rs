//! What is said to fit is exactly what placing would take.

use std::collections::BTreeMap;

use prost::Message;

use crate::fsm::{FEATURE_LEVEL_MAX, Service, State};
use crate::ids::{Index, NodeId, Term};
use crate::orchestrator::asking::{self, Asking, Placement};
use crate::orchestrator::explain::{Subject, containers_by_node, explain};
use crate::pb::{self, command::Body};
use crate::scheduler::Scheduler;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ZONES: [&str; 3] = ["eu", "us", "asia"];

struct World {
    random: Random,
    state: State,
    index: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed),
            state: State::new(),
            index: 0,
        };
        world.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![1; 16],
            epoch: 1,
            founder: Some(pb::Member {
                id: 1,
                data_dir: vec![1; 16],
                node_id: vec![1; 16],
                address: "n0:1".into(),
                voter: true,
                feature_level_max: FEATURE_LEVEL_MAX,
                ..Default::default()
            }),
        }));
        world.apply(Body::RaiseFeatureLevel(pb::RaiseFeatureLevel {
            level: FEATURE_LEVEL_MAX,
        }));
        for number in 0..4 + world.random.below(12) {
            world.node(number as u8);
        }
        world
    }

    fn apply(&mut self, body: Body) -> Vec<u8> {
        self.index += 1;
        let mut entropy = [0; 12];
        entropy[..8].copy_from_slice(&self.index.to_le_bytes());
        let command = pb::Command {
            level: self.state.feature_level(),
            time_ms: self.index,
            entropy: entropy.to_vec(),
            body: Some(body),
            ..Default::default()
        };
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        applied.response.expect("it makes sense")
    }

    fn node(&mut self, number: u8) {
        let random = &mut self.random;
        let mut labels = BTreeMap::new();
        if random.chance(85) {
            labels.insert("zone".into(), random.pick(&ZONES).into());
        }
        let mut images = Vec::new();
        if random.chance(90) {
            images.push(pb::NodeImage {
                reference: "docker.io/library/web:1".into(),
                digest: DIGEST.into(),
                size_bytes: 1,
            });
        }
        let taint = |effect: pb::TaintEffect| pb::Taint {
            key: "gpu".into(),
            value: String::new(),
            effect: effect.into(),
        };
        let taints = match random.below(6) {
            0 => vec![taint(pb::TaintEffect::NoSchedule)],
            1 => vec![taint(pb::TaintEffect::PreferNoSchedule)],
            _ => Vec::new(),
        };
        let description = pb::NodeDescription {
            name: format!("n{number}"),
            capacity: Some(pb::Resources {
                cpu_milli: 1000 * (1 + random.below(4)),
                memory_bytes: (1 + random.below(4)) << 28,
                disk_bytes: 1 << 30,
                pids: 1 + random.below(200),
            }),
            labels,
            images,
            architecture: random.pick(&["amd64", "amd64", "arm64"]).into(),
            devices: vec![pb::Device {
                kind: "gpu".into(),
                model: String::new(),
                count: random.below(3) as u32,
            }],
            taints,
            ..Default::default()
        };
        let paused = random.chance(10);
        self.apply(Body::PutNode(pb::PutNode {
            node_id: node_id(number).to_vec(),
            description: Some(description),
            manager: false,
            worker: true,
            advertise_addr: String::new(),
        }));
        if paused {
            self.apply(Body::SetNodeAvailability(pb::SetNodeAvailability {
                node_id: node_id(number).to_vec(),
                availability: pb::Availability::Pause.into(),
            }));
        }
    }

    /// Asks for a few things at random.
    fn service(&mut self, name: &str) -> Service {
        let random = &mut self.random;
        let mut placement = pb::Placement::default();
        if random.chance(30) {
            let expressions = ["node.labels.zone==eu", "node.arch==amd64"];
            placement.constraints = vec![random.pick(&expressions).into()];
        }
        if random.chance(30) {
            placement.spreads = vec![pb::Spread {
                attribute: "node.labels.zone".into(),
                max_skew: random.below(3) as u32,
                ..Default::default()
            }];
        }
        match random.below(8) {
            0 => placement.distinct = vec!["node.labels.zone".into()],
            1 => placement.distinct = vec!["node.id".into()],
            2 => placement.max_replicas_per_node = 1 + random.below(2) as u32,
            3 if name != "s0" => {
                placement.anti_affinities = vec![pb::AntiAffinity {
                    service: "s0".into(),
                    attribute: random.pick(&["", "node.labels.zone"]).into(),
                }];
            }
            _ => {}
        }
        if random.chance(15) {
            placement.platforms = vec![pb::Platform {
                os: "linux".into(),
                architecture: "arm64".into(),
            }];
        }
        if random.chance(30) {
            placement.tolerations = vec![pb::Toleration {
                key: "gpu".into(),
                ..Default::default()
            }];
        }
        let mut container = pb::ContainerSpec {
            image: "docker.io/library/web:1".into(),
            image_digest: DIGEST.into(),
            resources: Some(pb::Resources {
                cpu_milli: 250 * random.below(5),
                memory_bytes: random.below(4) << 27,
                disk_bytes: random.below(2) << 29,
                pids: 20 * random.below(3),
            }),
            ..Default::default()
        };
        if random.chance(20) {
            container.host_ports = vec![pb::HostPort {
                port: 80,
                protocol: 0,
            }];
        }
        if random.chance(20) {
            container.devices = vec![pb::DeviceAsk {
                kind: "gpu".into(),
                milli: 1000,
                models: Vec::new(),
            }];
        }
        let spec = pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            replicas: 8,
            container: Some(container),
            placement: Some(placement),
            ..Default::default()
        };
        self.apply(Body::CreateService(pb::CreateService { spec: Some(spec) }));
        self.state.service_by_name(name).expect("created").clone()
    }

    fn bind(&mut self, service: &Service, slot: u64, node: NodeId) {
        let devices = self.state.choose_devices(service, node);
        let item = pb::BindItem {
            service_id: service.id.to_vec(),
            service_version: service.version,
            slot,
            node_id: node.to_vec(),
            replaces: Vec::new(),
            devices: devices.unwrap_or_default(),
        };
        let items = vec![item];
        let told = self.apply(Body::Bind(pb::Bind { items }));
        let told = pb::BatchResult::decode(&told[..]).expect("it is one");
        assert!(told.items[0].applied, "{}", told.items[0].rejected);
    }
}

fn node_id(number: u8) -> NodeId {
    NodeId([number + 1; 16])
}

/// Nodes that the search takes one of these on, each asked for by itself.
fn would_go(state: &State, service: &Service) -> Vec<NodeId> {
    let mut scheduler = Scheduler::new(1);
    let mut asking = Asking::default();
    for node in state.nodes() {
        scheduler.node_put(state, node);
        asking.node_put(&mut scheduler, state, node);
    }
    asking.learn(&mut scheduler, state, service);
    let have = containers_by_node(state, service);
    let placement = Placement {
        state,
        service,
        spread: &have,
        count: 1,
    };
    let nodes = state.nodes().map(|node| node.id);
    nodes
        .filter(|id| asking::would_place_on(&asking, &mut scheduler, &placement, *id))
        .collect()
}

#[test]
fn a_node_is_said_to_fit_exactly_where_placing_would_take_it() {
    let (mut fits, mut fits_not, mut kinds) = (0, 0, BTreeMap::new());
    for seed in 0..80 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for number in 0..3 {
            let service = world.service(&format!("s{number}"));
            for slot in 1..=8 {
                let told = explain(&world.state, &service, Subject::Service);
                let mut fit: Vec<_> = told
                    .nodes
                    .iter()
                    .filter(|row| row.against.is_empty())
                    .collect();
                assert_eq!(fit.len() as u32, told.fit);
                fit.sort_by_key(|row| row.id);
                let fit: Vec<_> = fit.iter().map(|row| row.id).collect();
                assert_eq!(fit, would_go(&world.state, &service), "slot {slot}");
                let first: u32 = told.nodes.len() as u32 - told.fit;
                let why: Vec<_> = told.nodes.iter().flat_map(|row| &row.against).collect();
                why.iter()
                    .for_each(|it| *kinds.entry(it.filter).or_insert(0) += 1);
                (fits, fits_not) = (fits + told.fit, fits_not + first);
                let Some(best) = told.nodes.iter().find(|row| row.rank == 1) else {
                    break;
                };
                world.bind(&service, slot, best.id);
            }
        }
    }
    // The generator must reach what it is to test.
    assert!(fits > 500 && fits_not > 500, "{fits} {fits_not}");
    assert_eq!(kinds.len(), 15, "{kinds:?}");
}

#[test]
fn groups_add_up_and_a_sentence_names_them() {
    let mut world = World::new(7);
    let service = world.service("s0");
    let told = explain(&world.state, &service, Subject::Service);
    for group in &told.groups {
        let has = |row: &&crate::orchestrator::NodeRow| {
            row.against.iter().any(|it| it.filter == group.filter)
        };
        let nodes = told.nodes.iter().filter(has);
        assert!(group.nodes <= nodes.count() as u32);
        assert!(group.nodes_only <= group.nodes);
    }
    let workers = told.nodes.len();
    let head = format!("{} of {workers} nodes could take another", told.fit);
    assert!(told.summary.starts_with(&head), "{}", told.summary);
}

#[test]
fn a_container_is_compared_as_if_it_were_not_there() {
    let mut world = World::new(3);
    let service = world.service("s0");
    let told = explain(&world.state, &service, Subject::Service);
    let best = told
        .nodes
        .iter()
        .find(|row| row.rank == 1)
        .expect("one fits")
        .id;
    world.bind(&service, 1, best);
    let container = world
        .state
        .containers()
        .next()
        .expect("it is bound")
        .clone();
    let told = explain(&world.state, &service, Subject::Container(&container));
    let row = &told.nodes[0];
    assert!(row.current && row.id == best && row.rank == 1, "{row:?}");
    assert!(
        told.summary.contains("no other node would be better"),
        "{}",
        told.summary
    );
}
