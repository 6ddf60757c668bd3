//! Containers alike, many at a time: what is found for one serves for those after it.

use crate::fsm::Resources;
use crate::scheduler::Strategy;
use crate::scheduler::index::{Index, Order, times};
use crate::scheduler::level::LEVELS;
use crate::scheduler::lists::NONE;
use crate::scheduler::search::{Area, Query, Seek};

/// Nodes, and how many of something on each.
pub(super) type Counts = Vec<(u32, u32)>;

/// Many containers of one service in one area.
pub(super) struct Fill<'a> {
    pub area: Area,
    pub query: Query<'a>,
    /// Containers of the service that nodes of the area have already; by node, none with 0.
    pub have: &'a [(u32, u32)],
    pub max_per_node: u32,
}

/// A node that has some of the service or gets some.
#[derive(Clone, Copy, Debug)]
struct Vessel {
    node: u32,
    /// Of the service, before those that are given now.
    level: u32,
    /// How many more it takes.
    room: u32,
    given: u32,
}

impl Fill<'_> {
    /// Finds nodes for `count` and holds the room there; `out` gets them, a node more than once
    /// if it had several turns. How many found no node.
    pub fn run(&self, index: &mut Index, count: u32, out: &mut Counts) -> u32 {
        if count == 0 || self.query.image.is_none() {
            return count;
        }
        match self.query.strategy {
            Strategy::Spread => self.spread(index, count, out),
            Strategy::Pack | Strategy::Consolidate => self.pack(index, count, out),
        }
    }

    fn order(&self) -> Order {
        self.query.order()
    }

    /// As many of these as `node` takes beside what it is given, at most `most`.
    fn room(&self, index: &Index, node: u32, most: u32) -> u32 {
        let listed = index.lists(self.area.layer, self.order());
        let here = listed.has(node, self.area.part);
        match here && self.query.may_go(node) {
            true => fits(self.query.need, index.free(node), most),
            false => 0,
        }
    }

    /// Nodes without one of the service get one first; then the lowest are filled, like vessels
    /// that are joined, up to one level.
    fn spread(&self, index: &mut Index, count: u32, out: &mut Counts) -> u32 {
        if count == 1
            && let Some(node) = self.fresh_one(index)
        {
            index.hold(node, self.query.need, 1);
            out.push((node, 1));
            return 0;
        }
        let fresh = match count {
            1 => Counts::new(),
            _ => self.fresh(index, count),
        };
        for (node, _) in &fresh {
            index.hold(*node, self.query.need, 1);
        }
        let left = count - fresh.len() as u32;
        if left == 0 {
            out.extend(fresh);
            return 0;
        }
        let levels = self.have.iter().chain(&fresh);
        let vessels = levels.map(|(node, level)| Vessel {
            node: *node,
            level: *level,
            room: self.room(
                index,
                *node,
                left.min(self.max_per_node.saturating_sub(*level)),
            ),
            given: 0,
        });
        let mut vessels: Vec<_> = vessels.collect();
        let poured = self.pour(index, &mut vessels, left);
        let fresh_from = self.have.len();
        for (at, vessel) in vessels.iter().enumerate() {
            let given = vessel.given + u32::from(at >= fresh_from);
            if given > 0 {
                out.push((vessel.node, given));
            }
        }
        left - poured
    }

    /// [`Fill::fresh`] for a single one.
    fn fresh_one(&self, index: &mut Index) -> Option<u32> {
        if self.max_per_node == 0 {
            return None;
        }
        if self.have.is_empty() {
            return index.pick(self.area, &self.query);
        }
        let (layer, order) = (self.area.layer, self.order());
        let hide = |(node, _): &(u32, u32)| index.hide(layer, order, *node);
        let hidden: Vec<_> = self.have.iter().filter_map(hide).collect();
        let found = index.pick(self.area, &self.query);
        for place in hidden.into_iter().rev() {
            index.unhide(layer, order, place);
        }
        found
    }

    /// Up to `count` nodes of the area that have none of the service, the best first, with 1 each.
    fn fresh(&self, index: &mut Index, count: u32) -> Counts {
        let (layer, order) = (self.area.layer, self.order());
        if self.max_per_node == 0 {
            return Vec::new();
        }
        let mut listed = 0;
        for (node, _) in self.have {
            let here = index.lists(layer, order).has(*node, self.area.part);
            listed += u32::from(here);
        }
        let nodes = index.lists(layer, order).part(self.area.part);
        if nodes.is_none_or(|square| square.nodes == listed) {
            return Vec::new();
        }
        let hide = |index: &mut Index, node| index.hide(layer, order, node);
        let mut hidden: Vec<_> = self
            .have
            .iter()
            .filter_map(|(node, _)| hide(index, *node))
            .collect();
        let mut found = Vec::new();
        if count > 1 && self.query.affinities.is_empty() {
            self.fresh_by_cell(index, count, &mut found);
        } else {
            while found.len() < count as usize
                && let Some(node) = index.pick(self.area, &self.query)
            {
                found.push((node, 1));
                if count > 1 {
                    hidden.extend(hide(index, node));
                }
            }
        }
        for place in hidden.into_iter().rev() {
            index.unhide(layer, order, place);
        }
        found
    }

    /// A whole cell at a time, where nodes are many.
    fn fresh_by_cell(&self, index: &Index, count: u32, found: &mut Counts) {
        if let Some(few) = index.few_by_rank(self.area, &self.query) {
            found.extend(few.iter().take(count as usize).map(|node| (*node, 1)));
            return;
        }
        let order = self.order();
        let lists = index.lists(self.area.layer, order);
        let Some(square) = lists.part(self.area.part) else {
            return;
        };
        let mut tried = [0; LEVELS];
        while let Some(cell) = index.best_cell(square, &self.query, order, &mut tried) {
            let mut node = square.head(cell);
            while node != NONE {
                if self.query.accepts(index, node) {
                    found.push((node, 1));
                    if found.len() == count as usize {
                        return;
                    }
                }
                node = lists.next(node);
            }
        }
    }

    /// Gives `count` out, the lowest first, and holds the room; how many found some.
    /// O(vessels · log `count`).
    fn pour(&self, index: &mut Index, vessels: &mut [Vessel], count: u32) -> u32 {
        let up_to = |level: u32, vessels: &[Vessel]| {
            let below = |v: &Vessel| u64::from(v.room.min(level.saturating_sub(v.level)));
            vessels.iter().map(below).sum::<u64>()
        };
        let open = vessels.iter().filter(|v| v.room > 0).map(|v| v.level);
        let lowest = open.clone().min().unwrap_or_default();
        let highest = open.max().unwrap_or_default();
        // Invariant: up to `full` goes in no more than there is; up to `over` more, or all rooms
        // are full.
        let (mut full, mut over) = (lowest, highest.saturating_add(count).saturating_add(1));
        while over - full > 1 {
            let middle = full + (over - full) / 2;
            match up_to(middle, vessels) <= u64::from(count) {
                true => full = middle,
                false => over = middle,
            }
        }
        let mut poured = 0;
        for vessel in vessels.iter_mut() {
            vessel.given = vessel.room.min(full.saturating_sub(vessel.level));
            poured += vessel.given;
            if vessel.given > 0 {
                index.hold(vessel.node, self.query.need, vessel.given);
            }
        }
        let mut best: Vec<_> = vessels
            .iter()
            .enumerate()
            .filter(|(_, v)| v.given < v.room && v.level + v.given == full)
            .map(|(at, v)| (self.query.rank(index, v.node), v.node, at))
            .collect();
        let last = (count - poured) as usize;
        if last < best.len() {
            best.select_nth_unstable(last);
            best.truncate(last);
        }
        for (_, _, at) in &best {
            vessels[*at].given += 1;
            index.hold(vessels[*at].node, self.query.need, 1);
        }
        poured + best.len() as u32
    }

    /// The best node for as long as it stays the best, then the next.
    fn pack(&self, index: &mut Index, count: u32, out: &mut Counts) -> u32 {
        if self.max_per_node == u32::MAX && count > 1 && self.query.affinities.is_empty() {
            return self.pack_many(index, count, out);
        }
        let limited = self.max_per_node != u32::MAX;
        let (layer, order) = (self.area.layer, self.order());
        let mut hidden = Vec::new();
        if limited {
            let full = self.have.iter().filter(|(_, n)| *n >= self.max_per_node);
            for (node, _) in full {
                hidden.extend(index.hide(layer, order, *node).map(|_| *node));
            }
        }
        let mut left = count;
        while left > 0
            && self.max_per_node > 0
            && let Some(node) = index.pick(self.area, &self.query)
        {
            let run = match limited {
                // It is not looked at again, as if it were full.
                true => left.min(self.max_per_node - self.count_of(node)),
                false => left.min(self.stays_best(index, node)),
            };
            left -= self.give(index, node, run, out);
            if limited {
                hidden.extend(index.hide(layer, order, node).map(|_| node));
            }
        }
        for node in hidden.into_iter().rev() {
            index.show(layer, order, node);
        }
        left
    }

    /// Many alike, with no bound for a node. Where they only add to what is left over, a node gets no
    /// more than half of them: filled up with these alone, it would have nothing left beside what is
    /// left over, and nobody could ever use that.
    fn pack_many(&self, index: &mut Index, count: u32, out: &mut Counts) -> u32 {
        let (layer, order) = (self.area.layer, self.order());
        let (mut halved, mut seek) = (Vec::new(), Seek::default());
        let mut left = count;
        while left > 0
            && let Some(node) = index.pick_next(self.area, &self.query, &mut seek)
        {
            let strands = self.strands(index, node);
            let run = match strands {
                true => self.half(index, node, left),
                false => left.min(self.stays_best(index, node)),
            };
            left -= self.give(index, node, run, out);
            if strands {
                halved.extend(index.hide(layer, order, node).map(|_| node));
            } else if self.query.need.fits(index.free(node)) {
                seek.look_again(index.cell(order, node));
            }
        }
        for node in halved.into_iter().rev() {
            index.show(layer, order, node);
        }
        if left > 0 {
            // Looked at once, not once for each.
            let ranked = index.all_by_rank(self.area, &self.query);
            for node in &ranked {
                let run = self.half(index, *node, left);
                left -= self.give(index, *node, run, out);
            }
            for node in &ranked {
                left -= self.give(index, *node, left, out);
            }
        }
        left
    }

    /// Up to `run` go to the node, as many as it has room for; how many.
    fn give(&self, index: &mut Index, node: u32, run: u32, out: &mut Counts) -> u32 {
        let run = fits(self.query.need, index.free(node), run);
        if run == 0 {
            return 0;
        }
        index.hold(node, self.query.need, run);
        match out.last_mut() {
            Some((last, given)) if *last == node => *given += run,
            _ => out.push((node, run)),
        }
        run
    }

    fn half(&self, index: &Index, node: u32, most: u32) -> u32 {
        let all = fits(self.query.need, index.free(node), u32::MAX);
        most.min(all.div_ceil(2))
    }

    fn strands(&self, index: &Index, node: u32) -> bool {
        let by_room = self.order() == Order::Room;
        by_room && self.query.scale.strands(self.query.shares(index, node))
    }

    /// How many in a row are as well placed on the node as the first.
    fn stays_best(&self, index: &Index, node: u32) -> u32 {
        match self.order() {
            Order::Count => 1,
            Order::Room => {
                let run = self.query.scale.run(self.query.shares(index, node));
                u32::try_from(run).unwrap_or(u32::MAX)
            }
        }
    }

    fn count_of(&self, node: u32) -> u32 {
        let at = self.have.binary_search_by_key(&node, |(node, _)| *node);
        at.map_or(0, |at| self.have[at].1)
    }
}

/// How many of `need` go into `free`, at most `most`.
fn fits(need: Resources, free: Resources, most: u32) -> u32 {
    let by = |free: u64, need: u64| free.checked_div(need).unwrap_or(u64::MAX);
    let guess = by(free.cpu_milli, need.cpu_milli).min(by(free.memory_bytes, need.memory_bytes));
    let guess = u32::try_from(guess).unwrap_or(u32::MAX).min(most);
    if times(need, guess).fits(free) {
        return guess;
    }
    // Something else than CPU and memory is scarce. Invariant: `fit` do, `over` do not.
    let (mut fit, mut over) = (0, guess);
    while over - fit > 1 {
        let middle = fit + (over - fit) / 2;
        match times(need, middle).fits(free) {
            true => fit = middle,
            false => over = middle,
        }
    }
    fit
}

/// Merges what a node was given in several turns; by the node's place in `by`.
pub(super) fn merged<K: Ord + Copy>(out: &Counts, by: impl Fn(u32) -> K) -> Vec<(K, u32)> {
    let mut binds: Vec<_> = out.iter().map(|(node, n)| (by(*node), *n)).collect();
    binds.sort_unstable_by_key(|(key, _)| *key);
    binds.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 += later.1;
        }
        same
    });
    binds
}
