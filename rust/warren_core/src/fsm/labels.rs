//! Labels and taints that operators give to nodes, apart from what nodes say of themselves.

use std::sync::Arc;

use prost::Message;

use crate::error::Result;
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::objects::{Event, Node};
use crate::fsm::placement::{is_label_key, taints};
use crate::fsm::state::State;
use crate::ids::NodeId;
use crate::pb::{self, TaintEffect};

/// Labels that operators can set on a node.
pub const NODE_LABELS_MAX: usize = 128;
pub const NODE_LABEL_VALUE_BYTES_MAX: usize = 1024;

/// Refuses an update that makes no sense on any node.
pub fn check_node_update(update: &pb::UpdateNode) -> Result<()> {
    for (key, value) in &update.labels_add {
        if !is_label_key(key) {
            let why = format!("`{key}` is no key: 1 to 128 of A-Z a-z 0-9 . _ - /");
            return Err(invalid("label", &why));
        }
        if value.len() > NODE_LABEL_VALUE_BYTES_MAX || value.contains(char::is_control) {
            let why =
                format!("the value of `{key}` has more than 1,024 bytes, or control characters");
            return Err(invalid("label", &why));
        }
    }
    taints::check_taints(&mut update.taints_add.clone())
}

/// The node as the update leaves it.
fn updated(node: &Node, update: &pb::UpdateNode) -> Result<Node> {
    let mut labels = (*node.labels).clone();
    update
        .labels_remove
        .iter()
        .for_each(|key| drop(labels.remove(key)));
    labels.extend(update.labels_add.clone());
    if labels.len() > NODE_LABELS_MAX {
        return Err(invalid(
            "label",
            "a node has at most 128; remove some first",
        ));
    }
    let removed = |taint: &pb::Taint| {
        let mut asked = update.taints_remove.iter().filter(|it| it.key == taint.key);
        asked.any(|it| it.effect == taint.effect || it.effect() == TaintEffect::Unspecified)
    };
    let kept = node.taints.iter().filter(|taint| !removed(taint));
    let mut taints: Vec<_> = kept.chain(&update.taints_add).cloned().collect();
    taints::check_taints(&mut taints)?;
    Ok(Node {
        labels: Arc::new(labels),
        taints: Arc::new(taints),
        ..node.clone()
    })
}

impl State {
    pub(super) fn update_node(
        &mut self,
        cx: &mut Context,
        update: &pb::UpdateNode,
    ) -> Result<Vec<u8>> {
        check_node_update(update)?;
        let id = NodeId::from_slice(&update.node_id)?;
        let node = self.node(id).ok_or_else(|| not_found(NodeId::KIND, id))?;
        let changed = updated(node, update)?;
        let response = pb::UpdateNodeResponse {
            node: Some((&changed).into()),
        };
        if *node != changed {
            self.put_node(changed);
            cx.events.push(Event::Node { id });
        }
        // What the node says of itself is long, and not what was changed.
        let node = response.node.map(|node| pb::Node {
            description: None,
            ..node
        });
        Ok(pb::UpdateNodeResponse { node }.encode_to_vec())
    }
}
