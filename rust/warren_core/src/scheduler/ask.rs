//! What is asked of the scheduler, and what it answers.

use std::collections::BTreeMap;
use std::fmt;

use crate::fsm::Resources;
use crate::ids::{NodeId, ServiceId};
use crate::pb;
use crate::scheduler::sets::NodeSet;

/// What is to be placed: `count` containers alike.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub service: ServiceId,
    pub resources: Resources,
    pub count: u32,
    /// In full, for people.
    pub image: &'a str,
    /// Manifest digest; a node without these bytes is not considered.
    pub image_digest: &'a str,
    /// Containers of the service that each node has and keeps.
    pub spread: &'a BTreeMap<NodeId, u32>,
    pub rules: Rules<'a>,
}

/// Which of the nodes that could take a container gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Strategy {
    /// First the node with the fewest containers of the service, then as [`Strategy::Pack`]: what is
    /// spread is a service, not the cluster.
    #[default]
    Spread,
    /// The node that strands least, leaning a little toward fuller ones.
    Pack,
    /// The same, leaning toward fuller nodes so much that empty ones stay empty.
    Consolidate,
}

/// Where containers may go, and where they had better. Sets are over dense numbers
/// ([`Scheduler::number`](crate::scheduler::Scheduler::number)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    pub strategy: Strategy,
    /// Only nodes that are in each of these.
    pub within: &'a [&'a NodeSet],
    /// No node that is in one of these: what is not to be neighbours.
    pub without: &'a [&'a NodeSet],
    /// What the sets say no to, in words; they stand for the nodes that it is silent about.
    pub why: Option<Why<'a>>,
    /// Containers of the service on one node, those that are there with them.
    pub max_per_node: Option<u32>,
    /// A division whose part 0 holds every node of `within`, if one was made: an ask that few
    /// nodes may take costs no more than one that all may.
    pub pool: Option<Division>,
    pub balance: Option<Balance<'a>>,
    pub affinities: &'a [Affinity<'a>],
    /// Devices of each container, one ask for each kind. Not to be had together with `balance`.
    pub devices: &'a [pb::DeviceAsk],
}

/// Says why a node takes none of these whatever room it has: `label zone is us, asked eu`; `None`
/// if it may. Asked where reasons are, not where a place is looked for.
#[derive(Clone, Copy)]
pub struct Why<'a>(pub &'a dyn Fn(NodeId) -> Option<String>);

impl fmt::Debug for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Why")
    }
}

/// A division of nodes into numbered parts: a label, and its values. Made by
/// [`Scheduler::division_add`](crate::scheduler::Scheduler::division_add).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Division(pub(super) usize);

/// The service's containers are balanced over the parts of a division. A node in none of them is
/// not considered.
#[derive(Clone, Copy, Debug)]
pub struct Balance<'a> {
    pub over: Division,
    /// By part: containers go to the part that is furthest below its share. One that has no room
    /// leaves its share to the others; one without a weight gets nothing. Empty: all alike.
    pub weights: &'a [u32],
    /// No part with a weight ever has more than so many more than another that has an open node
    /// with the image, out of `possible`.
    pub max_skew: Option<u32>,
    /// Where such containers may go whatever runs there now, everywhere unless said: more than what
    /// is in [`Rules::within`] and not in [`Rules::without`].
    pub possible: Option<&'a NodeSet>,
}

/// Nodes that are better than others by as much as the weight says, or worse.
#[derive(Clone, Copy, Debug)]
pub struct Affinity<'a> {
    pub to: &'a NodeSet,
    /// From -100 to 100. 100 outweighs what a whole node of mean size would strand.
    pub weight: i32,
}

/// Where they go. Invariant: the counts in `binds` and `refused` add up to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Placed {
    /// By node id, each node once.
    pub binds: Vec<(NodeId, u32)>,
    pub refused: u32,
    /// Of each bind, where devices are asked for; by node, in no order that matters.
    pub devices: BTreeMap<NodeId, Vec<Vec<pb::DeviceShare>>>,
}
