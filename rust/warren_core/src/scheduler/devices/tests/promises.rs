//! What the fleet promises to those who use it.

use super::*;
use crate::error::Error;
use crate::scheduler::devices::classes::CLASSES_MAX;
use crate::scheduler::devices::mix::SHAPES_MAX;
use crate::scheduler::devices::{DEVICES_MAX, DeviceShare};

/// A run of arrivals and departures, and what was granted in it, in order.
fn run(seed: u64, steps: u32) -> Vec<Option<DeviceGrant>> {
    let mut random = Random(seed);
    let mut fleet = DeviceFleet::new(seed, Tuning::default());
    for number in 0..12 {
        let put = random_node(&mut random);
        fleet
            .node_put(node_id(number), &put)
            .expect("a node in range");
    }
    let asks = random_asks(&mut random, 12);
    let mut living: Vec<DeviceGrant> = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..steps {
        if random.below(4) == 0 && !living.is_empty() {
            let grant = living.swap_remove(random.below(living.len() as u64) as usize);
            assert!(fleet.release(&grant));
            continue;
        }
        let ask = &asks[random.below(asks.len() as u64) as usize];
        fleet.arrived(ask).expect("an ask in range");
        let grant = fleet.place(ask).expect("an ask in range");
        living.extend(grant.clone());
        answers.push(grant);
        for (device, milli) in held(&living) {
            let sum: u16 = milli.iter().sum();
            assert!(sum <= DEVICE_MILLI, "{device:?} is used {sum}/1000");
            let whole = milli.contains(&DEVICE_MILLI);
            assert!(
                !whole || milli.len() == 1,
                "{device:?} is held whole and shared"
            );
        }
    }
    answers
}

#[test]
fn no_device_is_given_out_beyond_itself_and_a_whole_one_is_never_shared() {
    for seed in 0..20 {
        let answers = run(seed, 400);
        assert!(
            answers.iter().any(Option::is_none),
            "the fleet was never full"
        );
    }
}

#[test]
fn equal_calls_and_seeds_give_equal_answers() {
    for seed in 0..5 {
        assert_eq!(run(seed, 300), run(seed, 300));
    }
    let placed = |seed| {
        let mut fleet = DeviceFleet::new(seed, Tuning::default());
        for number in 0..8 {
            let put = node(8000, 64, gpus("A", 4));
            fleet
                .node_put(node_id(number), &put)
                .expect("a node in range");
        }
        let grant = fleet.place(&ask(100, 1, Want::Whole(1), &[]));
        grant.expect("an ask in range").expect("there is room").node
    };
    let nodes: Vec<_> = (0..40).map(placed).collect();
    assert!(
        nodes.iter().any(|node| *node != nodes[0]),
        "the seed draws nothing"
    );
}

#[test]
fn who_may_go_anywhere_keeps_away_from_what_others_depend_on() {
    for seed in 0..20 {
        let mut fleet = DeviceFleet::new(seed, Tuning::default());
        for number in 0..10 {
            let model = if number == 3 { "rare" } else { "common" };
            let put = node(64_000, 256, gpus(model, 4));
            fleet
                .node_put(node_id(number), &put)
                .expect("a node in range");
        }
        let anywhere = ask(1000, 4, Want::Whole(1), &[]);
        let picky = ask(1000, 4, Want::Whole(1), &["rare"]);
        for _ in 0..9 {
            fleet.arrived(&anywhere).expect("an ask in range");
        }
        fleet.arrived(&picky).expect("an ask in range");
        for _ in 0..36 {
            let grant = fleet.place(&anywhere).expect("an ask in range");
            assert_ne!(grant.expect("there is room").node, node_id(3));
        }
        let grant = fleet.place(&picky).expect("an ask in range");
        assert_eq!(grant.expect("there is room").node, node_id(3));
    }
}

#[test]
fn little_cpu_beside_devices_is_kept_for_those_who_need_little() {
    for seed in 0..20 {
        let mut fleet = DeviceFleet::new(seed, Tuning::default());
        // Two devices each; on the first node the CPU is enough for one of the hungry.
        fleet
            .node_put(node_id(1), &node(12_000, 256, gpus("A", 2)))
            .expect("in range");
        fleet
            .node_put(node_id(2), &node(24_000, 256, gpus("A", 2)))
            .expect("in range");
        let hungry = ask(11_000, 4, Want::Whole(1), &[]);
        let modest = ask(500, 4, Want::Whole(1), &[]);
        fleet.arrived(&hungry).expect("an ask in range");
        fleet.arrived(&modest).expect("an ask in range");
        let grant = fleet.place(&modest).expect("an ask in range");
        assert_eq!(grant.expect("there is room").node, node_id(1));
    }
}

#[test]
fn a_share_fills_a_device_in_use_before_it_opens_another() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    for number in 0..4 {
        let put = node(64_000, 256, gpus("A", 4));
        fleet
            .node_put(node_id(number), &put)
            .expect("a node in range");
    }
    let share = ask(100, 1, Want::Share(250), &[]);
    fleet
        .arrived(&ask(100, 1, Want::Whole(4), &[]))
        .expect("an ask in range");
    fleet.arrived(&share).expect("an ask in range");
    let mut grants = Vec::new();
    for _ in 0..8 {
        grants.extend(fleet.place(&share).expect("an ask in range"));
    }
    assert_eq!(held(&grants).len(), 2, "{grants:?}");
    let nodes: std::collections::BTreeSet<_> = grants.iter().map(|g| g.node).collect();
    assert_eq!(nodes.len(), 1, "{grants:?}");
}

#[test]
fn what_is_held_stays_held_when_a_node_is_put_again() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    let put = node(8000, 64, gpus("A", 2));
    fleet.node_put(node_id(1), &put).expect("a node in range");
    let one = ask(1000, 8, Want::Whole(1), &[]);
    let grant = fleet.place(&one).expect("in range").expect("there is room");
    fleet.node_put(node_id(1), &put).expect("a node in range");
    assert_eq!(fleet.free_milli(), 1000);
    // It shrinks to less than it holds: nothing more fits, until that is given back.
    let small = node(500, 64, gpus("A", 2));
    fleet.node_put(node_id(1), &small).expect("a node in range");
    let modest = ask(500, 8, Want::Whole(1), &[]);
    assert_eq!(fleet.place(&modest), Ok(None));
    assert!(fleet.release(&grant));
    assert!(fleet.place(&modest).expect("in range").is_some());
}

#[test]
fn a_new_leader_takes_over_what_lives() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    fleet
        .node_put(node_id(1), &node(8000, 64, gpus("A", 2)))
        .expect("in range");
    let mut grant = DeviceGrant {
        node: node_id(1),
        cpu_milli: 1000,
        memory_bytes: 4,
        devices: vec![DeviceShare {
            device: 1,
            milli: 600,
        }],
    };
    assert!(fleet.hold(&grant));
    assert!(!fleet.hold(&grant), "600 are not there twice");
    grant.devices[0].device = 2;
    assert!(!fleet.hold(&grant), "there is no device 2");
    grant.node = node_id(2);
    assert!(
        !fleet.hold(&grant) && !fleet.release(&grant),
        "there is no such node"
    );
    assert_eq!(fleet.free_milli(), 1400);
}

#[test]
fn a_node_that_is_gone_takes_nothing_and_its_place_is_used_again() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    let one = ask(1000, 8, Want::Whole(1), &["A"]);
    for round in 0..5 {
        let put = node(8000, 64, gpus("A", 2));
        fleet
            .node_put(node_id(round), &put)
            .expect("a node in range");
        let grant = fleet.place(&one).expect("in range").expect("there is room");
        assert_eq!(grant.node, node_id(round));
        fleet.node_remove(node_id(round));
        assert_eq!(fleet.place(&one), Ok(None));
        assert!(!fleet.release(&grant));
        assert_eq!((fleet.free_milli(), fleet.places.len()), (0, 1));
    }
}

#[test]
fn a_model_that_appears_later_is_found() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    let one = ask(0, 0, Want::Share(1), &["new"]);
    assert_eq!(fleet.place(&one), Ok(None));
    fleet
        .node_put(node_id(1), &node(1, 1, gpus("new", 1)))
        .expect("in range");
    assert!(fleet.place(&one).expect("in range").is_some());
}

#[test]
fn amounts_out_of_range_are_refused() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    let wrong = [
        Want::Whole(0),
        Want::Whole(DEVICES_MAX as u16 + 1),
        Want::Share(0),
        Want::Share(DEVICE_MILLI),
    ];
    for want in wrong {
        let refused = |result| matches!(result, Err(Error::Invalid { .. }));
        assert!(
            refused(fleet.place(&ask(1, 1, want, &[])).map(drop)),
            "{want:?}"
        );
        assert!(refused(fleet.arrived(&ask(1, 1, want, &[]))), "{want:?}");
    }
    let crowded = node(1, 1, gpus("A", DEVICES_MAX + 1));
    assert!(fleet.node_put(node_id(1), &crowded).is_err());
    for number in 0..CLASSES_MAX as u64 {
        let put = node(1, 1, gpus(&number.to_string(), 1));
        fleet
            .node_put(node_id(number), &put)
            .expect("a node in range");
    }
    let free = fleet.free_milli();
    assert!(
        fleet
            .node_put(node_id(999), &node(1, 1, gpus("more", 1)))
            .is_err()
    );
    assert_eq!(fleet.free_milli(), free);
}

#[test]
fn more_shapes_than_are_remembered_do_no_harm() {
    let mut fleet = DeviceFleet::new(1, Tuning::default());
    fleet
        .node_put(node_id(1), &node(u64::MAX, 1 << 40, gpus("A", 8)))
        .expect("in range");
    for cpu_milli in 0..3 * SHAPES_MAX as u64 {
        let one = ask(cpu_milli, 1, Want::Whole(8), &[]);
        fleet.arrived(&one).expect("an ask in range");
        let grant = fleet.place(&one).expect("in range").expect("there is room");
        assert!(fleet.release(&grant));
    }
    let counted: u64 = fleet.mix.counted().iter().map(|(_, count)| count).sum();
    assert_eq!(counted, SHAPES_MAX as u64);
    assert_eq!(fleet.mix.arrivals, counted);
}
