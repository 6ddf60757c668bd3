//! Nodes by dense number, and by what is free on them.
//!
//! An update costs O(1) for each layer that the node is in. Most of what searches and updates cost
//! are misses of the cache, so that what they read of a node lies in one line, and its links in
//! another.

mod layers;

use crate::fsm::Resources;
use crate::scheduler::balance::Scratch;
use crate::scheduler::level::{Axis, LEVELS};
use crate::scheduler::lists::{Lists, NONE, Place, resize};
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

/// What a search reads of a node, and what placing changes: a line of the cache.
///
/// Invariant: `free` is [`Load::free`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Row {
    free: Resources,
    held: Resources,
}

/// What is read less often.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    /// What its draws come from: it keeps them whatever its number.
    draws: [u64; 2],
    containers: u32,
    held_containers: u32,
    /// Takes containers, whatever these are.
    open: bool,
}

/// What only changes with the state.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    allocatable: Resources,
    allocated: Resources,
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

/// Something to be undone; in the list of a layer, by one of its orders.
#[derive(Debug)]
enum Undo {
    Load(u32, Load),
    Linked(Order, usize, u32),
    Unlinked(Order, usize, Place),
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

/// A *layer* divides nodes into parts, each searched by itself.
///
/// Invariants: `sums` adds up the loads. A node that is open is in the list by room of each layer
/// that has it in a part, in the cell that its load stands for, and so by count, where there are
/// lists by count.
#[derive(Debug)]
pub(super) struct Index {
    rows: Vec<Row>,
    rest: Vec<Rest>,
    known: Vec<Known>,
    axes: Axes,
    /// Of `axes` what depends on the sums is worked out later.
    filling: bool,
    /// The largest amounts that the axes cover.
    largest: Resources,
    sums: Sums,
    nodes_open: u32,
    /// How many parts each has had nodes in; `None` for one that is gone.
    layers: Vec<Option<u32>>,
    /// By free CPU and memory, one list for each layer.
    by_room: Lists,
    /// By number of containers. What asks for nothing goes by it alone: until something does, there
    /// are no such lists, and nobody pays for them.
    by_count: Option<Lists>,
    journal: Option<Journal>,
    /// Nodes of which every change is noted in `touched`, until who watches them takes that.
    pub watched: NodeSet,
    pub touched: NodeSet,
    /// Nodes that changed since they were taken, each once; `None`: nobody wants to know.
    moved: Option<(Vec<u32>, NodeSet)>,
    pub balance_scratch: Scratch,
}

/// What a dry run did, and whether it found lists by count.
#[derive(Debug)]
struct Journal {
    done: Vec<Undo>,
    by_count: bool,
}

impl Default for Index {
    fn default() -> Self {
        let mut index = Self {
            rows: Vec::new(),
            rest: Vec::new(),
            known: Vec::new(),
            axes: Axes::covering(Resources::default(), &Sums::default()),
            filling: false,
            largest: Resources::default(),
            sums: Sums::default(),
            nodes_open: 0,
            layers: Vec::new(),
            by_room: Lists::default(),
            by_count: None,
            journal: None,
            watched: NodeSet::default(),
            touched: NodeSet::default(),
            moved: None,
            balance_scratch: Scratch::default(),
        };
        index.layer_add();
        index.part_add(EVERYWHERE, 0);
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

    /// Nodes have numbers below this.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline]
    pub fn free(&self, node: u32) -> Resources {
        self.rows[node as usize].free
    }

    #[inline]
    pub fn draws(&self, node: u32) -> [u64; 2] {
        self.rest[node as usize].draws
    }

    pub fn load(&self, node: u32) -> Load {
        let node = node as usize;
        let (row, rest, known) = (&self.rows[node], &self.rest[node], &self.known[node]);
        Load {
            allocatable: known.allocatable,
            allocated: known.allocated,
            containers: rest.containers,
            held: row.held,
            held_containers: rest.held_containers,
        }
    }

    /// How many take containers; at least 1.
    pub fn nodes_open(&self) -> i64 {
        i64::from(self.nodes_open.max(1))
    }

    pub fn is_open(&self, node: u32) -> bool {
        self.rest[node as usize].open
    }

    /// Containers on the node, those to come with them.
    #[inline]
    pub fn count(&self, node: u32) -> u32 {
        let rest = &self.rest[node as usize];
        rest.containers.saturating_add(rest.held_containers)
    }

    /// Takes a node as it is now; one that is new is in the layer of all nodes and in no other.
    pub fn put(&mut self, node: u32, load: Load, open: bool, draws: [u64; 2]) {
        let nodes = self.len().max(node as usize + 1);
        resize(&mut self.rows, nodes, Row::default());
        resize(&mut self.rest, nodes, Rest::default());
        resize(&mut self.known, nodes, Known::default());
        self.each_lists(|lists| lists.reserve_nodes(nodes));
        self.unlink_everywhere(node);
        self.each_lists(|lists| lists.set_part(EVERYWHERE, node, 0));
        self.set_open(node, open);
        self.rest[node as usize].draws = draws;
        let before = self.sums.total;
        self.change(node, |known| *known = load);
        self.cover(load.allocatable, before != self.sums.total);
        self.link_everywhere(node);
    }

    fn each_lists(&mut self, mut with: impl FnMut(&mut Lists)) {
        with(&mut self.by_room);
        self.by_count.as_mut().map(with);
    }

    /// Forgets a node; its number may be given to another.
    pub fn remove(&mut self, node: u32) {
        self.unlink_everywhere(node);
        self.set_open(node, false);
        self.each_lists(|lists| (0..lists.len()).for_each(|at| lists.set_part(at, node, NONE)));
        self.change(node, |load| *load = Load::default());
        self.axes = Axes::covering(self.largest, &self.sums);
    }

    fn set_open(&mut self, node: u32, open: bool) {
        let before = std::mem::replace(&mut self.rest[node as usize].open, open);
        self.nodes_open = self.nodes_open + u32::from(open) - u32::from(before);
    }

    /// Changes what is taken of a node, not what it has.
    pub fn take(&mut self, node: u32, with: impl FnOnce(&mut Load)) {
        self.note_load(node);
        self.change(node, with);
        self.shift_everywhere(node);
    }

    /// Sets room for `count` of these aside.
    #[inline]
    pub fn hold(&mut self, node: u32, need: Resources, count: u32) {
        let all = times(need, count);
        let row = &self.rows[node as usize];
        let free = row.free.saturating_sub(all);
        let held = row.held.saturating_add(all);
        if !all.fits(row.free) {
            return self.take(node, |load| {
                load.held = held;
                load.held_containers = load.held_containers.saturating_add(count);
            });
        }
        // Where it fits, what is free is less by just as much.
        self.note_load(node);
        self.rows[node as usize] = Row { free, held };
        let rest = &mut self.rest[node as usize];
        rest.held_containers = rest.held_containers.saturating_add(count);
        self.sums.used.0 += u128::from(all.cpu_milli);
        self.sums.used.1 += u128::from(all.memory_bytes);
        self.sums.containers += u64::from(count);
        self.noted(node);
        self.shift_everywhere(node);
    }

    /// Gives back what was held for `count` of these.
    pub fn release(&mut self, node: u32, need: Resources, count: u32) {
        self.take(node, |load| {
            load.held = load.held.saturating_sub(times(need, count));
            load.held_containers = load.held_containers.saturating_sub(count);
        });
    }

    #[inline]
    fn note_load(&mut self, node: u32) {
        if self.journal.is_some() {
            self.note(Undo::Load(node, self.load(node)));
        }
    }

    /// Puts a node where it belongs now, in all lists that it is in.
    #[inline]
    fn shift_everywhere(&mut self, node: u32) {
        if !self.rest[node as usize].open {
            return;
        }
        self.shift(Order::Room, node);
        if self.by_count.is_some() {
            self.shift(Order::Count, node);
        }
    }

    #[inline]
    fn shift(&mut self, order: Order, node: u32) {
        let cell = self.cell(order, node);
        for layer in 0..self.layers.len() {
            if let Some(place) = self.lists_mut(order).shift(layer, node, cell)
                && self.journal.is_some()
            {
                self.note(Undo::Unlinked(order, layer, place));
                self.note(Undo::Linked(order, layer, node));
            }
        }
    }

    #[inline]
    fn change(&mut self, node: u32, with: impl FnOnce(&mut Load)) {
        let before = self.load(node);
        let mut after = before;
        with(&mut after);
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
        let at = node as usize;
        self.rows[at] = Row {
            free: after.free(),
            held: after.held,
        };
        self.rest[at].containers = after.containers;
        self.rest[at].held_containers = after.held_containers;
        self.known[at] = Known {
            allocatable: after.allocatable,
            allocated: after.allocated,
        };
        self.noted(node);
    }

    /// For those who want to know that it changed.
    #[inline]
    fn noted(&mut self, node: u32) {
        self.note_moved(node);
        if self.watched.contains(node) {
            self.touched.set(node, true);
        }
    }

    /// From now on nodes that change are noted, beginning with all that there are.
    pub fn keep_moved(&mut self) {
        self.moved = Some(Default::default());
        (0..self.len() as u32).for_each(|node| self.note_moved(node));
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
            for node in 0..self.len() as u32 {
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
        self.each_lists(|lists| {
            for at in 0..lists.len() {
                lists.unlink(at, node);
            }
        });
    }

    fn link(&mut self, layer: usize, node: u32) {
        if self.part_of(layer, node) == NONE || !self.is_open(node) {
            return;
        }
        for order in [Order::Room, Order::Count] {
            let cell = self.cell(order, node);
            if self.has_lists(order) && self.lists_mut(order).cell(layer, node).is_none() {
                self.lists_mut(order).link(layer, node, cell);
            }
        }
    }

    /// The cell that a node belongs in.
    #[inline]
    pub fn cell(&self, order: Order, node: u32) -> u16 {
        match order {
            Order::Room => self.axes.cell(self.free(node)),
            Order::Count => self.count(node).min(COUNT_MAX) as u16,
        }
    }

    /// Takes a node out of one list, for as long as a search is not to find it.
    pub fn hide(&mut self, layer: usize, order: Order, node: u32) -> Option<Place> {
        let place = self.lists_mut(order).unlink(layer, node)?;
        self.note(Undo::Unlinked(order, layer, place));
        Some(place)
    }

    /// Undoes a [`Index::hide`]. In the reverse order of these, with nothing else done to that
    /// list in between.
    pub fn unhide(&mut self, layer: usize, order: Order, place: Place) {
        self.lists_mut(order).restore(layer, place);
        self.note(Undo::Linked(order, layer, place.node));
    }

    /// Puts a node that was hidden first in the list that it belongs in now.
    pub fn show(&mut self, layer: usize, order: Order, node: u32) {
        let cell = self.cell(order, node);
        self.lists_mut(order).link(layer, node, cell);
        self.note(Undo::Linked(order, layer, node));
    }

    #[inline]
    fn note(&mut self, undo: Undo) {
        if let Some(journal) = &mut self.journal {
            journal.done.push(undo);
        }
    }

    /// From now on what is taken and hidden can be undone.
    pub fn begin(&mut self) {
        assert!(self.journal.is_none(), "one dry run at a time");
        self.journal = Some(Journal {
            done: Vec::new(),
            by_count: self.by_count.is_some(),
        });
    }

    /// Makes everything as it was at [`Index::begin`], the order of lists included.
    pub fn undo(&mut self) {
        let Some(journal) = self.journal.take() else {
            return;
        };
        if !journal.by_count {
            self.by_count = None;
        }
        for undo in journal.done.into_iter().rev() {
            match undo {
                Undo::Load(node, load) => self.change(node, |known| *known = load),
                Undo::Linked(order, ..) | Undo::Unlinked(order, ..) if !self.has_lists(order) => {}
                Undo::Linked(order, layer, node) => {
                    self.lists_mut(order).unlink(layer, node);
                }
                Undo::Unlinked(order, layer, place) => {
                    self.lists_mut(order).restore(layer, place);
                }
            }
        }
    }
}

/// What so many need together.
#[inline]
pub(super) fn times(need: Resources, count: u32) -> Resources {
    need.with(need, |each, _| each.saturating_mul(u64::from(count)))
}
