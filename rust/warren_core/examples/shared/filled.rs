//! A state with many containers, as the daemon would have made it.

use prost::Message;
use warren_core::fsm::State;
use warren_core::ids::{Index, NodeId, Term};
use warren_core::orchestrator::BIND_ITEMS_MAX;
use warren_core::pb::{self, command::Body};

const NODE_CONTAINERS: usize = 4096;
const SERVICE_CONTAINERS: usize = 10_000;

/// A cluster of full nodes; each service lies on all of them.
#[derive(Default)]
pub struct Filled {
    pub state: State,
    /// Of the last command.
    pub index: u64,
    pub nodes: Vec<NodeId>,
}

impl Filled {
    /// `bind` is given each command that binds, to be done once, and how many containers it is about.
    pub fn new(containers: usize, mut bind: impl FnMut(usize, &mut dyn FnMut())) -> Self {
        let mut filled = Self::default();
        filled.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: None,
        }));
        let image_digest = format!("sha256:{}", "ab".repeat(32));
        for n in 0..containers.div_ceil(NODE_CONTAINERS) {
            let id = NodeId(u128::from(mixed(n as u64)).to_be_bytes());
            filled.nodes.push(id);
            filled.apply(node(id, &format!("node-{n}"), &image_digest));
        }
        let services = containers.div_ceil(SERVICE_CONTAINERS);
        let services: Vec<_> = (0..services)
            .map(|n| {
                let spec = service(&format!("service-{n}"), &image_digest);
                let created = filled.apply(Body::CreateService(pb::CreateService { spec }));
                pb::CreateServiceResponse::decode(&created[..]).expect("a service")
            })
            .collect();
        let items: Vec<_> = (0..containers)
            .map(|n| pb::BindItem {
                service_id: services[n / SERVICE_CONTAINERS].service_id.clone(),
                service_version: 1,
                slot: (n % SERVICE_CONTAINERS) as u64 + 1,
                node_id: filled.nodes[n % filled.nodes.len()].to_vec(),
                replaces: Vec::new(),
                ..Default::default()
            })
            .collect();
        for items in items.chunks(BIND_ITEMS_MAX) {
            let body = Body::Bind(pb::Bind {
                items: items.to_vec(),
            });
            let command = command(filled.index, body);
            bind(items.len(), &mut || filled.apply_command(&command));
        }
        assert_eq!(filled.state.container_count(), containers);
        filled
    }

    fn apply_command(&mut self, command: &pb::Command) {
        self.index += 1;
        let applied = self.state.apply(Index(self.index), Term(1), command);
        assert!(applied.response.is_ok());
    }

    fn apply(&mut self, body: Body) -> Vec<u8> {
        let command = command(self.index, body);
        self.index += 1;
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        applied.response.expect("the bench asks for what is right")
    }
}

/// The one after the command at `index`.
pub fn command(index: u64, body: Body) -> pb::Command {
    let mut entropy = [0; 12];
    let random = mixed(index + 1).to_be_bytes();
    entropy[..8].copy_from_slice(&random);
    pb::Command {
        level: 1,
        time_ms: 1_800_000_000_000 + index,
        entropy: entropy.to_vec(),
        request: None,
        identity: "system".to_owned(),
        body: Some(body),
    }
}

fn node(id: NodeId, name: &str, image_digest: &str) -> Body {
    Body::PutNode(pb::PutNode {
        node_id: id.to_vec(),
        description: Some(pb::NodeDescription {
            name: name.to_owned(),
            capacity: Some(pb::Resources {
                cpu_milli: 1_000_000,
                memory_bytes: 1 << 44,
                ..Default::default()
            }),
            images: vec![pb::NodeImage {
                reference: "docker.io/library/web:latest".to_owned(),
                digest: image_digest.to_owned(),
                size_bytes: 1 << 20,
            }],
            ..Default::default()
        }),
        manager: false,
        worker: true,
        advertise_addr: String::new(),
    })
}

fn service(name: &str, image_digest: &str) -> Option<pb::ServiceSpec> {
    Some(pb::ServiceSpec {
        name: name.to_owned(),
        mode: pb::ServiceMode::Replicated.into(),
        replicas: SERVICE_CONTAINERS as u32,
        container: Some(pb::ContainerSpec {
            image: "web".to_owned(),
            image_digest: image_digest.to_owned(),
            env: vec![format!("NAME={name}")],
            resources: Some(pb::Resources {
                cpu_milli: 100,
                memory_bytes: 64 << 20,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
pub fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
