//! What speaks for a node, in parts and for people: the terms of the score that placing goes by.

use crate::fsm::Resources;
use crate::ids::NodeId;
use crate::scheduler::place::query;
use crate::scheduler::score::WHOLE;
use crate::scheduler::search::Query;
use crate::scheduler::{Ask, Scheduler};

/// Terms of a score, in thousandths of a point. A point is what an affinity of weight 1 is worth:
/// 100 of them are a node of mean size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Worth {
    /// What one more would strand; less is better, and below 0 where it uses up what is stranded.
    pub stranded_milli: i64,
    /// What the lean toward fuller nodes costs; less is better.
    pub left_free_milli: i64,
}

impl Scheduler {
    /// The score of a node that has room for one of these; `None` for another. Affinities apart.
    pub fn worth(&self, id: NodeId, ask: &Ask) -> Option<Worth> {
        let number = self.number(id)?;
        let query = query(&self.index, &self.images, self.seed, ask);
        query.need.fits(self.index.free(number)).then(|| {
            let shares = query.shares(&self.index, number);
            self.points(&query, shares)
        })
    }

    fn points(&self, query: &Query, free: (i64, i64)) -> Worth {
        let score = query.scale.score(free);
        let asked = query.scale.asked;
        let left_free = query.scale.pulled(free.0 - asked.0 + free.1 - asked.1);
        let nodes = i128::from(self.index.nodes_open());
        // As `Query::bonus` has it: a weight of 100 is what both resources of a mean node are.
        let points = |share: i64| {
            let milli = i128::from(share) * nodes * 100_000 / i128::from(2 * WHOLE);
            milli as i64
        };
        Worth {
            stranded_milli: points(score - left_free),
            left_free_milli: points(left_free),
        }
    }

    /// What is free on a node, what is held for binds on their way not counted as free.
    pub fn free(&self, id: NodeId) -> Option<Resources> {
        let number = self.number(id)?;
        Some(self.index.free(number))
    }
}
