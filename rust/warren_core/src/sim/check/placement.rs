//! What holds of every state's placements, recomputed from its containers alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::{Container, DesiredState, Resources, State, is_terminal};
use crate::ids::{NodeId, ServiceId};
use crate::pb::MountType;

/// What is wrong, if anything is.
pub fn wrong(state: &State) -> Option<String> {
    let mut allocated: BTreeMap<NodeId, Resources> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let mut volumes = BTreeMap::new();
    let mut replicas: BTreeMap<_, u32> = BTreeMap::new();
    for container in state.containers() {
        if container.occupies() {
            let node = (container.slot == 0).then_some(container.node);
            if !taken.insert((container.service, container.slot, node)) {
                return Some(format!("slot filled twice: {container:?}"));
            }
        }
        if !is_terminal(container.status.state) {
            let sum = allocated.entry(container.node).or_default();
            *sum = sum.saturating_add(container.resources);
            let spec = state.spec(&container.spec_digest);
            for port in spec.map_or(&[][..], |spec| &spec.host_ports) {
                if !ports.insert((container.node, port.port, port.protocol)) {
                    return Some(format!("a port is claimed twice: {container:?}"));
                }
            }
            let mounts = spec.into_iter().flat_map(|spec| &spec.mounts);
            for mount in mounts.filter(|it| it.r#type() == MountType::Volume) {
                let used = volumes.entry((container.node, mount.source.clone()));
                let used: &mut (u32, bool) = used.or_default();
                *used = (used.0 + 1, used.1 || mount.exclusive);
                if used.1 && used.0 > 1 {
                    return Some(format!("a volume is not alone: {container:?}"));
                }
            }
            if let Some(why) = misplaced(state, container, &mut replicas) {
                return Some(why);
            }
        }
    }
    for (id, sum) in allocated {
        let Some(node) = state.node(id) else {
            return Some(format!("containers on node {id}, which is not there"));
        };
        if state.node_allocated(id) != sum {
            return Some(format!("{} holds {sum:?}, says another sum", node.name()));
        }
        if !sum.fits(state.allocatable(node)) {
            return Some(format!("{} is overcommitted: {sum:?}", node.name()));
        }
    }
    overpromised(state)
}

/// Room that is kept for others is there, once those that make it have stopped; and is kept once for
/// each slot.
fn overpromised(state: &State) -> Option<String> {
    let mut slots = BTreeSet::new();
    for node in state.nodes() {
        let taken = state.node_taken(node.id);
        if !node.holds.is_empty() && !taken.fits(state.allocatable(node)) {
            return Some(format!("{} keeps what it has not: {taken:?}", node.name()));
        }
        for hold in node.holds.iter() {
            let on = (hold.slot == 0).then_some(node.id);
            if !slots.insert((hold.service, hold.slot, on)) {
                return Some(format!("room is kept twice: {hold:?}"));
            }
        }
    }
    None
}

/// Why a container that was bound by its service's present rules is on the wrong node: labels of
/// nodes never change here. `replicas`: those that were looked at, by service and node.
fn misplaced(
    state: &State,
    container: &Container,
    replicas: &mut BTreeMap<(ServiceId, NodeId), u32>,
) -> Option<String> {
    let service = state.service(container.service)?;
    if container.service_version != service.version || container.desired != DesiredState::Run {
        return None;
    }
    let node = state.node(container.node)?;
    if let Some(why) = service.rules.refusal(node) {
        return Some(format!("{} is where {why}: {container:?}", service.name));
    }
    let count = replicas.entry((service.id, node.id)).or_default();
    *count += 1;
    let many = *count > service.per_node_max();
    many.then(|| format!("{} is on {} too often", service.name, node.name()))
}
