//! How long a slot waits before a container that has ended is replaced: 1, 2, 4 … 60 s. Kept in
//! the leader's memory, on its monotonic clock; a new leader begins at 1 s.

use std::collections::BTreeMap;

use crate::ids::{ContainerId, ServiceId};
use crate::orchestrator::plan::Slot;

const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 60_000;
/// Running for so long makes a failure the first one again.
const RESET_MS: u64 = 60_000;

/// Slots that failed; those that never did are absent.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    services: BTreeMap<ServiceId, BTreeMap<Slot, Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The last container that ended.
    ended: ContainerId,
    failures: u32,
    not_before_ms: u64,
    running_since_ms: Option<u64>,
}

impl BackOff {
    /// When the slot of a container that has ended may be filled again. Counts each container
    /// once, however often it is asked about.
    pub fn not_before(
        &mut self,
        service: ServiceId,
        slot: Slot,
        ended: ContainerId,
        now_ms: u64,
    ) -> u64 {
        let slots = self.services.entry(service).or_default();
        let known = slots.get(&slot);
        if let Some(entry) = known.filter(|entry| entry.ended == ended) {
            return entry.not_before_ms;
        }
        let failures = known
            .filter(|entry| !entry.ran_long(now_ms))
            .map_or(0, |e| e.failures)
            + 1;
        let delay_ms = (FIRST_MS << (failures - 1).min(6)).min(LONGEST_MS);
        let not_before_ms = now_ms + delay_ms;
        let entry = Entry {
            ended,
            failures,
            not_before_ms,
            running_since_ms: None,
        };
        slots.insert(slot, entry);
        not_before_ms
    }

    /// Slots of the service that wait, by slot: after how many failures, and for how long.
    pub fn waiting(
        &self,
        service: ServiceId,
        now_ms: u64,
    ) -> impl Iterator<Item = (Slot, u32, u64)> {
        let slots = self.services.get(&service).into_iter().flatten();
        let waiting = slots.filter(move |(_, entry)| entry.not_before_ms > now_ms);
        waiting.map(move |(slot, it)| (*slot, it.failures, it.not_before_ms - now_ms))
    }

    /// What the slot's container does now.
    pub fn seen(&mut self, service: ServiceId, slot: Slot, running: bool, now_ms: u64) {
        let entry = self.services.get_mut(&service);
        if let Some(entry) = entry.and_then(|slots| slots.get_mut(&slot)) {
            entry.running_since_ms = running.then(|| entry.running_since_ms.unwrap_or(now_ms));
        }
    }

    /// Forgets the slots with higher numbers: they are no more.
    pub fn forget_above(&mut self, service: ServiceId, number: u64) {
        if let Some(slots) = self.services.get_mut(&service) {
            let above = Slot {
                number: number + 1,
                node: None,
            };
            slots.split_off(&above);
        }
    }

    pub fn forget(&mut self, service: ServiceId) {
        self.services.remove(&service);
    }
}

impl Entry {
    fn ran_long(&self, now_ms: u64) -> bool {
        self.running_since_ms
            .is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= RESET_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceId = ServiceId([1; 16]);
    const SLOT: Slot = Slot {
        number: 1,
        node: None,
    };

    fn container(n: u8) -> ContainerId {
        ContainerId([n; 16])
    }

    #[test]
    fn delays_double_to_a_minute_and_count_each_container_once() {
        let mut backoff = BackOff::default();
        let delays = (0..9).map(|n| {
            let due = backoff.not_before(SERVICE, SLOT, container(n), 0);
            assert_eq!(backoff.not_before(SERVICE, SLOT, container(n), 999), due);
            due / 1000
        });
        assert_eq!(delays.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_minute_of_running_resets_and_an_interrupted_one_does_not() {
        let mut backoff = BackOff::default();
        backoff.not_before(SERVICE, SLOT, container(1), 0);
        backoff.seen(SERVICE, SLOT, true, 1_000);
        backoff.seen(SERVICE, SLOT, false, 50_000);
        backoff.seen(SERVICE, SLOT, true, 51_000);
        let due = backoff.not_before(SERVICE, SLOT, container(2), 62_000);
        assert_eq!(due, 64_000);
        backoff.seen(SERVICE, SLOT, true, 65_000);
        let due = backoff.not_before(SERVICE, SLOT, container(3), 125_000);
        assert_eq!(due, 126_000);
    }
}
