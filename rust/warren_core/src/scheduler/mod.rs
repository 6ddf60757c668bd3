//! Where a container goes, and why not elsewhere.
//!
//! The scheduler proposes, [`State::apply`](crate::fsm::State::apply) verifies. It lives on the
//! leader only, in memory: an index over the nodes, rebuilt from the state when leadership is
//! taken, kept up with [`Scheduler::node_put`]. What it places it *holds* until told that the
//! bind took effect or came to nothing, so that two decisions in flight never count on the same
//! room.
//!
//! Nodes have dense numbers and lie in a square of 64 × 64 cells, by free CPU and free memory on
//! axes that are logarithmic (`level`, `lists`, `index`). A search looks at one cell of each line
//! (`search`), by what a placement would strand (`score`); its cost does not grow with the number
//! of nodes. Containers alike go in runs (`fill`), those that are to be balanced over a label's
//! values part by part (`balance`). Where there is no room, something of a lower priority may have
//! to end (`bands`, `preempt`, `victims`).
//!
//! Caveats. A node is the best of its cell's first few, and the cell the best by its lower corner:
//! placement is near the best score, not always at it. An ask that is refused, or whose rules
//! exclude nearly every node of the cells it looks at, costs a look at every node that may have
//! room. What a search finds first depends on the order in which nodes changed, so that a new
//! leader may choose another of two nodes that are equally good.

mod ask;
mod balance;
mod bands;
mod devices;
mod explain;
mod fill;
mod index;
mod level;
mod lists;
mod numbers;
mod place;
mod place_devices;
mod preempt;
mod score;
mod search;
mod sets;
mod tags;
#[cfg(test)]
mod tests;
mod victims;
mod worth;

use crate::fsm::{Node, Resources, State};
use crate::ids::NodeId;
use crate::scheduler::bands::Bands;
use crate::scheduler::devices::Ledger;
use crate::scheduler::fill::Counts;
use crate::scheduler::index::{Index, Load};
use crate::scheduler::lists::NONE;
use crate::scheduler::numbers::Numbers;
use crate::scheduler::tags::Tags;

pub use ask::{Affinity, Ask, Balance, Division, Placed, Rules, Strategy, Why};
pub use bands::Occupant;
pub use devices::{
    DEVICE_MILLI, DEVICES_MAX, DeviceAsk, DeviceFleet, DeviceGrant, DeviceNode, DeviceShare,
    DeviceWant, MODELS_MAX, Scarcity, Tuning, Want,
};
pub use explain::{Bytes, Cpus, Explanation, Reason};
pub use preempt::Preemption;
pub use sets::NodeSet;
pub use victims::VICTIMS_MAX;
pub use worth::Worth;

/// An id as two numbers to draw by.
fn words(id: [u8; 16]) -> [u64; 2] {
    let id = u128::from_le_bytes(id);
    [id as u64, (id >> 64) as u64]
}

/// What placement goes by of a node, its images apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Why it takes no container, whatever it is; `None` if it takes some.
    pub refusal: Option<&'static str>,
    pub allocatable: Resources,
    /// By containers that are bound to it, or kept for some to come.
    pub allocated: Resources,
    pub containers: u32,
}

/// The leader's index of nodes.
///
/// Invariants: `ids` and `numbers` are each other's inverse but for spare numbers; a node is open
/// in the index if it has no refusal.
#[derive(Debug, Default)]
pub struct Scheduler {
    seed: u64,
    numbers: Numbers,
    ids: Vec<NodeId>,
    spare: Vec<u32>,
    refusals: Vec<Option<&'static str>>,
    /// By manifest digest.
    images: Tags,
    index: Index,
    devices: Ledger,
    /// What containers hold by priority, where something preempts.
    bands: Option<Box<Bands>>,
    /// For the containers that nodes have of a service, and for those they get.
    scratch: (Counts, Counts),
}

impl Scheduler {
    /// `seed` decides between nodes that are equally good.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            devices: Ledger::new(seed),
            ..Self::default()
        }
    }

    /// Forgets everything, divisions too.
    pub fn clear(&mut self) {
        *self = Self::new(self.seed);
    }

    /// Forgets everything and takes the nodes as the state has them.
    pub fn rebuild(&mut self, state: &State) {
        self.clear();
        self.begin_filling();
        for node in state.nodes() {
            self.node_put(state, node);
        }
        self.filled();
        for service in state.services() {
            self.service_put(service.id, Some(service));
        }
    }

    /// Many nodes are put, and nothing is asked, until [`Scheduler::filled`]: cheaper than each put
    /// alone, and the same afterwards.
    pub fn begin_filling(&mut self) {
        self.index.begin_filling();
    }

    pub fn filled(&mut self) {
        self.index.filled();
    }

    /// Takes a node as the state has it now; what is held on it stays held.
    /// True if that is news to the scheduler.
    pub fn node_put(&mut self, state: &State, node: &Node) -> bool {
        let facts = NodeFacts {
            refusal: node.refusal(),
            allocatable: state.allocatable(node),
            allocated: state.node_taken(node.id),
            containers: state.container_count_of_node(node.id) as u32,
        };
        let images = node.description.images.iter();
        let images = images.map(|image| image.digest.as_str());
        let news = self.node_put_facts(node.id, facts, images);
        let devices = &node.description.devices;
        news | self.node_put_devices(node.id, devices, state.device_claims(node.id))
    }

    /// Like [`Scheduler::node_put`], for a node that no state needs to have; `images` are the
    /// manifest digests of those that it has.
    pub fn node_put_facts<'a>(
        &mut self,
        id: NodeId,
        facts: NodeFacts,
        images: impl Iterator<Item = &'a str>,
    ) -> bool {
        let (number, mut news) = self.number_or_new(id);
        let mut load = match news {
            true => Load::default(),
            false => self.index.load(number),
        };
        load.allocatable = facts.allocatable;
        load.allocated = facts.allocated;
        load.containers = facts.containers;
        let refusal = &mut self.refusals[number as usize];
        if let Some(bands) = self.bands.as_mut().filter(|_| news) {
            bands.forget(number);
        }
        if news || load != self.index.load(number) || facts.refusal != *refusal {
            *refusal = facts.refusal;
            let open = facts.refusal.is_none();
            self.index.put(number, load, open, words(id.0));
            news = true;
        }
        news | self.images.put(number, images)
    }

    /// Its number, and whether that was just given to it.
    fn number_or_new(&mut self, id: NodeId) -> (u32, bool) {
        if let Some(number) = self.numbers.get(id) {
            return (number, false);
        }
        let number = self.spare.pop().unwrap_or_else(|| {
            self.ids.push(id);
            self.refusals.push(None);
            self.ids.len() as u32 - 1
        });
        self.ids[number as usize] = id;
        self.numbers.insert(id, number);
        (number, true)
    }

    /// Takes over what a node's containers hold, cheaper than [`Scheduler::node_put`]. True if
    /// there is more room than before.
    pub fn node_refresh(&mut self, state: &State, id: NodeId) -> bool {
        let Some(number) = self.number(id) else {
            return false;
        };
        let before = self.index.load(number).allocated;
        let allocated = state.node_taken(id);
        let containers = state.container_count_of_node(id) as u32;
        self.index.take(number, |load| {
            load.allocated = allocated;
            load.containers = containers;
        });
        if !self.devices.is_empty() {
            self.devices.claim(number, state.device_claims(id));
        }
        before.saturating_sub(allocated) != Resources::default()
    }

    pub fn node_remove(&mut self, id: NodeId) {
        if let Some(number) = self.numbers.remove(id) {
            self.devices.remove(&mut self.index, number);
            self.index.remove(number);
            self.images.put(number, std::iter::empty());
            if let Some(bands) = &mut self.bands {
                bands.put(number, std::iter::empty());
            }
            self.refusals[number as usize] = None;
            self.spare.push(number);
        }
    }

    /// The dense number that sets know a node by; another node's once it is removed.
    pub fn number(&self, id: NodeId) -> Option<u32> {
        self.numbers.get(id)
    }

    /// The node with a number that [`Scheduler::number`] gave.
    pub fn node(&self, number: u32) -> Option<NodeId> {
        let id = *self.ids.get(number as usize)?;
        (self.numbers.get(id) == Some(number)).then_some(id)
    }

    /// Whether the node with that number takes containers with this image, whatever else they are.
    pub fn is_open(&self, number: u32, image_digest: &str) -> bool {
        let image = self.images.nodes(image_digest);
        self.index.is_open(number) && image.is_some_and(|nodes| nodes.contains(number))
    }

    /// Sets room for one container aside. [`Scheduler::place`] does so by itself.
    pub fn hold(&mut self, id: NodeId, resources: Resources) {
        if let Some(number) = self.number(id) {
            self.index.hold(number, resources, 1);
        }
    }

    /// Gives back what was held for one container.
    pub fn release(&mut self, id: NodeId, resources: Resources) {
        if let Some(number) = self.number(id) {
            self.index.release(number, resources, 1);
        }
    }

    /// A division of nodes into parts, with no node in it. Every fourth costs each node 64 bytes, each
    /// part 17 KiB, and every change of a node that is in one becomes a little dearer; twice that
    /// where something that asks for nothing was ever placed.
    pub fn division_add(&mut self) -> Division {
        Division(self.index.layer_add())
    }

    pub fn division_remove(&mut self, division: Division) {
        self.index.layer_remove(division.0);
    }

    /// Puts a node in a part, numbered from 0, or in none. O(1).
    pub fn division_set(&mut self, division: Division, id: NodeId, part: Option<u32>) {
        if let Some(number) = self.number(id) {
            let part = part.unwrap_or(NONE);
            self.index.layer_set(division.0, number, part);
        }
    }

    /// Nodes after `after`, in order, and whether each takes new containers, whatever these are.
    pub fn nodes_after(&self, after: Option<NodeId>) -> impl Iterator<Item = (NodeId, bool)> {
        let after = self.numbers.after(after);
        after.map(|(id, number)| (id, self.index.is_open(number)))
    }

    /// How many nodes [`Scheduler::explain`] looks at.
    pub fn node_count(&self) -> usize {
        self.numbers.len()
    }
}
