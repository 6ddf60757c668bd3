//! A random cluster for tests: nodes of every kind, and services that ask for a few things.

use std::collections::BTreeMap;

use prost::Message;

use crate::fsm::{Applied, FEATURE_LEVEL_MAX, Service, State};
use crate::ids::{Index, NodeId, Term};
use crate::orchestrator::Orchestrator;
use crate::pb::{self, command::Body};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub(super) struct Random(u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ZONES: [&str; 3] = ["eu", "us", "asia"];

pub(super) struct World {
    pub random: Random,
    pub state: State,
    index: u64,
    /// What came of the last command.
    last: Applied,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed),
            state: State::new(),
            index: 0,
            last: Applied {
                response: Ok(Vec::new()),
                events: Vec::new(),
            },
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

    pub fn apply(&mut self, body: Body) -> Vec<u8> {
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
        self.last = self.state.apply(Index(self.index), Term(1), &command);
        self.last.response.clone().expect("it makes sense")
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
            volumes: ["data", "logs"]
                .map(|name| (name, random.below(4)))
                .into_iter()
                .filter(|(_, kind)| *kind > 0)
                .map(|(name, kind)| pb::NodeVolume {
                    name: name.into(),
                    read_only: kind == 1,
                })
                .collect(),
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
                ..Default::default()
            }));
        }
    }

    /// Asks for a few things at random.
    /// [`World::apply`], watched by an orchestrator.
    pub fn apply_to(&mut self, orchestrator: &mut Orchestrator, body: Body) -> Vec<u8> {
        let told = self.apply(body);
        orchestrator.observe(&self.state, &self.last.events);
        told
    }

    pub fn spec(&mut self, name: &str) -> pb::ServiceSpec {
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
            container.mounts.push(pb::Mount {
                r#type: pb::MountType::Volume.into(),
                source: random.pick(&["data", "logs"]).into(),
                target: "/srv".into(),
                read_only: random.chance(50),
                exclusive: random.chance(40),
                ..Default::default()
            });
        }
        if random.chance(20) {
            container.devices = vec![pb::DeviceAsk {
                kind: "gpu".into(),
                milli: 1000,
                models: Vec::new(),
            }];
        }
        pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            replicas: 8,
            container: Some(container),
            placement: Some(placement),
            ..Default::default()
        }
    }

    pub fn service(&mut self, name: &str) -> Service {
        let spec = self.spec(name);
        self.create(spec)
    }

    /// Goes on from this state.
    pub fn take_over(&mut self, state: &State) {
        self.index = state.index().0;
        self.state = state.clone();
    }

    pub fn create(&mut self, spec: pb::ServiceSpec) -> Service {
        let name = spec.name.clone();
        self.apply(Body::CreateService(pb::CreateService { spec: Some(spec) }));
        self.state.service_by_name(&name).expect("created").clone()
    }

    pub fn bind(&mut self, service: &Service, slot: u64, node: NodeId) {
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

pub(super) fn node_id(number: u8) -> NodeId {
    NodeId([number + 1; 16])
}
