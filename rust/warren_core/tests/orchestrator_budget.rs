//! However large a service or a fleet is, no step looks at more than its budget, and everything
//! still gets where it is wanted.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use support::{MIB, Replica, node_id, put_node, spec};
use warren_core::error::Error;
use warren_core::fsm::{ContainerState, DesiredState, Event, NodeStatus, tally};
use warren_core::ids::{ContainerId, NodeId};
use warren_core::orchestrator::{Budget, Orchestrator, Proposal};
use warren_core::pb::{self, command::Body};

/// That of the control plane.
const BUDGET: Budget = Budget {
    items: 512,
    looks: 2_048,
};
const NODES: usize = 1_000;
/// Steps that any of the situations here may take.
const STEPS_MAX: u32 = 100_000;

/// A large cluster whose workers do at once what they are told.
struct Fleet {
    replica: Replica,
    orchestrator: Orchestrator,
    now_ms: u64,
    steps: u32,
    most_looked: usize,
    most_proposed: usize,
    silent: Option<NodeId>,
}

impl Fleet {
    fn new(memory_mib: u64) -> Self {
        let mut replica = Replica::in_cluster();
        for number in 0..NODES {
            let node = put_node(&name(number), 64_000, memory_mib, &["web", "web2"]);
            replica.apply(node).response.expect("a node");
        }
        let mut fleet = Self {
            replica,
            orchestrator: Orchestrator::new(1),
            now_ms: 1_000,
            steps: 0,
            most_looked: 0,
            most_proposed: 0,
            silent: None,
        };
        for number in 0..NODES {
            fleet
                .orchestrator
                .session_up(node_id(&name(number)), fleet.now_ms);
        }
        fleet.orchestrator.lead(fleet.now_ms);
        fleet.settle();
        fleet
    }

    /// Applies it; workers that are concerned do what it says, and report.
    fn apply(&mut self, body: Body) -> Result<Vec<u8>, Error> {
        let applied = self.replica.apply(body);
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
        let mut reports: BTreeMap<NodeId, Vec<pb::StatusItem>> = BTreeMap::new();
        for event in &applied.events {
            if let Event::Container { id, node, .. } = *event
                && Some(node) != self.silent
                && let Some(item) = self.work(id)
            {
                reports.entry(node).or_default().push(item);
            }
        }
        for (node, items) in reports {
            let node_id = node.to_vec();
            self.apply(Body::ReportStatus(pb::ReportStatus { node_id, items }))
                .expect("a report is answered");
        }
        applied.response
    }

    /// What its worker reports of a container, if that is news.
    fn work(&self, id: ContainerId) -> Option<pb::StatusItem> {
        let container = self.replica.state.container(id)?;
        let removed = container.desired == DesiredState::Remove;
        let state = if removed {
            ContainerState::Shutdown
        } else {
            ContainerState::Running
        };
        (removed || container.status.state != state).then(|| pb::StatusItem {
            container_id: id.to_vec(),
            status: Some(pb::ContainerStatus {
                attempt: container.status.attempt,
                state: state.into(),
                removed,
                ..Default::default()
            }),
        })
    }

    fn step(&mut self) -> Vec<Proposal> {
        let proposals = self
            .orchestrator
            .step(&self.replica.state, self.now_ms, BUDGET);
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "it never comes to rest");
        self.most_looked = self.most_looked.max(self.orchestrator.looked());
        let proposed = proposals.iter().map(|p| items(&p.body)).sum();
        self.most_proposed = self.most_proposed.max(proposed);
        proposals
    }

    /// Steps, applies and works until there is nothing left to do now.
    fn settle(&mut self) {
        loop {
            let proposals = self.step();
            for Proposal { token, body } in proposals {
                let outcome = self.apply(body);
                let outcome = outcome.as_deref().map_err(Clone::clone);
                self.orchestrator.resolved(self.now_ms, token, outcome);
            }
            let next = self.orchestrator.next_wakeup(self.now_ms);
            if next.is_none_or(|at_ms| at_ms > self.now_ms) {
                return;
            }
        }
    }

    /// With as few pulses as time still counts by.
    fn time_passes(&mut self, seconds: u64) {
        for _ in 0..seconds / 2 {
            self.now_ms += 2_000;
            for number in 0..NODES {
                let id = node_id(&name(number));
                if Some(id) != self.silent {
                    self.orchestrator.alive(id, self.now_ms);
                }
            }
            self.orchestrator.pulse(self.now_ms);
            self.settle();
        }
    }

    /// The silent node is back, and reports what has become of its containers.
    fn revive(&mut self, name: &str) {
        self.silent = None;
        let id = node_id(name);
        self.orchestrator.session_up(id, self.now_ms);
        let containers = self.replica.state.containers_of_node(id);
        let items = containers.filter_map(|c| self.work(c.id)).collect();
        let node_id = id.to_vec();
        self.apply(Body::ReportStatus(pb::ReportStatus { node_id, items }))
            .expect("a report is answered");
    }

    fn create(&mut self, spec: pb::ServiceSpec) {
        self.apply(Body::CreateService(pb::CreateService { spec: Some(spec) }))
            .expect("a new service");
    }

    fn update(&mut self, spec: pb::ServiceSpec) {
        let service = self.replica.state.service_by_name(&spec.name);
        let service = service.expect("it was created");
        let (service_id, expected_version) = (service.id.to_vec(), service.version);
        let spec = Some(spec);
        self.apply(Body::UpdateService(pb::UpdateService {
            service_id,
            expected_version,
            spec,
        }))
        .expect("the version is right");
    }

    /// `leaving`: given up for lost on a node that does not answer.
    fn assert_runs(&self, name: &str, expected: u32, leaving: u32) {
        let service = self.replica.state.service_by_name(name).expect("there");
        let tally = tally(&self.replica.state, service);
        let counts = (tally.desired, tally.running, tally.leaving);
        assert_eq!(counts, (expected, expected, leaving), "{name}");
    }

    /// Within the budget in every step, and nothing was missed by a mark.
    fn assert_bounded(&self, what: &str) {
        println!(
            "{what}: {} steps, at most {} looks and {} items",
            self.steps, self.most_looked, self.most_proposed
        );
        assert!(self.most_looked <= BUDGET.looks);
        assert!(self.most_proposed <= BUDGET.items);
        assert_eq!(self.orchestrator.stats().missed, 0);
    }
}

fn name(number: usize) -> String {
    format!("n{number}")
}

fn items(body: &Body) -> usize {
    match body {
        Body::Bind(bind) => bind.items.len(),
        Body::SetDesired(set) => set.items.len(),
        _ => 0,
    }
}

/// A service with more slots than any step may look at: made, updated, moved off a node that is
/// silent, taken over by a new leader, swept over, and removed.
#[test]
fn a_hundred_thousand_slots() {
    let replicas = 100_000;
    let mut fleet = Fleet::new(1 << 20);
    fleet.create(spec("big", replicas, "web"));
    fleet.settle();
    fleet.assert_runs("big", replicas, 0);
    fleet.assert_bounded("created");

    fleet.silent = Some(node_id(&name(1)));
    fleet
        .orchestrator
        .session_down(node_id(&name(1)), fleet.now_ms);
    fleet.time_passes(34);
    fleet.assert_runs("big", replicas, replicas / NODES as u32);
    fleet.assert_bounded("a node lost");

    fleet.orchestrator.follow();
    fleet.orchestrator.lead(fleet.now_ms);
    fleet.settle();
    fleet.time_passes(4);
    fleet.assert_bounded("taken over");

    fleet.update(spec("big", 1_000, "web"));
    fleet.settle();
    let state = &fleet.replica.state;
    let lost = state.containers_of_node(node_id(&name(1))).count() as u32;
    fleet.assert_runs("big", 1_000, lost);
    fleet.assert_bounded("scaled down");

    let service = fleet.replica.state.service_by_name("big").expect("there");
    let service_id = service.id.to_vec();
    fleet
        .apply(Body::RemoveService(pb::RemoveService { service_id }))
        .expect("it is there");
    fleet.settle();
    fleet.revive(&name(1));
    fleet.settle();
    assert_eq!(fleet.replica.state.service_count(), 0);
    fleet.assert_bounded("removed");
}

/// As many slots that find no room on as many nodes, until there is some.
#[test]
fn what_finds_no_room_waits_within_the_budget() {
    let mut large = spec("large", 20_000, "web");
    large.container.as_mut().unwrap().resources = Some(pb::Resources {
        cpu_milli: 0,
        memory_bytes: 600 * MIB,
        ..Default::default()
    });
    let mut fleet = Fleet::new(1_024);
    fleet.create(large.clone());
    fleet.settle();
    let state = &fleet.replica.state;
    let service = state.service_by_name("large").expect("there").id;
    assert_eq!(fleet.orchestrator.pending(service).len(), 20_000 - NODES);
    assert_eq!(fleet.orchestrator.stats().failed as usize, 20_000 - NODES);
    fleet.assert_bounded("no room");

    large.container.as_mut().unwrap().resources = None;
    fleet.update(large);
    fleet.settle();
    fleet.assert_runs("large", 20_000, 0);
    fleet.assert_bounded("room");
}

/// A service on each of a thousand nodes, through an update of it and the loss of a node.
#[test]
fn a_thousand_nodes_with_one_each() {
    let mut fleet = Fleet::new(1_024);
    let mut global = spec("global", 0, "web");
    global.mode = pb::ServiceMode::Global.into();
    fleet.create(global.clone());
    fleet.settle();
    fleet.assert_runs("global", NODES as u32, 0);

    global.container.as_mut().unwrap().image_digest = support::digest("web2");
    fleet.update(global);
    fleet.settle();
    fleet.assert_runs("global", NODES as u32, 0);

    fleet.silent = Some(node_id(&name(1)));
    fleet
        .orchestrator
        .session_down(node_id(&name(1)), fleet.now_ms);
    fleet.time_passes(34);
    let down = fleet.replica.state.node(node_id(&name(1))).expect("there");
    assert_eq!(down.status, NodeStatus::Down);
    fleet.assert_runs("global", NODES as u32 - 1, 0);
    fleet.assert_bounded("global");
}
