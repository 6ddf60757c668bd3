//! Runs simulated clusters: `make sim`, `make mutants`.
//!
//! ```text
//! sim [--seconds N | --hours N] [--from SEED] [--quiet]    many worlds, on all cores
//! sim --seed SEED [--quiet] [--verbose] [MUTANT]           one world, step by step, identically
//! sim mutants [--seeds N] [NAME…]                          each planted fault, until it is caught
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "how long to run, and on how many cores, is of this machine; worlds know nothing of it"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use warren_core::mutant::Mutant;
use warren_core::sim::check::Violation;
use warren_core::sim::coverage::Kind;
use warren_core::sim::run::{HOUR_NS, Report, run};
use warren_core::sim::wire::Trace;
use warren_core::sim::world::{Outcome, Pace, Setup};

/// Seeds that a mutant is given.
const MUTANT_SEEDS: u64 = 500;
/// What has an effect only in circumstances that worlds hardly come to, and the tests that plant it in
/// a scenario made for it. `make test` runs them.
const DIRECTED: &[(Mutant, &str)] = &[
    (
        Mutant::LeaseByWallClock,
        "sim_directed::a_lease_by_the_wall_clock_is_found",
    ),
    (
        Mutant::InstallKeepsEntries,
        "raft::tests::scenarios::an_installed_snapshot_leaves_nothing_that_conflicts",
    ),
    (
        Mutant::InstallsWhatWasReplaced,
        "control::transfer::tests::two_in_quick_succession_are_taken_one_after_the_other",
    ),
    (
        Mutant::UncommittedLeaks,
        "raft::tests::scenarios::the_bound_on_uncommitted_bytes_starts_anew_with_a_term",
    ),
    (
        Mutant::TakesDamageForTorn,
        "wal::tests::crash::planted_faults_are_found",
    ),
    (
        Mutant::ReadsNeverExpire,
        "sim_directed::a_read_that_hangs_is_found",
    ),
    (
        Mutant::RemovesItselfWhileLeading,
        "sim_directed::a_leader_that_removes_itself_is_found",
    ),
    (
        Mutant::AcceptsAnotherDataDir,
        "sim_directed::an_identity_on_another_disk_is_found",
    ),
    (
        Mutant::ExchangesNoHashes,
        "sim_directed::states_that_are_not_compared_are_found",
    ),
    (
        Mutant::WritesWithoutSpace,
        "sim_directed::writing_without_space_is_found",
    ),
];
/// Worlds between two lines of progress.
const PROGRESS_EVERY: u64 = 100;
/// In a run of so many cluster-hours every kind of fault must have happened.
const HOURS_FOR_EVERY_KIND: f64 = 20.0;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let verbose = take_flag(&mut words, "--verbose");
    let minutes = take_number(&mut words, "--minutes").unwrap_or(60);
    let mut setup = Setup {
        seed: 0,
        duration_ns: minutes * HOUR_NS / 60,
        pace: Pace::Dense,
    };
    if take_flag(&mut words, "--quiet") {
        setup.pace = Pace::Quiet;
    }
    if let Some(seed) = take_number(&mut words, "--seed") {
        let named = |(_, mutant): &&(u8, Mutant)| words.contains(&format!("{mutant:?}"));
        let mutant = Mutant::ALL.iter().find(named).map(|(_, mutant)| *mutant);
        return replay(Setup { seed, ..setup }, mutant, verbose);
    }
    let seconds = take_number(&mut words, "--seconds").unwrap_or(60);
    let hours = take_number(&mut words, "--hours");
    setup.seed = take_number(&mut words, "--from").unwrap_or_else(any_seed);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = take_number(&mut words, "--threads").map_or(cores, |threads| threads as usize);
    if words.first().is_some_and(|word| word == "mutants") {
        let seeds = take_number(&mut words, "--seeds").unwrap_or(MUTANT_SEEDS);
        return mutants(&words[1..], seeds, setup, threads);
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let enough = |report: &Report| match hours {
        Some(hours) => report.hours() >= hours as f64,
        None => Instant::now() >= until,
    };
    campaign(setup, threads, &enough)
}

fn take_flag(words: &mut Vec<String>, name: &str) -> bool {
    let before = words.len();
    words.retain(|word| word != name);
    words.len() < before
}

fn take_number(words: &mut Vec<String>, name: &str) -> Option<u64> {
    let at = words.iter().position(|word| word == name)?;
    let number = words.get(at + 1).and_then(|word| word.parse().ok());
    let Some(number) = number else {
        eprintln!("{name} takes a number");
        std::process::exit(2);
    };
    words.drain(at..at + 2);
    Some(number)
}

/// Another one each time, printed first.
fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs() % 1_000_000 * 1_000)
}

/// Worlds on all cores, each of the seed after the one before, until it is enough or one fails.
fn campaign(first: Setup, threads: usize, enough: &(dyn Fn(&Report) -> bool + Sync)) -> ExitCode {
    println!("first seed {}", first.seed);
    let started = Instant::now();
    let (next, failed) = (AtomicU64::new(first.seed), AtomicBool::new(false));
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let outcome = run(Setup { seed, ..first }, None, None);
                    let mut report = report.lock().expect("worlds panic inside");
                    report.add(&outcome);
                    if report.seeds.is_multiple_of(PROGRESS_EVERY) {
                        let (hours, took_s) = (report.hours(), started.elapsed().as_secs());
                        eprintln!("{hours:.0} cluster-hours after {took_s} s");
                    }
                    failed.fetch_or(outcome.violation.is_some(), Ordering::Relaxed);
                    if enough(&report) {
                        return;
                    }
                }
            });
        }
    });
    let report = report.into_inner().expect("worlds panic inside");
    let took_s = started.elapsed().as_secs_f64();
    print!("{report}");
    let missing: Vec<&str> = report.coverage.missing().map(Kind::label).collect();
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
    let per_hour_s = took_s * threads as f64 / report.hours().max(0.001);
    println!("{took_s:.1} s on {threads} threads, {per_hour_s:.2} s of a core for a cluster-hour");
    for (seed, found) in &report.violations {
        complain(
            Setup {
                seed: *seed,
                ..first
            },
            found,
        );
    }
    // A fault that never has an effect tests nothing.
    let covered = missing.is_empty() || report.hours() < HOURS_FOR_EVERY_KIND;
    if report.violations.is_empty() && covered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn complain(setup: Setup, found: &Violation) {
    println!("VIOLATION, {}: {}", found.check.label(), found.what);
    let minutes = match setup.duration_ns * 60 / HOUR_NS {
        60 => String::new(),
        minutes => format!(" MINUTES={minutes}"),
    };
    let pace = match setup.pace {
        Pace::Dense => "",
        Pace::Quiet => " QUIET=1",
    };
    let seed = setup.seed;
    println!("replay it with: make sim SEED={seed}{minutes}{pace} VERBOSE=1");
}

/// One world: the same seed is the same world.
fn replay(setup: Setup, mutant: Option<Mutant>, verbose: bool) -> ExitCode {
    let trace = verbose.then(|| -> Trace {
        Box::new(|now_ns, line| println!("{:>14.6} {line}", now_ns as f64 / 1e9))
    });
    let outcome = run(setup, mutant, trace);
    print_world(&outcome);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(found) => {
            complain(setup, &found);
            ExitCode::FAILURE
        }
    }
}

fn print_world(outcome: &Outcome) {
    let mut report = Report::default();
    report.add(outcome);
    println!(
        "seed {}, digest {:016x}\n{report}",
        outcome.seed, outcome.digest
    );
}

/// Seeds that have caught it: a name and seeds a line.
fn caught_before(name: &str) -> Vec<u64> {
    let lines = include_str!("../testdata/sim/mutants.txt").lines();
    let mut words = lines.filter_map(|line| line.split_once(' '));
    let seeds = words.find(|(known, _)| *known == name);
    let seeds = seeds.map_or("", |(_, seeds)| seeds).split_whitespace();
    seeds.filter_map(|seed| seed.parse().ok()).collect()
}

/// Each mutant until it is caught, and the same seed without it: clean.
fn mutants(names: &[String], seeds: u64, setup: Setup, threads: usize) -> ExitCode {
    let wanted =
        |(_, mutant): &&(u8, Mutant)| names.is_empty() || names.contains(&format!("{mutant:?}"));
    let directed = |mutant: Mutant| DIRECTED.iter().find(|(known, _)| *known == mutant);
    let (elsewhere, chosen): (Vec<(u8, Mutant)>, Vec<_>) = Mutant::ALL
        .iter()
        .filter(wanted)
        .copied()
        .partition(|(_, mutant)| names.is_empty() && directed(*mutant).is_some());
    println!(
        "{:>5}  {:<32}{:>6}{:>14}  caught by",
        "class", "mutant", "seed", "steps"
    );
    let (next, survivors) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((class, mutant)) =
                    chosen.get(next.fetch_add(1, Ordering::Relaxed) as usize)
                {
                    if !is_caught(*class, *mutant, seeds, setup) {
                        survivors.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    for (class, mutant) in elsewhere {
        let test = directed(mutant).map_or("", |(_, test)| test);
        println!("{class:>5}  {:<32}by {test}", format!("{mutant:?}"));
    }
    let (all, survivors) = (chosen.len() as u64, survivors.into_inner());
    println!("{} of {all} mutants caught in worlds", all - survivors);
    if survivors == 0 && all > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn is_caught(class: u8, mutant: Mutant, seeds: u64, setup: Setup) -> bool {
    let name = format!("{mutant:?}");
    let hints = caught_before(&name);
    let caught = hints.into_iter().chain(1..=seeds).find_map(|seed| {
        let outcome = run(Setup { seed, ..setup }, Some(mutant), None);
        outcome.violation.clone().map(|found| (outcome, found))
    });
    let Some((Outcome { seed, events, .. }, found)) = caught else {
        let nothing = "";
        println!("{class:>5}  {name:<32}{nothing:>6}{nothing:>14}  SURVIVED {seeds} seeds");
        return false;
    };
    let check = found.check.label();
    println!("{class:>5}  {name:<32}{seed:>6}{events:>14}  {check}");
    let setup = Setup { seed, ..setup };
    let control = run(setup, None, None);
    if let Some(found) = &control.violation {
        complain(setup, found);
    }
    control.violation.is_none()
}
