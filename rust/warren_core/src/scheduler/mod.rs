//! Where a container goes, and why not elsewhere.
//!
//! The scheduler proposes, [`State::apply`](crate::fsm::State::apply) verifies. It lives on the
//! leader only, in memory: an index over the nodes, rebuilt from the state when leadership is
//! taken, kept up with [`Scheduler::node_put`]. What it places it *holds* until told that the
//! bind took effect or came to nothing, so that two decisions in flight never count on the same
//! room.
//!
//! Placement fills what is asked one container at a time: first the node with the fewest
//! containers of the service, then the one that strands least (see `score`), then the emptiest,
//! then by a seeded draw. It is a plain scan, O(nodes + count log nodes).

mod devices;
mod explain;
mod place;
mod score;

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::{Avoided, Node, Resources, Service, State};
use crate::ids::{NodeId, ServiceId};

pub use devices::{
    DEVICE_MILLI, DEVICES_MAX, DeviceAsk, DeviceFleet, DeviceGrant, DeviceNode, DeviceShare,
    MODELS_MAX, Scarcity, Tuning, Want,
};
pub use explain::{Explanation, Reason};

/// What is to be placed: `count` containers alike.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub service: ServiceId,
    pub resources: Resources,
    pub count: u32,
    /// In full, for people.
    pub image: &'a str,
    /// Manifest digest; a node without these bytes is not considered.
    pub image_digest: &'a str,
    /// Containers of the service that each node has and keeps.
    pub spread: &'a BTreeMap<NodeId, u32>,
    pub rules: Rules<'a>,
}

/// What keeps containers off a node beside the room on it: the placement of their service, ports and
/// devices. Nothing, by default.
#[derive(Clone, Default)]
pub struct Rules<'a>(Option<(&'a State, &'a Service)>, Vec<Avoided>);

impl<'a> Rules<'a> {
    /// `spread`: as in the ask.
    pub fn of(state: &'a State, service: &'a Service, spread: &BTreeMap<NodeId, u32>) -> Self {
        let own = spread.iter().filter(|(_, count)| **count > 0);
        let avoided = state.avoided(service, own.map(|(id, _)| *id));
        Self(Some((state, service)), avoided)
    }

    fn refusal(&self, id: NodeId) -> Option<String> {
        let (state, service) = self.0?;
        let node = state.node(id)?;
        let apart = || self.1.iter().find_map(|avoided| avoided.refusal(node));
        state.refusal(service, node).or_else(apart)
    }

    /// What is avoided once a container goes to the node; `None` if it may not.
    fn taken(&self, avoided: &mut [Avoided], id: NodeId) -> Option<()> {
        let Some((state, _)) = self.0 else {
            return Some(());
        };
        let node = state.node(id)?;
        if avoided
            .iter()
            .any(|avoided| avoided.refusal(node).is_some())
        {
            return None;
        }
        avoided.iter_mut().for_each(|avoided| avoided.add_own(node));
        Some(())
    }

    /// As if what the service itself holds on the node were free.
    fn refusal_of_successor(&self, id: NodeId) -> Option<String> {
        let (state, service) = self.0?;
        service.rules.refusal(state.node(id)?)
    }

    /// Containers of the service that one node may have.
    fn most(&self) -> u32 {
        self.0
            .map_or(u32::MAX, |(_, service)| service.per_node_max())
    }
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rules")
            .field(&self.0.map(|(_, service)| service.id))
            .finish()
    }
}

/// Where they go. Invariant: the counts in `binds` and `refused` add up to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Placed {
    /// By node id, each node once.
    pub binds: Vec<(NodeId, u32)>,
    pub refused: u32,
}

/// The leader's index of nodes.
#[derive(Debug)]
pub struct Scheduler {
    seed: u64,
    nodes: BTreeMap<NodeId, Candidate>,
}

/// A node, as far as placement goes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    refusal: Option<&'static str>,
    allocatable: Resources,
    allocated: Resources,
    containers: u32,
    images: BTreeSet<String>,
    /// For binds that are not applied yet.
    held: Resources,
    held_containers: u32,
}

impl Candidate {
    fn free(&self) -> Resources {
        self.allocatable
            .saturating_sub(self.allocated)
            .saturating_sub(self.held)
    }
}

impl Scheduler {
    /// `seed` decides between nodes that are equally good.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: BTreeMap::new(),
        }
    }

    pub fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Forgets everything and takes the nodes as the state has them.
    pub fn rebuild(&mut self, state: &State) {
        self.clear();
        for node in state.nodes() {
            self.node_put(state, node);
        }
    }

    /// Takes a node as the state has it now; what is held on it stays held.
    /// True if that is news to the scheduler.
    pub fn node_put(&mut self, state: &State, node: &Node) -> bool {
        let known = self.nodes.get(&node.id);
        let candidate = Candidate {
            refusal: node.refusal(),
            allocatable: state.allocatable(node),
            allocated: state.node_allocated(node.id),
            containers: state.container_count_of_node(node.id) as u32,
            images: node
                .description
                .images
                .iter()
                .map(|image| image.digest.clone())
                .collect(),
            held: known.map(|known| known.held).unwrap_or_default(),
            held_containers: known.map_or(0, |known| known.held_containers),
        };
        let news = known != Some(&candidate);
        self.nodes.insert(node.id, candidate);
        news
    }

    /// Takes over what a node's containers hold, cheaper than [`Scheduler::node_put`]. True if
    /// there is more room than before.
    pub fn node_refresh(&mut self, state: &State, id: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else {
            return false;
        };
        let before = node.allocated;
        node.allocated = state.node_allocated(id);
        node.containers = state.container_count_of_node(id) as u32;
        node.allocated.cpu_milli < before.cpu_milli
            || node.allocated.memory_bytes < before.memory_bytes
            || node.allocated.disk_bytes < before.disk_bytes
            || node.allocated.pids < before.pids
    }

    pub fn node_remove(&mut self, id: NodeId) {
        self.nodes.remove(&id);
    }

    /// Sets room for one container aside. [`Scheduler::place`] does so by itself.
    pub fn hold(&mut self, id: NodeId, resources: Resources) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.held = node.held.saturating_add(resources);
            node.held_containers += 1;
        }
    }

    /// Gives back what was held for one container.
    pub fn release(&mut self, id: NodeId, resources: Resources) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.held = node.held.saturating_sub(resources);
            node.held_containers = node.held_containers.saturating_sub(1);
        }
    }

    /// Nodes after `after`, in order, and whether each takes new containers, whatever these are.
    pub fn nodes_after(&self, after: Option<NodeId>) -> impl Iterator<Item = (NodeId, bool)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.nodes
            .range((from, std::ops::Bound::Unbounded))
            .map(|(id, node)| (*id, node.refusal.is_none()))
    }

    /// How many nodes a scan over all of them looks at.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }
}
