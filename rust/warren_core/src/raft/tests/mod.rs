//! One member by itself, clusters step by step, and clusters under random faults.

mod alone;
mod cluster;
mod golden;
mod hostile;
mod random;
mod scenarios;

use super::{ConfState, Position};
use crate::ids::{Index, Term};

fn genesis() -> Position {
    Position {
        index: Index(1),
        term: Term(1),
    }
}

fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        ..ConfState::default()
    }
}
