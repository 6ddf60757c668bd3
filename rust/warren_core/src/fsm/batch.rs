//! Commands of many items. Each item is judged alone, against the state that the items before it
//! left: a refused one changes nothing and says why, the others take effect.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::convert::{StatusFields, specified};
use crate::fsm::objects::{
    Container, ContainerState, DesiredState, Event, Node, NodeStatus, Resources, Service, Status,
};
use crate::fsm::parse::{Report, ReportItem};
use crate::fsm::state::{NodeRow, Place, ServiceRow, State};
use crate::fsm::table::Handle;
use crate::fsm::wire;
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::pb;

/// Most items of one command; a larger one is refused whole.
pub const BATCH_ITEMS_MAX: usize = 4096;

/// Of an item that was applied, in its answer.
const ITEM_RESULT_BYTES: usize = 22;

pub(super) type Judged = Result<ContainerId>;

impl State {
    pub(super) fn bind(&mut self, cx: &mut Context, command: &pb::Bind) -> Result<Vec<u8>> {
        let items = bounded(&command.items)?;
        let entropy = cx.entropy.clone()?;
        cx.events.reserve(items.len());
        let assigned = Status::assigned();
        let judge = |(ordinal, item): (usize, &pb::BindItem)| {
            let id = ContainerId::compose(entropy, ordinal as u32);
            self.bind_one(cx, id, item, &assigned)
        };
        Ok(answer(items.iter().enumerate().map(judge)))
    }

    /// `assigned` is cloned, so that a batch shares the one sentence in it.
    fn bind_one(
        &mut self,
        cx: &mut Context,
        id: ContainerId,
        item: &pb::BindItem,
        assigned: &Status,
    ) -> Judged {
        let service_id = ServiceId::from_slice(&item.service_id)?;
        let node_id = NodeId::from_slice(&item.node_id)?;
        let service_at = *self
            .service_ids
            .get(&service_id)
            .ok_or_else(|| not_found(ServiceId::KIND, service_id))?;
        let node_at = *self
            .node_ids
            .get(&node_id)
            .ok_or_else(|| not_found(NodeId::KIND, node_id))?;
        let ServiceRow {
            service, origin, ..
        } = self.services.get(service_at);
        let row = self.nodes.get(node_at);
        let node = &row.node;
        if self.container_ids.contains_key(&id) {
            return Err(invalid("command", "its entropy has been used before"));
        }
        judge_service(service, item)?;
        let replaced = self.judge_slot(service, node, item)?;
        let own = (!node.holds.is_empty()).then_some((service_id, item.slot));
        judge_node(service, node, self.free(row, own))?;
        judge_count(service, row, replaced)?;
        let devices = match self.feature_level() {
            // Older releases do not know them.
            ..4 => &[],
            _ => &item.devices[..],
        };
        match own {
            None => row.claims.judge(service, node, devices)?,
            own => self.claimed(row, own).judge(service, node, devices)?,
        }
        let container = Container {
            id,
            origin: Arc::clone(origin),
            slot: item.slot,
            node: node_id,
            desired: DesiredState::Run,
            status: assigned.clone(),
            created_at_ms: self.time_ms,
            devices: (!devices.is_empty()).then(|| Arc::new(devices.to_vec())),
        };
        if let Some(replaced) = replaced {
            self.retire(cx, replaced);
        }
        // Its service has the spec too, so that there is nothing to copy.
        let no_need = || unreachable!("the service has it");
        self.insert_container(container, service_at, node_at, no_need);
        if !self.holds.is_empty() {
            let global = (item.slot == 0).then_some(node_id);
            self.end_hold(cx, service_id, item.slot, global);
        }
        cx.events.push(Event::Container {
            id,
            service: service_id,
            node: node_id,
            gone: false,
        });
        Ok(id)
    }

    /// What the slot `own` could have of it.
    fn free(&self, row: &NodeRow, own: Option<(ServiceId, u64)>) -> Resources {
        let free = self.allocatable(&row.node).saturating_sub(row.allocated);
        free.saturating_sub(row.set_aside(own))
    }

    /// The slot is free but for what the item replaces: a terminal container, or one whose node
    /// is down.
    pub(super) fn judge_slot(
        &self,
        service: &Service,
        node: &Node,
        item: &pb::BindItem,
    ) -> Result<Option<ContainerId>> {
        let replaced = match &item.replaces[..] {
            [] => None,
            bytes => Some(ContainerId::from_slice(bytes)?),
        };
        let taken = Error::SlotTaken { slot: item.slot };
        let mut replaces_occupant = false;
        for container in self.containers_of_slot(service.id, item.slot) {
            let same_slot = !service.is_global() || container.node == node.id;
            if !same_slot || !container.occupies() {
                continue;
            }
            if Some(container.id) != replaced || !self.is_replaceable(container) {
                return Err(taken);
            }
            replaces_occupant = true;
        }
        Ok(replaced.filter(|_| replaces_occupant))
    }

    fn is_replaceable(&self, container: &Container) -> bool {
        let down = || {
            let node = self.node(container.node);
            node.is_some_and(|node| node.status == NodeStatus::Down)
        };
        container.is_terminal() || (self.freeze().is_none() && down())
    }

    /// Gives up a container for another one in its slot. What may still run on a node that is
    /// down becomes lost; the node removes it when it is back.
    fn retire(&mut self, cx: &mut Context, id: ContainerId) {
        let place = self.container_ids[&id];
        self.change(cx, place, |container| {
            container.desired = DesiredState::Remove;
            if !container.is_terminal() {
                container.status.state = ContainerState::Lost;
            }
        });
    }

    pub(super) fn set_desired(
        &mut self,
        cx: &mut Context,
        command: &pb::SetDesired,
    ) -> Result<Vec<u8>> {
        let items = bounded(&command.items)?;
        Ok(answer(
            items.iter().map(|item| self.set_desired_one(cx, item)),
        ))
    }

    fn set_desired_one(&mut self, cx: &mut Context, item: &pb::DesiredItem) -> Judged {
        let id = ContainerId::from_slice(&item.container_id)?;
        let desired = specified("desired state", item.desired, DesiredState::Unspecified)?;
        let place = *self
            .container_ids
            .get(&id)
            .ok_or_else(|| not_found(ContainerId::KIND, id))?;
        let before = self.container_at(place).desired;
        if desired < before {
            return Err(Error::StateWentBack);
        }
        if desired > before {
            self.change(cx, place, |container| container.desired = desired);
        }
        Ok(id)
    }

    pub(super) fn report_status(
        &mut self,
        cx: &mut Context,
        command: &pb::ReportStatus,
    ) -> Result<Vec<u8>> {
        let items = bounded(&command.items)?.iter().map(|item| ReportItem {
            container_id: &item.container_id,
            status: item.status.as_ref().map(StatusFields::from),
        });
        self.report_items(cx, &command.node_id, items)
    }

    /// Like [`State::report_status`]; the items have been counted.
    pub(super) fn report(&mut self, cx: &mut Context, report: Report<'_>) -> Result<Vec<u8>> {
        self.report_items(cx, report.node_id, report.items.into_iter())
    }

    fn report_items<'a>(
        &mut self,
        cx: &mut Context,
        node: &[u8],
        items: impl ExactSizeIterator<Item = ReportItem<'a>>,
    ) -> Result<Vec<u8>> {
        let node = NodeId::from_slice(node)?;
        let node = self.node_ids.get(&node).copied();
        cx.events.reserve(items.len());
        // Most say the same: one copy of the sentence serves them all.
        let mut message = Arc::default();
        Ok(answer(items.map(|item| {
            self.report_one(cx, node, &item, &mut message)
        })))
    }

    /// A container of another node is as unknown to this one as one that never was.
    fn report_one(
        &mut self,
        cx: &mut Context,
        node: Option<Handle>,
        item: &ReportItem<'_>,
        message: &mut Arc<str>,
    ) -> Judged {
        let id = ContainerId::from_slice(item.container_id)?;
        let reported = item
            .status
            .as_ref()
            .ok_or_else(|| invalid("container status", "there is none"))
            .and_then(|status| Status::sharing(message, status))?;
        if reported.state == ContainerState::Lost {
            return Err(invalid(
                "container status",
                "only managers call a container lost",
            ));
        }
        let (place, container) = node
            .and_then(|node| self.container_on(node, id))
            .ok_or_else(|| not_found(ContainerId::KIND, id))?;
        if let Some(next) = container.status.advanced(reported)? {
            self.change(cx, place, |container| container.status = next);
        }
        Ok(id)
    }

    /// Changes a container and says so; deletes its record if that was the last thing to wait for.
    pub(super) fn change(
        &mut self,
        cx: &mut Context,
        place: Place,
        change: impl FnOnce(&mut Container),
    ) {
        let container = self.update_container(place, change);
        let (id, service, node) = (container.id, container.service, container.node);
        let gone = container.status.removed && container.desired == DesiredState::Remove;
        if gone {
            self.remove_container(id);
        }
        cx.events.push(Event::Container {
            id,
            service,
            node,
            gone,
        });
    }
}

impl Status {
    fn assigned() -> Self {
        Self {
            attempt: 1,
            state: ContainerState::Assigned,
            message: "".into(),
            exit_code: None,
            oom_killed: false,
            pid: 0,
            started_at_ms: 0,
            finished_at_ms: 0,
            retry_at_ms: 0,
            removed: false,
        }
    }

    /// The status after this report, if it changes anything. (attempt, state) only grows; details
    /// of a state may change until it is terminal. That nothing is left on the node may be said
    /// with any report, and stays said.
    fn advanced(&self, mut reported: Status) -> Result<Option<Status>> {
        let terminal = crate::fsm::objects::is_terminal(self.state);
        let forward = !terminal && (reported.attempt, reported.state) >= (self.attempt, self.state);
        let says_removed = reported.removed;
        reported.removed |= self.removed;
        if forward {
            Ok((reported != *self).then_some(reported))
        } else if says_removed {
            Ok((!self.removed).then(|| Status {
                removed: true,
                ..self.clone()
            }))
        } else if reported == *self {
            Ok(None)
        } else {
            Err(Error::StateWentBack)
        }
    }
}

pub(super) fn judge_service(service: &Service, item: &pb::BindItem) -> Result<()> {
    if service.removing {
        return Err(Error::Removing {
            name: service.name.to_string(),
        });
    }
    if service.version != item.service_version {
        let (expected, actual) = (item.service_version, service.version);
        return Err(Error::VersionConflict { expected, actual });
    }
    let slots = if service.is_global() {
        0..=0
    } else {
        1..=u64::from(service.spec.replicas)
    };
    if slots.contains(&item.slot) {
        Ok(())
    } else {
        Err(invalid("slot", "the service has no such slot"))
    }
}

pub(super) fn judge_node(service: &Service, node: &Node, free: Resources) -> Result<()> {
    if let Some(why) = node.refusal() {
        return Err(Error::NodeNotEligible { why });
    }
    if !node.has_image(&service.container_spec().image_digest) {
        return Err(Error::NodeNotEligible {
            why: "it has not the image",
        });
    }
    if service.rules.refusal(node).is_some() {
        return Err(Error::NodeNotEligible {
            why: "the placement of the service keeps it away from there",
        });
    }
    if service.resources().fits(free) {
        Ok(())
    } else {
        Err(Error::NoCapacity)
    }
}

/// O(containers of the node), for services that limit how many they have on one.
pub(super) fn judge_count(
    service: &Service,
    row: &NodeRow,
    replaced: Option<ContainerId>,
) -> Result<()> {
    let most = service.rules.max_replicas_per_node as usize;
    if most == 0 {
        return Ok(());
    }
    let of_service = |it: &&Container| {
        let meant = it.desired == DesiredState::Run && !it.is_terminal();
        it.service == service.id && meant && Some(it.id) != replaced
    };
    let containers = row.records.iter().map(|record| &record.container);
    if containers.filter(of_service).count() < most {
        return Ok(());
    }
    Err(Error::NodeNotEligible {
        why: "it has as many containers of the service as that allows",
    })
}

pub(super) fn bounded<T>(items: &[T]) -> Result<&[T]> {
    if items.len() <= BATCH_ITEMS_MAX {
        Ok(items)
    } else {
        Err(invalid("command", "it has more than 4,096 items"))
    }
}

/// The encoded [`pb::BatchResult`], item by item.
pub(super) fn answer(judged: impl Iterator<Item = Judged>) -> Vec<u8> {
    let mut response = Vec::with_capacity(judged.size_hint().0 * ITEM_RESULT_BYTES);
    let mut item = Vec::with_capacity(ITEM_RESULT_BYTES);
    for judged in judged {
        item.clear();
        match judged {
            Ok(id) => {
                wire::put_number(1, 1, &mut item);
                wire::put_bytes(3, &id.0, &mut item);
            }
            Err(refusal) => wire::put_bytes(2, refusal.code().as_bytes(), &mut item),
        }
        wire::put_bytes(1, &item, &mut response);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsm::parse;
    use prost::Message;

    #[test]
    fn an_answer_is_a_batch_result() {
        let id = ContainerId([9; 16]);
        let encoded = answer([Ok(id), Err(Error::NoCapacity)].into_iter());
        let applied = pb::ItemResult {
            applied: true,
            rejected: String::new(),
            container_id: id.to_vec(),
        };
        let refused = pb::ItemResult {
            applied: false,
            rejected: "no_capacity".to_owned(),
            container_id: Vec::new(),
        };
        let items = vec![applied, refused];
        assert_eq!(encoded, pb::BatchResult { items }.encode_to_vec());
        assert_eq!(parse::applied_items(&encoded), Some(vec![true, false]));
        assert_eq!(parse::applied_items(&[]), Some(Vec::new()));
        assert_eq!(parse::applied_items(&encoded[..encoded.len() - 1]), None);
    }
}
