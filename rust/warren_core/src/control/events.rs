//! Answers to `ListEvents`: the leader's latest decisions, with names.

use super::reads::LeaderView;
use crate::fsm::State;
use crate::orchestrator::Decision;
use crate::pb;

/// Events where nothing is said.
const EVENTS_DEFAULT: usize = 100;

/// How many are asked for.
pub(super) fn count(request: &pb::ListEventsRequest) -> usize {
    match request.count_max as usize {
        0 => EVENTS_DEFAULT,
        count => count,
    }
}

pub(super) fn answer(state: &State, view: &LeaderView) -> pb::ListEventsResponse {
    let events = view.decisions.iter().map(|it| event(state, it));
    pb::ListEventsResponse {
        events: events.collect(),
    }
}

fn event(state: &State, it: &Decision) -> pb::ServiceEvent {
    let service = state.service(it.service);
    let node = it.node.and_then(|id| state.node(id));
    pb::ServiceEvent {
        sequence: it.sequence,
        time_ms: it.time_ms,
        kind: it.kind.word().into(),
        service_id: it.service.to_vec(),
        service_name: service.map_or_else(String::new, |service| service.name.to_string()),
        slot: it.slot,
        node_id: it.node.map(|id| id.to_vec()).unwrap_or_default(),
        node_name: node.map_or_else(String::new, |node| node.name().to_owned()),
        why: it.why.to_string(),
    }
}
