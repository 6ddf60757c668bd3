//! How far a service is from what is wanted of it.
//!
//! A service may have a million containers and be watched while they change, so that they are
//! counted as they change ([`Counts`]), by spec and by block of slots. What a change of the
//! service makes of them is then a sum over blocks: an update changes which specs count, another
//! number of replicas which blocks.

use crate::fsm::objects::{
    Container, ContainerState, DesiredState, Node, NodeStatus, RestartCondition, Service,
};
use crate::fsm::state::{ServiceRow, State};
use crate::ids::{ContainerId, SpecDigest};

/// Slots counted together. The last block that counts may do so in part: then its containers are
/// counted one by one, as well as there are blocks to be summed up; a million slots have as many
/// blocks as a block has slots.
pub(super) const SLOTS_PER_BLOCK: u64 = 1024;

/// Containers that are looked at for one that says what is wrong.
const AILING_LOOKS_MAX: usize = 1024;

/// Counts over a service's containers. It has arrived when `running` equals `desired` and
/// `leaving` equals `stranded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Containers that should run: a slot whose container has ended, and may rest by its restart
    /// condition, wants none.
    pub desired: u32,
    /// Of the present spec, running on a node that is ready.
    pub running: u32,
    /// Of older specs or surplus, not gone yet.
    pub leaving: u32,
    /// Of those leaving: on nodes that are down, and go when these are back; or, of a global service
    /// and an older spec, on nodes that are paused, where they stay.
    pub stranded: u32,
    /// Of the present spec, in back-off or failed for good.
    pub failing: u32,
}

/// Of containers: how many are meant to run, what those do, and how many are on nodes that are not
/// ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Counts {
    meant: u32,
    /// On a node that is ready.
    running: u32,
    failing: u32,
    complete: u32,
    /// On a node that is not ready, meant to run or not; and those of them that are.
    stranded: u32,
    meant_stranded: u32,
}

impl Counts {
    /// What a container counts as on a node that is `ready` or not.
    pub fn of(container: &Container, ready: bool) -> Self {
        let mut counts = Self {
            stranded: u32::from(!ready),
            ..Self::default()
        };
        if container.desired != DesiredState::Run {
            return counts;
        }
        counts.meant = 1;
        counts.meant_stranded = counts.stranded;
        match container.status.state {
            ContainerState::Running if ready => counts.running = 1,
            ContainerState::Failed | ContainerState::Rejected => counts.failing = 1,
            ContainerState::Pending if container.status.attempt > 1 => counts.failing = 1,
            ContainerState::Complete => counts.complete = 1,
            _ => {}
        }
        counts
    }

    fn add(&mut self, other: Self) {
        self.meant += other.meant;
        self.running += other.running;
        self.failing += other.failing;
        self.complete += other.complete;
        self.stranded += other.stranded;
        self.meant_stranded += other.meant_stranded;
    }

    fn take(&mut self, other: Self) {
        self.meant -= other.meant;
        self.running -= other.running;
        self.failing -= other.failing;
        self.complete -= other.complete;
        self.stranded -= other.stranded;
        self.meant_stranded -= other.meant_stranded;
    }
}

pub(super) fn is_ready(node: &Node) -> bool {
    node.status == NodeStatus::Ready
}

impl ServiceRow {
    /// A container of the spec in the slot counts as `now` and no longer as `before`.
    pub(super) fn recount(&mut self, spec: SpecDigest, slot: u64, before: Counts, now: Counts) {
        if before == now {
            return;
        }
        let key = (spec, slot / SLOTS_PER_BLOCK);
        let Some(counts) = self.counts.get_mut(&key) else {
            // Nothing counts as `before` that is not in here.
            self.counts.insert(key, now);
            return;
        };
        counts.add(now);
        counts.take(before);
        if *counts == Counts::default() {
            self.counts.remove(&key);
        }
    }

    /// The counts of the blocks that hold wanted containers, by block.
    fn wanted_blocks(&self) -> impl Iterator<Item = (u64, &Counts)> {
        let spec = self.service.spec_digest;
        let last = last_wanted_slot(&self.service) / SLOTS_PER_BLOCK;
        let blocks = self.counts.range((spec, 0)..=(spec, last));
        blocks.map(|((_, block), counts)| (*block, counts))
    }
}

/// O(slots / [`SLOTS_PER_BLOCK`]), and where there are surplus slots one block's containers.
pub fn tally(state: &State, service: &Service) -> Tally {
    let Some(row) = state.service_row(service.id) else {
        return Tally::default();
    };
    let containers = row.containers.len() as u32;
    let service = &row.service;
    if service.removing {
        return Tally {
            leaving: containers,
            stranded: row.counts.values().map(|it| it.stranded).sum(),
            ..Tally::default()
        };
    }
    let wanted = wanted(state, row);
    let rests_complete = match service.container_spec().restart() {
        RestartCondition::None | RestartCondition::OnFailure => wanted.complete,
        _ => 0,
    };
    let leaving = containers - wanted.meant;
    let stranded = match leaving {
        0 => 0,
        _ => stranded(state, row, &wanted),
    };
    Tally {
        desired: wanted_slots(state, service).saturating_sub(rests_complete),
        running: wanted.running,
        leaving,
        stranded,
        failing: wanted.failing,
    }
}

/// O(slots / [`SLOTS_PER_BLOCK`]), but for global services O(containers).
fn stranded(state: &State, row: &ServiceRow, wanted: &Counts) -> u32 {
    let on_unready: u32 = row.counts.values().map(|it| it.stranded).sum();
    let mut stranded = on_unready - wanted.meant_stranded;
    if row.service.is_global() {
        let stays = |container: &&Container| {
            let node = state.node(container.node);
            container.desired == DesiredState::Run
                && !is_wanted(&row.service, container)
                && node.is_some_and(|node| is_ready(node) && !node.accepts_work())
        };
        let places = row.containers.values();
        let containers = places.map(|place| state.container_at(*place));
        stranded += containers.filter(stays).count() as u32;
    }
    stranded
}

/// Of the containers for which [`is_wanted`] holds.
fn wanted(state: &State, row: &ServiceRow) -> Counts {
    let last_slot = last_wanted_slot(&row.service);
    let surplus = row.last_slot() > last_slot;
    let mut wanted = Counts::default();
    for (block, counts) in row.wanted_blocks() {
        let first = block * SLOTS_PER_BLOCK;
        if surplus && last_slot < first + (SLOTS_PER_BLOCK - 1) {
            let containers = row.containers.range((first, FIRST)..=(last_slot, LAST));
            for (_, place) in containers {
                let container = state.container_at(*place);
                if is_wanted(&row.service, container) {
                    let ready = is_ready(&state.nodes.get(place.node).node);
                    wanted.add(Counts::of(container, ready));
                }
            }
        } else {
            wanted.add(*counts);
        }
    }
    wanted
}

const FIRST: ContainerId = ContainerId([0; 16]);
const LAST: ContainerId = ContainerId([0xff; 16]);

/// A wanted container of the service that does not run and says why: the first that is found
/// among the first 1,024 where some do not run.
pub fn ailing<'a>(state: &'a State, service: &Service) -> Option<&'a Container> {
    let row = state.service_row(service.id)?;
    let blocks = row.wanted_blocks();
    let lagging = blocks.filter(|(_, counts)| counts.running < counts.meant);
    let containers = lagging.flat_map(|(block, _)| {
        let first = block * SLOTS_PER_BLOCK;
        let last = first + (SLOTS_PER_BLOCK - 1);
        row.containers.range((first, FIRST)..=(last, LAST))
    });
    containers
        .take(AILING_LOOKS_MAX)
        .map(|(_, place)| state.container_at(*place))
        .filter(|container| is_wanted(&row.service, container))
        .filter(|container| container.status.state != ContainerState::Running)
        .find(|container| !container.status.message.is_empty())
}

fn wanted_slots(state: &State, service: &Service) -> u32 {
    if !service.is_global() {
        return service.spec.replicas;
    }
    let rules = &service.rules;
    if state.tainted_nodes == 0 && !rules.ask_of_nodes() {
        return state.accepting_nodes;
    }
    // O(nodes), for services that not every node suits.
    let suits = |node: &&Node| node.accepts_work() && rules.refusal(node).is_none();
    state.nodes().filter(suits).count() as u32
}

/// The slots of a global service are its nodes; all have the number 0.
fn last_wanted_slot(service: &Service) -> u64 {
    if service.is_global() {
        0
    } else {
        service.spec.replicas.into()
    }
}

/// Whether it is meant to run, and as the service is now.
pub fn is_wanted(service: &Service, container: &Container) -> bool {
    !service.removing
        && container.desired == DesiredState::Run
        && container.spec_digest == service.spec_digest
        && container.slot <= last_wanted_slot(service)
}

/// Whether a container that has ended is left alone, by the service's restart condition.
pub fn rests(service: &Service, container: &Container) -> bool {
    use ContainerState::*;
    match service.container_spec().restart() {
        RestartCondition::None => container.is_terminal() && container.status.state != Lost,
        RestartCondition::OnFailure => matches!(container.status.state, Complete | Shutdown),
        _ => false,
    }
}
