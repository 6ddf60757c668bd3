//! What the index takes of memory: how much more of it the process holds after nodes were put, and
//! after containers were placed and their binds took effect. In pages, with what the allocator keeps
//! beside: on few nodes that is most of it.

use std::collections::BTreeMap;

use warren_core::ids::{NodeId, ServiceId};
use warren_core::scheduler::{Ask, NodeFacts, Rules, Scheduler};

use crate::mix::{self, Random};

/// Values of the label that nodes are divided by.
const ZONES: u32 = 10;

pub struct Case {
    pub nodes: u32,
    pub containers: u64,
    pub seed: u64,
}

/// With a division over ten zones and a pool of a half of the nodes, as constraints and spreads make
/// them.
pub fn run(case: &Case) {
    let mut facts = facts(case);
    let before = resident_bytes();
    let mut scheduler = mix::scheduler(case.nodes, true, case.seed);
    let plain = resident_bytes() - before;
    let (zones, pool) = (scheduler.division_add(), scheduler.division_add());
    for number in 0..case.nodes {
        let id = mix::id(number);
        scheduler.division_set(zones, id, Some(number / 4 % ZONES));
        scheduler.division_set(pool, id, (number % 2 == 0).then_some(0));
    }
    let divided = resident_bytes() - before;
    let placed = place(&mut scheduler, &mut facts, case);
    let filled = resident_bytes() - before;
    let nodes = f64::from(case.nodes);
    println!("{{");
    println!("  \"nodes\": {}, \"containers\": {placed},", case.nodes);
    println!("  \"bytes\": {filled},");
    println!("  \"node_bytes_plain\": {:.1},", plain as f64 / nodes);
    println!("  \"node_bytes\": {:.1},", divided as f64 / nodes);
    let more = filled.saturating_sub(divided) as f64;
    println!("  \"container_bytes\": {:.3}", more / placed.max(1) as f64);
    println!("}}");
}

/// What is known of each node, apart from the index.
fn facts(case: &Case) -> BTreeMap<NodeId, NodeFacts> {
    let all = (0..case.nodes).map(|number| {
        let facts = NodeFacts {
            allocatable: mix::capacity(number, true),
            ..NodeFacts::default()
        };
        (mix::id(number), facts)
    });
    all.collect()
}

/// Places containers, as many at a time as go to one command, and makes their binds take effect.
fn place(scheduler: &mut Scheduler, facts: &mut BTreeMap<NodeId, NodeFacts>, case: &Case) -> u64 {
    let mut random = Random(case.seed);
    let spread = BTreeMap::new();
    let mut placed = 0;
    while placed < case.containers {
        let mut need = random.shape();
        need.cpu_milli /= 10;
        need.memory_bytes /= 10;
        let ask = Ask {
            service: ServiceId::default(),
            resources: need,
            count: 128,
            image: "web",
            image_digest: mix::IMAGE,
            spread: &spread,
            rules: Rules::default(),
        };
        let answer = scheduler.place(&ask);
        for (id, count) in &answer.binds {
            let known = facts.get_mut(id).expect("it was put");
            for _ in 0..*count {
                known.allocated = known.allocated.saturating_add(need);
                known.containers += 1;
                scheduler.release(*id, need);
            }
            scheduler.node_put_facts(*id, *known, std::iter::once(mix::IMAGE));
            placed += u64::from(*count);
        }
        if answer.refused > 0 {
            break;
        }
    }
    placed
}

/// Of the process, resident.
fn resident_bytes() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").expect("a Linux host");
    let line = told.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("KiB");
    kib << 10
}
