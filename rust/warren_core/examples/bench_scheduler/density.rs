//! Containers of many shapes until the first is refused: how much of the scarcer resource is in
//! use by then.

use std::collections::BTreeMap;

use warren_core::fsm::Resources;
use warren_core::ids::ServiceId;
use warren_core::scheduler::{Ask, Placed, Rules, Strategy};

use crate::mix::{self, Random};
use crate::policies::{Host, POLICIES, Policy, World, pair};

pub struct Case {
    pub nodes: u32,
    pub four_types: bool,
    pub seeds: u64,
    pub ours_only: bool,
}

pub fn run(case: &Case) {
    let mut rows = Vec::new();
    let ours = [
        ("stranding, grid (pack)", Strategy::Pack),
        ("stranding, grid (consolidate)", Strategy::Consolidate),
        ("stranding, grid (spread)", Strategy::Spread),
    ];
    for (name, strategy) in ours {
        let each = (1..=case.seeds).map(|seed| grid(case, strategy, seed));
        rows.push(row(name, &each.collect::<Vec<_>>()));
    }
    if !case.ours_only {
        for (name, policy) in POLICIES {
            let each = (1..=case.seeds).map(|seed| scan(case, policy, seed));
            rows.push(row(name, &each.collect::<Vec<_>>()));
        }
    }
    println!(
        "{{\"nodes\": {}, \"seeds\": {}, \"policies\": {{",
        case.nodes, case.seeds
    );
    println!("{}", rows.join(",\n"));
    println!("}}}}");
}

fn row(name: &str, each: &[f64]) -> String {
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    let least = each.iter().copied().fold(f64::INFINITY, f64::min);
    let most = each.iter().copied().fold(0.0, f64::max);
    format!("  \"{name}\": {{\"mean\": {mean:.3}, \"min\": {least:.3}, \"max\": {most:.3}}}")
}

/// Per cent of the resource that more is used of.
fn utilisation_pct(used: (f64, f64), total: (f64, f64)) -> f64 {
    100.0 * (used.0 / total.0).max(used.1 / total.1)
}

/// One-off containers through the scheduler itself.
fn grid(case: &Case, strategy: Strategy, seed: u64) -> f64 {
    let mut scheduler = mix::scheduler(case.nodes, case.four_types, seed);
    let total = total(case);
    let (mut random, mut used) = (Random(seed), (0.0, 0.0));
    let (nowhere, mut placed) = (BTreeMap::new(), Placed::default());
    let rules = Rules {
        strategy,
        ..Rules::default()
    };
    loop {
        let resources = random.shape();
        let ask = Ask {
            service: ServiceId(u128::from(random.next()).to_le_bytes()),
            resources,
            count: 1,
            image: "web",
            image_digest: mix::IMAGE,
            spread: &nowhere,
            rules,
        };
        scheduler.place_into(&ask, &mut placed);
        if placed.refused > 0 {
            return utilisation_pct(used, total);
        }
        add(&mut used, resources);
    }
}

fn scan(case: &Case, policy: Policy, seed: u64) -> f64 {
    let hosts = (0..case.nodes).map(|number| {
        let capacity = mix::capacity(number, case.four_types);
        Host {
            capacity,
            free: capacity,
            containers: 0,
        }
    });
    let mut hosts: Vec<_> = hosts.collect();
    let (mut random, mut used, mut count) = (Random(seed), (0.0, 0.0), 0.0);
    let total = total(case);
    loop {
        let asked = random.shape();
        // Drawn as for the grid, so that both meet the same containers.
        random.next();
        let demand = match count > 0.0 {
            true => (used.0 / count, used.1 / count),
            false => pair(asked),
        };
        let world = World { total, demand };
        let room = hosts.iter_mut().filter(|host| asked.fits(host.free));
        let best = room.min_by(|left, right| {
            let cost = |host: &Host| policy.cost(host, asked, &world);
            cost(left).total_cmp(&cost(right))
        });
        let Some(host) = best else {
            return utilisation_pct(used, total);
        };
        host.free = host.free.saturating_sub(asked);
        host.containers += 1;
        add(&mut used, asked);
        count += 1.0;
    }
}

fn total(case: &Case) -> (f64, f64) {
    let mut total = (0.0, 0.0);
    for number in 0..case.nodes {
        add(&mut total, mix::capacity(number, case.four_types));
    }
    total
}

fn add(sum: &mut (f64, f64), amounts: Resources) {
    let (cpu, memory) = pair(amounts);
    sum.0 += cpu;
    sum.1 += memory;
}
