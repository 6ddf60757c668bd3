//! What is worth looking at: now (dirty), or at a certain time. The more urgent comes first, by the
//! priority of the service, so that room which was given back goes to who needs it most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::placement::PRIORITY_DEFAULT;
use crate::ids::ServiceId;
use crate::orchestrator::budget::Meter;

/// Where a service stands in line: by priority, then first come first served.
type Turn = (Reverse<u32>, i64);

/// Services that were marked for what happened to them go before one of those that only hope for
/// room: there may be any number of these, each costs a look at every node, and mostly nothing
/// comes of it. One that hopes and is more urgent waits for none of them.
const BEFORE_HOPEFUL: u32 = 8;

/// Invariants: `queue` and `dirty` hold the same services; so do `hopeful` and `hopes`, and none of
/// them is in both; `timers` and `due` hold the same pairs, at most one a service; `urgencies` has
/// only what is not the default.
#[derive(Debug, Default)]
pub(super) struct Marks {
    queue: BTreeMap<Turn, ServiceId>,
    dirty: BTreeMap<ServiceId, Turn>,
    hopeful: BTreeMap<Turn, ServiceId>,
    hopes: BTreeMap<ServiceId, Turn>,
    /// Taken of `queue` since the last of `hopeful`.
    taken: u32,
    urgencies: BTreeMap<ServiceId, u32>,
    /// The last number that was given out at the end of the line.
    last: i64,
    timers: BTreeSet<(u64, ServiceId)>,
    due: BTreeMap<ServiceId, u64>,
}

impl Marks {
    pub fn mark(&mut self, service: ServiceId) {
        self.hope_no_more(service);
        if !self.dirty.contains_key(&service) {
            let turn = self.turn(service);
            self.stand(turn, service);
        }
    }

    /// It waits for room, and there is some.
    pub fn mark_hopeful(&mut self, service: ServiceId) {
        if !self.dirty.contains_key(&service) && !self.hopes.contains_key(&service) {
            let turn = self.turn(service);
            self.hopes.insert(service, turn);
            self.hopeful.insert(turn, service);
        }
    }

    /// The end of the line of those that are as urgent.
    fn turn(&mut self, service: ServiceId) -> Turn {
        self.last += 1;
        let urgency = self.urgencies.get(&service).copied();
        (Reverse(urgency.unwrap_or(PRIORITY_DEFAULT)), self.last)
    }

    fn hope_no_more(&mut self, service: ServiceId) {
        if let Some(turn) = self.hopes.remove(&service) {
            self.hopeful.remove(&turn);
        }
    }

    /// Before all others.
    pub fn mark_first(&mut self, service: ServiceId) {
        self.hope_no_more(service);
        if !self.dirty.contains_key(&service) {
            let first = self.queue.first_key_value().map_or(0, |((_, at), _)| *at);
            self.stand((Reverse(u32::MAX), first - 1), service);
        }
    }

    fn stand(&mut self, turn: Turn, service: ServiceId) {
        self.dirty.insert(service, turn);
        self.queue.insert(turn, service);
    }

    /// How urgent it is from the next mark on.
    pub fn set_urgency(&mut self, service: ServiceId, priority: u32) {
        match priority {
            PRIORITY_DEFAULT => self.urgencies.remove(&service),
            other => self.urgencies.insert(service, other),
        };
    }

    pub fn take(&mut self) -> Option<ServiceId> {
        let first = (self.hopeful.first_key_value(), self.queue.first_key_value());
        let others = match first {
            (None, _) => u32::MAX,
            (Some(_), None) => 0,
            (Some(((hope, _), _)), Some(((mark, _), _))) if hope < mark => 0,
            _ => BEFORE_HOPEFUL,
        };
        if self.taken >= others
            && let Some((_, service)) = self.hopeful.pop_first()
        {
            self.taken = 0;
            self.hopes.remove(&service);
            return Some(service);
        }
        let (_, service) = self.queue.pop_first()?;
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
        self.dirty.contains_key(&service)
            || self.hopes.contains_key(&service)
            || self.due.contains_key(&service)
    }

    pub fn forget(&mut self, service: ServiceId) {
        self.hope_no_more(service);
        if let Some(turn) = self.dirty.remove(&service) {
            self.queue.remove(&turn);
        }
        self.urgencies.remove(&service);
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
    fn the_more_urgent_comes_first_and_what_cannot_wait_before_it() {
        let c = ServiceId([3; 16]);
        let mut marks = Marks::default();
        marks.set_urgency(B, 80);
        marks.set_urgency(c, 10);
        for service in [c, A, B] {
            marks.mark(service);
        }
        marks.forget(A);
        assert_eq!(marks.take(), Some(B));
        marks.mark(A);
        marks.mark(B);
        marks.mark_first(ServiceId([4; 16]));
        let rest = [marks.take(), marks.take(), marks.take(), marks.take()];
        assert_eq!(rest, [Some(ServiceId([4; 16])), Some(B), Some(A), Some(c)]);
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
