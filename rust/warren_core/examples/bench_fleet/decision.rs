//! What the scheduler alone takes: asked, answered, and nothing written.

use std::collections::BTreeMap;
use std::time::Instant;

use warren_core::ids::ServiceId;
use warren_core::scheduler::{Ask, Division, NodeFacts, NodeSet, Placed, Rules, Scheduler};

use crate::cluster::{self, Shape};
use crate::filled::mixed;
use crate::times::{Field, Fields, Times};

/// Each call places one service.
pub fn fill(shape: &Shape) -> Fields {
    let image = cluster::image_digest();
    let mut scheduler = Scheduler::new(1);
    for number in 0..shape.nodes {
        let facts = NodeFacts {
            allocatable: Shape::capacity(),
            ..NodeFacts::default()
        };
        let images = [image.as_str()].into_iter();
        scheduler.node_put_facts(cluster::node_id(number), facts, images);
    }
    let zones = zones(&mut scheduler, shape);
    let (nowhere, mut answer) = (BTreeMap::new(), Placed::default());
    let mut times = Times::default();
    for number in 0..shape.services {
        let zone = zones.get(number as usize % zones.len().max(1));
        let within: Vec<&NodeSet> = zone.map(|(_, set)| set).into_iter().collect();
        let ask = Ask {
            service: ServiceId(u128::from(mixed(number.into())).to_le_bytes()),
            resources: shape.asked(),
            count: shape.replicas,
            image: cluster::IMAGE,
            image_digest: &image,
            spread: &nowhere,
            rules: Rules {
                within: &within,
                pool: zone.map(|(pool, _)| *pool),
                ..Rules::default()
            },
        };
        let began = Instant::now();
        scheduler.place_into(&ask, &mut answer);
        times.add(began.elapsed().as_nanos() as u64);
        assert_eq!(answer.refused, 0, "all of them fit");
    }
    vec![
        ("containers", Field::of(shape.containers())),
        ("seconds", Field::seconds(times.sum_ns())),
        ("bound", times.field()),
    ]
}

/// The nodes of each zone, with a pool of their own.
fn zones(scheduler: &mut Scheduler, shape: &Shape) -> Vec<(Division, NodeSet)> {
    let pools: Vec<_> = (0..shape.zones).map(|_| scheduler.division_add()).collect();
    let mut zones: Vec<_> = pools
        .into_iter()
        .map(|pool| (pool, NodeSet::default()))
        .collect();
    for number in 0..shape.nodes {
        if let Some((pool, set)) = zones.get_mut(number as usize % shape.zones.max(1) as usize) {
            let id = cluster::node_id(number);
            scheduler.division_set(*pool, id, Some(0));
            set.set(scheduler.number(id).expect("it was put"), true);
        }
    }
    zones
}
