//! One service: what is there, what is missing, what is too much. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::{Container, ContainerState, DesiredState, NodeStatus, Service, State, rests};
use crate::ids::{ContainerId, NodeId};

/// A place for one container of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    /// From 1; 0 for a global service, whose slots are nodes.
    pub number: u64,
    pub node: Option<NodeId>,
}

impl Slot {
    /// Not after any other.
    pub const FIRST: Slot = Slot {
        number: 0,
        node: None,
    };

    pub fn of(service: &Service, container: &Container) -> Self {
        let node = service.is_global().then_some(container.node);
        Self {
            number: container.slot,
            node,
        }
    }
}

/// A slot to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vacancy {
    pub slot: Slot,
    /// The container that the new one takes the place of.
    pub replaces: Option<ContainerId>,
}

/// What is to be done about a service. Lists are in the order of the slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// To be filled now.
    pub vacant: Vec<Vacancy>,
    /// Ended containers, to be replaced after their back-off.
    pub ended: Vec<(Slot, ContainerId)>,
    /// To be removed now: surplus, or of an older spec and not running.
    pub remove: Vec<ContainerId>,
    /// Running, of an older spec: to be removed as few at a time as `away_max` allows.
    pub outdated: Vec<(ContainerId, NodeId)>,
    /// Slots whose container runs as it should, and slots on the way there.
    pub running: Vec<Slot>,
    pub moving: Vec<Slot>,
    /// Wanted containers of the service by node.
    pub spread: BTreeMap<NodeId, u32>,
    /// Slots that may be without a running container because of an update.
    pub away_max: usize,
    /// Nothing of it is left.
    pub forget: bool,
}

/// How many slots of `slots` an update may empty at a time: a quarter, at least one.
fn away_max(slots: usize) -> usize {
    (slots / 4).max(1)
}

/// Derives the plan for a service from nothing but the state. `nodes` are those that take new
/// containers; needed for global services only.
pub(super) fn plan(state: &State, service: &Service, nodes: &BTreeSet<NodeId>) -> Plan {
    let mut plan = Plan::default();
    if service.removing {
        plan.forget = state.container_count_of_service(service.id) == 0;
    }
    let mut occupants = Vec::new();
    let wanted = |container: &Container| {
        !service.removing
            && (service.is_global() || container.slot <= u64::from(service.spec.replicas))
    };
    for container in state.containers_of_service(service.id) {
        if !wanted(container) {
            if container.desired != DesiredState::Remove {
                plan.remove.push(container.id);
            }
        } else if container.occupies() {
            occupants.push((Slot::of(service, container), container));
        }
    }
    // The highest slots go first.
    plan.remove.reverse();
    // Containers come by slot; those of a global service all have slot 0.
    occupants.sort_by_key(|(slot, _)| *slot);
    let slots = slots(service, nodes, &occupants);
    plan.away_max = away_max(slots.len());
    let mut occupants = occupants.into_iter().peekable();
    for slot in slots {
        match occupants.next_if(|(of, _)| *of == slot) {
            Some((_, container)) => plan.judge(state, service, slot, container),
            None => plan.vacant.push(Vacancy {
                slot,
                replaces: None,
            }),
        }
    }
    plan
}

/// In order.
fn slots(
    service: &Service,
    nodes: &BTreeSet<NodeId>,
    occupants: &[(Slot, &Container)],
) -> Vec<Slot> {
    if service.removing {
        Vec::new()
    } else if service.is_global() {
        let on = |node: &NodeId| Slot {
            number: 0,
            node: Some(*node),
        };
        let occupied = occupants.iter().map(|(slot, _)| *slot);
        let all: BTreeSet<_> = nodes.iter().map(on).chain(occupied).collect();
        all.into_iter().collect()
    } else {
        (1..=u64::from(service.spec.replicas))
            .map(|number| Slot { number, node: None })
            .collect()
    }
}

impl Plan {
    fn judge(&mut self, state: &State, service: &Service, slot: Slot, container: &Container) {
        let node = state.node(container.node);
        let down = node.is_none_or(|node| node.status == NodeStatus::Down);
        let replace = Vacancy {
            slot,
            replaces: Some(container.id),
        };
        if down && slot.node.is_some() {
            // The node is the slot: when it is back, so is the container.
            return self.moving.push(slot);
        }
        if container.desired != DesiredState::Run {
            return if down {
                self.vacant.push(replace)
            } else {
                self.moving.push(slot)
            };
        }
        let stays = container.spec_digest == service.spec_digest;
        if !stays && slot.node.is_some() && !node.is_some_and(|node| node.accepts_work()) {
            // Its successor could not be bound there.
            return self.moving.push(slot);
        }
        match (container.is_terminal(), stays) {
            (true, true) if rests(service, container) => {}
            (true, true) => self.ended.push((slot, container.id)),
            (true, false) => self.vacant.push(replace),
            (false, _) if down => self.vacant.push(replace),
            (false, true) => {
                *self.spread.entry(container.node).or_insert(0) += 1;
                let runs = container.status.state == ContainerState::Running;
                if runs {
                    self.running.push(slot)
                } else {
                    self.moving.push(slot)
                }
            }
            (false, false) => {
                *self.spread.entry(container.node).or_insert(0) += 1;
                if container.status.state == ContainerState::Running {
                    self.outdated.push((container.id, container.node));
                } else {
                    self.moving.push(slot);
                    self.remove.push(container.id);
                }
            }
        }
    }
}
