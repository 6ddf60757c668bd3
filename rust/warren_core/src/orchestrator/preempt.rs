//! Slots of services that preempt, where there is no room: others of a lower priority are told to go,
//! and room is kept until they have stopped.
//!
//! What is kept for whom is in the state ([`Hold`]), so that a new leader goes on with it. Only the
//! number of preemptions that are under way is bounded: how fast one follows another is then up to
//! how long it takes containers to stop.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::fsm::{
    Container, ContainerState, DesiredState, HOLD_VICTIMS_MAX, HOLDS_PER_NODE_MAX, Hold, Service,
    State,
};
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::asking;
use crate::orchestrator::budget::Meter;
use crate::orchestrator::fill::placement;
use crate::orchestrator::in_flight::Preempting;
use crate::orchestrator::pass::{Pass, Vacancy};
use crate::orchestrator::plan::{Slot, is_vacant};
use crate::orchestrator::reconcile::Turn;
use crate::orchestrator::{Orchestrator, PendingSlot};
use crate::pb;
use crate::scheduler::{Occupant, Preemption, VICTIMS_MAX};

/// Containers that room is kept for at a time, in the whole cluster.
pub const HOLDS_MAX: usize = 512;
// What is decided is accepted.
const _: () = assert!(VICTIMS_MAX <= HOLD_VICTIMS_MAX);
/// What one decision is worth in looks.
const DECISION_LOOKS: usize = 8;
/// Victims that a reason names.
const NAMED_MAX: usize = 3;

impl Orchestrator {
    /// Slots that room is kept for: those whose room is there are bound to it; those whose victims
    /// are still stopping are the last to look for another place; what has become of no use ends.
    pub(super) fn fill_held(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        while let Some(slot) = pass.needless.last().copied() {
            if meter.items == 0 || !meter.try_look() {
                return Turn::Later;
            }
            pass.needless.pop();
            if let Some((node, _)) = state.hold_of(service.id, slot.number, slot.node) {
                self.end_kept(service, (slot, None), node, meter);
            }
        }
        while let Some(vacancy) = pass.held.front().copied() {
            if meter.items == 0 || !meter.try_look() {
                return Turn::Later;
            }
            pass.held.pop_front();
            let (slot, liveness) = (vacancy.slot, &self.liveness);
            if !is_vacant(state, service, liveness, slot, vacancy.replaces) {
                continue;
            }
            let Some((node, hold)) = state.hold_of(service.id, slot.number, slot.node) else {
                pass.vacant.push_back(vacancy);
                continue;
            };
            let left = state.victims_left(node, hold).next().is_some();
            if !may_be_kept(state, service, pass, hold, (node, left)) {
                self.give_up_kept(service, pass, &vacancy, node, meter);
                continue;
            }
            let mut ask = placement(state, service, pass, 1).ask();
            ask.rules.max_per_node = None;
            // They are kept, and nobody else's.
            ask.rules.devices = &[];
            let kept = state.set_aside_for(node, service.id, slot.number);
            if self.scheduler.would_fit(&ask, node, kept) {
                self.scheduler.hold(node, service.resources());
                self.scheduler.hold_devices(node, &hold.devices);
                let to = (node, hold.devices.clone());
                self.propose_bind(service, pass, &vacancy, to, meter);
            } else if left {
                *pass.spread.entry(node).or_insert(0) += 1;
                pass.vacant.push_back(vacancy);
            } else {
                self.give_up_kept(service, pass, &vacancy, node, meter);
            }
        }
        Turn::Done
    }

    /// The slot is vacant, and is not to be filled where room is kept for it.
    fn give_up_kept(
        &mut self,
        service: &Service,
        pass: &mut Pass,
        vacancy: &Vacancy,
        node: NodeId,
        meter: &mut Meter,
    ) {
        self.still_unplaced(service.id, vacancy);
        self.end_kept(service, (vacancy.slot, vacancy.replaces), node, meter);
        pass.away += 1;
    }

    /// What is kept for the slot there is kept no longer.
    fn end_kept(
        &mut self,
        service: &Service,
        of: (Slot, Option<ContainerId>),
        node: NodeId,
        meter: &mut Meter,
    ) {
        let nothing = Preempting {
            service: service.id,
            slot: of.0,
            node,
            victims: Vec::new(),
            devices: Vec::new(),
            set_aside: None,
            told: Vec::new(),
            waits: None,
        };
        self.propose_preemption(service, of.1, nothing, meter);
    }

    /// Makes room for the slots that found none, as long as that can be done.
    pub(super) fn preempt(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        while !pass.no_victims
            && let Some(vacancy) = pass.vacant.front().copied()
        {
            match self.preempt_for(state, service, pass, &vacancy, meter) {
                Ok(true) => drop(pass.vacant.pop_front()),
                Ok(false) => pass.no_victims = true,
                Err(turn) => return turn,
            }
        }
        Turn::Done
    }

    /// False where no room can be made for the slot, or is being made already; an error where it
    /// takes more than is left of the budget to find out.
    pub(super) fn preempt_for(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        vacancy: &Vacancy,
        meter: &mut Meter,
    ) -> Result<bool, Turn> {
        let slot = vacancy.slot;
        let waits = || state.hold_of(service.id, slot.number, slot.node).is_some();
        if !service.rules.preempt || state.feature_level() < 5 || waits() {
            return Ok(false);
        }
        self.preemptors.insert(service.id, service.rules.priority);
        let under_way = state.hold_count() + self.in_flight.preempting();
        if under_way + self.outbox.preempting() >= HOLDS_MAX {
            return Ok(false);
        }
        if meter.items == 0 || meter.looks == 0 {
            return Err(Turn::Later);
        }
        if !self.learn(state, service, meter) || !self.learn_occupants(state, meter) {
            return Err(Turn::Next);
        }
        if !meter.affords(DECISION_LOOKS) {
            return Err(Turn::Next);
        }
        meter.look(DECISION_LOOKS);
        let placement = placement(state, service, pass, 1);
        let (asking, scheduler) = (&self.asking, &mut self.scheduler);
        let found = asking::preempt(asking, scheduler, &placement, slot.node);
        // Where room is kept for as many as may be, others wait until some are there.
        let kept = |found: &Preemption| state.node(found.node).map_or(0, |node| node.holds.len());
        if let Some(found) = found.filter(|found| kept(found) < HOLDS_PER_NODE_MAX)
            && let Some(devices) = state.choose_devices(service, found.node)
        {
            self.begin(state, service, pass, vacancy, (found, devices), meter);
            return Ok(true);
        }
        Ok(false)
    }

    fn begin(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        vacancy: &Vacancy,
        (found, devices): (Preemption, Vec<pb::DeviceShare>),
        meter: &mut Meter,
    ) {
        self.scheduler.preempt_begin(&found);
        self.scheduler.hold_devices(found.node, &devices);
        pass.away += 1;
        *pass.spread.entry(found.node).or_insert(0) += 1;
        let victims = found.victims.iter().filter_map(|id| state.container(*id));
        let reason = waiting_for(state, service, found.node, victims);
        let waits = reason.clone();
        pass.pending.push(PendingSlot {
            slot: vacancy.slot.number,
            node: vacancy.slot.node,
            reason,
        });
        let told = told(state, service, vacancy.slot.number, &found.victims);
        let (node, aside) = (found.node, Some(found.set_aside));
        let preempting = Preempting {
            service: service.id,
            slot: vacancy.slot,
            node,
            victims: found.victims,
            devices,
            set_aside: aside,
            told,
            waits: Some(waits),
        };
        self.still_unplaced(service.id, vacancy);
        self.propose_preemption(service, vacancy.replaces, preempting, meter);
    }

    /// Without victims: what is kept for the slot there is kept no longer.
    fn propose_preemption(
        &mut self,
        service: &Service,
        replaces: Option<ContainerId>,
        preempting: Preempting,
        meter: &mut Meter,
    ) {
        let victims = &preempting.victims;
        victims.iter().for_each(|id| _ = self.in_flight.claim(*id));
        meter.items = meter.items.saturating_sub(1 + victims.len());
        let bind = pb::BindItem {
            service_id: service.id.to_vec(),
            service_version: service.version,
            slot: preempting.slot.number,
            node_id: preempting.node.to_vec(),
            replaces: replaces.map(|id| id.to_vec()).unwrap_or_default(),
            devices: preempting.devices.clone(),
        };
        let item = pb::PreemptItem {
            bind: Some(bind),
            victims: victims.iter().map(|id| id.to_vec()).collect(),
        };
        self.outbox.preempt(item, preempting);
    }

    /// Learns what containers hold by priority, of nodes where that has changed. False if it takes
    /// more looks than are left.
    fn learn_occupants(&mut self, state: &State, meter: &mut Meter) -> bool {
        self.scheduler.bands_keep();
        while let Some(node) = self.scheduler.next_stale() {
            let containers = 1 + state.container_count_of_node(node);
            if !meter.affords(containers) {
                return false;
            }
            meter.look(containers);
            let in_flight = &self.in_flight;
            let priorities = &mut self.priorities;
            let containers = state.containers_of_node(node);
            let occupants = containers.filter_map(|container| {
                let known = occupant(state, container)?;
                if in_flight.has_container(container.id) {
                    return None;
                }
                priorities.insert(container.service, known.priority);
                Some(known)
            });
            self.scheduler.occupants_put(node, occupants);
        }
        true
    }

    /// The service is another than before: if its priority is, what holds what is learnt anew.
    pub(super) fn priority_changed(&mut self, state: &State, id: ServiceId) {
        let Some(service) = state.service(id) else {
            return;
        };
        let priority = service.rules.priority;
        match self.priorities.get(&id) {
            Some(known) if *known == priority => {}
            Some(_) => {
                self.priorities.insert(id, priority);
                self.scheduler.occupants_unknown();
                self.marks.room();
            }
            // It may have been too urgent for those who looked when what it has was not there yet.
            None if self.is_outranked(service) && state.container_count_of_service(id) > 0 => {
                self.marks.room();
            }
            None => {}
        }
    }

    /// Whether it is less urgent than somebody who waits and preempts.
    fn is_outranked(&self, service: &Service) -> bool {
        let mut preemptors = self.preemptors.values();
        preemptors.any(|priority| service.rules.priority < *priority)
    }

    /// It has just been bound, and is less urgent than somebody who waits and preempts: while it was on
    /// its way, its room was taken, and it was nobody's victim.
    pub(super) fn is_new_victim(&self, state: &State, container: &Container) -> bool {
        if self.preemptors.is_empty() || container.status.state != ContainerState::Assigned {
            return false;
        }
        let service = state.service(container.service);
        service.is_some_and(|service| self.is_outranked(service))
    }

    /// Containers of these services have just come: of what is kept for who keeps apart from them
    /// some may be of no use any more. One look for each hold, as few as there may be of those.
    pub(super) fn mark_who_keeps_apart(&mut self, state: &State, came: &BTreeSet<ServiceId>) {
        if came.is_empty() {
            return;
        }
        for service in state.services_with_holds() {
            let rules = state.service(service).map(|service| &service.rules);
            let asked = rules.into_iter().flat_map(|rules| &rules.anti_affinities);
            let mut others = asked.filter_map(|it| state.service_by_name(&it.service));
            if others.any(|other| came.contains(&other.id)) {
                self.mark(service);
            }
        }
    }

    /// Why a slot that room is kept for is not filled yet.
    pub(super) fn why_held(
        &self,
        state: &State,
        service: &Service,
        vacancy: &Vacancy,
    ) -> Option<Arc<str>> {
        let slot = vacancy.slot;
        let (node, hold) = state.hold_of(service.id, slot.number, slot.node)?;
        let left = state.victims_left(node, hold);
        Some(waiting_for(state, service, node, left))
    }
}

/// It has just been bound, and somebody that room is kept for may have to keep away from it.
pub(super) fn is_in_the_way(state: &State, container: &Container) -> bool {
    container.status.state == ContainerState::Assigned && state.hold_count() > 0
}

/// Whether the node is still one that the slot may go to: what its service asks for, or what the node
/// is, may have changed since. `left`: victims are still there, and with them what they claim.
fn may_be_kept(
    state: &State,
    service: &Service,
    pass: &Pass,
    hold: &Hold,
    (node, left): (NodeId, bool),
) -> bool {
    let Some(known) = state.node(node) else {
        return false;
    };
    let own = pass.spread.iter().filter(|(_, count)| **count > 0);
    let own = own.map(|(id, _)| *id);
    let there = pass.spread.get(&node).copied().unwrap_or(0);
    let full = asking::most_per_node(service).is_some_and(|most| there >= most);
    let avoided = state.avoided(service, own);
    let may = state.may_be_kept(service, known, hold, left);
    may && !full && avoided.iter().all(|it| it.refusal(known).is_none())
}

/// A container that may have to make room for one of a higher priority.
pub(super) fn occupant(state: &State, container: &Container) -> Option<Occupant> {
    let stays = container.desired == DesiredState::Run && !container.is_terminal();
    let service = stays.then(|| state.service(container.service))??;
    Some(Occupant {
        id: container.id,
        priority: service.rules.priority,
        resources: container.resources,
        created_at_ms: container.created_at_ms,
    })
}

/// What is said of each victim once it is told to go.
fn told(
    state: &State,
    by: &Service,
    slot: u64,
    victims: &[ContainerId],
) -> Vec<(ServiceId, u64, Arc<str>)> {
    let each = victims.iter().filter_map(|id| {
        let container = state.container(*id)?;
        let why = makes_room(by, slot, state.service(container.service)?);
        Some((container.service, container.slot, why.into()))
    });
    each.collect()
}

/// Reads like "waits on node n1 for batch.2 (priority 10 < 50) to stop".
pub(super) fn waiting_for<'a>(
    state: &'a State,
    service: &Service,
    node: NodeId,
    victims: impl Iterator<Item = &'a Container>,
) -> Arc<str> {
    let name = state.node(node).map_or("gone", |node| node.name());
    let victims: Vec<_> = victims.collect();
    let named = victims.iter().take(NAMED_MAX).map(|victim| {
        let of = state.service(victim.service);
        let priority = of.map_or(0, |of| of.rules.priority);
        let own = service.rules.priority;
        format!("{} (priority {priority} < {own})", label(victim))
    });
    let mut named = named.collect::<Vec<_>>().join(", ");
    if victims.len() > NAMED_MAX {
        named += &format!(" and {} more", victims.len() - NAMED_MAX);
    }
    format!("waits on node {name} for {named} to stop").into()
}

pub(super) fn label(container: &Container) -> String {
    match container.slot {
        0 => container.service_name.to_string(),
        slot => format!("{}.{slot}", container.service_name),
    }
}

/// What a container that makes room says of it: "makes room for web.2 (priority 50 > 10)".
pub fn made_room(state: &State, container: &Container, hold: &Hold) -> Option<String> {
    let (by, of) = (
        state.service(hold.service)?,
        state.service(container.service)?,
    );
    Some(makes_room(by, hold.slot, of))
}

fn makes_room(by: &Service, slot: u64, of: &Service) -> String {
    let slot = match slot {
        0 => String::new(),
        slot => format!(".{slot}"),
    };
    let (higher, lower) = (by.rules.priority, of.rules.priority);
    format!(
        "makes room for {}{slot} (priority {higher} > {lower})",
        by.name
    )
}
