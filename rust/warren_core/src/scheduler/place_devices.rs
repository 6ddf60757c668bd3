//! Asks with devices: the fleet decides, among the nodes that the other rules leave.
//!
//! One container at a time: what one takes changes what a node is worth to the next. What is preferred
//! comes before what the fleet thinks: fewer containers of the service (where it is to be spread), then
//! the weight of affinities.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::Service;
use crate::ids::{NodeId, ServiceId};
use crate::pb;
use crate::scheduler::devices::shape;
use crate::scheduler::fill::merged;
use crate::scheduler::place::query;
use crate::scheduler::{Affinity, Ask, Placed, Scheduler, Strategy};

/// Sums of affinities' weights that are told apart; nodes with less are all alike.
const WEIGHTS_MAX: usize = 16;

impl Scheduler {
    pub(super) fn place_devices_into(&mut self, ask: &Ask, placed: &mut Placed) {
        let rules = &ask.rules;
        let known = ask.spread.iter().filter(|(_, count)| **count > 0);
        let known = known.filter_map(|(id, count)| Some((self.number(*id)?, *count)));
        let mut have: BTreeMap<u32, u32> = known.collect();
        let weights = weights(rules.affinities, self.devices.nodes());
        let least = weights.last().copied().unwrap_or_default();
        let spread = rules.strategy == Strategy::Spread;
        let most = rules.max_per_node.unwrap_or(u32::MAX);
        let mut out = Vec::new();
        placed.refused = ask.count;
        while placed.refused > 0 {
            self.devices.sync(&mut self.index);
            let query = query(&self.index, &self.images, self.seed, ask);
            let index = &self.index;
            let count_of = |number: u32| have.get(&number).copied().unwrap_or_default();
            let may_go = |number: u32| {
                index.is_open(number)
                    && ask.resources.fits(index.free(number))
                    && count_of(number) < most
                    && query.may_go(number)
            };
            let found = tiers(spread, &have).into_iter().find_map(|tier| {
                weights.iter().find_map(|weight| {
                    self.devices.find(ask.resources, rules.devices, |number| {
                        let own = weight_of(rules.affinities, number).max(least);
                        own == *weight
                            && tier.is_none_or(|count| count_of(number) == count)
                            && may_go(number)
                    })
                })
            });
            let Some((number, shares)) = found else {
                break;
            };
            self.index.hold(number, ask.resources, 1);
            self.devices.hold(number, &shares);
            *have.entry(number).or_insert(0) += 1;
            out.push((number, 1));
            let id = self.ids[number as usize];
            placed.devices.entry(id).or_default().push(shares);
            placed.refused -= 1;
        }
        placed.binds = merged(&out, |number| self.ids[number as usize]);
    }

    /// Sets devices aside for one container. [`Scheduler::place`] does so by itself.
    pub fn hold_devices(&mut self, id: NodeId, shares: &[pb::DeviceShare]) {
        if let Some(number) = self.number(id) {
            self.devices.hold(number, shares);
        }
    }

    /// Gives back what was held of devices for one container.
    pub fn release_devices(&mut self, id: NodeId, shares: &[pb::DeviceShare]) {
        if let Some(number) = self.number(id) {
            self.devices.release(number, shares);
        }
    }

    /// Like [`Scheduler::node_put`], for the devices of a node that no state needs to have; `claims`:
    /// what containers hold, as kind, number and 1/1000. The node is known. True if that is news.
    pub fn node_put_devices<'a>(
        &mut self,
        id: NodeId,
        devices: &[pb::Device],
        claims: impl Iterator<Item = (&'a str, u32, u32)>,
    ) -> bool {
        let Some(number) = self.number(id) else {
            return false;
        };
        self.devices
            .put(&mut self.index, number, id, devices, claims)
    }

    /// What services are to run tells which devices are likely to be asked for. Those with a container
    /// on every node have no choice to make, and do not count. `None`: the service is gone.
    pub fn service_put(&mut self, id: ServiceId, service: Option<&Service>) {
        let counts = |service: &&Service| {
            let asks = !service.container_spec().devices.is_empty();
            asks && !service.is_global() && !service.removing
        };
        let wanted = service.filter(counts).map(|service| {
            let asks = &service.container_spec().devices;
            let shape = shape(service.resources(), asks);
            (shape, u64::from(service.spec.replicas))
        });
        self.devices.demand(id, wanted);
    }
}

/// Counts of the service's containers by which a node has its turn, the fewest first; `None`: all at
/// once.
fn tiers(spread: bool, have: &BTreeMap<u32, u32>) -> Vec<Option<u32>> {
    if !spread {
        return vec![None];
    }
    let counts: BTreeSet<_> = have.values().copied().chain([0]).collect();
    counts.into_iter().map(Some).collect()
}

fn weight_of(affinities: &[Affinity], number: u32) -> i64 {
    let holds = |it: &&Affinity| it.to.contains(number);
    let holding = affinities.iter().filter(holds);
    holding.map(|it| i64::from(it.weight)).sum()
}

/// The sums that nodes come to, the largest first.
fn weights(affinities: &[Affinity], nodes: impl Iterator<Item = u32>) -> Vec<i64> {
    if affinities.is_empty() {
        return vec![0];
    }
    let sums: BTreeSet<_> = nodes
        .map(|node| Reverse(weight_of(affinities, node)))
        .collect();
    sums.into_iter()
        .map(|sum| sum.0)
        .take(WEIGHTS_MAX)
        .collect()
}
