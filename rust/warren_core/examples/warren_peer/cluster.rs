//! What a client and a worker say to the member, through the same door as the daemon's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use warren_core::host::{Completion, Host, Kind};
use warren_core::pb;

use crate::Failure;
use crate::json::{hex, text, unhex};

pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);
/// The service that is read: without containers, since counting them is not what is measured.
pub const READ_SERVICE: &str = "read";
const IMAGE: &str = "docker.io/library/app:latest";

/// The member, and what has been said to it.
pub struct Cluster {
    pub host: Arc<Host>,
    pub node: Vec<u8>,
    pub worker: Option<Worker>,
    waiting: VecDeque<Completion>,
    client: Vec<u8>,
    sequence: u64,
    runs: u32,
}

/// An open session and the containers assigned to it.
pub struct Worker {
    pub session: Vec<u8>,
    pub containers: Vec<Vec<u8>>,
}

impl Cluster {
    pub fn new(host: Arc<Host>) -> Self {
        let mut client = vec![0; 16];
        client[..4].copy_from_slice(&std::process::id().to_le_bytes());
        Self {
            host,
            node: Vec::new(),
            worker: None,
            waiting: VecDeque::new(),
            client,
            sequence: 0,
            runs: 0,
        }
    }

    pub fn found(&mut self) -> Result<String, Failure> {
        let request = pb::InitClusterRequest::default();
        let answer: pb::InitClusterResponse = self.call("InitCluster", &request)?;
        self.node = answer.node_id;
        Ok(format!(
            "{{\"cluster\": {}}}",
            text(&hex(&answer.cluster_id))
        ))
    }

    /// Admits a member, which will vote once it has caught up.
    pub fn add(&mut self, data_dir: &str, number: u8, address: &str) -> Result<String, Failure> {
        let request = pb::AddMemberRequest {
            request: Some(self.request_id()),
            data_dir: unhex(data_dir)?,
            node_id: vec![number; 16],
            address: address.into(),
            learner_only: false,
            api_address: String::new(),
        };
        let answer: pb::AddMemberResponse = self.call("AddMember", &request)?;
        let (cluster, epoch, member) = (hex(&answer.cluster_id), answer.epoch, answer.member_id);
        let join = text(&format!("{cluster}:{epoch}:{member}:{data_dir}"));
        Ok(format!("{{\"join\": {join}}}"))
    }

    /// The session of a worker on this node, and a service whose containers are all bound to it.
    pub fn open_worker(&mut self, containers: u32) -> Result<String, Failure> {
        let stream =
            self.host
                .subscribe("local", "Session", &self.hello(containers).encode_to_vec())?;
        let welcome = self.next_item(stream)?;
        let Some(pb::manager_message::Body::Welcome(welcome)) = welcome.body else {
            return Err("a session begins with a welcome".into());
        };
        self.wait_for_image()?;
        self.create_service("bench", containers, "")?;
        self.create_service(READ_SERVICE, 0, "")?;
        let mut assigned = Vec::new();
        while assigned.len() < containers as usize {
            if let Some(pb::manager_message::Body::Assignments(more)) = self.next_item(stream)?.body
            {
                assigned.extend(more.upsert.into_iter().map(|one| one.container_id));
            }
        }
        self.worker = Some(Worker {
            session: welcome.session_id,
            containers: assigned,
        });
        Ok(format!("{{\"containers\": {containers}}}"))
    }

    pub fn status(&self) -> String {
        let status = self.host.status();
        let fields = [
            ("leader", status.leader.to_string()),
            ("has_leader", status.has_leader.to_string()),
            ("voters", status.voters.to_string()),
            ("term", status.term.to_string()),
            ("last_index", status.last_index.to_string()),
            ("applied_index", status.applied_index.to_string()),
        ];
        let fields = fields.map(|(name, value)| format!("\"{name}\": {value}"));
        format!("{{{}}}", fields.join(", "))
    }

    pub fn create_service(
        &mut self,
        name: &str,
        replicas: u32,
        padding: &str,
    ) -> Result<pb::CreateServiceResponse, Failure> {
        let request = pb::CreateServiceRequest {
            request: Some(self.request_id()),
            spec: Some(spec(name, replicas, padding)),
        };
        self.call("CreateService", &request)
    }

    /// Tells what one run makes from what others made.
    pub fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    /// A request id that has not been used.
    pub fn request_id(&mut self) -> pb::RequestId {
        self.sequence += 1;
        pb::RequestId {
            client: self.client.clone(),
            sequence: self.sequence,
            digest: Vec::new(),
        }
    }

    pub fn submit(&self, method: &str, request: &impl Message) -> Result<u64, Failure> {
        let body = request.encode_to_vec();
        Ok(self.host.submit("local", method, &body, CALL_TIMEOUT)?)
    }

    /// What has completed; waits for something until `deadline`.
    pub fn completed(&mut self, deadline: Instant) -> Result<Vec<Completion>, Failure> {
        loop {
            let mut batch: Vec<_> = self.waiting.drain(..).collect();
            batch.extend(self.drain());
            if !batch.is_empty() {
                return Ok(batch);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("nothing completed in time".into());
            }
            self.wait(left)?;
        }
    }

    /// Completions that wait; what the member logs goes to stderr.
    pub fn drain(&self) -> Vec<Completion> {
        let (lines, others): (Vec<_>, Vec<_>) = self
            .host
            .drain(1024)
            .into_iter()
            .partition(|completion| completion.kind == Kind::Log);
        for line in lines {
            eprintln!("{}", String::from_utf8_lossy(&line.payload));
        }
        others
    }

    fn call<M: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<M, Failure> {
        let id = self.submit(method, request)?;
        let completion = self.next(id)?;
        match completion.kind {
            Kind::Response => Ok(M::decode(completion.payload.as_slice())?),
            _ => Err(refusal(&completion).into()),
        }
    }

    fn next_item(&mut self, stream: u64) -> Result<pb::ManagerMessage, Failure> {
        let completion = self.next(stream)?;
        match completion.kind {
            Kind::Item => {
                self.host.taken(stream);
                Ok(pb::ManagerMessage::decode(completion.payload.as_slice())?)
            }
            _ => Err(refusal(&completion).into()),
        }
    }

    /// The next completion under `id`; others wait.
    fn next(&mut self, id: u64) -> Result<Completion, Failure> {
        let deadline = Instant::now() + SETUP_TIMEOUT;
        let mut others = VecDeque::new();
        loop {
            for completion in self.completed(deadline)? {
                others.push_back(completion);
            }
            if let Some(at) = others.iter().position(|completion| completion.id == id) {
                let found = others.remove(at).ok_or("it was there a moment ago")?;
                self.waiting = others;
                return Ok(found);
            }
        }
    }

    fn wait(&self, timeout: Duration) -> Result<(), Failure> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        poll(
            &mut [PollFd::new(&*self.host, PollFlags::IN)],
            Some(&timeout),
        )?;
        Ok(())
    }

    fn hello(&self, containers: u32) -> pb::Hello {
        pb::Hello {
            node_id: self.node.clone(),
            description: Some(pb::NodeDescription {
                name: "bench".into(),
                capacity: Some(pb::Resources {
                    cpu_milli: 1000 * u64::from(containers),
                    memory_bytes: u64::from(containers) << 30,
                    ..Default::default()
                }),
                images: vec![pb::NodeImage {
                    reference: IMAGE.into(),
                    digest: format!("sha256:{}", "a".repeat(64)),
                    size_bytes: 1,
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A service is refused as long as nobody has its image.
    fn wait_for_image(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + SETUP_TIMEOUT;
        loop {
            let found: pb::GetClusterResponse =
                self.call("GetCluster", &pb::GetClusterRequest::default())?;
            if found.workers > 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("the worker's description was not applied in time".into());
            }
        }
    }
}

pub fn spec(name: &str, replicas: u32, padding: &str) -> pb::ServiceSpec {
    pb::ServiceSpec {
        name: name.into(),
        mode: pb::ServiceMode::Replicated.into(),
        replicas,
        container: Some(pb::ContainerSpec {
            image: IMAGE.into(),
            env: vec![format!("PADDING={padding}")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn refusal(completion: &Completion) -> String {
    match pb::Error::decode(completion.payload.as_slice()) {
        Ok(error) => format!("{}: {}", error.code, error.message),
        Err(error) => error.to_string(),
    }
}
