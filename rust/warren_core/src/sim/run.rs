//! Many worlds, one after the other: what was run, what it covered, what it found.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::check::{Check, Looks, Violation};
use super::coverage::Coverage;
use super::world::{Outcome, SECOND_NS, Setup, World};
use crate::mutant::{self, Mutant};

/// Simulated length of a world, without the calm at its end.
pub const HOUR_NS: u64 = 3_600 * SECOND_NS;
/// What an hour must have seen to count.
const OPERATIONS_MIN: u64 = 1_000;

/// Runs one world with `mutant` switched on, if any.
pub fn run(setup: Setup, mutant: Option<Mutant>, trace: Option<super::wire::Trace>) -> Outcome {
    mutant::set(mutant);
    let mut world = World::new(setup, trace);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    mutant::set(None);
    ran.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.panicked(said.unwrap_or_else(|| "without a word".into()))
    })
}

/// What many worlds came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seeds: u64,
    pub events: u64,
    /// Simulated time of worlds that count: [`OPERATIONS_MIN`] an hour, and a fault.
    pub counted_ns: u64,
    pub simulated_ns: u64,
    pub operations: u64,
    pub faults: u64,
    pub violations: Vec<(u64, Violation)>,
    pub coverage: Coverage,
    looks: Looks,
}

impl Report {
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.simulated_ns += outcome.took_ns;
        let busy = outcome.operations * HOUR_NS >= OPERATIONS_MIN * outcome.took_ns;
        if busy && outcome.faults > 0 {
            self.counted_ns += outcome.took_ns;
        }
        self.operations += outcome.operations;
        self.faults += outcome.faults;
        self.coverage.add(&outcome.coverage);
        for (sum, more) in self.looks.iter_mut().zip(outcome.looks) {
            *sum += more;
        }
        self.violations
            .extend(outcome.violation.clone().map(|found| (outcome.seed, found)));
    }

    pub fn hours(&self) -> f64 {
        self.counted_ns as f64 / HOUR_NS as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seeds              {:>14}", self.seeds)?;
        writeln!(f, "cluster-hours      {:>14.1}", self.hours())?;
        writeln!(f, "events             {:>14}", self.events)?;
        writeln!(f, "client operations  {:>14}", self.operations)?;
        writeln!(f, "faults begun       {:>14}", self.faults)?;
        writeln!(f, "violations         {:>14}", self.violations.len())?;
        writeln!(f, "\nwhat happened, how often:\n{}", self.coverage)?;
        writeln!(f, "what was checked, how often:")?;
        for check in Check::ALL {
            writeln!(
                f,
                "  {:<32}{:>14}",
                check.label(),
                self.looks[*check as usize]
            )?;
        }
        Ok(())
    }
}
