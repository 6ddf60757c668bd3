//! A member of a cluster: consensus, state and orchestration, and who waits for what of them.

mod entry;
mod reading;

use std::collections::BTreeMap;

use prost::Message as _;

use super::access::Method;
use super::calls::Calls;
use super::entropy::Entropy;
use super::proposals::{Origin, PROPOSALS_MAX, Proposal, Proposals};
use super::sessions::Sessions;
use super::watches::Watches;
use super::{
    Call, CallId, Config, Identity, Input, Level, Now, Outputs, Recovered, SnapshotJob, Status,
};
use crate::error::Error;
use crate::fsm::{Event, State, snapshot};
use crate::ids::{Index, Term};
use crate::orchestrator::{self, Orchestrator};
use crate::pb;
use crate::pb::command::Body;
use crate::raft::{self, Committed, ConfState, Position, Raft, Role, Work};

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
        // A log without a snapshot is the founder's.
        let founder = ConfState {
            voters: vec![identity.member.0],
            ..ConfState::default()
        };
        let recovered = raft::Recovered {
            member: identity.member,
            snapshot: snapshot.or(Some((Position::default(), founder))),
            hard_state,
            entries,
            cut: false,
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
            last_index: raft.last.index,
            commit_index: raft.commit_index,
            applied_index: self.applied.index,
            voters: raft.conf.voters.len(),
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
            self.follow_role(now, calls, out);
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
        let Committed {
            at,
            command,
            change,
        } = committed;
        if let Some(change) = change {
            self.raft.apply_change(&change);
        }
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
                Event::Cluster | Event::Node { .. } | Event::Member { .. } => {}
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
    fn follow_role(&mut self, now: Now, calls: &mut Calls, out: &mut Outputs) {
        let term = self.raft.term();
        if term != self.term_seen {
            self.term_seen = term;
            out.samples.elections += 1;
        }
        let leads = self.raft.role() == Role::Leader && self.applied.term == term;
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
                format!("leading in term {}", term.0),
            );
        } else {
            self.orchestrator.follow();
            self.sessions.end_all(&Error::NoLeader, out);
            self.watches.end_all(&Error::NoLeader, out);
            let reads = std::mem::take(&mut self.unasked).into_iter();
            let asked = std::mem::take(&mut self.asked).into_values().flatten();
            // Who lost the lead knows no index that is safe to read at.
            for Read(_, call) in reads.chain(asked) {
                calls.reply(call.id, Err(Error::NoLeader), out);
            }
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
            founder: None,
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
                let conf = self.raft.conf_state().clone();
                self.raft.set_snapshot(at, conf);
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
