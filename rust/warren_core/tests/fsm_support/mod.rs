//! What the tests of state, scheduler and orchestrator share: a seeded stream, objects in a few
//! words, an independent check of the state's invariants, and the runner of golden scenarios.
#![allow(dead_code, reason = "each test crate uses its part of it")]

pub mod asking;
pub mod commands;
pub mod invariants;
pub mod scenario;
pub mod words;

use std::collections::BTreeMap;

use warren_core::fsm::{Applied, FEATURE_LEVEL_MAX, State, snapshot};
use warren_core::ids::{Index, NodeId, Term};
use warren_core::pb::{self, command::Body};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

pub const MIB: u64 = 1 << 20;

/// The digest of the image that the tests call `name`.
pub fn digest(name: &str) -> String {
    let hex: String = name
        .bytes()
        .cycle()
        .take(32)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}

pub fn node_id(name: &str) -> NodeId {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    NodeId(id)
}

pub fn put_node(name: &str, cpu_milli: u64, memory_mib: u64, images: &[&str]) -> Body {
    let image = |name: &&str| pb::NodeImage {
        reference: format!("docker.io/library/{name}:latest"),
        digest: digest(name),
        size_bytes: 1,
    };
    let memory_bytes = memory_mib * MIB;
    Body::PutNode(pb::PutNode {
        node_id: node_id(name).to_vec(),
        description: Some(pb::NodeDescription {
            name: name.to_owned(),
            capacity: Some(pb::Resources {
                cpu_milli,
                memory_bytes,
                ..Default::default()
            }),
            images: images.iter().map(image).collect(),
            ..Default::default()
        }),
        manager: false,
        worker: true,
        advertise_addr: String::new(),
    })
}

pub fn spec(name: &str, replicas: u32, image: &str) -> pb::ServiceSpec {
    pb::ServiceSpec {
        name: name.to_owned(),
        mode: pb::ServiceMode::Replicated.into(),
        replicas,
        container: Some(pb::ContainerSpec {
            image: image.to_owned(),
            image_digest: digest(image),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The member that lives on node `name`, under this id, and knows the levels up to `level_max`.
pub fn member(id: u64, name: &str, voter: bool, level_max: u32) -> pb::Member {
    pb::Member {
        id,
        data_dir: node_id(name).to_vec(),
        node_id: node_id(name).to_vec(),
        address: format!("{name}:7946"),
        voter,
        feature_level_max: level_max,
        added_at_ms: 0,
        api_address: String::new(),
    }
}

/// A replica: commands in, what came of them out.
#[derive(Clone, Default)]
pub struct Replica {
    pub state: State,
    pub index: u64,
}

impl Replica {
    /// One that belongs to a cluster at the newest level.
    pub fn at_newest_level() -> Self {
        let mut replica = Self::in_cluster();
        let level = FEATURE_LEVEL_MAX;
        let known = member(1, "m1", true, level);
        let put = pb::PutMember {
            member: Some(known),
        };
        let raise = pb::RaiseFeatureLevel { level };
        for body in [Body::PutMember(put), Body::RaiseFeatureLevel(raise)] {
            replica.apply(body).response.expect("it is allowed");
        }
        replica
    }

    /// One that belongs to a cluster.
    pub fn in_cluster() -> Self {
        let mut replica = Self::default();
        let create = pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: Some(member(1, "m1", true, 1)),
        };
        replica
            .apply(Body::CreateCluster(create))
            .response
            .expect("an empty state takes it");
        replica
    }

    pub fn command(&self, body: Body) -> pb::Command {
        let mut entropy = vec![0; 12];
        entropy[..8].copy_from_slice(&(self.index + 1).to_be_bytes());
        pb::Command {
            level: self.state.feature_level(),
            time_ms: (self.index + 1) * 1000,
            entropy,
            request: None,
            identity: "system".to_owned(),
            body: Some(body),
        }
    }

    pub fn apply(&mut self, body: Body) -> Applied {
        let command = self.command(body);
        self.apply_command(&command)
    }

    pub fn apply_command(&mut self, command: &pb::Command) -> Applied {
        self.index += 1;
        self.state.apply(Index(self.index), Term(1), command)
    }

    /// The state's canonical form: equal if and only if the states are.
    pub fn bytes(&self) -> Vec<u8> {
        snapshot_bytes(&self.state)
    }
}

pub fn snapshot_bytes(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = snapshot::header(state, b"conf".to_vec());
    let mut sink = |frame: &[u8]| {
        bytes.extend_from_slice(frame);
        Ok::<(), ()>(())
    };
    snapshot::write(state, &header, &mut sink).expect("a vector takes everything");
    bytes
}

/// `key=value` words of a line; a word without `=` has an empty value.
pub fn options<'a>(words: &[&'a str]) -> BTreeMap<&'a str, &'a str> {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .collect()
}
