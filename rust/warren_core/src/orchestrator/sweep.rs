//! The slow walk over everything that nobody marked. It should find nothing: what it finds is
//! done, and counted as missed.

use crate::fsm::State;
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::budget::Meter;
use crate::orchestrator::pass::Pass;

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
    /// Looks at some nodes, and begins the passes of some services that nobody has marked.
    pub(super) fn sweep_slice(&mut self, state: &State, now_ms: u64, meter: &mut Meter) {
        self.sweep.due_ms = now_ms + INTERVAL_MS;
        self.sweep.node = self.sweep_nodes(state, meter);
        for _ in 0..SLICE {
            let next = state.service_ids_after(self.sweep.service).next();
            let Some(service) = next.filter(|_| meter.try_look()) else {
                // At the end it begins anew; without looks it goes on from here.
                self.sweep.service = self.sweep.service.filter(|_| next.is_some());
                return;
            };
            self.sweep.service = next;
            if !self.marks.knows(service)
                && let Some(row) = state.service(service)
            {
                let since = self.unplaced.remove(&service).unwrap_or_default();
                let mut pass = Pass::new(row, since, self.marks.room_count());
                pass.swept = true;
                self.passes.insert(service, pass);
                self.marks.mark(service);
            }
        }
    }

    /// Where it stopped; `None` at the end.
    fn sweep_nodes(&mut self, state: &State, meter: &mut Meter) -> Option<NodeId> {
        let mut after = self.sweep.node;
        for _ in 0..SLICE {
            let node = state
                .node_ids_after(after)
                .next()
                .and_then(|id| state.node(id))?;
            let images = node.description.images.len();
            if !meter.affords(images + 1) {
                break;
            }
            meter.look(images + 1);
            if self.node_put(state, node) {
                self.stats.missed += 1;
                self.marks.room();
            }
            after = Some(node.id);
        }
        after
    }
}
