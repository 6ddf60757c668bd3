//! Who watches which service: the present state first, then each change, conflated.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::streams::Outlet;
use super::{CallId, Outputs};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::ServiceId;
use crate::orchestrator::Orchestrator;
use crate::pb;

/// Watches open at a time.
pub const WATCHES_MAX: usize = 1024;

/// Watches that are looked at in one step: for each, a service of a million slots has a thousand
/// blocks to be summed up, and a thousand slots of one to be counted.
const FLUSH_MAX: usize = 16;

struct Watch {
    outlet: Outlet,
    service: ServiceId,
    sent: Option<pb::ServiceProgress>,
    /// Something may have changed since `sent`.
    dirty: bool,
}

/// Invariants: `by_service` holds each watch once; `ready` holds those that are dirty and whose
/// outlet is free.
#[derive(Default)]
pub struct Watches {
    open: BTreeMap<CallId, Watch>,
    by_service: BTreeSet<(ServiceId, CallId)>,
    ready: BTreeSet<CallId>,
    /// The last one that was looked at: the next one is the one after it.
    turn: Option<CallId>,
}

impl Watches {
    pub fn open(&mut self, id: CallId, service: ServiceId) -> Result<(), Error> {
        if self.open.len() >= WATCHES_MAX {
            return Err(Error::Overloaded {
                queue: "service watches",
                limit: WATCHES_MAX,
            });
        }
        let watch = Watch {
            outlet: Outlet::new(id),
            service,
            sent: None,
            dirty: true,
        };
        self.open.insert(id, watch);
        self.by_service.insert((service, id));
        self.ready.insert(id);
        Ok(())
    }

    pub fn close(&mut self, id: CallId) {
        if let Some(watch) = self.open.remove(&id) {
            self.by_service.remove(&(watch.service, id));
            self.ready.remove(&id);
        }
    }

    pub fn taken(&mut self, id: CallId) {
        if let Some(watch) = self.open.get_mut(&id) {
            watch.outlet.taken();
            if watch.dirty {
                self.ready.insert(id);
            }
        }
    }

    pub fn touch(&mut self, service: ServiceId) {
        let watching = self.by_service.range((service, CallId(0))..);
        for &(_, id) in watching.take_while(|(watched, _)| *watched == service) {
            let watch = self.open.get_mut(&id).expect("it is open");
            watch.touch(id, &mut self.ready);
        }
    }

    /// Why a container waits may change without an event: those who watch one are looked at again.
    pub fn touch_waiting(&mut self) {
        let is_waiting = |watch: &Watch| watch.sent.as_ref().is_some_and(|sent| sent.pending > 0);
        for (id, watch) in &mut self.open {
            if is_waiting(watch) {
                watch.touch(*id, &mut self.ready);
            }
        }
    }

    /// Sends what is new to those who can take it; to some of them, if they are many.
    pub fn flush(&mut self, state: &State, orchestrator: &Orchestrator, out: &mut Outputs) {
        for _ in 0..FLUSH_MAX {
            let Some(id) = self.next_turn() else {
                return;
            };
            self.turn = Some(id);
            self.ready.remove(&id);
            let watch = self.open.get_mut(&id).expect("it is open");
            watch.dirty = false;
            let progress = orchestrator.progress(state, watch.service);
            let gone = progress.gone;
            if watch.sent.as_ref() != Some(&progress) {
                watch.outlet.send(&progress, out);
                watch.sent = Some(progress);
            }
            if gone {
                self.close(id);
                out.ended.push((id, None));
            }
        }
        out.again |= !self.ready.is_empty();
    }

    /// All have their turn, however often the first ones are touched.
    fn next_turn(&self) -> Option<CallId> {
        let after = self.turn.map_or(Unbounded, Excluded);
        let mut behind = self.ready.range((after, Unbounded));
        behind.next().or_else(|| self.ready.first()).copied()
    }

    /// Ends all: who watches asks the new leader.
    pub fn end_all(&mut self, error: &Error, out: &mut Outputs) {
        let ids = std::mem::take(self).open.into_keys();
        out.ended.extend(ids.map(|id| (id, Some(error.clone()))));
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }
}

impl Watch {
    fn touch(&mut self, id: CallId, ready: &mut BTreeSet<CallId>) {
        self.dirty = true;
        if self.outlet.is_free() {
            ready.insert(id);
        }
    }
}
