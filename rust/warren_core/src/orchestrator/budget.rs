//! What one step may do. Counted in things rather than in time, so that the same inputs always
//! take the same steps.

/// Limits of one [`step`](crate::orchestrator::Orchestrator::step).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Containers bound or removed, and services forgotten.
    pub items: usize,
    /// Slots, containers, nodes and services looked at. A scan over all nodes is not divided: it
    /// waits for a step that can afford it, and a step may begin with one that none can.
    pub looks: usize,
}

/// With fewer looks than this, no step would come to do anything; they are taken for this many.
const LOOKS_MIN: usize = 3;

/// Looks that the first scan of a step may come after: at a service, and at one of its containers.
const BEFORE_SCAN: usize = 2;

/// What is left of a budget.
#[derive(Debug)]
pub(super) struct Meter {
    pub items: usize,
    pub looks: usize,
    looked: usize,
}

impl Meter {
    pub fn new(budget: Budget) -> Self {
        Self {
            items: budget.items,
            looks: budget.looks.max(LOOKS_MIN),
            looked: 0,
        }
    }

    pub fn looked(&self) -> usize {
        self.looked
    }

    pub fn look(&mut self, count: usize) {
        self.looks = self.looks.saturating_sub(count);
        self.looked += count;
    }

    /// Whether a scan of `count` may begin.
    pub fn affords(&self, count: usize) -> bool {
        count <= self.looks || self.looked <= BEFORE_SCAN
    }

    /// One look, if there is one left.
    pub fn try_look(&mut self) -> bool {
        let left = self.looks > 0;
        self.look(usize::from(left));
        left
    }
}
