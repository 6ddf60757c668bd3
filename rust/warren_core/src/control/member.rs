//! A member of a cluster: consensus, state and orchestration, and who waits for what of them.

use std::collections::BTreeMap;

use prost::Message as _;

use super::access::{Method, is_node};
use super::calls::Calls;
use super::entropy::Entropy;
use super::proposals::{Origin, PROPOSALS_MAX, Proposal, Proposals};
use super::reads::{LeaderView, ReadJob};
use super::requests::{self, Prepared};
use super::sessions::Sessions;
use super::watches::Watches;
use super::{
    Call, CallId, Config, Identity, Input, Level, Now, Outputs, Recovered, SnapshotJob, Status,
};
use crate::error::Error;
use crate::fsm::{Event, FEATURE_LEVEL_MAX, State, snapshot};
use crate::ids::{Index, NodeId, ServiceId, Term};
use crate::orchestrator::{self, Orchestrator};
use crate::pb;
use crate::pb::command::Body;
use crate::raft::{self, Committed, Position, Raft, Role, Work};

/// Times round the loop of one step; what is left is done by the next.
const ROUNDS_MAX: usize = 8;
/// Items the orchestrator may propose in one pass, so that a step stays short.
const ORCHESTRATOR_BUDGET: usize = 512;
/// A snapshot that failed is not tried again before this.
const SNAPSHOT_RETRY_MS: u64 = 60_000;

/// Invariants: `state` is what the log says up to `applied`; `leading` implies that the raft is
/// leader and an entry of its term is applied; `sessions` and `watches` are empty unless leading.
pub struct Member {
    pub config: Config,
    pub identity: Identity,
    pub raft: Raft,
    pub state: State,
    pub orchestrator: Orchestrator,
    pub sessions: Sessions,
    watches: Watches,
    proposals: Proposals,
    /// Reads waiting to be asked for.
    unasked: Vec<Read>,
    /// Reads asked for, by the context of the question.
    asked: BTreeMap<u64, Vec<Read>>,
    /// Reads that may be answered once the index is applied.
    released: BTreeMap<Index, Vec<Read>>,
    read_context: u64,
    applied: Position,
    leading: bool,
    term_seen: Term,
    has_space: bool,
    founding: Option<(CallId, String)>,
    log_bytes: u64,
    snapshot_running: bool,
    snapshot_not_before_ms: u64,
}

/// A read on its way: the call and its method.
struct Read(Method, Call);

impl Member {
    pub fn new(config: Config, recovered: Recovered, seed: u64) -> Result<Self, raft::Damaged> {
        let Recovered {
            identity,
            state,
            snapshot,
            hard_state,
            entries,
        } = recovered;
        let log_bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        let applied = snapshot.as_ref().map_or(Position::default(), |(at, _)| *at);
        let recovered = raft::Recovered {
            member: identity.member,
            snapshot,
            hard_state,
            entries,
        };
        Ok(Self {
            config,
            identity,
            raft: Raft::new(recovered, seed)?,
            state,
            orchestrator: Orchestrator::new(seed),
            sessions: Sessions::default(),
            watches: Watches::default(),
            proposals: Proposals::default(),
            unasked: Vec::new(),
            asked: BTreeMap::new(),
            released: BTreeMap::new(),
            read_context: 0,
            applied,
            leading: false,
            term_seen: Term(0),
            has_space: true,
            founding: None,
            log_bytes,
            snapshot_running: false,
            snapshot_not_before_ms: 0,
        })
    }

    pub fn status(&self, open_calls: usize) -> Status {
        let raft = self.raft.status();
        Status {
            in_cluster: self.state.cluster().is_some(),
            is_leader: raft.role == Role::Leader,
            serving: self.leading,
            term: raft.term,
            last_index: raft.last_index,
            commit_index: raft.commit_index,
            applied_index: self.applied.index,
            voters: raft.voters,
            has_space: self.has_space,
            sessions: self.sessions.len(),
            watches: self.watches.len(),
            proposals: self.proposals.len(),
            open_calls,
        }
    }

    /// A cluster is to begin here: done when this member leads itself.
    pub fn found(&mut self, _now: Now, call: CallId, advertise_addr: String) {
        self.founding = Some((call, advertise_addr));
    }

    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outputs) {
        match input {
            Input::Tick => {
                self.raft.tick();
                self.watches.touch_waiting();
            }
            Input::Pulse => self.orchestrator.pulse(now.mono_ms()),
            Input::Taken(id) => {
                self.watches.taken(id);
                self.sessions.taken(id);
            }
            Input::Cancel(id) => self.cancel(now, id),
            Input::Persisted(number) => self.raft.persisted(number),
            Input::Space(has_space) => self.has_space = has_space,
            Input::Snapshotted(result) => self.snapshotted(now, result, out),
            Input::Call(_) | Input::Subscribe(_) | Input::LogCreated(_) => {
                unreachable!("the machine takes these itself")
            }
        }
    }

    /// Starts a call; an answer if there is one already.
    pub fn call(
        &mut self,
        now: Now,
        method: Method,
        call: Call,
        entropy: &mut Entropy,
    ) -> Option<Result<Vec<u8>, Error>> {
        let result = match method {
            Method::InitCluster => self.init_again(&call),
            Method::CreateService | Method::UpdateService | Method::RemoveService => {
                self.write(now, method, &call, entropy)
            }
            Method::SessionMessage => self.session_message(now, &call, entropy),
            _ if !self.leading => Err(Error::NoLeader),
            _ => {
                self.unasked.push(Read(method, call));
                Ok(None)
            }
        };
        result.map_or_else(|error| Some(Err(error)), |answer| answer.map(Ok))
    }

    pub fn subscribe(
        &mut self,
        now: Now,
        method: Method,
        call: Call,
        entropy: &mut Entropy,
        out: &mut Outputs,
    ) -> Result<(), Error> {
        self.check_serving()?;
        if method == Method::WatchService {
            let request: pb::WatchServiceRequest = requests::decode(&call.body)?;
            return self
                .watches
                .open(call.id, ServiceId::from_slice(&request.service_id)?);
        }
        self.open_session(now, &call, entropy, out)
    }

    /// Carries everything on that can go on: persist, commit, apply, answer, orchestrate. The one
    /// place that fixes the order: an entry is applied only out of [`Work::committed`], which
    /// consensus fills only with what is durable.
    pub fn pump(&mut self, now: Now, entropy: &mut Entropy, calls: &mut Calls, out: &mut Outputs) {
        for round in 0.. {
            self.ask_reads();
            let mut busy = false;
            while let Some(work) = self.raft.take_work() {
                busy = true;
                self.carry_out(now, work, calls, out);
                if round + 1 == ROUNDS_MAX {
                    break;
                }
            }
            self.follow_role(now, out);
            self.begin_cluster(now, entropy, calls, out);
            busy |= self.orchestrate(now, entropy, out);
            if !busy || round + 1 == ROUNDS_MAX {
                out.again |= busy;
                break;
            }
        }
        self.answer_released(out, calls);
        self.sessions.flush(&self.state, out);
        self.watches.flush(&self.state, &self.orchestrator, out);
        self.snapshot_if_due(now, out);
        out.samples
            .scheduling_ms
            .extend(self.orchestrator.take_scheduling_latencies_ms());
        for note in self.raft.take_notes() {
            let level = if note.warning {
                Level::Warning
            } else {
                Level::Info
            };
            out.log(level, "raft", note.message);
        }
    }

    fn carry_out(&mut self, now: Now, work: Work, calls: &mut Calls, out: &mut Outputs) {
        if let Some(persist) = &work.persist {
            self.log_bytes += persist
                .entries
                .iter()
                .map(|e| e.payload.len() as u64)
                .sum::<u64>();
        }
        out.persist.extend(work.persist);
        for committed in work.committed {
            self.apply(now, committed, calls, out);
        }
        self.raft.applied(self.applied.index);
        for read in work.reads {
            if let Some(reads) = self.asked.remove(&read.context) {
                self.released.entry(read.index).or_default().extend(reads);
            }
        }
    }

    fn apply(&mut self, now: Now, committed: Committed, calls: &mut Calls, out: &mut Outputs) {
        let Committed { at, command } = committed;
        let started_ns = (self.config.stopwatch)();
        if command.is_empty() {
            self.state.advance(at.index, at.term);
        } else {
            let applied = self.state.apply_bytes(at.index, at.term, &command);
            // A committed entry that this release cannot read must not be skipped: every later
            // state would differ from the other members'.
            let applied = applied.unwrap_or_else(|error| panic!("entry {}: {error}", at.index.0));
            self.observe(&applied.events);
            self.resolve(now, at, applied.response, calls, out);
        }
        self.applied = at;
        out.samples
            .apply_ns
            .push((self.config.stopwatch)().saturating_sub(started_ns));
    }

    fn observe(&mut self, events: &[Event]) {
        if !self.leading {
            return;
        }
        self.orchestrator.observe(&self.state, events);
        for event in events {
            match *event {
                Event::Service { id, .. } => self.watches.touch(id),
                Event::Container {
                    id, service, node, ..
                } => {
                    self.watches.touch(service);
                    self.sessions.touch(node, id);
                }
                Event::Cluster | Event::Node { .. } => {}
            }
        }
    }

    /// Tells who proposed the entry what became of it.
    fn resolve(
        &mut self,
        now: Now,
        at: Position,
        response: Result<Vec<u8>, Error>,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        let Some(Proposal {
            at: proposed,
            origin,
            proposed_ns,
        }) = self.proposals.take(at.index)
        else {
            return;
        };
        // Another term's entry stands in its place, so it never happened.
        let response = if proposed == at {
            response
        } else {
            Err(Error::NoLeader)
        };
        if proposed == at {
            out.samples
                .commit_ns
                .push(now.mono_ns.saturating_sub(proposed_ns));
        }
        match origin {
            Origin::Call(id) => calls.reply(id, response, out),
            Origin::Founding(id) => {
                let founded = pb::InitClusterResponse {
                    cluster_id: self.identity.cluster.to_vec(),
                    node_id: self.config.node.to_vec(),
                };
                calls.reply(id, response.map(|_| founded.encode_to_vec()), out);
            }
            Origin::Orchestrator(token) => {
                let response = response.as_deref().map_err(Clone::clone);
                self.orchestrator
                    .resolved(&self.state, now.mono_ms(), token, response);
            }
            Origin::Hello(node) => {
                if let Err(error) = response {
                    out.log(
                        Level::Warning,
                        "session",
                        format!("hello of node {node}: {error}"),
                    );
                }
            }
        }
    }

    /// Takes up or lays down what only a leader does.
    fn follow_role(&mut self, now: Now, out: &mut Outputs) {
        let status = self.raft.status();
        if status.term != self.term_seen {
            self.term_seen = status.term;
            out.samples.elections += 1;
        }
        let leads = status.role == Role::Leader && self.applied.term == status.term;
        if leads == self.leading {
            return;
        }
        self.leading = leads;
        out.samples.leader_changes += 1;
        if leads {
            self.orchestrator.lead(&self.state, now.mono_ms());
            out.log(
                Level::Info,
                "control",
                format!("leading in term {}", status.term.0),
            );
        } else {
            self.orchestrator.follow();
            self.sessions.end_all(&Error::NoLeader, out);
            self.watches.end_all(&Error::NoLeader, out);
            let reads = std::mem::take(&mut self.unasked).into_iter();
            let asked = std::mem::take(&mut self.asked).into_values().flatten();
            // They expire; a leader that lost its lead knows no safe index to read at.
            drop(reads.chain(asked));
        }
    }

    /// Proposes a cluster's first commands where a log exists and nothing is in it.
    fn begin_cluster(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        if !self.leading {
            return;
        }
        let Some((call, advertise_addr)) = self.founding.take() else {
            return;
        };
        if let Some(cluster) = self.state.cluster() {
            let cluster = cluster.id.to_string();
            return calls.reply(call, Err(Error::AlreadyInCluster { cluster }), out);
        }
        let create = pb::CreateCluster {
            cluster_id: self.identity.cluster.to_vec(),
            epoch: self.identity.epoch,
        };
        let put = pb::PutNode {
            node_id: self.config.node.to_vec(),
            description: Some(pb::NodeDescription {
                name: self.config.node_name.clone(),
                ..Default::default()
            }),
            manager: true,
            worker: false,
            advertise_addr: if advertise_addr.is_empty() {
                self.config.advertise_addr.clone()
            } else {
                advertise_addr
            },
        };
        let created = self.propose_own(now, entropy, Body::CreateCluster(create), None);
        let put = created.and_then(|()| {
            let origin = Some(Origin::Founding(call));
            self.propose_own(now, entropy, Body::PutNode(put), origin)
        });
        if let Err(error) = put {
            calls.reply(call, Err(error), out);
        }
    }

    fn orchestrate(&mut self, now: Now, entropy: &mut Entropy, out: &mut Outputs) -> bool {
        if !self.leading || !self.has_space || self.state.cluster().is_none() {
            return false;
        }
        if self.proposals.len() >= PROPOSALS_MAX / 2 {
            // Clients' requests keep half of the room.
            return false;
        }
        let started_ns = (self.config.stopwatch)();
        let proposals = self
            .orchestrator
            .step(&self.state, now.mono_ms(), ORCHESTRATOR_BUDGET);
        if proposals.is_empty() {
            return false;
        }
        for orchestrator::Proposal { token, body } in proposals {
            let origin = Some(Origin::Orchestrator(token));
            if let Err(error) = self.propose_own(now, entropy, body, origin) {
                out.log(Level::Warning, "control", format!("not proposed: {error}"));
                self.orchestrator
                    .resolved(&self.state, now.mono_ms(), token, Err(error));
            }
        }
        let took_ns = (self.config.stopwatch)().saturating_sub(started_ns);
        out.samples.reconcile_ns.push(took_ns);
        true
    }

    fn write(
        &mut self,
        now: Now,
        method: Method,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let (request, body) = match requests::prepare(&self.state, method, &call.body)? {
            Prepared::Answered(answer) => return answer.map(Some),
            Prepared::Propose(request, body) => (request, body),
        };
        self.check_space()?;
        let origin = Some(Origin::Call(call.id));
        self.propose(now, entropy, &call.identity, request, body, origin)?;
        Ok(None)
    }

    fn init_again(&mut self, call: &Call) -> Result<Option<Vec<u8>>, Error> {
        if self.state.cluster().is_some() || self.founding.is_some() {
            let cluster = self.identity.cluster.to_string();
            return Err(Error::AlreadyInCluster { cluster });
        }
        // The daemon died between creating the log and its first entries.
        let request: pb::InitClusterRequest = requests::decode(&call.body)?;
        self.founding = Some((call.id, request.advertise_addr));
        Ok(None)
    }

    fn propose_own(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        body: Body,
        origin: Option<Origin>,
    ) -> Result<(), Error> {
        self.propose(now, entropy, "system", None, body, origin)
    }

    fn propose(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        identity: &str,
        request: Option<pb::RequestId>,
        body: Body,
        origin: Option<Origin>,
    ) -> Result<(), Error> {
        if self.proposals.len() >= PROPOSALS_MAX {
            return Err(Error::Overloaded {
                queue: "the log",
                limit: PROPOSALS_MAX,
            });
        }
        let command = pb::Command {
            level: self.state.feature_level().min(FEATURE_LEVEL_MAX),
            time_ms: now.wall_ms,
            entropy: entropy.draw().to_vec(),
            request,
            identity: identity.to_owned(),
            body: Some(body),
        };
        let at = self.raft.propose(command.encode_to_vec())?;
        if let Some(origin) = origin {
            self.proposals.add(at, origin, now.mono_ns);
        }
        Ok(())
    }

    fn check_serving(&self) -> Result<(), Error> {
        match (self.leading, self.state.cluster()) {
            (false, _) => Err(Error::NoLeader),
            (true, None) => Err(Error::NotInCluster),
            (true, Some(_)) => Ok(()),
        }
    }

    /// The driver says where the disk is full; here it is only known that it is.
    fn check_space(&self) -> Result<(), Error> {
        if self.has_space {
            Ok(())
        } else {
            Err(Error::NoSpace {
                dir: "the data directory".into(),
            })
        }
    }

    fn open_session(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
        out: &mut Outputs,
    ) -> Result<(), Error> {
        let hello: pb::Hello = requests::decode(&call.body)?;
        let node = NodeId::from_slice(&hello.node_id)?;
        if is_node(&call.identity) && call.identity != node.to_string() {
            let (identity, method) = (call.identity.clone(), format!("Session of node {node}"));
            return Err(Error::Denied { identity, method });
        }
        let origin = Origin::Hello(node);
        self.introduce(now, node, hello.description.as_ref(), entropy, origin)?;
        for items in hello.observed.chunks(super::sessions::REPORT_ITEMS_MAX) {
            let report = pb::ReportStatus {
                node_id: node.to_vec(),
                items: items.to_vec(),
            };
            let origin = Some(Origin::Hello(node));
            self.propose(
                now,
                entropy,
                &call.identity,
                None,
                Body::ReportStatus(report),
                origin,
            )?;
        }
        let term = self.raft.status().term;
        let epoch = self.identity.epoch;
        self.sessions.open(
            call.id,
            node,
            &hello,
            (epoch, term),
            entropy.draw(),
            &self.state,
            out,
        );
        self.orchestrator.session_up(node, now.mono_ms());
        Ok(())
    }

    /// Makes the node's record say what the node says of itself; false if it does.
    fn introduce(
        &mut self,
        now: Now,
        node: NodeId,
        description: Option<&pb::NodeDescription>,
        entropy: &mut Entropy,
        origin: Origin,
    ) -> Result<bool, Error> {
        let known = self.state.node(node);
        let description = description.cloned().unwrap_or_default();
        if known.is_some_and(|known| known.worker && *known.description == description) {
            return Ok(false);
        }
        let put = pb::PutNode {
            node_id: node.to_vec(),
            description: Some(description),
            manager: known.is_some_and(|known| known.manager),
            worker: true,
            advertise_addr: known.map_or(String::new(), |known| known.advertise_addr.to_string()),
        };
        self.propose_own(now, entropy, Body::PutNode(put), Some(origin))?;
        Ok(true)
    }

    /// One message of an open session: 16 bytes of session id, then the message.
    fn session_message(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        use pb::worker_message::Body as Message;
        self.check_serving()?;
        let (node, message) = self.sessions.message(&call.body)?;
        if is_node(&call.identity) && call.identity != node.to_string() {
            return Err(Error::StaleSession);
        }
        self.orchestrator.alive(node, now.mono_ms());
        match message.body {
            Some(Message::Heartbeat(_)) | None => Ok(Some(Vec::new())),
            Some(Message::Resync(_)) => {
                self.sessions.resync(node);
                Ok(Some(Vec::new()))
            }
            Some(Message::Description(description)) => {
                self.check_space()?;
                let origin = Origin::Call(call.id);
                let proposed = self.introduce(now, node, Some(&description), entropy, origin)?;
                Ok((!proposed).then(Vec::new))
            }
            Some(Message::Report(report)) => {
                self.check_space()?;
                super::sessions::check_report(&report)?;
                let report = pb::ReportStatus {
                    node_id: node.to_vec(),
                    items: report.items,
                };
                let origin = Some(Origin::Call(call.id));
                let body = Body::ReportStatus(report);
                self.propose(now, entropy, &call.identity, None, body, origin)?;
                Ok(None)
            }
            Some(Message::Hello(_)) => Err(Error::Invalid {
                what: "session message",
                why: "a hello opens a session; it cannot come later".into(),
            }),
        }
    }

    fn cancel(&mut self, now: Now, id: CallId) {
        self.watches.close(id);
        if let Some(node) = self.sessions.close(id) {
            self.orchestrator.session_down(node, now.mono_ms());
        }
    }

    /// One question for all reads that wait: what it finds holds for each of them.
    fn ask_reads(&mut self) {
        if self.unasked.is_empty() || !self.leading {
            return;
        }
        self.read_context += 1;
        self.asked
            .insert(self.read_context, std::mem::take(&mut self.unasked));
        self.raft.read_index(self.read_context);
    }

    fn answer_released(&mut self, out: &mut Outputs, calls: &mut Calls) {
        while let Some(entry) = self.released.first_entry() {
            if *entry.key() > self.applied.index {
                return;
            }
            for Read(method, call) in entry.remove() {
                // From here on a reader thread answers it, deadline or not.
                if calls.close(call.id) {
                    let view = self.view(method, &call.body);
                    let (id, body, state) = (call.id, call.body, self.state.clone());
                    out.reads.push(ReadJob {
                        id,
                        method,
                        body,
                        state,
                        view,
                    });
                }
            }
        }
    }

    fn view(&self, method: Method, body: &[u8]) -> LeaderView {
        let raft = self.raft.status();
        let pending = match method {
            Method::ListSlots => pb::ListSlotsRequest::decode(body)
                .ok()
                .and_then(|request| self.state.resolve_service(&request.r#ref).ok())
                .map(|service| self.orchestrator.pending(service).to_vec())
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        LeaderView {
            node: self.config.node,
            leader: self.config.node,
            term: raft.term,
            last_index: raft.last_index,
            applied_index: self.applied.index,
            pending,
        }
    }

    fn snapshot_if_due(&mut self, now: Now, out: &mut Outputs) {
        let due = self.log_bytes >= self.config.snapshot_bytes
            && !self.snapshot_running
            && now.mono_ms() >= self.snapshot_not_before_ms;
        if !due {
            return;
        }
        self.snapshot_running = true;
        self.log_bytes = 0;
        let header = snapshot::header(&self.state, self.raft.conf_state().encode());
        out.snapshot = Some(SnapshotJob {
            state: self.state.clone(),
            header,
            at: self.applied,
        });
    }

    fn snapshotted(&mut self, now: Now, result: Result<Position, Error>, out: &mut Outputs) {
        self.snapshot_running = false;
        match result {
            Ok(at) => {
                self.raft.compact(at);
                out.compact = Some(at);
            }
            Err(error) => {
                self.log_bytes = self.config.snapshot_bytes;
                self.snapshot_not_before_ms = now.mono_ms() + SNAPSHOT_RETRY_MS;
                out.log(
                    Level::Warning,
                    "snapshot",
                    format!("{error}; trying again in a minute"),
                );
            }
        }
    }
}
