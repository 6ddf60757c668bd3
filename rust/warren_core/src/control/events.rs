//! Answers to `ListEvents`: what happened by the log, and the leader's latest decisions.
//!
//! The two are told together, by time, and followed by a place in each: in the history by revision,
//! which outlives a leader, and among the decisions, which no other manager knows. A place goes on
//! past what was not asked for.

mod filter;

use filter::Filter;

use super::history::{Following, Happened, History, Subject, end_of};
use super::reads::LeaderView;
use crate::error::Error;
use crate::fsm::{Revision, State};
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

/// What is told of. `now_ms`: what the age of events is counted from.
pub struct Sources<'a> {
    pub orchestrator: &'a Orchestrator,
    pub history: &'a History,
    pub state: &'a State,
    pub term: u64,
    pub now_ms: u64,
}

/// What is told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    decisions: Vec<Decision>,
    happened: Vec<Happened>,
    /// All that was asked for up to these is told, here or before.
    decided_upto: u64,
    happened_upto: Revision,
    start_over: bool,
}

impl Told {
    /// Those that are asked for.
    pub fn of(from: &Sources<'_>, request: &pb::ListEventsRequest) -> Result<Self, Error> {
        let filter = Filter::of(from.state, from.history, request, from.now_ms)?;
        let mut told = Self::default();
        told.decide(from, request, &filter);
        told.happen(from, request, &filter);
        Ok(told)
    }

    fn decide(&mut self, from: &Sources<'_>, request: &pb::ListEventsRequest, filter: &Filter) {
        let (last, count) = (from.orchestrator.last_decision(), count(request));
        let after = request.after.filter(|after| after.term == from.term);
        let wanted = |it: &Decision| filter.decision(it);
        let followed = after.and_then(|it| {
            from.orchestrator
                .decisions_after(it.sequence, wanted, count)
        });
        match followed {
            Some(decisions) => {
                self.decided_upto = match decisions.last() {
                    // There may be more.
                    Some(newest) if decisions.len() == count => newest.sequence,
                    _ => last,
                };
                self.decisions = decisions;
            }
            None => {
                let new = |it: &Decision| wanted(it) && filter.is_new(it.time_ms);
                self.decisions = from.orchestrator.decisions(new, count);
                self.decided_upto = last;
                self.start_over |= request.after.is_some() && filter.wants_decisions();
            }
        }
    }

    fn happen(&mut self, from: &Sources<'_>, request: &pb::ListEventsRequest, filter: &Filter) {
        let count = count(request);
        let wanted = |it: &Happened| filter.happened(it);
        let followed = match &request.after {
            // An older release's, which knows of decisions only.
            Some(after) if after.epoch == 0 => return,
            Some(after) => from.history.after(from.state, place(after), wanted, count),
            None => Following::Lost,
        };
        (self.happened, self.happened_upto) = match followed {
            Following::Known(happened, upto) => (happened, upto),
            Following::Lost => {
                let new = |it: &Happened| wanted(it) && filter.is_new(it.time_ms);
                self.start_over |= request.after.is_some() && filter.wants_happened();
                (from.history.newest(new, count), end_of(from.state))
            }
        };
    }

    /// The oldest first.
    fn events(&self, state: &State) -> Vec<pb::ServiceEvent> {
        let happened = self.happened.iter().map(event_of_history);
        let decided = self.decisions.iter().map(|it| event(state, it));
        let mut events: Vec<_> = happened.chain(decided).collect();
        events.sort_by_key(|event| event.time_ms);
        events
    }
}

fn place(after: &pb::EventRevision) -> Revision {
    Revision {
        epoch: after.epoch,
        index: after.index,
        ordinal: after.ordinal,
    }
}

pub(super) fn answer(
    state: &State,
    view: &LeaderView,
    request: &pb::ListEventsRequest,
) -> Result<pb::ListEventsResponse, Error> {
    let told = view.told.as_ref().map_err(Clone::clone)?;
    let mut events = told.events(state);
    if request.after.is_none() {
        // The newest of both together.
        events.drain(..events.len().saturating_sub(count(request)));
    }
    Ok(pb::ListEventsResponse {
        events,
        revision: Some(pb::EventRevision {
            term: view.term.0,
            sequence: told.decided_upto,
            epoch: told.happened_upto.epoch,
            index: told.happened_upto.index,
            ordinal: told.happened_upto.ordinal,
        }),
        start_over: told.start_over,
        filtered: true,
    })
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
        index: 0,
    }
}

fn event_of_history(it: &Happened) -> pb::ServiceEvent {
    let name = it.name.to_string();
    let (service, node) = match it.subject {
        Subject::Cluster => <_>::default(),
        Subject::Service(id) => ((id.to_vec(), name), <_>::default()),
        Subject::Node(id) => (<_>::default(), (id.to_vec(), name)),
    };
    pb::ServiceEvent {
        time_ms: it.time_ms,
        kind: it.kind.word().into(),
        service_id: service.0,
        service_name: service.1,
        node_id: node.0,
        node_name: node.1,
        why: it.why.clone(),
        index: it.at.index,
        ..Default::default()
    }
}
