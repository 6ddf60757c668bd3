//! Nodes sorted into cells: 64 × 64 intrusive lists with a bit for each that is not empty.
//!
//! A *part* is one such square; a node is in one part of a list or in none, so that any number of
//! disjoint parts (the zones of a cluster) share one link for each node.

use crate::scheduler::level::LEVELS;

/// No node.
pub(super) const NONE: u32 = u32::MAX;
const CELLS: usize = LEVELS * LEVELS;
/// In no cell.
const NO_CELL: u16 = u16::MAX;

/// Which cells of a part have nodes.
///
/// Invariants: bit `c` of `rows[r]`, bit `r` of `columns[c]` and a head other than [`NONE`] of
/// cell `64 r + c` go together; bit `r` of `any_row` is set if `rows[r]` has one, and so for
/// columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Square {
    pub rows: [u64; LEVELS],
    pub columns: [u64; LEVELS],
    pub any_row: u64,
    pub any_column: u64,
    /// Nodes in all of them.
    pub nodes: u32,
    heads: Box<[u32]>,
}

impl Default for Square {
    fn default() -> Self {
        Self {
            rows: [0; LEVELS],
            columns: [0; LEVELS],
            any_row: 0,
            any_column: 0,
            nodes: 0,
            heads: vec![NONE; CELLS].into(),
        }
    }
}

impl Square {
    #[inline]
    pub fn head(&self, cell: u16) -> u32 {
        self.heads[usize::from(cell)]
    }

    #[inline]
    fn set_head(&mut self, cell: u16, node: u32) {
        let cell = usize::from(cell);
        self.heads[cell] = node;
        let (row, column) = (cell / LEVELS, cell % LEVELS);
        if node != NONE {
            self.rows[row] |= 1 << column;
            self.columns[column] |= 1 << row;
            self.any_row |= 1 << row;
            self.any_column |= 1 << column;
        } else {
            self.rows[row] &= !(1 << column);
            self.columns[column] &= !(1 << row);
            if self.rows[row] == 0 {
                self.any_row &= !(1 << row);
            }
            if self.columns[column] == 0 {
                self.any_column &= !(1 << column);
            }
        }
    }
}

/// Invariant: `next` and `prev` mean something only while `cell` is not [`NO_CELL`].
#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    prev: u32,
    part: u32,
    cell: u16,
}

const UNLINKED: Link = Link {
    next: NONE,
    prev: NONE,
    part: NONE,
    cell: NO_CELL,
};

/// Where a node was in its list, so that it can be put back exactly there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub node: u32,
    prev: u32,
    cell: u16,
}

/// Links of a node in so many lists lie side by side.
const TOGETHER: usize = 4;

/// A node's links in some of the lists: one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Links([Link; TOGETHER]);

/// Several lists of the same nodes, each by part and cell; the newest of a cell first.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    /// By list, as many together as [`TOGETHER`] says, and then by node.
    links: Vec<Vec<Links>>,
    /// By list and part.
    squares: Vec<Vec<Square>>,
    nodes: usize,
}

impl Lists {
    /// With room for node numbers below `nodes`.
    pub fn reserve_nodes(&mut self, nodes: usize) {
        if self.nodes < nodes {
            self.nodes = nodes;
            for links in &mut self.links {
                resize(links, nodes, Links([UNLINKED; TOGETHER]));
            }
        }
    }

    /// With that many lists at least.
    pub fn reserve_lists(&mut self, lists: usize) {
        if self.squares.len() < lists {
            self.squares.resize_with(lists, Vec::new);
            let empty = || vec![Links([UNLINKED; TOGETHER]); self.nodes];
            self.links.resize_with(lists.div_ceil(TOGETHER), empty);
        }
    }

    /// With that many parts at least in a list.
    pub fn reserve_parts(&mut self, list: usize, parts: usize) {
        if self.squares[list].len() < parts {
            self.squares[list].resize_with(parts, Square::default);
        }
    }

    /// A list with no part and no node in it.
    pub fn clear(&mut self, list: usize) {
        self.squares[list] = Vec::new();
        for links in &mut self.links[list / TOGETHER] {
            links.0[list % TOGETHER] = UNLINKED;
        }
    }

    /// How many lists.
    pub fn len(&self) -> usize {
        self.squares.len()
    }

    #[inline]
    pub fn part(&self, list: usize, part: u32) -> Option<&Square> {
        self.squares.get(list)?.get(part as usize)
    }

    #[inline]
    fn link_of(&self, list: usize, node: u32) -> &Link {
        &self.links[list / TOGETHER][node as usize].0[list % TOGETHER]
    }

    #[inline]
    fn link_mut(&mut self, list: usize, node: u32) -> &mut Link {
        &mut self.links[list / TOGETHER][node as usize].0[list % TOGETHER]
    }

    #[inline]
    pub fn next(&self, list: usize, node: u32) -> u32 {
        self.link_of(list, node).next
    }

    /// The part and cell that the node is in.
    #[inline]
    pub fn cell(&self, list: usize, node: u32) -> Option<(u32, u16)> {
        let link = self.link_of(list, node);
        (link.cell != NO_CELL).then_some((link.part, link.cell))
    }

    /// The part that the node belongs in, whether or not it is in it now; [`NONE`] if in none.
    #[inline]
    pub fn part_of(&self, list: usize, node: u32) -> u32 {
        self.link_of(list, node).part
    }

    /// Says which part a node belongs in that is in no cell.
    pub fn set_part(&mut self, list: usize, node: u32, part: u32) {
        let link = self.link_mut(list, node);
        debug_assert!(link.cell == NO_CELL, "it is in another one");
        link.part = part;
    }

    /// Puts a node that is in no cell first in one of its part.
    #[inline]
    pub fn link(&mut self, list: usize, node: u32, cell: u16) {
        let prev = NONE;
        self.restore(list, Place { node, prev, cell });
    }

    /// Takes a node out of a list. Restored in the reverse order, with nothing else done in
    /// between, lists are as they were before.
    #[inline]
    pub fn unlink(&mut self, list: usize, node: u32) -> Option<Place> {
        let link = self.link_mut(list, node);
        let Link {
            next,
            prev,
            part,
            cell,
        } = *link;
        if cell == NO_CELL {
            return None;
        }
        link.cell = NO_CELL;
        if next != NONE {
            self.link_mut(list, next).prev = prev;
        }
        if prev != NONE {
            self.link_mut(list, prev).next = next;
        }
        let square = &mut self.squares[list][part as usize];
        if prev == NONE {
            square.set_head(cell, next);
        }
        square.nodes -= 1;
        Some(Place { node, prev, cell })
    }

    #[inline]
    pub fn restore(&mut self, list: usize, place: Place) {
        let Place { node, prev, cell } = place;
        let part = self.link_of(list, node).part;
        let square = &mut self.squares[list][part as usize];
        square.nodes += 1;
        let next = if prev == NONE {
            let next = square.head(cell);
            square.set_head(cell, node);
            next
        } else {
            std::mem::replace(&mut self.link_mut(list, prev).next, node)
        };
        if next != NONE {
            self.link_mut(list, next).prev = node;
        }
        *self.link_mut(list, node) = Link {
            next,
            prev,
            part,
            cell,
        };
    }

    /// Puts a node first in another cell of its part, if it is in a list; says where it was.
    #[inline]
    pub fn shift(&mut self, list: usize, node: u32, cell: u16) -> Option<Place> {
        if self.link_of(list, node).cell == cell {
            return None;
        }
        let place = self.unlink(list, node)?;
        let prev = NONE;
        self.restore(list, Place { node, prev, cell });
        Some(place)
    }
}

/// One of them, to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a> {
    pub lists: &'a Lists,
    pub list: usize,
}

impl<'a> List<'a> {
    #[inline]
    pub fn part(self, part: u32) -> Option<&'a Square> {
        self.lists.part(self.list, part)
    }

    #[inline]
    pub fn next(self, node: u32) -> u32 {
        self.lists.next(self.list, node)
    }

    #[inline]
    pub fn cell(self, node: u32) -> Option<(u32, u16)> {
        self.lists.cell(self.list, node)
    }

    /// Whether the node is in a cell of that part.
    #[inline]
    pub fn has(self, node: u32, part: u32) -> bool {
        self.cell(node).is_some_and(|(its, _)| its == part)
    }
}

/// Makes it as long, with little to spare: by doubling, half of the memory may lie idle.
pub(super) fn resize<T: Clone>(rows: &mut Vec<T>, len: usize, with: T) {
    if len > rows.capacity() {
        rows.reserve_exact(len - rows.len() + len / 8);
    }
    rows.resize(len.max(rows.len()), with);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one that is looked at; others must stay empty.
    const LIST: usize = 5;

    fn lists(nodes: usize) -> Lists {
        let mut lists = Lists::default();
        lists.reserve_nodes(nodes / 2);
        lists.reserve_lists(LIST + 2);
        lists.reserve_nodes(nodes);
        lists.reserve_parts(LIST, 1);
        lists
    }

    fn of(lists: &Lists, cell: u16) -> Vec<u32> {
        let first = Some(lists.part(LIST, 0).unwrap().head(cell)).filter(|node| *node != NONE);
        let next = |node: &u32| Some(lists.next(LIST, *node)).filter(|node| *node != NONE);
        std::iter::successors(first, next).collect()
    }

    #[test]
    fn what_is_taken_out_goes_back_where_it_was() {
        let mut lists = lists(6);
        for node in 0..6 {
            lists.set_part(LIST, node, 0);
            lists.link(LIST, node, if node < 4 { 70 } else { 4095 });
        }
        let before = (of(&lists, 70), of(&lists, 4095));
        let square = lists.part(LIST, 0).unwrap().clone();
        let places: Vec<_> = [2, 3, 0, 5, 4, 1]
            .map(|n| lists.unlink(LIST, n).unwrap())
            .into();
        assert!(lists.unlink(LIST, 2).is_none());
        assert_eq!(
            (of(&lists, 70), lists.part(LIST, 0).unwrap().any_row),
            (vec![], 0)
        );
        for place in places.into_iter().rev() {
            lists.restore(LIST, place);
        }
        assert_eq!((of(&lists, 70), of(&lists, 4095)), before);
        assert_eq!(*lists.part(LIST, 0).unwrap(), square);
    }

    #[test]
    fn a_bit_goes_with_the_last_node_of_its_cell() {
        let mut lists = lists(2);
        for node in [0, 1] {
            lists.set_part(LIST, node, 0);
            lists.link(LIST, node, 65);
        }
        lists.shift(LIST, 0, 66);
        assert_eq!(lists.part(LIST, 0).unwrap().rows[1], 0b110);
        lists.shift(LIST, 1, 66);
        let square = lists.part(LIST, 0).unwrap();
        assert_eq!(
            (square.rows[1], square.columns[1], square.columns[2]),
            (0b100, 0, 0b10)
        );
        assert_eq!(of(&lists, 66), [1, 0]);
    }
}
