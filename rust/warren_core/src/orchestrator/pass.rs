//! A service's pass: one walk over all of it, then what the walk found is done, in as many steps
//! as it takes. What is done is judged again right before, as the state may have moved on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::fsm::{Node, Service, State};
use crate::ids::{ContainerId, NodeId};
use crate::orchestrator::PendingSlot;
use crate::orchestrator::plan::{Slot, Walk};
use crate::orchestrator::shrink::Shrinking;

/// Slots that a reason names.
const NAMED_MAX: usize = 3;

/// A slot to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vacancy {
    pub slot: Slot,
    /// The container that the new one takes the place of.
    pub replaces: Option<ContainerId>,
    /// Since when the slot has had no node.
    pub since_ms: u64,
}

/// Invariant: a service has one pass at a time, so nothing is in the lists of two.
#[derive(Debug)]
pub(super) struct Pass {
    /// Of the service; with another, the pass is void.
    pub version: u64,
    /// Begun by the sweep, and nobody has marked the service since: what it does was missed.
    pub swept: bool,
    /// How often there had been more room when it began.
    pub room: u64,
    /// The service was marked since the pass began, so another one follows.
    pub again: bool,
    /// `None` once it is done.
    pub walk: Option<Walk>,
    /// Not vacant for the first time, since the pass before.
    pub since: BTreeMap<Slot, u64>,
    /// In slots that go, the highest last: to be removed, or to move to slots that stay.
    pub surplus: Vec<ContainerId>,
    /// Where the service shrinks, which go.
    pub shrinking: Option<Shrinking>,
    /// Slots that somebody moves to.
    pub moved_to: BTreeSet<u64>,
    /// To be removed: of an older spec and not running.
    pub unready: VecDeque<ContainerId>,
    pub vacant: VecDeque<Vacancy>,
    /// Vacant since what was in them was told to go: these come before the others. Empty after
    /// the walk.
    pub awaited: VecDeque<Vacancy>,
    /// Vacant, with room kept for them.
    pub held: VecDeque<Vacancy>,
    /// Filled, with room kept for them elsewhere.
    pub needless: Vec<Slot>,
    /// Running, of an older spec: to be removed as few at a time as `away_max` allows.
    pub outdated: VecDeque<(ContainerId, NodeId)>,
    /// Running or about to run again, on nodes that are being drained: likewise.
    pub draining: VecDeque<(ContainerId, NodeId)>,
    /// Containers of the service that each node has and keeps, or is going to have.
    pub spread: BTreeMap<NodeId, u32>,
    /// Nodes on which it keeps failing while it runs on others.
    pub avoided: Vec<NodeId>,
    /// Slots without a running container.
    pub away: usize,
    /// The first few of them.
    away_first: Vec<Slot>,
    /// Slots that may be so because of an update; known when the walk is done.
    pub away_max: usize,
    /// There is no room for the vacancies that are left.
    pub full: bool,
    /// Nor would there be if others of a lower priority went.
    pub no_victims: bool,
    /// A slot that was emptied for the update waits for a node.
    pub stuck: bool,
    pub why: Option<Arc<str>>,
    pub pending: Vec<PendingSlot>,
    /// Why an update or a drain leaves what it does, if that is room.
    pub blocked: Option<Arc<str>>,
    /// And if it is that as many are away as may be.
    pub held_up: Option<Arc<str>>,
}

impl Pass {
    pub fn new(service: &Service, since: BTreeMap<Slot, u64>, room: u64) -> Self {
        Self {
            version: service.version,
            swept: false,
            room,
            again: false,
            walk: Some(Walk::new(service)),
            since,
            surplus: Vec::new(),
            shrinking: None,
            moved_to: BTreeSet::new(),
            unready: VecDeque::new(),
            vacant: VecDeque::new(),
            awaited: VecDeque::new(),
            held: VecDeque::new(),
            needless: Vec::new(),
            outdated: VecDeque::new(),
            draining: VecDeque::new(),
            spread: BTreeMap::new(),
            avoided: Vec::new(),
            away: 0,
            away_first: Vec::new(),
            away_max: 0,
            full: false,
            no_victims: false,
            stuck: false,
            why: None,
            pending: Vec::new(),
            blocked: None,
            held_up: None,
        }
    }

    /// Since when slots have had no node, of a pass that comes to nothing.
    pub fn waited(self) -> BTreeMap<Slot, u64> {
        let mut since = self.since;
        let found = self.vacant.iter().chain(&self.awaited).chain(&self.held);
        since.extend(found.map(|vacancy| (vacancy.slot, vacancy.since_ms)));
        since
    }

    /// The walk is over.
    pub fn walked(&mut self, slots: usize) {
        self.walk = None;
        self.away_max = away_max(slots);
        if !self.awaited.is_empty() {
            self.awaited.append(&mut self.vacant);
            std::mem::swap(&mut self.awaited, &mut self.vacant);
        }
    }

    pub fn is_away(&mut self, slot: Slot) {
        self.away += 1;
        if self.away_first.len() < NAMED_MAX {
            self.away_first.push(slot);
        }
    }

    /// Reads like "the update waits until slots 2, 3 and 5 run: at most 3 may be away at a time".
    pub fn waits_for(&self, state: &State, who: &str) -> Arc<str> {
        let name = |slot: &Slot| match slot.node {
            Some(id) => state.node(id).map_or("gone", Node::name).to_owned(),
            None => slot.number.to_string(),
        };
        let mut names: Vec<_> = self.away_first.iter().map(name).collect();
        let more = self.away.saturating_sub(names.len());
        names.extend((more > 0).then(|| format!("{more} more")));
        let global = self.away_first.iter().any(|slot| slot.node.is_some());
        let what = match (global, self.away) {
            (true, 1) => "the container on",
            (true, _) => "the containers on",
            (false, 1) => "slot",
            (false, _) => "slots",
        };
        let verb = if self.away == 1 { "runs" } else { "run" };
        let last = names.pop().unwrap_or_default();
        let names = match names.is_empty() {
            true => last,
            false => format!("{} and {last}", names.join(", ")),
        };
        let most = self.away_max;
        format!("{who} waits until {what} {names} {verb}: at most {most} may be away at a time")
            .into()
    }

    /// The node has a container less.
    pub fn leaves(&mut self, node: NodeId) {
        if let Some(kept) = self.spread.get_mut(&node) {
            *kept = kept.saturating_sub(1);
        }
    }

    /// The node has one more, or is going to.
    pub fn comes(&mut self, node: NodeId) {
        *self.spread.entry(node).or_insert(0) += 1;
    }
}

/// How many slots of `slots` an update may empty at a time: a quarter, at least one.
fn away_max(slots: usize) -> usize {
    (slots / 4).max(1)
}
