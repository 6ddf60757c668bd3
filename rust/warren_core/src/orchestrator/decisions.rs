//! What the orchestrator has decided lately, for people who ask why something is as it is.
//!
//! Kept in the leader's memory since it leads, and bounded: the oldest go first. What was decided is
//! in the state; this only tells how it came to that.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{NodeId, ServiceId};
use crate::words::worded;

/// Decisions that are kept.
pub const DECISIONS_MAX: usize = 4_096;

worded! {
    /// What was decided.
    pub enum Kind {
        /// A container was bound to a node.
        Placed = "placed",
        /// A slot found no node.
        Pending = "pending",
        /// A container was told to go for its successor of a newer spec.
        Replaced = "replaced",
        /// A container was told to go since its node is being drained.
        Moved = "moved",
        /// A container stays on a node that is being drained: there is no room elsewhere.
        Stays = "stays",
        /// A container was told to go since its slot is no more.
        ScaledDown = "scaled_down",
        /// A container was told to go: it makes room for one of a higher priority.
        Preempted = "preempted",
        /// Room is kept for a slot no longer, and it did not start there.
        PreemptionGivenUp = "preemption_given_up",
        /// A slot's containers crash again and again.
        CrashLooping = "crash_looping",
        /// They do so no more, or what did is gone.
        CrashLoopOver = "crash_loop_over",
        /// A node became the last choice for a service, which keeps failing there.
        Avoided = "avoided",
        /// It is that no longer.
        Forgiven = "forgiven",
        /// A container that stays as its service shrinks took the number of a slot that stays.
        SlotMoved = "slot_moved",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Rises by one for each, from 1.
    pub sequence: u64,
    /// That of the state's clock or the leader's, whichever is later; never before the one before.
    pub time_ms: u64,
    pub kind: Kind,
    pub service: ServiceId,
    /// 0 for a global service.
    pub slot: u64,
    pub node: Option<NodeId>,
    /// A sentence.
    pub why: Arc<str>,
}

/// Invariant: sequences rise by one, and the last one is `last`.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    list: VecDeque<Decision>,
    last: u64,
    /// Of what is noted from here on.
    time_ms: u64,
}

impl Decisions {
    /// A clock shows this.
    pub fn at(&mut self, time_ms: u64) {
        self.time_ms = self.time_ms.max(time_ms);
    }

    pub fn note(
        &mut self,
        kind: Kind,
        (service, slot): (ServiceId, u64),
        node: Option<NodeId>,
        why: Arc<str>,
    ) {
        self.last += 1;
        if self.list.len() == DECISIONS_MAX {
            self.list.pop_front();
        }
        self.list.push_back(Decision {
            sequence: self.last,
            time_ms: self.time_ms,
            kind,
            service,
            slot,
            node,
            why,
        });
    }

    /// The newest `count` that are wanted, the oldest of them first.
    pub fn newest(&self, wanted: impl Fn(&Decision) -> bool, count: usize) -> Vec<Decision> {
        let of_these = self.list.iter().rev().filter(|it| wanted(it));
        let mut found: Vec<_> = of_these.take(count).collect();
        found.reverse();
        found.into_iter().cloned().collect()
    }

    /// The oldest `count` that are wanted of those after a number; `None` if some of those are
    /// forgotten, wanted or not, or that number is still to come.
    pub fn after(
        &self,
        sequence: u64,
        wanted: impl Fn(&Decision) -> bool,
        count: usize,
    ) -> Option<Vec<Decision>> {
        let first = self.last + 1 - self.list.len() as u64;
        if sequence + 1 < first || sequence > self.last {
            return None;
        }
        let after = self.list.iter().skip((sequence + 1 - first) as usize);
        let of_these = after.filter(|it| wanted(it));
        Some(of_these.take(count).cloned().collect())
    }

    /// The number of the newest; 0 before any.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Those before are forgotten; numbers go on.
    pub fn clear(&mut self) {
        self.list.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_numbers_go_on() {
        let mut decisions = Decisions::default();
        let (a, b) = (ServiceId([1; 16]), ServiceId([2; 16]));
        let (any, of_b) = (|_: &Decision| true, |it: &Decision| it.service == b);
        for slot in 0..DECISIONS_MAX as u64 + 10 {
            let service = if slot % 2 == 0 { a } else { b };
            decisions.note(Kind::Placed, (service, slot), None, "".into());
        }
        assert_eq!(decisions.list.len(), DECISIONS_MAX);
        assert_eq!(decisions.list[0].sequence, 11);
        let newest = decisions.newest(of_b, 3);
        let slots: Vec<_> = newest.iter().map(|it| it.slot).collect();
        let last = DECISIONS_MAX as u64 + 9;
        assert_eq!(slots, [last - 4, last - 2, last]);
        let followed = decisions.after(last - 4, of_b, 3).expect("they are kept");
        let slots: Vec<_> = followed.iter().map(|it| it.slot).collect();
        assert_eq!(slots, [last - 4, last - 2, last]);
        let oldest = decisions.after(10, any, 1).expect("the first is kept");
        assert_eq!(oldest[0].sequence, 11);
        assert_eq!(decisions.after(9, any, 1), None, "one is forgotten");
        assert_eq!(decisions.after(decisions.last(), any, 1), Some(Vec::new()));
        assert_eq!(decisions.after(decisions.last() + 1, any, 1), None);
        decisions.clear();
        assert_eq!(
            decisions.after(last, any, 1),
            None,
            "the last one is forgotten"
        );
        decisions.note(Kind::Pending, (a, 1), None, "".into());
        assert_eq!(decisions.newest(any, 9)[0].sequence, last + 2);
    }
}
