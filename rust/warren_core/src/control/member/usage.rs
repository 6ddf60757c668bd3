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
    pub(super) fn node_shown(&self, read: &Read) -> Option<NodeId> {
        // Nodes read themselves again and again, and know what they use.
        if read.method != Method::GetNode || node_of(&read.call.identity).is_some() {
            return None;
        }
        let request = pb::GetNodeRequest::decode(&read.call.body[..]).ok()?;
        self.state.resolve_node(&request.r#ref).ok()
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

/// Those of `waiting` that go with one question, in their order, and the nodes that it asks about;
/// the others stay. `shown` says which node a read shows the use of.
pub fn divide(
    waiting: &mut Vec<Read>,
    shown: impl Fn(&Read) -> Option<NodeId>,
) -> (Vec<Read>, BTreeSet<NodeId>) {
    let mut nodes = BTreeSet::new();
    let (asking, later) = std::mem::take(waiting).into_iter().partition(|read| {
        let Some(node) = shown(read) else {
            return true;
        };
        let goes = nodes.len() < ASKED_MAX || nodes.contains(&node);
        if goes {
            nodes.insert(node);
        }
        goes
    });
    *waiting = later;
    (asking, nodes)
}

#[cfg(test)]
mod tests {
    use super::super::super::{Call, CallId};
    use super::*;

    /// xorshift64* (Vigna 2016).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
        }
    }

    fn read(number: u64) -> Read {
        let call = Call {
            id: CallId(number),
            identity: "local".into(),
            method: "GetNode".into(),
            body: Vec::new(),
            deadline_mono_ms: 0,
            consistency: Default::default(),
        };
        Read::new(Method::GetNode, call)
    }

    /// Each read goes once, and as early as its node fits; no question asks about too many.
    #[test]
    fn a_question_asks_about_no_more_than_it_may() {
        let mut random = Random(3);
        for _ in 0..50 {
            let count = random.below(1_000);
            let names = 1 + random.below(1_000);
            // None: it shows no node's use.
            let shows: Vec<Option<u128>> = (0..count)
                .map(|_| {
                    let shows = random.below(5) > 0;
                    shows.then(|| random.below(names).into())
                })
                .collect();
            let shown =
                |read: &Read| shows[read.call.id.0 as usize].map(|name| NodeId(name.to_be_bytes()));
            let mut waiting: Vec<Read> = (0..count).map(read).collect();
            let mut remaining: Vec<u64> = (0..count).collect();
            while !waiting.is_empty() {
                let (asking, nodes) = divide(&mut waiting, shown);
                let mut first: Vec<u128> = Vec::new();
                for number in &remaining {
                    if let Some(name) = shows[*number as usize]
                        && !first.contains(&name)
                        && first.len() < ASKED_MAX
                    {
                        first.push(name);
                    }
                }
                let goes =
                    |number: &u64| shows[*number as usize].is_none_or(|name| first.contains(&name));
                let expected: Vec<u64> = remaining.iter().copied().filter(goes).collect();
                let gone: Vec<u64> = asking.iter().map(|read| read.call.id.0).collect();
                assert_eq!(gone, expected);
                let asked: Vec<u128> = nodes.iter().map(|id| u128::from_be_bytes(id.0)).collect();
                remaining.retain(|number| !goes(number));
                first.sort_unstable();
                assert_eq!(asked, first);
            }
            assert!(remaining.is_empty());
        }
    }

    #[test]
    fn no_more_is_told_than_may_be_asked() {
        let ids = (0..2 * ASKED_MAX as u128).map(|id| id.to_be_bytes().to_vec());
        let mut used_by: Vec<Vec<u8>> = ids.collect();
        used_by[0] = vec![1, 2, 3];
        let nodes = asked(&pb::PeerReadAsk {
            context: 1,
            used_by,
        });
        assert_eq!(nodes.len(), ASKED_MAX - 1, "one of them is no id");
    }
}
