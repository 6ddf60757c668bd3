//! When too many workers are lost at once, nothing is replaced.
//!
//! Hosts fail one by one; many that fall silent together are mostly still there, behind a network
//! that is not. Starting all that they run a second time would load the rest of the cluster, and be
//! undone when they come back. So before the first of them is called down, the leader counts who
//! went down within the last grace period or has been silent for most of it. Above the configured
//! share of those that were ready, and from [`LOST_MIN`] workers on, it proposes a freeze first:
//! workers are still called down, but `apply` lets nothing be bound in place of what they run.
//!
//! The freeze is part of the state, so that the next leader keeps it. It ends when nobody is missing any
//! more, beyond those that were down before; or when no more than that share has been missing for a
//! grace period, because who comes back does not come all at once; or when an operator ends it. Then
//! only who is lost from there on counts.

use crate::fsm::{Freeze, State};
use crate::orchestrator::Orchestrator;

/// Fewer are not worth a freeze, whatever share of a small cluster they are: an operator of five
/// hosts expects the loss of two to be made up for.
pub const LOST_MIN: u32 = 3;
/// The feature level of the commands in here.
const LEVEL: u32 = 3;

impl Orchestrator {
    /// `losing`: a worker is about to be called down.
    pub(super) fn judge_freeze(&mut self, state: &State, losing: bool) {
        // The next event about the cluster may be its end, and this leader saw no beginning.
        self.frozen |= state.freeze().is_some();
        if self.in_flight.has_freeze() || state.feature_level() < LEVEL {
            return;
        }
        let grace_ms = u64::from(state.settings().node_grace_ms);
        match state.freeze() {
            None if losing => {
                let recent = self.liveness.loss(grace_ms).recent;
                let workers = state.workers();
                let down_before = workers.down.saturating_sub(recent);
                let freeze = Freeze {
                    since_ms: 0,
                    lost: recent,
                    ready_before: workers.ready + (workers.down - down_before),
                    down_before,
                };
                if is_too_many(state, recent, freeze.ready_before) {
                    self.outbox.freeze(Some(freeze));
                }
            }
            Some(freeze) if self.liveness.take_pulse(grace_ms) => {
                let silent = self.liveness.loss(grace_ms).silent;
                let missing = silent.saturating_sub(freeze.down_before);
                let enough = !is_too_many(state, missing, freeze.ready_before);
                let for_ms = self.liveness.lasts_ms(enough);
                if missing == 0 || for_ms.is_some_and(|for_ms| for_ms > grace_ms) {
                    self.outbox.freeze(None);
                }
            }
            _ => {}
        }
    }

    /// The cluster's settings, its freeze or its feature level changed.
    pub(super) fn observe_cluster(&mut self, state: &State) {
        let frozen = state.freeze().is_some();
        if self.frozen && !frozen {
            self.liveness.forgive();
            self.walks.waiting();
        }
        self.frozen = frozen;
        let level = std::mem::replace(&mut self.level, state.feature_level());
        if level != self.level {
            // Who waits may wait for what some of the managers could not do before.
            self.walks.waiting();
        }
        let overcommit = Some(state.settings().overcommit);
        if self.overcommit != overcommit {
            self.overcommit = overcommit;
            // Every node has another amount to give away.
            self.walks.lead();
        }
    }
}

fn is_too_many(state: &State, lost: u32, of: u32) -> bool {
    let percent = u64::from(state.settings().lost_nodes_freeze_percent);
    lost >= LOST_MIN && u64::from(lost) * 100 > percent * u64::from(of)
}
