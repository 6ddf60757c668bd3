use std::collections::BTreeMap;

use crate::fsm::Resources;
use crate::ids::{NodeId, ServiceId};
use crate::scheduler::{
    Affinity, Ask, Balance, NodeFacts, NodeSet, Placed, Rules, Scheduler, Strategy, Why,
};

const IMAGE: &str = "sha256:a";

fn id(number: u32) -> NodeId {
    NodeId(u128::from(number).to_be_bytes())
}

fn of(cpu_milli: u64, memory_bytes: u64) -> Resources {
    Resources {
        cpu_milli,
        memory_bytes,
        ..Resources::default()
    }
}

/// Nodes with so much CPU each, and as much memory.
fn cluster(cpu_milli: &[u64]) -> Scheduler {
    let mut scheduler = Scheduler::new(1);
    for (number, cpu_milli) in cpu_milli.iter().enumerate() {
        let facts = NodeFacts {
            allocatable: of(*cpu_milli, cpu_milli << 20),
            ..NodeFacts::default()
        };
        scheduler.node_put_facts(id(number as u32), facts, [IMAGE].into_iter());
    }
    scheduler
}

fn place(scheduler: &mut Scheduler, count: u32, rules: Rules) -> Placed {
    scheduler.place(&ask(&BTreeMap::new(), count, rules))
}

fn ask<'a>(spread: &'a BTreeMap<NodeId, u32>, count: u32, rules: Rules<'a>) -> Ask<'a> {
    Ask {
        service: ServiceId([1; 16]),
        resources: of(100, 100 << 20),
        count,
        image: "web",
        image_digest: IMAGE,
        spread,
        rules,
    }
}

fn counts(placed: &Placed) -> Vec<(u32, u32)> {
    let number = |id: &NodeId| u128::from_be_bytes(id.0) as u32;
    placed
        .binds
        .iter()
        .map(|(id, n)| (number(id), *n))
        .collect()
}

#[test]
fn weights_are_kept_until_a_part_is_full() {
    let mut scheduler = cluster(&[10_000, 600, 10_000]);
    let zones = scheduler.division_add();
    for number in 0..3 {
        scheduler.division_set(zones, id(number), Some(number));
    }
    let balance = |weights| Rules {
        balance: Some(Balance {
            over: zones,
            weights,
            max_skew: None,
            possible: None,
        }),
        ..Rules::default()
    };
    let placed = place(&mut scheduler, 9, balance(&[2, 1]));
    assert_eq!(counts(&placed), [(0, 6), (1, 3)]);
    // Three more go into node 1; what it has no room for goes to the other.
    let placed = place(&mut scheduler, 12, balance(&[1, 1]));
    assert_eq!((counts(&placed), placed.refused), (vec![(0, 9), (1, 3)], 0));
}

#[test]
fn weights_for_one_are_those_for_many() {
    let mut scheduler = cluster(&[10_000; 4]);
    let zones = scheduler.division_add();
    for number in 0..4 {
        scheduler.division_set(zones, id(number), Some(number % 2));
    }
    let rules = Rules {
        balance: Some(Balance {
            over: zones,
            weights: &[1, 3],
            max_skew: None,
            possible: None,
        }),
        ..Rules::default()
    };
    let mut spread = BTreeMap::new();
    for _ in 0..8 {
        let placed = scheduler.place(&ask(&spread, 1, rules));
        for (id, count) in placed.binds {
            *spread.entry(id).or_insert(0) += count;
        }
    }
    let each = [0, 1, 2, 3].map(|number| spread.get(&id(number)).copied().unwrap_or_default());
    assert_eq!(each, [1, 3, 1, 3]);
}

#[test]
fn an_affinity_attracts_and_an_aversion_repels_while_there_is_room() {
    let mut scheduler = cluster(&[500; 200]);
    let near: NodeSet = [150, 151].into_iter().collect();
    let affinity = |weight| [Affinity { to: &near, weight }];
    for strategy in [Strategy::Pack, Strategy::Consolidate] {
        let attracted = affinity(80);
        let rules = Rules {
            strategy,
            affinities: &attracted,
            ..Rules::default()
        };
        let placed = scheduler.plan(|scheduler| place(scheduler, 12, rules));
        let placed = counts(&placed);
        assert!(
            placed.starts_with(&[(150, 5), (151, 5)]) || placed.ends_with(&[(150, 5), (151, 5)])
        );
    }
    let rules = Rules {
        affinities: &affinity(-80),
        ..Rules::default()
    };
    let placed = place(&mut scheduler, 198, rules);
    assert!(
        counts(&placed)
            .iter()
            .all(|(node, count)| !near.contains(*node) && *count == 1)
    );
}

#[test]
fn a_rule_says_why_it_turned_nodes_away() {
    let mut scheduler = cluster(&[500; 5]);
    let (eu, taken): (NodeSet, NodeSet) =
        ([0, 1, 2].into_iter().collect(), [2].into_iter().collect());
    let why = |node: NodeId| {
        let taken = (node == id(2)).then(|| "port 80 is taken".to_owned());
        let elsewhere = [3, 4].map(id).contains(&node);
        taken.or_else(|| elsewhere.then(|| "label zone is not eu".to_owned()))
    };
    let rules = Rules {
        within: &[&eu],
        without: &[&taken],
        why: Some(Why(&why)),
        max_per_node: Some(1),
        ..Rules::default()
    };
    let spread = [(id(1), 1)].into();
    let why = scheduler.explain(&ask(&spread, 1, rules)).to_string();
    assert_eq!(
        why,
        "2 nodes: label zone is not eu; 1: port 80 is taken; 1: has as many containers of \
         the service as one node may"
    );
    assert_eq!(counts(&scheduler.place(&ask(&spread, 2, rules))), [(0, 1)]);
}

#[test]
fn what_reserves_nothing_goes_where_least_runs() {
    let mut scheduler = cluster(&[500; 8]);
    let nothing = |scheduler: &mut Scheduler, service: u8, strategy| {
        let spread = BTreeMap::new();
        let rules = Rules {
            strategy,
            ..Rules::default()
        };
        let placed = scheduler.place(&Ask {
            service: ServiceId([service; 16]),
            resources: of(0, 0),
            ..ask(&spread, 1, rules)
        });
        assert_eq!(placed.refused, 0);
        placed.binds[0].0
    };
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    for service in 0..40 {
        let strategy = [Strategy::Spread, Strategy::Pack][usize::from(service % 2)];
        *counts
            .entry(nothing(&mut scheduler, service, strategy))
            .or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 5), "{counts:?}");
}
