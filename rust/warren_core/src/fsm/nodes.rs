//! Nodes that were taken out, until they are let in again.
//!
//! A worker that was removed may still run, hold a valid certificate, and speak up at any time. What
//! it says of itself would make it a node again, behind the back of whoever removed it; so its id is
//! remembered, and only a request to be let in ([`State::admit_node`]) forgets it.

use imbl::{OrdSet, Vector};

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::hash::{self, Sum};
use crate::fsm::objects::Event;
use crate::fsm::state::State;
use crate::ids::{ContainerId, NodeId};
use crate::pb;

/// Removed nodes that are remembered; the longest removed is forgotten first.
pub const REMOVED_NODES_MAX: usize = 1024;

/// Invariants: `ids` holds those of `order`, each once, at most [`REMOVED_NODES_MAX`]; `sum` is the
/// hash of `order`.
#[derive(Clone, Default)]
pub(super) struct RemovedNodes {
    ids: OrdSet<NodeId>,
    order: Vector<NodeId>,
    sum: Sum,
}

impl RemovedNodes {
    pub fn contains(&self, id: NodeId) -> bool {
        self.ids.contains(&id)
    }

    /// The longest removed first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.order.iter().copied()
    }

    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// Notes that `id` was removed; nothing changes if it is known.
    pub fn bury(&mut self, id: NodeId) {
        if self.ids.insert(id).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMOVED_NODES_MAX {
            let forgotten = self.order.pop_front().expect("it is not empty");
            self.ids.remove(&forgotten);
        }
        self.resum();
    }

    pub fn forget(&mut self, id: NodeId) {
        if self.ids.remove(&id).is_some() {
            self.order.retain(|known| *known != id);
            self.resum();
        }
    }

    fn resum(&mut self) {
        self.sum = Sum::default();
        if let Some(element) = hash::removed_nodes(self.iter()) {
            self.sum.add(element);
        }
    }
}

impl State {
    /// Whether the node was taken out and has not been let in again.
    pub fn is_removed_node(&self, id: NodeId) -> bool {
        self.removed_nodes.contains(id)
    }

    /// Refuses what a node that was taken out says of itself.
    pub fn check_not_removed(&self, id: NodeId) -> Result<()> {
        if self.is_removed_node(id) {
            let node = id.to_string();
            return Err(Error::NodeRemoved { node });
        }
        Ok(())
    }

    pub(super) fn admit_node(&mut self, admit: &pb::AdmitNode) -> Result<Vec<u8>> {
        let id = NodeId::from_slice(&admit.node_id)?;
        self.removed_nodes.forget(id);
        Ok(Vec::new())
    }

    /// O(containers of the node): each is gone with it, and its slot is free.
    pub(super) fn remove_node(
        &mut self,
        cx: &mut Context,
        remove: &pb::RemoveNode,
    ) -> Result<Vec<u8>> {
        let id = NodeId::from_slice(&remove.node_id)?;
        if self.members().any(|member| member.node == id) {
            let why = "it is a manager; demote it first: warrenctl node demote";
            return Err(invalid("node", why));
        }
        if self.node(id).is_none() {
            if self.is_removed_node(id) {
                return Ok(Vec::new());
            }
            return Err(not_found(NodeId::KIND, id));
        }
        let containers: Vec<ContainerId> = self.containers_of_node(id).map(|c| c.id).collect();
        for container in containers {
            let service = self.container(container).map(|known| known.service);
            self.remove_container(container);
            cx.events.extend(service.map(|service| Event::Container {
                id: container,
                service,
                node: id,
                gone: true,
            }));
        }
        self.drop_node(id);
        self.removed_nodes.bury(id);
        cx.events.push(Event::Node { id });
        Ok(Vec::new())
    }
}
