//! A host on a directory of its own, with a node that has one image.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    dead_code,
    reason = "drives real threads and files; each test uses a part of it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use warren_core::host::{Completion, Host, Kind, Options};
use warren_core::ids::NodeId;
use warren_core::pb;

pub const NODE: NodeId = NodeId([0x11; 16]);
pub const DEADLINE: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: u64 = 1 << 20;

/// Removed with everything in it when dropped.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("warren-host-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn options(dir: &Path) -> Options {
    Options {
        raft_dir: dir.to_owned(),
        node: NODE,
        node_name: "one".into(),
        advertise_addr: "127.0.0.1:2377".into(),
        segment_bytes: SEGMENT_BYTES,
        peers: None,
    }
}

/// A host, and the completions taken from it.
pub struct Client {
    pub host: Host,
    taken: BTreeMap<u64, Vec<Completion>>,
    sequence: u64,
}

impl Client {
    pub fn open(dir: &Path) -> Self {
        Self::of(Host::open(options(dir)).unwrap_or_else(|error| panic!("{error}")))
    }

    pub fn of(host: Host) -> Self {
        Self {
            host,
            taken: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// A cluster whose one node is ready and has the image.
    pub fn founded(dir: &Path) -> Self {
        let mut client = Self::open(dir);
        client
            .call("InitCluster", &pb::InitClusterRequest::default())
            .unwrap();
        client.open_session();
        client
    }

    pub fn open_session(&mut self) -> u64 {
        let image = pb::NodeImage {
            reference: "docker.io/library/app:latest".into(),
            digest: format!("sha256:{}", "a".repeat(64)),
            size_bytes: 1,
        };
        let capacity = pb::Resources {
            cpu_milli: 4000,
            memory_bytes: 4 << 30,
            ..Default::default()
        };
        let hello = pb::Hello {
            node_id: NODE.to_vec(),
            description: Some(pb::NodeDescription {
                name: "one".into(),
                capacity: Some(capacity),
                images: vec![image],
                ..Default::default()
            }),
            ..Default::default()
        };
        let stream = self
            .host
            .subscribe("local", "Session", &hello.encode_to_vec())
            .unwrap();
        self.until("the node is ready and known", |client| {
            let found: pb::GetClusterResponse =
                client.read("GetCluster", &pb::GetClusterRequest::default());
            found.nodes_ready == 1 && found.workers == 1
        });
        stream
    }

    pub fn submit(&mut self, method: &str, request: &impl Message) -> u64 {
        let body = request.encode_to_vec();
        self.host
            .submit("local", method, &body, DEADLINE)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn call(&mut self, method: &str, request: &impl Message) -> Result<Vec<u8>, pb::Error> {
        let id = self.submit(method, request);
        self.answer(id)
    }

    pub fn read<M: Message + Default>(&mut self, method: &str, request: &impl Message) -> M {
        let bytes = self
            .call(method, request)
            .unwrap_or_else(|error| panic!("{error:?}"));
        M::decode(bytes.as_slice()).unwrap()
    }

    pub fn answer(&mut self, id: u64) -> Result<Vec<u8>, pb::Error> {
        let completion = self.next(id);
        match completion.kind {
            Kind::Response => Ok(completion.payload),
            _ => Err(pb::Error::decode(completion.payload.as_slice()).unwrap()),
        }
    }

    /// The next completion under `id`.
    pub fn next(&mut self, id: u64) -> Completion {
        let started = Instant::now();
        loop {
            if let Some(found) = self.taken.get_mut(&id).filter(|found| !found.is_empty()) {
                return found.remove(0);
            }
            assert!(started.elapsed() < DEADLINE, "nothing came under {id}");
            for completion in self.host.drain(256) {
                if completion.kind == Kind::Item {
                    self.host.taken(completion.id);
                }
                self.taken
                    .entry(completion.id)
                    .or_default()
                    .push(completion);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            assert!(started.elapsed() < DEADLINE, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn create_request(&mut self, name: &str) -> pb::CreateServiceRequest {
        self.sequence += 1;
        let container = pb::ContainerSpec {
            image: "app".into(),
            ..Default::default()
        };
        pb::CreateServiceRequest {
            request: Some(pb::RequestId {
                // One a process: a process that follows is another client.
                client: [std::process::id().to_le_bytes(); 4].concat(),
                sequence: self.sequence,
                digest: Vec::new(),
            }),
            spec: Some(pb::ServiceSpec {
                name: name.into(),
                mode: pb::ServiceMode::Replicated.into(),
                container: Some(container),
                ..Default::default()
            }),
        }
    }

    pub fn create(&mut self, name: &str) -> Result<Vec<u8>, pb::Error> {
        let request = self.create_request(name);
        self.call("CreateService", &request)
    }

    pub fn services(&mut self) -> Vec<pb::Service> {
        let listed: pb::ListServicesResponse =
            self.read("ListServices", &pb::ListServicesRequest::default());
        listed
            .services
            .into_iter()
            .filter_map(|view| view.service)
            .collect()
    }

    /// The value of a series without labels.
    pub fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.host.metrics(false)).unwrap();
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    }
}
