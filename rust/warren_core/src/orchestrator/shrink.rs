//! Which containers go when a service has more than it wants.
//!
//! First those that are of no use where they are: that have ended or never got to run, on nodes that
//! are down or being drained. Then those whose loss leaves the service spread: from the value of its
//! first spread that has the most for its share, there from the node with the most, of that the
//! youngest. To take from the fullest again and again leaves the least skew that can be reached by
//! taking alone.
//!
//! Slots are what a service has less of, the highest of them: a container that stays, in a slot that
//! goes, changes with one that goes ([`crate::pb::MoveSlots`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::partition::replaced_after_ms;
use crate::fsm::{
    Availability, Container, ContainerState, DesiredState, NodeStatus, Service, State,
};
use crate::ids::{ContainerId, NodeId};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::budget::Meter;
use crate::orchestrator::in_flight::Moving;
use crate::orchestrator::pass::Pass;
use crate::orchestrator::plan::Slot;
use crate::orchestrator::reconcile::Turn;
use crate::pb;

/// A service with more containers than this loses its highest slots: which of so many go makes
/// little difference to how they are spread, and would take long to find out.
pub const CHOSEN_OF_MAX: usize = 65_536;

/// The less use it is of, the earlier it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Nobody is in the slot, or somebody who is leaving it.
    Vacant,
    Ended,
    NodeDown,
    NotRunning,
    NodeDrained,
    Outdated,
}

/// A container, or a slot without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub slot: u64,
    pub container: Option<ContainerId>,
}

/// Those that run on one node, the youngest first.
type Youngest = BTreeSet<(Reverse<u64>, Reverse<u64>, ContainerId)>;

/// Values of the spread by how full they are for their share, the fullest last.
type Fullest = BTreeSet<(u64, Option<String>)>;

/// Containers of a value of the spread.
#[derive(Debug, Default)]
struct Part {
    count: u64,
    /// By how many they have, the most last.
    order: BTreeSet<(usize, NodeId)>,
    nodes: BTreeMap<NodeId, Youngest>,
}

/// What a service has, as far as it is known. Invariants: `order` of a part has each of its nodes
/// once, with as many as it has; `parts[name]` counts what its nodes have.
#[derive(Debug, Default)]
pub(super) struct Shrink {
    useless: BTreeSet<(Use, Reverse<u64>, Option<ContainerId>)>,
    parts: BTreeMap<Option<String>, Part>,
    /// In slots that go, and either ended, so that there is nothing to be kept of them, or bound to
    /// their slots.
    go: BTreeSet<ContainerId>,
    /// By (load, part), the fullest last; made when it is first asked for.
    order: Option<(Fullest, Weights)>,
}

impl Shrink {
    /// For a service that has containers in slots that go, if it is worth the while.
    pub fn of(state: &State, service: &Service) -> Option<Self> {
        let replicas = u64::from(service.spec.replicas);
        let first = (replicas + 1, ContainerId([0; 16]));
        let beyond = state.containers_of_service_from(service.id, first).next();
        let few = state.container_count_of_service(service.id) <= CHOSEN_OF_MAX;
        let chooses = few && replicas <= CHOSEN_OF_MAX as u64 && state.feature_level() >= 5;
        // Singletons stay in their slots.
        let chooses = chooses && replaced_after_ms(service.container_spec()).is_none();
        (chooses && !service.removing && beyond.is_some()).then(Self::default)
    }

    /// Takes in a slot, and what occupies it.
    pub fn slot(
        &mut self,
        state: &State,
        service: &Service,
        slot: u64,
        occupant: Option<&Container>,
    ) {
        let Some(container) = occupant else {
            self.useless.insert((Use::Vacant, Reverse(slot), None));
            return;
        };
        let goes = slot > u64::from(service.spec.replicas);
        let bound = is_singleton(state, container);
        if goes && (bound || container.is_terminal()) {
            self.go.insert(container.id);
        }
        // In a slot that stays, one that is bound to it is given up for nobody.
        if bound || (goes && container.is_terminal()) {
            return;
        }
        if let Some(of) = usefulness(state, service, container) {
            let it = (of, Reverse(container.slot), Some(container.id));
            self.useless.insert(it);
            return;
        }
        let part = self.parts.entry(value(state, service, container.node));
        let part = part.or_default();
        part.count += 1;
        let node = part.nodes.entry(container.node).or_default();
        part.order.remove(&(node.len(), container.node));
        node.insert((
            Reverse(container.created_at_ms),
            Reverse(container.slot),
            container.id,
        ));
        part.order.insert((node.len(), container.node));
    }

    /// The next one to go. `None` if there is none left.
    pub fn next(&mut self, service: &Service) -> Option<Member> {
        if let Some((_, Reverse(slot), container)) = self.useless.pop_first() {
            return Some(Member { slot, container });
        }
        if self.order.is_none() {
            let weights = Weights::of(service, self.parts.keys());
            let parts = self.parts.iter();
            let order = parts.map(|(name, part)| (weights.load(name, part.count), name.clone()));
            self.order = Some((order.collect(), weights));
        }
        let (order, weights) = self.order.as_mut()?;
        let (_, name) = order.pop_last()?;
        let part = self.parts.get_mut(&name)?;
        let (_, node) = part.order.pop_last()?;
        let of_node = part.nodes.get_mut(&node)?;
        let (_, Reverse(slot), id) = of_node.pop_first()?;
        if !of_node.is_empty() {
            part.order.insert((of_node.len(), node));
        }
        part.count -= 1;
        if part.count > 0 {
            order.insert((weights.load(&name, part.count), name));
        }
        let container = Some(id);
        Some(Member { slot, container })
    }
}

/// The choice, as far as it has come.
#[derive(Debug)]
pub(super) struct Shrinking {
    known: Shrink,
    /// Of those in slots that go.
    go: BTreeSet<ContainerId>,
    /// Slots that stay, whose containers go if there are any.
    given_up: Vec<u64>,
}

impl Shrinking {
    pub fn of(mut known: Shrink) -> Self {
        Self {
            go: std::mem::take(&mut known.go),
            known,
            given_up: Vec::new(),
        }
    }
}

impl Orchestrator {
    /// Chooses which go, and moves those that stay to slots that stay.
    pub(super) fn shrink(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        let Some(mut shrinking) = pass.shrinking.take() else {
            return Turn::Done;
        };
        while shrinking.go.len() + shrinking.given_up.len() < pass.surplus.len() {
            if !meter.try_look() {
                pass.shrinking = Some(shrinking);
                return Turn::Later;
            }
            let Some(member) = shrinking.known.next(service) else {
                break;
            };
            match member
                .container
                .filter(|_| member.slot > u64::from(service.spec.replicas))
            {
                Some(container) => _ = shrinking.go.insert(container),
                None => shrinking.given_up.push(member.slot),
            }
        }
        let surplus = std::mem::take(&mut pass.surplus);
        let (go, stay) = surplus
            .into_iter()
            .partition::<Vec<_>, _>(|id| shrinking.go.contains(id));
        pass.surplus = go;
        for (container, slot) in stay.into_iter().zip(shrinking.given_up) {
            self.propose_move(state, service, (container, slot), meter);
            pass.moved_to.insert(slot);
        }
        // They are filled already.
        let filled = &pass.moved_to;
        pass.vacant.retain(|it| !filled.contains(&it.slot.number));
        pass.held.retain(|it| !filled.contains(&it.slot.number));
        Turn::Done
    }

    fn propose_move(
        &mut self,
        state: &State,
        service: &Service,
        (id, slot): (ContainerId, u64),
        meter: &mut Meter,
    ) {
        let Some(container) = state.container(id) else {
            return;
        };
        // Somebody else may be on the way to that slot: then it is looked at again with the outcome.
        let to = Slot::numbered(slot);
        let busy = self.in_flight.node_of(service.id, to).is_some();
        if busy || container.desired != DesiredState::Run || !self.claim(id, container.node) {
            return;
        }
        let item = pb::MoveItem {
            service_id: service.id.to_vec(),
            service_version: service.version,
            container_id: id.to_vec(),
            slot,
        };
        let moving = Moving {
            service: service.id,
            container: id,
            node: container.node,
            from: container.slot,
            to,
        };
        self.outbox.move_slot(item, moving);
        meter.items = meter.items.saturating_sub(1);
    }
}

/// What each value's share is, by targets of the spread. Invariant: none is 0 but a target that is.
#[derive(Debug)]
struct Weights {
    targets: BTreeMap<String, u64>,
    /// Of each value without a target.
    rest: u64,
}

impl Weights {
    fn of<'a>(service: &Service, values: impl Iterator<Item = &'a Option<String>>) -> Self {
        let first = service.rules.spreads.first();
        let targets = first.map_or(&[][..], |spread| &spread.targets);
        let given: u64 = targets.iter().map(|(_, percent)| u64::from(*percent)).sum();
        let named = |value: &str| targets.iter().any(|(name, _)| name == value);
        let others = values.filter(|value| value.as_ref().is_none_or(|it| !named(it)));
        let others = (others.count() as u64).max(1);
        let targets = targets.iter();
        Self {
            targets: targets
                .map(|(name, percent)| (name.clone(), u64::from(*percent) * others))
                .collect(),
            rest: match given {
                0 => 1,
                given => 100_u64.saturating_sub(given),
            },
        }
    }

    /// How full a value is for its share.
    fn load(&self, value: &Option<String>, count: u64) -> u64 {
        let weight = value.as_ref().and_then(|it| self.targets.get(it));
        let weight = *weight.unwrap_or(&self.rest);
        (count << 24).checked_div(weight).unwrap_or(u64::MAX)
    }
}

/// The node's value of what the service is spread over first; `None` where it has none, and for all
/// where nothing is said.
fn value(state: &State, service: &Service, node: NodeId) -> Option<String> {
    let spread = service.rules.spreads.first()?;
    let value = spread.attribute.value(state.node(node)?)?;
    Some(value.into_owned())
}

/// By what it runs, not by what its service says now: that is what its worker goes by.
fn is_singleton(state: &State, container: &Container) -> bool {
    let spec = state.spec(&container.spec_digest);
    spec.is_some_and(|spec| replaced_after_ms(spec).is_some())
}

/// Why it is of no use; `None` if it is.
fn usefulness(state: &State, service: &Service, container: &Container) -> Option<Use> {
    let node = state.node(container.node);
    let down = node.is_none_or(|node| node.status == NodeStatus::Down);
    let drained = node.is_none_or(|node| node.availability == Availability::Drain);
    if container.desired != DesiredState::Run {
        Some(Use::Vacant)
    } else if container.is_terminal() {
        Some(Use::Ended)
    } else if down {
        Some(Use::NodeDown)
    } else if container.status.state != ContainerState::Running {
        Some(Use::NotRunning)
    } else if drained {
        Some(Use::NodeDrained)
    } else if container.spec_digest != service.spec_digest {
        Some(Use::Outdated)
    } else {
        None
    }
}
