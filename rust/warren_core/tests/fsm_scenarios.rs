//! Runs `testdata/fsm/*.txt`: commands in words, and what comes of them.

#[path = "fsm_support/mod.rs"]
mod support;

use support::{Replica, invariants, scenario, words};

fn run(name: &str, text: &str) {
    let mut replica = Replica::default();
    scenario::run(name, text, |line| {
        let answer = words::execute(&mut replica, line);
        invariants::check(&replica.state);
        answer
    });
}

macro_rules! scenarios {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name), include_str!(concat!("../testdata/fsm/", stringify!($name), ".txt")));
        }
    )*};
}

scenarios!(
    services, binding, statuses, replacing, requests, members, levels, hash, nodes, placing,
    claims, holds, slots
);
