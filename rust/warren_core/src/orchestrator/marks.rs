//! What is worth looking at: now (dirty), or at a certain time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::ServiceId;
use crate::orchestrator::budget::Meter;

/// Services that were marked for what happened to them go before one of those that only hope for
/// room: there may be any number of these, each costs a look at every node, and mostly nothing
/// comes of it.
const BEFORE_HOPEFUL: u32 = 8;

/// Invariants: `queue` and `dirty` hold the same services, first come first served; so do `hopeful`
/// and `hopes`, and none of them is in both; `timers` and `due` hold the same pairs, at most one a
/// service.
#[derive(Debug, Default)]
pub(super) struct Marks {
    queue: VecDeque<ServiceId>,
    dirty: BTreeSet<ServiceId>,
    /// By the order that they came in.
    hopeful: BTreeMap<u64, ServiceId>,
    hopes: BTreeMap<ServiceId, u64>,
    next_hope: u64,
    /// Taken of `queue` since the last of `hopeful`.
    taken: u32,
    timers: BTreeSet<(u64, ServiceId)>,
    due: BTreeMap<ServiceId, u64>,
}

impl Marks {
    pub fn mark(&mut self, service: ServiceId) {
        self.hope_no_more(service);
        if self.dirty.insert(service) {
            self.queue.push_back(service);
        }
    }

    /// It waits for room, and there is some.
    pub fn mark_hopeful(&mut self, service: ServiceId) {
        if !self.dirty.contains(&service) && !self.hopes.contains_key(&service) {
            self.hopes.insert(service, self.next_hope);
            self.hopeful.insert(self.next_hope, service);
            self.next_hope += 1;
        }
    }

    fn hope_no_more(&mut self, service: ServiceId) {
        if let Some(hope) = self.hopes.remove(&service) {
            self.hopeful.remove(&hope);
        }
    }

    /// Before all others.
    pub fn mark_first(&mut self, service: ServiceId) {
        self.hope_no_more(service);
        if self.dirty.insert(service) {
            self.queue.push_front(service);
        }
    }

    pub fn take(&mut self) -> Option<ServiceId> {
        if (self.queue.is_empty() || self.taken >= BEFORE_HOPEFUL)
            && let Some((_, service)) = self.hopeful.pop_first()
        {
            self.taken = 0;
            self.hopes.remove(&service);
            return Some(service);
        }
        let service = self.queue.pop_front()?;
        self.taken = self.taken.saturating_add(1);
        self.dirty.remove(&service);
        Some(service)
    }

    pub fn is_clean(&self) -> bool {
        self.queue.is_empty() && self.hopeful.is_empty()
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
        self.dirty.contains(&service)
            || self.hopes.contains_key(&service)
            || self.due.contains_key(&service)
    }

    pub fn forget(&mut self, service: ServiceId) {
        self.hope_no_more(service);
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
    fn who_hopes_for_room_waits_for_others_but_not_for_ever() {
        let id = |number: u8| ServiceId([number; 16]);
        let mut marks = Marks::default();
        (100..103).for_each(|hopeful| marks.mark_hopeful(id(hopeful)));
        (0..20).for_each(|number| marks.mark(id(number)));
        // What happens to one that hopes puts it among the others, once.
        marks.mark(id(101));
        marks.mark_hopeful(id(101));
        marks.mark_hopeful(id(5));
        assert!(marks.knows(id(100)) && marks.knows(id(101)) && !marks.is_clean());
        marks.forget(id(19));
        let order: Vec<u8> = std::iter::from_fn(|| marks.take())
            .map(|id| id.0[0])
            .collect();
        let first = (0..8).chain([100]).chain(8..16).chain([102]);
        assert_eq!(order, first.chain([16, 17, 18, 101]).collect::<Vec<_>>());
        assert!(marks.is_clean());
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
