//! The only ways in which objects change: every index, total and the hash change with them.
//!
//! Ids and names have been checked by the caller: a wrong one is a bug and panics.

use std::sync::Arc;

use imbl::OrdMap;

use crate::fsm::claims::{Claims, claims_by_name};
use crate::fsm::hash;
use crate::fsm::holds::Hold;
use crate::fsm::id_map::IdMap;
use crate::fsm::objects::{Container, Node, Resources, Service};
use crate::fsm::state::{NodeRow, Place, Record, ServiceRow, SpecRow, State};
use crate::fsm::table::{Handle, Table};
use crate::fsm::tally::{Counts, is_ready};
use crate::ids::{ContainerId, NodeId, ServiceId, SpecDigest};
use crate::pb;

impl State {
    pub(super) fn insert_service(&mut self, service: Service) {
        let (id, name) = (service.id, service.name.clone());
        self.sum.add(hash::service(&service));
        self.use_spec(service.spec_digest, || service.container_spec().clone());
        let handle = self.services.insert(ServiceRow {
            origin: Arc::new(service.origin()),
            service,
            containers: OrdMap::new(),
            counts: OrdMap::new(),
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
        let row = self.services.get_mut(handle);
        let before = row.service.spec_digest;
        self.sum.take(hash::service(&row.service));
        change(&mut row.service);
        self.sum.add(hash::service(&row.service));
        row.origin = Arc::new(row.service.origin());
        let service = row.service.clone();
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

    /// O(1), but O(containers of the node) where it becomes ready or is no longer.
    pub(super) fn put_node(&mut self, mut node: Node) {
        if !node.holds.is_empty() && !node.accepts_work() {
            node.holds = Arc::default();
        }
        self.note_holds(&node);
        self.sum.add(hash::node(&node));
        self.accepting_nodes += u32::from(node.accepts_work());
        self.tainted_nodes += u32::from(node.is_tainted());
        self.workers.add(&node);
        let Some(handle) = self.node_ids.get(&node.id).copied() else {
            let id = node.id;
            let row = NodeRow {
                node,
                records: Table::default(),
                containers: IdMap::default(),
                allocated: Resources::default(),
                claims: Claims::default(),
                lost: 0,
            };
            let handle = self.nodes.insert(row);
            self.node_ids.insert(id, handle);
            return;
        };
        let row = self.nodes.get_mut(handle);
        let before = std::mem::replace(&mut row.node, node);
        self.sum.take(hash::node(&before));
        self.accepting_nodes -= u32::from(before.accepts_work());
        self.tainted_nodes -= u32::from(before.is_tainted());
        self.workers.take(&before);
        let (was, is) = (is_ready(&before), is_ready(&row.node));
        if was != is {
            self.recount_node(handle, was, is);
        }
    }

    /// It has no containers any more.
    pub(super) fn drop_node(&mut self, id: NodeId) {
        let handle = self.node_ids.remove(&id).expect("the node exists");
        let row = self.nodes.remove(handle);
        assert!(
            row.containers.is_empty(),
            "a node goes after its containers"
        );
        for hold in row.node.holds.iter() {
            self.holds.remove(&(hold.service, hold.slot, id));
        }
        self.sum.take(hash::node(&row.node));
        self.accepting_nodes -= u32::from(row.node.accepts_work());
        self.tainted_nodes -= u32::from(row.node.is_tainted());
        self.workers.take(&row.node);
    }

    /// Before the node is put.
    fn note_holds(&mut self, node: &Node) {
        let key = |node: NodeId| move |hold: &Hold| (hold.service, hold.slot, node);
        let before = self.node(node.id).map(|known| known.holds.clone());
        for hold in before.unwrap_or_default().iter().map(key(node.id)) {
            self.holds.remove(&hold);
        }
        self.holds.extend(node.holds.iter().map(key(node.id)));
    }

    /// Its containers count for their services as on a node that `is` ready or not.
    fn recount_node(&mut self, node: Handle, was: bool, is: bool) {
        for Record { container, .. } in self.nodes.get(node).records.iter() {
            let (before, now) = (Counts::of(container, was), Counts::of(container, is));
            if before != now {
                let service = self.service_ids[&container.service];
                let row = self.services.get_mut(service);
                row.recount(container.spec_digest, container.slot, before, now);
            }
        }
    }

    /// `service` and `node` are those that it names; its spec exists, or `spec` gives it.
    pub(super) fn insert_container(
        &mut self,
        container: Container,
        service: Handle,
        node: Handle,
        spec: impl FnOnce() -> pb::ContainerSpec,
    ) {
        let (id, slot) = (container.id, container.slot);
        let (place, of_service, of_node) = self.insert_record(container, service, node, spec);
        of_node.containers.insert(id, place.record);
        of_service.containers.insert((slot, id), place);
        assert!(
            self.container_ids.insert(id, place).is_none(),
            "a container id is issued once"
        );
    }

    /// [`State::insert_container`] but for what finds it by its id, node or service; with the rows of
    /// these two.
    pub(super) fn insert_record(
        &mut self,
        container: Container,
        service: Handle,
        node: Handle,
        spec: impl FnOnce() -> pb::ContainerSpec,
    ) -> (Place, &mut ServiceRow, &mut NodeRow) {
        let (digest, slot) = (container.spec_digest, container.slot);
        let named = self.use_spec(digest, spec);
        self.by_state[container.status.state as usize] += 1;
        let element = hash::container(&container, &mut self.scratch.0);
        self.sum.add(element);
        let of_node = self.nodes.get_mut(node);
        of_node.allocated = of_node.allocated.saturating_add(container.held());
        if !container.is_terminal() {
            of_node.claims.take(named.as_deref(), container.devices());
        }
        of_node.lost += u32::from(container.is_lost());
        let counts = Counts::of(&container, is_ready(&of_node.node));
        let record = of_node.records.insert(Record { container, element });
        let of_service = self.services.get_mut(service);
        of_service.recount(digest, slot, Counts::default(), counts);
        (Place { node, record }, of_service, of_node)
    }

    /// `change` may touch desired state and status.
    pub(super) fn update_container(
        &mut self,
        place: Place,
        change: impl FnOnce(&mut Container),
    ) -> &Container {
        let row = self.nodes.get_mut(place.node);
        let ready = is_ready(&row.node);
        let Record { container, element } = row.records.get_mut(place.record);
        let (state_before, held_before) = (container.status.state, container.held());
        let held_any_before = !container.is_terminal();
        row.lost -= u32::from(container.is_lost());
        let counts_before = Counts::of(container, ready);
        self.sum.take(*element);
        change(container);
        *element = hash::container(container, &mut self.scratch.0);
        self.sum.add(*element);
        self.by_state[state_before as usize] -= 1;
        self.by_state[container.status.state as usize] += 1;
        row.lost += u32::from(container.is_lost());
        row.allocated = row
            .allocated
            .saturating_sub(held_before)
            .saturating_add(container.held());
        if held_any_before && container.is_terminal() {
            let spec = &self.specs[&container.spec_digest].spec;
            row.claims.give(Some(spec), container.devices());
        }
        let counts = Counts::of(container, ready);
        if counts != counts_before {
            let service = self.service_ids[&container.service];
            let row = self.services.get_mut(service);
            row.recount(container.spec_digest, container.slot, counts_before, counts);
        }
        container
    }

    pub(super) fn remove_container(&mut self, id: ContainerId) {
        let place = self
            .container_ids
            .remove(&id)
            .expect("the container exists");
        let row = self.nodes.get_mut(place.node);
        let Record { container, element } = row.records.remove(place.record);
        row.containers.remove(&id);
        row.allocated = row.allocated.saturating_sub(container.held());
        row.lost -= u32::from(container.is_lost());
        if !container.is_terminal() {
            let spec = &self.specs[&container.spec_digest].spec;
            row.claims.give(Some(spec), container.devices());
        }
        let counts = Counts::of(&container, is_ready(&row.node));
        self.by_state[container.status.state as usize] -= 1;
        self.sum.take(element);
        let (digest, slot) = (container.spec_digest, container.slot);
        let row = self.services.get_mut(self.service_ids[&container.service]);
        row.containers.remove(&(slot, id));
        row.recount(digest, slot, counts, Counts::default());
        self.drop_spec(digest);
    }

    /// The spec, if it claims anything by name: most do not, and it is not looked up again for those.
    fn use_spec(
        &mut self,
        digest: SpecDigest,
        spec: impl FnOnce() -> pb::ContainerSpec,
    ) -> Option<Arc<pb::ContainerSpec>> {
        if let Some(row) = self.specs.get_mut(&digest) {
            row.users += 1;
            return claims_by_name(&row.spec).then(|| Arc::clone(&row.spec));
        }
        let spec = Arc::new(spec());
        let used = claims_by_name(&spec).then(|| Arc::clone(&spec));
        self.specs.insert(digest, SpecRow { spec, users: 1 });
        self.sum.add(hash::spec(&digest));
        used
    }

    fn drop_spec(&mut self, digest: SpecDigest) {
        if let Some(row) = self.specs.get_mut(&digest) {
            row.users -= 1;
            if row.users == 0 {
                self.specs.remove(&digest);
                self.sum.take(hash::spec(&digest));
            }
        }
    }
}
