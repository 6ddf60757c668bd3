//! What containers of low priority hold, so that a place for one of a higher priority is found as
//! fast as one that is free.
//!
//! A *band* is all that containers up to a priority hold, on each node. For a band there is a grid
//! like the index's own (`lists`), with nodes by what they would have free if everything in the
//! band were gone: their *reach*. Bands are made when they are asked for; a cluster in which
//! nothing preempts has none, and pays nothing.
//!
//! What is free changes in the index, which notes the nodes it moved; what containers a node has is
//! the state's to say, which is asked for nodes that are *stale*. Both are caught up with before a
//! search, at the price of the nodes that changed.

use std::collections::BTreeMap;

use crate::fsm::Resources;
use crate::ids::ContainerId;
use crate::scheduler::index::{Index, Load};
use crate::scheduler::level::Axis;
use crate::scheduler::lists::{List, Lists};
use crate::scheduler::sets::NodeSet;

/// Grids that are kept; of more, the one that was not asked for longest goes.
const GRIDS_MAX: usize = 24;
/// Bands that one search goes through, from the lowest priority up. Where more priorities are in
/// use, some of them share a band.
const BANDS_MAX: usize = 16;

/// A container that may have to make room: it is meant to run, and holds what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupant {
    pub id: ContainerId,
    pub priority: u32,
    pub resources: Resources,
    pub created_at_ms: u64,
}

/// Nodes up to a priority, by reach.
#[derive(Clone, Copy, Debug)]
struct Grid {
    upto: u32,
    list: usize,
    asked: u64,
}

/// Invariants: `rows` are sorted by (priority, id); `in_use` counts their occupants; an open node
/// that was not moved since is in each grid, in the cell of its reach.
#[derive(Debug, Default)]
pub(super) struct Bands {
    rows: Vec<Vec<Occupant>>,
    in_use: BTreeMap<u32, u32>,
    /// By priority.
    grids: Vec<Grid>,
    lists: Lists,
    axes: (Axis, Axis),
    stale: Vec<u32>,
    is_stale: NodeSet,
    /// Nodes on which something was chosen to make room, since a dry run began.
    taken: Vec<u32>,
    dry: bool,
    asked: u64,
    scratch: Scratch,
}

/// Memory for the next row.
#[derive(Debug, Default)]
struct Scratch {
    come: Vec<Occupant>,
    /// Priorities, and positions in `come`.
    order: Vec<(u32, u32)>,
    row: Vec<Occupant>,
}

impl Bands {
    /// The node's occupants are not known any more.
    pub fn forget(&mut self, node: u32) {
        if self.is_stale.set(node, true) {
            self.stale.push(node);
        }
    }

    /// A node whose occupants have to be put.
    pub fn next_stale(&self) -> Option<u32> {
        self.stale.last().copied()
    }

    /// What the node has from now on. The index moves it.
    pub fn put(&mut self, node: u32, occupants: impl Iterator<Item = Occupant>) {
        let at = node as usize;
        if self.rows.len() <= at {
            self.rows.resize_with(at + 1, Vec::new);
        }
        let Scratch {
            mut come,
            mut order,
            mut row,
        } = std::mem::take(&mut self.scratch);
        come.clear();
        come.extend(occupants);
        // Short keys are sorted, occupants moved once.
        order.clear();
        order.extend(come.iter().zip(0..).map(|(it, at)| (it.priority, at)));
        order.sort_unstable_by_key(|(priority, at)| (*priority, come[*at as usize].id));
        row.clear();
        row.extend(order.iter().map(|(_, at)| come[*at as usize]));
        self.replace(node, &row);
        self.scratch = Scratch { come, order, row };
        if self.is_stale.set(node, false) {
            match self.stale.last() {
                Some(last) if *last == node => drop(self.stale.pop()),
                _ => self.stale.retain(|stale| *stale != node),
            }
        }
    }

    /// A dry run begins: what is taken in it is known anew when it is over.
    pub fn begin(&mut self) {
        self.dry = true;
    }

    pub fn forget_taken(&mut self) {
        self.dry = false;
        for node in std::mem::take(&mut self.taken) {
            self.forget(node);
        }
    }

    /// They make room from now on, and are not to be chosen again.
    pub fn take(&mut self, node: u32, victims: &[ContainerId]) {
        let Some(row) = self.rows.get(node as usize) else {
            return;
        };
        let mut left = std::mem::take(&mut self.scratch.row);
        left.clear();
        left.extend(row.iter().filter(|it| !victims.contains(&it.id)));
        self.replace(node, &left);
        self.scratch.row = left;
        if self.dry {
            self.taken.push(node);
        }
    }

    /// A node's occupants are these from now on, sorted.
    fn replace(&mut self, node: u32, row: &[Occupant]) {
        let mut before = std::mem::take(&mut self.rows[node as usize]);
        self.count(&before, row);
        before.clear();
        before.extend_from_slice(row);
        self.rows[node as usize] = before;
    }

    /// Counts a row in, and the one before out; both are sorted by priority.
    fn count(&mut self, mut before: &[Occupant], mut after: &[Occupant]) {
        let lowest = |row: &[Occupant]| row.first().map(|it| it.priority);
        while let Some(priority) = lowest(before).into_iter().chain(lowest(after)).min() {
            let fewer = alike(&mut before, priority);
            let more = alike(&mut after, priority);
            if fewer == more {
                continue;
            }
            let count = self.in_use.entry(priority).or_insert(0);
            *count = *count + more - fewer;
            if *count == 0 {
                self.in_use.remove(&priority);
            }
        }
    }

    /// Its occupants up to a priority, the lowest first.
    pub fn occupants(&self, node: u32, upto: u32) -> &[Occupant] {
        let row = self.rows.get(node as usize).map_or(&[][..], Vec::as_slice);
        &row[..row.partition_point(|it| it.priority <= upto)]
    }

    /// The bands that something of that priority is to try, the lowest first: with the last of them
    /// it reaches everything that it may.
    pub fn below(&self, priority: u32) -> Vec<u32> {
        let used: Vec<u32> = self.in_use.range(..priority).map(|(it, _)| *it).collect();
        let step = used.len().div_ceil(BANDS_MAX).max(1);
        // Counted from the last, which is never left out.
        let mut bands: Vec<_> = used.into_iter().rev().step_by(step).collect();
        bands.reverse();
        bands
    }

    /// Catches up with the index, and makes grids of these bands. O(nodes moved), and O(nodes) for
    /// a grid that is new.
    pub fn catch_up(&mut self, index: &mut Index, bands: &[u32]) {
        let axes = (index.axes().cpu, index.axes().memory);
        let moved = index.take_moved();
        if axes != self.axes {
            self.axes = axes;
            self.grids.clear();
            self.lists = Lists::default();
        }
        for node in moved {
            self.sort_in(index, node);
        }
        self.asked += 1;
        for band in bands {
            self.ask(index, *band);
        }
    }

    fn ask(&mut self, index: &Index, upto: u32) {
        let asked = self.asked;
        if let Some(grid) = self.grids.iter_mut().find(|grid| grid.upto == upto) {
            grid.asked = asked;
            return;
        }
        let list = match self.grids.len() < GRIDS_MAX {
            true => self.grids.len(),
            false => self.give_up_oldest(),
        };
        self.lists.reserve_nodes(index.len());
        self.lists.reserve_lists(list + 1);
        self.lists.reserve_parts(list, 1);
        for node in 0..index.len() as u32 {
            self.lists.set_part(list, node, 0);
            if index.is_open(node) {
                let reach = reach(&index.load(node), self.occupants(node, upto));
                self.lists.link(list, node, index.axes().cell(reach));
            }
        }
        let at = self.grids.partition_point(|known| known.upto < upto);
        self.grids.insert(at, Grid { upto, list, asked });
    }

    /// The list of the grid that was not asked for longest, for another one.
    fn give_up_oldest(&mut self) -> usize {
        let grids = self.grids.iter().enumerate();
        let oldest = grids.min_by_key(|(_, grid)| grid.asked).map(|(at, _)| at);
        let list = oldest.map_or(0, |at| self.grids.remove(at).list);
        self.lists.clear(list);
        list
    }

    /// Puts a node where it belongs in every grid.
    fn sort_in(&mut self, index: &Index, node: u32) {
        let row = self.rows.get(node as usize).map_or(&[][..], Vec::as_slice);
        let (load, open) = (index.load(node), index.is_open(node));
        let (mut held, mut next) = (Resources::default(), 0);
        self.lists.reserve_nodes(node as usize + 1);
        for Grid { upto, list, .. } in self.grids.iter().copied() {
            if !open {
                self.lists.unlink(list, node);
                continue;
            }
            while let Some(occupant) = row.get(next).filter(|it| it.priority <= upto) {
                held = held.saturating_add(occupant.resources);
                next += 1;
            }
            let cell = index.axes().cell(free_without(&load, held));
            match self.lists.cell(list, node) {
                Some(_) => drop(self.lists.shift(list, node, cell)),
                None => {
                    self.lists.set_part(list, node, 0);
                    self.lists.link(list, node, cell);
                }
            }
        }
    }

    /// The grid of a band that was asked for.
    pub fn list(&self, upto: u32) -> Option<List<'_>> {
        let grid = self.grids.iter().find(|grid| grid.upto == upto)?;
        let (lists, list) = (&self.lists, grid.list);
        Some(List { lists, list })
    }

    /// By grid: its band, and the cell of every node that is in it.
    #[cfg(test)]
    pub fn cells(&self) -> Vec<(u32, Vec<Option<u16>>)> {
        let cells = |grid: &Grid| {
            let nodes = 0..self.rows.len() as u32;
            let cells = nodes.map(|node| self.lists.cell(grid.list, node).map(|(_, cell)| cell));
            (grid.upto, cells.collect())
        };
        self.grids.iter().map(cells).collect()
    }
}

/// How many of the first have that priority; they are taken off the row.
fn alike(row: &mut &[Occupant], priority: u32) -> u32 {
    let count = row.iter().take_while(|it| it.priority == priority).count();
    *row = &row[count..];
    count as u32
}

/// What would be free if all of these were gone.
pub(super) fn reach(load: &Load, occupants: &[Occupant]) -> Resources {
    let held = occupants.iter().map(|it| it.resources);
    free_without(
        load,
        held.fold(Resources::default(), Resources::saturating_add),
    )
}

/// What would be free without so much of what is taken; also of a node on which more is taken than
/// it has.
pub(super) fn free_without(load: &Load, gone: Resources) -> Resources {
    let taken = load.allocated.saturating_add(load.held);
    load.allocatable.saturating_sub(taken.saturating_sub(gone))
}
