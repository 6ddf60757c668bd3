//! The replicated state and everything that is derived from it.
//!
//! Objects change through the few methods of `changes`, which keep every index and total right;
//! `apply` decides, they record. Clones are O(1): see `table` and `id_map`.
//!
//! Containers lie with their nodes. What a worker reports is about one node, so that a batch finds
//! its containers in that node's small index and touches that node's pages only, however many
//! containers there are; and what a clone makes it copy is in proportion to the batch.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::error::Result;
use crate::fsm::claims::Claims;
use crate::fsm::hash::{Element, Sum};
use crate::fsm::id_map::IdMap;
use crate::fsm::members::Members;
use crate::fsm::nodes::RemovedNodes;
use crate::fsm::objects::{
    Cluster, Container, ContainerState, Node, NodeStatus, Origin, Resources, Revision, Service,
};
use crate::fsm::requests::{Remembered, RequestKey, Requests};
use crate::fsm::table::{Handle, Table};
use crate::fsm::tally::Counts;
use crate::ids::{ContainerId, Index, NodeId, ServiceId, SpecDigest, Term};
use crate::pb;

/// States a container can be in, the unspecified one included.
const CONTAINER_STATES: usize = ContainerState::Lost as usize + 1;

/// The state of the cluster after the entry at [`State::index`].
///
/// Invariants, besides those of the objects:
/// - what a container names (service, node, spec) exists;
/// - a slot of a service has at most one container that occupies it;
/// - `allocated` and `claims` of a node are what its containers hold.
#[derive(Clone, Default)]
pub struct State {
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) time_ms: u64,
    pub(super) requests: Requests,
    pub(super) members: Members,
    pub(super) removed_nodes: RemovedNodes,
    pub(super) services: Table<ServiceRow, 1>,
    pub(super) service_ids: IdMap<ServiceId, Handle>,
    pub(super) service_names: OrdMap<Arc<str>, Handle>,
    pub(super) nodes: Table<NodeRow, 1>,
    pub(super) node_ids: IdMap<NodeId, Handle>,
    pub(super) container_ids: IdMap<ContainerId, Place>,
    pub(super) specs: IdMap<SpecDigest, SpecRow>,
    /// Slots that room is kept for, and where.
    pub(super) holds: OrdSet<(ServiceId, u64, NodeId)>,
    pub(super) by_state: [u64; CONTAINER_STATES],
    /// Nodes that accept work.
    pub(super) accepting_nodes: u32,
    /// Nodes with taints.
    pub(super) tainted_nodes: u32,
    /// Workers that are ready, and that are down.
    pub(super) workers: Workers,
    /// Of services, nodes, containers and specs.
    pub(super) sum: Sum,
    pub(super) scratch: Scratch,
    index: Index,
    term: Term,
}

/// How many workers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    pub ready: u32,
    pub down: u32,
}

impl Workers {
    pub(super) fn add(&mut self, node: &Node) {
        *self.count_of(node) += u32::from(node.worker);
    }

    pub(super) fn take(&mut self, node: &Node) {
        *self.count_of(node) -= u32::from(node.worker);
    }

    fn count_of(&mut self, node: &Node) -> &mut u32 {
        match node.status {
            NodeStatus::Down => &mut self.down,
            _ => &mut self.ready,
        }
    }
}

/// Room to encode in; no part of the state, and of no clone.
#[derive(Default)]
pub(super) struct Scratch(pub Vec<u8>);

impl Clone for Scratch {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Containers a page: 3,056 bytes, which leaves little of an allocation of 3 KiB unused.
const CONTAINERS_PER_PAGE: usize = 19;

/// Where a container lies: on which node, and where in the node's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub node: Handle,
    pub record: Handle,
}

#[derive(Clone)]
pub(super) struct ServiceRow {
    pub service: Service,
    /// Of the containers that it gets now.
    pub origin: Arc<Origin>,
    pub containers: OrdMap<(u64, ContainerId), Place>,
    /// By spec and block of slots; see `tally`.
    pub counts: OrdMap<(SpecDigest, u64), Counts>,
}

impl ServiceRow {
    /// The highest slot that has a container; 0 if none has.
    pub fn last_slot(&self) -> u64 {
        self.containers.get_max().map_or(0, |((slot, _), _)| *slot)
    }
}

#[derive(Clone)]
pub(super) struct NodeRow {
    pub node: Node,
    pub records: Table<Record, CONTAINERS_PER_PAGE>,
    pub containers: IdMap<ContainerId, Handle>,
    pub allocated: Resources,
    pub claims: Claims,
    /// Containers that were given up with the node, and may still run there.
    pub lost: u32,
}

/// A container, and what it adds to the hash of the state.
#[derive(Clone)]
pub(super) struct Record {
    pub container: Container,
    pub element: Element,
}

#[derive(Clone)]
pub(super) struct SpecRow {
    pub spec: Arc<pb::ContainerSpec>,
    /// Services and containers that name it; the row goes with the last one.
    pub users: u32,
}

impl State {
    pub fn new() -> Self {
        Self::default()
    }

    /// `None` before the command that creates the cluster.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_deref()
    }

    /// Index of the last entry this state has seen.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Term of the entry at [`State::index`].
    pub fn term(&self) -> Term {
        self.term
    }

    /// The state's clock: the largest time any command carried. Data, decides nothing.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// What `apply` goes by and commands are built for; 1 before there is a cluster.
    pub fn feature_level(&self) -> u32 {
        self.cluster().map_or(1, |cluster| cluster.feature_level)
    }

    /// The position before the first event of the next entry.
    pub fn revision(&self) -> Revision {
        let epoch = self.cluster().map_or(0, |cluster| cluster.epoch);
        Revision {
            epoch,
            index: self.index.0,
            ordinal: 0,
        }
    }

    /// Notes an entry that holds no command: a leader's first, or a change of the configuration.
    pub fn advance(&mut self, index: Index, term: Term) {
        self.index = index;
        self.term = term;
    }

    /// By name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.service_names
            .values()
            .map(|handle| &self.services.get(*handle).service)
    }

    /// Ids after `after`, in order: for walks that stop and go on later.
    pub fn service_ids_after(&self, after: Option<ServiceId>) -> impl Iterator<Item = ServiceId> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.service_ids
            .range((from, std::ops::Bound::Unbounded))
            .map(|(id, _)| *id)
    }

    /// Like [`State::service_ids_after`].
    pub fn node_ids_after(&self, after: Option<NodeId>) -> impl Iterator<Item = NodeId> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.node_ids
            .range((from, std::ops::Bound::Unbounded))
            .map(|(id, _)| *id)
    }

    pub fn service_count(&self) -> usize {
        self.service_ids.len()
    }

    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.service_row(id).map(|row| &row.service)
    }

    pub fn service_by_name(&self, name: &str) -> Option<&Service> {
        self.service_names
            .get(name)
            .map(|handle| &self.services.get(*handle).service)
    }

    /// By id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.node_ids
            .values()
            .map(|handle| &self.nodes.get(*handle).node)
    }

    pub fn node_count(&self) -> usize {
        self.node_ids.len()
    }

    pub fn workers(&self) -> Workers {
        self.workers
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.node_row(id).map(|row| &row.node)
    }

    /// What its containers hold; nothing for an unknown node.
    pub fn node_allocated(&self, id: NodeId) -> Resources {
        self.node_row(id)
            .map(|row| row.allocated)
            .unwrap_or_default()
    }

    /// By id.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.container_ids
            .values()
            .map(|place| self.container_at(*place))
    }

    pub fn container_count(&self) -> usize {
        self.container_ids.len()
    }

    /// How many containers are in `state`.
    pub fn containers_in(&self, state: ContainerState) -> u64 {
        self.by_state[state as usize]
    }

    pub fn container(&self, id: ContainerId) -> Option<&Container> {
        self.container_ids
            .get(&id)
            .map(|place| self.container_at(*place))
    }

    /// By slot, then id.
    pub fn containers_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Container> {
        let row = self.service_row(id).into_iter();
        row.flat_map(|row| row.containers.values())
            .map(|place| self.container_at(*place))
    }

    /// By slot, then id, beginning with the first that is not before `from`: for walks that stop
    /// and go on later.
    pub fn containers_of_service_from(
        &self,
        id: ServiceId,
        from: (u64, ContainerId),
    ) -> impl Iterator<Item = &Container> {
        let row = self.service_row(id).into_iter();
        row.flat_map(move |row| row.containers.range(from..))
            .map(|(_, place)| self.container_at(*place))
    }

    pub fn container_count_of_service(&self, id: ServiceId) -> usize {
        self.service_row(id).map_or(0, |row| row.containers.len())
    }

    /// By id; those of every node for a global service's slot 0.
    pub fn containers_of_slot(&self, id: ServiceId, slot: u64) -> impl Iterator<Item = &Container> {
        let bounds = (slot, ContainerId([0; 16]))..=(slot, ContainerId([0xff; 16]));
        // A service that grows has none there yet: to look for one would cost more.
        let row = self.service_row(id).filter(|row| row.last_slot() >= slot);
        row.into_iter()
            .flat_map(move |row| row.containers.range(bounds.clone()))
            .map(|(_, place)| self.container_at(*place))
    }

    /// By id.
    pub fn containers_of_node(&self, id: NodeId) -> impl Iterator<Item = &Container> {
        let row = self.node_row(id).into_iter();
        row.flat_map(|row| {
            let handles = row.containers.values();
            handles.map(|handle| &row.records.get(*handle).container)
        })
    }

    /// Those after `after`, by id: for walks that stop and go on later.
    pub fn containers_of_node_after(
        &self,
        id: NodeId,
        after: Option<ContainerId>,
    ) -> impl Iterator<Item = &Container> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let row = self.node_row(id).into_iter();
        row.flat_map(move |row| {
            let handles = row.containers.range((from, std::ops::Bound::Unbounded));
            handles.map(|(_, handle)| &row.records.get(*handle).container)
        })
    }

    pub fn container_count_of_node(&self, id: NodeId) -> usize {
        self.node_row(id).map_or(0, |row| row.containers.len())
    }

    /// A spec that some service or container names.
    pub fn spec(&self, digest: &SpecDigest) -> Option<&Arc<pb::ContainerSpec>> {
        self.specs.get(digest).map(|row| &row.spec)
    }

    pub(super) fn specs(&self) -> impl Iterator<Item = (&SpecDigest, &Arc<pb::ContainerSpec>)> {
        self.specs.iter().map(|(digest, row)| (digest, &row.spec))
    }

    /// What was answered to a request, if it is still remembered.
    pub fn request(&self, client: &[u8; 16], sequence: u64) -> Option<&Remembered> {
        self.requests.get(client, sequence)
    }

    /// What a repetition of a request is answered: what the request was, or that this is not known
    /// any more. `None` for a new one.
    pub fn answered(&self, key: &RequestKey) -> Option<Result<Vec<u8>>> {
        self.requests.lookup(key)
    }

    /// Requests whose answers are remembered.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn objects_sum(&self) -> Sum {
        self.sum
    }

    pub(super) fn container_ids(&self) -> &IdMap<ContainerId, Place> {
        &self.container_ids
    }

    pub(super) fn node_ids(&self) -> &IdMap<NodeId, Handle> {
        &self.node_ids
    }

    pub(super) fn service_ids(&self) -> &IdMap<ServiceId, Handle> {
        &self.service_ids
    }

    pub(super) fn container_at(&self, place: Place) -> &Container {
        &self
            .nodes
            .get(place.node)
            .records
            .get(place.record)
            .container
    }

    /// Where the container lies, and it, if it is one of this node's.
    pub(super) fn container_on(
        &self,
        node: Handle,
        id: ContainerId,
    ) -> Option<(Place, &Container)> {
        let row = self.nodes.get(node);
        let record = *row.containers.get(&id)?;
        Some((Place { node, record }, &row.records.get(record).container))
    }

    pub(super) fn service_row(&self, id: ServiceId) -> Option<&ServiceRow> {
        self.service_ids
            .get(&id)
            .map(|handle| self.services.get(*handle))
    }

    pub(super) fn node_row(&self, id: NodeId) -> Option<&NodeRow> {
        self.node_ids.get(&id).map(|handle| self.nodes.get(*handle))
    }
}
