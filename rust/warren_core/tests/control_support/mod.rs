//! A machine, its log in memory, and words for what goes in and comes out.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use warren_core::control::{
    Call, CallId, Config, Consistency, Control, GENESIS, Identity, Input, Now, Outputs, Recovered,
    genesis,
};
use warren_core::fsm::FEATURE_LEVEL_MAX;
use warren_core::ids::NodeId;
use warren_core::pb;
use warren_core::raft::{LogEntry, Persist};

const NODE: NodeId = NodeId([0x11; 16]);
const TIMEOUT_MS: u64 = 10_000;

#[derive(Default)]
pub struct Durable {
    pub identity: Option<Identity>,
    pub hard_state: Option<Vec<u8>>,
    pub entries: Vec<LogEntry>,
}

pub struct Machine {
    control: Control,
    pub durable: Durable,
    unsynced: Vec<Persist>,
    now_ms: u64,
    untaken: BTreeSet<u64>,
    methods: BTreeMap<u64, String>,
    session: Vec<u8>,
    assigned: BTreeSet<Vec<u8>>,
    service: Vec<u8>,
}

fn config() -> Config {
    Config {
        node: NODE,
        node_name: "one".into(),
        advertise_addr: String::new(),
        log_dir: "the log directory".into(),
        seed: [9; 32],
        address: "one:2377".into(),
        feature_level_max: FEATURE_LEVEL_MAX,
        snapshot_bytes: u64::MAX,
        stopwatch: || None,
    }
}

impl Machine {
    pub fn new() -> Self {
        Self::advertising("")
    }

    /// One whose API is at this address, until it is restarted.
    pub fn advertising(advertise_addr: &str) -> Self {
        let advertise_addr = advertise_addr.into();
        Self {
            control: Control::outside(Config {
                advertise_addr,
                ..config()
            }),
            durable: Durable::default(),
            unsynced: Vec::new(),
            now_ms: 1_000,
            untaken: BTreeSet::new(),
            methods: BTreeMap::new(),
            session: Vec::new(),
            assigned: BTreeSet::new(),
            service: Vec::new(),
        }
    }

    /// One step of a scenario; what came out, a line each.
    pub fn perform(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["init"] => self.call(0, "InitCluster", pb::InitClusterRequest::default()),
            ["call", number, "CreateService", name, replicas] => {
                let request = create(name, replicas.parse().unwrap());
                self.call(number.parse().unwrap(), "CreateService", request)
            }
            ["call", number, "RemoveService"] => {
                let service_id = self.service.clone();
                let request = pb::RemoveServiceRequest {
                    request: None,
                    service_id,
                };
                self.call(number.parse().unwrap(), "RemoveService", request)
            }
            ["call", number, method] => self.raw(number.parse().unwrap(), method, Vec::new()),
            ["hello", number, ref images @ ..] => {
                self.subscribe(number.parse().unwrap(), "Session", hello(images))
            }
            ["watch", number] => {
                let request = pb::WatchServiceRequest {
                    service_id: self.service.clone(),
                };
                self.subscribe(number.parse().unwrap(), "WatchService", request)
            }
            ["report", number, state] => self.report(number.parse().unwrap(), state),
            ["beat", number, ref used @ ..] => self.beat(number.parse().unwrap(), used),
            ["node", number] => {
                let request = pb::GetNodeRequest {
                    r#ref: "one".into(),
                };
                self.call(number.parse().unwrap(), "GetNode", request)
            }
            ["take", number] => self.take(number.parse().unwrap()),
            ["cancel", number] => {
                let number = number.parse().unwrap();
                self.untaken.remove(&number);
                self.step([Input::Cancel(CallId(number))])
            }
            ["sync"] => self.sync(),
            ["settle"] => self.settle(),
            ["full"] => self.step([Input::Space(false)]),
            ["room"] => self.step([Input::Space(true)]),
            ["wait", ms] => self.wait(ms.parse().unwrap()),
            ["restart"] => self.restart(),
            _ => panic!("`{line}` means nothing"),
        }
    }

    fn call(&mut self, number: u64, method: &str, request: impl Message) -> Vec<String> {
        self.raw(number, method, request.encode_to_vec())
    }

    fn raw(&mut self, number: u64, method: &str, body: Vec<u8>) -> Vec<String> {
        self.methods.insert(number, method.into());
        let call = self.to_core(number, method, body);
        self.step([Input::Call(call)])
    }

    fn subscribe(&mut self, number: u64, method: &str, request: impl Message) -> Vec<String> {
        self.methods.insert(number, method.into());
        let call = self.to_core(number, method, request.encode_to_vec());
        self.step([Input::Subscribe(call)])
    }

    fn to_core(&self, number: u64, method: &str, body: Vec<u8>) -> Call {
        Call {
            id: CallId(number),
            identity: "local".into(),
            method: method.into(),
            body,
            deadline_mono_ms: self.now_ms + TIMEOUT_MS,
            consistency: Consistency::Linearizable,
        }
    }

    fn report(&mut self, number: u64, state: &str) -> Vec<String> {
        let name = format!("CONTAINER_STATE_{}", state.to_uppercase());
        let state = pb::ContainerState::from_str_name(&name).unwrap();
        let removed = state == pb::ContainerState::Shutdown;
        let status = pb::ContainerStatus {
            attempt: 1,
            state: state.into(),
            removed,
            ..Default::default()
        };
        let items = self.assigned.iter().map(|id| pb::StatusItem {
            container_id: id.clone(),
            status: Some(status.clone()),
        });
        let report = pb::StatusReport {
            items: items.collect(),
        };
        let body = Some(pb::worker_message::Body::Report(report));
        let message = pb::WorkerMessage { body }.encode_to_vec();
        self.raw(
            number,
            "SessionMessage",
            [self.session.clone(), message].concat(),
        )
    }

    fn beat(&mut self, number: u64, used: &[&str]) -> Vec<String> {
        let used: Vec<u64> = used.iter().map(|word| word.parse().unwrap()).collect();
        let usage = match used[..] {
            [] => None,
            [cpu_milli, memory_bytes, pids, disk_bytes, age_ms] => Some(pb::NodeUsage {
                cpu_milli,
                memory_bytes,
                pids,
                disk_bytes,
                age_ms,
                measured_at_ms: 0,
            }),
            _ => panic!("a usage is CPU, memory, pids, disk, and its age"),
        };
        let heartbeat = pb::Heartbeat {
            sequence: number,
            usage,
        };
        let body = Some(pb::worker_message::Body::Heartbeat(heartbeat));
        let message = pb::WorkerMessage { body }.encode_to_vec();
        let body = [self.session.clone(), message].concat();
        self.methods.insert(number, "Heartbeat".into());
        let call = self.to_core(number, "SessionMessage", body);
        self.step([Input::Call(call)])
    }

    fn take(&mut self, number: u64) -> Vec<String> {
        self.untaken.remove(&number);
        self.step([Input::Taken(CallId(number))])
    }

    fn sync(&mut self) -> Vec<String> {
        let mut last = None;
        for persist in std::mem::take(&mut self.unsynced) {
            self.durable.hard_state = persist.hard_state.or(self.durable.hard_state.take());
            self.durable.entries.extend(persist.entries);
            last = Some(persist.number);
        }
        last.map_or_else(Vec::new, |number| self.step([Input::Persisted(number)]))
    }

    fn settle(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            if !self.unsynced.is_empty() {
                said.extend(self.sync());
            } else if let Some(number) = self.untaken.first().copied() {
                said.extend(self.take(number));
            } else {
                return said;
            }
        }
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..ms / 100 {
            self.now_ms += 100;
            said.extend(self.step([Input::Pulse, Input::Tick]));
        }
        said
    }

    fn restart(&mut self) -> Vec<String> {
        self.unsynced.clear();
        self.untaken.clear();
        let (state, conf) = genesis(self.durable.identity.expect("a log").member);
        let recovered = Recovered {
            identity: self.durable.identity.expect("a log"),
            state,
            snapshot: Some((GENESIS, conf)),
            hard_state: self.durable.hard_state.clone(),
            entries: self.durable.entries.clone(),
            cut: false,
        };
        self.control = Control::recover(config(), recovered).unwrap();
        self.step([])
    }

    fn step(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<String> {
        let now = Now {
            mono_ns: self.now_ms * 1_000_000,
            wall_ms: self.now_ms,
        };
        let out = self.control.step(now, inputs);
        let mut said = Vec::new();
        if let Some(identity) = out.create_log {
            self.durable.identity = Some(identity);
            said.push("create the log".into());
        }
        let create = out.create_log.is_some();
        let again = out.again;
        self.note(out, &mut said);
        if create {
            said.extend(self.step([Input::LogCreated(Ok(()))]));
        } else if again {
            said.extend(self.step([]));
        }
        said
    }

    fn note(&mut self, out: Outputs, said: &mut Vec<String>) {
        for persist in out.persist {
            let first = persist.entries.first().map_or(0, |entry| entry.index);
            let count = persist.entries.len();
            said.push(format!("persist {count} entries from {first}"));
            self.unsynced.push(persist);
        }
        for (id, result) in out.replies {
            said.push(self.reply(id.0, result));
        }
        for job in out.reads {
            let answer = job.answer();
            said.push(self.reply(job.id.0, answer));
        }
        for (id, item) in out.items {
            assert!(
                self.untaken.insert(id.0),
                "stream {} had not taken its last item",
                id.0
            );
            said.push(self.item(id.0, &item));
        }
        for (id, error) in out.ended {
            self.untaken.remove(&id.0);
            let code = error.map_or("", |error| error.code());
            said.push(format!("stream {} ends {code}", id.0).trim_end().into());
        }
        let control = out.log_lines.iter().filter(|line| line.component != "raft");
        said.extend(control.map(|line| format!("log: {}", line.message)));
    }

    fn reply(&mut self, number: u64, result: Result<Vec<u8>, warren_core::error::Error>) -> String {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => return format!("call {number} is refused: {}", error.code()),
        };
        let bytes = bytes.as_slice();
        let what = match self.methods[&number].as_str() {
            "CreateService" => {
                let response = pb::CreateServiceResponse::decode(bytes).unwrap();
                self.service = response.service_id;
                format!("version {}", response.version)
            }
            "ListServices" => {
                let response = pb::ListServicesResponse::decode(bytes).unwrap();
                let name = |view: pb::ServiceView| {
                    let name = view.service.unwrap().spec.unwrap().name;
                    format!("{name} {}/{}", view.running, view.desired)
                };
                response
                    .services
                    .into_iter()
                    .map(name)
                    .collect::<Vec<_>>()
                    .join(", ")
            }
            "SessionMessage" => {
                let response = pb::BatchResult::decode(bytes).unwrap();
                let applied = response.items.iter().filter(|item| item.applied).count();
                format!("{applied} of {} applied", response.items.len())
            }
            "GetNode" => {
                let response = pb::GetNodeResponse::decode(bytes).unwrap();
                match response.node.unwrap().used {
                    Some(used) => format!(
                        "used {} {} {} {} at {} ms",
                        used.cpu_milli,
                        used.memory_bytes,
                        used.pids,
                        used.disk_bytes,
                        used.measured_at_ms
                    ),
                    None => "used unknown".into(),
                }
            }
            _ => String::new(),
        };
        format!("call {number} is answered {what}")
            .trim_end()
            .into()
    }

    fn item(&mut self, number: u64, item: &[u8]) -> String {
        if self.methods[&number] == "WatchService" {
            let p = pb::ServiceProgress::decode(item).unwrap();
            let gone = if p.gone { " gone" } else { "" };
            let counts = format!("{}/{} leaving {}", p.running, p.desired, p.leaving);
            return format!("stream {number}: {counts} pending {}{gone}", p.pending);
        }
        match pb::ManagerMessage::decode(item).unwrap().body.unwrap() {
            pb::manager_message::Body::Welcome(welcome) => {
                self.session = welcome.session_id;
                format!("stream {number}: welcome in term {}", welcome.term)
            }
            pb::manager_message::Body::Assignments(set) => {
                if set.complete {
                    self.assigned.clear();
                }
                self.assigned
                    .extend(set.upsert.iter().map(|a| a.container_id.clone()));
                set.remove
                    .iter()
                    .for_each(|id| assert!(self.assigned.remove(id), "it was assigned"));
                let kind = if set.complete { "set" } else { "change" };
                let (more, less, specs) = (set.upsert.len(), set.remove.len(), set.specs.len());
                let known: String = set.upsert.iter().map(known).collect();
                format!("stream {number}: {kind} +{more} -{less} specs {specs}{known}")
            }
            pb::manager_message::Body::HeartbeatAck(ack) => {
                format!("stream {number}: heartbeat {} taken", ack.sequence)
            }
            pb::manager_message::Body::Managers(managers) => {
                let member = if managers.membership.is_some() {
                    ", member"
                } else {
                    ""
                };
                let addresses = managers.api_addresses.join(" ");
                format!("stream {number}: managers {addresses}{member}")
            }
        }
    }
}

/// What a worker is told of a container's past; nothing where it has none.
fn known(told: &pb::Assignment) -> String {
    let status = told.status.as_ref().expect("each has a status");
    match status.state() {
        pb::ContainerState::Assigned => String::new(),
        state => format!(
            " known {} in attempt {}",
            &state.as_str_name()[16..],
            status.attempt
        ),
    }
}

fn create(name: &str, replicas: u32) -> pb::CreateServiceRequest {
    let container = pb::ContainerSpec {
        image: "app".into(),
        ..Default::default()
    };
    pb::CreateServiceRequest {
        request: None,
        spec: Some(pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            replicas,
            container: Some(container),
            ..Default::default()
        }),
    }
}

fn hello(images: &[&str]) -> pb::Hello {
    let image = |name: &&str| pb::NodeImage {
        reference: format!("docker.io/library/{name}:latest"),
        digest: format!("sha256:{}", "a".repeat(64)),
        size_bytes: 1,
    };
    pb::Hello {
        node_id: NODE.to_vec(),
        description: Some(pb::NodeDescription {
            name: "one".into(),
            capacity: Some(pb::Resources {
                cpu_milli: 4000,
                memory_bytes: 1 << 32,
                ..Default::default()
            }),
            images: images.iter().map(image).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
