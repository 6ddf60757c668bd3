//! Placement of containers that ask for devices, such as GPUs, whole or in shares of 1/1000.
//!
//! A [`DeviceFleet`] knows the nodes with what they have left. [`DeviceFleet::place`] finds the
//! node, and on it the devices, whose loss costs the shapes that are likely to come the least
//! ([`worth`]). Scores of nodes are kept for each shape and only those of changed nodes computed
//! again ([`rank`]).
//!
//! The likely shapes are those that arrived ([`mix`]), told by [`DeviceFleet::arrived`]: once for
//! each container that is to run, placed or not, and not again when it is retried; a new leader
//! tells those that live. Frequencies and scarcity are read into weights anew when there are half
//! as many arrivals again, when the fleet's free capacity has changed by a quarter, and when a
//! model of devices appears. In between weights are constant, so that scores can be kept.
//!
//! Equal scores are common, and scores closer than [`Tuning::step_milli`] count as equal. Among
//! these a draw decides that is fixed for each node and seed. Containers that might go to many
//! nodes so gather on those with the least draws, and others stay untouched for shapes that need
//! many devices of one node. Best fit as a second criterion keeps nodes untouched as well, and
//! leaves more small rests (docs/scheduling-devices.md has the figures).

mod ask;
mod classes;
mod ledger;
mod mix;
mod rank;
mod room;
#[cfg(test)]
mod tests;
mod worth;

use std::collections::BTreeMap;

use crate::error::Error;
use crate::ids::NodeId;

pub use ask::{
    DEVICE_MILLI, DEVICES_MAX, DeviceAsk, DeviceGrant, DeviceNode, DeviceShare, DeviceWant,
    MODELS_MAX, Want,
};
pub(super) use ledger::{Ledger, shape};
pub use worth::Scarcity;

use classes::{ClassSet, Classes};
use mix::Mix;
use room::{Device, Need, Room, View};
use worth::{Table, UNITS, WEIGHTS};

/// Constants of the policy. The defaults hold for every workload; others are for experiments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Losses that differ by less count as equal, in 1/1000 of a device; at least 1.
    pub step_milli: u32,
    /// The share that a run of containers has in what is usable, beside the next one; 0 to 100.
    pub run_percent: u32,
    pub scarcity: Scarcity,
    /// Weights are read anew once there are so many arrivals, in percent of those at the last
    /// time; above 100.
    pub relearn_percent: u64,
    /// And once the free capacity is above so many percent of that at the last time, or that is
    /// of it; above 100.
    pub reweigh_percent: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            step_milli: 40,
            run_percent: 50,
            scarcity: Scarcity::Root,
            relearn_percent: 150,
            reweigh_percent: 125,
        }
    }
}

/// A node's place in the fleet; places are reused.
#[derive(Debug, Default)]
struct Place {
    /// `None`: nobody is here.
    id: Option<NodeId>,
    room: Room,
    draw: u32,
    /// What the room is worth by the weights of `epoch`.
    worth: u64,
    epoch: u64,
    /// Number of the last change.
    changed: u64,
}

/// Nodes with devices. Deterministic: equal calls after equal seeds give equal answers.
///
/// Invariants: no device is used beyond 1000/1000; a device that is held as a whole is held by one
/// container; a place's worth is by the weights of its epoch.
#[derive(Debug, Default)]
pub struct DeviceFleet {
    seed: u64,
    tuning: Tuning,
    places: Vec<Place>,
    by_id: BTreeMap<NodeId, usize>,
    vacant: Vec<usize>,
    free_milli: u64,
    classes: Classes,
    mix: Mix,
    table: Table,
    /// Rises when weights change.
    epoch: u64,
    /// At the last weighing; `None`: weigh before anything else.
    weighed: Option<Weighed>,
    /// Places that changed, the last of them being change number `changes`.
    log: std::collections::VecDeque<usize>,
    changes: u64,
    evaluations: u64,
}

#[derive(Clone, Copy, Debug)]
struct Weighed {
    arrivals: u64,
    free_milli: u64,
}

impl DeviceFleet {
    /// `seed` decides between nodes that are equally good.
    pub fn new(seed: u64, tuning: Tuning) -> Self {
        Self {
            seed,
            tuning,
            ..Self::default()
        }
    }

    /// Takes a node as it is. What containers hold on it stays held, also where it shrank below.
    /// [`Error::Invalid`] if it has more than [`DEVICES_MAX`] devices, or a model that is one too
    /// many for the cluster; then nothing changes.
    pub fn node_put(&mut self, id: NodeId, node: &DeviceNode) -> Result<(), Error> {
        if node.devices.len() > DEVICES_MAX {
            return Err(Error::Invalid {
                what: "device",
                why: format!(
                    "the node has {} devices; at most {DEVICES_MAX} can be scheduled",
                    node.devices.len()
                ),
            });
        }
        let known = self.classes.len();
        let classes: Result<Vec<u8>, Error> = node
            .devices
            .iter()
            .map(|pair| self.classes.intern(pair))
            .collect();
        if self.classes.len() > known {
            self.mix.readmit(&self.classes);
            self.weighed = None;
        }
        let classes = classes?;
        let at = match self.by_id.get(&id) {
            Some(at) => *at,
            None => self.settle(id),
        };
        self.change(at, |room| {
            room.cpu_milli = node.cpu_milli;
            room.memory_bytes = node.memory_bytes;
            let held = std::mem::take(&mut room.devices);
            let used = |n: usize| held.get(n).map_or(0, |device: &Device| device.used_milli);
            let numbered = classes.iter().enumerate();
            room.devices = numbered
                .map(|(n, class)| Device {
                    class: *class,
                    used_milli: used(n),
                })
                .collect();
        });
        Ok(())
    }

    /// Forgets a node and what was held there.
    pub fn node_remove(&mut self, id: NodeId) {
        if let Some(at) = self.by_id.remove(&id) {
            self.change(at, |room| *room = Room::default());
            self.places[at].id = None;
            self.vacant.push(at);
        }
    }

    /// Notes that one more container of this shape is to run. [`Error::Invalid`] if an amount is
    /// out of range.
    pub fn arrived(&mut self, ask: &DeviceAsk) -> Result<(), Error> {
        let number = self.mix.number(&ask.canonical()?, &self.classes);
        self.mix.arrived(number);
        Ok(())
    }

    /// Finds the best node and takes what is asked there; `None` if it fits nowhere.
    /// [`Error::Invalid`] if an amount is out of range.
    pub fn place(&mut self, ask: &DeviceAsk) -> Result<Option<DeviceGrant>, Error> {
        let Some(grant) = self.find(ask, |_| true)? else {
            return Ok(None);
        };
        if let Some(at) = self.by_id.get(&grant.node).copied() {
            self.change(at, |room| {
                room.take(grant.cpu_milli, grant.memory_bytes, &grant.devices);
            });
        }
        Ok(Some(grant))
    }

    /// The best of the nodes that `allowed` says yes to, by their place
    /// ([`DeviceFleet::place_of`]); takes nothing. [`Error::Invalid`] if an amount is out of range.
    pub fn find(
        &mut self,
        ask: &DeviceAsk,
        allowed: impl FnMut(usize) -> bool,
    ) -> Result<Option<DeviceGrant>, Error> {
        let number = self.mix.number(&ask.canonical()?, &self.classes);
        self.weigh_if_due();
        self.refresh(number);
        let shape = self.mix.shape(number);
        let Some((at, choice)) = shape.rank.best_of(allowed) else {
            return Ok(None);
        };
        let (need, place) = (shape.need, &self.places[at]);
        let beside = place.room.pick_beside(&shape.beside);
        let Some((node, beside)) = place.id.zip(beside) else {
            return Ok(None);
        };
        let mut devices = place.room.pick(&need, choice);
        devices.extend(beside);
        Ok(Some(DeviceGrant {
            node,
            cpu_milli: need.cpu_milli,
            memory_bytes: need.memory_bytes,
            devices,
        }))
    }

    /// Where a node stands among others, from 0; another's once it is removed.
    pub fn place_of(&self, id: NodeId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Sets what a node has left of CPU and memory, and what is used of its devices, whoever uses
    /// it; `used_milli` by device. Nothing happens to a node that is not there.
    pub fn node_has(&mut self, id: NodeId, cpu_milli: u64, memory_bytes: u64, used_milli: &[u16]) {
        let Some(at) = self.by_id.get(&id).copied() else {
            return;
        };
        let mut room = self.places[at].room.clone();
        (room.cpu_milli, room.memory_bytes) = (cpu_milli, memory_bytes);
        (room.cpu_used_milli, room.memory_used_bytes) = (0, 0);
        for (number, device) in room.devices.iter_mut().enumerate() {
            let used = used_milli.get(number).copied().unwrap_or_default();
            device.used_milli = used.min(DEVICE_MILLI);
        }
        if room != self.places[at].room {
            self.change(at, |known| *known = room);
        }
    }

    /// Says how many containers of a shape there are to be, in place of [`DeviceFleet::arrived`].
    /// [`Error::Invalid`] if an amount is out of range.
    pub fn count(&mut self, ask: &DeviceAsk, count: u64) -> Result<(), Error> {
        let number = self.mix.number(&ask.canonical()?, &self.classes);
        self.mix.count(number, count);
        Ok(())
    }

    /// Takes what a container already holds. False, and nothing is taken, if the node or one of
    /// the devices is not there or has not as much left; CPU and memory may be overdrawn.
    pub fn hold(&mut self, grant: &DeviceGrant) -> bool {
        let at = self.by_id.get(&grant.node).copied();
        let Some(at) = at.filter(|at| self.places[*at].room.has(&grant.devices)) else {
            return false;
        };
        self.change(at, |room| {
            room.take(grant.cpu_milli, grant.memory_bytes, &grant.devices);
        });
        true
    }

    /// Gives back what a container held; false if the node is not there.
    pub fn release(&mut self, grant: &DeviceGrant) -> bool {
        let Some(at) = self.by_id.get(&grant.node).copied() else {
            return false;
        };
        self.change(at, |room| {
            room.give_back(grant.cpu_milli, grant.memory_bytes, &grant.devices);
        });
        true
    }

    /// Device capacity that nobody holds, in 1/1000 of a device.
    pub fn free_milli(&self) -> u64 {
        self.free_milli
    }

    /// How often a node was judged for a shape since the start.
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// The nodes in order for each shape, by weights as they would be read now.
    #[cfg(test)]
    fn orders(&mut self, asks: &[DeviceAsk]) -> Vec<Vec<(u64, u8, NodeId)>> {
        self.weighed = None;
        let of = |fleet: &mut Self, ask: &DeviceAsk| {
            fleet.find(ask, |_| false).ok()?;
            let number = fleet.mix.number(&ask.canonical().ok()?, &fleet.classes);
            let (keys, choices, _) = fleet.mix.shape(number).rank.order();
            let places = fleet.places.iter().zip(keys.iter().zip(choices));
            let some = places.filter_map(|(it, (key, choice))| Some((*key, *choice, it.id?)));
            let mut order: Vec<_> = some.collect();
            order.sort_unstable();
            Some(order)
        };
        let orders = asks.iter().map(|ask| of(self, ask).unwrap_or_default());
        orders.collect()
    }

    fn settle(&mut self, id: NodeId) -> usize {
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        self.places[at].id = Some(id);
        self.places[at].draw = draw(self.seed, id);
        self.by_id.insert(id, at);
        at
    }

    /// Changes a room and everything that is derived from it.
    fn change(&mut self, at: usize, change: impl FnOnce(&mut Room)) {
        let room = &mut self.places[at].room;
        self.free_milli -= room.devices_free_milli();
        change(room);
        self.free_milli += room.devices_free_milli();
        self.changes += 1;
        self.places[at].changed = self.changes;
        self.places[at].epoch = u64::MAX;
        self.log.push_back(at);
        // A rank that has missed as many changes as there are nodes is built anew anyway.
        if self.log.len() > self.places.len() {
            self.log.pop_front();
        }
    }

    /// Reads frequencies and scarcity into weights, if they may have changed much.
    fn weigh_if_due(&mut self) {
        let (arrivals, free) = (self.mix.arrivals, self.free_milli);
        let beyond = |now: u64, then: u64, percent: u64| now * 100 > then * percent;
        let due = self.weighed.is_none_or(|last| {
            let percent = self.tuning.reweigh_percent;
            beyond(arrivals, last.arrivals, self.tuning.relearn_percent)
                || beyond(last.arrivals, arrivals, self.tuning.relearn_percent)
                || beyond(free, last.free_milli, percent)
                || beyond(last.free_milli, free, percent)
        });
        if !due {
            return;
        }
        let run_percent = u64::from(self.tuning.run_percent);
        self.table = Table::new(self.mix.counted(), run_percent);
        for place in &self.places {
            self.table.add(&View::of(&place.room));
        }
        self.table.reweigh(self.tuning.scarcity);
        self.epoch += 1;
        self.weighed = Some(Weighed {
            arrivals,
            free_milli: free,
        });
    }

    /// Brings a shape's rank up to date.
    fn refresh(&mut self, number: usize) {
        let mut rank = std::mem::take(self.mix.rank_mut(number));
        let need = self.mix.shape(number).need;
        let beside = self.mix.shape(number).beside.clone();
        let missed = self.changes - rank.seen;
        let kept = rank.epoch == self.epoch && rank.len() == self.places.len();
        if kept && missed < self.log.len() as u64 {
            let first = self.log.len() - missed as usize;
            for step in first..self.log.len() {
                let at = self.log[step];
                // Changed again later in the log: judged then.
                let change = self.changes - (self.log.len() - 1 - step) as u64;
                if self.places[at].changed == change {
                    let score = self.score(at, &need, &beside);
                    rank.put(at, score, self.places[at].draw);
                }
            }
        } else {
            let places = 0..self.places.len();
            let scored = places.map(|at| (self.score(at, &need, &beside), self.places[at].draw));
            rank.rebuild(scored);
        }
        rank.epoch = self.epoch;
        rank.seen = self.changes;
        *self.mix.rank_mut(number) = rank;
    }

    /// What a node loses in worth by taking the need, in steps, and the device that a share goes
    /// to; `None` if it does not fit.
    fn score(&mut self, at: usize, need: &Need, beside: &[(Want, ClassSet)]) -> Option<(i64, u8)> {
        let place = &mut self.places[at];
        self.evaluations += 1;
        if place.id.is_none() || !place.room.fits(need) {
            return None;
        }
        let beside = match beside {
            [] => Vec::new(),
            wants => place.room.pick_beside(wants)?,
        };
        if place.epoch != self.epoch {
            place.worth = self.table.worth(&View::of(&place.room));
            place.epoch = self.epoch;
        }
        let step = WEIGHTS * UNITS * u64::from(self.tuning.step_milli.max(1));
        let loss = |choice: usize| {
            let after = self
                .table
                .worth(&View::after(&place.room, need, choice, &beside));
            (place.worth as i64 - after as i64).div_euclid(step as i64)
        };
        match need.want {
            Want::Share(milli) => {
                let choices = place.room.choices(need.admitted, milli);
                choices.map(|choice| (loss(choice), choice as u8)).min()
            }
            _ => Some((loss(0), 0)),
        }
    }
}

/// A fixed draw for each node. The mixing is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA
/// 2014).
fn draw(seed: u64, id: NodeId) -> u32 {
    let words = id.0.chunks_exact(8);
    let mixed = words.fold(seed, |state, word| {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        let mut z = (state ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    });
    mixed as u32
}
