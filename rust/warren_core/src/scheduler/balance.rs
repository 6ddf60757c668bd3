//! Containers over the parts of a division: zones, racks, whatever a label tells apart.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::scheduler::fill::{Counts, Fill};
use crate::scheduler::index::Index;
use crate::scheduler::lists::NONE;
use crate::scheduler::search::{Area, Query};
use crate::scheduler::sets::NodeSet;

/// A part of the division.
#[derive(Debug, Default)]
struct Part {
    /// Of the service, those placed now with them.
    count: u32,
    /// Its share; 0: nothing goes there.
    weight: u32,
    /// Has no more room.
    closed: bool,
    have: Counts,
    placed: Counts,
    /// To be placed in this round.
    allotted: u32,
}

/// Memory for the next answer.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    counts: Vec<u32>,
    weights: Vec<u32>,
    have: Counts,
}

/// Many containers of one service over all parts of one layer.
pub(super) struct Balancing<'a> {
    pub layer: usize,
    pub weights: &'a [u32],
    pub max_skew: Option<u32>,
    pub possible: Option<&'a NodeSet>,
    pub query: Query<'a>,
    /// Containers of the service that nodes have already, by node.
    pub have: &'a [(u32, u32)],
    pub max_per_node: u32,
}

impl Balancing<'_> {
    /// Like [`Fill::run`]. A part that turns out to have no room is passed over from then on.
    pub fn run(&self, index: &mut Index, count: u32, out: &mut Counts) -> u32 {
        if count == 1 {
            return self.run_one(index, out);
        }
        let mut parts = self.parts(index);
        let mut left = count;
        while left > 0 {
            let allotted = self.allot(&mut parts, left);
            if allotted == 0 {
                break;
            }
            left -= allotted;
            for (number, part) in parts.iter_mut().enumerate() {
                left += self.fill(index, number, part);
            }
            left += self.take_back(index, &mut parts);
        }
        for part in parts {
            out.extend(part.placed);
        }
        left
    }

    /// [`Balancing::run`] for a single one, without a queue.
    fn run_one(&self, index: &mut Index, out: &mut Counts) -> u32 {
        let mut scratch = std::mem::take(&mut index.balance_scratch);
        let left = self.run_one_with(index, out, &mut scratch);
        index.balance_scratch = scratch;
        left
    }

    fn run_one_with(&self, index: &mut Index, out: &mut Counts, scratch: &mut Scratch) -> u32 {
        let Scratch {
            counts,
            weights,
            have,
        } = scratch;
        let parts = index.part_count(self.layer) as usize;
        counts.clear();
        counts.resize(parts, 0);
        for (node, count) in self.have {
            if let Some(part) = counts.get_mut(index.part_of(self.layer, *node) as usize) {
                *part += count;
            }
        }
        weights.clear();
        weights.extend((0..parts).map(|n| self.weight(index, n)));
        let mut limit = u32::MAX;
        loop {
            let open = (0..counts.len()).filter(|number| weights[*number] > 0);
            let lowest = open.min_by_key(|number| next(counts[*number], weights[*number]));
            let Some(number) = lowest.filter(|number| counts[*number] < limit) else {
                return 1;
            };
            let here = |node: u32| index.part_of(self.layer, node) == number as u32;
            have.clear();
            have.extend(self.have.iter().filter(|(node, _)| here(*node)));
            let fill = self.fill_of(number, have);
            if fill.run(index, 1, out) == 0 {
                return 0;
            }
            weights[number] = 0;
            if let Some(skew) = self.max_skew
                && self.is_possible(index, number)
            {
                limit = limit.min(counts[number].saturating_add(skew));
            }
        }
    }

    /// Whether some node of the part could ever take one.
    fn is_possible(&self, index: &Index, number: usize) -> bool {
        let area = self.area_of(number);
        index.any_listed(area, self.query.order(), |node| {
            let image = self.query.image.is_some_and(|set| set.contains(node));
            image && self.possible.is_none_or(|set| set.contains(node))
        })
    }

    fn area_of(&self, number: usize) -> Area {
        Area {
            layer: self.layer,
            part: number as u32,
        }
    }

    fn fill_of<'f>(&'f self, number: usize, have: &'f [(u32, u32)]) -> Fill<'f> {
        Fill {
            area: self.area_of(number),
            query: self.query,
            have,
            max_per_node: self.max_per_node,
        }
    }

    /// Of a part; 0 if it has no open node.
    fn weight(&self, index: &Index, number: usize) -> u32 {
        let lists = index.lists(self.layer, self.query.order());
        let nodes = lists.part(number as u32).map_or(0, |square| square.nodes);
        match nodes {
            0 => 0,
            _ if self.weights.is_empty() => 1,
            _ => self.weights.get(number).copied().unwrap_or_default(),
        }
    }

    fn parts(&self, index: &Index) -> Vec<Part> {
        let part = |number| Part {
            weight: self.weight(index, number),
            ..Part::default()
        };
        let count = index.part_count(self.layer) as usize;
        let mut parts: Vec<_> = (0..count).map(part).collect();
        for (node, count) in self.have {
            let part = index.part_of(self.layer, *node);
            if part != NONE {
                let part = &mut parts[part as usize];
                part.count += count;
                part.have.push((*node, *count));
            }
        }
        parts
    }

    /// Shares `count` out among parts that are not closed, one by one to the one furthest below its
    /// share; how many.
    fn allot(&self, parts: &mut [Part], count: u32) -> u32 {
        let limit = self.limit(parts);
        let key = |part: &Part| Reverse(next(part.count + part.allotted, part.weight));
        let open = parts.iter().enumerate().filter(|(_, part)| part.is_open());
        let mut heap: BinaryHeap<_> = open
            .map(|(number, part)| (key(part), Reverse(number)))
            .collect();
        let mut allotted = 0;
        while allotted < count
            && let Some((_, Reverse(number))) = heap.pop()
        {
            let part = &mut parts[number];
            if part.count + part.allotted < limit {
                part.allotted += 1;
                allotted += 1;
                heap.push((key(part), Reverse(number)));
            }
        }
        allotted
    }

    /// What no part may have more than: those that are closed stay where they are.
    fn limit(&self, parts: &[Part]) -> u32 {
        let Some(skew) = self.max_skew else {
            return u32::MAX;
        };
        let closed = parts.iter().filter(|part| part.weight > 0 && part.closed);
        let least = closed.map(|part| part.count).min();
        least.map_or(u32::MAX, |least| least.saturating_add(skew))
    }

    /// Places what is allotted to a part; how many found no node.
    fn fill(&self, index: &mut Index, number: usize, part: &mut Part) -> u32 {
        let count = std::mem::take(&mut part.allotted);
        let have = part.with_placed();
        let fill = self.fill_of(number, &have);
        let refused = fill.run(index, count, &mut part.placed);
        part.count += count - refused;
        if refused > 0 {
            part.closed = true;
            // Where nothing of the service may ever go, nothing has to be even with.
            if !self.is_possible(index, number) {
                part.weight = 0;
            }
        }
        refused
    }

    /// A part that closed may leave others with too many more than it: they are filled anew with
    /// fewer. How many lost their place.
    fn take_back(&self, index: &mut Index, parts: &mut [Part]) -> u32 {
        let limit = self.limit(parts);
        let mut lost = 0;
        for (number, part) in parts.iter_mut().enumerate() {
            let placed: u32 = part.placed.iter().map(|(_, count)| count).sum();
            let surplus = part.count.saturating_sub(limit).min(placed);
            if surplus == 0 {
                continue;
            }
            for (node, count) in part.placed.drain(..).rev() {
                index.release(node, self.query.need, count);
            }
            part.count -= placed;
            part.allotted = placed - surplus;
            lost += surplus + self.fill(index, number, part);
        }
        lost
    }
}

/// How far a part would be with one more, by its share. Most often all weigh 1, and a division by
/// that is not made.
fn next(count: u32, weight: u32) -> u64 {
    let more = (u64::from(count) + 1) << 24;
    match weight {
        1 => more,
        _ => more / u64::from(weight),
    }
}

impl Part {
    fn is_open(&self) -> bool {
        self.weight > 0 && !self.closed
    }

    /// By node, those that are there with those that were placed now.
    fn with_placed(&self) -> Counts {
        let mut all = self.have.clone();
        all.extend(&self.placed);
        crate::scheduler::fill::merged(&all, |node| node)
    }
}
