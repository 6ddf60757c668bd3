//! A few simulated worlds, shorter than those of `make sim`: that they hold, that they replay, and
//! that every seed that ever failed does not fail again.
#![cfg(feature = "sim")]

use warren_core::mutant::Mutant;
use warren_core::sim::run::{Report, run};
use warren_core::sim::world::{Pace, SECOND_NS, Setup};

const MINUTE_NS: u64 = 60 * SECOND_NS;

fn setup(seed: u64, minutes: u64) -> Setup {
    Setup {
        seed,
        duration_ns: minutes * MINUTE_NS,
        pace: Pace::Dense,
    }
}

#[test]
fn a_few_worlds_hold() {
    let mut report = Report::default();
    for seed in 1..=4 {
        let outcome = run(setup(seed, 5), None, None);
        assert_eq!(outcome.violation, None, "seed {seed}, 5 minutes");
        report.add(&outcome);
    }
    assert!(report.operations > 500 && report.faults > 10, "{report}");
    let pace = Pace::Quiet;
    let quiet = Setup {
        pace,
        ..setup(5, 60)
    };
    let outcome = run(quiet, None, None);
    assert_eq!(outcome.violation, None, "a quiet hour of seed 5");
    report.add(&outcome);
    assert!(outcome.operations > 1_000 && outcome.faults > 0, "{report}");
}

#[test]
fn a_seed_replays_identically() {
    let (first, again) = (run(setup(7, 3), None, None), run(setup(7, 3), None, None));
    assert_eq!(first, again);
    assert_ne!(first.digest, run(setup(8, 3), None, None).digest);
}

#[test]
fn a_planted_fault_is_caught_and_replays() {
    let mutant = Some(Mutant::AcknowledgesBeforeFsync);
    let caught = (1..40).map(|seed| run(setup(seed, 3), mutant, None));
    let caught = caught
        .into_iter()
        .find(|outcome| outcome.violation.is_some());
    let caught = caught.expect("the checkers bite");
    assert_eq!(run(setup(caught.seed, 3), mutant, None), caught);
    assert_eq!(run(setup(caught.seed, 3), None, None).violation, None);
}

/// `testdata/sim/regressions.txt`: a name, a seed and minutes a line, and whether the hour is quiet.
#[test]
fn what_failed_once_does_not_fail_again() {
    let text = include_str!("../testdata/sim/regressions.txt");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, seed, minutes, pace) = match words[..] {
            [name, seed, minutes] => (name, seed, minutes, Pace::Dense),
            [name, seed, minutes, "quiet"] => (name, seed, minutes, Pace::Quiet),
            _ => panic!("`{line}` is not a name, a seed and minutes, and perhaps quiet"),
        };
        let seed = seed.parse().expect("a seed");
        let setup = Setup {
            pace,
            ..setup(seed, minutes.parse().expect("minutes"))
        };
        assert_eq!(
            run(setup, None, None).violation,
            None,
            "{name}: seed {seed}"
        );
    }
}
