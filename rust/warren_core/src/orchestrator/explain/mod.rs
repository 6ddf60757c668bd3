//! Why a service's containers are where they are, and where another could go: for each worker
//! everything against it, and what speaks for it, with numbers.
//!
//! A function of the state and of what the leader knows of failures, for reader threads: it makes an
//! index of its own, so that the leader's is not touched and any manager can answer. What the leader
//! holds for binds that are on their way it does not see. A node is said to fit exactly where placing
//! would consider it; one that the service keeps failing on fits, and is the last choice.
//!
//! Caveat: nodes are ranked by what a full scan would go by, while a search looks at the best cells
//! only; where scores are near each other it may choose the second best.

mod failing;
mod room;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::fsm::{
    Container, DesiredState, Filter, Node, NodeStatus, Refusal, Resources, Service, State,
};
use crate::ids::NodeId;
use crate::orchestrator::FailingNode;
use crate::orchestrator::asking::{Asking, Level, Levels, Placement, Reasons, most_per_node};
use crate::orchestrator::keeping::{FailingSlot, Keeping};
use crate::scheduler::{Scheduler, Worth};

pub use room::{Kept, Victims};
pub use summary::Group;

/// What is known of one worker.
#[derive(Clone, Debug)]
pub struct NodeRow {
    pub id: NodeId,
    /// The container that was asked for is there.
    pub current: bool,
    /// In the order in which filters are asked; empty: it fits.
    pub against: Vec<Refusal>,
    /// From 1, the best; 0 unless it fits.
    pub rank: u32,
    pub free: Resources,
    pub containers: u32,
    pub of_service: u32,
    pub worth: Worth,
    /// In the unit of [`Worth`].
    pub affinity_milli: i64,
    /// A taint makes it the last choice.
    pub disliked: bool,
    /// The service keeps failing there; the last choice if it is avoided for that.
    pub failing: Option<FailingNode>,
    /// Lower priorities would make room there; `None` also where it fits.
    pub victims: Option<Victims>,
    /// Of each spread: the attribute, the node's value, and containers with that value.
    pub spreads: Vec<(String, Option<String>, u32)>,
}

/// An answer. See the module.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub asked: Resources,
    /// Every worker: where the container is first, then the best, then those that do not fit.
    pub nodes: Vec<NodeRow>,
    pub fit: u32,
    /// Filters, the one that turns most nodes away first.
    pub groups: Vec<Group>,
    /// Of what was asked about: slots that wait to be tried again, or crash again and again.
    pub failing: Vec<FailingSlot>,
    /// Of what was asked about: room that is kept.
    pub kept: Vec<Kept>,
    pub summary: String,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// One more container.
    Service,
    /// This one, as if it were to be placed anew.
    Container(&'a Container),
    /// A slot without a container.
    Slot(u64),
}

/// Explains one container of `service`; O(nodes + containers of the service).
pub fn explain(
    state: &State,
    service: &Service,
    subject: Subject,
    keeping: &Keeping,
) -> Explanation {
    let whole = state;
    let (at, without);
    let state = match subject {
        Subject::Container(container) if !container.is_terminal() => {
            at = Some(container.node);
            without = state.without(container.id);
            &without
        }
        _ => {
            at = None;
            state
        }
    };
    let mut scheduler = Scheduler::new(0);
    let mut asking = Asking::default();
    scheduler.begin_filling();
    for node in state.nodes() {
        scheduler.node_put(state, node);
        asking.node_put(&mut scheduler, state, node);
    }
    scheduler.filled();
    asking.learn(&mut scheduler, state, service);
    let have = containers_by_node(state, service);
    let failing = keeping.nodes.iter().map(|it| (it.node, it));
    let look = Look {
        failing: failing.collect(),
        state,
        service,
        scheduler: &scheduler,
        have: &have,
        reasons: match service.is_global() {
            true => Reasons::on_one_node(state, service),
            false => Reasons::new(&asking, &scheduler, state, service, &have),
        },
        levels: Levels::new(&asking, &scheduler, service, &have),
    };
    let workers = state.nodes().filter(|node| node.worker);
    let rows = workers.map(|node| look.row(node, at == Some(node.id)));
    let mut nodes = ranked(rows.collect(), service);
    let placement = placement(state, service, &have);
    room::look_for_victims(&mut scheduler, &placement, &mut nodes);
    summary::conclude(whole, service, subject, (nodes, keeping))
}

/// Containers of the service that each node has and keeps.
fn containers_by_node(state: &State, service: &Service) -> BTreeMap<NodeId, u32> {
    let mut have = BTreeMap::new();
    for container in state.containers_of_service(service.id) {
        let down = || {
            let node = state.node(container.node);
            node.is_none_or(|node| node.status == NodeStatus::Down)
        };
        if container.desired == DesiredState::Run && !container.is_terminal() && !down() {
            *have.entry(container.node).or_insert(0) += 1;
        }
    }
    have
}

/// Of one container, as if it were the only one.
fn placement<'a>(
    state: &'a State,
    service: &'a Service,
    have: &'a BTreeMap<NodeId, u32>,
) -> Placement<'a> {
    Placement {
        state,
        service,
        spread: have,
        avoided: &[],
        count: 1,
    }
}

struct Look<'a> {
    failing: BTreeMap<NodeId, &'a FailingNode>,
    state: &'a State,
    service: &'a Service,
    scheduler: &'a Scheduler,
    have: &'a BTreeMap<NodeId, u32>,
    reasons: Reasons<'a>,
    levels: Levels<'a>,
}

/// A row, and what it is ranked by.
type Ranked = ((bool, Vec<u64>, u32, i64, u32), NodeRow);

impl Look<'_> {
    fn row(&self, node: &Node, current: bool) -> Ranked {
        let placement = placement(self.state, self.service, self.have);
        let id = node.id;
        let free = self.scheduler.free(id).unwrap_or_default();
        let against = self.against(node, free);
        let fits = against.is_empty();
        let worth = fits.then(|| self.scheduler.worth(id, &placement.ask()));
        let levels = self.scheduler.number(id).map(|n| self.levels.of(n));
        let levels = levels.unwrap_or_default();
        let row = NodeRow {
            id,
            current,
            against,
            rank: 0,
            free,
            containers: self.state.container_count_of_node(id) as u32,
            of_service: self.have.get(&id).copied().unwrap_or_default(),
            worth: worth.flatten().unwrap_or_default(),
            affinity_milli: self.service.rules.affinity(node) * 1000,
            disliked: self.service.rules.is_disliked(node),
            failing: self.failing.get(&id).map(|it| (*it).clone()),
            victims: None,
            spreads: Vec::new(),
        };
        self.with_key(row, levels)
    }

    fn with_key(&self, mut row: NodeRow, levels: Vec<Level>) -> Ranked {
        use crate::fsm::placement::Strategy;
        let spread = self.service.rules.strategy == Strategy::Spread;
        let cost = row.worth.stranded_milli + row.worth.left_free_milli - row.affinity_milli;
        let avoided = row.failing.as_ref().is_some_and(|it| it.avoided);
        let key = (
            row.disliked || avoided,
            levels.iter().map(|level| level.next).collect(),
            if spread { row.of_service } else { 0 },
            cost,
            row.containers,
        );
        let levels = levels.into_iter();
        row.spreads = levels
            .map(|it| (it.attribute, it.value, it.count))
            .collect();
        (key, row)
    }

    fn against(&self, node: &Node, free: Resources) -> Vec<Refusal> {
        let mut against = Vec::new();
        if let Some(why) = node.refusal() {
            let why = why.trim_start_matches("it is ");
            against.push(Refusal::plain(Filter::Node, why));
        }
        let spec = self.service.container_spec();
        if !node.has_image(&spec.image_digest) {
            let why = format!("no image {}", spec.image);
            against.push(Refusal::plain(Filter::Image, why));
        }
        against.extend(self.reasons.all_against(node));
        against.extend(self.too_many(node.id));
        let asked = self.service.resources();
        against.extend(summary::lacking(asked, free));
        against
    }

    fn too_many(&self, node: NodeId) -> Option<Refusal> {
        let count = self.have.get(&node).copied().unwrap_or_default();
        if self.service.is_global() {
            let has = "has its container already";
            return (count > 0).then(|| Refusal::plain(Filter::MaxPerNode, has));
        }
        let most = most_per_node(self.service)?;
        (count >= most).then(|| Refusal {
            filter: Filter::MaxPerNode,
            what: format!("has as many containers of the service as one node may ({most})"),
            why: format!("has {count} containers of the service, asked at most {most}"),
        })
    }
}

/// Where the container is first, then the best, then those that fit least badly.
fn ranked(mut rows: Vec<Ranked>, service: &Service) -> Vec<NodeRow> {
    rows.sort_by(|(a, left), (b, right)| {
        let of = |row: &NodeRow| (!row.against.is_empty(), row.against.len());
        let key = (of(left), a, left.id);
        key.cmp(&(of(right), b, right.id))
    });
    let mut rank = 0;
    let mut rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    for row in rows.iter_mut().filter(|row| row.against.is_empty()) {
        // Where the node is the slot, none is better than another.
        rank = if service.is_global() { 1 } else { rank + 1 };
        row.rank = rank;
    }
    rows.sort_by_key(|row| !row.current);
    rows
}
