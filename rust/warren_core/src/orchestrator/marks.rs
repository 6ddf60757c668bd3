//! What is worth looking at: now (dirty), or at a certain time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::ServiceId;
use crate::orchestrator::budget::Meter;

/// Invariants: `queue` and `dirty` hold the same services, first come first served; `timers` and
/// `due` hold the same pairs, at most one a service.
#[derive(Debug, Default)]
pub(super) struct Marks {
    queue: VecDeque<ServiceId>,
    dirty: BTreeSet<ServiceId>,
    timers: BTreeSet<(u64, ServiceId)>,
    due: BTreeMap<ServiceId, u64>,
}

impl Marks {
    pub fn mark(&mut self, service: ServiceId) {
        if self.dirty.insert(service) {
            self.queue.push_back(service);
        }
    }

    /// Before all others.
    pub fn mark_first(&mut self, service: ServiceId) {
        if self.dirty.insert(service) {
            self.queue.push_front(service);
        }
    }

    pub fn take(&mut self) -> Option<ServiceId> {
        let service = self.queue.pop_front()?;
        self.dirty.remove(&service);
        Some(service)
    }

    pub fn is_clean(&self) -> bool {
        self.queue.is_empty()
    }

    /// Marks the service at `at_ms`, or earlier if a timer says so already.
    pub fn mark_at(&mut self, service: ServiceId, at_ms: u64) {
        match self.due.get(&service) {
            Some(known) if *known <= at_ms => return,
            Some(known) => self.timers.remove(&(*known, service)),
            None => false,
        };
        self.due.insert(service, at_ms);
        self.timers.insert((at_ms, service));
    }

    /// A service whose timer is due, which it has no more.
    pub fn take_due(&mut self, now_ms: u64, meter: &mut Meter) -> Option<ServiceId> {
        let due = self.timers.first().filter(|(at_ms, _)| *at_ms <= now_ms);
        let &(at_ms, service) = due.filter(|_| meter.try_look())?;
        self.timers.remove(&(at_ms, service));
        self.due.remove(&service);
        Some(service)
    }

    pub fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|(at_ms, _)| *at_ms)
    }

    /// Whether it is going to be looked at anyway.
    pub fn knows(&self, service: ServiceId) -> bool {
        self.dirty.contains(&service) || self.due.contains_key(&service)
    }

    pub fn forget(&mut self, service: ServiceId) {
        if self.dirty.remove(&service) {
            self.queue.retain(|other| *other != service);
        }
        if let Some(at_ms) = self.due.remove(&service) {
            self.timers.remove(&(at_ms, service));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::Budget;

    const A: ServiceId = ServiceId([1; 16]);
    const B: ServiceId = ServiceId([2; 16]);

    #[test]
    fn the_earlier_timer_wins_and_fires_once() {
        let mut marks = Marks::default();
        let mut meter = Meter::new(Budget { items: 0, looks: 9 });
        marks.mark_at(A, 50);
        marks.mark_at(A, 30);
        marks.mark_at(A, 70);
        assert_eq!(marks.take_due(29, &mut meter), None);
        assert!(marks.knows(A));
        assert_eq!(
            (marks.take_due(30, &mut meter), marks.next_timer()),
            (Some(A), None)
        );
        assert!(!marks.knows(A));
    }

    #[test]
    fn marks_come_out_in_order_and_once() {
        let mut marks = Marks::default();
        for service in [B, A, B] {
            marks.mark(service);
        }
        assert_eq!(marks.take(), Some(B));
        marks.mark_first(B);
        assert_eq!(
            [marks.take(), marks.take(), marks.take()],
            [Some(B), Some(A), None]
        );
    }
}
