//! A crash at every I/O boundary of log and snapshots, with every fate of what was not synced, and
//! another one during recovery.
//!
//! A workload runs once. Before each change of the disk a fork of it is kept, together with what had
//! been promised by then; each fork is then restarted in every way, recovered by the real code, and
//! compared. What is recovered must equal exactly what was acknowledged, or what the interrupted call
//! was about to make durable: nothing lost, nothing invented.
//!
//! `WARREN_CRASH_RECOVERIES` asks for more recoveries, `WARREN_CRASH_SEED` for another first seed.

#![allow(clippy::disallowed_methods, reason = "is scaled by its environment")]

mod member;
mod model;
mod recovery;

use self::member::Member;
use self::recovery::Report;
use crate::mutant::{self, Mutant};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::random::Random;

/// Acts of one workload: a few hundred changes of the disk.
const ACTS: u64 = 120;
const POINTS_MIN: u64 = 1_000;

/// Recovers from every crash point of the workload of `seed`.
fn run(seed: u64, report: &mut Report) -> Result<(), String> {
    let disk = SimDisk::new(member::CAPACITY_BYTES);
    let points = Member::run(&disk, &mut Random::stream(seed, "workload", 0), ACTS)
        .map_err(|why| format!("seed {seed}, in the workload: {why}"))?;
    for (number, (point, promise)) in points.iter().enumerate() {
        report.points += 1;
        for fate in Fate::ALL {
            let mut random = Random::stream(seed, "crash", (number as u64) << 2 | fate as u64);
            recovery::check(&point.fork(), fate, promise, &mut random, report)
                .map_err(|why| format!("seed {seed}, crash point {number}, {fate:?}: {why}"))?;
        }
    }
    Ok(())
}

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn a_crash_at_any_boundary_loses_nothing_acknowledged() {
    let first_seed = from_environment("WARREN_CRASH_SEED", 1);
    let recoveries = from_environment("WARREN_CRASH_RECOVERIES", POINTS_MIN * 4);
    println!("crash points: first seed {first_seed}, at least {recoveries} recoveries");
    let (mut report, mut seed) = (Report::default(), first_seed);
    while report.points < POINTS_MIN || report.recoveries() < recoveries {
        run(seed, &mut report).unwrap_or_else(|why| panic!("{why}\n{report}"));
        seed += 1;
    }
    println!("{report}\nlast seed {}", seed - 1);
    report.assert_covered();
}

/// The checks bite: each planted fault of this layer is found.
#[test]
fn planted_faults_are_found() {
    for mutant in [
        Mutant::PrunesNewestSnapshot,
        Mutant::TakesDamageForTorn,
        Mutant::RefusesTornTail,
        Mutant::DropsBatchWhenFull,
        Mutant::RetriesFailedSync,
    ] {
        mutant::set(Some(mutant));
        let found = (1..20).find_map(|seed| run(seed, &mut Report::default()).err());
        mutant::set(None);
        let why = found.unwrap_or_else(|| panic!("{mutant:?} survived"));
        println!("{mutant:?}: {why}");
    }
}
