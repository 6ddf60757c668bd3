//! A state with nodes and services, and nothing placed yet.

use prost::Message as _;
use warren_core::fsm::{Event, FEATURE_LEVEL_MAX, Resources, State};
use warren_core::ids::{Index, NodeId, ServiceId, Term};
use warren_core::pb::{self, command::Body};

use crate::filled::{command, mixed};

pub const IMAGE: &str = "docker.io/library/web:latest";
const NODE_CPU_MILLI: u64 = 64_000;
const NODE_MEMORY_BYTES: u64 = 256 << 30;
/// How full the nodes are once all is placed, unless that would be more than this a container.
const FULL_PCT: u64 = 75;
const CPU_MILLI_MAX: u64 = 500;
const MEMORY_BYTES_MAX: u64 = 2 << 30;

/// So many services of so many containers each, on nodes that are alike.
pub struct Shape {
    pub nodes: u32,
    pub services: u32,
    pub replicas: u32,
    /// Each service is kept to one of so many; 0: it may go anywhere.
    pub zones: u32,
}

impl Shape {
    pub fn containers(&self) -> u64 {
        u64::from(self.services) * u64::from(self.replicas)
    }

    /// What each container asks for, so that all fit.
    pub fn asked(&self) -> Resources {
        let each = self.containers().div_ceil(u64::from(self.nodes));
        let part = |of: u64, most: u64| (of * FULL_PCT / 100 / each).min(most);
        Resources {
            cpu_milli: part(NODE_CPU_MILLI, CPU_MILLI_MAX),
            memory_bytes: part(NODE_MEMORY_BYTES, MEMORY_BYTES_MAX),
            ..Resources::default()
        }
    }

    pub fn capacity() -> Resources {
        Resources {
            cpu_milli: NODE_CPU_MILLI,
            memory_bytes: NODE_MEMORY_BYTES,
            ..Resources::default()
        }
    }
}

/// What is replicated, and the index of the last command.
pub struct Cluster {
    pub state: State,
    pub index: u64,
    pub wanted: u64,
}

impl Cluster {
    /// A cluster at the newest feature level, without a node.
    pub fn empty() -> Self {
        let mut cluster = Self {
            state: State::new(),
            // As behind a genesis snapshot.
            index: 1,
            wanted: 0,
        };
        cluster.state.advance(Index(1), Term(1));
        cluster.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: None,
        }));
        let member = Some(pb::Member {
            id: 1,
            data_dir: vec![1; 16],
            node_id: vec![0xfe; 16],
            voter: true,
            feature_level_max: FEATURE_LEVEL_MAX,
            ..Default::default()
        });
        cluster.apply(Body::PutMember(pb::PutMember { member }));
        cluster.apply(Body::RaiseFeatureLevel(pb::RaiseFeatureLevel {
            level: FEATURE_LEVEL_MAX,
        }));
        cluster
    }

    pub fn new(shape: &Shape) -> Self {
        let mut cluster = Self::empty();
        for number in 0..shape.nodes {
            cluster.put_node(number, Shape::capacity(), shape.zones.max(10));
        }
        for number in 0..shape.services {
            let zone = (shape.zones > 0).then(|| number % shape.zones);
            let name = format!("service-{number}");
            cluster.create(&name, shape.replicas, shape.asked(), zone);
        }
        cluster
    }

    /// Applies a command; what became of it, and what it changed.
    pub fn apply_events(&mut self, body: Body) -> (Vec<u8>, Vec<Event>) {
        let mut command = command(self.index, body);
        command.level = self.state.feature_level();
        self.index += 1;
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        let response = applied.response.expect("the bench asks for what is right");
        (response, applied.events)
    }

    pub fn apply(&mut self, body: Body) -> Vec<u8> {
        self.apply_events(body).0
    }

    pub fn put_node(&mut self, number: u32, capacity: Resources, zones: u32) {
        self.apply(Body::PutNode(pb::PutNode {
            node_id: node_id(number).to_vec(),
            description: Some(pb::NodeDescription {
                name: format!("node-{number}"),
                capacity: Some(pb::Resources {
                    cpu_milli: capacity.cpu_milli,
                    memory_bytes: capacity.memory_bytes,
                    ..Default::default()
                }),
                labels: [("zone".to_owned(), format!("z{}", number % zones))].into(),
                images: vec![pb::NodeImage {
                    reference: IMAGE.to_owned(),
                    digest: image_digest(),
                    size_bytes: 1 << 20,
                }],
                ..Default::default()
            }),
            manager: false,
            worker: true,
            advertise_addr: String::new(),
        }));
    }

    fn create(&mut self, name: &str, replicas: u32, asked: Resources, zone: Option<u32>) {
        self.wanted += u64::from(replicas);
        let placement = zone.map(kept_to);
        self.apply(create(name, replicas, asked, placement));
    }
}

/// To the nodes of one zone.
fn kept_to(zone: u32) -> pb::Placement {
    pb::Placement {
        constraints: vec![format!("node.labels.zone==z{zone}")],
        ..Default::default()
    }
}

/// Evenly over the zones.
pub fn spread() -> pb::Placement {
    pb::Placement {
        spreads: vec![pb::Spread {
            attribute: "node.labels.zone".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The command that makes a service.
pub fn create(
    name: &str,
    replicas: u32,
    asked: Resources,
    placement: Option<pb::Placement>,
) -> Body {
    let spec = Some(pb::ServiceSpec {
        name: name.to_owned(),
        mode: pb::ServiceMode::Replicated.into(),
        replicas,
        container: Some(pb::ContainerSpec {
            image: IMAGE.to_owned(),
            image_digest: image_digest(),
            resources: Some(pb::Resources {
                cpu_milli: asked.cpu_milli,
                memory_bytes: asked.memory_bytes,
                ..Default::default()
            }),
            ..Default::default()
        }),
        placement,
        ..Default::default()
    });
    Body::CreateService(pb::CreateService { spec })
}

/// The id in the answer to [`create`].
pub fn created(response: &[u8]) -> ServiceId {
    let response = pb::CreateServiceResponse::decode(response).expect("a service");
    ServiceId::from_slice(&response.service_id).expect("an id")
}

pub fn node_id(number: u32) -> NodeId {
    NodeId(u128::from(mixed(u64::from(number))).to_be_bytes())
}

pub fn image_digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}
