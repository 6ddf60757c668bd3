//! Layers: divisions of nodes into parts, and the lists that each is searched by.

use crate::scheduler::index::{Index, Order};
use crate::scheduler::lists::{List, Lists, NONE};

impl Index {
    /// The part of a layer that a node is in; [`NONE`] if it is in none.
    #[inline]
    pub fn part_of(&self, layer: usize, node: u32) -> u32 {
        self.by_room.part_of(layer, node)
    }

    #[cfg(test)]
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// How many parts a layer has had nodes in.
    pub fn part_count(&self, layer: usize) -> u32 {
        self.layers[layer].unwrap_or_default()
    }

    /// A layer with no nodes.
    pub fn layer_add(&mut self) -> usize {
        let gone = self.layers.iter().position(Option::is_none);
        let at = gone.unwrap_or(self.layers.len());
        if at == self.layers.len() {
            self.layers.push(None);
            self.each_lists(|lists| lists.reserve_lists(at + 1));
        }
        self.layers[at] = Some(0);
        at
    }

    pub fn layer_remove(&mut self, layer: usize) {
        self.layers[layer] = None;
        self.each_lists(|lists| lists.clear(layer));
    }

    /// Moves a node to another part of a layer, or to none ([`NONE`]).
    pub fn layer_set(&mut self, layer: usize, node: u32, part: u32) {
        if part != NONE {
            self.part_add(layer, part);
        }
        self.each_lists(|lists| {
            lists.unlink(layer, node);
            lists.set_part(layer, node, part);
        });
        self.link(layer, node);
    }

    pub(super) fn part_add(&mut self, layer: usize, part: u32) {
        self.each_lists(|lists| lists.reserve_parts(layer, part as usize + 1));
        self.layers[layer] = self.layers[layer].map(|count| count.max(part + 1));
    }

    /// Makes the lists that a search by that order goes through, if there are none. O(nodes), once.
    pub fn make_lists(&mut self, order: Order) {
        if self.has_lists(order) {
            return;
        }
        let mut lists = Lists::default();
        lists.reserve_nodes(self.len());
        lists.reserve_lists(self.layers.len());
        for layer in 0..self.layers.len() {
            lists.reserve_parts(layer, self.part_count(layer) as usize);
            for node in 0..self.len() as u32 {
                lists.set_part(layer, node, self.part_of(layer, node));
                if self.by_room.cell(layer, node).is_some() {
                    lists.link(layer, node, self.cell(order, node));
                }
            }
        }
        self.by_count = Some(lists);
    }

    pub fn has_lists(&self, order: Order) -> bool {
        order == Order::Room || self.by_count.is_some()
    }

    /// Those by count have to be made before: see [`Index::make_lists`].
    #[inline]
    pub fn lists(&self, layer: usize, order: Order) -> List<'_> {
        let lists = match order {
            Order::Room => &self.by_room,
            Order::Count => self.by_count.as_ref().expect("they are made"),
        };
        List { lists, list: layer }
    }

    #[inline]
    pub(super) fn lists_mut(&mut self, order: Order) -> &mut Lists {
        match order {
            Order::Room => &mut self.by_room,
            Order::Count => self.by_count.as_mut().expect("they are made"),
        }
    }
}
