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
use crate::error::Error;
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

    /// The nodes that a read shows the use of, [`ASKED_MAX`] at most; O(nodes) where one is named
    /// otherwise than by its id.
    pub(super) fn nodes_shown(&self, read: &Read) -> BTreeSet<NodeId> {
        let body = &read.call.body[..];
        match read.method {
            // Nodes read themselves again and again, and know what they use.
            Method::GetNode if node_of(&read.call.identity).is_none() => {
                let request = pb::GetNodeRequest::decode(body).unwrap_or_default();
                let node = self.state.resolve_node(&request.r#ref);
                node.into_iter().collect()
            }
            Method::ListNodes => listed(&pb::ListNodesRequest::decode(body).unwrap_or_default()),
            _ => BTreeSet::new(),
        }
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
        let told: BTreeMap<NodeId, pb::NodeUsage> = told
            .iter()
            .filter_map(|row| Some((NodeId::from_slice(&row.node_id).ok()?, row.usage?)))
            .collect();
        if told.is_empty() {
            return;
        }
        for read in reads {
            let nodes = self.nodes_shown(read).into_iter();
            read.used = nodes
                .filter_map(|node| Some((node, *told.get(&node)?)))
                .collect();
        }
    }

    /// What a read shows of its nodes: what came with the leader's answer, or what is known here.
    pub(super) fn used_by_nodes_of(&self, read: &Read) -> BTreeMap<NodeId, pb::NodeUsage> {
        let nodes = self.nodes_shown(read).into_iter();
        let known = |node| {
            let told = read.used.get(&node);
            let used = told.or_else(|| self.sessions.usage_of(node))?;
            Some((node, *used))
        };
        nodes.filter_map(known).collect()
    }
}

/// Refuses a list of more nodes than one question asks about.
pub fn check(request: &pb::ListNodesRequest) -> Result<(), Error> {
    let named = request.node_ids.len();
    if named <= ASKED_MAX {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "request",
        why: format!(
            "it names {named} nodes of {ASKED_MAX} at most; ask for the others by another"
        ),
    })
}

/// The nodes that are named; what is no id is of no node.
pub fn listed(request: &pb::ListNodesRequest) -> BTreeSet<NodeId> {
    let ids = request.node_ids.iter();
    ids.filter_map(|id| NodeId::from_slice(id).ok()).collect()
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
/// the others stay. `shown` says which nodes a read shows the use of, [`ASKED_MAX`] at most: so the
/// first read goes.
pub fn divide(
    waiting: &mut Vec<Read>,
    shown: impl Fn(&Read) -> BTreeSet<NodeId>,
) -> (Vec<Read>, BTreeSet<NodeId>) {
    let mut asked = BTreeSet::new();
    let (asking, later) = std::mem::take(waiting).into_iter().partition(|read| {
        let nodes = shown(read);
        let goes = asked.len() + nodes.difference(&asked).count() <= ASKED_MAX;
        if goes {
            asked.extend(nodes);
        }
        goes
    });
    *waiting = later;
    (asking, asked)
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

    /// Each read goes once, and as early as its nodes fit; no question asks about too many.
    #[test]
    fn a_question_asks_about_no_more_than_it_may() {
        let mut random = Random(3);
        for _ in 0..50 {
            let count = random.below(300);
            let names = 1 + random.below(1_000);
            // Mostly of one node's, or of none's.
            let sizes = [0, 1, 1, 1, 1, 1 + random.below(ASKED_MAX as u64)];
            let shows: Vec<BTreeSet<NodeId>> = (0..count)
                .map(|_| {
                    let size = sizes[random.below(sizes.len() as u64) as usize];
                    let names = (0..size).map(|_| u128::from(random.below(names)));
                    names.map(|name| NodeId(name.to_be_bytes())).collect()
                })
                .collect();
            let shown = |read: &Read| shows[read.call.id.0 as usize].clone();
            let mut waiting: Vec<Read> = (0..count).map(read).collect();
            let mut remaining: Vec<u64> = (0..count).collect();
            while !waiting.is_empty() {
                let (asking, nodes) = divide(&mut waiting, shown);
                let (mut goes, mut expected): (Vec<u64>, Vec<NodeId>) = Default::default();
                for number in &remaining {
                    let mut with = expected.clone();
                    with.extend(&shows[*number as usize]);
                    with.sort_unstable();
                    with.dedup();
                    if with.len() <= ASKED_MAX {
                        goes.push(*number);
                        expected = with;
                    }
                }
                let gone: Vec<u64> = asking.iter().map(|read| read.call.id.0).collect();
                assert_eq!(gone, goes);
                assert_eq!(nodes.into_iter().collect::<Vec<_>>(), expected);
                assert_eq!(
                    gone.first(),
                    remaining.first(),
                    "whoever waits longest goes"
                );
                remaining.retain(|number| !goes.contains(number));
            }
            assert!(remaining.is_empty());
        }
    }

    #[test]
    fn a_list_of_too_many_nodes_is_refused() {
        let naming = |count: usize| pb::ListNodesRequest {
            node_ids: vec![vec![1; 16]; count],
            with_images: false,
        };
        assert_eq!(check(&naming(ASKED_MAX)), Ok(()));
        let refused = check(&naming(ASKED_MAX + 1)).unwrap_err();
        assert_eq!(refused.code(), "invalid");
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
