//! What happened to services, nodes, managers and the cluster, by the entries of the log.
//!
//! Every member notes it as it applies them, so that whoever follows goes on behind a new leader
//! without a gap: a place in the history is a [`Revision`], the same on all. Bounded; where what
//! is asked for is no longer there, that is said. No part of the state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::fsm::{Availability, Event, Freeze, Node, NodeStatus, Revision, State};
use crate::ids::{MemberId, NodeId, ServiceId};

/// Events that are kept.
pub const HISTORY_MAX: usize = 4_096;

/// What something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Cluster,
    Service(ServiceId),
    Node(NodeId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    pub at: Revision,
    /// The state's clock.
    pub time_ms: u64,
    pub kind: &'static str,
    pub subject: Subject,
    /// What it was called then; empty for the cluster.
    pub name: Arc<str>,
    pub why: String,
}

/// What follows a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Following {
    /// The oldest so many, and up to where that is all.
    Known(Vec<Happened>, Revision),
    /// Some of it is not there any more, or was in another epoch.
    Lost,
}

struct SeenService {
    name: Arc<str>,
    version: u64,
    removing: bool,
}

/// Invariants: `events` ascend; all after `from` are there; what is `seen` is what there was at the
/// last entry, so that a change is told by what it changed.
#[derive(Default)]
pub struct History {
    events: VecDeque<Happened>,
    from: Revision,
    services: BTreeMap<ServiceId, SeenService>,
    nodes: BTreeMap<NodeId, Node>,
    members: BTreeMap<MemberId, NodeId>,
    frozen: Option<Freeze>,
}

impl History {
    /// It begins with this state; what was before is not known.
    pub fn begin(state: &State) -> Self {
        let services = state.services().map(|it| (it.id, SeenService::of(it)));
        Self {
            events: VecDeque::new(),
            from: end_of(state),
            services: services.collect(),
            nodes: state.nodes().map(|node| (node.id, node.clone())).collect(),
            members: state.members().map(|it| (it.id, it.node)).collect(),
            frozen: state.freeze(),
        }
    }

    /// An entry is applied; `state` is as it left it. `by`: who asked for it.
    pub fn applied(&mut self, state: &State, events: &[Event], by: &str) {
        for (ordinal, event) in (0..).zip(events) {
            let told = match *event {
                Event::Service { id, gone } => self.service(state, id, gone),
                Event::Node { id } => self.node(state, id),
                Event::Member { id, gone } => self.member(state, id, gone),
                Event::Cluster => self.cluster(state),
                Event::Container { .. } => None,
            };
            let Some((kind, subject, name, mut why)) = told else {
                continue;
            };
            if !by.is_empty() {
                let and = if why.is_empty() { "" } else { "; " };
                why = format!("{why}{and}asked for by {by}");
            }
            let at = Revision {
                ordinal,
                ..end_of(state)
            };
            self.push(Happened {
                at,
                time_ms: state.time_ms(),
                kind,
                subject,
                name,
                why,
            });
        }
    }

    /// A member leads: its first entry is applied.
    pub fn elected(&mut self, state: &State, leader: Option<MemberId>) {
        let node = leader
            .and_then(|id| state.member(id))
            .and_then(|member| state.node(member.node));
        let at = Revision {
            ordinal: 0,
            ..end_of(state)
        };
        self.push(Happened {
            at,
            time_ms: state.time_ms(),
            kind: "leader_elected",
            subject: node.map_or(Subject::Cluster, |node| Subject::Node(node.id)),
            name: node.map_or_else(Arc::default, |node| node.name().into()),
            why: format!("term {}", state.term().0),
        });
    }

    /// The newest so many, the oldest of them first; of one service where that is asked for.
    pub fn newest(&self, service: Option<ServiceId>, count: usize) -> Vec<Happened> {
        let of_it = self.events.iter().rev().filter(|it| it.is_of(service));
        let mut newest: Vec<_> = of_it.take(count).cloned().collect();
        newest.reverse();
        newest
    }

    /// What came after a place, up to `state`.
    pub fn after(
        &self,
        state: &State,
        place: Revision,
        service: Option<ServiceId>,
        count: usize,
    ) -> Following {
        let end = end_of(state);
        if place.epoch != end.epoch || place < self.from {
            return Following::Lost;
        }
        let first = self.events.partition_point(|it| it.at <= place);
        let of_it = self.events.range(first..).filter(|it| it.is_of(service));
        let found: Vec<_> = of_it.take(count).cloned().collect();
        let upto = match found.last() {
            Some(newest) if found.len() == count => newest.at,
            // A member that is behind knows nothing of what is after it.
            _ => end.max(place),
        };
        Following::Known(found, upto)
    }

    fn push(&mut self, happened: Happened) {
        if self.events.len() == HISTORY_MAX
            && let Some(oldest) = self.events.pop_front()
        {
            self.from = oldest.at;
        }
        self.events.push_back(happened);
    }

    fn service(&mut self, state: &State, id: ServiceId, gone: bool) -> Option<Told> {
        let of = |kind, name, why| Some((kind, Subject::Service(id), name, why));
        if gone {
            let before = self.services.remove(&id)?;
            return of("service_removed", before.name, String::new());
        }
        let service = state.service(id)?;
        let before = self.services.insert(id, SeenService::of(service));
        let name = service.name.clone();
        match before {
            None => of("service_created", name, String::new()),
            Some(before) if service.removing && !before.removing => {
                of("service_removing", name, String::new())
            }
            Some(before) if service.version != before.version => of(
                "service_updated",
                name,
                format!("version {}", service.version),
            ),
            Some(_) => None,
        }
    }

    fn node(&mut self, state: &State, id: NodeId) -> Option<Told> {
        let of =
            |kind, node: &Node| Some((kind, Subject::Node(id), node.name().into(), String::new()));
        let Some(node) = state.node(id) else {
            return of("node_removed", &self.nodes.remove(&id)?);
        };
        let Some(before) = self.nodes.insert(id, node.clone()) else {
            return of("node_joined", node);
        };
        if node.status != before.status {
            return match node.status {
                NodeStatus::Down => of("node_down", node),
                _ => of("node_ready", node),
            };
        }
        if node.availability != before.availability {
            return match node.availability {
                Availability::Active | Availability::Unspecified => of("node_active", node),
                Availability::Pause => of("node_paused", node),
                Availability::Drain => of("node_draining", node),
            };
        }
        None
    }

    fn member(&mut self, state: &State, id: MemberId, gone: bool) -> Option<Told> {
        let (kind, node) = if gone {
            ("manager_removed", self.members.remove(&id)?)
        } else {
            let node = state.member(id)?.node;
            if self.members.insert(id, node).is_some() {
                return None; // another address, or another release
            }
            ("manager_added", node)
        };
        let known = state.node(node).or_else(|| self.nodes.get(&node));
        let name = known.map_or_else(Arc::default, |node| node.name().into());
        Some((kind, Subject::Node(node), name, String::new()))
    }

    fn cluster(&mut self, state: &State) -> Option<Told> {
        let before = std::mem::replace(&mut self.frozen, state.freeze());
        let (kind, why) = match (&before, &self.frozen) {
            (None, Some(freeze)) => ("replacement_frozen", freeze.why()),
            (Some(_), None) => ("replacement_resumed", String::new()),
            _ => ("cluster_changed", String::new()),
        };
        Some((kind, Subject::Cluster, Arc::default(), why))
    }
}

type Told = (&'static str, Subject, Arc<str>, String);

impl SeenService {
    fn of(service: &crate::fsm::Service) -> Self {
        Self {
            name: service.name.clone(),
            version: service.version,
            removing: service.removing,
        }
    }
}

impl Happened {
    fn is_of(&self, service: Option<ServiceId>) -> bool {
        service.is_none_or(|id| self.subject == Subject::Service(id))
    }
}

/// After all events of the last entry.
pub fn end_of(state: &State) -> Revision {
    Revision {
        ordinal: u32::MAX,
        ..state.revision()
    }
}

#[cfg(test)]
mod tests;
