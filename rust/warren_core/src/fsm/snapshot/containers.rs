//! Containers on their way into a state, of which there may be a million: they come by id, and so
//! what finds them is built at the end, index by index and in the order of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::read::broken;
use crate::error::Result;
use crate::fsm::objects::{Container, Origin};
use crate::fsm::parse::{self, ContainerFields};
use crate::fsm::state::{Place, State};
use crate::fsm::table::Handle;
use crate::ids::{ContainerId, NodeId, ServiceId, SpecDigest};
use crate::pb;

/// Invariant: every place is one of a record of the state, in no index yet.
#[derive(Default)]
pub(super) struct Containers {
    /// Ascending.
    ids: Vec<(ContainerId, Place)>,
    by_service: BTreeMap<Handle, Vec<(u64, ContainerId, Place)>>,
    /// Of the container before of the same version of a service.
    origins: BTreeMap<(Handle, u64), Arc<Origin>>,
    /// Of the container before: most say the same.
    message: Arc<str>,
}

impl Containers {
    /// Understands a container and takes it in. `specs` are those that containers may name.
    pub fn restore(
        &mut self,
        state: &mut State,
        specs: &BTreeMap<SpecDigest, pb::ContainerSpec>,
        bytes: &[u8],
    ) -> Result<()> {
        match parse::container(bytes) {
            Some(fields) => self.take_in(state, specs, &fields),
            None => {
                let message: pb::Container = super::read::message(bytes)?;
                self.take_in(state, specs, &(&message).into())
            }
        }
    }

    fn take_in(
        &mut self,
        state: &mut State,
        specs: &BTreeMap<SpecDigest, pb::ContainerSpec>,
        fields: &ContainerFields<'_>,
    ) -> Result<()> {
        let service = ServiceId::from_slice(fields.service_id)?;
        let service = state.service_ids.get(&service).copied();
        let node = NodeId::from_slice(fields.node_id)?;
        let node = state.node_ids.get(&node).copied();
        let (Some(service), Some(node)) = (service, node) else {
            return Err(broken("the service or node of a container is missing"));
        };
        let of_version = (service, fields.service_version);
        let known = || Arc::clone(&state.services.get(service).origin);
        let origin = self.origins.entry(of_version).or_insert_with(known);
        let container = Container::sharing(origin, &mut self.message, fields)?;
        let (id, slot, digest) = (container.id, container.slot, container.spec_digest);
        if self.ids.last().is_some_and(|(last, _)| *last >= id) {
            return Err(broken("a container is in it twice, or not in its place"));
        }
        if state.spec(&digest).is_none() && !specs.contains_key(&digest) {
            return Err(broken("the spec of a container is missing"));
        }
        let spec = || specs[&digest].clone();
        let (place, ..) = state.insert_record(container, service, node, spec);
        self.ids.push((id, place));
        let of_service = self.by_service.entry(service).or_default();
        of_service.push((slot, id, place));
        Ok(())
    }

    /// Makes what was taken in to be found.
    pub fn finish(self, state: &mut State) {
        for (service, mut containers) in self.by_service {
            containers.sort_unstable_by_key(|(slot, id, _)| (*slot, *id));
            let of_service = &mut state.services.get_mut(service).containers;
            for (slot, id, place) in containers {
                of_service.insert((slot, id), place);
            }
        }
        let mut by_node: BTreeMap<Handle, Vec<(ContainerId, Handle)>> = BTreeMap::new();
        for (id, place) in &self.ids {
            let of_node = by_node.entry(place.node).or_default();
            of_node.push((*id, place.record));
        }
        for (node, containers) in by_node {
            state.nodes.get_mut(node).containers.extend(containers);
        }
        state.container_ids.extend(self.ids);
    }
}
