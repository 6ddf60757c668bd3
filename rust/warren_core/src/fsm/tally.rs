//! How far a service is from what is wanted of it.

use crate::fsm::objects::{
    Container, ContainerState, DesiredState, NodeStatus, RestartCondition, Service,
};
use crate::fsm::state::State;

/// Counts over a service's containers. It has arrived when `running` equals `desired` and
/// `leaving` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Containers that should run: a slot whose container has ended, and may rest by its restart
    /// condition, wants none.
    pub desired: u32,
    /// Of the present spec, running on a node that is ready.
    pub running: u32,
    /// Of older specs or surplus, not gone yet.
    pub leaving: u32,
    /// Of the present spec, in back-off or failed for good.
    pub failing: u32,
}

/// O(containers of the service), for global services also O(nodes).
pub fn tally(state: &State, service: &Service) -> Tally {
    let mut tally = Tally::default();
    let mut resting = 0;
    for container in state.containers_of_service(service.id) {
        if !is_wanted(service, container) {
            tally.leaving += 1;
            continue;
        }
        let status = &container.status;
        let node_ready = state
            .node(container.node)
            .is_some_and(|node| node.status == NodeStatus::Ready);
        match status.state {
            ContainerState::Running if node_ready => tally.running += 1,
            ContainerState::Failed | ContainerState::Rejected => tally.failing += 1,
            ContainerState::Pending if status.attempt > 1 => tally.failing += 1,
            ContainerState::Complete if rests(service, container) => resting += 1,
            _ => {}
        }
    }
    tally.desired = wanted_slots(state, service).saturating_sub(resting);
    tally
}

fn wanted_slots(state: &State, service: &Service) -> u32 {
    if service.removing {
        0
    } else if service.is_global() {
        state.nodes().filter(|node| node.accepts_work()).count() as u32
    } else {
        service.spec.replicas
    }
}

/// Whether it is meant to run, and as the service is now.
pub fn is_wanted(service: &Service, container: &Container) -> bool {
    !service.removing
        && container.desired == DesiredState::Run
        && container.spec_digest == service.spec_digest
        && container.slot
            <= u64::from(if service.is_global() {
                0
            } else {
                service.spec.replicas
            })
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
