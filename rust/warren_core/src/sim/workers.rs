//! Hosts that run containers, as a manager sees them: a session, reports, heartbeats, and silence.
//!
//! A worker keeps what it runs over any fail-over, tells every new leader all of it, and obeys
//! nobody of a lower (epoch, term) than it has obeyed before.

mod contact;
mod containers;

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;

use super::network::End;
use super::queue::{Asked, Event, Failure};
use super::random::Random;
use super::wire::Wire;
use crate::control::Consistency;
use crate::ids::NodeId;
use crate::pb;
use contact::Contact;
use containers::Containers;

const SECOND_NS: u64 = 1_000_000_000;
/// How often a worker looks after its containers and its session.
const ROUND_NS: u64 = SECOND_NS / 2;
/// Without an answer for this long, a worker looks for another manager.
const SILENCE_NS_MAX: u64 = 6 * SECOND_NS;
const RECONNECT_NS_MEAN: u64 = SECOND_NS;

/// A stream to a manager.
struct Session {
    manager: End,
    token: u64,
    /// Known from the welcome on.
    id: Option<Vec<u8>>,
    heartbeat_ns: u64,
    /// When the manager last answered anything.
    heard_ns: u64,
    beat_ns: u64,
    /// Heartbeats that are not acknowledged yet: of which token, sequence and time.
    beats: VecDeque<(u64, u64, u64)>,
    sequence: u64,
}

struct Worker {
    end: End,
    node: NodeId,
    random: Random,
    tokens: u64,
    generation: u32,
    session: Option<Session>,
    /// Highest (epoch, term) obeyed.
    fence: (u64, u64),
    revision: Option<pb::Revision>,
    containers: Containers,
    contact: Contact,
    cpu_milli: u64,
    /// It neither works nor speaks until then.
    off_until_ns: u64,
    /// Taken away; it comes back as another host under the same name.
    gone: bool,
}

pub struct Workers {
    workers: Vec<Worker>,
    /// What no correct manager does.
    pub absurd: Option<String>,
    /// Nothing fails by itself any more.
    pub calm: bool,
}

impl Workers {
    pub fn new(seed: u64, ends: impl Iterator<Item = End>) -> Self {
        Self {
            workers: ends.map(|end| Worker::new(seed, end)).collect(),
            absurd: None,
            calm: false,
        }
    }

    pub fn begin(&mut self, wire: &mut Wire) {
        self.workers
            .iter_mut()
            .for_each(|worker| worker.wake_in(wire, ROUND_NS));
    }

    pub fn ends(&self) -> impl Iterator<Item = End> {
        self.workers.iter().map(|worker| worker.end)
    }

    /// The host is off for so long; what it ran is there again afterwards.
    pub fn switch_off(&mut self, wire: &mut Wire, end: End, for_ns: u64) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.end == end) {
            worker.off_until_ns = wire.now_ns + for_ns;
            worker.end_session(wire);
            worker.contact = Contact::default();
            worker.containers.reboot();
            worker.wake_in(wire, for_ns);
        }
    }

    /// The host is taken away for good, and what it ran with it.
    pub fn take_away(&mut self, wire: &mut Wire, end: End) {
        if let Some(worker) = self.find(end) {
            worker.end_session(wire);
            worker.gone = true;
            worker.generation += 1;
            (worker.fence, worker.revision) = ((0, 0), None);
            (worker.containers, worker.contact) = Default::default();
        }
    }

    /// It stands there again, newly installed.
    pub fn bring_back(&mut self, wire: &mut Wire, end: End) {
        if let Some(worker) = self.find(end).filter(|worker| worker.gone) {
            worker.gone = false;
            worker.wake_in(wire, ROUND_NS);
        }
    }

    pub fn node(&self, end: End) -> Option<NodeId> {
        let worker = self.workers.iter().find(|worker| worker.end == end)?;
        Some(worker.node)
    }

    pub fn end_of(&self, node: NodeId) -> Option<End> {
        let worker = self.workers.iter().find(|worker| worker.node == node)?;
        Some(worker.end)
    }

    /// Every host that is there talks with a manager: none measures how long it has been alone.
    pub fn are_in_session(&self) -> bool {
        let talks = |worker: &Worker| worker.session.as_ref().is_some_and(|s| s.id.is_some());
        self.workers
            .iter()
            .all(|worker| worker.gone || talks(worker))
    }

    /// A singleton that runs on two hosts at this moment.
    pub fn doubled(&self) -> Option<String> {
        let mut running = BTreeMap::new();
        for worker in &self.workers {
            for place in worker.containers.singletons() {
                if let Some(other) = running.insert(place, worker.end) {
                    let (slot, here) = (place.1, worker.end.0);
                    let other = other.0;
                    return Some(format!(
                        "a singleton in slot {slot} runs on workers {other} and {here}"
                    ));
                }
            }
        }
        None
    }

    /// All hosts are on again.
    pub fn switch_on(&mut self, wire: &mut Wire) {
        for worker in &mut self.workers {
            if worker.off_until_ns > wire.now_ns {
                worker.off_until_ns = wire.now_ns;
                worker.wake_in(wire, ROUND_NS);
            }
        }
    }

    pub fn wake(&mut self, wire: &mut Wire, end: End, generation: u32) {
        let calm = self.calm;
        if let Some(worker) = self.find(end)
            && worker.generation == generation
        {
            worker.round(wire, calm);
        }
    }

    pub fn answered(
        &mut self,
        wire: &mut Wire,
        end: End,
        token: u64,
        result: Result<Vec<u8>, Failure>,
    ) {
        if let Some(worker) = self.find(end) {
            worker.answered(wire, token, result);
        }
    }

    pub fn item(&mut self, wire: &mut Wire, end: End, token: u64, bytes: &[u8]) {
        let Some(worker) = self.find(end) else { return };
        if let Err(what) = worker.item(wire, token, bytes) {
            self.absurd.get_or_insert(what);
        }
    }

    fn find(&mut self, end: End) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.end == end)
    }
}

impl Worker {
    fn new(seed: u64, end: End) -> Self {
        let mut random = Random::stream(seed, "worker", u64::from(end.0));
        let mut node = [0xee; 16];
        node[0] = end.0;
        Self {
            end,
            node: NodeId(node),
            cpu_milli: 2_000 + 1_000 * random.below(3),
            random,
            tokens: 0,
            generation: 0,
            session: None,
            fence: (0, 0),
            revision: None,
            containers: Containers::default(),
            contact: Contact::default(),
            off_until_ns: 0,
            gone: false,
        }
    }

    fn wake_in(&mut self, wire: &mut Wire, delay_ns: u64) {
        self.generation += 1;
        wire.plan_in(delay_ns, Event::Wake(self.end, self.generation));
    }

    fn round(&mut self, wire: &mut Wire, calm: bool) {
        if self.gone {
            return;
        }
        if wire.now_ns < self.off_until_ns {
            let off_ns = self.off_until_ns - wire.now_ns;
            return self.wake_in(wire, off_ns);
        }
        let now_ns = wire.now_ns;
        self.containers
            .work(&mut self.random, calm, &self.contact, now_ns);
        let contact = &self.contact;
        let broken = |limit_ns: u64| contact.needs_hello(limit_ns, now_ns);
        if self.containers.limits_ns().any(broken) {
            self.end_session(wire);
        }
        let silent = |session: &Session| wire.now_ns > session.heard_ns + SILENCE_NS_MAX;
        if self.session.as_ref().is_some_and(silent) {
            self.end_session(wire);
        }
        match &self.session {
            None => self.connect(wire),
            Some(session) if session.id.is_some() => {
                let beat = wire.now_ns >= session.beat_ns + session.heartbeat_ns;
                if let Some(items) = self.containers.news() {
                    let report = pb::StatusReport { items };
                    self.say(wire, pb::worker_message::Body::Report(report));
                }
                if beat {
                    self.beat(wire);
                }
            }
            Some(_) => {}
        }
        self.wake_in(wire, ROUND_NS);
    }

    fn connect(&mut self, wire: &mut Wire) {
        let Some(manager) = self.random.pick(&wire.directory).copied() else {
            return;
        };
        self.tokens += 1;
        let token = self.tokens;
        self.session = Some(Session {
            manager,
            token,
            id: None,
            heartbeat_ns: 2 * SECOND_NS,
            heard_ns: wire.now_ns,
            beat_ns: wire.now_ns,
            beats: VecDeque::new(),
            sequence: 0,
        });
        self.contact.hello(wire.now_ns);
        let body = self.hello().encode_to_vec();
        let asked = self.asked(token, "Session", body, true);
        wire.ask(manager, asked);
    }

    /// Of three, by where it is.
    fn zone(&self) -> &'static str {
        ["a", "b", "c"][self.end.0 as usize % 3]
    }

    fn hello(&mut self) -> pb::Hello {
        let image = pb::NodeImage {
            reference: "docker.io/library/app:latest".into(),
            digest: format!("sha256:{}", "a".repeat(64)),
            size_bytes: 1 << 20,
        };
        pb::Hello {
            node_id: self.node.to_vec(),
            description: Some(pb::NodeDescription {
                name: format!("worker-{}", self.end.0),
                capacity: Some(pb::Resources {
                    cpu_milli: self.cpu_milli,
                    memory_bytes: 4 << 30,
                    ..Default::default()
                }),
                images: vec![image],
                labels: [("zone".to_owned(), self.zone().to_owned())].into(),
                volumes: vec![pb::NodeVolume {
                    name: "data".into(),
                    read_only: self.zone() == "c",
                }],
                ..Default::default()
            }),
            observed: self.containers.all(),
            last_revision: self.revision,
            set_hash: self.containers.set_hash(),
            fence_epoch: self.fence.0,
            fence_term: self.fence.1,
            manages: false,
        }
    }

    fn asked(&self, token: u64, method: &'static str, body: Vec<u8>, stream: bool) -> Asked {
        Asked {
            from: self.end,
            token,
            identity: format!("worker/{}", self.node),
            method,
            body,
            timeout_ms: 10_000,
            consistency: Consistency::Linearizable,
            stream,
        }
    }

    fn beat(&mut self, wire: &mut Wire) {
        let (token, now_ns) = (self.tokens + 1, wire.now_ns);
        let Some(session) = &mut self.session else {
            return;
        };
        session.sequence += 1;
        let sequence = session.sequence;
        session.beat_ns = now_ns;
        session.beats.push_back((token, sequence, now_ns));
        // Members' states stay equal although only one of them is told.
        let usage = Some(pb::NodeUsage {
            cpu_milli: sequence,
            ..Default::default()
        });
        let heartbeat = pb::Heartbeat { sequence, usage };
        self.say(wire, pb::worker_message::Body::Heartbeat(heartbeat));
    }

    /// What a message of this session was answered with, if that is what it should be.
    fn acknowledged(&mut self, token: u64, bytes: &[u8]) {
        let Some(session) = &mut self.session else {
            return;
        };
        while let Some((beat, sequence, sent_ns)) = session.beats.front().copied()
            && beat <= token
        {
            session.beats.pop_front();
            let ack = pb::ManagerMessage::decode(bytes).ok().and_then(|m| m.body);
            if let Some(pb::manager_message::Body::HeartbeatAck(ack)) = ack
                && beat == token
                && ack.sequence == sequence
            {
                self.contact.acknowledged(sent_ns);
            }
        }
    }

    fn say(&mut self, wire: &mut Wire, body: pb::worker_message::Body) {
        let Some(session) = &mut self.session else {
            return;
        };
        let Some(id) = &session.id else { return };
        let message = pb::WorkerMessage { body: Some(body) }.encode_to_vec();
        let body = [id.as_slice(), &message].concat();
        let manager = session.manager;
        self.tokens += 1;
        let asked = self.asked(self.tokens, "SessionMessage", body, false);
        if !wire.ask(manager, asked) {
            // Messages of a session share one stream, which breaks.
            self.end_session(wire);
        }
    }

    fn answered(&mut self, wire: &mut Wire, token: u64, result: Result<Vec<u8>, Failure>) {
        let Some(session) = &mut self.session else {
            return;
        };
        match result {
            Ok(bytes) if token > session.token => {
                session.heard_ns = wire.now_ns;
                self.acknowledged(token, &bytes);
            }
            // A full disk refuses reports and ends no session: they come again with the next.
            Err(Failure::Refused(error)) if token > session.token && error.code() == "no_space" => {
                session.heard_ns = wire.now_ns;
                self.containers.report_again();
            }
            Err(_) if token >= session.token => {
                // Whatever was under way is in the next hello.
                self.end_session(wire);
                let pause_ns = self.random.wait(RECONNECT_NS_MEAN);
                self.wake_in(wire, pause_ns);
            }
            _ => {}
        }
    }

    fn end_session(&mut self, wire: &mut Wire) {
        if let Some(session) = self.session.take() {
            wire.cancel(session.manager, self.end, session.token);
        }
    }

    fn item(&mut self, wire: &mut Wire, token: u64, bytes: &[u8]) -> Result<(), String> {
        let Some(session) = self.session.as_mut().filter(|s| s.token == token) else {
            return Ok(());
        };
        session.heard_ns = wire.now_ns;
        let message = pb::ManagerMessage::decode(bytes).map_err(|error| error.to_string())?;
        match message.body {
            Some(pb::manager_message::Body::Welcome(welcome)) => {
                let from = (welcome.epoch, welcome.term);
                if from < self.fence {
                    self.end_session(wire);
                    return Ok(());
                }
                self.fence = from;
                session.id = Some(welcome.session_id);
                session.heartbeat_ns = u64::from(welcome.heartbeat_interval_ms) * 1_000_000;
            }
            Some(pb::manager_message::Body::Assignments(assignments)) => {
                self.revision = assignments.revision;
                self.containers.assign(&assignments)?;
                self.contact.agreed();
            }
            Some(
                pb::manager_message::Body::HeartbeatAck(_) | pb::manager_message::Body::Managers(_),
            ) => {}
            None => return Err("a message that says nothing".into()),
        }
        Ok(())
    }
}
