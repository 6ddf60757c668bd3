//! The orchestrator against a simulated cluster: whatever people and nodes do meanwhile, when they
//! stop every service gets where it is wanted, nothing is proposed twice, and no change goes
//! unmarked.

#[path = "fsm_support/mod.rs"]
mod support;
#[path = "orchestrator_support/mod.rs"]
mod world;

use std::collections::BTreeMap;

use support::{node_id, spec};
use warren_core::fsm::{ContainerState, DesiredState, NodeStatus, State, rests, tally};
use warren_core::ids::{NodeId, ServiceId};
use warren_core::pb::{self, command::Body};
use world::{NODES, World};

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
        for _ in 0..300 {
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
            world.orchestrator.lead(world.now_ms);
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
        world.step();
        assert!(world.log.is_empty());
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
            ..Default::default()
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
        for _ in 0..2_000 {
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
    world.orchestrator.lead(world.now_ms);
    for _ in 0..29 {
        world.time_passes(1_000);
        world.drain();
    }
    assert_eq!(down(&world), 0);
    // One stays silent.
    world.dead.insert(node_id("n1"));
    for _ in 0..40 {
        world.time_passes(1_000);
        world.workers_work();
        world.drain();
    }
    assert_eq!(down(&world), 1);
    let elsewhere = world
        .state()
        .containers()
        .filter(|c| c.status.state == ContainerState::Running && c.node != node_id("n1"));
    assert_eq!(elsewhere.count(), 4);
    assert_eq!(world.state().containers_in(ContainerState::Lost), 1);
    // It is back: what it still ran is removed, nothing else moves.
    world.revive(node_id("n1"));
    world.calm_down();
    assert_eq!(down(&world), 0);
    assert_arrived(&world);
}
