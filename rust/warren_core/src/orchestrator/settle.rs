//! From the outcomes of proposals back.

use std::sync::Arc;

use crate::error::Result;
use crate::fsm;
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::decisions::Kind;
use crate::orchestrator::in_flight::{Bound, Subject};

/// When to look again after a refusal at apply: the state was not what was thought, and is known
/// better by then. Keeps a contradiction from turning into a busy loop.
const RETRY_MS: u64 = 100;

impl Orchestrator {
    /// Takes the outcome of a proposal: frees what it held and marks what has to be looked at.
    pub(super) fn settle(&mut self, now_ms: u64, subject: Subject, outcome: Result<&[u8]>) {
        let applied = |count: usize| match &outcome {
            Ok(bytes) => fsm::applied_items(bytes).unwrap_or_else(|| vec![false; count]),
            Err(_) => vec![false; count],
        };
        match subject {
            Subject::Binds(binds) => {
                let applied = applied(binds.len());
                self.settle_binds(now_ms, &binds, &applied, outcome.is_ok());
            }
            Subject::Desired(items) => {
                let applied = applied(items.len());
                self.may_make_room(applied.iter().any(|applied| !applied));
                for (it, applied) in items.iter().zip(applied) {
                    self.stays(it.node, applied);
                    self.look_again(it.service, now_ms, applied);
                }
            }
            Subject::Moves(moves) => {
                self.may_make_room(true);
                for (moving, applied) in moves.iter().zip(applied(moves.len())) {
                    if applied {
                        self.note_moved(moving);
                    }
                    self.stays(moving.node, applied);
                    self.look_again(moving.service, now_ms, applied);
                }
            }
            Subject::Preempt(items) => {
                let applied = applied(items.len());
                // What it had set aside, and its victims, are there for others.
                if !applied.iter().all(|applied| *applied) {
                    self.marks.room();
                }
                for (item, applied) in items.iter().zip(applied) {
                    if let Some(set_aside) = item.set_aside {
                        self.scheduler.preempt_end(item.node, set_aside);
                    }
                    self.scheduler.release_devices(item.node, &item.devices);
                    if applied {
                        self.stats.preempted += item.victims.len() as u64;
                        self.note_preempted(item);
                    } else {
                        // What its victims' services had for them had to wait for this.
                        for (service, ..) in &item.told {
                            self.look_again(*service, now_ms, false);
                        }
                    }
                    self.look_again(item.service, now_ms, applied);
                }
            }
            Subject::Forget(service) => self.look_again(service, now_ms, outcome.is_ok()),
            Subject::Node(node) => self.liveness.recheck(node),
            Subject::Freeze => {}
        }
    }

    fn settle_binds(&mut self, now_ms: u64, binds: &[Bound], applied: &[bool], judged: bool) {
        // The same time and sentence for most of a batch.
        let mut waited: Option<(u64, Arc<str>)> = None;
        for (position, bound) in binds.iter().enumerate() {
            let applied = applied.get(position).copied().unwrap_or(false);
            self.scheduler.release(bound.node, bound.resources);
            self.scheduler.release_devices(bound.node, &bound.devices);
            if applied {
                self.stats.scheduled += 1;
                let waited_ms = now_ms.saturating_sub(bound.since_ms);
                let why = match &waited {
                    Some((ms, why)) if *ms == waited_ms => Arc::clone(why),
                    _ => format!("found room after {waited_ms} ms").into(),
                };
                waited = Some((waited_ms, Arc::clone(&why)));
                let of = (bound.service, bound.slot.number);
                self.decisions.note(Kind::Placed, of, Some(bound.node), why);
                self.latencies_ms.push(waited_ms);
            } else {
                self.stats.failed += u64::from(judged);
                let waiting = self.unplaced.entry(bound.service).or_default();
                waiting.insert(bound.slot, bound.since_ms);
                self.look_again(bound.service, now_ms, false);
            }
        }
        if !applied.iter().all(|applied| *applied) {
            self.marks.room();
        }
    }

    /// A container of the node that was told something may make room again, unless it took effect:
    /// then the node is known anew with that.
    fn stays(&mut self, node: NodeId, applied: bool) {
        if !applied {
            self.scheduler.occupants_changed(node);
        }
    }

    /// Containers may be victims again that were none while something about them was on its way:
    /// who looked for some meanwhile looks again.
    fn may_make_room(&mut self, again: bool) {
        if again && !self.preemptors.is_empty() {
            self.marks.room();
        }
    }

    /// At once if the item took effect, else when the state is known better, and not for the room
    /// that it gave back.
    fn look_again(&mut self, service: ServiceId, now_ms: u64, applied: bool) {
        if applied {
            self.mark(service);
        } else {
            if let Some(pass) = self.passes.get_mut(&service) {
                pass.swept = false;
            }
            self.marks.pass_over(service);
            self.marks.mark_at(service, now_ms + RETRY_MS);
        }
    }
}
