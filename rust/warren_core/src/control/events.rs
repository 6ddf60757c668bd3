//! Answers to `ListEvents`: the leader's latest decisions, with names.

use super::reads::LeaderView;
use crate::fsm::State;
use crate::orchestrator::{Decision, Orchestrator};
use crate::pb;

/// Events where nothing is said.
const EVENTS_DEFAULT: usize = 100;

/// How many are asked for.
fn count(request: &pb::ListEventsRequest) -> usize {
    match request.count_max as usize {
        0 => EVENTS_DEFAULT,
        count => count,
    }
}

/// What is told of the decisions.
#[derive(Clone, Debug, Default)]
pub struct Told {
    decisions: Vec<Decision>,
    /// All that was asked for up to this number is told, here or before.
    upto: u64,
    start_over: bool,
}

impl Told {
    /// Those that are asked for. Nothing of a service that is not there.
    pub fn of(
        orchestrator: &Orchestrator,
        state: &State,
        term: u64,
        request: &pb::ListEventsRequest,
    ) -> Self {
        let service = match &request.r#ref[..] {
            "" => None,
            named => match state.resolve_service(named) {
                Ok(service) => Some(service),
                Err(_) => return Self::default(),
            },
        };
        let (last, count) = (orchestrator.last_decision(), count(request));
        let followed = request.after.map(|after| match after.term == term {
            true => orchestrator.decisions_after(after.sequence, service, count),
            false => None,
        });
        match followed {
            Some(Some(decisions)) => Self {
                upto: match decisions.last() {
                    // There may be more.
                    Some(newest) if decisions.len() == count => newest.sequence,
                    _ => last,
                },
                decisions,
                start_over: false,
            },
            otherwise => Self {
                decisions: orchestrator.decisions(service, count),
                upto: last,
                start_over: otherwise.is_some(),
            },
        }
    }
}

pub(super) fn answer(state: &State, view: &LeaderView) -> pb::ListEventsResponse {
    let events = view.told.decisions.iter().map(|it| event(state, it));
    pb::ListEventsResponse {
        events: events.collect(),
        revision: Some(pb::EventRevision {
            term: view.term.0,
            sequence: view.told.upto,
        }),
        start_over: view.told.start_over,
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
