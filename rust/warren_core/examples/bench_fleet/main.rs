//! A whole fleet, placed: the orchestrator, the scheduler and the state's records of it, with or
//! without a log. JSON on standard output; benches/fleet.py says what each shape is.
//!
//!     cargo run --release --example bench_fleet -- fill --nodes N --services N --replicas N
//!         [--zones N] [--through decision|records|raft] [--dir DIR]
//!     cargo run --release --example bench_fleet -- churn --nodes N --full PERCENT --arrivals N
//!     cargo run --release --example bench_fleet -- loss --nodes N --lost PERCENT
//!     cargo run --release --example bench_fleet -- flood --nodes N --flood N --arrivals N
//!
//! `decision`: the scheduler alone. `records`: what the leader decides is applied at once, in the
//! same thread, without a disk. `raft`: a member that leads itself, as in a daemon, with its log on
//! a disk and a thread that writes it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks and works on files"
)]

mod cluster;
mod decision;
mod direct;
mod live;
mod member;
mod times;

#[path = "../shared/filled.rs"]
#[expect(dead_code, reason = "of what another bench fills")]
mod filled;

use std::collections::BTreeMap;

use cluster::{Cluster, Shape};
use times::Field;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let options: BTreeMap<String, String> = std::iter::from_fn(|| {
        let name = arguments.next()?;
        let name = name.strip_prefix("--").expect("an option begins with --");
        Some((
            name.to_owned(),
            arguments.next().expect("an option has a value"),
        ))
    })
    .collect();
    let number = |name: &str, default: u64| {
        let text = options.get(name);
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let nodes = number("nodes", 1_000) as u32;
    let found = match what.as_str() {
        "fill" => {
            let shape = Shape {
                nodes,
                services: number("services", 100) as u32,
                replicas: number("replicas", 100) as u32,
                zones: number("zones", 0) as u32,
            };
            match options.get("through").map_or("records", String::as_str) {
                "decision" => decision::fill(&shape),
                "records" => direct::fill(Cluster::new(&shape)),
                "raft" => {
                    let dir = options.get("dir").expect("--dir: where the log is to be");
                    member::fill(Cluster::new(&shape), dir.as_ref())
                }
                other => panic!("nothing goes through {other}; see the head of this file"),
            }
        }
        "churn" => live::churn(nodes, number("full", 90), number("arrivals", 10_000)),
        "loss" => live::loss(nodes, number("lost", 1)),
        "flood" => live::flood(nodes, number("flood", 100_000), number("arrivals", 10_000)),
        other => panic!("there is no {other:?}; see the head of this file"),
    };
    println!("{}", Field::object(&found));
}
