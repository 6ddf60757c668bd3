//! Several machines on real files, and the frames between them, in one thread.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on files of its own"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use prost::Message;
use warren_core::control::durable::{self, Inbox, Snapshots, backup};
use warren_core::control::{
    Config, Consistency, Control, Identity, Input, Now, Outputs, Status, Stop,
};
use warren_core::error::Error;
use warren_core::fsm::{FEATURE_LEVEL_MAX, State};
use warren_core::ids::{ClusterId, MemberId, NodeId};
use warren_core::pb;
use warren_core::raft::{Lane, Position, TICK_MS};
use warren_core::wal::{self, FileDisk, Wal};

#[path = "calls.rs"]
mod calls;
#[path = "recovery.rs"]
mod recovery;

pub use calls::create;

const TIMEOUT_MS: u64 = 5_000;
const SEGMENT_BYTES: u64 = 1 << 20;

pub type Answer = Result<Vec<u8>, Error>;

/// One member, or a host that is in no cluster yet.
pub struct Host {
    control: Option<Control>,
    dir: PathBuf,
    wal: Option<Wal>,
    snapshots: Snapshots,
    inbox: Inbox,
    identity: Option<Identity>,
    in_use: Vec<Position>,
    answers: BTreeMap<u64, Answer>,
    lives: u8,
    pub stop: Option<Stop>,
    pub log: Vec<String>,
    /// Of its streams.
    pub items: Vec<Vec<u8>>,
    pub round_trips_ns: Vec<(MemberId, u64)>,
    pub feature_level_max: u32,
    pub snapshot_bytes: u64,
    pub pulses: bool,
    /// What is persisted is not answered.
    pub disk_stuck: bool,
    /// Its process does not run; what comes meanwhile is lost.
    pub paused: bool,
    unanswered: Vec<Input>,
}

/// All of them, and what is on its way.
pub struct Cluster {
    pub hosts: BTreeMap<u64, Host>,
    pub now_ms: u64,
    /// When they arrive, from whom, and to whom.
    frames: VecDeque<(u64, u64, u64, Lane, Vec<u8>)>,
    /// How long frames are on their way.
    pub latency_ms: u64,
    /// Directions in which nothing arrives.
    pub cut: BTreeSet<(u64, u64)>,
    /// Sees every frame; false loses it.
    pub filter: fn(&[u8]) -> bool,
    next_call: u64,
    root: PathBuf,
    pub frames_delivered: u64,
}

impl Cluster {
    /// Hosts 1 to `count`, the first of which founds a cluster.
    pub fn founded(count: u64) -> Self {
        Self::founded_with(count, |_| {})
    }

    pub fn founded_with(count: u64, change: impl Fn(&mut Host)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("warren-control-{}-{number}", std::process::id());
        let mut cluster = Self {
            hosts: BTreeMap::new(),
            now_ms: 1_000,
            frames: VecDeque::new(),
            latency_ms: 0,
            cut: BTreeSet::new(),
            filter: |_| true,
            next_call: 1,
            root: std::env::temp_dir().join(name),
            frames_delivered: 0,
        };
        for number in 1..=count {
            cluster.add_host(number);
            change(cluster.hosts.get_mut(&number).unwrap());
            cluster.start(number);
        }
        let found = pb::InitClusterRequest::default();
        cluster.call(1, "InitCluster", &found).unwrap();
        cluster.open_session(1);
        cluster
    }

    pub fn open_session(&mut self, number: u64) {
        self.open_session_at(number, number);
    }

    /// A node that has the image `app`, so that services can be created.
    pub fn open_session_at(&mut self, member: u64, number: u64) {
        let image = pb::NodeImage {
            reference: "docker.io/library/app:latest".into(),
            digest: format!("sha256:{}", "a".repeat(64)),
            size_bytes: 1,
        };
        let hello = pb::Hello {
            node_id: vec![number as u8; 16],
            description: Some(pb::NodeDescription {
                name: format!("host-{number}"),
                images: vec![image],
                ..Default::default()
            }),
            ..Default::default()
        };
        let call = self.new_call("Session", &hello, Consistency::Linearizable);
        self.step(member, vec![Input::Subscribe(call)]);
    }

    /// A cluster in which all of `count` vote.
    pub fn of(count: u64) -> Self {
        let mut cluster = Self::founded(count);
        for number in 2..=count {
            cluster.join(number);
        }
        let voting = |cluster: &Self| {
            let status = cluster.status(1);
            status.voters == count as usize && !status.is_joint
        };
        cluster.until("all vote", 5_000, voting);
        cluster
    }

    pub fn add_host(&mut self, number: u64) {
        let dir = self.root.join(number.to_string());
        let host = Host {
            control: None,
            snapshots: Snapshots::new(Arc::new(FileDisk), &dir),
            dir,
            wal: None,
            inbox: Inbox::default(),
            identity: None,
            in_use: Vec::new(),
            answers: BTreeMap::new(),
            lives: 0,
            stop: None,
            log: Vec::new(),
            items: Vec::new(),
            round_trips_ns: Vec::new(),
            feature_level_max: FEATURE_LEVEL_MAX,
            snapshot_bytes: u64::MAX,
            pulses: true,
            disk_stuck: false,
            paused: false,
            unanswered: Vec::new(),
        };
        self.hosts.insert(number, host);
        self.start(number);
    }

    /// Asks the leader for a member on this host, and starts it.
    pub fn join(&mut self, number: u64) -> MemberId {
        let added = self.add_member(number, false).unwrap();
        self.start_joiner(number, &added);
        MemberId(added.member_id)
    }

    pub fn add_member(
        &mut self,
        number: u64,
        learner_only: bool,
    ) -> Result<pb::AddMemberResponse, Error> {
        let request = pb::AddMemberRequest {
            api_address: String::new(),
            request: None,
            data_dir: data_dir(number).to_vec(),
            node_id: vec![number as u8; 16],
            address: address(number),
            learner_only,
        };
        let leader = self.leader();
        let answer = self.call(leader, "AddMember", &request)?;
        Ok(pb::AddMemberResponse::decode(answer.as_slice()).unwrap())
    }

    pub fn start_joiner(&mut self, number: u64, added: &pb::AddMemberResponse) {
        let identity = Identity {
            cluster: ClusterId::from_slice(&added.cluster_id).unwrap(),
            epoch: added.epoch,
            member: MemberId(added.member_id),
            data_dir: data_dir(number),
        };
        let host = self.hosts.get_mut(&number).unwrap();
        durable::create(Arc::new(FileDisk), &host.dir, &identity, false, options()).unwrap();
        self.start(number);
    }

    /// (Re)starts a host from its files.
    pub fn start(&mut self, number: u64) {
        let host = self.hosts.get_mut(&number).unwrap();
        host.wal = None;
        host.lives += 1;
        host.unanswered.clear();
        (host.inbox, host.stop) = (Inbox::default(), None);
        let found = durable::recover(Arc::new(FileDisk), &host.dir, options()).unwrap();
        let config = host.config(number);
        host.control = Some(match found {
            None => Control::outside(config),
            Some(found) => {
                host.identity = Some(found.recovered.identity);
                host.wal = Some(found.wal);
                Control::recover(config, found.recovered).unwrap()
            }
        });
        self.step(number, Vec::new());
    }

    /// The process dies; the disk keeps what it was given.
    pub fn kill(&mut self, number: u64) {
        let host = self.hosts.get_mut(&number).unwrap();
        (host.control, host.wal) = (None, None);
    }

    /// The disk is lost, and another one is in its place.
    pub fn wipe(&mut self, number: u64) {
        self.kill(number);
        std::fs::remove_dir_all(&self.hosts[&number].dir).unwrap();
    }

    pub fn is_up(&self, number: u64) -> bool {
        let host = &self.hosts[&number];
        host.control.is_some() && host.stop.is_none()
    }

    pub fn control(&self, number: u64) -> &Control {
        self.hosts[&number].control.as_ref().expect("it is up")
    }

    pub fn status(&self, number: u64) -> Status {
        self.control(number).status()
    }

    pub fn state(&self, number: u64) -> &State {
        self.control(number).state().expect("it is a member")
    }

    pub fn member(&self, number: u64) -> MemberId {
        self.hosts[&number].identity.expect("it is a member").member
    }

    pub fn leaders(&self) -> Vec<u64> {
        let up = self.hosts.keys().copied().filter(|n| self.is_up(*n));
        up.filter(|n| self.status(*n).serving).collect()
    }

    /// The one leader, waited for.
    pub fn leader(&mut self) -> u64 {
        self.until("a leader", 5_000, |cluster| !cluster.leaders().is_empty());
        let leaders = self.leaders();
        let newest = leaders.into_iter().max_by_key(|n| self.status(*n).term);
        newest.unwrap()
    }

    /// Nothing passes between the two sides.
    pub fn partition(&mut self, one: &[u64], other: &[u64]) {
        for a in one {
            for b in other {
                self.cut.extend([(*a, *b), (*b, *a)]);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(TICK_MS) {
            self.tick();
        }
    }

    pub fn until(&mut self, what: &str, within_ms: u64, holds: impl Fn(&Self) -> bool) {
        let deadline = self.now_ms + within_ms;
        while !holds(self) {
            assert!(self.now_ms < deadline, "never: {what}: {}", self.describe());
            self.tick();
        }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (number, host) in &self.hosts {
            let status = host.control.as_ref().map(Control::status);
            let log = host.log.iter().rev().take(12).collect::<Vec<_>>();
            text += &format!("\n{number}: {status:?} stop {:?} log {log:#?}", host.stop);
        }
        text
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let numbers: Vec<u64> = self.hosts.keys().copied().collect();
        for number in numbers {
            let pulse = self.hosts[&number].pulses.then_some(Input::Pulse);
            let inputs = pulse.into_iter().chain([Input::Tick]).collect();
            self.step(number, inputs);
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        for _ in 0..20_000 {
            // All take equally long, so the first is the first to arrive.
            let due = self
                .frames
                .front()
                .is_some_and(|frame| frame.0 <= self.now_ms);
            let frame = due.then(|| self.frames.pop_front()).flatten();
            let Some((_, from, to, _, bytes)) = frame else {
                return;
            };
            if !self.cut.contains(&(from, to)) && (self.filter)(&bytes) {
                self.frames_delivered += 1;
                self.step(to, vec![Input::Frame(bytes)]);
            }
        }
        panic!("frames without end");
    }

    fn step(&mut self, number: u64, inputs: Vec<Input>) {
        let mut inputs = VecDeque::from(inputs);
        loop {
            let now = Now {
                mono_ns: self.now_ms * 1_000_000,
                wall_ms: self.now_ms,
            };
            let Some(host) = self.hosts.get_mut(&number) else {
                return;
            };
            let Some(control) = host
                .control
                .as_mut()
                .filter(|_| host.stop.is_none() && !host.paused)
            else {
                return;
            };
            let mut out = control.step(now, inputs.drain(..));
            for frame in std::mem::take(&mut out.frames) {
                let found = self
                    .hosts
                    .iter()
                    .find(|(_, host)| host.identity.is_some_and(|i| i.member == frame.to));
                if let Some((to, _)) = found {
                    let due_ms = self.now_ms + self.latency_ms;
                    self.frames
                        .push_back((due_ms, number, *to, frame.lane, frame.bytes));
                }
            }
            let again = out.again;
            let host = self.hosts.get_mut(&number).unwrap();
            inputs.extend(host.carry_out(out));
            if inputs.is_empty() && !again {
                return;
            }
        }
    }

    /// Everything that members hold in common is equal.
    pub fn assert_alike(&self, numbers: &[u64]) {
        let of = |number: &u64| {
            let state = self.state(*number);
            (state.index(), state.hash())
        };
        let all: Vec<_> = numbers.iter().map(of).collect();
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}");
        for number in numbers {
            let state = self.state(*number);
            assert_eq!(state.hash(), state.hash_from_scratch());
        }
    }

    pub fn settle(&mut self, numbers: &[u64]) {
        let owned = numbers.to_vec();
        self.until("all have applied the same", 10_000, move |cluster| {
            let applied = |n: &u64| cluster.status(*n).applied_index;
            let first = applied(&owned[0]);
            owned
                .iter()
                .all(|n| applied(n) == first && cluster.status(*n).last_index == first)
        });
    }
}

impl Host {
    fn config(&self, number: u64) -> Config {
        let mut seed = [number as u8; 32];
        seed[31] = self.lives;
        Config {
            node: NodeId([number as u8; 16]),
            node_name: format!("host-{number}"),
            advertise_addr: address(number),
            log_dir: "the log directory".into(),
            seed,
            address: address(number),
            feature_level_max: self.feature_level_max,
            snapshot_bytes: self.snapshot_bytes,
            stopwatch: || None,
        }
    }

    /// Does what the machine wants; what it is told of it.
    fn carry_out(&mut self, out: Outputs) -> Vec<Input> {
        let mut told = Vec::new();
        if let Some(identity) = out.create_log {
            let disk = Arc::new(FileDisk);
            self.wal = Some(durable::create(disk, &self.dir, &identity, true, options()).unwrap());
            self.identity = Some(identity);
            told.push(Input::LogCreated(Ok(())));
        }
        for mut persist in out.persist {
            let (number, wal) = (persist.number, self.wal.as_mut().unwrap());
            durable::append(wal, &mut persist).unwrap();
            wal.commit().unwrap();
            self.unanswered.push(Input::Persisted(number));
        }
        if !self.disk_stuck {
            told.append(&mut self.unanswered);
        }
        if let Some(at) = out.compact {
            let wal = self.wal.as_mut().unwrap();
            wal.compact(at.index.0, at.term.0).unwrap();
        }
        if let Some(in_use) = out.snapshots_in_use {
            self.in_use = in_use;
        }
        if let Some(job) = out.snapshot {
            let written = self.snapshots.write(&job, &self.in_use);
            told.push(Input::Snapshotted(written.map(|_| job.at)));
        }
        for read in out.snapshot_reads {
            let (token, result) = (read.token, self.snapshots.read(&read));
            told.push(Input::SnapshotRead { token, result });
        }
        for write in out.snapshot_writes {
            let identity = self.identity.as_ref().unwrap();
            told.extend(self.inbox.perform(&self.snapshots, identity, write));
        }
        for (id, result) in out.replies {
            assert!(
                self.answers.insert(id.0, result).is_none(),
                "answered twice"
            );
        }
        for (id, item) in out.items {
            self.items.push(item);
            told.push(Input::Taken(id));
        }
        for job in out.backups {
            let written = backup::write(&FileDisk, &job.file, &job);
            let answer = written.map(|_| job.header.encode_to_vec());
            assert!(self.answers.insert(job.id.0, answer).is_none());
        }
        for job in out.reads {
            assert!(self.answers.insert(job.id.0, job.answer()).is_none());
        }
        self.log
            .extend(out.log_lines.into_iter().map(|line| line.message));
        self.round_trips_ns.extend(out.samples.round_trip_ns);
        self.stop = self.stop.take().or(out.stop);
        told
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

pub fn address(number: u64) -> String {
    format!("host-{number}:2377")
}

pub fn data_dir(number: u64) -> [u8; 16] {
    [0xd0 + number as u8; 16]
}

fn options() -> wal::Options {
    wal::Options {
        segment_bytes: SEGMENT_BYTES,
        ..wal::Options::default()
    }
}
