//! Who has been heard from lately.
//!
//! The library has a flag of that name, but forgets it with every check of the quorum and learns
//! it again a heartbeat later: too coarse for a decision about a single member.

use std::collections::BTreeMap;

use super::election::LEASE_TICKS;

/// Ticks of silence after which a member counts as absent.
const SILENCE_TICKS: u64 = 2 * LEASE_TICKS as u64;

/// When each member last said something in the present term, in ticks of this one. Bounded by the
/// members of the configuration: others are not noted.
#[derive(Default)]
pub struct Heard {
    now: u64,
    term: u64,
    at: BTreeMap<u64, u64>,
}

impl Heard {
    pub fn tick(&mut self) {
        self.now += 1;
    }

    pub fn note(&mut self, member: u64, term: u64) {
        if term != self.term {
            self.term = term;
            self.at.clear();
        }
        self.at.insert(member, self.now);
    }

    pub fn is_recent(&self, member: u64, term: u64) -> bool {
        let at = self.at.get(&member).filter(|_| term == self.term);
        at.is_some_and(|at| self.now - at <= SILENCE_TICKS)
    }
}
