//! Vacant slots → nodes → binds; or why they wait.

use std::sync::Arc;

use crate::fsm::{Service, State};
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::asking::{self, Placement, Reasons};
use crate::orchestrator::budget::Meter;
use crate::orchestrator::decisions::Kind;
use crate::orchestrator::in_flight::Bound;
use crate::orchestrator::pass::{Pass, Vacancy};
use crate::orchestrator::plan::is_vacant;
use crate::orchestrator::reconcile::Turn;
use crate::orchestrator::{Orchestrator, PendingSlot};
use crate::pb;
use crate::scheduler::Why;

impl Orchestrator {
    /// Finds nodes for the vacant slots; those without are pending.
    pub(super) fn fill_replicas(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        let turn = self.fill_held(state, service, pass, meter);
        if turn != Turn::Done {
            return turn;
        }
        while !pass.vacant.is_empty() && !pass.full {
            if meter.items == 0 || meter.looks == 0 {
                return Turn::Later;
            }
            if !self.learn(state, service, meter) {
                return Turn::Next;
            }
            let most = self.asking.at_a_time(service).min(meter.items);
            let count = pass.vacant.len().min(most).min(meter.looks.max(1));
            meter.look(count);
            let slice: Vec<_> = pass
                .vacant
                .drain(..count)
                .filter(|vacancy| {
                    let liveness = &self.liveness;
                    is_vacant(state, service, liveness, vacancy.slot, vacancy.replaces)
                })
                .collect();
            let id = service.id;
            let given = slice.iter().map(|vacancy| vacancy.slot);
            let given = given.filter_map(|slot| self.give_back_for(id, slot));
            let given: Vec<_> = given.collect();
            let placement = placement(state, service, pass, slice.len());
            let placed = asking::place(&self.asking, &mut self.scheduler, &placement);
            let nodes = dealt(placed.binds);
            let mut devices = placed.devices;
            for (vacancy, node) in slice.iter().zip(&nodes) {
                let shares = devices.get_mut(node).and_then(Vec::pop);
                let to = (*node, shares.unwrap_or_default());
                self.propose_bind(service, pass, vacancy, to, meter);
            }
            self.left_over(service, &given, &nodes);
            // Where one found no room, nor would those that come after.
            pass.full = placed.refused > 0;
            for vacancy in slice[nodes.len()..].iter().rev() {
                pass.vacant.push_front(*vacancy);
            }
        }
        match self.preempt(state, service, pass, meter) {
            Turn::Done => self.pend_replicas(state, service, pass, meter),
            turn => turn,
        }
    }

    pub(super) fn pend_replicas(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        while let Some(vacancy) = pass.vacant.front().copied() {
            let held = self.why_held(state, service, &vacancy);
            let why = match held.as_ref().or(pass.why.as_ref()) {
                Some(why) => why.clone(),
                None => {
                    let nodes = self.scheduler.node_count();
                    if !meter.affords(nodes) {
                        return Turn::Next;
                    }
                    meter.look(nodes);
                    let why = self.explain(&placement(state, service, pass, 1));
                    pass.why.insert(why.into()).clone()
                }
            };
            self.pend(service, pass, &vacancy, why);
            pass.vacant.pop_front();
            meter.look(1);
            if meter.looks == 0 && !pass.vacant.is_empty() {
                return Turn::Later;
            }
        }
        Turn::Done
    }

    /// Counts what is newly pending as failed, once.
    pub(super) fn pend(
        &mut self,
        service: &Service,
        pass: &mut Pass,
        vacancy: &Vacancy,
        reason: Arc<str>,
    ) {
        let slot = vacancy.slot;
        self.still_unplaced(service.id, vacancy);
        self.give_back_unused(service.id, slot);
        pass.stuck |= self.successors.went_for(service, slot);
        let key = |pending: &PendingSlot| (pending.slot, pending.node);
        let known = self.pending(service.id);
        let known = known.binary_search_by_key(&(slot.number, slot.node), key);
        let says_so = known.is_ok_and(|at| self.pending(service.id)[at].reason == reason);
        self.stats.failed += u64::from(known.is_err());
        if !says_so {
            let of = (service.id, slot.number);
            self.decisions
                .note(Kind::Pending, of, slot.node, reason.clone());
        }
        pass.pending.push(PendingSlot {
            slot: slot.number,
            node: slot.node,
            reason,
        });
    }

    /// The pass leaves the slot without a node.
    pub(super) fn still_unplaced(&mut self, service: ServiceId, vacancy: &Vacancy) {
        let slots = self.unplaced.entry(service).or_default();
        slots.insert(vacancy.slot, vacancy.since_ms);
    }

    /// Like [`Orchestrator::fill_replicas`], where each slot is a node.
    pub(super) fn fill_nodes(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        let turn = self.fill_held(state, service, pass, meter);
        if turn != Turn::Done {
            return turn;
        }
        let reasons = Reasons::on_one_node(state, service);
        while !pass.vacant.is_empty() {
            if meter.items == 0 || !meter.try_look() {
                return Turn::Later;
            }
            let vacancy = pass.vacant.pop_front().expect("it is not empty");
            let liveness = &self.liveness;
            if !is_vacant(state, service, liveness, vacancy.slot, vacancy.replaces) {
                continue;
            }
            let node = vacancy.slot.node.expect("the node is the slot");
            let why = |id| reasons.against(id);
            let given = self.give_back_for(service.id, vacancy.slot);
            let mut ask = placement(state, service, pass, 1).ask();
            ask.rules.max_per_node = None;
            ask.rules.why = Some(Why(&why));
            match self.scheduler.place_on(node, &ask) {
                Ok(shares) => {
                    self.propose_bind(service, pass, &vacancy, (node, shares), meter);
                    self.left_over(service, given.as_slice(), &[node]);
                }
                Err(reason) => {
                    self.left_over(service, given.as_slice(), &[]);
                    let made = self.preempt_for(state, service, pass, &vacancy, meter);
                    if let Err(turn) = made {
                        pass.vacant.push_front(vacancy);
                        return turn;
                    }
                    if made == Ok(false) {
                        let held = self.why_held(state, service, &vacancy);
                        let why = held.unwrap_or_else(|| reason.why.into());
                        self.pend(service, pass, &vacancy, why);
                    }
                }
            }
        }
        Turn::Done
    }

    pub(super) fn propose_bind(
        &mut self,
        service: &Service,
        pass: &mut Pass,
        vacancy: &Vacancy,
        (node, devices): (NodeId, Vec<pb::DeviceShare>),
        meter: &mut Meter,
    ) {
        meter.items -= 1;
        pass.is_away(vacancy.slot);
        pass.comes(node);
        let item = pb::BindItem {
            service_id: service.id.to_vec(),
            service_version: service.version,
            slot: vacancy.slot.number,
            node_id: node.to_vec(),
            replaces: vacancy.replaces.map(|id| id.to_vec()).unwrap_or_default(),
            devices: devices.clone(),
        };
        self.outbox.bind(
            item,
            Bound {
                service: service.id,
                slot: vacancy.slot,
                node,
                resources: service.resources(),
                devices,
                since_ms: vacancy.since_ms,
            },
        );
    }

    /// Makes what the service asks of nodes known. False if that takes more looks than are left.
    pub(super) fn learn(&mut self, state: &State, service: &Service, meter: &mut Meter) -> bool {
        let looks = self.asking.walks(service) * self.scheduler.node_count();
        let affords = looks == 0 || meter.affords(looks);
        if affords {
            meter.look(looks);
            self.asking.learn(&mut self.scheduler, state, service);
        }
        affords
    }

    /// What is against every node that takes no container of the service.
    pub(super) fn explain(&self, placement: &Placement) -> String {
        let (state, service) = (placement.state, placement.service);
        let (asking, scheduler) = (&self.asking, &self.scheduler);
        let reasons = Reasons::new(asking, scheduler, state, service, placement.spread);
        let why = |id| reasons.against(id);
        let mut ask = placement.ask();
        ask.rules.why = Some(Why(&why));
        scheduler.explain(&ask).to_string()
    }
}

/// Deals the nodes out in turns: neighbouring slots go to different nodes, so that a service stays
/// spread when it is scaled down.
pub(super) fn dealt(mut binds: Vec<(NodeId, u32)>) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    while !binds.is_empty() {
        for (node, count) in &mut binds {
            nodes.push(*node);
            *count -= 1;
        }
        binds.retain(|(_, count)| *count > 0);
    }
    nodes
}

pub(super) fn placement<'a>(
    state: &'a State,
    service: &'a Service,
    pass: &'a Pass,
    count: usize,
) -> Placement<'a> {
    Placement {
        state,
        service,
        spread: &pass.spread,
        avoided: &pass.avoided,
        count: count as u32,
    }
}
