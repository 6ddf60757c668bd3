//! Answers to `Explain`: what it is asked of, and the explanation as a message.

use super::reads::LeaderView;
use crate::error::Error;
use crate::fsm::{Container, Service, State};
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::{FailingSlot, Kept, NodeRow, Subject, explain};
use crate::pb;

/// Rows of nodes where nothing is said, and at most.
const NODES_DEFAULT: usize = 20;
const NODES_MAX: usize = 100_000;

/// Slots that keep failing, of those that are told.
const FAILING_MAX: usize = 20;

/// What is meant: a service, one of its containers, or a slot that has none.
enum Meant<'a> {
    Service(&'a Service),
    Container(&'a Service, &'a Container),
    Slot(&'a Service, u64),
}

/// The service that a reference is about, if there is one; for what else has to be known of it.
pub(super) fn service_of(state: &State, reference: &str) -> Option<ServiceId> {
    let meant = meant(state, reference).ok()?;
    Some(match meant {
        Meant::Service(service) | Meant::Slot(service, _) | Meant::Container(service, _) => {
            service.id
        }
    })
}

fn meant<'a>(state: &'a State, reference: &str) -> Result<Meant<'a>, Error> {
    if let Some((name, slot)) = reference.rsplit_once('.') {
        return meant_slot(state, reference, name, slot);
    }
    let service = match state.resolve_service(reference) {
        Err(Error::NotFound { .. }) => None,
        other => Some(other?),
    };
    if let Some(service) = service.and_then(|id| state.service(id)) {
        return Ok(Meant::Service(service));
    }
    let not_found = || Error::NotFound {
        kind: "service or container",
        reference: reference.to_owned(),
    };
    let id = match state.resolve_container(reference) {
        Err(ambiguous @ Error::Ambiguous { .. }) => return Err(ambiguous),
        other => other.map_err(|_| not_found())?,
    };
    let container = state.container(id).ok_or_else(not_found)?;
    let service = state.service(container.service);
    Ok(Meant::Container(service.ok_or_else(not_found)?, container))
}

fn meant_slot<'a>(
    state: &'a State,
    reference: &str,
    name: &str,
    slot: &str,
) -> Result<Meant<'a>, Error> {
    let not_found = || Error::NotFound {
        kind: ContainerId::KIND,
        reference: reference.to_owned(),
    };
    let service = state.service_by_name(name).ok_or_else(not_found)?;
    if let Ok(id) = state.resolve_container(reference)
        && let Some(container) = state.container(id).filter(|it| it.occupies())
    {
        return Ok(Meant::Container(service, container));
    }
    let slot = slot.parse().map_err(|_| not_found())?;
    let replicas = u64::from(service.spec.replicas);
    match (1..=replicas).contains(&slot) {
        true => Ok(Meant::Slot(service, slot)),
        false => Err(not_found()),
    }
}

pub(super) fn answer(
    state: &State,
    view: &LeaderView,
    request: &pb::ExplainRequest,
) -> Result<pb::ExplainResponse, Error> {
    let mut response = pb::ExplainResponse::default();
    let (service, subject) = match meant(state, &request.r#ref)? {
        Meant::Service(service) => (service, Subject::Service),
        Meant::Slot(service, slot) => (service, Subject::Slot(slot)),
        Meant::Container(service, container) => {
            response.container_id = container.id.to_vec();
            response.state = word(container);
            response.node_id = container.node.to_vec();
            response.node_name = name(state, container.node);
            (service, Subject::Container(container))
        }
    };
    let slot = match subject {
        Subject::Service => None,
        Subject::Slot(slot) => Some(slot),
        Subject::Container(container) => Some(container.slot),
    };
    let found = explain(state, service, subject, &view.keeping);
    let mut pending = view.pending.iter();
    let pending = match subject {
        Subject::Container(_) => None,
        _ => pending.find(|it| slot.is_none_or(|slot| it.slot == slot)),
    };
    let most = match request.nodes_max as usize {
        0 => NODES_DEFAULT,
        most => most.min(NODES_MAX),
    };
    let rows = found.nodes.iter().take(most);
    Ok(pb::ExplainResponse {
        service_id: service.id.to_vec(),
        service_name: service.name.to_string(),
        slot: slot.unwrap_or_default(),
        summary: found.summary,
        asked: Some(found.asked.into()),
        nodes_total: found.nodes.len() as u32,
        nodes_fit: found.fit,
        reasons: found
            .groups
            .into_iter()
            .map(|group| pb::ExplainReason {
                kind: group.filter.word().into(),
                what: group.what,
                nodes: group.nodes,
                nodes_only: group.nodes_only,
            })
            .collect(),
        nodes_left_out: found.nodes.len().saturating_sub(most) as u32,
        nodes: rows.map(|row| node(state, row)).collect(),
        failing_slots_total: found.failing.len() as u32,
        failing_slots: found
            .failing
            .iter()
            .take(FAILING_MAX)
            .map(|it| failing_slot(state, it))
            .collect(),
        holds: found.kept.into_iter().map(|it| hold(state, it)).collect(),
        pending_reason: pending.map_or_else(String::new, |it| it.reason.to_string()),
        ..response
    })
}

fn failing_slot(state: &State, it: &FailingSlot) -> pb::ExplainFailingSlot {
    pb::ExplainFailingSlot {
        slot: it.slot,
        node_id: it.node.map(|id| id.to_vec()).unwrap_or_default(),
        node_name: it.node.map(|id| name(state, id)).unwrap_or_default(),
        failures: it.failures,
        crash_looping: it.crash_looping,
        exit_code: it.exit_code.unwrap_or_default(),
        exited: it.exit_code.is_some(),
        retry_in_ms: it.retry_in_ms.unwrap_or_default(),
        waits: it.retry_in_ms.is_some(),
    }
}

fn hold(state: &State, it: Kept) -> pb::ExplainHold {
    let victims = it.victims.into_iter().map(|victim| pb::ExplainVictim {
        container_id: victim.id.to_vec(),
        container: victim.label,
        priority: victim.priority,
    });
    pb::ExplainHold {
        slot: it.slot,
        node_id: it.node.to_vec(),
        node_name: name(state, it.node),
        kept: Some(it.resources.into()),
        since_ms: it.since_ms,
        victims: victims.collect(),
    }
}

fn word(container: &Container) -> String {
    let name = container.status.state.as_str_name();
    name.trim_start_matches("CONTAINER_STATE_").to_lowercase()
}

fn name(state: &State, id: NodeId) -> String {
    let node = state.node(id);
    node.map(|node| node.name().to_owned()).unwrap_or_default()
}

fn node(state: &State, row: &NodeRow) -> pb::ExplainNode {
    let against = row.against.iter().map(|refusal| pb::ExplainAgainst {
        kind: refusal.filter.word().into(),
        why: refusal.why.clone(),
    });
    let spreads = row.spreads.iter();
    let spreads = spreads.map(|(attribute, value, count)| pb::ExplainValue {
        attribute: attribute.clone(),
        value: value.clone().unwrap_or_default(),
        containers: *count,
    });
    pb::ExplainNode {
        node_id: row.id.to_vec(),
        name: name(state, row.id),
        fits: row.against.is_empty(),
        current: row.current,
        rank: row.rank,
        against: against.collect(),
        free: Some(row.free.into()),
        containers: row.containers,
        service_containers: row.of_service,
        stranded_milli: row.worth.stranded_milli,
        left_free_milli: row.worth.left_free_milli,
        affinity_milli: row.affinity_milli,
        disliked: row.disliked,
        spreads: spreads.collect(),
        failing: row.failing.as_ref().map(|it| pb::ExplainFailing {
            failures: it.failures,
            left_ms: it.left_ms,
            avoided: it.avoided,
        }),
        victims: row.victims.map_or(0, |it| it.count),
        victims_priority: row.victims.map_or(0, |it| it.priority),
    }
}
