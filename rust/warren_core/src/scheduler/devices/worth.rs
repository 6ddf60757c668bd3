//! What a node's free devices are worth to the shapes that are likely to ask for them.
//!
//! Weng et al., "Beware of Fragmentation" (USENIX ATC 2023, section 4), measure a node's
//! fragmentation as the free device capacity that a shape drawn at random from the workload could
//! not use, and place where it grows least. What is not fragmented is *usable*, and since every
//! node loses the same capacity to a given ask, the node where fragmentation grows least is the
//! one where the usable capacity shrinks least. This module counts what is usable; it departs from
//! the paper in three ways, each for a reason:
//!
//! - *Over all shapes, exactly*: the paper samples the most popular and rounds scores to 1/100.
//! - *A run as well as the next one*: what the next container of a shape could use says nothing
//!   about the second. Four free devices beside the CPU for one are four for the paper. We take
//!   the mean of that and of what a run of containers of the shape could use until CPU, memory or
//!   devices are used up.
//! - *By scarcity*: capacity is worth more to a shape that has little of it left in the whole
//!   cluster. A shape's weight is its frequency over the square root of what it could still use,
//!   so that those who may go anywhere keep away from the few devices that others depend on.
//!
//! Integers throughout: usable capacity in 1/100 of 1/1000 of a device, weights as parts of
//! [`WEIGHTS`].

use crate::scheduler::devices::room::{Need, View};
use crate::scheduler::devices::{DEVICE_MILLI, Want};

/// What all weights together come to, but for rounding.
pub(super) const WEIGHTS: u64 = 1 << 20;
/// Units of usable capacity in 1/1000 of a device.
pub(super) const UNITS: u64 = 100;

/// Shapes that want the same of devices and differ in CPU and memory.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    want: Want,
    admitted: u128,
    /// Of its shapes in the table.
    from: usize,
    to: usize,
}

/// The shapes that count, ordered so that what depends on devices alone is computed once a group.
/// Invariant: within a group shapes ascend by CPU.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    groups: Vec<Group>,
    cpu_milli: Vec<u64>,
    memory_bytes: Vec<u64>,
    /// How often each is asked for, in parts of any whole.
    count: Vec<u64>,
    weight: Vec<u64>,
    /// Usable on the nodes that were added.
    usable: Vec<u64>,
    /// The share that a run has in what is usable, in percent.
    run_percent: u64,
}

impl Table {
    /// Shapes with how often each is asked for. Nothing is usable until nodes are added.
    pub fn new(mut shapes: Vec<(Need, u64)>, run_percent: u64) -> Self {
        shapes.retain(|(need, count)| need.want != Want::Nothing && *count > 0);
        shapes.sort_unstable_by_key(|(need, count)| {
            let by_devices = (need.want, need.admitted);
            (by_devices, need.cpu_milli, need.memory_bytes, *count)
        });
        let mut table = Self {
            run_percent,
            ..Self::default()
        };
        for (at, (need, count)) in shapes.iter().enumerate() {
            match table.groups.last_mut() {
                Some(last) if (last.want, last.admitted) == (need.want, need.admitted) => {
                    last.to = at + 1;
                }
                _ => table.groups.push(Group {
                    want: need.want,
                    admitted: need.admitted,
                    from: at,
                    to: at + 1,
                }),
            }
            table.cpu_milli.push(need.cpu_milli);
            table.memory_bytes.push(need.memory_bytes);
            table.count.push(*count);
        }
        table.weight = vec![0; shapes.len()];
        table.usable = vec![0; shapes.len()];
        table
    }

    /// Counts what a node has in.
    pub fn add(&mut self, view: &View) {
        let mut usable = std::mem::take(&mut self.usable);
        self.each(view, |shape, units| usable[shape] += units);
        self.usable = usable;
    }

    /// Weighs the shapes by how often they are asked for and what each could use.
    pub fn reweigh(&mut self, by_scarcity: Scarcity) {
        let rated = self.count.iter().zip(&self.usable);
        let rates: Vec<u64> = rated
            .map(|(count, units)| {
                let milli = units / UNITS + 1;
                let scarcity = match by_scarcity {
                    Scarcity::Ignored => 1 << 20,
                    Scarcity::Root => (1 << 40) / milli.isqrt(),
                    Scarcity::Full => (1 << 40) / milli,
                };
                (count * scarcity).max(1)
            })
            .collect();
        let sum: u128 = rates.iter().map(|rate| u128::from(*rate)).sum();
        let part = |rate: u64| u128::from(rate) * u128::from(WEIGHTS) / sum.max(1);
        self.weight = rates.into_iter().map(|rate| part(rate) as u64).collect();
    }

    /// What a node is worth: its usable capacity in the mean over the shapes by weight, times
    /// [`WEIGHTS`]. Below 2^43.
    pub fn worth(&self, view: &View) -> u64 {
        let mut sum = 0;
        self.each(view, |shape, units| sum += self.weight[shape] * units);
        sum
    }

    /// Calls `found` with each shape that could use something, and how much.
    fn each(&self, view: &View, mut found: impl FnMut(usize, u64)) {
        for group in &self.groups {
            if view.classes & group.admitted == 0 {
                continue;
            }
            let reach = group.reach(view);
            let copies = reach.copies;
            if copies == 0 {
                continue;
            }
            for shape in group.from..group.to {
                let (cpu, memory) = (self.cpu_milli[shape], self.memory_bytes[shape]);
                if cpu > view.cpu_milli {
                    break;
                }
                if memory > view.memory_bytes {
                    continue;
                }
                let all = cpu.saturating_mul(copies) <= view.cpu_milli
                    && memory.saturating_mul(copies) <= view.memory_bytes;
                let run = if all {
                    reach.used
                } else {
                    let by_cpu = view.cpu_milli.checked_div(cpu).unwrap_or(copies);
                    let by_memory = view.memory_bytes.checked_div(memory).unwrap_or(copies);
                    group.run(view, by_cpu.min(by_memory).min(copies))
                };
                found(
                    shape,
                    reach.next * (UNITS - self.run_percent) + run * self.run_percent,
                );
            }
        }
    }
}

/// How a shape's weight depends on what it could still use in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarcity {
    /// Not at all.
    Ignored,
    /// As one over its square root.
    Root,
    /// As one over it.
    Full,
}

/// What a group could use of a node's devices, in 1/1000.
#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    /// All that is left on the devices that are open to the next container.
    next: u64,
    /// How many containers the devices can take.
    copies: u64,
    /// What so many use up, as [`Group::run`] counts it.
    used: u64,
}

impl Group {
    /// What devices allow, CPU and memory granted.
    fn reach(&self, view: &View) -> Reach {
        let mut reach = Reach::default();
        match self.want {
            Want::Nothing => {}
            Want::Whole(count) => {
                let whole = view.open(self.admitted, DEVICE_MILLI).count() as u64;
                reach.copies = whole / u64::from(count);
                if reach.copies > 0 {
                    reach.next = whole * u64::from(DEVICE_MILLI);
                    reach.used = reach.copies * self.want.milli();
                }
            }
            Want::Share(milli) => {
                for free in view.open(self.admitted, milli) {
                    reach.next += u64::from(free);
                    reach.copies += u64::from(free / milli);
                }
                reach.used = reach.next;
            }
        }
        reach
    }

    /// What `copies` of them use up, in 1/1000. A device that can take no further share counts as
    /// used up: its rest is too small for this shape wherever it lies.
    fn run(&self, view: &View, copies: u64) -> u64 {
        match self.want {
            Want::Nothing => 0,
            Want::Whole(count) => copies * u64::from(count) * u64::from(DEVICE_MILLI),
            Want::Share(milli) => {
                let mut left = copies;
                let mut used = 0;
                for free in view.open(self.admitted, milli) {
                    let most = u64::from(free / milli);
                    if left < most {
                        return used + left * u64::from(milli);
                    }
                    left -= most;
                    used += u64::from(free);
                }
                used
            }
        }
    }
}
