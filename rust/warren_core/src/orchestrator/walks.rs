//! Who has to be marked, where that is a walk over many: taken up by an event at once, gone on with
//! as the budget of each step allows.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use crate::fsm::State;
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::budget::Meter;

/// How far a walk is: begun, or behind the key.
type After<K> = Option<K>;

/// Walks that are under way; `None` or absent: not.
#[derive(Debug, Default)]
pub(super) struct Walks {
    /// Over all nodes and then all services, when leadership is taken.
    lead_nodes: Option<After<NodeId>>,
    lead_services: Option<After<ServiceId>>,
    /// Over the containers of nodes that changed.
    nodes: BTreeMap<NodeId, After<ContainerId>>,
    /// Over services with one slot per node.
    globals: Option<After<ServiceId>>,
    /// Over services that wait for a node.
    waiting: Option<After<ServiceId>>,
}

impl Walks {
    /// Leadership begins.
    pub fn lead(&mut self) {
        self.lead_nodes = Some(None);
        self.lead_services = Some(None);
    }

    /// A node changed: what runs there is concerned, and who has a slot on each node.
    pub fn node(&mut self, id: NodeId) {
        self.nodes.insert(id, None);
        self.globals = Some(None);
    }

    /// What waits for a node may have one for another reason than room.
    pub fn waiting(&mut self) {
        self.waiting = Some(None);
    }

    pub fn is_idle(&self) -> bool {
        self.lead_services.is_none()
            && self.nodes.is_empty()
            && self.globals.is_none()
            && self.waiting.is_none()
    }
}

impl Orchestrator {
    /// Goes on with every walk, one after the other. False if the looks did not suffice.
    pub(super) fn walk(&mut self, state: &State, meter: &mut Meter) -> bool {
        while !self.walks.is_idle() {
            if !meter.try_look() {
                return false;
            }
            if let Some(after) = self.walks.lead_nodes {
                if !self.learn_node(state, after, meter) {
                    return false;
                }
            } else if let Some(after) = self.walks.lead_services {
                let next = state.service_ids_after(after).next();
                self.walks.lead_services = next.map(Some);
                if let Some(service) = next.and_then(|id| state.service(id)) {
                    self.learn_urgency(state, service.id);
                    self.mark(service.id);
                    self.scheduler.service_put(service.id, Some(service));
                    if service.is_global() {
                        self.globals.insert(service.id);
                    }
                }
            } else if let Some((&node, &after)) = self.walks.nodes.first_key_value() {
                self.mark_containers(state, node, after, meter);
            } else if let Some(after) = self.walks.globals {
                let next = self.globals.range((from(after), Unbounded)).next().copied();
                self.walks.globals = next.map(Some);
                next.into_iter().for_each(|id| self.mark(id));
            } else if let Some(after) = self.walks.waiting {
                let next = self.waiting_after(after);
                self.walks.waiting = next.map(Some);
                next.into_iter().for_each(|id| self.mark(id));
            }
        }
        true
    }

    /// Takes the next node in. False if it is for a later step.
    fn learn_node(&mut self, state: &State, after: After<NodeId>, meter: &mut Meter) -> bool {
        let next = state.node_ids_after(after).next();
        if let Some(node) = next.and_then(|id| state.node(id)) {
            let images = node.description.images.len();
            if !meter.affords(images) {
                return false;
            }
            meter.look(images);
            self.node_put(state, node);
            self.liveness.known(node);
        }
        self.walks.lead_nodes = next.map(Some);
        true
    }

    fn mark_containers(
        &mut self,
        state: &State,
        node: NodeId,
        after: After<ContainerId>,
        meter: &mut Meter,
    ) {
        let mut last = None;
        for container in state.containers_of_node_after(node, after) {
            last = Some(container.id);
            self.mark(container.service);
            if !meter.try_look() {
                break;
            }
        }
        match last {
            Some(id) => self.walks.nodes.insert(node, Some(id)),
            None => self.walks.nodes.remove(&node),
        };
    }

    fn waiting_after(&self, after: After<ServiceId>) -> Option<ServiceId> {
        let bounds = (from(after), Unbounded);
        let pending = self.pending.first_of(bounds);
        let blocked = self.blocked.range(bounds).next().map(|(id, _)| *id);
        // It may wait in the end.
        let looking = self.passes.range(bounds).next().map(|(id, _)| *id);
        let waiting = pending.into_iter().chain(blocked);
        waiting.chain(looking).min()
    }
}

fn from<K>(after: After<K>) -> std::ops::Bound<K> {
    after.map_or(Unbounded, Excluded)
}
