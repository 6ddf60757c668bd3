//! Nodes by dense number, and by what is free on them.
//!
//! An update costs O(1) for each layer that the node is in; what is asked often stands by itself
//! (`free`), so that a search touches nothing else.

use crate::fsm::Resources;
use crate::scheduler::balance::Scratch;
use crate::scheduler::level::{Axis, LEVELS};
use crate::scheduler::lists::{Lists, NONE, Place};
use crate::scheduler::score::{Rate, Sums};
use crate::scheduler::sets::NodeSet;

/// Cells by container count: exact up to the last.
const COUNT_MAX: u32 = 64 * 64 - 1;

/// What a node has and what is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Load {
    pub allocatable: Resources,
    /// By containers that are bound.
    pub allocated: Resources,
    pub containers: u32,
    /// For binds that are not applied yet.
    pub held: Resources,
    pub held_containers: u32,
}

impl Load {
    pub fn free(&self) -> Resources {
        self.allocatable
            .saturating_sub(self.allocated)
            .saturating_sub(self.held)
    }

    fn count(&self) -> u32 {
        self.containers.saturating_add(self.held_containers)
    }
}

/// A division of nodes into parts, each searched by itself.
#[derive(Clone, Debug, Default)]
struct Layer {
    /// Of each node; [`NONE`] for those that are in no part.
    parts: Vec<u32>,
    part_count: u32,
}

/// One of a layer's two orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Cells by free CPU and memory.
    Room = 0,
    /// Cells by number of containers.
    Count = 1,
}

/// The layer of all nodes, in one part.
pub(super) const EVERYWHERE: usize = 0;

/// Something to be undone.
#[derive(Debug)]
enum Undo {
    Load(u32, Load),
    Linked(usize, u32),
    Unlinked(usize, Place),
}

/// What the levels of both axes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axes {
    pub cpu: Axis,
    pub memory: Axis,
    pub rates: (Rate, Rate),
    /// The share that a level begins at, of CPU and of memory.
    pub shares: [[i64; LEVELS]; 2],
}

/// Invariants: `free[n]` is `loads[n].free()`, and `sums` adds up the loads. A node that is open
/// is in both lists of each layer that has it in a part, in the cells that its load stands for.
#[derive(Debug)]
pub(super) struct Index {
    pub free: Vec<Resources>,
    /// What each node's draws come from: it keeps them whatever its number.
    pub draws: Vec<[u64; 2]>,
    loads: Vec<Load>,
    /// Takes containers, whatever these are.
    open: Vec<bool>,
    axes: Axes,
    /// Of `axes` what depends on the sums is worked out later.
    filling: bool,
    /// The largest amounts that the axes cover.
    largest: Resources,
    sums: Sums,
    nodes_open: u32,
    layers: Vec<Option<Layer>>,
    /// Two for each layer, in the order of [`Order`].
    lists: Vec<Lists>,
    journal: Option<Vec<Undo>>,
    /// Nodes of which every change is noted in `touched`, until who watches them takes that.
    pub watched: NodeSet,
    pub touched: NodeSet,
    /// Nodes that changed since they were taken, each once; `None`: nobody wants to know.
    moved: Option<(Vec<u32>, NodeSet)>,
    pub balance_scratch: Scratch,
}

impl Default for Index {
    fn default() -> Self {
        let everywhere = Layer {
            parts: Vec::new(),
            part_count: 1,
        };
        let mut index = Self {
            free: Vec::new(),
            draws: Vec::new(),
            loads: Vec::new(),
            open: Vec::new(),
            axes: Axes::covering(Resources::default(), &Sums::default()),
            filling: false,
            largest: Resources::default(),
            sums: Sums::default(),
            nodes_open: 0,
            layers: vec![Some(everywhere)],
            lists: vec![Lists::default(), Lists::default()],
            journal: None,
            watched: NodeSet::default(),
            touched: NodeSet::default(),
            moved: None,
            balance_scratch: Scratch::default(),
        };
        for lists in &mut index.lists {
            lists.reserve(0, 1);
        }
        index
    }
}

impl Axes {
    fn covering(largest: Resources, sums: &Sums) -> Self {
        let (cpu, memory) = (
            Axis::covering(largest.cpu_milli),
            Axis::covering(largest.memory_bytes),
        );
        let rates = sums.rates();
        let levels = |axis: Axis, rate: Rate| {
            std::array::from_fn(|level| rate.share(axis.floor(level as u32)))
        };
        Self {
            cpu,
            memory,
            rates,
            shares: [levels(cpu, rates.0), levels(memory, rates.1)],
        }
    }

    #[inline]
    pub fn cell(&self, free: Resources) -> u16 {
        let (row, column) = (
            self.cpu.level(free.cpu_milli),
            self.memory.level(free.memory_bytes),
        );
        (row * LEVELS as u32 + column) as u16
    }
}

impl Index {
    pub fn axes(&self) -> &Axes {
        &self.axes
    }

    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    pub fn load(&self, node: u32) -> &Load {
        &self.loads[node as usize]
    }

    /// How many take containers; at least 1.
    pub fn nodes_open(&self) -> i64 {
        i64::from(self.nodes_open.max(1))
    }

    pub fn is_open(&self, node: u32) -> bool {
        self.open[node as usize]
    }

    /// Containers on the node, those to come with them.
    #[inline]
    pub fn count(&self, node: u32) -> u32 {
        self.loads[node as usize].count()
    }

    /// Takes a node as it is now; one that is new is in the layer of all nodes and in no other.
    pub fn put(&mut self, node: u32, load: Load, open: bool) {
        let nodes = self.loads.len().max(node as usize + 1);
        self.free.resize(nodes, Resources::default());
        self.draws.resize(nodes, [0; 2]);
        self.loads.resize(nodes, Load::default());
        self.open.resize(nodes, false);
        for (layer, lists) in self.layers.iter_mut().zip(self.lists.chunks_exact_mut(2)) {
            let mut parts = 0;
            if let Some(layer) = layer {
                layer.parts.resize(nodes, NONE);
                parts = layer.part_count as usize;
            }
            // Those of a layer that is gone too: nodes are unlinked from all there are.
            for lists in lists {
                lists.reserve(nodes, parts);
            }
        }
        let parts = &mut self.layers[EVERYWHERE].as_mut().expect("it stays").parts;
        parts[node as usize] = 0;
        self.unlink_everywhere(node);
        self.set_open(node, open);
        let before = self.sums.total;
        self.change(node, |known| *known = load);
        self.cover(load.allocatable, before != self.sums.total);
        self.link_everywhere(node);
    }

    /// Forgets a node; its number may be given to another.
    pub fn remove(&mut self, node: u32) {
        self.unlink_everywhere(node);
        self.set_open(node, false);
        for layer in self.layers.iter_mut().flatten() {
            layer.parts[node as usize] = NONE;
        }
        self.change(node, |load| *load = Load::default());
        self.axes = Axes::covering(self.largest, &self.sums);
    }

    fn set_open(&mut self, node: u32, open: bool) {
        let before = std::mem::replace(&mut self.open[node as usize], open);
        self.nodes_open = self.nodes_open + u32::from(open) - u32::from(before);
    }

    /// Changes what is taken of a node, not what it has.
    #[inline]
    pub fn take(&mut self, node: u32, with: impl FnOnce(&mut Load)) {
        if self.journal.is_some() {
            let before = self.loads[node as usize];
            self.note(Undo::Load(node, before));
        }
        self.change(node, with);
        if !self.open[node as usize] {
            return;
        }
        let room = self.axes.cell(self.free[node as usize]);
        let count = self.count(node).min(COUNT_MAX) as u16;
        for at in 0..self.lists.len() {
            let cell = if at % 2 == 0 { room } else { count };
            if let Some(place) = self.lists[at].shift(node, cell)
                && self.journal.is_some()
            {
                self.note(Undo::Unlinked(at, place));
                self.note(Undo::Linked(at, node));
            }
        }
    }

    #[inline]
    fn change(&mut self, node: u32, with: impl FnOnce(&mut Load)) {
        self.note_moved(node);
        let load = &mut self.loads[node as usize];
        let before = *load;
        with(load);
        let after = *load;
        let swap = |sum: &mut u128, before: u64, after: u64| {
            *sum = *sum + u128::from(after) - u128::from(before);
        };
        let (total, used) = (&mut self.sums.total, &mut self.sums.used);
        let has = (before.allocatable, after.allocatable);
        swap(&mut total.0, has.0.cpu_milli, has.1.cpu_milli);
        swap(&mut total.1, has.0.memory_bytes, has.1.memory_bytes);
        for taken in [
            (before.allocated, after.allocated),
            (before.held, after.held),
        ] {
            swap(&mut used.0, taken.0.cpu_milli, taken.1.cpu_milli);
            swap(&mut used.1, taken.0.memory_bytes, taken.1.memory_bytes);
        }
        self.sums.containers += u64::from(after.count());
        self.sums.containers -= u64::from(before.count());
        self.free[node as usize] = after.free();
        if self.watched.contains(node) {
            self.touched.set(node, true);
        }
    }

    /// From now on nodes that change are noted, beginning with all that there are.
    pub fn keep_moved(&mut self) {
        self.moved = Some(Default::default());
        (0..self.loads.len() as u32).for_each(|node| self.note_moved(node));
    }

    #[inline]
    pub fn note_moved(&mut self, node: u32) {
        if let Some((nodes, known)) = &mut self.moved
            && known.set(node, true)
        {
            nodes.push(node);
        }
    }

    /// Nodes that changed since this was asked last.
    pub fn take_moved(&mut self) -> Vec<u32> {
        let Some((nodes, known)) = &mut self.moved else {
            return Vec::new();
        };
        for node in &*nodes {
            known.set(*node, false);
        }
        std::mem::take(nodes)
    }

    /// Sees to it that the axes cover `allocatable`; where they grow, every node is sorted anew.
    fn cover(&mut self, allocatable: Resources, total_changed: bool) {
        let mut largest = self.largest;
        largest.cpu_milli = largest.cpu_milli.max(allocatable.cpu_milli);
        largest.memory_bytes = largest.memory_bytes.max(allocatable.memory_bytes);
        let before = (self.axes.cpu, self.axes.memory);
        if largest != self.largest || total_changed && !self.filling {
            self.axes = Axes::covering(largest, &self.sums);
            self.largest = largest;
        }
        if before != (self.axes.cpu, self.axes.memory) {
            for node in 0..self.loads.len() as u32 {
                self.unlink_everywhere(node);
                self.link_everywhere(node);
            }
        }
    }

    /// Many nodes are put: what searches weigh amounts by is worked out once all of them are.
    pub fn begin_filling(&mut self) {
        self.filling = true;
    }

    pub fn filled(&mut self) {
        self.filling = false;
        self.axes = Axes::covering(self.largest, &self.sums);
    }

    fn link_everywhere(&mut self, node: u32) {
        for layer in 0..self.layers.len() {
            self.link(layer, node);
        }
    }

    fn unlink_everywhere(&mut self, node: u32) {
        for lists in &mut self.lists {
            lists.unlink(node);
        }
    }

    fn link(&mut self, layer: usize, node: u32) {
        let part = self.part_of(layer, node);
        if part == NONE || !self.open[node as usize] {
            return;
        }
        for order in [Order::Room, Order::Count] {
            let cell = self.cell(order, node);
            let lists = &mut self.lists[2 * layer + order as usize];
            if lists.cell(node).is_none() {
                lists.link(node, part, cell);
            }
        }
    }

    /// The cell that a node belongs in.
    pub fn cell(&self, order: Order, node: u32) -> u16 {
        match order {
            Order::Room => self.axes.cell(self.free[node as usize]),
            Order::Count => self.count(node).min(COUNT_MAX) as u16,
        }
    }

    /// The part of a layer that a node is in; [`NONE`] if it is in none.
    #[inline]
    pub fn part_of(&self, layer: usize, node: u32) -> u32 {
        let layer = self.layers[layer].as_ref();
        layer.map_or(NONE, |layer| layer.parts[node as usize])
    }

    #[cfg(test)]
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// How many parts a layer has had nodes in.
    pub fn part_count(&self, layer: usize) -> u32 {
        self.layers[layer].as_ref().map_or(0, |l| l.part_count)
    }

    /// A layer with no nodes.
    pub fn layer_add(&mut self) -> usize {
        let free = self.layers.iter().position(Option::is_none);
        let at = free.unwrap_or(self.layers.len());
        let layer = Layer {
            parts: vec![NONE; self.loads.len()],
            part_count: 0,
        };
        if at == self.layers.len() {
            self.layers.push(None);
            self.lists.extend([Lists::default(), Lists::default()]);
        }
        self.layers[at] = Some(layer);
        for lists in &mut self.lists[2 * at..2 * at + 2] {
            lists.reserve(self.loads.len(), 0);
        }
        at
    }

    pub fn layer_remove(&mut self, layer: usize) {
        self.layers[layer] = None;
        for lists in &mut self.lists[2 * layer..2 * layer + 2] {
            *lists = Lists::default();
            lists.reserve(self.loads.len(), 0);
        }
    }

    /// Moves a node to another part of a layer, or to none ([`NONE`]).
    pub fn layer_set(&mut self, layer: usize, node: u32, part: u32) {
        for lists in &mut self.lists[2 * layer..2 * layer + 2] {
            lists.unlink(node);
            if part != NONE {
                lists.reserve(0, part as usize + 1);
            }
        }
        if let Some(layer) = &mut self.layers[layer] {
            layer.parts[node as usize] = part;
            if part != NONE {
                layer.part_count = layer.part_count.max(part + 1);
            }
        }
        self.link(layer, node);
    }

    #[inline]
    pub fn lists(&self, layer: usize, order: Order) -> &Lists {
        &self.lists[2 * layer + order as usize]
    }

    /// Takes a node out of one list, for as long as a search is not to find it.
    pub fn hide(&mut self, layer: usize, order: Order, node: u32) -> Option<Place> {
        let at = 2 * layer + order as usize;
        let place = self.lists[at].unlink(node)?;
        self.note(Undo::Unlinked(at, place));
        Some(place)
    }

    /// Undoes a [`Index::hide`]. In the reverse order of these, with nothing else done to that
    /// list in between.
    pub fn unhide(&mut self, layer: usize, order: Order, place: Place) {
        let at = 2 * layer + order as usize;
        self.lists[at].restore(place);
        self.note(Undo::Linked(at, place.node));
    }

    /// Puts a node that was hidden first in the list that it belongs in now.
    pub fn show(&mut self, layer: usize, order: Order, node: u32) {
        let (part, cell) = (self.part_of(layer, node), self.cell(order, node));
        let at = 2 * layer + order as usize;
        self.lists[at].link(node, part, cell);
        self.note(Undo::Linked(at, node));
    }

    #[inline]
    fn note(&mut self, undo: Undo) {
        if let Some(journal) = &mut self.journal {
            journal.push(undo);
        }
    }

    /// From now on what is taken and hidden can be undone.
    pub fn begin(&mut self) {
        assert!(self.journal.is_none(), "one dry run at a time");
        self.journal = Some(Vec::new());
    }

    /// Makes everything as it was at [`Index::begin`], the order of lists included.
    pub fn undo(&mut self) {
        for undo in self.journal.take().unwrap_or_default().into_iter().rev() {
            match undo {
                Undo::Load(node, load) => self.change(node, |known| *known = load),
                Undo::Linked(at, node) => {
                    self.lists[at].unlink(node);
                }
                Undo::Unlinked(at, place) => self.lists[at].restore(place),
            }
        }
    }
}
