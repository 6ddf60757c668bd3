//! The canonical hash of the state, by which members find out that they differ.
//!
//! It is the sum modulo 2^128 of the hashes of the state's elements, so that it does not depend
//! on the order in which they came about and follows each change at the price of the elements it
//! touches: what was is taken off, what is is added (Bellare and Micciancio, "A New Paradigm for
//! Collision-Free Hashing", EUROCRYPT 1997: AdHash). The hash of an element is XXH3-128 of its
//! message's canonical encoding, seeded with its [`Kind`]. `docs/state-hash.md` has the exact
//! definition: it is a format, because members of two releases compare it.
//!
//! It finds faults, not forgeries: XXH3 resists no adversary, and needs not to, because only
//! members of the cluster take part.

use std::fmt;

use prost::Message;
use twox_hash::XxHash3_128;

use crate::fsm::objects::{Cluster, Container, Member, Node, Service};
use crate::fsm::requests::{ClientId, Remembered};
use crate::fsm::state::State;
use crate::fsm::wire;
use crate::ids::{Index, MemberId, NodeId, SpecDigest};
use crate::pb;

/// The canonical hash of a state. Equal for equal states, whatever their history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StateHash(pub u128);

impl StateHash {
    /// Big-endian, as it is printed.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What an element is; the numbers are part of the definition.
#[derive(Clone, Copy)]
enum Kind {
    Clock = 1,
    Cluster = 2,
    Service = 3,
    Node = 4,
    Container = 5,
    Spec = 6,
    Member = 7,
    RemovedMembers = 8,
    Answer = 9,
    Floor = 10,
    RemovedNodes = 11,
}

/// The hash of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element(u128);

fn element(kind: Kind, bytes: &[u8]) -> Element {
    Element(XxHash3_128::oneshot_with_seed(kind as u64, bytes))
}

pub(super) fn clock(time_ms: u64) -> Element {
    element(Kind::Clock, &time_ms.to_le_bytes())
}

pub(super) fn cluster(cluster: &Cluster) -> Element {
    let message = pb::Cluster::from(cluster);
    element(Kind::Cluster, &message.encode_to_vec())
}

pub(super) fn service(service: &Service) -> Element {
    let message = pb::Service::from(service);
    element(Kind::Service, &message.encode_to_vec())
}

pub(super) fn node(node: &Node) -> Element {
    element(Kind::Node, &pb::Node::from(node).encode_to_vec())
}

/// `scratch` is overwritten: containers change too often to allocate for each.
pub(super) fn container(container: &Container, scratch: &mut Vec<u8>) -> Element {
    scratch.clear();
    wire::container(container, scratch);
    element(Kind::Container, scratch)
}

/// The digest stands for the content.
pub(super) fn spec(digest: &SpecDigest) -> Element {
    element(Kind::Spec, &digest.0)
}

pub(super) fn member(member: &Member) -> Element {
    element(Kind::Member, &pb::Member::from(member).encode_to_vec())
}

/// All of them together, because their order matters; no element where there is none.
pub(super) fn removed_members(ids: impl Iterator<Item = MemberId>) -> Option<Element> {
    let bytes: Vec<u8> = ids.flat_map(|id| id.0.to_le_bytes()).collect();
    (!bytes.is_empty()).then(|| element(Kind::RemovedMembers, &bytes))
}

/// Like [`removed_members`].
pub(super) fn removed_nodes(ids: impl Iterator<Item = NodeId>) -> Option<Element> {
    let bytes: Vec<u8> = ids.flat_map(|id| id.0).collect();
    (!bytes.is_empty()).then(|| element(Kind::RemovedNodes, &bytes))
}

/// Without the sentence of a refusal, which is for people and may differ between releases.
pub(super) fn answer(client: &ClientId, sequence: u64, known: &Remembered) -> Element {
    let (response, refused) = match &known.answer {
        Ok(response) => (&response[..], false),
        Err((code, _)) => (code.as_bytes(), true),
    };
    let mut bytes = Vec::with_capacity(80 + response.len());
    bytes.extend_from_slice(client);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&known.index.0.to_le_bytes());
    bytes.extend_from_slice(&known.digest);
    bytes.push(refused.into());
    bytes.extend_from_slice(response);
    element(Kind::Answer, &bytes)
}

pub(super) fn floor(client: &ClientId, sequence: u64, index: Index) -> Element {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(client);
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes[24..].copy_from_slice(&index.0.to_le_bytes());
    element(Kind::Floor, &bytes)
}

/// A sum of elements that follows changes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Sum(u128);

impl Sum {
    pub fn add(&mut self, Element(hash): Element) {
        self.0 = self.0.wrapping_add(hash);
    }

    pub fn take(&mut self, Element(hash): Element) {
        self.0 = self.0.wrapping_sub(hash);
    }

    pub fn add_all(&mut self, Sum(other): Sum) {
        self.0 = self.0.wrapping_add(other);
    }
}

impl State {
    /// The canonical hash, kept up to date by every change: O(1).
    pub fn hash(&self) -> StateHash {
        let mut sum = self.objects_sum();
        sum.add_all(self.requests.sum());
        sum.add_all(self.members.sum());
        sum.add_all(self.removed_nodes.sum());
        if let Some(it) = self.cluster() {
            sum.add(cluster(it));
        }
        sum.add(clock(self.time_ms()));
        StateHash(sum.0)
    }

    /// The same from the objects alone, by the definition: what [`State::hash`] is checked
    /// against. O(state).
    pub fn hash_from_scratch(&self) -> StateHash {
        let mut sum = Sum::default();
        sum.add(clock(self.time_ms()));
        if let Some(it) = self.cluster() {
            sum.add(cluster(it));
        }
        self.services().for_each(|it| sum.add(service(it)));
        self.nodes().for_each(|it| sum.add(node(it)));
        for it in self.containers() {
            let message = pb::Container::from(it);
            sum.add(element(Kind::Container, &message.encode_to_vec()));
        }
        self.specs().for_each(|(digest, _)| sum.add(spec(digest)));
        self.members().for_each(|it| sum.add(member(it)));
        if let Some(removed) = removed_members(self.members.removed()) {
            sum.add(removed);
        }
        if let Some(removed) = removed_nodes(self.removed_nodes.iter()) {
            sum.add(removed);
        }
        for (client, sequence, known) in self.requests.answers() {
            sum.add(answer(client, sequence, known));
        }
        for (client, sequence, index) in self.requests.floors() {
            sum.add(floor(client, sequence, index));
        }
        StateHash(sum.0)
    }
}
