//! Room on a node that is kept for a container of a higher priority, until those that make room for
//! it have stopped.
//!
//! A preemption is one step of the state: the victims are told to go, and what the successor will
//! need is set aside for its slot. Both are in the state, so that a new leader goes on where the
//! last one was. Nobody else is bound to that room meanwhile. A hold ends when its slot is filled,
//! here or elsewhere; when the slot or its service goes, or asks for something else; when the node
//! takes no containers any more; and when the leader says that nothing comes of it.
//!
//! What a container of some priority may end is of a lower one, so that no chain of preemptions
//! comes back to where it began.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::batch::{Judged, answer, bounded, judge_count, judge_node, judge_service};
use crate::fsm::claims::Claims;
use crate::fsm::objects::{Container, DesiredState, Event, Node, Resources, Service};
use crate::fsm::state::{NodeRow, State};
use crate::ids::{ContainerId, NodeId, ServiceId, SpecDigest};
use crate::pb;

/// Holds of one node.
pub const HOLDS_PER_NODE_MAX: usize = 16;
/// Containers that make room for one.
pub const HOLD_VICTIMS_MAX: usize = 32;

/// See [`pb::Hold`]. Invariants: `victims` is not empty and ascends; no slot has two holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub service: ServiceId,
    pub slot: u64,
    /// Of the service when room was made for it.
    pub spec_digest: SpecDigest,
    pub resources: Resources,
    pub devices: Vec<pb::DeviceShare>,
    pub victims: Vec<ContainerId>,
    pub since_ms: u64,
}

impl Hold {
    pub fn is_of(&self, service: ServiceId, slot: u64) -> bool {
        self.service == service && self.slot == slot
    }

    /// Whether the service still wants what it was made for.
    fn is_wanted(&self, service: &Service) -> bool {
        let slots = match service.is_global() {
            true => 0..=0,
            false => 1..=u64::from(service.spec.replicas),
        };
        !service.removing
            && service.rules.preempt
            && service.spec_digest == self.spec_digest
            && slots.contains(&self.slot)
    }
}

impl Node {
    fn without_hold(&self, service: ServiceId, slot: u64) -> Self {
        let kept = self.holds.iter().filter(|it| !it.is_of(service, slot));
        Self {
            holds: Arc::new(kept.cloned().collect()),
            ..self.clone()
        }
    }
}

impl State {
    /// The hold of a slot, and where it is; `node` for a global service, whose slots are nodes.
    pub fn hold_of(
        &self,
        service: ServiceId,
        slot: u64,
        node: Option<NodeId>,
    ) -> Option<(NodeId, &Hold)> {
        let first = (service, slot, node.unwrap_or(NodeId([0; 16])));
        let (of, at, id) = *self.holds.range(first..).next()?;
        if (of, at) != (service, slot) || node.is_some_and(|node| node != id) {
            return None;
        }
        let holds = &self.node(id)?.holds;
        let hold = holds.iter().find(|it| it.is_of(service, slot))?;
        Some((id, hold))
    }

    /// What is kept for slots of the service, and where, the lowest slot first.
    pub fn holds_of_service(&self, id: ServiceId) -> impl Iterator<Item = (NodeId, &Hold)> {
        let of_service = self.holds.range((id, 0, NodeId([0; 16]))..);
        let of_service = of_service.take_while(move |(of, ..)| *of == id);
        of_service.filter_map(move |(_, slot, node)| self.hold_of(id, *slot, Some(*node)))
    }

    /// Services that room is kept for.
    pub fn services_with_holds(&self) -> impl Iterator<Item = ServiceId> {
        let first = self.holds.get_min().map(|(id, ..)| *id);
        std::iter::successors(first, |id| {
            let behind = Excluded((*id, u64::MAX, NodeId([0xff; 16])));
            let next = self.holds.range((behind, Unbounded)).next();
            next.map(|(id, ..)| *id)
        })
    }

    /// How many there are.
    pub fn hold_count(&self) -> usize {
        self.holds.len()
    }

    /// For whom the container was told to go, while room is kept for that one.
    pub fn preempted_for(&self, container: &Container) -> Option<&Hold> {
        let holds = &self.node(container.node)?.holds;
        let made_room = |it: &&Hold| it.victims.binary_search(&container.id).is_ok();
        holds.iter().find(made_room)
    }

    /// Victims of a hold on the node that have not stopped yet.
    pub fn victims_left<'a>(
        &'a self,
        node: NodeId,
        hold: &'a Hold,
    ) -> impl Iterator<Item = &'a Container> {
        let row = self.node_row(node).into_iter();
        row.flat_map(|row| row.victims_left(hold))
    }

    /// What of the node cannot be given away: what its containers hold, and what is kept for
    /// others beyond what their victims still hold.
    pub fn node_taken(&self, id: NodeId) -> Resources {
        self.node_row(id).map_or_else(Resources::default, |row| {
            row.allocated.saturating_add(row.set_aside(None))
        })
    }

    /// What is set aside on the node for the slot itself; part of [`State::node_taken`].
    pub fn set_aside_for(&self, id: NodeId, service: ServiceId, slot: u64) -> Resources {
        let Some(row) = self.node_row(id) else {
            return Resources::default();
        };
        let all = row.set_aside(None);
        all.saturating_sub(row.set_aside(Some((service, slot))))
    }

    /// Ports, volumes and devices of the node that are claimed, or kept for other slots than `but`.
    pub(super) fn claimed(&self, row: &NodeRow, but: Option<(ServiceId, u64)>) -> Claims {
        let mut claims = row.claims.clone();
        for hold in row.node.holds.iter() {
            if but.is_none_or(|(service, slot)| !hold.is_of(service, slot)) {
                let spec = self.spec(&hold.spec_digest).map(|spec| &**spec);
                claims.take(spec, &hold.devices);
            }
        }
        claims
    }

    /// Its slot is filled: what was kept for it is no more.
    pub(super) fn end_hold(
        &mut self,
        cx: &mut Context,
        service: ServiceId,
        slot: u64,
        node: Option<NodeId>,
    ) -> bool {
        let held_on = self.hold_of(service, slot, node).map(|(id, _)| id);
        let Some(node) = held_on.and_then(|id| self.node(id)) else {
            return false;
        };
        let (id, node) = (node.id, node.without_hold(service, slot));
        self.put_node(node);
        cx.events.push(Event::Node { id });
        true
    }

    /// The service is another than before: holds that it has no use for end.
    pub(super) fn end_unwanted_holds(&mut self, cx: &mut Context, id: ServiceId) {
        let Some(service) = self.service(id) else {
            return;
        };
        let of_service = self.holds.range((id, 0, NodeId([0; 16]))..);
        let of_service = of_service.take_while(|(of, ..)| *of == id);
        let unwanted = of_service.filter(|(_, slot, node)| {
            let hold = self.hold_of(id, *slot, Some(*node));
            hold.is_none_or(|(_, hold)| !hold.is_wanted(service))
        });
        let unwanted: Vec<_> = unwanted.map(|(_, slot, node)| (*slot, *node)).collect();
        for (slot, node) in unwanted {
            self.end_hold(cx, id, slot, Some(node));
        }
    }

    pub(super) fn preempt(&mut self, cx: &mut Context, command: &pb::Preempt) -> Result<Vec<u8>> {
        let items = bounded(&command.items)?;
        Ok(answer(items.iter().map(|item| self.preempt_one(cx, item))))
    }

    /// Like a bind, on a node that its victims have left; answered with the first of these.
    fn preempt_one(&mut self, cx: &mut Context, item: &pb::PreemptItem) -> Judged {
        let bind = item.bind.as_ref();
        let bind = bind.ok_or_else(|| invalid("preemption", "it is for nobody"))?;
        let service_id = ServiceId::from_slice(&bind.service_id)?;
        let node_id = NodeId::from_slice(&bind.node_id)?;
        let service = self.service(service_id);
        let service = service.ok_or_else(|| not_found(ServiceId::KIND, service_id))?;
        let row = self.node_row(node_id);
        let row = row.ok_or_else(|| not_found(NodeId::KIND, node_id))?;
        if item.victims.is_empty() {
            return match self.end_hold(cx, service_id, bind.slot, Some(node_id)) {
                true => Ok(ContainerId([0; 16])),
                false => Err(invalid("preemption", "no room is kept for that slot there")),
            };
        }
        let victims = self.judge_victims(service, node_id, &item.victims)?;
        judge_service(service, bind)?;
        let replaced = self.judge_slot(service, &row.node, bind)?;
        let global = service.is_global().then_some(node_id);
        if self.hold_of(service_id, bind.slot, global).is_some() {
            return Err(Error::SlotTaken { slot: bind.slot });
        }
        if row.node.holds.len() >= HOLDS_PER_NODE_MAX {
            let why = "room is kept there for as many containers as may be";
            return Err(Error::NodeNotEligible { why });
        }
        let gone = victims.iter().fold(Resources::default(), |sum, it| {
            sum.saturating_add(it.resources)
        });
        let taken = self.node_taken(node_id).saturating_sub(gone);
        let free = self.allocatable(&row.node).saturating_sub(taken);
        judge_node(service, &row.node, free)?;
        judge_count(service, row, replaced)?;
        let mut claims = self.claimed(row, None);
        for it in &victims {
            let spec = self.spec(&it.spec_digest).map(|spec| &**spec);
            claims.give(spec, it.devices());
        }
        claims.judge(service, &row.node, &bind.devices)?;
        let victims: Vec<ContainerId> = victims.iter().map(|it| it.id).collect();
        let first = victims[0];
        let mut holds = (*row.node.holds).clone();
        holds.push(Hold {
            service: service_id,
            slot: bind.slot,
            spec_digest: service.spec_digest,
            resources: service.resources(),
            devices: bind.devices.clone(),
            victims: victims.clone(),
            since_ms: self.time_ms,
        });
        let node = Node {
            holds: Arc::new(holds),
            ..row.node.clone()
        };
        self.put_node(node);
        cx.events.push(Event::Node { id: node_id });
        for id in victims {
            let place = self.container_ids[&id];
            self.change(cx, place, |it| it.desired = DesiredState::Remove);
        }
        Ok(first)
    }

    /// They are on the node, meant to run, and of a lower priority.
    fn judge_victims(
        &self,
        service: &Service,
        node: NodeId,
        victims: &[Vec<u8>],
    ) -> Result<Vec<&Container>> {
        if !service.rules.preempt {
            return Err(invalid("preemption", "the service does not ask for it"));
        }
        if victims.len() > HOLD_VICTIMS_MAX {
            return Err(invalid(
                "preemption",
                "more than 32 would have to make room",
            ));
        }
        if !victims.is_sorted_by(|left, right| left < right) {
            return Err(invalid("preemption", "its victims are not in order"));
        }
        let judge = |id: &Vec<u8>| {
            let id = ContainerId::from_slice(id)?;
            let container = self.container(id).filter(|it| it.node == node);
            let container = container.ok_or_else(|| not_found(ContainerId::KIND, id))?;
            let of = self.service(container.service);
            let lower = of.is_some_and(|of| of.rules.priority < service.rules.priority);
            let runs = container.desired == DesiredState::Run && !container.is_terminal();
            if lower && runs {
                return Ok(container);
            }
            Err(Error::NodeNotEligible {
                why: "what was to make room there is going anyway, or not of a lower priority",
            })
        };
        victims.iter().map(judge).collect()
    }
}

impl NodeRow {
    /// Given up with the node; mostly none, which takes no walk.
    pub(super) fn lost_containers(&self) -> impl Iterator<Item = &Container> {
        let records = (self.lost > 0).then(|| self.records.iter());
        let containers = records.into_iter().flatten().map(|row| &row.container);
        containers.filter(|container| container.is_lost())
    }

    fn victims_left<'a>(&'a self, hold: &'a Hold) -> impl Iterator<Item = &'a Container> {
        let left = hold.victims.iter().filter_map(|id| {
            let record = *self.containers.get(id)?;
            Some(&self.records.get(record).container)
        });
        left.filter(|container| !container.is_terminal())
    }

    /// Beyond what victims still hold, for all holds but that of one slot.
    pub(super) fn set_aside(&self, but: Option<(ServiceId, u64)>) -> Resources {
        let mut sum = Resources::default();
        for hold in self.node.holds.iter() {
            if but.is_some_and(|(service, slot)| hold.is_of(service, slot)) {
                continue;
            }
            let left = self.victims_left(hold).map(Container::held);
            let left = left.fold(Resources::default(), Resources::saturating_add);
            sum = sum.saturating_add(hold.resources.saturating_sub(left));
        }
        sum
    }
}
