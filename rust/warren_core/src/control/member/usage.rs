//! What nodes use: told with heartbeats, kept by the leader's sessions, never in the log.
//!
//! A follower's read asks the leader from which index on it may be answered; the same question asks
//! for what only the leader knows of the node, and the answer brings it along. So the read itself
//! stays where it was asked, and is answered without it where the leader's release tells nothing.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::super::Now;
use super::super::access::{Method, node_of};
use super::Member;
use super::reading::Read;
use crate::ids::{MemberId, NodeId};
use crate::pb;

/// Nodes of one question; reads of further ones wait for the next.
pub const ASKED_MAX: usize = 256;

impl Member {
    /// A heartbeat told what its node uses.
    pub(super) fn used_told(&mut self, now: Now, node: NodeId, told: pb::NodeUsage) {
        let usage = pb::NodeUsage {
            age_ms: 0,
            measured_at_ms: now.wall_ms.saturating_sub(told.age_ms),
            ..told
        };
        self.sessions.used(node, usage);
    }

    /// The node that a read shows the use of; O(nodes) where it is named otherwise than by its id.
    fn node_shown(&self, read: &Read) -> Option<NodeId> {
        // Nodes read themselves again and again, and know what they use.
        if read.method != Method::GetNode || node_of(&read.call.identity).is_some() {
            return None;
        }
        let request = pb::GetNodeRequest::decode(&read.call.body[..]).ok()?;
        self.state.resolve_node(&request.r#ref).ok()
    }

    /// Those of `waiting` that go with one question, what it asks of nodes beside, and the others.
    pub(super) fn divide(&self, waiting: Vec<Read>) -> (Vec<Read>, BTreeSet<NodeId>, Vec<Read>) {
        let (mut asking, mut nodes, mut later) = (Vec::new(), BTreeSet::new(), Vec::new());
        for read in waiting {
            match self.node_shown(&read) {
                Some(node) if nodes.len() >= ASKED_MAX && !nodes.contains(&node) => {
                    later.push(read);
                    continue;
                }
                Some(node) => {
                    nodes.insert(node);
                }
                None => {}
            }
            asking.push(read);
        }
        (asking, nodes, later)
    }

    /// What is known here of those that another member asks about.
    pub(super) fn usages_of(&self, nodes: &BTreeSet<NodeId>) -> Vec<pb::PeerNodeUsage> {
        let known = |node: &NodeId| {
            self.sessions
                .usage_of(*node)
                .map(|usage| pb::PeerNodeUsage {
                    node_id: node.to_vec(),
                    usage: Some(*usage),
                })
        };
        nodes.iter().filter_map(known).collect()
    }

    /// Gives reads what the leader told with its answer.
    pub(super) fn take_usages(&self, reads: &mut [Read], told: &[pb::PeerNodeUsage]) {
        let told: BTreeMap<&[u8], &pb::NodeUsage> = told
            .iter()
            .filter_map(|row| Some((&row.node_id[..], row.usage.as_ref()?)))
            .collect();
        if told.is_empty() {
            return;
        }
        for read in reads {
            let node = self.node_shown(read);
            read.used = node.and_then(|node| told.get(&node.0[..]).map(|usage| **usage));
        }
    }

    /// What a read shows of its node: what came with the leader's answer, or what is known here.
    pub(super) fn used_by_node_of(&self, read: &Read) -> Option<pb::NodeUsage> {
        let here = || self.sessions.usage_of(self.node_shown(read)?).copied();
        read.used.or_else(here)
    }
}

/// What a question asks about; no more than any release asks at once.
pub fn asked(question: &pb::PeerReadAsk) -> BTreeSet<NodeId> {
    let ids = question.used_by.iter().take(ASKED_MAX);
    ids.filter_map(|id| NodeId::from_slice(id).ok()).collect()
}

/// Another member's question that waits for this one's consensus.
pub struct Remote {
    pub from: MemberId,
    pub context: u64,
    pub nodes: BTreeSet<NodeId>,
}
