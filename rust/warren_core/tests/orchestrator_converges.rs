//! The orchestrator against a simulated cluster: whatever people and nodes do meanwhile, when they
//! stop every service gets where it is wanted, nothing is proposed twice, and no change goes
//! unmarked.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use support::{Replica, Rng, invariants, put_node, spec};
use warren_core::error::Error;
use warren_core::fsm::{
    ContainerState, DesiredState, Event, NodeStatus, Service, State, is_terminal, rests, tally,
};
use warren_core::ids::{ContainerId, NodeId, ServiceId};
use warren_core::orchestrator::{Orchestrator, Proposal};
use warren_core::pb::{self, command::Body};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const BUDGET: usize = 7; // Small, so that steps stop in the middle of things.

struct World {
    rng: Rng,
    replica: Replica,
    orchestrator: Orchestrator,
    now_ms: u64,
    /// Proposed, not judged yet: outcomes arrive late and in order, as from a log.
    log: VecDeque<Proposal>,
    history: invariants::History,
    /// Nodes that neither work nor speak.
    dead: BTreeSet<NodeId>,
    calm: bool,
    created: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng(seed),
            replica: Replica::in_cluster(),
            orchestrator: Orchestrator::new(seed),
            now_ms: 1_000,
            log: VecDeque::new(),
            history: invariants::History::default(),
            dead: BTreeSet::new(),
            calm: false,
            created: 0,
        };
        for name in NODES {
            world
                .apply(put_node(name, 4_000, 64, &["web", "web2"]))
                .expect("a node");
        }
        world.orchestrator.lead(&world.replica.state, world.now_ms);
        for name in NODES {
            world
                .orchestrator
                .session_up(support::node_id(name), world.now_ms);
        }
        world
    }

    fn state(&self) -> &State {
        &self.replica.state
    }

    fn apply(&mut self, body: Body) -> Result<Vec<u8>, Error> {
        let applied = self.replica.apply(body);
        invariants::check(&self.replica.state);
        self.history.observe(&self.replica.state);
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
        for event in &applied.events {
            if let Event::Node { id } = event {
                assert!(self.replica.state.node(*id).is_some());
            }
        }
        applied.response
    }

    fn step(&mut self) {
        let proposals = self
            .orchestrator
            .step(&self.replica.state, self.now_ms, BUDGET);
        for proposal in proposals {
            self.nothing_twice(&proposal);
            self.log.push_back(proposal);
        }
    }

    /// No slot, container or service of a proposal is in one that still waits for its outcome.
    fn nothing_twice(&self, proposal: &Proposal) {
        let mut seen = BTreeSet::new();
        for body in self.log.iter().map(|p| &p.body).chain([&proposal.body]) {
            for subject in subjects(body) {
                assert!(seen.insert(subject.clone()), "proposed twice: {subject}");
            }
        }
    }

    /// The oldest proposal comes out of the log; rarely it is lost, as with leadership in doubt.
    fn judge(&mut self) {
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
        self.orchestrator
            .resolved(&self.replica.state, self.now_ms, token, outcome);
    }

    fn people_change_something(&mut self) {
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
                });
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

    fn updated(&mut self, service: &Service) -> Body {
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

    fn nodes_change_something(&mut self) {
        let name = *self.rng.pick(&NODES);
        let id = support::node_id(name);
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

    fn revive(&mut self, id: NodeId) {
        if self.dead.remove(&id) {
            self.orchestrator.session_up(id, self.now_ms);
        }
    }

    /// Each living worker takes some of its containers one step on and reports in one batch.
    fn workers_work(&mut self) {
        for name in NODES {
            let id = support::node_id(name);
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

    fn advance(
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

    fn time_passes(&mut self, ms: u64) {
        self.now_ms += ms;
        self.orchestrator.pulse(self.now_ms);
    }

    /// Nothing more happens to it but what the orchestrator does; all nodes are back.
    fn calm_down(&mut self) {
        self.calm = true;
        for name in NODES {
            self.revive(support::node_id(name));
            let _applied = self.apply(put_node(name, 16_000, 64, &["web", "web2"]));
        }
        for _ in 0..400 {
            self.time_passes(1_000);
            self.workers_work();
            self.drain();
        }
    }

    /// Steps until it says itself that nothing is left for now.
    fn drain(&mut self) {
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
        Body::SetDesired(set) => set
            .items
            .iter()
            .map(|item| format!("container {:?}", item.container_id))
            .collect(),
        other => vec![format!("{other:?}")],
    }
}

/// An oracle that knows nothing of the orchestrator: each slot has one container of the present
/// spec, running or at rest by the restart condition, and there is nothing else.
fn assert_arrived(world: &World) {
    let state = world.state();
    for service in state.services() {
        assert!(!service.removing, "{} was not forgotten", service.name);
        let mut slots: BTreeMap<(u64, Option<NodeId>), u32> = BTreeMap::new();
        for container in state.containers_of_service(service.id) {
            let runs = container.status.state == ContainerState::Running
                || (container.is_terminal() && rests(service, container));
            let current = container.spec_digest == service.spec_digest;
            let wanted = container.desired == DesiredState::Run;
            assert!(
                runs && current && wanted,
                "{} has {container:?}",
                service.name
            );
            let node = service.is_global().then_some(container.node);
            *slots.entry((container.slot, node)).or_insert(0) += 1;
        }
        let expected = if service.is_global() {
            NODES.len()
        } else {
            service.spec.replicas as usize
        };
        assert_eq!(slots.len(), expected, "{}: {slots:?}", service.name);
        assert!(slots.values().all(|count| *count == 1), "{slots:?}");
        let progress = world.orchestrator.progress(state, service.id);
        let left = (progress.leaving, progress.pending, progress.reason.as_str());
        assert_eq!(left, (0, 0, ""), "{}", service.name);
        let tally = tally(state, service);
        assert_eq!(
            tally.running + tally.failing,
            tally.desired,
            "{}: {tally:?}",
            service.name
        );
    }
}

/// Capacity is enough for everybody in the end, or this oracle would ask too much.
fn enough_room(world: &World) -> bool {
    let asked: u64 = world
        .state()
        .services()
        .map(|s| s.resources().cpu_milli * u64::from(s.spec.replicas.max(4)))
        .sum();
    asked <= 4 * 16_000 / 2
}

#[test]
fn every_service_arrives_when_the_world_calms_down() {
    let (mut scheduled, mut failed, mut lost, mut compared) = (0, 0, 0, 0);
    for seed in 0..60 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..150 {
            match world.rng.below(10) {
                0 => world.people_change_something(),
                1 => world.nodes_change_something(),
                2..=4 => world.workers_work(),
                5..=6 => world.step(),
                7..=8 => world.judge(),
                _ => {
                    let ms = world.rng.below(4_000);
                    world.time_passes(ms);
                }
            }
            lost += world.state().containers_in(ContainerState::Lost);
        }
        if seed % 4 == 0 {
            // A new leader starts from the state alone; what the old one had proposed is void.
            world.log.clear();
            world.orchestrator.follow();
            assert_eq!(world.orchestrator.next_wakeup(world.now_ms), None);
            world.orchestrator.lead(&world.replica.state, world.now_ms);
        }
        world.calm_down();
        if enough_room(&world) {
            assert_arrived(&world);
            compared += 1;
        }
        let stats = world.orchestrator.stats();
        assert_eq!(stats.missed, 0, "the sweep found what nobody had marked");
        assert_eq!(world.orchestrator.in_flight(), 0);
        scheduled += stats.scheduled;
        failed += stats.failed;
    }
    // The world must have been rough enough, and the oracle asked.
    println!("{scheduled} scheduled, {failed} failed, {lost} lost, {compared} compared");
    assert!(scheduled > 1_000 && failed > 50 && lost > 0 && compared > 40);
}

/// When everything is where it should be, steps propose nothing, however long they go on.
#[test]
fn at_rest_nothing_is_proposed() {
    let mut world = World::new(1);
    for name in ["a", "b"] {
        let spec = Some(spec(name, 5, "web"));
        world
            .apply(Body::CreateService(pb::CreateService { spec }))
            .expect("a new service");
    }
    world.calm_down();
    let applied = world.replica.index;
    for _ in 0..300 {
        world.time_passes(1_000);
        world.workers_work();
        assert_eq!(
            world
                .orchestrator
                .step(&world.replica.state, world.now_ms, 4096),
            []
        );
    }
    assert_eq!(world.replica.index, applied);
}

/// The sweep is a net, and one that holds: a change that was never observed is found and counted.
#[test]
fn the_sweep_finds_what_was_not_observed() {
    let mut world = World::new(2);
    world.calm_down();
    let spec = Some(spec("unseen", 3, "web"));
    world
        .replica
        .apply(Body::CreateService(pb::CreateService { spec }));
    world.calm_down();
    assert_eq!(world.orchestrator.stats().missed, 3);
    assert_arrived(&world);
}

/// No update takes more than a quarter of a service away at a time, and one whose successors
/// would find no room takes none.
#[test]
fn updates_keep_three_quarters_running() {
    for (cpu_milli, image, arrives) in [(100, "web2", true), (50_000, "web2", false)] {
        let mut world = World::new(3);
        world.calm = true;
        let created = Some(spec("s", 12, "web"));
        world
            .apply(Body::CreateService(pb::CreateService { spec: created }))
            .expect("new");
        world.calm_down();
        let service = world
            .state()
            .service_by_name("s")
            .expect("it was created")
            .clone();
        let mut next = spec("s", 12, image);
        next.container.as_mut().unwrap().resources = Some(pb::Resources {
            cpu_milli,
            memory_bytes: 0,
        });
        let (service_id, expected_version) = (service.id.to_vec(), service.version);
        let update = pb::UpdateService {
            service_id,
            expected_version,
            spec: Some(next),
        };
        world
            .apply(Body::UpdateService(update))
            .expect("the version is right");
        for _ in 0..200 {
            world.time_passes(100);
            world.step();
            world.judge();
            world.workers_work();
            assert!(running(world.state(), service.id) >= 9);
        }
        let progress = world.orchestrator.progress(world.state(), service.id);
        if arrives {
            assert_arrived(&world);
        } else {
            assert_eq!(progress.leaving, 12);
            assert_eq!(
                progress.reason,
                "keeps running the version before: \
                 4 nodes: not enough CPU (asked 50, most free 16)"
            );
        }
    }
}

fn running(state: &State, service: ServiceId) -> usize {
    let containers = state.containers_of_service(service);
    containers
        .filter(|c| c.desired == DesiredState::Run && c.status.state == ContainerState::Running)
        .count()
}

/// A node that is silent while nobody could have heard it is not blamed; a leader that is new
/// waits anew; one that is silent while others are heard goes down, and what it ran moves.
#[test]
fn silence_counts_only_while_it_could_have_been_heard() {
    let down = |world: &World| {
        world
            .state()
            .nodes()
            .filter(|node| node.status == NodeStatus::Down)
            .count()
    };
    let mut world = World::new(4);
    world.calm = true;
    let created = Some(spec("s", 4, "web"));
    world
        .apply(Body::CreateService(pb::CreateService { spec: created }))
        .expect("new");
    world.calm_down();
    // The loop was stuck for ten minutes: nobody was heard, nobody goes.
    world.time_passes(600_000);
    world.drain();
    assert_eq!(down(&world), 0);
    // Almost a grace period of silence, then another leader: a full one again.
    for _ in 0..29 {
        world.time_passes(1_000);
        world.drain();
    }
    world.orchestrator.follow();
    world.orchestrator.lead(&world.replica.state, world.now_ms);
    for _ in 0..29 {
        world.time_passes(1_000);
        world.drain();
    }
    assert_eq!(down(&world), 0);
    // One stays silent.
    world.dead.insert(support::node_id("n1"));
    for _ in 0..40 {
        world.time_passes(1_000);
        world.workers_work();
        world.drain();
    }
    assert_eq!(down(&world), 1);
    let elsewhere = world
        .state()
        .containers()
        .filter(|c| c.status.state == ContainerState::Running && c.node != support::node_id("n1"));
    assert_eq!(elsewhere.count(), 4);
    assert_eq!(world.state().containers_in(ContainerState::Lost), 1);
    // It is back: what it still ran is removed, nothing else moves.
    world.revive(support::node_id("n1"));
    world.calm_down();
    assert_eq!(down(&world), 0);
    assert_arrived(&world);
}
