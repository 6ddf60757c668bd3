//! A node for a container that finds no room, and what has to end there.
//!
//! Bands are gone through from the lowest priority up: the first in which some node reaches what
//! is asked has the lowest priority that any set of victims can do with. Among its nodes, those
//! whose reach is closest and surely suffices come first; a few of them are judged exactly and the
//! cheapest is taken.
//!
//! Caveats. Where many nodes come into question, another one may have fewer victims of that same
//! priority. Where more than sixteen priorities are in use below the one that asks, the victims'
//! highest may be as far above the lowest possible as the priorities that share a band.

use crate::fsm::Resources;
use crate::ids::{ContainerId, NodeId};
use crate::scheduler::bands::{Bands, Occupant, free_without, reach};
use crate::scheduler::index::Index;
use crate::scheduler::level::LEVELS;
use crate::scheduler::lists::{List, NONE};
use crate::scheduler::place::query;
use crate::scheduler::search::{NARROW_MAX, Query, drawn};
use crate::scheduler::victims::{self, Choice, Cost};
use crate::scheduler::{Ask, Scheduler};

/// Nodes whose victims are looked for beside the first, to compare them.
const CANDIDATES_MAX: usize = 7;
/// And once one of them has a single victim: no other can have fewer of that priority.
const CANDIDATES_OF_ONE: usize = 1;
/// Nodes of a cluster in which that is not what takes time: there, what is chosen does not depend on
/// what came before, so that a plan says what will be.
const FEW: usize = 64;

/// Where one container could go, and what would have to end there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    pub node: NodeId,
    /// By id; not empty.
    pub victims: Vec<ContainerId>,
    /// The highest among the victims; lower than that of the one who asks.
    pub priority: u32,
    /// What has to be set aside now, so that nobody takes it before the victims have ended: what is
    /// asked, without what they still hold.
    pub set_aside: Resources,
}

impl Scheduler {
    /// Begins to keep what containers hold by priority; every node's occupants have to be put.
    pub fn bands_keep(&mut self) {
        if self.bands.is_none() {
            let mut bands = Bands::default();
            self.index.keep_moved();
            self.numbers.iter().for_each(|node| bands.forget(node));
            self.bands = Some(Box::new(bands));
        }
    }

    /// Whether that is kept.
    pub fn has_bands(&self) -> bool {
        self.bands.is_some()
    }

    /// A container has come to the node, ended there, or changed its priority.
    pub fn occupants_changed(&mut self, id: NodeId) {
        if let Some((node, bands)) = self.number(id).zip(self.bands.as_mut()) {
            bands.forget(node);
        }
    }

    /// It is to leave the node, for whatever reason, and makes room for nobody else.
    pub fn occupant_leaves(&mut self, id: NodeId, occupant: ContainerId) {
        if let Some((node, bands)) = self.number(id).zip(self.bands.as_mut()) {
            bands.take(node, &[occupant]);
            self.index.note_moved(node);
        }
    }

    /// Priorities are others than they were: nothing is known of any node.
    pub fn occupants_unknown(&mut self) {
        if let Some(bands) = &mut self.bands {
            self.numbers.iter().for_each(|node| bands.forget(node));
        }
    }

    /// A node whose occupants have to be put before [`Scheduler::preempt`] is asked.
    pub fn next_stale(&self) -> Option<NodeId> {
        let node = self.bands.as_ref()?.next_stale()?;
        Some(self.ids[node as usize])
    }

    /// The containers of a node that may have to make room, in any order: those that are meant to
    /// run and have not ended.
    pub fn occupants_put(&mut self, id: NodeId, occupants: impl Iterator<Item = Occupant>) {
        if let Some((node, bands)) = self.number(id).zip(self.bands.as_mut()) {
            bands.put(node, occupants);
            self.index.note_moved(node);
        }
    }

    /// Where one of these would find room if containers of a lower priority ended, and which; of
    /// the rules only `within`, `without` and `max_per_node` count. Nothing is held. To be asked
    /// where [`Scheduler::place`] refuses: nodes that have the room are left out.
    pub fn preempt(&mut self, ask: &Ask, priority: u32) -> Option<Preemption> {
        let mut bands = self.bands.take()?;
        let below = bands.below(priority);
        bands.catch_up(&mut self.index, &below);
        let hunt = Hunt {
            scheduler: self,
            bands: &bands,
            query: query(&self.index, &self.images, self.seed, ask),
            ask,
        };
        let found = below.iter().find_map(|upto| hunt.in_band(*upto));
        self.bands = Some(bands);
        found
    }

    /// The victims make room from now on: nobody else may choose them, or take what they leave.
    pub fn preempt_begin(&mut self, preemption: &Preemption) {
        if let Some((node, bands)) = self.number(preemption.node).zip(self.bands.as_mut()) {
            bands.take(node, &preemption.victims);
            self.index.hold(node, preemption.set_aside, 1);
            self.index.note_moved(node);
        }
    }

    /// Whether it came to that or not, the state knows from now on.
    pub fn preempt_end(&mut self, id: NodeId, set_aside: Resources) {
        if let Some(node) = self.number(id) {
            self.index.release(node, set_aside, 1);
        }
        self.occupants_changed(id);
    }
}

struct Hunt<'a> {
    scheduler: &'a Scheduler,
    bands: &'a Bands,
    query: Query<'a>,
    ask: &'a Ask<'a>,
}

impl Hunt<'_> {
    fn index(&self) -> &Index {
        &self.scheduler.index
    }

    fn in_band(&self, upto: u32) -> Option<Preemption> {
        let mut best: Option<(Cost, u64, u32, Choice)> = None;
        let mut judged = 0;
        let few = self.index().len() <= FEW;
        let list = self.bands.list(upto)?;
        self.each_near(list, |node| {
            if !self.may_take(node) {
                return true;
            }
            let known = best.as_ref().map(|(cost, ..)| cost);
            judged += usize::from(known.is_some());
            let Some(choice) = self.judge(node, upto, known) else {
                return judged < CANDIDATES_MAX;
            };
            let draw = drawn(self.query.draw, self.index().draws(node));
            let better = best.as_ref().is_none_or(|(cost, drawn, at, _)| {
                (&choice.cost, draw, node) < (cost, *drawn, *at)
            });
            if better {
                best = Some((choice.cost, draw, node, choice));
            }
            let single = best.as_ref().is_some_and(|(cost, ..)| cost.count == 1);
            judged
                < match single && !few {
                    true => CANDIDATES_OF_ONE,
                    false => CANDIDATES_MAX,
                }
        });
        let (cost, _, node, choice) = best?;
        let occupants = self.bands.occupants(node, upto);
        let chosen = choice.victims.iter().map(|at| &occupants[*at]);
        let held = chosen.clone().map(|it| it.resources);
        let held = held.fold(Resources::default(), Resources::saturating_add);
        let mut victims: Vec<_> = chosen.map(|it| it.id).collect();
        victims.sort_unstable();
        Some(Preemption {
            node: self.scheduler.ids[node as usize],
            victims,
            priority: cost.priority,
            set_aside: self.query.need.saturating_sub(held),
        })
    }

    /// Whether one may go to the node, and would fit there if nothing else did.
    fn may_take(&self, node: u32) -> bool {
        let (index, need) = (self.index(), self.query.need);
        index.is_open(node)
            && !need.fits(index.free(node))
            && need.fits(index.load(node).allocatable)
            && self.query.may_go(node)
            && !self.is_full(node)
    }

    /// The victims on a node, if they suffice and cost no more than `best`.
    fn judge(&self, node: u32, upto: u32, best: Option<&Cost>) -> Option<Choice> {
        let (index, need) = (self.index(), self.query.need);
        let occupants = self.bands.occupants(node, upto);
        let choice = victims::choose(occupants, self.lacking(node), index.axes().rates, best);
        debug_assert!(choice.is_none() || need.fits(reach(&index.load(node), occupants)));
        choice
    }

    /// What has to be given back before there is room for one.
    fn lacking(&self, node: u32) -> Resources {
        let (load, need) = (self.index().load(node), self.query.need);
        let taken = load.allocated.saturating_add(load.held);
        let wanted = taken.saturating_add(need);
        let lacking = wanted.saturating_sub(load.allocatable);
        debug_assert!(need.fits(free_without(&load, lacking)));
        // Of what is not asked for nothing is lacking, even where too much is taken.
        lacking.with(need, |lacking, need| if need == 0 { 0 } else { lacking })
    }

    fn is_full(&self, node: u32) -> bool {
        let id = self.scheduler.ids[node as usize];
        let have = self.ask.spread.get(&id).copied().unwrap_or_default();
        self.ask.rules.max_per_node.is_some_and(|most| have >= most)
    }

    /// Nodes whose reach suffices, those with the least first, and then those whose reach is about what
    /// is asked and may be less, until `look` says no.
    fn each_near(&self, list: List, mut look: impl FnMut(u32) -> bool) {
        if let Some(narrow) = self.query.narrowest()
            && narrow.len() <= NARROW_MAX
        {
            let mut nodes = narrow.iter().filter(|node| list.cell(*node).is_some());
            let _all = nodes.all(look);
            return;
        }
        let Some(square) = list.part(0) else {
            return;
        };
        let (first, least) = self.query.levels;
        if least >= LEVELS as u32 {
            return;
        }
        for borders in [false, true] {
            for row in first..LEVELS as u32 {
                let all = square.rows[row as usize] & (!0 << least);
                let border = if row == first {
                    all
                } else {
                    all & (1 << least)
                };
                let mut bits = if borders { border } else { all & !border };
                while bits != 0 {
                    let column = bits.trailing_zeros();
                    bits &= bits - 1;
                    let mut node = square.head((row * LEVELS as u32 + column) as u16);
                    while node != NONE {
                        if !look(node) {
                            return;
                        }
                        node = list.next(node);
                    }
                }
            }
        }
    }
}

impl Occupant {
    /// For tests of what is around it.
    #[cfg(test)]
    pub fn of(id: u8, priority: u32, resources: Resources) -> Self {
        Self {
            id: ContainerId([id; 16]),
            priority,
            resources,
            created_at_ms: 0,
        }
    }
}
