//! The slow walk over everything that nobody marked. It should find nothing: what it finds is
//! done, and counted as missed.

use crate::fsm::State;
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::Orchestrator;

/// Between two slices.
const INTERVAL_MS: u64 = 1_000;
/// Services and nodes of one slice.
const SLICE: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Sweep {
    due_ms: u64,
    service: Option<ServiceId>,
    node: Option<NodeId>,
}

impl Sweep {
    pub fn begin(&mut self, now_ms: u64) {
        *self = Self {
            due_ms: now_ms + INTERVAL_MS,
            service: None,
            node: None,
        };
    }

    pub fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms <= now_ms
    }

    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }
}

impl Orchestrator {
    pub(super) fn sweep_slice(&mut self, state: &State, now_ms: u64, budget: usize) {
        self.sweep.due_ms = now_ms + INTERVAL_MS;
        let nodes: Vec<_> = state.node_ids_after(self.sweep.node).take(SLICE).collect();
        self.sweep.node = nodes.last().copied().filter(|_| nodes.len() == SLICE);
        for node in nodes.into_iter().filter_map(|id| state.node(id)) {
            if self.scheduler.node_put(state, node) {
                self.stats.missed += 1;
                self.mark_waiting();
            }
        }
        let services: Vec<_> = state
            .service_ids_after(self.sweep.service)
            .take(SLICE)
            .collect();
        self.sweep.service = services.last().copied().filter(|_| services.len() == SLICE);
        for service in services {
            if !self.marks.knows(service) {
                self.stats.missed += self.reconcile(state, service, now_ms, budget) as u64;
            }
        }
    }
}
