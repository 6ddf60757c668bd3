//! Which workers are there. Kept in the leader's memory; only changes become commands.
//!
//! Silence is measured on a clock of its own that advances from pulse to pulse of the event loop
//! that hears the workers. While the loop is stuck, nobody could have been heard, so nobody is
//! blamed: a gap between pulses counts as [`PULSE_GAP_MAX_MS`] at most.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::{Node, NodeStatus, State};
use crate::ids::NodeId;

/// Silence after which a worker counts as down. Only time in which pulses arrive counts, and a
/// new leader begins anew.
pub const NODE_GRACE_MS: u64 = 30_000;

/// Pulses come about every second; more than this between two is no time in which to be heard.
const PULSE_GAP_MAX_MS: u64 = 2_000;

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Advances with the pulses.
    clock_ms: u64,
    last_pulse_ms: Option<u64>,
    workers: BTreeMap<NodeId, Worker>,
    /// Workers to look at now, rather than with the next pulse.
    news: BTreeSet<NodeId>,
    /// Set by a pulse: everybody is to be looked at.
    pulsed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Worker {
    in_session: bool,
    /// On `clock_ms`.
    heard_ms: u64,
}

impl Liveness {
    pub fn lead(&mut self, state: &State) {
        for node in state.nodes().filter(|node| node.worker) {
            self.known(node);
        }
        // A session may have come up before leadership was taken.
        self.news = self.workers.keys().copied().collect();
    }

    /// Sessions stay known: they end by themselves.
    pub fn follow(&mut self) {
        self.workers.retain(|_, worker| worker.in_session);
        self.workers
            .values_mut()
            .for_each(|worker| worker.heard_ms = self.clock_ms);
        self.news.clear();
    }

    /// A worker in the state has a full grace period from when it is first known.
    pub fn known(&mut self, node: &Node) {
        if node.worker {
            let heard_ms = self.clock_ms;
            self.workers.entry(node.id).or_insert(Worker {
                in_session: false,
                heard_ms,
            });
            self.news.insert(node.id);
        }
    }

    pub fn session_up(&mut self, node: NodeId, _now_ms: u64) {
        self.workers.insert(
            node,
            Worker {
                in_session: true,
                heard_ms: self.clock_ms,
            },
        );
        self.news.insert(node);
    }

    pub fn session_down(&mut self, node: NodeId, _now_ms: u64) {
        if let Some(worker) = self.workers.get_mut(&node) {
            worker.in_session = false;
        }
    }

    pub fn alive(&mut self, node: NodeId, _now_ms: u64) {
        if let Some(worker) = self.workers.get_mut(&node) {
            worker.heard_ms = self.clock_ms;
        }
    }

    pub fn pulse(&mut self, now_ms: u64) {
        let gap_ms = self
            .last_pulse_ms
            .map_or(0, |last_ms| now_ms.saturating_sub(last_ms));
        self.clock_ms += gap_ms.min(PULSE_GAP_MAX_MS);
        self.last_pulse_ms = Some(now_ms);
        self.pulsed = true;
    }

    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// To be looked at again: what was proposed for it has had its outcome.
    pub fn recheck(&mut self, node: NodeId) {
        self.news.insert(node);
    }

    /// Workers whose status in the state is wrong, with the right one.
    pub fn verdicts(&mut self, state: &State) -> Vec<(NodeId, NodeStatus)> {
        let mut candidates = std::mem::take(&mut self.news);
        if std::mem::take(&mut self.pulsed) {
            candidates.extend(self.workers.keys());
        }
        let verdict = |id: NodeId| {
            let node = state.node(id).filter(|node| node.worker)?;
            let right = self.status(id)?;
            (node.status != right).then_some((id, right))
        };
        candidates.into_iter().filter_map(verdict).collect()
    }

    /// `None` for a worker that has left its session, but not for long.
    fn status(&self, id: NodeId) -> Option<NodeStatus> {
        let worker = self.workers.get(&id)?;
        if self.clock_ms.saturating_sub(worker.heard_ms) > NODE_GRACE_MS {
            Some(NodeStatus::Down)
        } else {
            worker.in_session.then_some(NodeStatus::Ready)
        }
    }
}
