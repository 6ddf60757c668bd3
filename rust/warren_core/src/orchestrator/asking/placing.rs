//! Containers of one service, with everything that it asks for.
//!
//! What the scheduler can do by itself it is asked for at once, many containers at a time. What each
//! container changes for the next (`distinct`, more than one spread, a spread over more values than a
//! division has) goes one by one. What is only preferred is asked for first, and left out for those
//! that found no node with it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::fsm::placement::{Attribute, Spread};
use crate::fsm::{Service, State};
use crate::ids::NodeId;
use crate::orchestrator::asking::columns::{Column, MISSING};
use crate::orchestrator::asking::keys::Keys;
use crate::orchestrator::asking::known::Known;
use crate::orchestrator::asking::weights::{least, next, weights};
use crate::orchestrator::asking::{Asking, most_per_node, sets_apart, strategy};
use crate::pb;
use crate::scheduler::{Affinity, Ask, Balance, NodeSet, Placed, Preemption, Rules, Scheduler};

/// Values of spreads that are tried for one container, before it goes wherever it may.
const TRIES_MAX: u32 = 32;
/// What a taint that makes a node the last choice weighs where it is not simply left out at first.
const DISLIKE_WEIGHT: i32 = -1_000;

/// What is to be placed.
#[derive(Clone, Copy)]
pub(in crate::orchestrator) struct Placement<'a> {
    pub state: &'a State,
    pub service: &'a Service,
    /// Containers of the service that each node has and keeps.
    pub spread: &'a BTreeMap<NodeId, u32>,
    /// The last choice, because the service keeps failing there.
    pub avoided: &'a [NodeId],
    pub count: u32,
}

impl<'a> Placement<'a> {
    /// As if nothing were asked for but room.
    pub fn ask(&self) -> Ask<'a> {
        let spec = self.service.container_spec();
        Ask {
            service: self.service.id,
            resources: self.service.resources(),
            count: self.count,
            image: &spec.image,
            image_digest: &spec.image_digest,
            spread: self.spread,
            rules: Rules {
                strategy: strategy(self.service),
                max_per_node: most_per_node(self.service),
                devices: &spec.devices,
                ..Rules::default()
            },
        }
    }
}

/// Finds nodes, and holds the room there, once per bind. What the service asks for has been learnt.
pub(in crate::orchestrator) fn place(
    asking: &Asking,
    scheduler: &mut Scheduler,
    placement: &Placement,
) -> Placed {
    if asking.is_plain(placement.service) && placement.avoided.is_empty() {
        return scheduler.place(&placement.ask());
    }
    let mut placing = Placing::new(asking, scheduler, placement);
    match placing.goes_one_by_one() {
        true => placing.one_by_one(scheduler),
        false => placing.at_once(scheduler),
    }
    Placed {
        binds: placing.binds.into_iter().collect(),
        refused: placing.left,
        devices: placing.devices,
    }
}

/// Whether a place is there for one as things are, whatever its node and the values of spreads have
/// of the service.
pub(in crate::orchestrator) fn may_fit(
    asking: &Asking,
    scheduler: &Scheduler,
    placement: &Placement,
) -> bool {
    let mut ask = placement.ask();
    ask.rules.max_per_node = None;
    if asking.is_plain(placement.service) {
        return scheduler.fits_somewhere(&ask);
    }
    let placing = Placing::new(asking, scheduler, placement);
    let open = placing.open.map(|known| &known.set);
    let within: Vec<_> = open.into_iter().collect();
    let without = [&placing.apart.own, &placing.apart.others];
    ask.rules.within = &within;
    ask.rules.without = &without;
    scheduler.fits_somewhere(&ask)
}

/// Whether the service's own containers, where they are, leave the node to one more, but for the
/// most that one node may have. What the service asks for has been learnt.
pub(in crate::orchestrator) fn is_left(
    asking: &Asking,
    scheduler: &Scheduler,
    placement: &Placement,
    node: NodeId,
) -> bool {
    if !sets_apart(placement.service) {
        return true;
    }
    let barred = Placing::new(asking, scheduler, placement).barred(scheduler);
    let number = scheduler.number(node);
    number.is_some_and(|number| !barred.contains(number))
}

/// Whether the search takes one on this very node, all others left out.
#[cfg(test)]
pub(in crate::orchestrator) fn would_place_on(
    asking: &Asking,
    scheduler: &mut Scheduler,
    placement: &Placement,
    node: NodeId,
) -> bool {
    let Some(number) = scheduler.number(node) else {
        return false;
    };
    let mut placing = Placing::new(asking, scheduler, placement);
    let mut out = placing.barred(scheduler);
    let others = placement.state.nodes().filter(|other| other.id != node);
    for other in others.filter_map(|other| scheduler.number(other.id)) {
        out.set(other, true);
    }
    let wish = Wish {
        liked: false,
        balanced: false,
    };
    let takes = !out.contains(number) && placing.ask(scheduler, 1, wish, Some(&out));
    if takes {
        scheduler.release(node, placement.service.resources());
    }
    takes
}

/// A node where containers of a lower priority would make room for one, and which; `on`: there and
/// nowhere else. What is only preferred does not count; what the service asks for has been learnt.
pub(in crate::orchestrator) fn preempt(
    asking: &Asking,
    scheduler: &mut Scheduler,
    placement: &Placement,
    on: Option<NodeId>,
) -> Option<Preemption> {
    let mut only = NodeSet::default();
    if let Some(on) = on {
        only.set(scheduler.number(on)?, true);
    }
    let priority = placement.service.rules.priority;
    let mut ask = placement.ask();
    let mut within: Vec<_> = on.iter().map(|_| &only).collect();
    if on.is_some() {
        ask.rules.max_per_node = None;
    }
    if asking.is_plain(placement.service) {
        ask.rules.within = &within;
        return scheduler.preempt(&ask, priority);
    }
    let placing = Placing::new(asking, scheduler, placement);
    let barred = placing.barred(scheduler);
    within.extend(placing.open.map(|known| &known.set));
    let without = [&placing.apart.own, &placing.apart.others, &barred];
    ask.rules.within = &within;
    ask.rules.without = &without;
    scheduler.preempt(&ask, priority)
}

/// Nodes that are out because of where containers are.
#[derive(Debug, Default)]
struct Apart {
    /// Those of the service itself.
    pub own: NodeSet,
    /// Those of others.
    pub others: NodeSet,
}

fn apart(
    asking: &Asking,
    scheduler: &Scheduler,
    state: &State,
    service: &Service,
    spread: &BTreeMap<NodeId, u32>,
) -> Apart {
    let mut apart = Apart::default();
    let own = spread.iter().filter(|(_, count)| **count > 0);
    for avoided in state.avoided(service, own.map(|(id, _)| *id)) {
        let set = match avoided.because_of {
            None => &mut apart.own,
            Some(_) => &mut apart.others,
        };
        if avoided.attribute == Attribute::Id {
            let ids = avoided.values.iter().filter_map(|id| NodeId::parse(id));
            for number in ids.filter_map(|id| scheduler.number(id)) {
                set.set(number, true);
            }
            continue;
        }
        let Some(column) = asking.columns.get(&avoided.attribute) else {
            continue;
        };
        let parts = avoided.values.iter().filter_map(|value| column.part(value));
        parts.for_each(|part| column.add_part(part, set));
        if avoided.because_of.is_none() {
            column.add_part(MISSING, set);
        }
    }
    apart
}

/// A spread, and how many of the service each value has.
struct Spreading<'a> {
    spread: &'a Spread,
    column: &'a Column,
    weights: Vec<u32>,
    counts: Vec<u32>,
    /// Nodes of all parts but those that were asked for last.
    others: NodeSet,
    /// By part, whether its nodes are in `others`.
    is_other: Vec<bool>,
}

struct Placing<'a> {
    asking: &'a Asking,
    placement: &'a Placement<'a>,
    open: Option<&'a Known>,
    /// Whatever runs there.
    ever: Option<&'a Known>,
    disliked: Option<Cow<'a, NodeSet>>,
    affinities: Vec<Affinity<'a>>,
    apart: Apart,
    spreads: Vec<Spreading<'a>>,
    /// By node, those that are placed now with those that were there.
    have: BTreeMap<NodeId, u32>,
    binds: BTreeMap<NodeId, u32>,
    devices: BTreeMap<NodeId, Vec<Vec<pb::DeviceShare>>>,
    left: u32,
}

/// What of the preferences is asked for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// Only where no taint speaks against it.
    liked: bool,
    balanced: bool,
}

impl<'a> Placing<'a> {
    fn new(asking: &'a Asking, scheduler: &Scheduler, placement: &'a Placement<'a>) -> Self {
        let (state, service) = (placement.state, placement.service);
        let keys = asking.keys(service);
        let known = |key: &Option<_>| asking.known.get(key.as_ref()?);
        let terms = keys.affinities.iter().zip(&service.rules.affinities);
        let affinities = terms.filter_map(|(key, (_, weight))| {
            Some(Affinity {
                to: &asking.known.get(key)?.set,
                weight: *weight,
            })
        });
        let spreads = service.rules.spreads.iter().filter_map(|spread| {
            let column = asking.columns.get(&spread.attribute)?;
            Some(Spreading {
                spread,
                column,
                weights: weights(spread, column),
                counts: column.counts(placement.spread, scheduler),
                others: NodeSet::default(),
                is_other: vec![false; column.parts.len()],
            })
        });
        let Keys {
            open,
            ever,
            disliked,
            ..
        } = &keys;
        let mut disliked = known(disliked).map(|known| Cow::Borrowed(&known.set));
        let avoided = placement.avoided.iter();
        for number in avoided.filter_map(|id| scheduler.number(*id)) {
            disliked.get_or_insert_default().to_mut().set(number, true);
        }
        Self {
            asking,
            placement,
            open: known(open),
            ever: known(if ever.is_some() { ever } else { open }),
            disliked: disliked.filter(|set| !set.is_empty()),
            affinities: affinities.collect(),
            apart: apart(asking, scheduler, state, service, placement.spread),
            spreads: spreads.collect(),
            have: placement.spread.clone(),
            binds: BTreeMap::new(),
            devices: BTreeMap::new(),
            left: placement.count,
        }
    }

    fn goes_one_by_one(&self) -> bool {
        let (distinct, at_once) = (&self.placement.service.rules.distinct, &self.spreads[..]);
        let divided = match at_once {
            [] => true,
            [one] => one.column.division.is_some(),
            _ => false,
        };
        let spec = self.placement.service.container_spec();
        let has_devices = !spec.devices.is_empty() && !at_once.is_empty();
        has_devices || !divided || distinct.iter().any(|attribute| *attribute != Attribute::Id)
    }

    fn at_once(&mut self, scheduler: &mut Scheduler) {
        let hard = self.spreads.iter().any(|it| it.spread.max_skew.is_some());
        // A skew is bounded among nodes that a taint speaks against, too.
        let tainted = self.disliked.is_some() && !hard;
        for liked in [true, false] {
            for balanced in [true, false] {
                let left_out = !liked && !tainted || !balanced && (hard || self.spreads.is_empty());
                if self.left > 0 && !left_out {
                    self.ask(scheduler, self.left, Wish { liked, balanced }, None);
                }
            }
        }
    }

    fn one_by_one(&mut self, scheduler: &mut Scheduler) {
        while self.left > 0 {
            let barred = self.barred(scheduler);
            let mut tries = TRIES_MAX;
            let liked: &[bool] = match &self.disliked {
                Some(_) => &[true, false],
                None => &[false],
            };
            let mut placed = false;
            for liked in liked {
                placed = placed || self.narrow(scheduler, 0, &barred, *liked, &mut tries);
            }
            if !placed {
                return;
            }
        }
    }

    /// Places one at the values that are furthest below their shares, the first spread's first.
    /// `out`: nodes that it may not go to.
    fn narrow(
        &mut self,
        scheduler: &mut Scheduler,
        level: usize,
        out: &NodeSet,
        liked: bool,
        tries: &mut u32,
    ) -> bool {
        let wish = Wish {
            liked,
            balanced: false,
        };
        if self.are_all(out, scheduler) {
            return false;
        }
        let Some(spreading) = self.spreads.get(level) else {
            return self.ask(scheduler, 1, wish, Some(out));
        };
        let open = self.open.map(|known| &known.set);
        for group in spreading.groups(open) {
            if *tries == 0 {
                break;
            }
            *tries -= 1;
            let mut others = self.spreads[level].others_than(&group).clone();
            others.unite(out);
            if self.narrow(scheduler, level + 1, &others, liked, tries) {
                return true;
            }
        }
        *tries == 0 && self.ask(scheduler, 1, wish, Some(out))
    }

    /// Whether no node is left that it may go to: values of two spreads may have none in common.
    fn are_all(&self, out: &NodeSet, scheduler: &Scheduler) -> bool {
        match self.open {
            Some(known) => out.includes(&known.set),
            None => out.len() >= scheduler.node_count(),
        }
    }

    /// Nodes that `distinct` and bounded skews exclude now.
    fn barred(&self, scheduler: &Scheduler) -> NodeSet {
        let mut barred = self.apart.own.clone();
        let service = self.placement.service;
        for it in &self.spreads {
            let Some(most) = it.spread.max_skew else {
                continue;
            };
            let least = least(it.column, &it.counts, service, scheduler, self.ever);
            it.column.add_part(MISSING, &mut barred);
            for part in 1..it.column.parts.len() as u32 {
                if it.counts[part as usize] + 1 > least.saturating_add(most) {
                    it.column.add_part(part, &mut barred);
                }
            }
        }
        barred
    }

    /// Asks the scheduler for `count`, and takes what it finds. True if that was anything.
    fn ask(
        &mut self,
        scheduler: &mut Scheduler,
        count: u32,
        wish: Wish,
        out: Option<&NodeSet>,
    ) -> bool {
        let open = self.open.map(|known| &known.set);
        let within: Vec<_> = open.into_iter().collect();
        let disliked = self.disliked.as_deref().filter(|_| wish.liked);
        let spread = self.spreads.first().filter(|_| wish.balanced);
        let hard = spread.is_some_and(|it| it.spread.max_skew.is_some());
        let mut affinities = self.affinities.clone();
        affinities.extend(disliked.filter(|_| hard).map(|to| Affinity {
            to,
            weight: DISLIKE_WEIGHT,
        }));
        let without = [&self.apart.own, &self.apart.others].into_iter();
        let without = without.filter(|set| !set.is_empty());
        let without: Vec<_> = without
            .chain(disliked.filter(|_| !hard))
            .chain(out)
            .collect();
        let balance = spread.and_then(|it| {
            Some(Balance {
                over: it.column.division?,
                weights: &it.weights,
                max_skew: it.spread.max_skew,
                possible: self.ever.map(|known| &known.set),
            })
        });
        let mut ask = self.placement.ask();
        ask.count = count;
        ask.spread = &self.have;
        ask.rules.within = &within;
        ask.rules.without = &without;
        ask.rules.pool = self.open.and_then(|known| known.pool);
        ask.rules.balance = balance;
        ask.rules.affinities = &affinities;
        let placed = scheduler.place(&ask);
        let found = placed.refused < count;
        self.take(scheduler, placed);
        found
    }

    fn take(&mut self, scheduler: &Scheduler, mut placed: Placed) {
        for (id, shares) in std::mem::take(&mut placed.devices) {
            self.devices.entry(id).or_default().extend(shares);
        }
        for (id, count) in &placed.binds {
            self.left -= count;
            *self.binds.entry(*id).or_insert(0) += count;
            *self.have.entry(*id).or_insert(0) += count;
            let Some(number) = scheduler.number(*id) else {
                continue;
            };
            for it in &mut self.spreads {
                if let Some(part) = it.column.part_of(number) {
                    it.counts[part as usize] += count;
                }
            }
            for attribute in &self.placement.service.rules.distinct {
                let column = self.asking.columns.get(attribute);
                if let Some((column, part)) = column.and_then(|c| Some((c, c.part_of(number)?))) {
                    column.add_part(part, &mut self.apart.own);
                }
            }
        }
    }
}

impl Spreading<'_> {
    /// Parts that have nodes where the service may go, those that are furthest below their share first;
    /// of one group those that are equally far.
    fn groups(&self, open: Option<&NodeSet>) -> Vec<Vec<u32>> {
        let next = |part: &u32| next(self.counts[*part as usize], self.weights[*part as usize]);
        let some = |part: &u32| {
            let mut nodes = self.column.parts[*part as usize].nodes.iter();
            nodes.any(|node| open.is_none_or(|open| open.contains(*node)))
        };
        let mut parts: Vec<_> = (0..self.column.parts.len() as u32).filter(some).collect();
        parts.sort_by_key(|part| (next(part), *part));
        let groups = parts.chunk_by(|left, right| next(left) == next(right));
        groups.map(<[u32]>::to_vec).collect()
    }

    /// Nodes of all parts but those of the group, whose numbers ascend. From one container to the next
    /// mostly one part is another, so that only what differs is put in and taken out.
    fn others_than(&mut self, group: &[u32]) -> &NodeSet {
        for (part, is_other) in self.is_other.iter_mut().enumerate() {
            let wanted = group.binary_search(&(part as u32)).is_err();
            if std::mem::replace(is_other, wanted) != wanted {
                self.column.put_part(part as u32, &mut self.others, wanted);
            }
        }
        &self.others
    }
}
