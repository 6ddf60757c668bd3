//! What one `observe` of the core's histograms costs, and one reading of its clock: the thread's own
//! time for a loop over values of all sizes, less that of the same loop without. Prints one line of
//! JSON; benches/README.md says what it means.
//!
//!     cargo run --release --example bench_histogram -- [--quick]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks"
)]

use std::hint::black_box;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use warren_core::host::Histogram;

/// As many different buckets as a busy member fills, and more.
const VALUES: usize = 4_096;
const REPETITIONS: usize = 15;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    let rounds = if quick { 2 } else { 250 };
    let values = values();
    let histogram = Histogram::default();
    let began = Instant::now();
    let mut empty_ns = f64::INFINITY;
    let mut observe_ns = f64::INFINITY;
    let mut clock_ns = f64::INFINITY;
    // In turns, so that all three see the same machine; the best of each.
    for _ in 0..REPETITIONS {
        empty_ns = empty_ns.min(each_ns(&values, rounds, |value| {
            black_box(value);
        }));
        observe_ns = observe_ns.min(each_ns(&values, rounds, |value| {
            histogram.observe_ns(value)
        }));
        clock_ns = clock_ns.min(each_ns(&values, rounds, |value| {
            black_box((value, began.elapsed().as_nanos() as u64));
        }));
    }
    let (observe_ns, clock_ns) = (observe_ns - empty_ns, clock_ns - empty_ns);
    println!(
        "{{\"observe_ns\": {observe_ns:.3}, \"clock_ns\": {clock_ns:.3}, \"loop_ns\": {empty_ns:.3}}}"
    );
}

/// From 1 µs to 17 s, as many in each power of two, in no order that a processor could guess.
fn values() -> Vec<u64> {
    let mut state = SEED;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let size = 1_000 << (state % 24);
        size + state / 24 % size
    };
    (0..VALUES).map(next).collect()
}

/// The thread's own time of one `work`, over all the values `rounds` times.
fn each_ns(values: &[u64], rounds: usize, work: impl Fn(u64)) -> f64 {
    let started_ns = thread_ns();
    for _ in 0..rounds {
        for value in values {
            work(black_box(*value));
        }
    }
    (thread_ns() - started_ns) as f64 / (rounds * values.len()) as f64
}

fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
