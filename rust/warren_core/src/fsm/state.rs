//! The replicated state and everything that is derived from it.
//!
//! Objects change through the few methods at the end, which keep every index and total right;
//! `apply` decides, they record. Clones are O(1): see `table`.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::Entry;

use crate::fsm::hash::{self, Sum};
use crate::fsm::members::Members;
use crate::fsm::objects::{Cluster, Container, ContainerState, Node, Resources, Revision, Service};
use crate::fsm::requests::{Remembered, Requests};
use crate::fsm::table::{Handle, Table};
use crate::ids::{ContainerId, Index, NodeId, ServiceId, SpecDigest, Term};
use crate::pb;

/// States a container can be in, the unspecified one included.
const CONTAINER_STATES: usize = ContainerState::Lost as usize + 1;

/// The state of the cluster after the entry at [`State::index`].
///
/// Invariants, besides those of the objects:
/// - what a container names (service, node, spec) exists;
/// - a slot of a service has at most one container that occupies it;
/// - `allocated` of a node is the sum of what its containers hold.
#[derive(Clone, Default)]
pub struct State {
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) time_ms: u64,
    pub(super) requests: Requests,
    pub(super) members: Members,
    index: Index,
    term: Term,
    services: Table<ServiceRow>,
    service_ids: OrdMap<ServiceId, Handle>,
    service_names: OrdMap<Arc<str>, Handle>,
    nodes: Table<NodeRow>,
    node_ids: OrdMap<NodeId, Handle>,
    containers: Table<Container>,
    container_ids: OrdMap<ContainerId, Handle>,
    specs: OrdMap<SpecDigest, SpecRow>,
    by_state: [u64; CONTAINER_STATES],
    /// Of services, nodes, containers and specs.
    sum: Sum,
}

#[derive(Clone)]
struct ServiceRow {
    service: Service,
    containers: OrdMap<(u64, ContainerId), Handle>,
}

#[derive(Clone)]
struct NodeRow {
    node: Node,
    containers: OrdMap<ContainerId, Handle>,
    allocated: Resources,
}

#[derive(Clone)]
struct SpecRow {
    spec: Arc<pb::ContainerSpec>,
    /// Services and containers that name it; the row goes with the last one.
    users: u32,
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
            .map(|handle| self.containers.get(*handle))
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
            .map(|handle| self.containers.get(*handle))
    }

    /// By slot, then id.
    pub fn containers_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Container> {
        let row = self.service_row(id).into_iter();
        row.flat_map(|row| row.containers.values())
            .map(|handle| self.containers.get(*handle))
    }

    pub fn container_count_of_service(&self, id: ServiceId) -> usize {
        self.service_row(id).map_or(0, |row| row.containers.len())
    }

    /// By id; those of every node for a global service's slot 0.
    pub fn containers_of_slot(&self, id: ServiceId, slot: u64) -> impl Iterator<Item = &Container> {
        let bounds = (slot, ContainerId([0; 16]))..=(slot, ContainerId([0xff; 16]));
        let row = self.service_row(id).into_iter();
        row.flat_map(move |row| row.containers.range(bounds.clone()))
            .map(|(_, handle)| self.containers.get(*handle))
    }

    /// By id.
    pub fn containers_of_node(&self, id: NodeId) -> impl Iterator<Item = &Container> {
        let row = self.node_row(id).into_iter();
        row.flat_map(|row| row.containers.values())
            .map(|handle| self.containers.get(*handle))
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

    /// Requests whose answers are remembered.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn objects_sum(&self) -> Sum {
        self.sum
    }

    pub(super) fn container_ids(&self) -> &OrdMap<ContainerId, Handle> {
        &self.container_ids
    }

    pub(super) fn node_ids(&self) -> &OrdMap<NodeId, Handle> {
        &self.node_ids
    }

    pub(super) fn service_ids(&self) -> &OrdMap<ServiceId, Handle> {
        &self.service_ids
    }

    fn service_row(&self, id: ServiceId) -> Option<&ServiceRow> {
        self.service_ids
            .get(&id)
            .map(|handle| self.services.get(*handle))
    }

    fn node_row(&self, id: NodeId) -> Option<&NodeRow> {
        self.node_ids.get(&id).map(|handle| self.nodes.get(*handle))
    }
}

/// Changes. Ids and names have been checked by the caller: a wrong one is a bug and panics.
impl State {
    pub(super) fn insert_service(&mut self, service: Service) {
        let (id, name) = (service.id, service.name.clone());
        self.sum.add(hash::service(&service));
        self.use_spec(service.spec_digest, || service.container_spec().clone());
        let handle = self.services.insert(ServiceRow {
            service,
            containers: OrdMap::new(),
        });
        assert!(
            self.service_ids.insert(id, handle).is_none(),
            "a service id is issued once"
        );
        assert!(
            self.service_names.insert(name, handle).is_none(),
            "a name has one service"
        );
    }

    /// `change` may touch anything but id and name.
    pub(super) fn update_service(&mut self, id: ServiceId, change: impl FnOnce(&mut Service)) {
        let handle = self.service_ids[&id];
        let service = &mut self.services.get_mut(handle).service;
        let before = service.spec_digest;
        self.sum.take(hash::service(service));
        change(service);
        self.sum.add(hash::service(service));
        let service = service.clone();
        self.use_spec(service.spec_digest, || service.container_spec().clone());
        self.drop_spec(before);
    }

    /// It has no containers any more.
    pub(super) fn remove_service(&mut self, id: ServiceId) {
        let handle = self.service_ids.remove(&id).expect("the service exists");
        let row = self.services.remove(handle);
        assert!(
            row.containers.is_empty(),
            "a service goes after its containers"
        );
        self.sum.take(hash::service(&row.service));
        self.service_names.remove(&row.service.name);
        self.drop_spec(row.service.spec_digest);
    }

    pub(super) fn put_node(&mut self, node: Node) {
        self.sum.add(hash::node(&node));
        match self.node_ids.get(&node.id) {
            Some(handle) => {
                let row = self.nodes.get_mut(*handle);
                self.sum.take(hash::node(&row.node));
                row.node = node;
            }
            None => {
                let id = node.id;
                let row = NodeRow {
                    node,
                    containers: OrdMap::new(),
                    allocated: <_>::default(),
                };
                self.node_ids.insert(id, self.nodes.insert(row));
            }
        }
    }

    /// Its service and node exist; its spec too, or `spec` gives it.
    pub(super) fn insert_container(
        &mut self,
        container: Container,
        spec: impl FnOnce() -> pb::ContainerSpec,
    ) {
        let (id, slot, held) = (container.id, container.slot, container.held());
        let service = self.service_ids[&container.service];
        let node = self.node_ids[&container.node];
        self.use_spec(container.spec_digest, spec);
        self.by_state[container.status.state as usize] += 1;
        self.sum.add(hash::container(&container));
        let handle = self.containers.insert(container);
        self.services
            .get_mut(service)
            .containers
            .insert((slot, id), handle);
        let node = self.nodes.get_mut(node);
        node.containers.insert(id, handle);
        node.allocated = node.allocated.saturating_add(held);
        assert!(
            self.container_ids.insert(id, handle).is_none(),
            "a container id is issued once"
        );
    }

    /// `change` may touch desired state and status.
    pub(super) fn update_container(
        &mut self,
        id: ContainerId,
        change: impl FnOnce(&mut Container),
    ) {
        let container = self.containers.get_mut(self.container_ids[&id]);
        let (state_before, held_before) = (container.status.state, container.held());
        self.sum.take(hash::container(container));
        change(container);
        self.sum.add(hash::container(container));
        let (state, held, node) = (container.status.state, container.held(), container.node);
        self.by_state[state_before as usize] -= 1;
        self.by_state[state as usize] += 1;
        if held != held_before {
            let row = self.nodes.get_mut(self.node_ids[&node]);
            row.allocated = row
                .allocated
                .saturating_sub(held_before)
                .saturating_add(held);
        }
    }

    pub(super) fn remove_container(&mut self, id: ContainerId) -> Container {
        let handle = self
            .container_ids
            .remove(&id)
            .expect("the container exists");
        let container = self.containers.remove(handle);
        self.by_state[container.status.state as usize] -= 1;
        self.sum.take(hash::container(&container));
        let service = self.services.get_mut(self.service_ids[&container.service]);
        service.containers.remove(&(container.slot, id));
        let node = self.nodes.get_mut(self.node_ids[&container.node]);
        node.containers.remove(&id);
        node.allocated = node.allocated.saturating_sub(container.held());
        self.drop_spec(container.spec_digest);
        container
    }

    fn use_spec(&mut self, digest: SpecDigest, spec: impl FnOnce() -> pb::ContainerSpec) {
        match self.specs.entry(digest) {
            Entry::Occupied(mut row) => row.get_mut().users += 1,
            Entry::Vacant(place) => {
                place.insert(SpecRow {
                    spec: Arc::new(spec()),
                    users: 1,
                });
                self.sum.add(hash::spec(&digest));
            }
        }
    }

    fn drop_spec(&mut self, digest: SpecDigest) {
        if let Entry::Occupied(mut row) = self.specs.entry(digest) {
            row.get_mut().users -= 1;
            if row.get().users == 0 {
                row.remove();
                self.sum.take(hash::spec(&digest));
            }
        }
    }
}
