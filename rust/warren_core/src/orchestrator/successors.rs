//! Successors of what was told to go. Room is held for each from then on, until its slot is empty
//! and it is placed itself: of several none counts on the room of another, and no other service
//! gets it.
//!
//! Which slots were emptied for an update is known with it: while one of them waits for a node, the
//! update goes no further.
//!
//! In the leader's memory. A new leader holds nothing for those that its predecessor told to go,
//! and takes their slots for any that wait.

use std::collections::BTreeMap;

use crate::fsm::{Resources, Service};
use crate::ids::{NodeId, ServiceId, SpecDigest};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::asking::{self, Placement};
use crate::orchestrator::fill::dealt;
use crate::orchestrator::plan::{Slot, Verdict};
use crate::pb;

/// Where one container is going to be, and what the scheduler holds for it there.
#[derive(Debug)]
pub(super) struct Room {
    pub node: NodeId,
    /// `None` where what its predecessor leaves is enough.
    pub resources: Option<Resources>,
    pub devices: Vec<pb::DeviceShare>,
}

/// Of what was told to go.
#[derive(Debug)]
struct Successor {
    /// `None` where that had to go anyway, and once its slot was looked at empty.
    room: Option<Room>,
    /// The spec that it went for, if that was it.
    update: Option<SpecDigest>,
}

/// Invariant: no service without a slot.
#[derive(Debug, Default)]
pub(super) struct Successors {
    slots: BTreeMap<ServiceId, BTreeMap<Slot, Successor>>,
}

impl Successors {
    pub fn has(&self, service: ServiceId, slot: Slot) -> bool {
        self.of(service, slot).is_some()
    }

    fn of(&self, service: ServiceId, slot: Slot) -> Option<&Successor> {
        self.slots.get(&service)?.get(&slot)
    }

    /// Whether what was in the slot went for the spec that the service has now.
    pub fn went_for(&self, service: &Service, slot: Slot) -> bool {
        let known = self.of(service.id, slot);
        known.is_some_and(|known| known.update == Some(service.spec_digest))
    }

    /// What was held on the node is gone with it.
    pub fn node_removed(&mut self, node: NodeId) {
        for slots in self.slots.values_mut() {
            for known in slots.values_mut() {
                known.room.take_if(|room| room.node == node);
            }
            slots.retain(|_, known| known.room.is_some() || known.update.is_some());
        }
        self.slots.retain(|_, slots| !slots.is_empty());
    }

    /// What is held for the slot. Nothing more is known of it then, but that it went for an update.
    fn take(&mut self, service: ServiceId, slot: Slot) -> Option<Room> {
        let known = self.slots.get_mut(&service)?.get_mut(&slot)?;
        let room = known.room.take();
        if known.update.is_none() {
            self.forget(service, slot);
        }
        room
    }

    fn forget(&mut self, service: ServiceId, slot: Slot) {
        if let Some(slots) = self.slots.get_mut(&service) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.slots.remove(&service);
            }
        }
    }
}

impl Orchestrator {
    /// Holds room for as many as find a place, of those that are asked for.
    pub(super) fn hold_rooms(&mut self, placement: &Placement) -> Vec<Room> {
        let placed = asking::place(&self.asking, &mut self.scheduler, placement);
        let mut devices = placed.devices;
        let rooms = dealt(placed.binds).into_iter().map(|node| Room {
            node,
            resources: Some(placement.service.resources()),
            devices: devices
                .get_mut(&node)
                .and_then(Vec::pop)
                .unwrap_or_default(),
        });
        rooms.collect()
    }

    pub(super) fn release_room(&mut self, room: &Room) {
        if let Some(resources) = room.resources {
            self.scheduler.release(room.node, resources);
        }
        self.scheduler.release_devices(room.node, &room.devices);
    }

    /// What is in the slot was told to go, for that spec or since its node is being drained; there
    /// is room for its successor, or it had to go anyway.
    pub(super) fn expect_successor(
        &mut self,
        service: ServiceId,
        slot: Slot,
        room: Option<Room>,
        update: Option<SpecDigest>,
    ) {
        let slots = self.successors.slots.entry(service).or_default();
        let before = slots.insert(slot, Successor { room, update });
        if let Some(room) = before.and_then(|before| before.room) {
            self.release_room(&room);
            self.marks.room();
        }
    }

    /// Where the successor of what leaves the slot is going to be. If nothing leaves it and it is
    /// not empty either, nobody is expected any more.
    pub(super) fn successor_of(
        &mut self,
        service: ServiceId,
        slot: Slot,
        verdict: Verdict,
    ) -> Option<NodeId> {
        let room = &self.successors.of(service, slot)?.room;
        let node = room.as_ref().map(|room| room.node);
        let leaves = match verdict {
            Verdict::Moving | Verdict::Waits => true,
            Verdict::Outdated(container, _)
            | Verdict::Draining(container, _)
            | Verdict::Unready(container, _) => self.in_flight.has_container(container),
            Verdict::Vacant(_) | Verdict::Ended(_) => return None,
            _ => false,
        };
        if leaves {
            return node;
        }
        self.give_back_unused(service, slot);
        self.successors.forget(service, slot);
        None
    }

    /// Gives back what is held for the slot, which is placed now; what that was, if anything.
    pub(super) fn give_back_for(&mut self, service: ServiceId, slot: Slot) -> Option<Room> {
        let room = self.successors.take(service, slot)?;
        self.release_room(&room);
        Some(room)
    }

    /// The same of a slot that is not placed there.
    pub(super) fn give_back_unused(&mut self, service: ServiceId, slot: Slot) {
        if self.give_back_for(service, slot).is_some() {
            self.marks.room();
        }
    }

    /// Of what was given back that is there for others which those that were placed do not take: on
    /// another node, or less, by a newer spec.
    pub(super) fn left_over(&mut self, service: &Service, given: &[Room], placed: &[NodeId]) {
        let mut left: BTreeMap<NodeId, Resources> = BTreeMap::new();
        for room in given {
            let left = left.entry(room.node).or_default();
            *left = left.saturating_add(room.resources.unwrap_or_default());
        }
        for node in placed {
            if let Some(left) = left.get_mut(node) {
                *left = left.saturating_sub(service.resources());
            }
        }
        let devices = given.iter().any(|room| !room.devices.is_empty());
        if devices || left.values().any(|left| *left != Resources::default()) {
            self.marks.room();
        }
    }

    /// Nobody is expected in slots above that number any more.
    pub(super) fn give_back_above(&mut self, service: ServiceId, number: u64) {
        let Some(slots) = self.successors.slots.get_mut(&service) else {
            return;
        };
        let above = slots.split_off(&Slot::numbered(number + 1));
        if slots.is_empty() {
            self.successors.slots.remove(&service);
        }
        self.release_rooms(above);
    }

    /// Nor in any.
    pub(super) fn give_back(&mut self, service: ServiceId) {
        let all = self.successors.slots.remove(&service);
        self.release_rooms(all.unwrap_or_default());
    }

    fn release_rooms(&mut self, slots: BTreeMap<Slot, Successor>) {
        if !slots.is_empty() {
            self.marks.room();
        }
        let rooms = slots.into_values().filter_map(|known| known.room);
        rooms.for_each(|room| self.release_room(&room));
    }
}
