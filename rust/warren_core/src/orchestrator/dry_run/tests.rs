//! A plan changes nothing, and what it says is what the orchestrator then does.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::fsm::{ContainerState, Service, State};
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::dry_run::{BUDGET, DryRun, STEPS_MAX, next, status, stays};
use crate::orchestrator::testing::World;
use crate::orchestrator::{KnownFailing, Orchestrator, Outcome};
use crate::pb::{self, command::Body};

fn create(spec: &pb::ServiceSpec) -> Body {
    let spec = Some(spec.clone());
    Body::CreateService(pb::CreateService { spec })
}

fn update(service: &Service, change: impl FnOnce(&mut pb::ServiceSpec)) -> Body {
    let mut spec = service.spec.as_ref().clone();
    change(&mut spec);
    Body::UpdateService(pb::UpdateService {
        service_id: service.id.to_vec(),
        expected_version: service.version,
        spec: Some(spec),
    })
}

/// Lets a real orchestrator work on the cluster itself until it has nothing more to do. Returns the
/// containers that were told to make room, with the slots that they did so for.
fn settle(world: &mut World) -> Preemptions {
    let mut orchestrator = Orchestrator::new(0);
    orchestrator.lead(0);
    settle_with(world, &mut orchestrator)
}

fn settle_with(world: &mut World, orchestrator: &mut Orchestrator) -> Preemptions {
    let mut preempted = Preemptions::new();
    let mut now_ms = 0;
    for _ in 0..500 {
        let mut news = Vec::new();
        for container in world.state.containers() {
            if let Some(state) = next(container) {
                news.push((container.node, status(container, state)));
            }
        }
        let idle = news.is_empty();
        for (node, item) in news {
            let report = pb::ReportStatus {
                node_id: node.to_vec(),
                items: vec![item],
            };
            world.apply_to(orchestrator, Body::ReportStatus(report));
        }
        let proposals = orchestrator.step(&world.state, now_ms, BUDGET);
        if idle && proposals.is_empty() {
            now_ms += 200;
        }
        for proposal in proposals {
            let preempt = match &proposal.body {
                Body::Preempt(preempt) => preempt.items.clone(),
                _ => Vec::new(),
            };
            let told = world.apply_to(orchestrator, proposal.body);
            let answer = pb::BatchResult::decode(&told[..]).unwrap_or_default();
            let taken = preempt.into_iter().zip(answer.items);
            for (item, _) in taken.filter(|(_, answer)| answer.applied) {
                let bind = item.bind.expect("it is for somebody");
                let by = ServiceId::from_slice(&bind.service_id).expect("an id");
                for id in item.victims {
                    let id = ContainerId::from_slice(&id).expect("an id");
                    preempted.insert(id, (by, bind.slot));
                }
            }
            orchestrator.resolved(now_ms, proposal.token, Ok(&told));
        }
        if now_ms > 3_000 {
            return preempted;
        }
    }
    panic!("it never settles");
}

type Preemptions = BTreeMap<ContainerId, (ServiceId, u64)>;

fn by_node(state: &State, service: &Service) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    for container in state
        .containers_of_service(service.id)
        .filter(|it| stays(it))
    {
        *counts.entry(container.node).or_insert(0) += 1;
    }
    counts
}

fn planned(state: &State, body: Body, name: &str) -> Outcome {
    let before = state.hash();
    let mut run = DryRun::new(state, 0);
    run.change(body).expect("it makes sense");
    let id = run.state().service_by_name(name).expect("it is there").id;
    run.take_up(id);
    assert!(run.run(), "it took too many steps");
    assert_eq!(state.hash(), before, "a plan changes nothing");
    run.outcome(id)
}

fn total(counts: &BTreeMap<NodeId, u32>) -> u32 {
    counts.values().sum()
}

#[test]
fn a_create_is_planned_as_it_happens() {
    let (mut placed, mut waiting) = (0, 0);
    for seed in 0..60 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.service("s0");
        settle(&mut world);
        let spec = world.spec("s1");
        let outcome = planned(&world.state, create(&spec), "s1");
        assert_eq!(total(&outcome.placed) + outcome.pending.len() as u32, 8);
        world.apply(create(&spec));
        settle(&mut world);
        let service = world.state.service_by_name("s1").expect("created").clone();
        let found = by_node(&world.state, &service);
        assert_eq!(
            total(&found),
            total(&outcome.placed),
            "{found:?} {outcome:?}"
        );
        placed += total(&found);
        waiting += outcome.pending.len();
    }
    // The generator must reach what it is to test.
    assert!(placed > 50 && waiting > 50, "{placed} {waiting}");
}

#[test]
fn an_update_is_planned_as_it_happens() {
    let (mut stopped, mut unchanged) = (0, 0);
    for seed in 0..60 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        let service = world.service("s0");
        settle(&mut world);
        let before = by_node(&world.state, &service);
        let more = world.random.below(2) == 0;
        let body = update(&service, |spec| match more {
            true => spec.replicas = 3,
            false => spec.container.as_mut().expect("it has one").user = "1".into(),
        });
        let outcome = planned(&world.state, body.clone(), "s0");
        assert_eq!(total(&outcome.stopped) + outcome.unchanged, total(&before));
        world.apply(body);
        settle(&mut world);
        let after = total(&by_node(&world.state, &service));
        assert_eq!(
            after,
            outcome.unchanged + total(&outcome.placed),
            "{outcome:?}"
        );
        stopped += total(&outcome.stopped);
        unchanged += outcome.unchanged;
    }
    assert!(stopped > 50 && unchanged > 20, "{stopped} {unchanged}");
}

/// A spec with a priority, that preempts where one is higher.
fn urgent(world: &mut World, name: &str, priority: u32, replicas: u32) -> pb::ServiceSpec {
    let mut spec = world.spec(name);
    spec.replicas = replicas;
    let placement = spec.placement.get_or_insert_default();
    placement.priority = Some(priority);
    placement.preempt = priority > 20;
    spec
}

#[test]
fn what_a_plan_says_would_be_preempted_is_what_is() {
    let (mut with, mut without) = (0, 0);
    for seed in 0..100 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for (name, priority) in [("s0", 10), ("s1", 10 + 20 * (seed as u32 % 2))] {
            let spec = urgent(&mut world, name, priority, 8);
            world.create(spec);
        }
        settle(&mut world);
        let bodies: Vec<_> = [("s2", 80), ("s3", 60)]
            .into_iter()
            .map(|(name, priority)| create(&urgent(&mut world, name, priority, 4)))
            .collect();
        let before = world.state.clone();
        let mut run = DryRun::new(&world.state, 0);
        for body in &bodies {
            run.change(body.clone()).expect("it makes sense");
        }
        // Ids are drawn by, so that the same services have to have the same ones.
        world.take_over(run.state());
        assert!(run.run(), "it took too many steps");
        let name = |state: &State, id| state.service(id).expect("it is there").name.to_string();
        let planned: BTreeMap<_, _> = run
            .preempted()
            .map(|it| (it.container.id, name(run.state(), it.by)))
            .collect();
        let done = settle(&mut world);
        // What only came with the plan is nobody's yet.
        let done = done
            .into_iter()
            .filter(|(id, _)| before.container(*id).is_some());
        let done: BTreeMap<_, _> = done
            .map(|(id, (by, _))| (id, name(&world.state, by)))
            .collect();
        // Slots of a service are alike: which of them a victim makes room for may come out otherwise
        // where one of two claims on the same node is refused and tried anew.
        assert_eq!(planned, done);
        match done.is_empty() {
            true => without += 1,
            false => with += done.len(),
        }
    }
    // The generator must reach what it is to test.
    assert!(with > 50 && without > 20, "{with} {without}");
}

/// One of the service's containers fails three times where it is, and then ends: what is left of that
/// is in the leader's memory alone.
fn fail(world: &mut World, orchestrator: &mut Orchestrator, of: &Service) -> Option<NodeId> {
    let containers = world.state.containers_of_service(of.id);
    let failing = containers
        .filter(|it| stays(it))
        .min_by_key(|it| it.slot)?
        .clone();
    for state in [ContainerState::Running, ContainerState::Failed] {
        let mut item = status(&failing, state);
        item.status.as_mut().expect("it has one").attempt = 4;
        let report = pb::ReportStatus {
            node_id: failing.node.to_vec(),
            items: vec![item],
        };
        world.apply_to(orchestrator, Body::ReportStatus(report));
        settle_with(world, orchestrator);
    }
    Some(failing.node)
}

#[test]
fn a_plan_avoids_nodes_on_which_the_leader_knows_that_the_service_keeps_failing() {
    let (mut surprises, mut compared) = (0, 0);
    for seed in 0..120 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        let mut spec = world.spec("s0");
        spec.replicas = 4;
        let service = world.create(spec);
        let mut orchestrator = Orchestrator::new(0);
        orchestrator.lead(0);
        settle_with(&mut world, &mut orchestrator);
        let Some(node) = fail(&mut world, &mut orchestrator, &service) else {
            continue;
        };
        let body = update(
            world.state.service(service.id).expect("it is there"),
            |spec| {
                spec.replicas = 8;
            },
        );
        let planned = |known: &KnownFailing| {
            let mut run = DryRun::new(&world.state, 0);
            run.avoid(known);
            run.change(body.clone()).expect("it makes sense");
            run.take_up(service.id);
            assert!(run.run(), "it took too many steps");
            run.outcome(service.id).placed.get(&node).copied()
        };
        let plan = planned(&orchestrator.known_failing());
        let unaware = planned(&KnownFailing::default());
        let before = by_node(&world.state, &service);
        world.apply_to(&mut orchestrator, body);
        settle_with(&mut world, &mut orchestrator);
        let after = by_node(&world.state, &service);
        let count = |of: &BTreeMap<_, _>| of.get(&node).copied().unwrap_or(0);
        let more = count(&after) - count(&before);
        assert_eq!(plan.unwrap_or(0), more, "{before:?} {after:?}");
        compared += 1;
        surprises += u32::from(unaware.unwrap_or(0) != more);
    }
    // The generator must reach what it is to test.
    assert!(compared > 40 && surprises > 5, "{compared} {surprises}");
}

#[test]
fn a_run_ends_after_so_many_steps_and_says_that_it_is_not_finished() {
    let mut world = World::new(3);
    let mut spec = world.spec("s0");
    spec.placement = None;
    spec.replicas = 4;
    let container = spec.container.as_mut().expect("it has one");
    (container.resources, container.devices) = (None, Vec::new());
    container.mounts.clear();
    container.host_ports.clear();
    let service = world.create(spec);
    settle(&mut world);
    // One after the other, each in several steps.
    let body = update(
        world.state.service(service.id).expect("it is there"),
        |spec| {
            spec.container.as_mut().expect("it has one").user = "1".into();
        },
    );
    let planned = |steps_max| {
        let mut run = DryRun::new(&world.state, 0);
        run.steps_max = steps_max;
        run.change(body.clone()).expect("it makes sense");
        run.take_up(service.id);
        (run.run(), run.outcome(service.id))
    };
    let (finished, whole) = planned(STEPS_MAX);
    assert!(finished && total(&whole.placed) == 4 && whole.unchanged == 0);
    let runs: Vec<_> = (0..40).map(planned).collect();
    let enough = runs.iter().position(|(finished, _)| *finished);
    let enough = enough.expect("it needs no more steps");
    assert!(enough > 4, "{enough}");
    for (steps, (finished, outcome)) in runs.iter().enumerate() {
        assert_eq!(*finished, steps >= enough, "{steps}");
        if steps == 1 {
            assert!(outcome.unchanged > 0, "{outcome:?}");
        }
        if *finished {
            assert_eq!(*outcome, whole, "{steps}");
        }
    }
}
