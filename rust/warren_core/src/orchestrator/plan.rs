//! One service: what is there, what is missing, what is too much. Pure, and in slices: a walk over
//! slots and containers that stops when its looks are used up and goes on later, over the state as
//! it is then. What changes behind it is seen by the next walk.

use std::collections::BTreeMap;

use crate::fsm::{
    Container, ContainerState, DesiredState, Node, NodeStatus, Service, State, partition, rests,
};
use crate::ids::{ContainerId, NodeId};
use crate::mutant::{self, Mutant};
use crate::orchestrator::budget::Meter;
use crate::orchestrator::failures::Failures;
use crate::orchestrator::liveness::Liveness;
use crate::orchestrator::shrink::Shrink;
use crate::scheduler::Scheduler;

/// A place for one container of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    /// From 1; 0 for a global service, whose slots are nodes.
    pub number: u64,
    pub node: Option<NodeId>,
}

impl Slot {
    /// Before all others.
    pub const FIRST: Self = Self {
        number: 0,
        node: None,
    };

    pub fn numbered(number: u64) -> Self {
        Self { number, node: None }
    }

    /// The one that the container is in.
    pub fn of(container: &Container) -> Self {
        match container.slot {
            0 => Self::on(container.node),
            number => Self::numbered(number),
        }
    }

    fn on(node: NodeId) -> Self {
        Self {
            number: 0,
            node: Some(node),
        }
    }
}

/// What a slot is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To be filled, in place of the container if there is one.
    Vacant(Option<ContainerId>),
    /// To be filled after its back-off: the container has ended.
    Ended(ContainerId),
    /// Left as it is: the container has ended, and that was it.
    Rests,
    Running(NodeId),
    /// Neither running nor to be filled: on its way.
    Moving,
    /// Of a global service: left as it is until its node is back, or takes work again.
    Waits,
    /// On its way, on a node that it stays on.
    Starting(NodeId),
    /// Of an older spec and not running: to be removed now.
    Unready(ContainerId, NodeId),
    /// Of an older spec and running: to be removed when that may be.
    Outdated(ContainerId, NodeId),
    /// On a node that is being drained, and running or about to run again: to be removed when a
    /// successor finds room.
    Draining(ContainerId, NodeId),
    /// Its node is down, and nothing is replaced while so many are.
    Frozen,
    /// Its node is down, and it may still be running there, which a singleton must not do twice:
    /// to be judged again after so many milliseconds.
    Fenced(NodeId, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// With the container that is in it, if that has failed or is being watched.
    Slot(Slot, Verdict, Option<ContainerId>),
    /// To be removed.
    Surplus(ContainerId),
    /// None of its slots, though room is kept for it there.
    Needless(Slot),
}

/// Where a walk over a service is. Slots come in their order; what is surplus comes by its own.
#[derive(Debug)]
pub(super) struct Walk {
    /// The next slot and container.
    from: (u64, ContainerId),
    containers_done: bool,
    /// Of a global service: by node, the containers that occupy it.
    occupants: BTreeMap<NodeId, ContainerId>,
    /// Of a global service: the last node looked at.
    node: Option<NodeId>,
    /// Found so far.
    pub slots: usize,
    /// Of a service that has more than it wants: all that it has.
    pub shrink: Option<Shrink>,
}

const FIRST: ContainerId = ContainerId([0; 16]);

impl Walk {
    pub fn new(service: &Service) -> Self {
        Self {
            from: (u64::from(!service.is_global()), FIRST),
            containers_done: false,
            occupants: BTreeMap::new(),
            node: None,
            slots: 0,
            shrink: None,
        }
    }

    /// Goes on while there are looks. True once there is nothing more.
    pub fn go_on(
        &mut self,
        state: &State,
        service: &Service,
        (scheduler, liveness, failures): (&Scheduler, &Liveness, &Failures),
        meter: &mut Meter,
        found: &mut Vec<Found>,
    ) -> bool {
        if !self.containers_done {
            self.containers_done = if service.removing {
                self.surplus(state, service, meter, found)
            } else if service.is_global() {
                self.occupants(state, service, meter)
            } else {
                self.replicas(state, service, (liveness, failures), meter, found)
                    && self.surplus(state, service, meter, found)
            };
        }
        self.containers_done
            && (service.removing
                || !service.is_global()
                || self.nodes(
                    state,
                    service,
                    (scheduler, liveness, failures),
                    meter,
                    found,
                ))
    }

    /// Slots by number, each with the container that occupies it.
    fn replicas(
        &mut self,
        state: &State,
        service: &Service,
        (liveness, failures): (&Liveness, &Failures),
        meter: &mut Meter,
        found: &mut Vec<Found>,
    ) -> bool {
        if self.from == (1, FIRST) {
            self.shrink = Shrink::of(state, service);
        }
        let mut containers = state
            .containers_of_service_from(service.id, self.from)
            .peekable();
        while self.from.0 <= u64::from(service.spec.replicas) {
            if !meter.try_look() {
                return false;
            }
            let slot = Slot::numbered(self.from.0);
            let mut verdict = Verdict::Vacant(None);
            let (mut here, mut occupant) = (0, None);
            while let Some(container) = containers.next_if(|c| c.slot == slot.number) {
                here += 1;
                if container.occupies() {
                    verdict = judge(state, service, liveness, slot, container);
                    occupant = Some(container);
                }
            }
            if let Some(shrink) = &mut self.shrink {
                shrink.slot(state, service, slot.number, occupant);
            }
            meter.look(here.max(1) - 1);
            let watched = occupant.filter(|it| failures.concerns(service.id, slot, it));
            found.push(Found::Slot(slot, verdict, watched.map(|it| it.id)));
            self.slots += 1;
            self.from = (slot.number + 1, FIRST);
        }
        true
    }

    fn surplus(
        &mut self,
        state: &State,
        service: &Service,
        meter: &mut Meter,
        found: &mut Vec<Found>,
    ) -> bool {
        for container in state.containers_of_service_from(service.id, self.from) {
            self.from = (container.slot, container.id);
            if !meter.try_look() {
                return false;
            }
            if container.desired != DesiredState::Remove {
                found.push(Found::Surplus(container.id));
                if let Some(shrink) = &mut self.shrink {
                    shrink.slot(state, service, container.slot, Some(container));
                }
            }
        }
        true
    }

    fn occupants(&mut self, state: &State, service: &Service, meter: &mut Meter) -> bool {
        for container in state.containers_of_service_from(service.id, self.from) {
            self.from = (container.slot, container.id);
            if !meter.try_look() {
                return false;
            }
            if container.occupies() {
                self.occupants.insert(container.node, container.id);
            }
        }
        true
    }

    /// Nodes by id: those that take containers, and those that have one.
    fn nodes(
        &mut self,
        state: &State,
        service: &Service,
        (scheduler, liveness, failures): (&Scheduler, &Liveness, &Failures),
        meter: &mut Meter,
        found: &mut Vec<Found>,
    ) -> bool {
        for (node, accepts) in scheduler.nodes_after(self.node) {
            if !meter.try_look() {
                return false;
            }
            self.node = Some(node);
            let container = self
                .occupants
                .get(&node)
                .and_then(|id| state.container(*id));
            let refused = || {
                let node = state.node(node);
                node.is_none_or(|node| service.rules.refusal(node).is_some())
            };
            if let Some(container) = container.filter(|it| leaves(state, it)) {
                found.push(Found::Surplus(container.id));
                continue;
            }
            // What it may not go to is none of its slots, nor what has ended where it may not go again.
            let idle = container.is_none_or(Container::is_terminal);
            let slot = Slot::on(node);
            if idle && (!accepts || refused()) {
                let kept = service.rules.preempt
                    && state.hold_of(service.id, slot.number, slot.node).is_some();
                found.extend(kept.then_some(Found::Needless(slot)));
                continue;
            }
            let verdict = container.map_or(Verdict::Vacant(None), |container| {
                judge(state, service, liveness, slot, container)
            });
            let watched = container.filter(|it| failures.concerns(service.id, slot, it));
            found.push(Found::Slot(slot, verdict, watched.map(|it| it.id)));
            self.slots += 1;
        }
        true
    }
}

/// Whether the container of a global service goes since its node, its slot, is being drained.
fn leaves(state: &State, container: &Container) -> bool {
    let node = state.node(container.node);
    let drained = |node: &Node| node.is_draining() && node.status != NodeStatus::Down;
    container.desired == DesiredState::Run && !container.is_terminal() && node.is_some_and(drained)
}

/// Whether what was found of a slot when it was said to be vacant is still so.
pub(super) fn is_vacant(
    state: &State,
    service: &Service,
    liveness: &Liveness,
    slot: Slot,
    replaces: Option<ContainerId>,
) -> bool {
    match replaces.map(|id| state.container(id)) {
        Some(Some(container)) => matches!(
            judge(state, service, liveness, slot, container),
            Verdict::Vacant(_) | Verdict::Ended(_)
        ),
        Some(None) => false,
        // A global service's slot 0 is that of all nodes; `apply` knows.
        None if service.is_global() => true,
        None => !state
            .containers_of_slot(service.id, slot.number)
            .any(Container::occupies),
    }
}

/// What is to be done by now about the slot of a container that a walk has found; `None` if that is
/// no more.
pub(super) fn judge_again(
    state: &State,
    service: &Service,
    liveness: &Liveness,
    id: ContainerId,
) -> Option<Verdict> {
    let container = state.container(id)?;
    let slot = Slot::of(container);
    Some(judge(state, service, liveness, slot, container))
}

/// What is to be done about a slot that a container occupies.
fn judge(
    state: &State,
    service: &Service,
    liveness: &Liveness,
    slot: Slot,
    container: &Container,
) -> Verdict {
    let node = state.node(container.node);
    let down = node.is_none_or(|node| node.status == NodeStatus::Down);
    if down && slot.node.is_some() {
        // The node is the slot: when it is back, so is the container.
        return Verdict::Waits;
    }
    let replace = match down && !container.is_terminal() {
        true => judge_lost(state, liveness, container),
        false => Verdict::Vacant(Some(container.id)),
    };
    if container.desired != DesiredState::Run {
        return if down { replace } else { Verdict::Moving };
    }
    let stays = container.spec_digest == service.spec_digest;
    let drained = node.is_some_and(Node::is_draining) && !down && !container.is_terminal();
    if drained && slot.node.is_none() {
        return judge_drained(container, node.is_some_and(Node::is_drain_overdue));
    }
    if !stays && slot.node.is_some() && !node.is_some_and(|node| node.accepts_work()) {
        // Its successor could not be bound there.
        return Verdict::Waits;
    }
    let runs = container.status.state == ContainerState::Running;
    match (container.is_terminal(), stays) {
        (true, true) if rests(service, container) => Verdict::Rests,
        (true, true) => Verdict::Ended(container.id),
        (true, false) => replace,
        (false, _) if down => replace,
        (false, true) if runs => Verdict::Running(container.node),
        (false, true) => Verdict::Starting(container.node),
        (false, false) if runs => Verdict::Outdated(container.id, container.node),
        (false, false) => Verdict::Unready(container.id, container.node),
    }
}

/// What runs on a node that is being drained goes once there is room elsewhere, or the time is over, and
/// so does what is between two attempts: it is going to run again before long. What has not run yet
/// goes at once.
fn judge_drained(container: &Container, overdue: bool) -> Verdict {
    let status = &container.status;
    let has_run = status.state == ContainerState::Running || status.attempt > 1;
    match has_run && !overdue {
        true => Verdict::Draining(container.id, container.node),
        false => Verdict::Unready(container.id, container.node),
    }
}

/// Whether what ran on a node that is down may have a successor elsewhere, by what it runs rather
/// than by what its service says now: that is what its worker goes by.
fn judge_lost(state: &State, liveness: &Liveness, container: &Container) -> Verdict {
    if state.freeze().is_some() {
        return Verdict::Frozen;
    }
    let spec = state.spec(&container.spec_digest);
    let after_ms = spec.and_then(|spec| partition::replaced_after_ms(spec));
    let after_ms = after_ms.filter(|_| !mutant::is_on(Mutant::ReplacesSingletonsAtOnce));
    let wait_ms = after_ms.map_or(0, |after_ms| {
        liveness.silent_in_ms(container.node, after_ms)
    });
    match wait_ms {
        0 => Verdict::Vacant(Some(container.id)),
        wait_ms => Verdict::Fenced(container.node, wait_ms),
    }
}
