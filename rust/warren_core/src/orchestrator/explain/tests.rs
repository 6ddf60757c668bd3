//! What is said to fit is exactly what placing would take.

use std::collections::BTreeMap;

use crate::fsm::{Service, State};
use crate::ids::NodeId;
use crate::orchestrator::asking::{self, Asking, Placement};
use crate::orchestrator::explain::{Subject, containers_by_node, explain};
use crate::orchestrator::testing::World;
use crate::scheduler::Scheduler;

/// Nodes that the search takes one of these on, each asked for by itself.
fn would_go(state: &State, service: &Service) -> Vec<NodeId> {
    let mut scheduler = Scheduler::new(1);
    let mut asking = Asking::default();
    for node in state.nodes() {
        scheduler.node_put(state, node);
        asking.node_put(&mut scheduler, state, node);
    }
    asking.learn(&mut scheduler, state, service);
    let have = containers_by_node(state, service);
    let placement = Placement {
        state,
        service,
        spread: &have,
        avoided: &[],
        count: 1,
    };
    let nodes = state.nodes().map(|node| node.id);
    nodes
        .filter(|id| asking::would_place_on(&asking, &mut scheduler, &placement, *id))
        .collect()
}

#[test]
fn a_node_is_said_to_fit_exactly_where_placing_would_take_it() {
    let (mut fits, mut fits_not, mut kinds) = (0, 0, BTreeMap::new());
    for seed in 0..80 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for number in 0..3 {
            let service = world.service(&format!("s{number}"));
            for slot in 1..=8 {
                let told = explain(&world.state, &service, Subject::Service);
                let mut fit: Vec<_> = told
                    .nodes
                    .iter()
                    .filter(|row| row.against.is_empty())
                    .collect();
                assert_eq!(fit.len() as u32, told.fit);
                fit.sort_by_key(|row| row.id);
                let fit: Vec<_> = fit.iter().map(|row| row.id).collect();
                assert_eq!(fit, would_go(&world.state, &service), "slot {slot}");
                let first: u32 = told.nodes.len() as u32 - told.fit;
                let why: Vec<_> = told.nodes.iter().flat_map(|row| &row.against).collect();
                why.iter()
                    .for_each(|it| *kinds.entry(it.filter).or_insert(0) += 1);
                (fits, fits_not) = (fits + told.fit, fits_not + first);
                let Some(best) = told.nodes.iter().find(|row| row.rank == 1) else {
                    break;
                };
                world.bind(&service, slot, best.id);
            }
        }
    }
    // The generator must reach what it is to test.
    assert!(fits > 500 && fits_not > 500, "{fits} {fits_not}");
    assert_eq!(kinds.len(), 16, "{kinds:?}");
}

#[test]
fn groups_add_up_and_a_sentence_names_them() {
    let mut world = World::new(7);
    let service = world.service("s0");
    let told = explain(&world.state, &service, Subject::Service);
    for group in &told.groups {
        let has = |row: &&crate::orchestrator::NodeRow| {
            row.against.iter().any(|it| it.filter == group.filter)
        };
        let nodes = told.nodes.iter().filter(has);
        assert!(group.nodes <= nodes.count() as u32);
        assert!(group.nodes_only <= group.nodes);
    }
    let workers = told.nodes.len();
    let head = format!("{} of {workers} nodes could take another", told.fit);
    assert!(told.summary.starts_with(&head), "{}", told.summary);
}

#[test]
fn a_container_is_compared_as_if_it_were_not_there() {
    let mut world = World::new(3);
    let service = world.service("s0");
    let told = explain(&world.state, &service, Subject::Service);
    let best = told
        .nodes
        .iter()
        .find(|row| row.rank == 1)
        .expect("one fits")
        .id;
    world.bind(&service, 1, best);
    let container = world
        .state
        .containers()
        .next()
        .expect("it is bound")
        .clone();
    let told = explain(&world.state, &service, Subject::Container(&container));
    let row = &told.nodes[0];
    assert!(row.current && row.id == best && row.rank == 1, "{row:?}");
    assert!(
        told.summary.contains("no other node would be better"),
        "{}",
        told.summary
    );
}
