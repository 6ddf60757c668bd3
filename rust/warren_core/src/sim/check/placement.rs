//! What holds of every state's placements, recomputed from its containers alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::{Resources, State, is_terminal};
use crate::ids::NodeId;

/// What is wrong, if anything is.
pub fn wrong(state: &State) -> Option<String> {
    let mut allocated: BTreeMap<NodeId, Resources> = BTreeMap::new();
    let mut taken = BTreeSet::new();
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
    None
}
