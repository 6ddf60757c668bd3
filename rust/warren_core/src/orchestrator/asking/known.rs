//! Questions about nodes, and for which of them the answer is yes.

use crate::fsm::placement::Term;
use crate::fsm::{self, Node, Service, State};
use crate::scheduler::{Division, NodeSet, Scheduler};

/// Sets that have a grid of their own, which makes every change of their nodes dearer.
const POOLS_MAX: usize = 8;
/// A set with no more nodes is walked instead.
const POOL_MIN: usize = 64;

#[derive(Clone, Debug)]
pub(super) enum Question {
    /// Whether nothing but room keeps containers of such a service off the node.
    MayTake(Box<Service>),
    /// The same, whatever the containers there claim.
    MayEverTake(Box<Service>),
    /// Whether the node is the worse choice for it, by a taint.
    Dislikes(Box<Service>),
    /// Whether an affinity's condition holds.
    Holds(Term),
}

impl Question {
    fn answer(&self, state: &State, node: &Node) -> bool {
        match self {
            Self::MayTake(service) => state.refusal(service, node).is_none(),
            Self::MayEverTake(service) => service.rules.refusal(node).is_none(),
            Self::Dislikes(service) => service.rules.is_disliked(node),
            Self::Holds(term) => term.holds_on(node),
        }
    }
}

/// Nodes for which the answer is yes. Invariant: those of `set` are part 0 of `pool`.
#[derive(Debug)]
pub(super) struct Known {
    question: Question,
    pub set: NodeSet,
    pub pool: Option<Division>,
    /// When it was asked last.
    pub asked: u64,
}

impl Known {
    pub fn new(question: Question) -> Self {
        Self {
            question,
            set: NodeSet::default(),
            pool: None,
            asked: 0,
        }
    }

    /// Asks of all nodes.
    pub fn learn(&mut self, scheduler: &mut Scheduler, state: &State) {
        for node in state.nodes() {
            if let Some(number) = scheduler.number(node.id) {
                self.put(scheduler, state, node, number);
            }
        }
    }

    /// Asks of one node anew. True if the answer is another.
    pub fn put(
        &mut self,
        scheduler: &mut Scheduler,
        state: &State,
        node: &Node,
        number: u32,
    ) -> bool {
        let yes = self.question.answer(state, node);
        let news = self.set.set(number, yes);
        if news && let Some(pool) = self.pool {
            scheduler.division_set(pool, node.id, yes.then_some(0));
        }
        news
    }

    /// The scheduler takes a node that is removed out of its divisions itself.
    pub fn remove(&mut self, number: u32) {
        self.set.set(number, false);
    }

    /// Whether the answer depends on what containers claim.
    pub fn is_of_claims(&self) -> bool {
        let Question::MayTake(service) = &self.question else {
            return false;
        };
        fsm::claims(service.container_spec())
    }

    /// Makes a pool where the set is neither so small that it is walked nor nearly all nodes.
    pub fn pool(&mut self, scheduler: &mut Scheduler, pools: usize) {
        let wide = 4 * self.set.len() > 3 * scheduler.node_count();
        if self.pool.is_some() || pools >= POOLS_MAX || wide || self.set.len() <= POOL_MIN {
            return;
        }
        let pool = scheduler.division_add();
        for number in self.set.iter() {
            if let Some(id) = scheduler.node(number) {
                scheduler.division_set(pool, id, Some(0));
            }
        }
        self.pool = Some(pool);
    }

    /// Gives the pool back.
    pub fn drain(self, scheduler: &mut Scheduler) {
        if let Some(pool) = self.pool {
            scheduler.division_remove(pool);
        }
    }
}
