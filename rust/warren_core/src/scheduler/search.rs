//! The best cell for an ask, and a node of it.
//!
//! Along a line of cells the score has one best place (see `score`), so that a search looks at one
//! cell of each line: the ask's lean says whether lines are rows or columns. The nodes of a cell
//! differ by less than a quarter; a few of them are scored exactly. Cells on the ask's own level
//! may hold nodes that have not quite enough, and any cell may hold nodes that a rule excludes:
//! after a few cells in vain every node that may fit is looked at, so that nothing is refused
//! while some node would take it.

use crate::fsm::Resources;
use crate::scheduler::index::{Index, Order};
use crate::scheduler::level::LEVELS;
use crate::scheduler::lists::{List, NONE, Square};
use crate::scheduler::score::{Scale, WHOLE, times};
use crate::scheduler::sets::NodeSet;
use crate::scheduler::{Affinity, Strategy};

/// Nodes of a cell that are scored, of those that may take the ask.
const SCORED_MAX: u32 = 2;
/// Nodes of a cell that are looked at, before the next cell's turn.
const LOOKED_MAX: u32 = 8;
/// Cells that are tried of those whose nodes may have enough.
const CLOSE_MAX: u32 = 3;
/// Cells that are tried of those whose nodes have enough, before every node is looked at.
const CELLS_MAX: u32 = 12;
/// A set with no more nodes than this is walked instead.
pub(super) const NARROW_MAX: usize = 64;

/// Leans of the strategies, in 1/1024 of what is left free.
const PULL: i64 = 4;
const PULL_CONSOLIDATE: i64 = 24;

/// One container's ask, ready to be searched for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    pub need: Resources,
    pub scale: Scale,
    /// Lowest levels that may take it, of CPU and memory.
    pub levels: (u32, u32),
    pub strategy: Strategy,
    order: Order,
    pub within: &'a [&'a NodeSet],
    pub without: &'a [&'a NodeSet],
    /// The image's; `None` if no node has it.
    pub image: Option<&'a NodeSet>,
    pub affinities: &'a [Affinity<'a>],
    /// Decides between nodes that are equally good.
    pub draw: u64,
}

/// Where a search looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub layer: usize,
    pub part: u32,
}

/// Less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    score: i64,
    containers: u32,
    draw: u64,
}

/// What a search for many alike learns from one for the next: they score cells alike.
#[derive(Clone, Debug)]
pub(super) struct Seek {
    /// Cells with no node that takes one, or none that is looked at; by row.
    vain: [u64; LEVELS],
    /// The best one, if its nodes have enough: it stays that until it has no more of them or a node
    /// that takes another one comes to some cell.
    cell: Option<u16>,
}

impl Default for Seek {
    fn default() -> Self {
        Self {
            vain: [0; LEVELS],
            cell: None,
        }
    }
}

impl Seek {
    /// A node that takes another one has come to a cell.
    pub fn look_again(&mut self, cell: u16) {
        self.set_vain(cell, false);
        self.cell = None;
    }

    fn is_vain(&self, cell: u16) -> bool {
        let (row, column) = (usize::from(cell) / LEVELS, usize::from(cell) % LEVELS);
        self.vain[row] >> column & 1 == 1
    }

    fn set_vain(&mut self, cell: u16, vain: bool) {
        let (row, column) = (usize::from(cell) / LEVELS, usize::from(cell) % LEVELS);
        self.vain[row] &= !(1 << column);
        self.vain[row] |= u64::from(vain) << column;
    }
}

impl<'a> Query<'a> {
    pub fn new(index: &Index, need: Resources, strategy: Strategy) -> Self {
        let axes = index.axes();
        let pull = match strategy {
            Strategy::Spread | Strategy::Pack => PULL,
            Strategy::Consolidate => PULL_CONSOLIDATE,
        };
        let (cpu, memory) = axes.rates;
        let scale = Scale {
            ratio: index.sums().ratio(axes.rates, need),
            pull,
            asked: (cpu.share(need.cpu_milli), memory.share(need.memory_bytes)),
        };
        Self {
            need,
            scale,
            levels: (
                axes.cpu.level(need.cpu_milli),
                axes.memory.level(need.memory_bytes),
            ),
            strategy,
            order: order(need, strategy),
            within: &[],
            without: &[],
            image: None,
            affinities: &[],
            draw: 0,
        }
    }

    /// Only cells all of whose nodes have enough CPU and memory.
    fn with_room_for_sure(&self) -> Self {
        let (cpu, memory) = self.levels;
        let above = |level: u32, need: u64| level + u32::from(need > 0);
        Self {
            levels: (
                above(cpu, self.need.cpu_milli),
                above(memory, self.need.memory_bytes),
            ),
            ..*self
        }
    }

    /// Whether a cell is on none of the levels below those that are looked at.
    fn is_above(&self, cell: u16) -> bool {
        let (row, column) = (
            u32::from(cell) / LEVELS as u32,
            u32::from(cell) % LEVELS as u32,
        );
        row >= self.levels.0 && column >= self.levels.1
    }

    pub fn order(&self) -> Order {
        self.order
    }

    /// Sets are small and read often, rows are many: those it may not go to are not read.
    #[inline]
    pub fn accepts(&self, index: &Index, node: u32) -> bool {
        self.may_go(node) && self.need.fits(index.free(node))
    }

    /// Whether rules and image allow it.
    #[inline]
    pub fn may_go(&self, node: u32) -> bool {
        self.image.is_some_and(|set| set.contains(node))
            && self.within.iter().all(|set| set.contains(node))
            && !self.without.iter().any(|set| set.contains(node))
    }

    pub fn shares(&self, index: &Index, node: u32) -> (i64, i64) {
        let (free, (cpu, memory)) = (index.free(node), index.axes().rates);
        (cpu.share(free.cpu_milli), memory.share(free.memory_bytes))
    }

    #[inline]
    pub fn rank(&self, index: &Index, node: u32) -> Rank {
        let (containers, draw) = self.tie(index, node);
        Rank {
            score: self.score(index, node),
            containers,
            draw,
        }
    }

    #[inline]
    fn score(&self, index: &Index, node: u32) -> i64 {
        let score = match self.order() {
            Order::Room => self.scale.score(self.shares(index, node)),
            Order::Count => 0,
        };
        match self.affinities.is_empty() {
            true => score,
            false => score - self.bonus(index, node),
        }
    }

    /// What decides between nodes of one score.
    fn tie(&self, index: &Index, node: u32) -> (u32, u64) {
        let containers = match (self.strategy, self.order()) {
            (Strategy::Spread, _) | (_, Order::Count) => index.count(node),
            _ => 0,
        };
        (containers, drawn(self.draw, index.draws(node)))
    }

    /// Whether the first of two nodes, each behind its score, comes before the other. What decides
    /// between equals is only looked up for them.
    #[inline]
    fn precedes(&self, index: &Index, one: (i64, u32), other: (i64, u32)) -> bool {
        let tied = |node| (self.tie(index, node), node);
        one.0 < other.0 || one.0 == other.0 && tied(one.1) < tied(other.1)
    }

    /// In units of the score.
    fn bonus(&self, index: &Index, node: u32) -> i64 {
        let to = self.affinities.iter().filter(|a| a.to.contains(node));
        let weight: i64 = to.map(|affinity| i64::from(affinity.weight)).sum();
        // A cluster of nodes of mean size: each is that share of all.
        weight * (2 * WHOLE / (100 * index.nodes_open()))
    }

    /// The smallest set that all nodes have to be in.
    pub fn narrowest(&self) -> Option<&'a NodeSet> {
        let sets = self.within.iter().copied().chain(self.image);
        sets.min_by_key(|set| set.len())
    }
}

impl Index {
    /// The best node for one of these; exact where few nodes come into question, near enough
    /// where many do. `None` only if no node takes it.
    pub fn pick(&self, area: Area, query: &Query) -> Option<u32> {
        if query.affinities.is_empty() {
            return self.pick_plain(area, query);
        }
        self.pick_preferred(area, query)
    }

    fn pick_plain(&self, area: Area, query: &Query) -> Option<u32> {
        let near = self.pick_near(area, query);
        near.or_else(|| match query.narrowest() {
            Some(set) if set.len() > NARROW_MAX => self.best_of_all(area, query),
            _ => None,
        })
    }

    /// The best node of a few cells, or of a set of few nodes. Where there is none, there may be some
    /// all the same.
    fn pick_near(&self, area: Area, query: &Query) -> Option<u32> {
        self.pick_next(area, query, &mut Seek::default())
    }

    /// Like [`Index::pick_near`], for one of many alike: the same node, found sooner by what `seek`
    /// knows of those before it.
    pub fn pick_next(&self, area: Area, query: &Query, seek: &mut Seek) -> Option<u32> {
        let narrow = query.narrowest()?;
        if narrow.len() <= NARROW_MAX {
            return self.best_of_set(area, query, narrow);
        }
        let order = query.order();
        let lists = self.lists(area.layer, order);
        let square = lists.part(area.part)?;
        if let Some(cell) = seek.cell.take()
            && let Some(node) = self.best_of_cell(lists, square.head(cell), query)
        {
            seek.cell = Some(cell);
            return Some(node);
        }
        let (sure, mut tried) = (query.with_room_for_sure(), [0; LEVELS]);
        // First with cells whose nodes may have not quite enough, then without: on a cluster that
        // is nearly full there are many of these.
        for (cells, query) in [(CLOSE_MAX, query), (CELLS_MAX, &sure)] {
            for _ in 0..cells {
                let Some(cell) = self.best_cell(square, query, order, &mut tried) else {
                    break;
                };
                if seek.is_vain(cell) {
                    continue;
                }
                let best = self.best_of_cell(lists, square.head(cell), query);
                if best.is_some() {
                    seek.cell = Some(cell).filter(|cell| sure.is_above(*cell));
                    return best;
                }
                seek.set_vain(cell, true);
            }
        }
        None
    }

    /// Every node that takes one, the best first. O(nodes · log nodes).
    pub fn all_by_rank(&self, area: Area, query: &Query) -> Vec<u32> {
        let mut ranked = Vec::new();
        self.each_feasible(area, query, |node| {
            if query.accepts(self, node) {
                ranked.push((query.rank(self, node), node));
            }
            true
        });
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, node)| node).collect()
    }

    /// The best of the first few nodes of a list that take it.
    #[inline]
    fn best_of_cell(&self, lists: List, first: u32, query: &Query) -> Option<u32> {
        let (mut node, mut scored, mut best) = (first, 0, None);
        for _ in 0..LOOKED_MAX {
            if node == NONE || scored == SCORED_MAX {
                break;
            }
            if query.accepts(self, node) {
                let candidate = (query.score(self, node), node);
                if best.is_none_or(|best| query.precedes(self, candidate, best)) {
                    best = Some(candidate);
                }
                scored += 1;
            }
            node = lists.next(node);
        }
        best.map(|(_, node)| node)
    }

    /// With affinities: the best of each set that attracts, and the best of all.
    fn pick_preferred(&self, area: Area, query: &Query) -> Option<u32> {
        let mut best = None;
        let mut consider = |node: Option<u32>| {
            let candidate = node.map(|node| (query.rank(self, node), node));
            best = match (best, candidate) {
                (Some(best), Some(candidate)) => Some(candidate.min(best)),
                (best, candidate) => best.or(candidate),
            };
        };
        for affinity in query.affinities {
            let mut buffer = [affinity.to; RULES_MAX];
            let mut narrowed = *query;
            if affinity.weight > 0 {
                narrowed.within = extended(query.within, &mut buffer);
            } else {
                narrowed.without = extended(query.without, &mut buffer);
            }
            consider(self.pick_plain(area, &narrowed));
        }
        consider(self.pick_plain(area, query));
        best.map(|(_, node)| node)
    }

    /// Walks a set of few nodes.
    fn best_of_set(&self, area: Area, query: &Query, set: &NodeSet) -> Option<u32> {
        let nodes = self.accepting(area, query, set);
        nodes.min_by_key(|node| (query.rank(self, *node), *node))
    }

    fn accepting(&self, area: Area, query: &Query, set: &NodeSet) -> impl Iterator<Item = u32> {
        let lists = self.lists(area.layer, query.order());
        set.iter()
            .filter(move |node| lists.has(*node, area.part) && query.accepts(self, *node))
    }

    /// The nodes that take one, the best first, if only few come into question.
    pub fn few_by_rank(&self, area: Area, query: &Query) -> Option<Vec<u32>> {
        let narrow = query.narrowest()?;
        if narrow.len() > NARROW_MAX {
            return None;
        }
        let nodes = self.accepting(area, query, narrow);
        let mut ranked: Vec<_> = nodes.map(|node| (query.rank(self, node), node)).collect();
        ranked.sort_unstable();
        Some(ranked.into_iter().map(|(_, node)| node).collect())
    }

    /// Looks at every node that may have room. O(nodes).
    fn best_of_all(&self, area: Area, query: &Query) -> Option<u32> {
        let mut best = None;
        self.each_feasible(area, query, |node| {
            if query.accepts(self, node) {
                let candidate = (query.rank(self, node), node);
                if best.is_none_or(|best| candidate < best) {
                    best = Some(candidate);
                }
            }
            true
        });
        best.map(|(_, node)| node)
    }

    /// Whether some node takes one.
    pub fn fits_somewhere(&self, area: Area, query: &Query) -> bool {
        let mut found = false;
        self.each_feasible(area, query, |node| {
            found = query.accepts(self, node);
            !found
        });
        found
    }

    /// Whether some node of an area is such, room or not.
    pub fn any_listed(&self, area: Area, order: Order, such: impl Fn(u32) -> bool) -> bool {
        let lists = self.lists(area.layer, order);
        let mut listed = (0..self.len() as u32).filter(|node| lists.has(*node, area.part));
        listed.any(such)
    }

    /// Nodes of cells that may have room, the roomiest first, until `look` says no.
    fn each_feasible(&self, area: Area, query: &Query, mut look: impl FnMut(u32) -> bool) {
        let lists = self.lists(area.layer, Order::Room);
        let Some(square) = lists.part(area.part) else {
            return;
        };
        // Hidden nodes are hidden in the list that the query goes by.
        let order = query.order();
        let hides = order != Order::Room && self.has_lists(order);
        let hidden = |node| hides && self.lists(area.layer, order).cell(node).is_none();
        for row in (query.levels.0..LEVELS as u32).rev() {
            let mut bits = square.rows[row as usize] & (!0 << query.levels.1);
            while bits != 0 {
                let column = bits.ilog2();
                bits ^= 1 << column;
                let mut node = square.head((row * LEVELS as u32 + column) as u16);
                while node != NONE {
                    if !hidden(node) && !look(node) {
                        return;
                    }
                    node = lists.next(node);
                }
            }
        }
    }

    /// The best cell that was not tried; it counts as tried from now on.
    #[inline]
    pub fn best_cell(
        &self,
        square: &Square,
        query: &Query,
        order: Order,
        tried: &mut [u64; LEVELS],
    ) -> Option<u16> {
        if order == Order::Count {
            return least_cell(square, tried);
        }
        let by_rows = query.scale.lean() <= 0;
        let lines = Lines::of(self, square, query, by_rows);
        let (line, across) = lines.best(&query.scale, tried)?;
        tried[line] |= 1 << across;
        let (row, column) = if by_rows {
            (line, across)
        } else {
            (across, line)
        };
        Some((row * LEVELS + column) as u16)
    }
}

/// What a search goes by: what reserves nothing changes nothing of a node but its count.
pub(super) fn order(need: Resources, strategy: Strategy) -> Order {
    let nothing = need == Resources::default();
    match nothing && strategy != Strategy::Consolidate {
        true => Order::Count,
        false => Order::Room,
    }
}

/// Rules that a search may be narrowed by, an affinity's own with them; where there are more, that
/// one is not used to find candidates by, only to judge them.
const RULES_MAX: usize = 8;

/// `rules` with one more, which `buffer` is full of; without it if there are too many.
fn extended<'s, 'a>(
    rules: &'s [&'a NodeSet],
    buffer: &'s mut [&'a NodeSet; RULES_MAX],
) -> &'s [&'a NodeSet] {
    if rules.len() >= RULES_MAX {
        return rules;
    }
    buffer[..rules.len()].copy_from_slice(rules);
    &buffer[..=rules.len()]
}

fn least_cell(square: &Square, tried: &mut [u64; LEVELS]) -> Option<u16> {
    let mut rows = square.any_row;
    while rows != 0 {
        let row = rows.trailing_zeros() as usize;
        let bits = square.rows[row] & !tried[row];
        if bits != 0 {
            let column = bits.trailing_zeros() as usize;
            tried[row] |= 1 << column;
            return Some((row * LEVELS + column) as u16);
        }
        rows &= rows - 1;
    }
    None
}

/// Rows with their columns, or columns with their rows; `along` is the line's own axis.
struct Lines<'a> {
    bits: &'a [u64; LEVELS],
    any: u64,
    shares: (&'a [i64; LEVELS], &'a [i64; LEVELS]),
    from: (u32, u32),
    asked: (i64, i64),
    /// Of the axis across for the line's, and the other way round.
    ratio: (i64, i64),
}

impl<'a> Lines<'a> {
    #[inline]
    fn of(index: &'a Index, square: &'a Square, query: &Query, by_rows: bool) -> Self {
        let (shares, ratio) = (&index.axes().shares, query.scale.ratio);
        let (levels, asked) = (query.levels, query.scale.asked);
        if by_rows {
            Self {
                bits: &square.rows,
                any: square.any_row,
                shares: (&shares[0], &shares[1]),
                from: levels,
                asked,
                ratio: (ratio.rows, ratio.columns),
            }
        } else {
            Self {
                bits: &square.columns,
                any: square.any_column,
                shares: (&shares[1], &shares[0]),
                from: (levels.1, levels.0),
                asked: (asked.1, asked.0),
                ratio: (ratio.columns, ratio.rows),
            }
        }
    }

    /// Line and place on it of the best cell.
    #[inline]
    fn best(&self, scale: &Scale, tried: &[u64; LEVELS]) -> Option<(usize, usize)> {
        let flat = scale.ratio.is_flat();
        // What the ask strands at best: it uses up what is left over of the line's resource.
        let least = match flat {
            true => 0,
            false => times(self.ratio.1, self.asked.1) - self.asked.0,
        };
        if self.from.0.max(self.from.1) >= LEVELS as u32 {
            return None;
        }
        let mut any = self.any & (!0 << self.from.0);
        let mut best = None;
        let mut best_score = i64::MAX;
        while any != 0 {
            let line = any.trailing_zeros() as usize;
            any ^= 1 << line;
            let own = self.shares.0[line].max(self.asked.0);
            if least + scale.pulled(own - self.asked.0) >= best_score {
                break;
            }
            let bits = self.bits[line] & (!0 << self.from.1) & !tried[line];
            if bits == 0 {
                continue;
            }
            let across = bits.trailing_zeros() as usize;
            let other = self.shares.1[across].max(self.asked.1);
            let score = self.score(scale, (own, other));
            if score < best_score {
                (best_score, best) = (score, Some((line, across)));
            }
        }
        best
    }

    /// [`Scale::score`], with the axes as the lines have them.
    #[inline]
    fn score(&self, scale: &Scale, free: (i64, i64)) -> i64 {
        let lined = Scale {
            ratio: crate::scheduler::score::Ratio {
                rows: self.ratio.0,
                columns: self.ratio.1,
            },
            asked: self.asked,
            ..*scale
        };
        lined.score(free)
    }
}

/// A draw by an id, from one that came before.
#[inline]
pub(super) fn drawn(before: u64, id: [u64; 2]) -> u64 {
    mixed(mixed(before ^ id[0]) ^ id[1])
}

/// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
#[inline]
pub(super) fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
