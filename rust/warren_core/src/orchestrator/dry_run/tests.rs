//! A plan changes nothing, and what it says is what the orchestrator then does.

use std::collections::BTreeMap;

use crate::fsm::{Service, State};
use crate::ids::NodeId;
use crate::orchestrator::dry_run::{BUDGET, DryRun, next, status, stays};
use crate::orchestrator::testing::World;
use crate::orchestrator::{Orchestrator, Outcome};
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

/// Lets a real orchestrator work on the cluster itself until it has nothing more to do.
fn settle(world: &mut World) {
    let mut orchestrator = Orchestrator::new(0);
    let mut now_ms = 0;
    orchestrator.lead(now_ms);
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
            world.apply_to(&mut orchestrator, Body::ReportStatus(report));
        }
        let proposals = orchestrator.step(&world.state, now_ms, BUDGET);
        if idle && proposals.is_empty() {
            now_ms += 200;
        }
        for proposal in proposals {
            let told = world.apply_to(&mut orchestrator, proposal.body);
            orchestrator.resolved(now_ms, proposal.token, Ok(&told));
        }
        if now_ms > 3_000 {
            return;
        }
    }
    panic!("it never settles");
}

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
