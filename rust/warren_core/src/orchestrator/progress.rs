//! How far services are, for those who ask.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::fsm::{State, ailing, tally};
use crate::ids::ServiceId;
use crate::orchestrator::{CrashLoop, Decision, Orchestrator, PendingSlot};
use crate::pb;

/// What waits, by service. Invariant: `count` slots in all, no service without one.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Those that wait for a node.
    slots: BTreeMap<ServiceId, Vec<PendingSlot>>,
    count: usize,
    /// Updates and drains that wait for what is away, which those that wait for room do not.
    held_up: BTreeMap<ServiceId, Arc<str>>,
}

impl Waiting {
    /// By (slot, node).
    pub fn of(&self, service: ServiceId) -> &[PendingSlot] {
        self.slots.get(&service).map_or(&[], Vec::as_slice)
    }

    /// Instead of what was known of the service.
    pub fn put(&mut self, service: ServiceId, slots: Vec<PendingSlot>) {
        self.forget_slots(service);
        if !slots.is_empty() {
            self.count += slots.len();
            self.slots.insert(service, slots);
        }
    }

    /// Why an update or a drain of the service goes no further, if that is what is away.
    pub fn hold_up(&mut self, service: ServiceId, why: Option<Arc<str>>) {
        match why {
            Some(why) => self.held_up.insert(service, why),
            None => self.held_up.remove(&service),
        };
    }

    pub fn forget(&mut self, service: ServiceId) {
        self.forget_slots(service);
        self.held_up.remove(&service);
    }

    fn forget_slots(&mut self, service: ServiceId) {
        let gone = self.slots.remove(&service);
        self.count -= gone.map_or(0, |slots| slots.len());
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn first_of(&self, services: impl RangeBounds<ServiceId>) -> Option<ServiceId> {
        self.slots.range(services).next().map(|(id, _)| *id)
    }
}

impl Orchestrator {
    /// Slots of a service that wait for a node, by (slot, node).
    pub fn pending(&self, service: ServiceId) -> &[PendingSlot] {
        self.pending.of(service)
    }

    /// Slots of a service whose containers crash again and again, by slot.
    pub fn crash_loops(&self, service: ServiceId) -> Vec<CrashLoop> {
        self.failures.loops(service)
    }

    /// How many slots of each service are crash-looping; services without any are absent.
    pub fn crash_looping_by_service(&self) -> BTreeMap<ServiceId, u32> {
        self.failures.loop_counts()
    }

    /// How many slots are crash-looping, of all services.
    pub fn crash_looping(&self) -> usize {
        self.failures.loop_count()
    }

    /// How many slots wait for a node, of all services.
    pub fn pending_count(&self) -> usize {
        self.pending.count
    }

    /// The newest `count` decisions since it leads that are wanted, the oldest first.
    pub fn decisions(&self, wanted: impl Fn(&Decision) -> bool, count: usize) -> Vec<Decision> {
        self.decisions.newest(wanted, count)
    }

    /// The oldest `count` decisions after a number, likewise; `None` where it is not known any more, or
    /// not yet, what followed.
    pub fn decisions_after(
        &self,
        sequence: u64,
        wanted: impl Fn(&Decision) -> bool,
        count: usize,
    ) -> Option<Vec<Decision>> {
        self.decisions.after(sequence, wanted, count)
    }

    /// The number of the newest decision; 0 before any.
    pub fn last_decision(&self) -> u64 {
        self.decisions.last()
    }

    /// How far a service is; `gone` if there is none.
    pub fn progress(&self, state: &State, id: ServiceId) -> pb::ServiceProgress {
        let Some(service) = state.service(id) else {
            let service_id = id.to_vec();
            return pb::ServiceProgress {
                service_id,
                gone: true,
                ..Default::default()
            };
        };
        let counts = tally(state, service);
        pb::ServiceProgress {
            service_id: id.to_vec(),
            version: service.version,
            desired: counts.desired,
            running: counts.running,
            leaving: counts.leaving,
            stranded: counts.stranded,
            pending: self.pending(id).len() as u32,
            failing: counts.failing,
            reason: self.reason(state, id),
            gone: false,
        }
    }

    /// Why an update or a drain leaves what it does.
    pub(super) fn why_blocked(&self, id: ServiceId) -> Option<Arc<str>> {
        let held_up = self.pending.held_up.get(&id);
        self.blocked.get(&id).or(held_up).cloned()
    }

    /// The most telling reason for what does not run: no room, then what a container says of its
    /// failure, then an update that waits.
    fn reason(&self, state: &State, id: ServiceId) -> String {
        let no_room = self.pending(id).first().map(|slot| slot.reason.to_string());
        let failing = || {
            let ailing = ailing(state, state.service(id)?)?;
            Some(ailing.status.message.to_string())
        };
        let blocked = || self.why_blocked(id).map(|reason| reason.to_string());
        no_room
            .or_else(failing)
            .or_else(blocked)
            .unwrap_or_default()
    }
}
