//! Who watches which service: the present state first, then each change, conflated.

use std::collections::BTreeMap;

use super::streams::Outlet;
use super::{CallId, Outputs};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::ServiceId;
use crate::orchestrator::Orchestrator;
use crate::pb;

/// Watches open at a time.
pub const WATCHES_MAX: usize = 1024;

struct Watch {
    outlet: Outlet,
    service: ServiceId,
    sent: Option<pb::ServiceProgress>,
    /// Something may have changed since `sent`.
    dirty: bool,
}

#[derive(Default)]
pub struct Watches(BTreeMap<CallId, Watch>);

impl Watches {
    pub fn open(&mut self, id: CallId, service: ServiceId) -> Result<(), Error> {
        if self.0.len() >= WATCHES_MAX {
            return Err(Error::Overloaded {
                queue: "service watches",
                limit: WATCHES_MAX,
            });
        }
        let outlet = Outlet::new(id);
        self.0.insert(
            id,
            Watch {
                outlet,
                service,
                sent: None,
                dirty: true,
            },
        );
        Ok(())
    }

    pub fn close(&mut self, id: CallId) {
        self.0.remove(&id);
    }

    pub fn taken(&mut self, id: CallId) {
        if let Some(watch) = self.0.get_mut(&id) {
            watch.outlet.taken();
        }
    }

    pub fn touch(&mut self, service: ServiceId) {
        self.0
            .values_mut()
            .filter(|watch| watch.service == service)
            .for_each(|w| w.dirty = true);
    }

    /// Why a container waits may change without an event: those who watch one are looked at again.
    pub fn touch_waiting(&mut self) {
        let waiting = |watch: &&mut Watch| watch.sent.as_ref().is_some_and(|sent| sent.pending > 0);
        self.0
            .values_mut()
            .filter(waiting)
            .for_each(|watch| watch.dirty = true);
    }

    pub fn flush(&mut self, state: &State, orchestrator: &Orchestrator, out: &mut Outputs) {
        self.0.retain(|id, watch| {
            if !watch.dirty || !watch.outlet.is_free() {
                return true;
            }
            watch.dirty = false;
            let progress = orchestrator.progress(state, watch.service);
            let gone = progress.gone;
            if watch.sent.as_ref() != Some(&progress) {
                watch.outlet.send(&progress, out);
                watch.sent = Some(progress);
            }
            if gone {
                out.ended.push((*id, None));
            }
            !gone
        });
    }

    /// Ends all: who watches asks the new leader.
    pub fn end_all(&mut self, error: &Error, out: &mut Outputs) {
        let ids = std::mem::take(&mut self.0).into_keys();
        out.ended.extend(ids.map(|id| (id, Some(error.clone()))));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
