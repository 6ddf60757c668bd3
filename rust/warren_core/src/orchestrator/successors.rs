//! Successors of what was told to go. Room is held for each from then on, until its slot is empty
//! and it is placed itself: of several none counts on the room of another, and no other service
//! gets it.
//!
//! In the leader's memory. A new leader holds nothing for those that its predecessor told to go.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::Resources;
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::asking::{self, Placement};
use crate::orchestrator::fill::dealt;
use crate::orchestrator::plan::{Slot, Verdict};
use crate::pb;

/// What the scheduler holds for one container.
#[derive(Debug)]
pub(super) struct Room {
    pub node: NodeId,
    pub resources: Resources,
    pub devices: Vec<pb::DeviceShare>,
}

/// Invariant: no service without a slot.
#[derive(Debug, Default)]
pub(super) struct Successors {
    slots: BTreeMap<ServiceId, BTreeMap<Slot, Room>>,
}

impl Successors {
    pub fn has(&self, service: ServiceId, slot: Slot) -> bool {
        let slots = self.slots.get(&service);
        slots.is_some_and(|slots| slots.contains_key(&slot))
    }

    /// What was held on the node is gone with it.
    pub fn node_removed(&mut self, node: NodeId) {
        for slots in self.slots.values_mut() {
            slots.retain(|_, room| room.node != node);
        }
        self.slots.retain(|_, slots| !slots.is_empty());
    }

    fn take(&mut self, service: ServiceId, slot: Slot) -> Option<Room> {
        let slots = self.slots.get_mut(&service)?;
        let room = slots.remove(&slot);
        if slots.is_empty() {
            self.slots.remove(&service);
        }
        room
    }
}

impl Orchestrator {
    /// Holds room for as many as find a place, of those that are asked for.
    pub(super) fn hold_rooms(&mut self, placement: &Placement) -> Vec<Room> {
        let placed = asking::place(&self.asking, &mut self.scheduler, placement);
        let mut devices = placed.devices;
        let rooms = dealt(placed.binds).into_iter().map(|node| Room {
            node,
            resources: placement.service.resources(),
            devices: devices
                .get_mut(&node)
                .and_then(Vec::pop)
                .unwrap_or_default(),
        });
        rooms.collect()
    }

    pub(super) fn release_room(&mut self, room: &Room) {
        self.scheduler.release(room.node, room.resources);
        self.scheduler.release_devices(room.node, &room.devices);
    }

    /// What is in the slot was told to go; there is room for its successor.
    pub(super) fn expect_successor(&mut self, service: ServiceId, slot: Slot, room: Room) {
        let slots = self.successors.slots.entry(service).or_default();
        if let Some(before) = slots.insert(slot, room) {
            self.release_room(&before);
        }
    }

    /// Where the successor of what leaves the slot is going to be. If nothing leaves it and it is not
    /// empty either, nobody is expected any more.
    pub(super) fn successor_of(
        &mut self,
        service: ServiceId,
        slot: Slot,
        verdict: Verdict,
    ) -> Option<NodeId> {
        let node = self.successors.slots.get(&service)?.get(&slot)?.node;
        let leaves = match verdict {
            Verdict::Moving => true,
            Verdict::Outdated(container, _)
            | Verdict::Draining(container, _)
            | Verdict::Unready(container, _) => self.in_flight.has_container(container),
            Verdict::Vacant(_) | Verdict::Ended(_) => return None,
            _ => false,
        };
        if leaves {
            return Some(node);
        }
        self.give_back_unused(service, slot);
        None
    }

    /// Gives back what is held for the slot, which is placed now; where that is.
    pub(super) fn give_back_for(&mut self, service: ServiceId, slot: Slot) -> Option<NodeId> {
        let room = self.successors.take(service, slot)?;
        self.release_room(&room);
        Some(room.node)
    }

    /// The same of a slot that is not placed there.
    pub(super) fn give_back_unused(&mut self, service: ServiceId, slot: Slot) {
        if self.give_back_for(service, slot).is_some() {
            self.marks.room();
        }
    }

    /// What was given back on these nodes is there for others where nobody was placed.
    pub(super) fn left_over(&mut self, given: &BTreeSet<NodeId>, placed: &[NodeId]) {
        if given.is_empty() {
            return;
        }
        let placed: BTreeSet<_> = placed.iter().copied().collect();
        if !given.is_subset(&placed) {
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

    fn release_rooms(&mut self, rooms: BTreeMap<Slot, Room>) {
        if !rooms.is_empty() {
            self.marks.room();
        }
        rooms.values().for_each(|room| self.release_room(room));
    }
}
