//! Draining: what is on a node goes where there is room, a few at a time, and at once after the deadline.

#[path = "fsm_support/mod.rs"]
mod support;

use support::{Replica, invariants, node_id, put_node, spec};
use warren_core::fsm::{
    Availability, Container, ContainerState, DesiredState, Event, Service, State, is_terminal,
};
use warren_core::orchestrator::{Budget, Orchestrator};
use warren_core::pb::{self, command::Body};

const BUDGET: Budget = Budget {
    items: 64,
    looks: 4_096,
};

struct World {
    replica: Replica,
    orchestrator: Orchestrator,
    now_ms: u64,
    /// The most slots of a service that were seen without a running container at once.
    away_most: usize,
}

impl World {
    fn new(nodes: &[(&str, u64)]) -> Self {
        let mut world = Self {
            replica: Replica::at_newest_level(),
            orchestrator: Orchestrator::new(1),
            now_ms: 1_000,
            away_most: 0,
        };
        for (name, cpu_milli) in nodes {
            world.apply(put_node(name, *cpu_milli, 64, &["web"]));
        }
        world.orchestrator.lead(world.now_ms);
        for (name, _) in nodes {
            world.orchestrator.session_up(node_id(name), world.now_ms);
        }
        world
    }

    fn state(&self) -> &State {
        &self.replica.state
    }

    fn apply(&mut self, body: Body) -> Vec<u8> {
        let applied = self.replica.apply(body);
        invariants::check(&self.replica.state);
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
        let touched = applied.events.iter().filter_map(|event| match event {
            Event::Container { id, .. } => self.replica.state.container(*id).cloned(),
            _ => None,
        });
        let touched: Vec<_> = touched.collect();
        for container in touched {
            self.work(&container);
        }
        applied.response.expect("it makes sense")
    }

    /// The worker does what it is told.
    fn work(&mut self, container: &Container) {
        let stops = container.desired != DesiredState::Run;
        let state = match container.status.state {
            ContainerState::Assigned if !stops => ContainerState::Running,
            state if stops && !is_terminal(state) => ContainerState::Shutdown,
            _ => return,
        };
        let status = pb::ContainerStatus {
            attempt: 1,
            state: state.into(),
            removed: stops,
            ..Default::default()
        };
        let item = pb::StatusItem {
            container_id: container.id.to_vec(),
            status: Some(status),
        };
        self.apply(Body::ReportStatus(pb::ReportStatus {
            node_id: container.node.to_vec(),
            items: vec![item],
        }));
    }

    fn create(&mut self, name: &str, replicas: u32, cpu_milli: u64) -> Service {
        let mut spec = spec(name, replicas, "web");
        if replicas == 0 {
            spec.mode = pb::ServiceMode::Global.into();
        }
        let container = spec.container.as_mut().expect("it has one");
        container.resources = Some(pb::Resources {
            cpu_milli,
            ..Default::default()
        });
        let spec = Some(spec);
        self.apply(Body::CreateService(pb::CreateService { spec }));
        self.settle();
        self.state().service_by_name(name).expect("created").clone()
    }

    fn set(&mut self, node: &str, availability: Availability, drain_within_ms: u64) {
        self.apply(Body::SetNodeAvailability(pb::SetNodeAvailability {
            node_id: node_id(node).to_vec(),
            availability: availability.into(),
            drain_within_ms,
            drain_overdue: false,
        }));
        self.settle();
    }

    /// Goes on until there is nothing to be done now.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let proposals = self
                .orchestrator
                .step(&self.replica.state, self.now_ms, BUDGET);
            let idle = proposals.is_empty();
            for proposal in proposals {
                let told = self.apply(proposal.body);
                self.orchestrator
                    .resolved(self.now_ms, proposal.token, Ok(&told));
                let services: Vec<_> = self.state().services().cloned().collect();
                let away = services.iter().map(|service| self.away(service));
                self.away_most = self.away_most.max(away.max().unwrap_or_default());
            }
            let next_ms = self.orchestrator.next_wakeup(self.now_ms);
            if idle && next_ms.is_some_and(|next_ms| next_ms > self.now_ms) {
                return;
            }
        }
        panic!("it never settles");
    }

    fn wait(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms = (self.now_ms + 500).min(until_ms);
            self.settle();
        }
    }

    fn away(&self, service: &Service) -> usize {
        (service.spec.replicas as usize).saturating_sub(self.running(service))
    }

    fn alive<'a>(&'a self, service: &Service) -> impl Iterator<Item = &'a Container> {
        let all = self.state().containers_of_service(service.id);
        all.filter(|it| it.desired == DesiredState::Run && !it.is_terminal())
    }

    fn running(&self, service: &Service) -> usize {
        self.alive(service).count()
    }

    fn on(&self, service: &Service, node: &str) -> usize {
        let id = node_id(node);
        self.alive(service).filter(|it| it.node == id).count()
    }

    fn reason(&self, service: &Service) -> String {
        self.orchestrator.progress(self.state(), service.id).reason
    }
}

#[test]
fn everything_moves_and_never_more_than_a_quarter_is_away() {
    let mut world = World::new(&[("n1", 8_000), ("n2", 8_000), ("n3", 8_000)]);
    let service = world.create("web", 12, 500);
    let before = world.on(&service, "n1");
    assert!(before > 0, "it was spread");
    world.away_most = 0;
    world.set("n1", Availability::Drain, 0);
    assert_eq!((world.on(&service, "n1"), world.running(&service)), (0, 12));
    assert!((1..=3).contains(&world.away_most), "{}", world.away_most);
    // What has moved stays where it is, and what comes may come again.
    world.set("n1", Availability::Active, 0);
    assert_eq!(world.on(&service, "n1"), 0);
    assert_eq!(world.orchestrator.stats().missed, 0);
}

#[test]
fn what_finds_no_room_stays_says_why_and_goes_once_there_is_some() {
    let mut world = World::new(&[("n1", 4_000), ("n2", 4_000)]);
    let service = world.create("web", 8, 1_000);
    assert_eq!(world.on(&service, "n1"), 4);
    world.set("n1", Availability::Drain, 0);
    assert_eq!((world.on(&service, "n1"), world.running(&service)), (4, 8));
    let reason = world.reason(&service);
    assert!(
        reason.contains("stays on a node that is being drained"),
        "{reason}"
    );
    assert!(
        reason.contains("not enough CPU (asked 1, most free 0)"),
        "{reason}"
    );
    world.apply(put_node("n3", 2_000, 64, &["web"]));
    world.settle();
    assert_eq!((world.on(&service, "n3"), world.running(&service)), (2, 8));
    assert_eq!(world.on(&service, "n1"), 2);
}

#[test]
fn after_the_deadline_what_is_still_there_goes_at_once() {
    let mut world = World::new(&[("n1", 4_000), ("n2", 4_000)]);
    let service = world.create("web", 8, 1_000);
    world.set("n1", Availability::Drain, 60_000);
    world.wait(59_000);
    assert_eq!(world.on(&service, "n1"), 4);
    let drain = world.state().node(node_id("n1")).unwrap().drain.unwrap();
    assert!(!drain.overdue);
    world.wait(1_500);
    assert!(
        world
            .state()
            .node(node_id("n1"))
            .unwrap()
            .is_drain_overdue()
    );
    assert_eq!((world.on(&service, "n1"), world.running(&service)), (0, 4));
    assert_eq!(world.orchestrator.pending(service.id).len(), 4);
    // Let in again, those that wait come back.
    world.set("n1", Availability::Active, 0);
    assert_eq!(world.running(&service), 8);
}

#[test]
fn a_new_leader_keeps_the_deadline() {
    let mut world = World::new(&[("n1", 4_000), ("n2", 4_000)]);
    let service = world.create("web", 8, 1_000);
    world.set("n1", Availability::Drain, 60_000);
    world.wait(10_000);
    world.orchestrator.lead(world.now_ms);
    world.settle();
    assert_eq!(world.on(&service, "n1"), 4);
    world.wait(61_000);
    assert_eq!(world.on(&service, "n1"), 0);
}

#[test]
fn a_drain_that_is_called_off_ends_nothing() {
    let mut world = World::new(&[("n1", 4_000), ("n2", 4_000)]);
    let service = world.create("web", 8, 1_000);
    world.set("n1", Availability::Drain, 60_000);
    world.wait(30_000);
    world.set("n1", Availability::Active, 0);
    world.wait(60_000);
    assert_eq!((world.on(&service, "n1"), world.running(&service)), (4, 8));
}

#[test]
fn global_services_leave_and_come_back() {
    let mut world = World::new(&[("n1", 4_000), ("n2", 4_000)]);
    let service = world.create("agent", 0, 100);
    assert_eq!((world.on(&service, "n1"), world.on(&service, "n2")), (1, 1));
    world.set("n1", Availability::Drain, 0);
    assert_eq!((world.on(&service, "n1"), world.on(&service, "n2")), (0, 1));
    world.set("n1", Availability::Active, 0);
    assert_eq!((world.on(&service, "n1"), world.on(&service, "n2")), (1, 1));
}
