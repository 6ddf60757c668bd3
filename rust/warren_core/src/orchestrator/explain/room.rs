//! Where containers of a lower priority would make room, and for whom room is kept already.

use crate::fsm::{Container, Filter, Hold, Resources, Service, State};
use crate::ids::{ContainerId, NodeId};
use crate::orchestrator::asking::Placement;
use crate::orchestrator::explain::NodeRow;
use crate::orchestrator::preempt::{label, occupant, waiting_for};
use crate::scheduler::{NodeSet, Scheduler};

/// What is looked at for one explanation, to find whose room could be taken: containers, and nodes,
/// which count for more.
const LOOKS_MAX: usize = 16_384;
const NODE_LOOKS: usize = 16;
/// Of room that is kept, what is told.
pub(super) const HOLDS_TOLD_MAX: usize = 20;
/// Preemption needs it.
const LEVEL: u32 = 5;

/// What would have to end on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victims {
    pub count: u32,
    /// The highest among them.
    pub priority: u32,
}

/// One that makes room and has not stopped yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub id: ContainerId,
    /// Like `batch.2`.
    pub label: String,
    pub priority: u32,
}

/// Room that is kept for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub slot: u64,
    pub node: NodeId,
    pub resources: Resources,
    pub since_ms: u64,
    pub victims: Vec<Leaving>,
    /// Reads like "waits on node n1 for batch.2 (priority 10 < 80) to stop".
    pub why: String,
}

/// Fills in, of nodes that lack nothing but amounts, what would have to end there to make room. In
/// the order of the rows, as far as [`LOOKS_MAX`] reaches.
pub(super) fn look_for_victims(
    scheduler: &mut Scheduler,
    placement: &Placement,
    rows: &mut [NodeRow],
) {
    let (state, service) = (placement.state, placement.service);
    if state.feature_level() < LEVEL || service.rules.priority == 0 {
        return;
    }
    scheduler.bands_keep();
    let mut left = LOOKS_MAX;
    let lacks = |row: &&mut NodeRow| {
        !row.against.is_empty() && row.against.iter().all(|it| it.filter >= Filter::Cpu)
    };
    for row in rows.iter_mut().filter(lacks) {
        let looks = NODE_LOOKS + state.container_count_of_node(row.id);
        let Some(rest) = left.checked_sub(looks) else {
            return;
        };
        left = rest;
        let containers = state.containers_of_node(row.id);
        let occupants = containers.filter_map(|it| occupant(state, it));
        scheduler.occupants_put(row.id, occupants);
        let Some(number) = scheduler.number(row.id) else {
            continue;
        };
        let mut only = NodeSet::default();
        only.set(number, true);
        // Whatever else is asked for is there: amounts are all that is against the node.
        let mut ask = placement.ask();
        ask.rules.max_per_node = None;
        ask.rules.devices = &[];
        let within = [&only];
        ask.rules.within = &within;
        let found = scheduler.preempt(&ask, service.rules.priority);
        row.victims = found.map(|it| Victims {
            count: it.victims.len() as u32,
            priority: it.priority,
        });
    }
}

/// What is kept for slots of the service, the lowest first; `slot`: for that one alone, `node`
/// where the node is the slot.
pub(super) fn kept(
    state: &State,
    service: &Service,
    slot: Option<(u64, Option<NodeId>)>,
) -> Vec<Kept> {
    let told = |(node, hold): (NodeId, &Hold)| Kept {
        slot: hold.slot,
        node,
        resources: hold.resources,
        since_ms: hold.since_ms,
        victims: state
            .victims_left(node, hold)
            .map(|it| leaving(state, it))
            .collect(),
        why: waiting_for(state, service, node, state.victims_left(node, hold)).to_string(),
    };
    match slot {
        Some((slot, node)) => {
            let hold = state.hold_of(service.id, slot, node);
            hold.into_iter().map(told).collect()
        }
        None => {
            let holds = state.holds_of_service(service.id);
            holds.take(HOLDS_TOLD_MAX).map(told).collect()
        }
    }
}

fn leaving(state: &State, container: &Container) -> Leaving {
    let of = state.service(container.service);
    Leaving {
        id: container.id,
        label: label(container),
        priority: of.map_or(0, |of| of.rules.priority),
    }
}
