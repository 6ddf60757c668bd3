//! What the orchestrator has decided lately, for people who ask why something is as it is.
//!
//! Kept in the leader's memory since it leads, and bounded: the oldest go first. What was decided is
//! in the state; this only tells how it came to that.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{NodeId, ServiceId};

/// Decisions that are kept.
pub const DECISIONS_MAX: usize = 4_096;

/// What was decided. The words are for programs, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container was bound to a node.
    Placed,
    /// A slot found no node.
    Pending,
    /// A container was told to go for its successor of a newer spec.
    Replaced,
    /// A container was told to go since its node is being drained.
    Moved,
    /// A container stays on a node that is being drained: there is no room elsewhere.
    Stays,
    /// A container was told to go since its slot is no more.
    ScaledDown,
    /// A container was told to go: it makes room for one of a higher priority.
    Preempted,
    /// Room is kept for a slot no longer, and it did not start there.
    PreemptionGivenUp,
    /// A slot's containers crash again and again.
    CrashLooping,
    /// They do so no more, or what did is gone.
    CrashLoopOver,
    /// A node became the last choice for a service, which keeps failing there.
    Avoided,
    /// It is that no longer.
    Forgiven,
    /// A container that stays as its service shrinks took the number of a slot that stays.
    SlotMoved,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Pending => "pending",
            Self::Replaced => "replaced",
            Self::Moved => "moved",
            Self::Stays => "stays",
            Self::ScaledDown => "scaled_down",
            Self::Preempted => "preempted",
            Self::PreemptionGivenUp => "preemption_given_up",
            Self::CrashLooping => "crash_looping",
            Self::CrashLoopOver => "crash_loop_over",
            Self::Avoided => "avoided",
            Self::Forgiven => "forgiven",
            Self::SlotMoved => "slot_moved",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Rises by one for each, from 1.
    pub sequence: u64,
    /// As the state's clock had it.
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
    pub time_ms: u64,
}

impl Decisions {
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

    /// The newest `count`, of one service if one is given, the oldest of them first.
    pub fn newest(&self, service: Option<ServiceId>, count: usize) -> Vec<Decision> {
        let of = |it: &&Decision| service.is_none_or(|service| it.service == service);
        let mut found: Vec<_> = self.list.iter().rev().filter(of).take(count).collect();
        found.reverse();
        found.into_iter().cloned().collect()
    }

    /// The oldest `count` of those after a number; `None` if some of them are forgotten, or that number
    /// is still to come.
    pub fn after(
        &self,
        sequence: u64,
        service: Option<ServiceId>,
        count: usize,
    ) -> Option<Vec<Decision>> {
        let first = self.last + 1 - self.list.len() as u64;
        if sequence + 1 < first || sequence > self.last {
            return None;
        }
        let after = self.list.iter().skip((sequence + 1 - first) as usize);
        let of = |it: &&Decision| service.is_none_or(|service| it.service == service);
        Some(after.filter(of).take(count).cloned().collect())
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
        for slot in 0..DECISIONS_MAX as u64 + 10 {
            let service = if slot % 2 == 0 { a } else { b };
            decisions.note(Kind::Placed, (service, slot), None, "".into());
        }
        assert_eq!(decisions.list.len(), DECISIONS_MAX);
        assert_eq!(decisions.list[0].sequence, 11);
        let newest = decisions.newest(Some(b), 3);
        let slots: Vec<_> = newest.iter().map(|it| it.slot).collect();
        let last = DECISIONS_MAX as u64 + 9;
        assert_eq!(slots, [last - 4, last - 2, last]);
        let followed = decisions
            .after(last - 4, Some(b), 3)
            .expect("they are kept");
        let slots: Vec<_> = followed.iter().map(|it| it.slot).collect();
        assert_eq!(slots, [last - 4, last - 2, last]);
        let oldest = decisions.after(10, None, 1).expect("the first is kept");
        assert_eq!(oldest[0].sequence, 11);
        assert_eq!(decisions.after(9, None, 1), None, "one is forgotten");
        assert_eq!(decisions.after(decisions.last(), None, 1), Some(Vec::new()));
        assert_eq!(decisions.after(decisions.last() + 1, None, 1), None);
        decisions.clear();
        assert_eq!(
            decisions.after(last, None, 1),
            None,
            "the last one is forgotten"
        );
        decisions.note(Kind::Pending, (a, 1), None, "".into());
        assert_eq!(decisions.newest(None, 9)[0].sequence, last + 2);
    }
}
