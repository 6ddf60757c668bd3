//! What a placement costs, and how much of a cluster can be used before the first refusal. JSON on
//! standard output; benches/README.md says what it means.
//!
//!     cargo run --release --example bench_scheduler -- placement [--nodes N] [--containers N]
//!         [--shape one-off|replicas|replicas-spread|constrained|spread|preempt]
//!         [--group N] [--seed N]
//!     cargo run --release --example bench_scheduler -- density [--nodes N] [--mix equal|four]
//!         [--seeds N] [--policies all|ours]
//!     cargo run --release --example bench_scheduler -- memory [--nodes N] [--containers N]
//!
//! Decisions only: nothing is proposed, applied or stored.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks"
)]

mod density;
mod memory;
mod mix;
mod placement;
mod policies;
mod preempting;

use std::collections::BTreeMap;

fn main() {
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let mut options = BTreeMap::new();
    while let Some(name) = words.next() {
        let value = words.next();
        let value = value.unwrap_or_else(|| panic!("{name} needs a value"));
        options.insert(name, value);
    }
    let number = |name: &str, otherwise: u64| {
        options.get(name).map_or(otherwise, |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name} needs a number"))
        })
    };
    let word = |name: &str, otherwise: &'static str| {
        options.get(name).map_or(otherwise, |text| text.as_str())
    };
    let nodes = number("--nodes", 1_000) as u32;
    match what.as_str() {
        "placement" => placement::run(&placement::Case {
            nodes,
            containers: number("--containers", 1_000_000),
            shape: word("--shape", "one-off").parse().expect("a known shape"),
            group: number("--group", 1_000) as u32,
            seed: number("--seed", 1),
        }),
        "density" => density::run(&density::Case {
            nodes,
            four_types: word("--mix", "equal") == "four",
            seeds: number("--seeds", 5),
            ours_only: word("--policies", "all") == "ours",
        }),
        "memory" => memory::run(&memory::Case {
            nodes,
            containers: number("--containers", 1_000_000),
            seed: number("--seed", 1),
        }),
        other => panic!("`{other}` is none of these; see the head of this file"),
    }
}
