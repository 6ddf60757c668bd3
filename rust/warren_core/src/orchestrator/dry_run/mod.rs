//! What would follow of changes, without anything happening: the orchestrator itself, over a copy of
//! the state that nobody else has.
//!
//! A copy of the state is O(1) and costs only what is changed in it, so that this is for reader
//! threads. What is proposed is applied to the copy, and workers are assumed to do at once what they
//! are told: what is bound runs, what is to go is gone. So a plan says what the same orchestrator
//! and the same `apply` would come to, all rules included.
//!
//! Only services that are changed are looked at, and those that these changes touch. What else waits
//! for room may get it first, and what runs may fail meanwhile: a plan is no promise.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use crate::error::Result;
use crate::fsm::{
    Container, ContainerState, DesiredState, Event, Node, NodeStatus, State, is_terminal,
};
use crate::ids::{ContainerId, ENTROPY_BYTES, Index, NodeId, ServiceId};
use crate::orchestrator::{Budget, KnownFailing, Orchestrator, PendingSlot};
use crate::pb::{self, command::Body};

/// A step of the orchestrator looks at whatever there is: nobody waits for it.
const BUDGET: Budget = Budget {
    items: 8_192,
    looks: usize::MAX / 2,
};
/// Steps after which a dry run ends wherever it is.
const STEPS_MAX: usize = 2_000;
/// Time that passes in a dry run at most: longer than a first back-off.
const HORIZON_MS: u64 = 5_000;
const REPORT_ITEMS_MAX: usize = 4_096;

/// A run that is being prepared: changes first, then [`DryRun::run`].
pub struct DryRun {
    start: State,
    state: State,
    orchestrator: Orchestrator,
    commands: u64,
    now_ms: u64,
    steps_max: usize,
    /// Containers that anything happened to.
    touched: BTreeSet<ContainerId>,
    /// Those of them whose worker has something to do.
    told: BTreeSet<ContainerId>,
    /// Containers that were there and are to make room, and for which slot.
    preempted: BTreeMap<ContainerId, (ServiceId, u64)>,
}

/// A container that would have to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preempted<'a> {
    /// As it is now.
    pub container: &'a Container,
    /// Whom it makes room for.
    pub by: ServiceId,
    pub slot: u64,
}

/// What becomes of a service. Containers by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// That are new and stay.
    pub placed: BTreeMap<NodeId, u32>,
    /// That were there and are told to go, those of `preempted` left out.
    pub stopped: BTreeMap<NodeId, u32>,
    /// That were there and have to make room for others.
    pub preempted: BTreeMap<NodeId, u32>,
    /// That stay as they are.
    pub unchanged: u32,
    /// Slots that find no node.
    pub pending: Vec<PendingSlot>,
    /// Containers of the version before, or on nodes that are being drained, that stay since there is
    /// no room for their successors.
    pub blocked: u32,
    pub blocked_reason: Option<Arc<str>>,
}

impl DryRun {
    /// `seed` decides between nodes that are equally good. O(nodes).
    pub fn new(state: &State, seed: u64) -> Self {
        let mut orchestrator = Orchestrator::new(seed);
        orchestrator.leading = true;
        // Nothing is swept: what is not touched is none of this.
        orchestrator.sweep.begin(u64::MAX / 2);
        orchestrator.scheduler.begin_filling();
        for node in state.nodes() {
            orchestrator.node_put(state, node);
        }
        orchestrator.scheduler.filled();
        Self {
            start: state.clone(),
            state: state.clone(),
            orchestrator,
            commands: 0,
            now_ms: 0,
            steps_max: STEPS_MAX,
            touched: BTreeSet::new(),
            told: BTreeSet::new(),
            preempted: BTreeMap::new(),
        }
    }

    /// Goes by what the leader knows of nodes on which services keep failing; of that nothing is in
    /// the state.
    pub fn avoid(&mut self, known: &KnownFailing) {
        self.orchestrator.failures.learn(known, self.now_ms);
    }

    /// As it is by now.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Applies what somebody asks for; a refusal is that of `apply`.
    pub fn change(&mut self, body: Body) -> Result<Vec<u8>> {
        self.apply(body)
    }

    fn apply(&mut self, body: Body) -> Result<Vec<u8>> {
        self.commands += 1;
        let mut entropy = [0xd5; ENTROPY_BYTES];
        entropy[ENTROPY_BYTES - 8..].copy_from_slice(&self.commands.to_be_bytes());
        let command = pb::Command {
            level: self.state.feature_level(),
            time_ms: self.state.time_ms(),
            entropy: entropy.to_vec(),
            request: None,
            identity: "system".into(),
            body: Some(body),
        };
        let (index, term) = (Index(self.state.index().0 + 1), self.state.term());
        let applied = self.state.apply(index, term, &command);
        for event in &applied.events {
            if let Event::Container { id, .. } = event {
                self.touched.insert(*id);
                self.told.insert(*id);
            }
        }
        self.orchestrator.observe(&self.state, &applied.events);
        applied.response
    }

    /// Takes a service up as it is: what of it is on its way arrives first.
    pub fn take_up(&mut self, service: ServiceId) {
        let containers = self.state.containers_of_service(service);
        self.told.extend(containers.map(|container| container.id));
    }

    /// Goes on until nothing more follows; false if that took too long.
    pub fn run(&mut self) -> bool {
        for _ in 0..self.steps_max {
            let worked = self.workers_do_what_they_are_told();
            let proposals = self.orchestrator.step(&self.state, self.now_ms, BUDGET);
            let proposed = !proposals.is_empty();
            for proposal in proposals {
                let preempt = match &proposal.body {
                    Body::Preempt(preempt) => Some(preempt.clone()),
                    _ => None,
                };
                let outcome = self.apply(proposal.body);
                if let Some((preempt, answer)) = preempt.zip(outcome.as_ref().ok()) {
                    self.note_preempted(&preempt, answer);
                }
                let outcome = outcome.as_deref().map_err(Clone::clone);
                self.orchestrator
                    .resolved(self.now_ms, proposal.token, outcome);
            }
            if worked || proposed {
                continue;
            }
            match self.orchestrator.next_wakeup(self.now_ms) {
                Some(at_ms) if at_ms <= HORIZON_MS => self.now_ms = at_ms.max(self.now_ms + 1),
                _ => return true,
            }
        }
        false
    }

    fn note_preempted(&mut self, preempt: &pb::Preempt, answer: &[u8]) {
        let answer = pb::BatchResult::decode(answer).unwrap_or_default();
        let items = preempt.items.iter().zip(answer.items);
        for (item, _) in items.filter(|(_, told)| told.applied) {
            let Some(bind) = &item.bind else { continue };
            let Ok(by) = ServiceId::from_slice(&bind.service_id) else {
                continue;
            };
            let victims = item.victims.iter();
            let victims = victims.filter_map(|id| ContainerId::from_slice(id).ok());
            for id in victims.filter(|id| self.start.container(*id).is_some_and(stays)) {
                self.preempted.insert(id, (by, bind.slot));
            }
        }
    }

    /// Containers that are there now and would have to make room, by id; to be asked after
    /// [`DryRun::run`].
    pub fn preempted(&self) -> impl Iterator<Item = Preempted<'_>> {
        let each = self.preempted.iter();
        each.filter_map(|(id, (by, slot))| {
            Some(Preempted {
                container: self.start.container(*id)?,
                by: *by,
                slot: *slot,
            })
        })
    }

    fn workers_do_what_they_are_told(&mut self) -> bool {
        let mut reports: BTreeMap<NodeId, Vec<pb::StatusItem>> = BTreeMap::new();
        for id in std::mem::take(&mut self.told) {
            let Some(container) = self.state.container(id) else {
                continue;
            };
            let node = self.state.node(container.node);
            let ready = node.is_some_and(|node| node.status == NodeStatus::Ready);
            if let Some(state) = next(container).filter(|_| ready) {
                let item = status(container, state);
                reports.entry(container.node).or_default().push(item);
            }
        }
        let worked = !reports.is_empty();
        for (node, items) in reports {
            for items in items.chunks(REPORT_ITEMS_MAX) {
                let report = pb::ReportStatus {
                    node_id: node.to_vec(),
                    items: items.to_vec(),
                };
                // Of a batch each item is judged alone, and none of them has to be taken.
                let _ = self.apply(Body::ReportStatus(report));
            }
        }
        worked
    }

    /// Services with containers that are gone or new, those of `known` left out.
    pub fn others(&self, known: &BTreeSet<ServiceId>) -> BTreeSet<ServiceId> {
        let of = |id: &ContainerId| {
            let (before, after) = (self.start.container(*id), self.state.container(*id));
            let changed = before.is_some_and(stays) != after.is_some_and(stays);
            let service = before.or(after).map(|container| container.service);
            service.filter(|service| changed && !known.contains(service))
        };
        self.touched.iter().filter_map(of).collect()
    }

    /// What becomes of a service; to be asked after [`DryRun::run`].
    pub fn outcome(&self, id: ServiceId) -> Outcome {
        let mut outcome = Outcome::default();
        let before = self.start.containers_of_service(id);
        for container in before.filter(|it| stays(it)) {
            match self.state.container(container.id).is_some_and(stays) {
                true => outcome.unchanged += 1,
                false => {
                    let counts = match self.preempted.contains_key(&container.id) {
                        true => &mut outcome.preempted,
                        false => &mut outcome.stopped,
                    };
                    *counts.entry(container.node).or_insert(0) += 1;
                }
            }
        }
        let digest = self.state.service(id).map(|service| service.spec_digest);
        let after = self.state.containers_of_service(id);
        for container in after.filter(|it| stays(it)) {
            let new = !self.start.container(container.id).is_some_and(stays);
            if new {
                *outcome.placed.entry(container.node).or_insert(0) += 1;
            }
            let node = self.state.node(container.node);
            let leaves = node.is_some_and(Node::is_draining);
            outcome.blocked += u32::from(leaves || Some(container.spec_digest) != digest);
        }
        outcome.pending = self.orchestrator.pending(id).to_vec();
        outcome.blocked_reason = self.orchestrator.why_blocked(id);
        outcome
    }
}

/// Whether it is meant to run, and may.
fn stays(container: &Container) -> bool {
    container.desired == DesiredState::Run && !container.is_terminal()
}

/// What its worker makes of a container next.
fn next(container: &Container) -> Option<ContainerState> {
    let state = container.status.state;
    match container.desired {
        DesiredState::Run => {
            let running = state == ContainerState::Running || is_terminal(state);
            (!running).then_some(ContainerState::Running)
        }
        _ if container.status.removed => None,
        _ if is_terminal(state) => Some(state),
        _ => Some(ContainerState::Shutdown),
    }
}

fn status(container: &Container, state: ContainerState) -> pb::StatusItem {
    pb::StatusItem {
        container_id: container.id.to_vec(),
        status: Some(pb::ContainerStatus {
            attempt: container.status.attempt,
            state: state.into(),
            removed: is_terminal(state) && container.desired != DesiredState::Run,
            exit_code: container.status.exit_code.unwrap_or_default(),
            exited: container.status.exit_code.is_some(),
            ..Default::default()
        }),
    }
}
