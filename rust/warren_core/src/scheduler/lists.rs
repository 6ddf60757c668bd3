//! Nodes sorted into cells: 64 × 64 intrusive lists with a bit for each that is not empty.
//!
//! A *part* is one such square; a node is in one part of a [`Lists`] or in none, so that any number
//! of disjoint parts (the zones of a cluster) share one link for each node.

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

/// Nodes by part and cell; the newest of a cell first.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    links: Vec<Link>,
    parts: Vec<Square>,
}

impl Lists {
    /// With room for node numbers below `nodes`, and that many parts at least.
    pub fn reserve(&mut self, nodes: usize, parts: usize) {
        if self.links.len() < nodes {
            self.links.resize(nodes, UNLINKED);
        }
        if self.parts.len() < parts {
            self.parts.resize_with(parts, Square::default);
        }
    }

    pub fn part(&self, part: u32) -> Option<&Square> {
        self.parts.get(part as usize)
    }

    #[inline]
    pub fn next(&self, node: u32) -> u32 {
        self.links[node as usize].next
    }

    /// The part and cell that the node is in.
    #[inline]
    pub fn cell(&self, node: u32) -> Option<(u32, u16)> {
        let link = self.links.get(node as usize)?;
        (link.cell != NO_CELL).then_some((link.part, link.cell))
    }

    /// Puts a node that is in no list first in one.
    #[inline]
    pub fn link(&mut self, node: u32, part: u32, cell: u16) {
        self.links[node as usize].part = part;
        let (prev, cell) = (NONE, cell);
        self.restore(Place { node, prev, cell });
    }

    /// Takes a node out of its list. Restored in the reverse order, with nothing else done in
    /// between, lists are as they were before.
    #[inline]
    pub fn unlink(&mut self, node: u32) -> Option<Place> {
        let Link {
            next,
            prev,
            part,
            cell,
        } = self.links[node as usize];
        if cell == NO_CELL {
            return None;
        }
        if next != NONE {
            self.links[next as usize].prev = prev;
        }
        if prev != NONE {
            self.links[prev as usize].next = next;
        } else {
            self.parts[part as usize].set_head(cell, next);
        }
        self.links[node as usize].cell = NO_CELL;
        self.parts[part as usize].nodes -= 1;
        Some(Place { node, prev, cell })
    }

    #[inline]
    pub fn restore(&mut self, place: Place) {
        let Place { node, prev, cell } = place;
        let part = self.links[node as usize].part;
        self.parts[part as usize].nodes += 1;
        let next = if prev == NONE {
            let square = &mut self.parts[part as usize];
            let next = square.head(cell);
            square.set_head(cell, node);
            next
        } else {
            std::mem::replace(&mut self.links[prev as usize].next, node)
        };
        if next != NONE {
            self.links[next as usize].prev = node;
        }
        self.links[node as usize] = Link {
            next,
            prev,
            part,
            cell,
        };
    }

    /// Puts a node first in another cell of its part, if it is in a list; says where it was.
    #[inline]
    pub fn shift(&mut self, node: u32, cell: u16) -> Option<Place> {
        if self.links[node as usize].cell == cell {
            return None;
        }
        let place = self.unlink(node)?;
        let prev = NONE;
        self.restore(Place { node, prev, cell });
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lists: &Lists, cell: u16) -> Vec<u32> {
        let first = Some(lists.part(0).unwrap().head(cell)).filter(|node| *node != NONE);
        let next = |node: &u32| Some(lists.next(*node)).filter(|node| *node != NONE);
        std::iter::successors(first, next).collect()
    }

    #[test]
    fn what_is_taken_out_goes_back_where_it_was() {
        let mut lists = Lists::default();
        lists.reserve(6, 1);
        for node in 0..6 {
            lists.link(node, 0, if node < 4 { 70 } else { 4095 });
        }
        let before = (of(&lists, 70), of(&lists, 4095));
        let square = lists.part(0).unwrap().clone();
        let places: Vec<_> = [2, 3, 0, 5, 4, 1].map(|n| lists.unlink(n).unwrap()).into();
        assert!(lists.unlink(2).is_none());
        assert_eq!(
            (of(&lists, 70), lists.part(0).unwrap().any_row),
            (vec![], 0)
        );
        for place in places.into_iter().rev() {
            lists.restore(place);
        }
        assert_eq!((of(&lists, 70), of(&lists, 4095)), before);
        assert_eq!(*lists.part(0).unwrap(), square);
    }

    #[test]
    fn a_bit_goes_with_the_last_node_of_its_cell() {
        let mut lists = Lists::default();
        lists.reserve(2, 1);
        lists.link(0, 0, 65);
        lists.link(1, 0, 65);
        lists.shift(0, 66);
        assert_eq!(lists.part(0).unwrap().rows[1], 0b110);
        lists.shift(1, 66);
        let square = lists.part(0).unwrap();
        assert_eq!(
            (square.rows[1], square.columns[1], square.columns[2]),
            (0b100, 0, 0b10)
        );
        assert_eq!(of(&lists, 66), [1, 0]);
    }
}
