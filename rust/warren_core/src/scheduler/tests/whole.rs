//! What must hold of an index at any time.

use crate::scheduler::index::{Index, Order};
use crate::scheduler::level::LEVELS;
use crate::scheduler::lists::{List, NONE};
use crate::scheduler::score::Sums;

/// Everything that an answer may depend on, the order of lists included.
pub type Picture = (String, Vec<Vec<u32>>);

impl Index {
    pub fn picture(&self) -> Picture {
        let mut lists = Vec::new();
        self.each_list(false, |_, _, _, nodes| lists.push(nodes));
        let free: Vec<_> = (0..self.len() as u32).map(|node| self.free(node)).collect();
        (format!("{:?} {free:?}", self.sums()), lists)
    }

    fn each_list(&self, empty_too: bool, mut see: impl FnMut(usize, Order, (u32, u16), Vec<u32>)) {
        for layer in 0..self.layer_count() {
            for order in [Order::Room, Order::Count] {
                if !self.has_lists(order) {
                    continue;
                }
                let lists = self.lists(layer, order);
                for part in 0..self.part_count(layer) {
                    let rows = lists.part(part).map_or(0, |square| square.any_row);
                    let some = |cell: &u16| empty_too || rows >> (cell / LEVELS as u16) & 1 == 1;
                    for cell in (0..(LEVELS * LEVELS) as u16).filter(some) {
                        see(layer, order, (part, cell), nodes_of(lists, part, cell));
                    }
                }
            }
        }
    }

    /// Lists, bits and sums are those of an index into which every node was put as it is now.
    pub fn assert_whole(&self) {
        let mut sums = Sums::default();
        for node in 0..self.len() as u32 {
            let load = self.load(node);
            assert_eq!(load.free(), self.free(node));
            sums.total.0 += u128::from(load.allocatable.cpu_milli);
            sums.total.1 += u128::from(load.allocatable.memory_bytes);
            for taken in [load.allocated, load.held] {
                sums.used.0 += u128::from(taken.cpu_milli);
                sums.used.1 += u128::from(taken.memory_bytes);
            }
            sums.containers += u64::from(self.count(node));
        }
        assert_eq!(*self.sums(), sums);
        let mut listed = vec![0; 2 * self.layer_count()];
        self.each_list(true, |layer, order, (part, cell), nodes| {
            let square = self.lists(layer, order).part(part).expect("it is there");
            let (row, column) = (usize::from(cell) / LEVELS, usize::from(cell) % LEVELS);
            let any = !nodes.is_empty();
            assert_eq!(square.rows[row] >> column & 1 == 1, any);
            assert_eq!(square.columns[column] >> row & 1 == 1, any);
            assert_eq!(square.any_row >> row & 1 == 1, square.rows[row] != 0);
            assert_eq!(
                square.any_column >> column & 1 == 1,
                square.columns[column] != 0
            );
            for node in nodes {
                assert_eq!(self.cell(order, node), cell, "node {node}");
                assert_eq!(self.part_of(layer, node), part);
                assert!(self.is_open(node));
                listed[2 * layer + order as usize] += 1;
            }
        });
        for layer in 0..self.layer_count() {
            let nodes = (0..self.len() as u32)
                .filter(|node| self.is_open(*node) && self.part_of(layer, *node) != NONE);
            let expected = nodes.count();
            let by_count = expected * usize::from(self.has_lists(Order::Count));
            assert_eq!(listed[2 * layer..2 * layer + 2], [expected, by_count]);
        }
    }
}

fn nodes_of(lists: List, part: u32, cell: u16) -> Vec<u32> {
    let real = |node: u32| Some(node).filter(|node| *node != NONE);
    let first = lists.part(part).and_then(|square| real(square.head(cell)));
    std::iter::successors(first, |node| real(lists.next(*node))).collect()
}
