//! What happened to services, nodes, managers and the cluster, by the entries of the log.
//!
//! Every member notes it as it applies them, so that whoever follows goes on behind a new leader
//! without a gap: a place in the history is a [`Revision`], the same on all. Bounded; where what
//! is asked for is no longer there, that is said. No part of the state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::fsm::{Availability, Cluster, Event, Node, NodeStatus, Revision, State};
use crate::ids::{MemberId, NodeId, ServiceId};
use crate::words::worded;

/// Events that are kept.
pub const HISTORY_MAX: usize = 4_096;

/// What something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Cluster,
    Service(ServiceId),
    Node(NodeId),
}

worded! {
    /// What happened.
    pub enum Kind {
        ServiceCreated = "service_created",
        ServiceUpdated = "service_updated",
        ServiceRemoving = "service_removing",
        ServiceRemoved = "service_removed",
        NodeJoined = "node_joined",
        NodeRemoved = "node_removed",
        NodeReady = "node_ready",
        NodeDown = "node_down",
        NodeActive = "node_active",
        NodePaused = "node_paused",
        NodeDraining = "node_draining",
        ManagerAdded = "manager_added",
        ManagerRemoved = "manager_removed",
        LeaderElected = "leader_elected",
        ReplacementFrozen = "replacement_frozen",
        ReplacementResumed = "replacement_resumed",
        ClusterChanged = "cluster_changed",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    pub at: Revision,
    /// The state's clock; of an election, which is no command and has no time in the log, that of the
    /// leader itself, and on others that of the next command. Never less than that of the event before.
    pub time_ms: u64,
    pub kind: Kind,
    pub subject: Subject,
    /// What it was called then; empty for the cluster, and for what had no name yet and got none.
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
    /// The newest so many have no time of their own yet.
    undated: usize,
    from: Revision,
    services: BTreeMap<ServiceId, SeenService>,
    nodes: BTreeMap<NodeId, Node>,
    members: BTreeMap<MemberId, NodeId>,
    cluster: Option<Cluster>,
}

impl History {
    /// It begins with this state; what was before is not known.
    pub fn begin(state: &State) -> Self {
        let services = state.services().map(|it| (it.id, SeenService::of(it)));
        Self {
            events: VecDeque::new(),
            undated: 0,
            from: end_of(state),
            services: services.collect(),
            nodes: state.nodes().map(|node| (node.id, node.clone())).collect(),
            members: state.members().map(|it| (it.id, it.node)).collect(),
            cluster: state.cluster().cloned(),
        }
    }

    /// A command is applied, and the clock of `state` is its time.
    pub fn dated(&mut self, state: &State) {
        self.date(state.time_ms());
    }

    fn date(&mut self, time_ms: u64) {
        let undated = std::mem::take(&mut self.undated);
        for event in self.events.iter_mut().rev().take(undated) {
            event.time_ms = event.time_ms.max(time_ms);
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

    /// A member leads: its first entry is applied. `own_ms`: the time, where it is this one.
    pub fn elected(&mut self, state: &State, leader: Option<MemberId>, own_ms: Option<u64>) {
        let node = leader
            .and_then(|id| state.member(id))
            .and_then(|member| state.node(member.node));
        let at = Revision {
            ordinal: 0,
            ..end_of(state)
        };
        let time_ms = state.time_ms().max(own_ms.unwrap_or(0));
        match own_ms {
            Some(_) => self.date(time_ms),
            None => self.undated += 1,
        }
        self.push(Happened {
            at,
            time_ms,
            kind: Kind::LeaderElected,
            subject: node.map_or(Subject::Cluster, |node| Subject::Node(node.id)),
            name: node.map_or_else(Arc::default, |node| node.name().into()),
            why: format!("term {}", state.term().0),
        });
    }

    /// The newest so many that are wanted, the oldest of them first.
    pub fn newest(&self, wanted: impl Fn(&Happened) -> bool, count: usize) -> Vec<Happened> {
        let of_these = self.events.iter().rev().filter(|it| wanted(it));
        let mut newest: Vec<_> = of_these.take(count).cloned().collect();
        newest.reverse();
        newest
    }

    /// What is wanted of what came after a place, up to `state`.
    pub fn after(
        &self,
        state: &State,
        place: Revision,
        wanted: impl Fn(&Happened) -> bool,
        count: usize,
    ) -> Following {
        let end = end_of(state);
        if place.epoch != end.epoch || place < self.from {
            return Following::Lost;
        }
        let first = self.events.partition_point(|it| it.at <= place);
        let of_these = self.events.range(first..).filter(|it| wanted(it));
        let found: Vec<_> = of_these.take(count).cloned().collect();
        let upto = match found.last() {
            Some(newest) if found.len() == count => newest.at,
            // A member that is behind knows nothing of what is after it.
            _ => end.max(place),
        };
        Following::Known(found, upto)
    }

    /// The service that was the last to be called so, or has this id; it may be gone.
    pub fn service_called(&self, reference: &str) -> Option<ServiceId> {
        let id = ServiceId::parse(reference);
        self.last_called(reference, id, |subject| match subject {
            Subject::Service(id) => Some(id),
            Subject::Cluster | Subject::Node(_) => None,
        })
    }

    /// Likewise the node.
    pub fn node_called(&self, reference: &str) -> Option<NodeId> {
        let id = NodeId::parse(reference);
        self.last_called(reference, id, |subject| match subject {
            Subject::Node(id) => Some(id),
            Subject::Cluster | Subject::Service(_) => None,
        })
    }

    /// `named`: what `reference` is as an id. Looked up with each step's other work: no text is made
    /// of the thousands of ids.
    fn last_called<I: PartialEq>(
        &self,
        reference: &str,
        named: Option<I>,
        id_of: impl Fn(Subject) -> Option<I>,
    ) -> Option<I> {
        self.events.iter().rev().find_map(|it| {
            let id = id_of(it.subject)?;
            (*it.name == *reference || named.as_ref() == Some(&id)).then_some(id)
        })
    }

    fn push(&mut self, mut happened: Happened) {
        let before_ms = self.events.back().map_or(0, |before| before.time_ms);
        happened.time_ms = happened.time_ms.max(before_ms);
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
            return of(Kind::ServiceRemoved, before.name, String::new());
        }
        let service = state.service(id)?;
        let before = self.services.insert(id, SeenService::of(service));
        let name = service.name.clone();
        match before {
            None => of(Kind::ServiceCreated, name, String::new()),
            Some(before) if service.removing && !before.removing => {
                of(Kind::ServiceRemoving, name, String::new())
            }
            Some(before) if service.version != before.version => of(
                Kind::ServiceUpdated,
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
            return of(Kind::NodeRemoved, &self.nodes.remove(&id)?);
        };
        let Some(before) = self.nodes.insert(id, node.clone()) else {
            // What its manager did before has had no name.
            let of_it = |it: &&mut Happened| it.subject == Subject::Node(id);
            let nameless = self.events.iter_mut().filter(of_it);
            for event in nameless.filter(|it| it.name.is_empty()) {
                event.name = node.name().into();
            }
            return of(Kind::NodeJoined, node);
        };
        if node.status != before.status {
            return match node.status {
                NodeStatus::Down => of(Kind::NodeDown, node),
                _ => of(Kind::NodeReady, node),
            };
        }
        if node.availability != before.availability {
            return match node.availability {
                Availability::Active | Availability::Unspecified => of(Kind::NodeActive, node),
                Availability::Pause => of(Kind::NodePaused, node),
                Availability::Drain => of(Kind::NodeDraining, node),
            };
        }
        None
    }

    fn member(&mut self, state: &State, id: MemberId, gone: bool) -> Option<Told> {
        let (kind, node) = if gone {
            (Kind::ManagerRemoved, self.members.remove(&id)?)
        } else {
            let node = state.member(id)?.node;
            if self.members.is_empty() {
                self.founded(node);
            }
            if self.members.insert(id, node).is_some() {
                return None; // another address, or another release
            }
            (Kind::ManagerAdded, node)
        };
        let known = state.node(node).or_else(|| self.nodes.get(&node));
        let name = known.map_or_else(Arc::default, |node| node.name().into());
        Some((kind, Subject::Node(node), name, String::new()))
    }

    /// Whoever founds a cluster has elected itself, before anybody was a member.
    fn founded(&mut self, by: NodeId) {
        let elections = self.events.iter_mut();
        for event in elections.filter(|it| it.kind == Kind::LeaderElected) {
            event.subject = Subject::Node(by);
        }
    }

    fn cluster(&mut self, state: &State) -> Option<Told> {
        let now = state.cluster()?;
        let before = self.cluster.replace(now.clone());
        let frozen = before.as_ref().and_then(|it| it.freeze);
        let (kind, why) = match (frozen, &now.freeze) {
            (None, Some(freeze)) => (Kind::ReplacementFrozen, freeze.why()),
            (Some(_), None) => (Kind::ReplacementResumed, String::new()),
            _ => (Kind::ClusterChanged, what_changed(before.as_ref(), now)),
        };
        Some((kind, Subject::Cluster, Arc::default(), why))
    }
}

/// In the words of the command line's options, where it is a setting.
fn what_changed(before: Option<&Cluster>, now: &Cluster) -> String {
    let Some(before) = before else {
        return "founded".into();
    };
    let (was, is) = [before, now]
        .map(|it| it.settings.unwrap_or_default())
        .into();
    let settings = [
        (
            "lost-freeze",
            was.lost_nodes_freeze_percent != is.lost_nodes_freeze_percent,
        ),
        ("node-grace", was.node_grace_ms != is.node_grace_ms),
        ("overcommit", was.overcommit != is.overcommit),
    ];
    let named = settings.into_iter().filter(|(_, changed)| *changed);
    let mut whats: Vec<String> = named.map(|(name, _)| name.into()).collect();
    if now.feature_level != before.feature_level {
        whats.push(format!("feature level {}", now.feature_level));
    }
    if now.epoch != before.epoch {
        whats.push(format!("epoch {}", now.epoch));
    }
    whats.join(", ")
}

type Told = (Kind, Subject, Arc<str>, String);

impl SeenService {
    fn of(service: &crate::fsm::Service) -> Self {
        Self {
            name: service.name.clone(),
            version: service.version,
            removing: service.removing,
        }
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
