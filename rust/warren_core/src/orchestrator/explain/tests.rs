//! What is said to fit is exactly what placing would take.

use std::collections::BTreeMap;

use crate::fsm::{Service, State};
use crate::ids::NodeId;
use crate::orchestrator::asking::{self, Asking, Placement, most_per_node};
use crate::orchestrator::explain::{Explanation, NodeRow, Subject, containers_by_node, explain};
use crate::orchestrator::testing::World;
use crate::orchestrator::{FailingNode, Keeping, preempt};
use crate::scheduler::Scheduler;

/// Nodes that the search takes one of these on, each asked for by itself.
fn would_go(state: &State, service: &Service, avoided: &[NodeId]) -> Vec<NodeId> {
    let (mut scheduler, asking) = learnt(state, service);
    let have = containers_by_node(state, service);
    let placement = Placement {
        state,
        service,
        spread: &have,
        avoided,
        count: 1,
    };
    let nodes = state.nodes().map(|node| node.id);
    nodes
        .filter(|id| asking::would_place_on(&asking, &mut scheduler, &placement, *id))
        .collect()
}

/// Where the search puts one.
fn goes_to(state: &State, service: &Service, avoided: &[NodeId]) -> Option<NodeId> {
    let (mut scheduler, asking) = learnt(state, service);
    let have = containers_by_node(state, service);
    let placement = Placement {
        state,
        service,
        spread: &have,
        avoided,
        count: 1,
    };
    let placed = asking::place(&asking, &mut scheduler, &placement);
    placed.binds.first().map(|(node, _)| *node)
}

fn learnt(state: &State, service: &Service) -> (Scheduler, Asking) {
    let mut scheduler = Scheduler::new(1);
    let mut asking = Asking::default();
    for node in state.nodes() {
        scheduler.node_put(state, node);
        asking.node_put(&mut scheduler, state, node);
    }
    asking.learn(&mut scheduler, state, service);
    (scheduler, asking)
}

/// As if the service kept failing on some nodes, and on some of these nowhere else ran.
fn keeps_failing(world: &mut World) -> (Keeping, Vec<NodeId>) {
    let ids: Vec<_> = world.state.nodes().map(|node| node.id).collect();
    let mut keeping = Keeping::default();
    for node in ids {
        if world.random.chance(30) {
            keeping.nodes.push(FailingNode {
                node,
                failures: 3,
                left_ms: 60_000,
                avoided: world.random.chance(70),
            });
        }
    }
    let avoided = keeping.nodes.iter().filter(|it| it.avoided);
    let avoided = avoided.map(|it| it.node).collect();
    (keeping, avoided)
}

#[test]
fn a_node_is_said_to_fit_exactly_where_placing_would_take_it() {
    let (mut fits, mut fits_not, mut last, mut kinds) = (0, 0, 0, BTreeMap::new());
    for seed in 0..80 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for number in 0..3 {
            let service = world.service(&format!("s{number}"));
            for slot in 1..=8 {
                let (keeping, avoided) = keeps_failing(&mut world);
                let told = explain(&world.state, &service, Subject::Service, &keeping);
                let mut fit: Vec<_> = told
                    .nodes
                    .iter()
                    .filter(|row| row.against.is_empty())
                    .collect();
                assert_eq!(fit.len() as u32, told.fit);
                fit.sort_by_key(|row| row.id);
                let fit: Vec<_> = fit.iter().map(|row| row.id).collect();
                assert_eq!(
                    fit,
                    would_go(&world.state, &service, &avoided),
                    "slot {slot}"
                );
                last += u32::from(the_avoided_come_last(
                    &world.state,
                    &service,
                    &told,
                    &avoided,
                ));
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
    assert!(last > 100, "{last}");
    assert_eq!(kinds.len(), 16, "{kinds:?}");
}

/// Checks that, where there is something to check: both in the order and in what is placed.
fn the_avoided_come_last(
    state: &State,
    service: &Service,
    told: &Explanation,
    avoided: &[NodeId],
) -> bool {
    let fit = || told.nodes.iter().filter(|row| row.against.is_empty());
    let is_last = |row: &&NodeRow| row.disliked || avoided.contains(&row.id);
    let first = fit().filter(|row| !is_last(row)).map(|row| row.rank).max();
    let last = fit().filter(is_last).map(|row| row.rank).min();
    let Some((first, last)) = first.zip(last) else {
        return false;
    };
    assert!(first < last, "{first} {last}");
    // A skew is bounded among avoided nodes, too.
    if service.rules.spreads.iter().any(|it| it.max_skew.is_some()) {
        return false;
    }
    let goes_to = goes_to(state, service, avoided).expect("there are nodes");
    assert!(!avoided.contains(&goes_to), "{goes_to:?}");
    true
}

#[test]
fn victims_are_told_exactly_where_others_would_make_room() {
    let (mut would, mut would_not) = (0, 0);
    for seed in 0..120 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for name in ["s0", "s1"] {
            let mut spec = world.spec(name);
            spec.placement.get_or_insert_default().priority = Some(10);
            let service = world.create(spec);
            for slot in 1..=8 {
                let nothing = Keeping::default();
                let told = explain(&world.state, &service, Subject::Service, &nothing);
                let Some(best) = told.nodes.iter().find(|row| row.rank == 1) else {
                    break;
                };
                world.bind(&service, slot, best.id);
            }
        }
        let mut spec = world.spec("s2");
        spec.placement.get_or_insert_default().priority = Some(60);
        let service = world.create(spec);
        let told = explain(
            &world.state,
            &service,
            Subject::Service,
            &Keeping::default(),
        );
        for row in &told.nodes {
            let found = who_makes_room(&world.state, &service, row.id);
            let told = row.victims.map(|it| (it.count as usize, it.priority));
            assert_eq!(told, found, "{row:?}");
            (would, would_not) = match found {
                Some(_) => (would + 1, would_not),
                None => (would, would_not + 1),
            };
        }
    }
    assert!(would > 50 && would_not > 500, "{would} {would_not}");
}

/// As the leader looks for it, on that node alone.
fn who_makes_room(state: &State, service: &Service, node: NodeId) -> Option<(usize, u32)> {
    let (mut scheduler, asking) = learnt(state, service);
    let have = containers_by_node(state, service);
    scheduler.bands_keep();
    for node in state.nodes() {
        let occupants = state.containers_of_node(node.id);
        let occupants = occupants.filter_map(|it| preempt::occupant(state, it));
        scheduler.occupants_put(node.id, occupants);
    }
    let have_there = have.get(&node).copied().unwrap_or_default();
    let full = most_per_node(service).is_some_and(|most| have_there >= most);
    let placement = Placement {
        state,
        service,
        spread: &have,
        avoided: &[],
        count: 1,
    };
    let found = asking::preempt(&asking, &mut scheduler, &placement, Some(node));
    let found = found.filter(|_| !full)?;
    Some((found.victims.len(), found.priority))
}

#[test]
fn groups_add_up_and_a_sentence_names_them() {
    let mut world = World::new(7);
    let service = world.service("s0");
    let told = explain(
        &world.state,
        &service,
        Subject::Service,
        &Keeping::default(),
    );
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
    let told = explain(
        &world.state,
        &service,
        Subject::Service,
        &Keeping::default(),
    );
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
    let told = explain(
        &world.state,
        &service,
        Subject::Container(&container),
        &Keeping::default(),
    );
    let row = &told.nodes[0];
    assert!(row.current && row.id == best && row.rank == 1, "{row:?}");
    assert!(
        told.summary.contains("no other node would be better"),
        "{}",
        told.summary
    );
}
