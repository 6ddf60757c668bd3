//! Desired against observed, as commands. On the leader only.

mod liveness;

use std::sync::Arc;

use crate::error::Result;
use crate::fsm::{Event, State};
use crate::ids::{NodeId, ServiceId};
use crate::pb;

pub use liveness::NODE_GRACE_MS;

/// Names a proposal of one leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A command body to be proposed. Its outcome must come back through
/// [`Orchestrator::resolved`], unless leadership ends before.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub token: Token,
    pub body: pb::command::Body,
}

/// A slot without a container, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSlot {
    pub slot: u64,
    /// For global services: the node that is the slot.
    pub node: Option<NodeId>,
    pub reason: Arc<str>,
}

/// What the leader has done since it was made; counts only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Passes over what is dirty.
    pub cycles: u64,
    /// Containers bound.
    pub scheduled: u64,
    /// Placements that failed: no node, or refused at apply.
    pub failed: u64,
    /// What the sweep found and nobody had marked.
    pub missed: u64,
}

#[derive(Debug)]
pub struct Orchestrator {
    seed: u64,
}

impl Orchestrator {
    /// `seed` decides between nodes that are equally good.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Takes leadership, at `now_ms` of the monotonic clock; an entry of the own term is applied.
    pub fn lead(&mut self, _state: &State, _now_ms: u64) {
        todo!()
    }

    /// Gives leadership up: everything but the statistics is forgotten.
    pub fn follow(&mut self) {
        todo!()
    }

    /// Marks what an applied entry made worth looking at.
    pub fn observe(&mut self, _state: &State, _events: &[Event]) {
        todo!()
    }

    /// Derives what to do next: at most about `budget` items in all, each command within the
    /// limits of a command. Call again, at once while [`Orchestrator::next_wakeup`] is due.
    pub fn step(&mut self, _state: &State, _now_ms: u64, _budget: usize) -> Vec<Proposal> {
        todo!()
    }

    /// The outcome of a proposal: `apply`'s response, or why it never came to that. `state` is
    /// the state after it, its events observed.
    pub fn resolved(&mut self, _state: &State, _now_ms: u64, _token: Token, _r: Result<&[u8]>) {
        todo!()
    }

    /// Slots of a service without a container, by (slot, node).
    pub fn pending(&self, _service: ServiceId) -> &[PendingSlot] {
        todo!()
    }

    /// How far a service is; `gone` if there is none.
    pub fn progress(&self, _state: &State, _service: ServiceId) -> pb::ServiceProgress {
        todo!()
    }

    /// When to call [`Orchestrator::step`] next, if nothing happens before; `None` when not
    /// leading.
    pub fn next_wakeup(&self, _now_ms: u64) -> Option<u64> {
        todo!()
    }

    /// A worker's stream is open.
    pub fn session_up(&mut self, _node: NodeId, _now_ms: u64) {
        todo!()
    }

    /// A worker's stream is gone; its grace period runs.
    pub fn session_down(&mut self, _node: NodeId, _now_ms: u64) {
        todo!()
    }

    /// A worker was heard of.
    pub fn alive(&mut self, _node: NodeId, _now_ms: u64) {
        todo!()
    }

    /// The event loop that hears the workers is alive.
    pub fn pulse(&mut self, _now_ms: u64) {
        todo!()
    }

    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// How long each container bound since the last call had no node, in milliseconds.
    pub fn take_scheduling_latencies_ms(&mut self) -> Vec<u64> {
        todo!()
    }
}
