//! Planted faults, to show that the checkers bite.
//!
//! A mutant is one line of the real code done wrong, behind a run-time switch, so that one build
//! holds all of them and a simulation can be run with each. In a release build [`is_on`] is the
//! constant `false` and the compiler drops the branch.

/// One planted fault. The number is the bug class that it stands for, by `docs/simulation.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// 2: a lone voter counts its entries for durable when it hands them to the log.
    AcknowledgesBeforeFsync,
}

impl Mutant {
    /// All of them, by class.
    pub const ALL: &'static [(u8, Mutant)] = &[(2, Mutant::AcknowledgesBeforeFsync)];
}

#[cfg(any(test, feature = "sim"))]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Switches one mutant on for this thread, or all off.
    pub fn set(mutant: Option<Mutant>) {
        ON.set(mutant);
    }

    /// Whether the fault is to happen.
    pub fn is_on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }
}

#[cfg(any(test, feature = "sim"))]
pub use switch::{is_on, set};

/// Never, in a release.
#[cfg(not(any(test, feature = "sim")))]
#[must_use]
pub const fn is_on(_: Mutant) -> bool {
    false
}
