//! A simulated cluster around the orchestrator: people, nodes and a log that misbehave, all by one
//! seeded stream.

use std::collections::{BTreeSet, VecDeque};

use warren_core::error::Error;
use warren_core::fsm::{
    ContainerState, DesiredState, FEATURE_LEVEL_MAX, Service, State, is_terminal,
};
use warren_core::ids::{ContainerId, NodeId};
use warren_core::orchestrator::{Budget, Orchestrator, Proposal};
use warren_core::pb::{self, command::Body};

use crate::support::{Replica, Rng, invariants, member, node_id, put_node, spec};

pub const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
/// Small, so that steps stop in the middle of things; by the seed, sometimes of a single slot.
const BUDGETS: [Budget; 3] = [
    Budget { items: 7, looks: 3 },
    Budget {
        items: 7,
        looks: 10,
    },
    Budget {
        items: 7,
        looks: 4_096,
    },
];
/// What may be looked at in one go: all nodes, twice, or the containers of one.
const SCAN: usize = 2 + 2 * NODES.len() + 1;

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub replica: Replica,
    pub orchestrator: Orchestrator,
    pub budget: Budget,
    pub now_ms: u64,
    /// Proposed, not judged yet: outcomes arrive late and in order, as from a log.
    pub log: VecDeque<Proposal>,
    pub history: invariants::History,
    /// Nodes that neither work nor speak.
    pub dead: BTreeSet<NodeId>,
    pub calm: bool,
    pub created: u32,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            rng: Rng(seed),
            replica: Replica::in_cluster(),
            orchestrator: Orchestrator::new(seed),
            budget: BUDGETS[seed as usize % BUDGETS.len()],
            now_ms: 1_000,
            log: VecDeque::new(),
            history: invariants::History::default(),
            dead: BTreeSet::new(),
            calm: false,
            created: 0,
        };
        if world.preempts() {
            let member = Some(member(1, "m1", true, FEATURE_LEVEL_MAX));
            let raise = pb::RaiseFeatureLevel {
                level: FEATURE_LEVEL_MAX,
            };
            world
                .apply(Body::PutMember(pb::PutMember { member }))
                .expect("a member");
            world
                .apply(Body::RaiseFeatureLevel(raise))
                .expect("a level");
            // So few nodes are soon too many to be lost.
            let never = pb::UpdateClusterSettings {
                lost_nodes_freeze_percent: 100,
                ..Default::default()
            };
            world
                .apply(Body::UpdateClusterSettings(never))
                .expect("a setting");
        }
        for name in NODES {
            world
                .apply(put_node(name, 4_000, 64, &["web", "web2"]))
                .expect("a node");
        }
        world.orchestrator.lead(world.now_ms);
        for name in NODES {
            world.orchestrator.session_up(node_id(name), world.now_ms);
        }
        world
    }

    /// Every other seed's services are more and less urgent.
    pub fn preempts(&self) -> bool {
        self.seed % 2 == 1
    }

    pub fn state(&self) -> &State {
        &self.replica.state
    }

    pub fn apply(&mut self, body: Body) -> Result<Vec<u8>, Error> {
        let applied = self.replica.apply(body);
        invariants::check(&self.replica.state);
        self.history.observe(&self.replica.state);
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
        applied.response
    }

    pub fn step(&mut self) {
        let budget = self.budget;
        let proposals = self
            .orchestrator
            .step(&self.replica.state, self.now_ms, budget);
        let nodes = NODES
            .iter()
            .map(|name| self.state().container_count_of_node(node_id(name)));
        let scan = SCAN.max(3 + nodes.max().unwrap_or_default());
        assert!(self.orchestrator.looked() <= budget.looks.max(scan));
        for proposal in proposals {
            self.nothing_twice(&proposal);
            self.log.push_back(proposal);
        }
    }

    /// No slot, container or service of a proposal is in one that still waits for its outcome.
    pub fn nothing_twice(&self, proposal: &Proposal) {
        let mut seen = BTreeSet::new();
        for body in self.log.iter().map(|p| &p.body).chain([&proposal.body]) {
            for subject in subjects(body) {
                assert!(seen.insert(subject.clone()), "proposed twice: {subject}");
            }
        }
    }

    /// The oldest proposal comes out of the log; rarely it is lost, as with leadership in doubt.
    pub fn judge(&mut self) {
        let Some(Proposal { token, body }) = self.log.pop_front() else {
            return;
        };
        let lost = !self.calm && self.rng.chance(3);
        let outcome = if lost {
            Err(Error::OutcomeUnknown)
        } else {
            self.apply(body)
        };
        let outcome = outcome.as_deref().map_err(Clone::clone);
        self.orchestrator.resolved(self.now_ms, token, outcome);
    }

    pub fn people_change_something(&mut self) {
        let services: Vec<_> = self.state().services().cloned().collect();
        let body = match self.rng.below(10) {
            0..=3 if services.len() < 5 => {
                self.created += 1;
                let mut spec = spec(
                    &format!("s{}", self.created),
                    self.rng.below(6) as u32,
                    "web",
                );
                let container = spec.container.as_mut().unwrap();
                container.restart = self.rng.below(4) as i32;
                let cpu_milli = self.rng.below(5) * 300;
                container.resources = Some(pb::Resources {
                    cpu_milli,
                    memory_bytes: 0,
                    ..Default::default()
                });
                if self.preempts() {
                    spec.placement = Some(pb::Placement {
                        priority: Some(20 * self.rng.below(5) as u32),
                        preempt: self.rng.chance(60),
                        ..Default::default()
                    });
                }
                if self.rng.chance(20) {
                    (spec.mode, spec.replicas) = (pb::ServiceMode::Global.into(), 0);
                }
                Body::CreateService(pb::CreateService { spec: Some(spec) })
            }
            4 if !services.is_empty() => {
                let service_id = self.rng.pick(&services).id.to_vec();
                Body::RemoveService(pb::RemoveService { service_id })
            }
            _ if !services.is_empty() => {
                let service = self.rng.pick(&services).clone();
                self.updated(&service)
            }
            _ => return,
        };
        let _refused_if_removing = self.apply(body);
    }

    pub fn updated(&mut self, service: &Service) -> Body {
        let mut spec = (*service.spec).clone();
        let container = spec.container.as_mut().unwrap();
        match self.rng.below(3) {
            0 if !service.is_global() => spec.replicas = self.rng.below(8) as u32,
            1 => container.env = vec![format!("N={}", self.rng.below(3))],
            _ => {
                let cpu_milli = self.rng.below(5) * 300;
                container.resources = Some(pb::Resources {
                    cpu_milli,
                    memory_bytes: 0,
                    ..Default::default()
                });
            }
        }
        let (service_id, expected_version) = (service.id.to_vec(), service.version);
        Body::UpdateService(pb::UpdateService {
            service_id,
            expected_version,
            spec: Some(spec),
        })
    }

    pub fn nodes_change_something(&mut self) {
        let name = *self.rng.pick(&NODES);
        let id = node_id(name);
        match self.rng.below(4) {
            0 if self.dead.len() < 2 => {
                self.dead.insert(id);
                self.orchestrator.session_down(id, self.now_ms);
            }
            1 => self.revive(id),
            2 => {
                let images: &[&str] = if self.rng.chance(70) { &["web"] } else { &[] };
                let cpu_milli = 2_000 + self.rng.below(4) * 1_000;
                let _applied = self.apply(put_node(name, cpu_milli, 64, images));
            }
            _ => {}
        }
    }

    pub fn revive(&mut self, id: NodeId) {
        if self.dead.remove(&id) {
            self.orchestrator.session_up(id, self.now_ms);
        }
    }

    /// Each living worker takes some of its containers one step on and reports in one batch.
    pub fn workers_work(&mut self) {
        for name in NODES {
            let id = node_id(name);
            if self.dead.contains(&id) {
                continue;
            }
            self.orchestrator.alive(id, self.now_ms);
            let containers: Vec<_> = self
                .state()
                .containers_of_node(id)
                .map(|c| (c.id, c.desired, c.status.attempt, c.status.state))
                .collect();
            let items: Vec<_> = containers
                .into_iter()
                .filter_map(|(id, desired, attempt, state)| {
                    let advance = self.calm || self.rng.chance(60);
                    advance
                        .then(|| self.advance(id, desired, attempt, state))
                        .flatten()
                })
                .collect();
            if !items.is_empty() {
                let node_id = id.to_vec();
                let report = pb::ReportStatus { node_id, items };
                self.apply(Body::ReportStatus(report))
                    .expect("a report is answered");
            }
        }
    }

    pub fn advance(
        &mut self,
        id: ContainerId,
        desired: DesiredState,
        attempt: u32,
        state: ContainerState,
    ) -> Option<pb::StatusItem> {
        use ContainerState::*;
        let fails = !self.calm && self.rng.chance(8);
        let (attempt, state, removed) = match (desired, state) {
            // The node knows nothing of having been given up for lost.
            (DesiredState::Remove, Lost) => (attempt, Shutdown, true),
            (DesiredState::Remove, state) if is_terminal(state) => (attempt, state, true),
            (DesiredState::Remove | DesiredState::Stop, _) => (attempt, Shutdown, false),
            (_, state) if is_terminal(state) => return None,
            (_, _) if fails => (
                attempt,
                *self.rng.pick(&[Failed, Complete, Rejected]),
                false,
            ),
            (_, Running) if !self.calm && self.rng.chance(5) => (attempt + 1, Pending, false),
            (_, Running) => return None,
            (_, Pending) => (attempt, Assigned, false),
            (_, Assigned) => (attempt, Preparing, false),
            (_, Preparing) => (attempt, Starting, false),
            (_, _) => (attempt, Running, false),
        };
        let status = pb::ContainerStatus {
            attempt,
            state: state.into(),
            removed,
            ..Default::default()
        };
        Some(pb::StatusItem {
            container_id: id.to_vec(),
            status: Some(status),
        })
    }

    pub fn time_passes(&mut self, ms: u64) {
        self.now_ms += ms;
        self.orchestrator.pulse(self.now_ms);
    }

    /// Nothing more happens to it but what the orchestrator does; all nodes are back.
    pub fn calm_down(&mut self) {
        self.calm = true;
        for name in NODES {
            self.revive(node_id(name));
            let _applied = self.apply(put_node(name, 16_000, 64, &["web", "web2"]));
        }
        for _ in 0..400 {
            self.time_passes(1_000);
            self.workers_work();
            self.drain();
        }
    }

    /// Steps until it says itself that nothing is left for now.
    pub fn drain(&mut self) {
        for _ in 0..200 {
            self.step();
            while !self.log.is_empty() {
                self.judge();
            }
            if self
                .orchestrator
                .next_wakeup(self.now_ms)
                .is_some_and(|at| at > self.now_ms)
            {
                return;
            }
        }
        panic!("it wants to be called again for ever");
    }
}

fn subjects(body: &Body) -> Vec<String> {
    match body {
        Body::Bind(bind) => {
            let key = |item: &pb::BindItem| {
                let node = if item.slot == 0 {
                    &item.node_id[..]
                } else {
                    &[]
                };
                format!("slot {:?} {} {node:?}", item.service_id, item.slot)
            };
            bind.items.iter().map(key).collect()
        }
        Body::MoveSlots(moves) => {
            let key = |item: &pb::MoveItem| {
                let slot = format!("slot {:?} {} []", item.service_id, item.slot);
                [slot, format!("container {:?}", item.container_id)]
            };
            moves.items.iter().flat_map(key).collect()
        }
        Body::Preempt(preempt) => {
            let key = |item: &pb::PreemptItem| {
                let bind = item.bind.clone().unwrap_or_default();
                let node = match bind.slot {
                    0 => &bind.node_id[..],
                    _ => &[],
                };
                let slot = format!("slot {:?} {} {node:?}", bind.service_id, bind.slot);
                let victims = item.victims.iter().map(|id| format!("container {id:?}"));
                std::iter::once(slot).chain(victims).collect::<Vec<_>>()
            };
            preempt.items.iter().flat_map(key).collect()
        }
        Body::SetDesired(set) => set
            .items
            .iter()
            .map(|item| format!("container {:?}", item.container_id))
            .collect(),
        other => vec![format!("{other:?}")],
    }
}
