//! Proposals on their way. What one is about is busy until its outcome is known, so that nothing
//! is proposed twice; room that a bind will take stays held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::fsm::Resources;
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::Token;
use crate::orchestrator::plan::Slot;
use crate::pb;

/// Proposals without an outcome, above which nothing new is derived.
pub const PROPOSALS_MAX: usize = 64;

/// A bind that was proposed.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub service: ServiceId,
    pub slot: Slot,
    pub node: NodeId,
    /// Held by the scheduler.
    pub resources: Resources,
    /// Likewise.
    pub devices: Vec<pb::DeviceShare>,
    /// Since when the slot had no node.
    pub since_ms: u64,
}

/// A preemption that was proposed.
#[derive(Clone, Debug)]
pub(super) struct Preempting {
    pub service: ServiceId,
    pub slot: Slot,
    pub node: NodeId,
    pub victims: Vec<ContainerId>,
    /// Held by the scheduler.
    pub devices: Vec<pb::DeviceShare>,
    /// Likewise; `None` where a hold is to end.
    pub set_aside: Option<Resources>,
    /// What is to be said of each victim once it is told to go: its service, its slot, why.
    pub told: Vec<(ServiceId, u64, Arc<str>)>,
    /// What the slot waits for from then on.
    pub waits: Option<Arc<str>>,
}

/// A container that is to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removing {
    pub container: ContainerId,
    pub service: ServiceId,
    pub node: NodeId,
}

/// A container that is to change its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moving {
    pub service: ServiceId,
    pub container: ContainerId,
    pub node: NodeId,
    /// The number of the slot that it leaves.
    pub from: u64,
    pub to: Slot,
}

/// What a proposal is about; items in the order of the command's.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Binds(Vec<Bound>),
    Desired(Vec<Removing>),
    Preempt(Vec<Preempting>),
    Moves(Vec<Moving>),
    Forget(ServiceId),
    Node(NodeId),
    Freeze,
}

#[derive(Debug, Default)]
pub(super) struct InFlight {
    last: u64,
    subjects: BTreeMap<Token, Subject>,
    /// No service without a slot.
    slots: BTreeMap<ServiceId, BTreeMap<Slot, NodeId>>,
    containers: BTreeSet<ContainerId>,
    services: BTreeSet<ServiceId>,
    nodes: BTreeSet<NodeId>,
    freeze: bool,
    preempting: usize,
}

impl InFlight {
    /// The container is to be told something: it is busy from here on, until what is sent of it has an
    /// outcome. False if it is already.
    pub fn claim(&mut self, container: ContainerId) -> bool {
        self.containers.insert(container)
    }

    /// Notes a proposal and names it. Its containers are claimed.
    pub fn send(&mut self, subject: Subject) -> Token {
        self.last += 1;
        match &subject {
            Subject::Binds(binds) => {
                for of_service in binds.chunk_by(|a, b| a.service == b.service) {
                    let slots = self.slots.entry(of_service[0].service).or_default();
                    slots.extend(of_service.iter().map(|bound| (bound.slot, bound.node)));
                }
            }
            Subject::Desired(_) => {}
            Subject::Moves(moves) => {
                for it in moves {
                    self.fill(it.service, it.to, it.node);
                }
            }
            Subject::Preempt(items) => {
                self.preempting += items.len();
                for item in items {
                    self.fill(item.service, item.slot, item.node);
                }
            }
            Subject::Forget(service) => {
                self.services.insert(*service);
            }
            Subject::Node(node) => {
                self.nodes.insert(*node);
            }
            Subject::Freeze => self.freeze = true,
        }
        self.subjects.insert(Token(self.last), subject);
        Token(self.last)
    }

    /// What the proposal was about, which is busy no more; `None` for one of a past leadership.
    pub fn take(&mut self, token: Token) -> Option<Subject> {
        let subject = self.subjects.remove(&token)?;
        match &subject {
            Subject::Binds(binds) => {
                for of_service in binds.chunk_by(|a, b| a.service == b.service) {
                    let slots = of_service.iter().map(|bound| bound.slot);
                    self.vacate(of_service[0].service, slots);
                }
            }
            Subject::Desired(items) => {
                for it in items {
                    self.containers.remove(&it.container);
                }
            }
            Subject::Moves(moves) => {
                for it in moves {
                    self.containers.remove(&it.container);
                    self.vacate(it.service, [it.to]);
                }
            }
            Subject::Preempt(items) => {
                self.preempting -= items.len();
                for item in items {
                    self.vacate(item.service, [item.slot]);
                    let victims = item.victims.iter();
                    victims.for_each(|id| _ = self.containers.remove(id));
                }
            }
            Subject::Forget(service) => {
                self.services.remove(service);
            }
            Subject::Node(node) => {
                self.nodes.remove(node);
            }
            Subject::Freeze => self.freeze = false,
        }
        Some(subject)
    }

    fn fill(&mut self, service: ServiceId, slot: Slot, node: NodeId) {
        self.slots.entry(service).or_default().insert(slot, node);
    }

    fn vacate(&mut self, service: ServiceId, slots: impl IntoIterator<Item = Slot>) {
        let Some(known) = self.slots.get_mut(&service) else {
            return;
        };
        for slot in slots {
            known.remove(&slot);
        }
        if known.is_empty() {
            self.slots.remove(&service);
        }
    }

    /// Everything but the numbering of tokens.
    pub fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    pub fn is_full(&self) -> bool {
        self.len() >= PROPOSALS_MAX
    }

    /// The node that a bind on its way puts into the slot.
    pub fn node_of(&self, service: ServiceId, slot: Slot) -> Option<NodeId> {
        self.slots.get(&service)?.get(&slot).copied()
    }

    pub fn has_container(&self, container: ContainerId) -> bool {
        self.containers.contains(&container)
    }

    /// Slots whose preemption is on its way.
    pub fn preempting(&self) -> usize {
        self.preempting
    }

    pub fn has_service(&self, service: ServiceId) -> bool {
        self.services.contains(&service)
    }

    pub fn has_freeze(&self) -> bool {
        self.freeze
    }

    pub fn has_node(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }
}
