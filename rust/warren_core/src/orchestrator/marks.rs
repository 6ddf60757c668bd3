//! What is worth looking at: now (dirty), or at a certain time. The more urgent comes first, by the
//! priority of the service, so that room which was given back goes to who needs it most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::fsm::placement::PRIORITY_DEFAULT;
use crate::ids::ServiceId;
use crate::orchestrator::budget::Meter;

/// Where a service stands in line: by priority, then first come first served.
type Turn = (Reverse<u32>, i64);

/// Where a service stands among those that wait for room: by priority, then by how often there had
/// been room when it was looked at last, then first come first served.
type Hope = (Reverse<u32>, u64, i64);

/// Services that were marked for what happened to them go before one of those that only hope for
/// room: there may be any number of these, and mostly nothing comes of it. One that hopes and is
/// more urgent waits for none of them.
const BEFORE_HOPEFUL: u32 = 8;

/// Services that wait for room stand in a line of their own, and stay there: that there is room is
/// a number that grows, however many they are, and who was looked at before it grew has its turn.
///
/// Invariants: `queue` and `dirty` hold the same services; so do `hopeful` and `hopes`, and none of
/// them is in both; no hope knows of more room than `room`; `timers` and `due` hold the same pairs,
/// at most one a service; `urgencies` has only what is not the default.
#[derive(Debug, Default)]
pub(super) struct Marks {
    queue: BTreeMap<Turn, ServiceId>,
    dirty: BTreeMap<ServiceId, Turn>,
    hopeful: BTreeMap<Hope, ServiceId>,
    hopes: BTreeMap<ServiceId, Hope>,
    /// How often there was more room than before.
    room: u64,
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

    /// There is more room than before: whoever waits for some has a turn.
    pub fn room(&mut self) {
        self.room += 1;
    }

    /// The room that there is now is not for this one, if it hopes for some: it has its turn with
    /// what comes after, or when its timer says so.
    pub fn pass_over(&mut self, service: ServiceId) {
        if self.hopes.contains_key(&service) {
            self.wait_for_room(service, self.room);
        }
    }

    /// How often there was more room than before, up to now.
    pub fn room_count(&self) -> u64 {
        self.room
    }

    /// It waits for room, of which there was none when there had been more `looked` times.
    pub fn wait_for_room(&mut self, service: ServiceId, looked: u64) {
        self.hope_no_more(service);
        if !self.dirty.contains_key(&service) {
            let (urgency, last) = self.turn(service);
            let hope = (urgency, looked, last);
            self.hopes.insert(service, hope);
            self.hopeful.insert(hope, service);
        }
    }

    /// Of those that there was room for since they were looked at the one whose turn it is.
    fn first_hope(&self) -> Option<Hope> {
        let mut after = Unbounded;
        // Once for each priority: of one the first knows of the least room.
        loop {
            let (&hope, _) = self.hopeful.range((after, Unbounded)).next()?;
            if hope.1 < self.room {
                return Some(hope);
            }
            after = Excluded((hope.0, u64::MAX, i64::MAX));
        }
    }

    /// The end of the line of those that are as urgent.
    fn turn(&mut self, service: ServiceId) -> Turn {
        self.last += 1;
        let urgency = self.urgencies.get(&service).copied();
        (Reverse(urgency.unwrap_or(PRIORITY_DEFAULT)), self.last)
    }

    /// It waits for no room.
    pub fn hope_no_more(&mut self, service: ServiceId) {
        if let Some(hope) = self.hopes.remove(&service) {
            self.hopeful.remove(&hope);
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

    /// The next one, and whether it only hopes for room; none of those unless `hopes_too`.
    pub fn take(&mut self, hopes_too: bool) -> Option<(ServiceId, bool)> {
        let hope = self.first_hope().filter(|_| hopes_too);
        let others = match (hope, self.queue.first_key_value()) {
            (None, _) => u32::MAX,
            (Some(_), None) => 0,
            (Some((hope, ..)), Some(((mark, _), _))) if hope < *mark => 0,
            _ => BEFORE_HOPEFUL,
        };
        let hope = hope.filter(|_| self.taken >= others);
        if let Some(service) = hope.and_then(|hope| self.hopeful.remove(&hope)) {
            self.taken = 0;
            self.hopes.remove(&service);
            return Some((service, true));
        }
        let (_, service) = self.queue.pop_first()?;
        self.taken = self.taken.saturating_add(1);
        self.dirty.remove(&service);
        Some((service, false))
    }

    pub fn is_clean(&self) -> bool {
        self.queue.is_empty() && self.first_hope().is_none()
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
        let hopes = self.hopes.get(&service);
        self.dirty.contains_key(&service)
            || hopes.is_some_and(|(_, looked, _)| *looked < self.room)
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

    fn take(marks: &mut Marks) -> Option<ServiceId> {
        marks.take(true).map(|(service, _)| service)
    }

    #[test]
    fn who_hopes_for_room_waits_for_others_but_not_for_ever() {
        let id = |number: u8| ServiceId([number; 16]);
        let mut marks = Marks::default();
        (100..103).for_each(|hopeful| marks.wait_for_room(id(hopeful), 0));
        assert!(marks.is_clean() && !marks.knows(id(100)));
        marks.room();
        (0..20).for_each(|number| marks.mark(id(number)));
        // What happens to one that hopes puts it among the others, once.
        marks.mark(id(101));
        marks.wait_for_room(id(101), 0);
        marks.wait_for_room(id(5), 0);
        assert!(marks.knows(id(100)) && marks.knows(id(101)) && !marks.is_clean());
        marks.forget(id(19));
        let order: Vec<_> = std::iter::from_fn(|| marks.take(true))
            .map(|(id, hopes)| (id.0[0], hopes))
            .collect();
        let marked = |numbers: std::ops::Range<u8>| numbers.map(|number| (number, false));
        let first = marked(0..8).chain([(100, true)]).chain(marked(8..16));
        let rest = marked(16..19).chain([(101, false)]);
        let wanted = first.chain([(102, true)]).chain(rest);
        assert_eq!(order, wanted.collect::<Vec<_>>());
        assert!(marks.is_clean());
    }

    #[test]
    fn who_waits_has_one_turn_for_all_the_room_there_was_since_it_was_looked_at() {
        let c = ServiceId([3; 16]);
        let mut marks = Marks::default();
        marks.set_urgency(c, 80);
        for service in [A, B, c] {
            marks.wait_for_room(service, 0);
        }
        marks.room();
        marks.room();
        assert_eq!(marks.take(true), Some((c, true)));
        assert_eq!(marks.take(true), Some((A, true)));
        // Of the two that were looked at one was so before there was room again.
        marks.wait_for_room(c, 2);
        marks.wait_for_room(A, 1);
        assert_eq!(marks.take(true), Some((B, true)));
        assert_eq!(marks.take(true), Some((A, true)));
        assert!(marks.is_clean() && marks.take(true).is_none());
        marks.room();
        assert_eq!(marks.take(true), Some((c, true)));
        marks.hope_no_more(B);
        assert!(marks.is_clean());
        // What it has just given back itself is there for others.
        marks.wait_for_room(A, 3);
        marks.wait_for_room(B, 3);
        marks.room();
        marks.pass_over(A);
        marks.pass_over(c);
        assert_eq!(take(&mut marks), Some(B));
        assert!(marks.is_clean());
        marks.room();
        assert_eq!(take(&mut marks), Some(A));
        // Where something is decided already, it has to wait for that to be sent.
        marks.wait_for_room(A, 0);
        assert_eq!(marks.take(false), None);
        assert_eq!(marks.take(true), Some((A, true)));
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
        assert_eq!(take(&mut marks), Some(B));
        marks.mark(A);
        marks.mark(B);
        marks.mark_first(ServiceId([4; 16]));
        let rest = [
            take(&mut marks),
            take(&mut marks),
            take(&mut marks),
            take(&mut marks),
        ];
        assert_eq!(rest, [Some(ServiceId([4; 16])), Some(B), Some(A), Some(c)]);
        assert!(marks.is_clean());
    }

    #[test]
    fn marks_come_out_in_order_and_once() {
        let mut marks = Marks::default();
        for service in [B, A, B] {
            marks.mark(service);
        }
        assert_eq!(take(&mut marks), Some(B));
        marks.mark_first(B);
        assert_eq!(
            [take(&mut marks), take(&mut marks), take(&mut marks)],
            [Some(B), Some(A), None]
        );
    }
}
