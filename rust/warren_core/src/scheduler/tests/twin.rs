//! The scheduler as it would be without an index: every answer from a scan over all nodes, with
//! sets that are sets.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::Resources;
use crate::ids::NodeId;
use crate::scheduler::{NodeFacts, Placed};

#[derive(Clone, Debug, Default)]
pub struct TwinNode {
    pub facts: NodeFacts,
    pub held: Resources,
    pub held_containers: u32,
    pub images: BTreeSet<String>,
    pub zone: Option<u32>,
    /// Names of the sets that it is in.
    pub tags: BTreeSet<&'static str>,
}

#[derive(Clone, Debug)]
pub struct TwinAsk {
    pub resources: Resources,
    pub image: String,
    pub within: Vec<&'static str>,
    pub without: Vec<&'static str>,
    pub max_per_node: Option<u32>,
    pub max_skew: Option<u32>,
    /// One of `within`: where it may go whatever runs there now.
    pub possible: Option<&'static str>,
    pub spread: BTreeMap<NodeId, u32>,
}

#[derive(Clone, Debug, Default)]
pub struct Twin {
    pub nodes: BTreeMap<NodeId, TwinNode>,
}

impl TwinNode {
    pub fn free(&self) -> Resources {
        let facts = self.facts;
        let without = facts.allocatable.saturating_sub(facts.allocated);
        without.saturating_sub(self.held)
    }

    pub fn hold(&mut self, resources: Resources, count: u32) {
        for _ in 0..count {
            self.held = self.held.saturating_add(resources);
            self.held_containers += 1;
        }
    }

    pub fn release(&mut self, resources: Resources) {
        self.held = self.held.saturating_sub(resources);
        self.held_containers = self.held_containers.saturating_sub(1);
    }

    /// Whether rules allow it, room apart.
    pub fn may_take(&self, ask: &TwinAsk) -> bool {
        self.may_ever_take(ask)
            && ask.within.iter().all(|tag| self.tags.contains(tag))
            && !ask.without.iter().any(|tag| self.tags.contains(tag))
            && (ask.max_skew.is_none() || self.zone.is_some())
    }

    fn may_ever_take(&self, ask: &TwinAsk) -> bool {
        self.facts.refusal.is_none()
            && self.images.contains(&ask.image)
            && ask.possible.iter().all(|tag| self.tags.contains(tag))
    }
}

impl Twin {
    /// Whether the node takes one more, given what nodes have of the service.
    pub fn takes(&self, id: NodeId, ask: &TwinAsk, have: &BTreeMap<NodeId, u32>) -> bool {
        let count = have.get(&id).copied().unwrap_or_default();
        self.nodes.get(&id).is_some_and(|node| {
            node.may_take(ask)
                && ask.resources.fits(node.free())
                && count < ask.max_per_node.unwrap_or(u32::MAX)
        })
    }

    /// Containers of the service in each zone that it may ever go to.
    pub fn zones(&self, ask: &TwinAsk, have: &BTreeMap<NodeId, u32>) -> BTreeMap<u32, u32> {
        let mut zones = BTreeMap::new();
        for node in self.nodes.values() {
            if let Some(zone) = node.zone.filter(|_| node.may_ever_take(ask)) {
                zones.entry(zone).or_default();
            }
        }
        for (id, count) in have {
            let zone = self.nodes.get(id).and_then(|node| node.zone);
            if let Some(zone) = zone.and_then(|zone| zones.get_mut(&zone)) {
                *zone += count;
            }
        }
        zones
    }

    /// Takes over what was placed, container by container, and holds every bind to what was asked.
    /// Returns what nodes have of the service then.
    pub fn follow(&mut self, ask: &TwinAsk, placed: &Placed) -> BTreeMap<NodeId, u32> {
        let mut have = ask.spread.clone();
        assert!(
            placed.binds.is_sorted_by(|a, b| a.0 < b.0),
            "each node once"
        );
        for (id, count) in &placed.binds {
            assert!(*count > 0);
            for _ in 0..*count {
                assert!(self.takes(*id, ask, &have), "{id} does not take it");
                let node = self.nodes.get_mut(id).expect("it takes it");
                node.hold(ask.resources, 1);
                *have.entry(*id).or_insert(0) += 1;
            }
        }
        have
    }

    /// Nothing is refused while some node would take it, skew apart.
    pub fn assert_refused(&self, ask: &TwinAsk, have: &BTreeMap<NodeId, u32>) {
        let zones = self.zones(ask, have);
        let least = zones.values().min().copied().unwrap_or_default();
        for (id, node) in &self.nodes {
            if !self.takes(*id, ask, have) {
                continue;
            }
            let skew = ask.max_skew.zip(node.zone);
            let held_back = skew.is_some_and(|(skew, zone)| zones[&zone] >= least + skew);
            assert!(held_back, "{id} had room: {zones:?} {ask:?}");
        }
    }

    /// No node got one while another that would take it had two fewer.
    pub fn assert_level(&self, ask: &TwinAsk, placed: &Placed, have: &BTreeMap<NodeId, u32>) {
        for (id, node) in &self.nodes {
            if !self.takes(*id, ask, have) {
                continue;
            }
            let count = have.get(id).copied().unwrap_or_default();
            for (other, _) in &placed.binds {
                let comparable = ask.max_skew.is_none() || self.nodes[other].zone == node.zone;
                assert!(
                    !comparable || have[other] <= count + 1,
                    "{other} before {id}"
                );
            }
        }
    }

    /// No zone got one while another that would take it had fewer by more than the skew.
    pub fn assert_skew(&self, ask: &TwinAsk, placed: &Placed, have: &BTreeMap<NodeId, u32>) {
        let Some(skew) = ask.max_skew else {
            return;
        };
        let zones = self.zones(ask, have);
        let least = zones.values().min().copied().unwrap_or_default();
        for (id, _) in &placed.binds {
            let zone = self.nodes[id].zone.expect("it takes it");
            assert!(zones[&zone] <= least + skew, "zone {zone} of {zones:?}");
        }
    }
}
