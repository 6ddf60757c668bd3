//! Containers that change their slots.
//!
//! A service that shrinks loses its highest slots, whoever is in them. Which containers go is another
//! question, and a better one: so those that stay move to slots that stay, in exchange with those
//! that go. Nothing happens to either on its node.

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::batch::{Judged, answer, bounded};
use crate::fsm::hash;
use crate::fsm::objects::{Container, DesiredState, Event};
use crate::fsm::partition;
use crate::fsm::state::{Place, State};
use crate::fsm::tally::{Counts, is_ready};
use crate::ids::{ContainerId, ServiceId};
use crate::pb;

impl State {
    pub(super) fn move_slots(
        &mut self,
        cx: &mut Context,
        command: &pb::MoveSlots,
    ) -> Result<Vec<u8>> {
        let items = bounded(&command.items)?;
        Ok(answer(items.iter().map(|item| self.move_one(cx, item))))
    }

    /// What occupies the slot takes that of the container in exchange.
    fn move_one(&mut self, cx: &mut Context, item: &pb::MoveItem) -> Judged {
        let id = ContainerId::from_slice(&item.container_id)?;
        let service_id = ServiceId::from_slice(&item.service_id)?;
        let service = self.service(service_id);
        let service = service.ok_or_else(|| not_found(ServiceId::KIND, service_id))?;
        if service.removing {
            let name = service.name.to_string();
            return Err(Error::Removing { name });
        }
        if service.version != item.service_version {
            let (expected, actual) = (item.service_version, service.version);
            return Err(Error::VersionConflict { expected, actual });
        }
        let container = self.container(id).filter(|it| it.service == service_id);
        let container = container.ok_or_else(|| not_found(ContainerId::KIND, id))?;
        let slots = 1..=u64::from(service.spec.replicas);
        if service.is_global() || !slots.contains(&item.slot) || container.slot == item.slot {
            return Err(invalid("slot", "the service has no such slot to move to"));
        }
        if container.desired != DesiredState::Run || container.is_terminal() {
            return Err(Error::StateWentBack);
        }
        let (from, to) = (container.slot, item.slot);
        let occupant = self.containers_of_slot(service_id, to);
        let other = { occupant }.find(|it| it.occupies());
        // Its slot is what there must be only one of, and its worker learns of another one late.
        let is_singleton = |it: &Container| {
            let spec = self.spec(&it.spec_digest);
            spec.is_some_and(|spec| partition::replaced_after_ms(spec).is_some())
        };
        if is_singleton(container) || other.is_some_and(is_singleton) {
            return Err(invalid("slot", "a singleton stays in its own"));
        }
        let other = other.map(|it| it.id);
        self.set_slot(cx, id, to);
        if let Some(other) = other {
            self.set_slot(cx, other, from);
        }
        Ok(id)
    }

    fn set_slot(&mut self, cx: &mut Context, id: ContainerId, slot: u64) {
        let place: Place = self.container_ids[&id];
        let row = self.nodes.get_mut(place.node);
        let ready = is_ready(&row.node);
        let record = row.records.get_mut(place.record);
        self.sum.take(record.element);
        let from = std::mem::replace(&mut record.container.slot, slot);
        record.element = hash::container(&record.container, &mut self.scratch.0);
        self.sum.add(record.element);
        let container: &Container = &record.container;
        let (service, node, spec) = (container.service, container.node, container.spec_digest);
        let counts = Counts::of(container, ready);
        let row = self.services.get_mut(self.service_ids[&service]);
        row.containers.remove(&(from, id));
        row.containers.insert((slot, id), place);
        row.recount(spec, from, counts, Counts::default());
        row.recount(spec, slot, Counts::default(), counts);
        cx.events.push(Event::Container {
            id,
            service,
            node,
            gone: false,
        });
    }
}
