//! Asks, as the index takes them.

use crate::fsm::Resources;
use crate::ids::NodeId;
use crate::pb;
use crate::scheduler::balance::Balancing;
use crate::scheduler::fill::{Fill, merged};
use crate::scheduler::index::{EVERYWHERE, Index};
use crate::scheduler::search::{Area, Query, drawn, order};
use crate::scheduler::tags::Tags;
use crate::scheduler::{Ask, Placed, Reason, Scheduler, Strategy, words};

impl Scheduler {
    /// Finds nodes for what is asked and holds the room there, once per bind.
    pub fn place(&mut self, ask: &Ask) -> Placed {
        let mut placed = Placed::default();
        self.place_into(ask, &mut placed);
        placed
    }

    /// Like [`Scheduler::place`], into an answer whose memory is used again.
    pub fn place_into(&mut self, ask: &Ask, placed: &mut Placed) {
        placed.devices.clear();
        if !ask.rules.devices.is_empty() {
            return self.place_devices_into(ask, placed);
        }
        let (mut have, mut out) = std::mem::take(&mut self.scratch);
        have.clear();
        out.clear();
        let rules = &ask.rules;
        let counts = rules.strategy == Strategy::Spread
            || rules.max_per_node.is_some()
            || rules.balance.is_some();
        if counts && !ask.spread.is_empty() {
            let known = ask.spread.iter().filter(|(_, count)| **count > 0);
            have.extend(known.filter_map(|(id, count)| Some((self.number(*id)?, *count))));
            have.sort_unstable();
        }
        self.index.make_lists(order(ask.resources, rules.strategy));
        let query = query(&self.index, &self.images, self.seed, ask);
        let max_per_node = rules.max_per_node.unwrap_or(u32::MAX);
        placed.refused = match rules.balance {
            Some(balance) => Balancing {
                layer: balance.over.0,
                weights: balance.weights,
                max_skew: balance.max_skew,
                possible: balance.possible,
                query,
                have: &have,
                max_per_node,
            }
            .run(&mut self.index, ask.count, &mut out),
            None => Fill {
                area: area(ask),
                query,
                have: &have,
                max_per_node,
            }
            .run(&mut self.index, ask.count, &mut out),
        };
        placed.binds.clear();
        match out[..] {
            [(node, count)] => placed.binds.push((self.ids[node as usize], count)),
            _ => placed.binds = merged(&out, |node| self.ids[node as usize]),
        }
        self.scratch = (have, out);
    }

    /// Does what `dry_run` does, and undoes it: afterwards everything is exactly as before, down to
    /// which of two equal nodes comes first. Meant for placing, holding, releasing and preempting;
    /// nodes and divisions must not change in it.
    pub fn plan<T>(&mut self, dry_run: impl FnOnce(&mut Self) -> T) -> T {
        if let Some(bands) = &mut self.bands {
            bands.begin();
        }
        self.index.begin();
        self.devices.begin();
        let found = dry_run(self);
        self.index.undo();
        self.devices.undo();
        if let Some(bands) = &mut self.bands {
            bands.forget_taken();
        }
        found
    }

    /// Holds room for one on this very node, and devices there, which are returned; or says why the
    /// node cannot take it.
    pub fn place_on(&mut self, id: NodeId, ask: &Ask) -> Result<Vec<pb::DeviceShare>, Reason> {
        let Some(number) = self.number(id) else {
            return Err(self.why_not(id, ask));
        };
        let free = self.index.free(number);
        let refused = ask.rules.why.is_some_and(|why| why.0(id).is_some());
        if refused || !self.takes(number, ask, free) {
            return Err(self.why_not(id, ask));
        }
        let shares = self.devices.choose(number, ask.rules.devices);
        let shares = shares.map_err(|why| Reason { nodes: 1, why })?;
        self.index.hold(number, ask.resources, 1);
        self.devices.hold(number, &shares);
        Ok(shares)
    }

    /// Whether one of these would find a place on `node` if `freed` were given back there.
    pub fn would_fit(&self, ask: &Ask, node: NodeId, freed: Resources) -> bool {
        self.number(node).is_some_and(|number| {
            let mut load = self.index.load(number);
            load.allocated = load.allocated.saturating_sub(freed);
            self.takes(number, ask, load.free())
        })
    }

    /// Whether one of these would find a place somewhere as things are.
    pub fn fits_somewhere(&self, ask: &Ask) -> bool {
        let query = query(&self.index, &self.images, self.seed, ask);
        let area = area(ask);
        match ask.rules.max_per_node {
            None => self.index.fits_somewhere(area, &query),
            Some(_) => self
                .numbers
                .iter()
                .any(|n| self.takes(n, ask, self.index.free(n))),
        }
    }

    /// Whether the node takes one, given what is free there. Balance is not its matter.
    fn takes(&self, number: u32, ask: &Ask, free: Resources) -> bool {
        let max = ask.rules.max_per_node.unwrap_or(u32::MAX);
        let count = ask.spread.get(&self.ids[number as usize]);
        self.index.is_open(number)
            && ask.resources.fits(free)
            && count.copied().unwrap_or_default() < max
            && query(&self.index, &self.images, self.seed, ask).may_go(number)
    }
}

pub(super) fn query<'a>(index: &Index, images: &'a Tags, seed: u64, ask: &Ask<'a>) -> Query<'a> {
    let mut query = Query::new(index, ask.resources, ask.rules.strategy);
    query.within = ask.rules.within;
    query.without = ask.rules.without;
    query.image = images.nodes(ask.image_digest);
    query.affinities = ask.rules.affinities;
    query.draw = drawn(seed, words(ask.service.0));
    query
}

fn area(ask: &Ask) -> Area {
    Area {
        layer: ask.rules.pool.map_or(EVERYWHERE, |pool| pool.0),
        part: 0,
    }
}
