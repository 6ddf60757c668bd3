//! Which devices of nodes are taken, by containers and by binds on their way, and the fleet that is
//! kept in step with it.
//!
//! The state numbers a node's devices within their kind, the fleet all of them in a row: kinds in
//! order. What the fleet cannot take (a node with more than [`DEVICES_MAX`](super::DEVICES_MAX)
//! devices, or with the one model too many) is *beyond* it: such nodes are asked only when no other
//! has room, and give by best fit.
//!
//! A node's CPU and memory are what the index says they are. The index notes which nodes with devices
//! changed, and the fleet is told before it decides ([`Ledger::sync`]).

use std::collections::BTreeMap;

use crate::fsm::{Resources, devices_missing};
use crate::ids::{NodeId, ServiceId};
use crate::pb;
use crate::scheduler::devices::{
    DEVICE_MILLI, DeviceAsk, DeviceFleet, DeviceNode, DeviceWant, Tuning, Want,
};
use crate::scheduler::index::Index;
use crate::scheduler::sets::NodeSet;

/// One kind of a node's devices: those from number `from` of all, so many.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    name: String,
    from: usize,
    count: usize,
}

/// A node's devices. Invariant: `pairs`, `claimed` and `held` have an entry for each device.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Row {
    id: NodeId,
    kinds: Vec<Kind>,
    /// Kind and model.
    pairs: Vec<(String, String)>,
    /// By containers, in 1/1000.
    claimed: Vec<u16>,
    /// By binds that are not applied yet, likewise.
    held: Vec<u16>,
}

/// Invariants: the fleet has the nodes of `nodes` that are not `beyond`, and `numbers` has the number
/// of each at its place in the fleet; `counts` adds up what services demand.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Ledger {
    fleet: DeviceFleet,
    /// Those that have devices, by dense number.
    nodes: BTreeMap<u32, Row>,
    numbers: Vec<u32>,
    beyond: NodeSet,
    /// To be told to the fleet.
    stale: NodeSet,
    demand: BTreeMap<ServiceId, (DeviceAsk, u64)>,
    counts: BTreeMap<DeviceAsk, u64>,
    /// What was held before, the oldest first.
    journal: Option<Vec<(u32, Vec<u16>)>>,
}

impl Row {
    fn new(id: NodeId, devices: &[pb::Device]) -> Self {
        let mut row = Self {
            id,
            ..Self::default()
        };
        let mut names: Vec<_> = devices.iter().map(|device| &device.kind).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let from = row.pairs.len();
            for device in devices.iter().filter(|device| device.kind == *name) {
                let pair = (name.clone(), device.model.clone());
                let all = std::iter::repeat_n(pair, device.count as usize);
                row.pairs.extend(all);
            }
            row.kinds.push(Kind {
                name: name.clone(),
                from,
                count: row.pairs.len() - from,
            });
        }
        row.claimed = vec![0; row.pairs.len()];
        row.held = vec![0; row.pairs.len()];
        row
    }

    /// The place of a device among all of the node.
    fn at(&self, kind: &str, number: u32) -> Option<usize> {
        let kind = self.kinds.iter().find(|known| known.name == kind)?;
        let number = number as usize;
        (number < kind.count).then_some(kind.from + number)
    }

    fn share(&self, at: usize, milli: u16) -> Option<pb::DeviceShare> {
        let of = |kind: &&Kind| (kind.from..kind.from + kind.count).contains(&at);
        let kind = self.kinds.iter().find(of)?;
        Some(pb::DeviceShare {
            kind: kind.name.clone(),
            number: (at - kind.from) as u32,
            milli: milli.into(),
        })
    }

    fn used_milli(&self, at: usize) -> u16 {
        (self.claimed[at] + self.held[at]).min(DEVICE_MILLI)
    }

    /// By best fit, or why not.
    fn choose(&self, asks: &[pb::DeviceAsk]) -> Result<Vec<pb::DeviceShare>, String> {
        let mut chosen = Vec::new();
        for ask in asks {
            let each = ask.milli.min(DEVICE_MILLI.into()) as u16;
            let count = (ask.milli / u32::from(each.max(1))) as usize;
            let Some(kind) = self.kinds.iter().find(|kind| kind.name == ask.kind) else {
                return Err(devices_missing(ask, 0));
            };
            let suits = |at: &usize| {
                let model = &self.pairs[*at].1;
                let free = DEVICE_MILLI - self.used_milli(*at);
                free >= each && (ask.models.is_empty() || ask.models.contains(model))
            };
            let all = (kind.from..kind.from + kind.count).filter(suits);
            let mut open: Vec<_> = all.collect();
            if open.len() < count {
                return Err(devices_missing(ask, open.len()));
            }
            // Stable: of those with as much left the lowest number.
            open.sort_by_key(|at| DEVICE_MILLI - self.used_milli(*at));
            chosen.extend(open[..count].iter().filter_map(|at| self.share(*at, each)));
        }
        Ok(chosen)
    }
}

impl Ledger {
    pub fn new(seed: u64) -> Self {
        Self {
            fleet: DeviceFleet::new(seed, Tuning::default()),
            ..Self::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The numbers of nodes that have devices, in order.
    pub fn nodes(&self) -> impl Iterator<Item = u32> {
        self.nodes.keys().copied()
    }

    /// Takes a node's devices over, and what containers hold of them: kind, number, 1/1000. What is
    /// held for binds stays held, of those devices that are still there. True if that is news.
    pub fn put<'a>(
        &mut self,
        index: &mut Index,
        number: u32,
        id: NodeId,
        devices: &[pb::Device],
        claims: impl Iterator<Item = (&'a str, u32, u32)>,
    ) -> bool {
        if devices.is_empty() {
            return self.remove(index, number);
        }
        let mut row = Row::new(id, devices);
        let known = self.nodes.get(&number).filter(|known| known.id == id);
        if known.is_some_and(|known| known.pairs == row.pairs) {
            return self.claim(number, claims);
        }
        for (at, milli) in known.iter().flat_map(|known| known.held.iter().enumerate()) {
            let share = known.and_then(|known| known.share(at, *milli));
            if let Some(at) = share.and_then(|share| row.at(&share.kind, share.number)) {
                row.held[at] = *milli;
            }
        }
        let node = DeviceNode {
            devices: row.pairs.clone(),
            ..DeviceNode::default()
        };
        let taken = self.fleet.node_put(id, &node).is_ok();
        self.beyond.set(number, !taken);
        match self.fleet.place_of(id) {
            Some(place) if taken => {
                if self.numbers.len() <= place {
                    self.numbers.resize(place + 1, u32::MAX);
                }
                self.numbers[place] = number;
            }
            _ => self.fleet.node_remove(id),
        }
        self.nodes.insert(number, row);
        index.watched.set(number, true);
        self.stale.set(number, true);
        self.claim(number, claims);
        true
    }

    /// Takes over what containers hold of a node's devices. True if it is another than before.
    pub fn claim<'a>(
        &mut self,
        number: u32,
        claims: impl Iterator<Item = (&'a str, u32, u32)>,
    ) -> bool {
        let Some(row) = self.nodes.get_mut(&number) else {
            return false;
        };
        let mut claimed = vec![0; row.pairs.len()];
        for (kind, device, milli) in claims {
            if let Some(at) = row.at(kind, device) {
                let all = u32::from(claimed[at]).saturating_add(milli);
                claimed[at] = all.min(DEVICE_MILLI.into()) as u16;
            }
        }
        let news = claimed != row.claimed;
        if news {
            row.claimed = claimed;
            self.stale.set(number, true);
        }
        news
    }

    /// True if the node had devices.
    pub fn remove(&mut self, index: &mut Index, number: u32) -> bool {
        let Some(row) = self.nodes.remove(&number) else {
            return false;
        };
        self.fleet.node_remove(row.id);
        self.beyond.set(number, false);
        self.stale.set(number, false);
        index.watched.set(number, false);
        true
    }

    /// Tells the fleet what has changed. A node that takes no containers has nothing left.
    pub fn sync(&mut self, index: &mut Index) {
        let mut stale = std::mem::take(&mut self.stale);
        stale.unite(&std::mem::take(&mut index.touched));
        for number in stale.iter() {
            let Some(row) = self.nodes.get(&number) else {
                continue;
            };
            if self.beyond.contains(number) {
                continue;
            }
            let free = match index.is_open(number) {
                true => index.free(number),
                false => Resources::default(),
            };
            let used: Vec<u16> = match index.is_open(number) {
                true => (0..row.pairs.len()).map(|at| row.used_milli(at)).collect(),
                false => vec![DEVICE_MILLI; row.pairs.len()],
            };
            self.fleet
                .node_has(row.id, free.cpu_milli, free.memory_bytes, &used);
        }
    }

    /// The node of those that `allowed` says yes to, and the devices there, for one container that
    /// asks for `asks` and `resources`. Nothing is held. The ledger is in sync.
    pub fn find(
        &mut self,
        resources: Resources,
        asks: &[pb::DeviceAsk],
        mut allowed: impl FnMut(u32) -> bool,
    ) -> Option<(u32, Vec<pb::DeviceShare>)> {
        let numbers = &self.numbers;
        let shape = shape(resources, asks);
        let found = self.fleet.find(&shape, |place| allowed(numbers[place]));
        if let Ok(Some(grant)) = found {
            let number = numbers[self.fleet.place_of(grant.node)?];
            let row = self.nodes.get(&number)?;
            let shares = grant.devices.iter();
            let shares = shares.map(|it| row.share(it.device.into(), it.milli));
            return Some((number, shares.collect::<Option<_>>()?));
        }
        let mut beyond = self.beyond.iter().filter(|number| allowed(*number));
        beyond.find_map(|number| Some((number, self.nodes.get(&number)?.choose(asks).ok()?)))
    }

    /// Devices on this very node, by best fit, or why they cannot be had.
    pub fn choose(
        &self,
        number: u32,
        asks: &[pb::DeviceAsk],
    ) -> Result<Vec<pb::DeviceShare>, String> {
        match (asks, self.nodes.get(&number)) {
            ([], _) => Ok(Vec::new()),
            (_, Some(row)) => row.choose(asks),
            ([first, ..], None) => Err(devices_missing(first, 0)),
        }
    }

    /// Whether binds on their way hold any of the node's devices.
    pub fn is_held(&self, number: u32) -> bool {
        let row = self.nodes.get(&number);
        row.is_some_and(|row| row.held.iter().any(|milli| *milli > 0))
    }

    pub fn hold(&mut self, number: u32, shares: &[pb::DeviceShare]) {
        self.change(number, shares, |held, milli| held.saturating_add(milli));
    }

    pub fn release(&mut self, number: u32, shares: &[pb::DeviceShare]) {
        self.change(number, shares, |held, milli| held.saturating_sub(milli));
    }

    fn change(&mut self, number: u32, shares: &[pb::DeviceShare], to: fn(u16, u16) -> u16) {
        let Some(row) = self.nodes.get_mut(&number).filter(|_| !shares.is_empty()) else {
            return;
        };
        if let Some(journal) = &mut self.journal {
            journal.push((number, row.held.clone()));
        }
        for share in shares {
            if let Some(at) = row.at(&share.kind, share.number) {
                row.held[at] = to(row.held[at], share.milli as u16).min(DEVICE_MILLI);
            }
        }
        self.stale.set(number, true);
    }

    /// How many containers of a service there are to be, and what each asks for; `None`: none that
    /// asks for devices. What is likely to be asked for follows from it, so that it does not depend on
    /// what was asked before this leader's time.
    pub fn demand(&mut self, service: ServiceId, wanted: Option<(DeviceAsk, u64)>) {
        if self.demand.get(&service) == wanted.as_ref() {
            return;
        }
        let before = match &wanted {
            Some(wanted) => self.demand.insert(service, wanted.clone()),
            None => self.demand.remove(&service),
        };
        if let Some((shape, count)) = before {
            self.count(&shape, |known| known.saturating_sub(count));
        }
        if let Some((shape, count)) = wanted {
            self.count(&shape, |known| known.saturating_add(count));
        }
    }

    fn count(&mut self, shape: &DeviceAsk, to: impl FnOnce(u64) -> u64) {
        let count = to(self.counts.get(shape).copied().unwrap_or_default());
        match count {
            0 => drop(self.counts.remove(shape)),
            count => drop(self.counts.insert(shape.clone(), count)),
        }
        // A shape that is out of the fleet's range is only ever found beyond it.
        let _out_of_range = self.fleet.count(shape, count);
    }

    /// From now on what is held can be undone.
    pub fn begin(&mut self) {
        self.journal = Some(Vec::new());
    }

    pub fn undo(&mut self) {
        for (number, held) in self.journal.take().unwrap_or_default().into_iter().rev() {
            if let Some(row) = self.nodes.get_mut(&number) {
                row.held = held;
                self.stale.set(number, true);
            }
        }
    }

    /// Everything that decisions depend on, numbers and places aside: nodes with what is used of
    /// them, what is demanded, and the order of nodes for each shape that is, by weights as they
    /// would be read now.
    #[cfg(test)]
    pub fn picture(&mut self) -> String {
        let nodes: BTreeMap<_, _> = self.nodes.values().map(|row| (row.id, row)).collect();
        let shapes: Vec<_> = self.counts.keys().cloned().collect();
        let orders = self.fleet.orders(&shapes);
        format!("{nodes:?} {:?} {orders:?}", self.counts)
    }
}

/// The fleet's words for what a container asks for: of several kinds it is had best of the one it
/// wants most of.
pub(in crate::scheduler) fn shape(resources: Resources, asks: &[pb::DeviceAsk]) -> DeviceAsk {
    let want = |ask: &pb::DeviceAsk| match ask.milli / u32::from(DEVICE_MILLI) {
        0 => Want::Share(ask.milli as u16),
        count => Want::Whole(u16::try_from(count).unwrap_or(u16::MAX)),
    };
    let most = asks.iter().map(|ask| ask.milli).max().unwrap_or_default();
    let first = asks.iter().position(|ask| ask.milli == most);
    let beside = asks.iter().enumerate().filter(|(at, _)| Some(*at) != first);
    let beside = beside.map(|(_, ask)| DeviceWant {
        kind: ask.kind.clone(),
        want: want(ask),
        models: ask.models.clone(),
    });
    let first = first.map(|at| &asks[at]);
    DeviceAsk {
        cpu_milli: resources.cpu_milli,
        memory_bytes: resources.memory_bytes,
        want: first.map_or(Want::Nothing, want),
        kind: first.map_or_else(String::new, |ask| ask.kind.clone()),
        models: first.map_or_else(Vec::new, |ask| ask.models.clone()),
        beside: beside.collect(),
    }
}
