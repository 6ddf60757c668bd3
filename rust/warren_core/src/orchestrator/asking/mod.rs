//! What services ask of nodes, as the scheduler takes it: sets of nodes, divisions, and who says why.
//!
//! A rule is judged once for each node, not once for each container: what was found is kept (`known`,
//! `columns`) and judged anew for a node that has changed. Most services ask for nothing and cost
//! nothing here.
//!
//! | file | idea |
//! |---|---|
//! | `keys` | what a service has to know, by name |
//! | `known` | which nodes satisfy what |
//! | `columns` | an attribute's values, and which nodes have which |
//! | `levels` | how far the values of spreads are |
//! | `weights` | shares of a spread's values, and what keeps a skew |
//! | `placing` | containers of one service over all that is known |
//! | `reasons` | why a node takes none |

mod columns;
mod keys;
mod known;
mod levels;
mod placing;
mod reasons;
mod weights;

use std::collections::BTreeMap;

use crate::fsm::placement::Attribute;
use crate::fsm::{Node, Service, State};
use crate::ids::{NodeId, ServiceId};
use crate::scheduler::{NodeSet, Scheduler, Strategy};

use columns::Column;
use keys::{Key, Keys};
use known::Known;

pub(super) use levels::{Level, Levels};
#[cfg(test)]
pub(super) use placing::would_place_on;
pub(super) use placing::{Placement, is_left, may_fit, place, preempt};
pub(super) use reasons::Reasons;

/// Sets that are kept; of more, those that were not asked for longest are forgotten.
const SETS_MAX: usize = 128;
/// Containers that are placed one by one, in a row.
const ONE_BY_ONE_MAX: usize = 64;
/// And if they ask for devices, which takes longer.
const WITH_DEVICES_MAX: usize = 8;

/// What is known of the nodes. Invariant: each set and each column is as if it were made of the nodes
/// as they were put last.
#[derive(Debug, Default)]
pub(super) struct Asking {
    known: BTreeMap<Key, Known>,
    columns: BTreeMap<Attribute, Column>,
    /// Nodes with any taint.
    tainted: NodeSet,
    /// Counts the passes that asked, to know what was not asked for long.
    asked: u64,
}

impl Asking {
    /// Takes over a node that the scheduler has. True if that is news.
    pub fn node_put(&mut self, scheduler: &mut Scheduler, state: &State, node: &Node) -> bool {
        let Some(number) = scheduler.number(node.id) else {
            return false;
        };
        let mut news = self.tainted.set(number, node.all_taints().next().is_some());
        for known in self.known.values_mut() {
            news |= known.put(scheduler, state, node, number);
        }
        for (attribute, column) in &mut self.columns {
            news |= column.put(scheduler, node.id, number, attribute.value(node).as_deref());
        }
        news
    }

    /// To be called before the scheduler gives the number away.
    pub fn node_removed(&mut self, scheduler: &Scheduler, id: NodeId) {
        let Some(number) = scheduler.number(id) else {
            return;
        };
        self.tainted.set(number, false);
        for known in self.known.values_mut() {
            known.remove(number);
        }
        for column in self.columns.values_mut() {
            column.remove(number);
        }
    }

    /// A container that may claim ports or devices has come to the node, or ended there.
    pub fn claims_changed(&mut self, scheduler: &mut Scheduler, state: &State, id: NodeId) {
        let Some((node, number)) = state.node(id).zip(scheduler.number(id)) else {
            return;
        };
        for known in self.known.values_mut().filter(|known| known.is_of_claims()) {
            known.put(scheduler, state, node, number);
        }
    }

    /// The service is another than before, or gone: what only it was divided by is forgotten.
    pub fn service_changed(
        &mut self,
        scheduler: &mut Scheduler,
        id: ServiceId,
        service: Option<&Service>,
    ) {
        scheduler.service_put(id, service);
        self.columns.retain(|attribute, column| {
            let uses = service.is_some_and(|service| attributes(service).any(|a| a == attribute));
            if !uses && column.users.remove(&id) && column.users.is_empty() {
                column.divide(scheduler, false);
                return false;
            }
            true
        });
    }

    /// What [`Asking::learn`] has to find out first, in walks over all nodes.
    pub fn walks(&self, service: &Service) -> usize {
        if self.is_plain(service) {
            return 0;
        }
        let keys = self.keys(service);
        let unknown = keys.iter().filter(|key| !self.known.contains_key(*key));
        let columns = attributes(service).filter(|a| !self.columns.contains_key(*a));
        unknown.count() + columns.count()
    }

    /// Whether it asks for nothing but room.
    fn is_plain(&self, service: &Service) -> bool {
        self.tainted.is_empty()
            && !keys::asks_of_nodes(service)
            && service.rules.affinities.is_empty()
            && service.rules.anti_affinities.is_empty()
            && attributes(service).next().is_none()
    }

    /// Containers of the service that one call of [`place`] had better not exceed.
    pub fn at_a_time(&self, service: &Service) -> usize {
        let rules = &service.rules;
        let devices = !service.container_spec().devices.is_empty();
        match rules.spreads.len() < 2 && rules.distinct.iter().all(is_node) {
            _ if devices => WITH_DEVICES_MAX,
            true => usize::MAX,
            false => ONE_BY_ONE_MAX,
        }
    }

    fn keys(&self, service: &Service) -> Keys {
        Keys::of(service, !self.tainted.is_empty())
    }

    /// Where containers of the service may go whatever runs there now; `None`: everywhere.
    fn ever_open(&self, service: &Service) -> Option<&Known> {
        let Keys { open, ever, .. } = self.keys(service);
        self.known.get(&ever.or(open)?)
    }

    /// Makes what the service asks for known.
    pub fn learn(&mut self, scheduler: &mut Scheduler, state: &State, service: &Service) {
        if self.is_plain(service) {
            return;
        }
        self.asked += 1;
        let keys = self.keys(service);
        for key in keys.iter() {
            if !self.known.contains_key(key) {
                let mut known = Known::new(keys.question(key, service));
                known.learn(scheduler, state);
                self.known.insert(key.clone(), known);
            }
            if let Some(known) = self.known.get_mut(key) {
                known.asked = self.asked;
            }
        }
        for attribute in attributes(service) {
            self.learn_column(scheduler, state, attribute)
                .users
                .insert(service.id);
        }
        if let [spread] = &service.rules.spreads[..]
            && let Some(column) = self.columns.get_mut(&spread.attribute)
        {
            column.divide(scheduler, column.is_divisible());
        }
        self.forget_old(scheduler);
        let pools = self.known.values().filter(|known| known.pool.is_some());
        let pools = pools.count();
        if let Some(known) = keys.open.and_then(|key| self.known.get_mut(&key)) {
            known.pool(scheduler, pools);
        }
    }

    fn learn_column(
        &mut self,
        scheduler: &mut Scheduler,
        state: &State,
        attribute: &Attribute,
    ) -> &mut Column {
        self.columns.entry(attribute.clone()).or_insert_with(|| {
            let mut column = Column::default();
            for node in state.nodes() {
                if let Some(number) = scheduler.number(node.id) {
                    column.put(scheduler, node.id, number, attribute.value(node).as_deref());
                }
            }
            column
        })
    }

    fn forget_old(&mut self, scheduler: &mut Scheduler) {
        while self.known.len() > SETS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.asked);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            if let Some(known) = self.known.remove(&key) {
                known.drain(scheduler);
            }
        }
    }
}

/// Attributes whose values it is spread over or kept apart by. A node's own id and name are left
/// out where strategies and the most per node say the same.
fn attributes(service: &Service) -> impl Iterator<Item = &Attribute> {
    let rules = &service.rules;
    let spreads = rules.spreads.iter().map(|spread| &spread.attribute);
    let distinct = rules.distinct.iter().filter(|a| !is_node(a));
    let others = rules.anti_affinities.iter().map(|asked| &asked.attribute);
    spreads
        .chain(distinct)
        .chain(others.filter(|a| **a != Attribute::Id))
}

/// Whether every node has a value of its own of it.
fn is_node(attribute: &Attribute) -> bool {
    *attribute == Attribute::Id
}

/// Containers of the service on one node, as far as its rules say so.
pub(in crate::orchestrator) fn most_per_node(service: &Service) -> Option<u32> {
    let distinct = service.rules.distinct.iter().any(is_node);
    let most = service.per_node_max();
    let most = if distinct { most.min(1) } else { most };
    (most < u32::MAX).then_some(most)
}

/// Whether values of attributes are out for one container because of where the others are.
fn sets_apart(service: &Service) -> bool {
    let mut spreads = service.rules.spreads.iter();
    !service.rules.distinct.is_empty() || spreads.any(|spread| spread.max_skew.is_some())
}

/// Whether where one of its containers is makes a difference to where the others may be.
pub(super) fn bounds_itself(service: &Service) -> bool {
    sets_apart(service) || most_per_node(service).is_some()
}

fn strategy(service: &Service) -> Strategy {
    use crate::fsm::placement::Strategy as Asked;
    let devices = !service.container_spec().devices.is_empty();
    match service.rules.strategy {
        // What is left of devices elsewhere is worth more than a node less in common.
        Asked::Spread | Asked::Unspecified if devices => Strategy::Pack,
        Asked::Pack => Strategy::Pack,
        Asked::Consolidate => Strategy::Consolidate,
        Asked::Spread | Asked::Unspecified => Strategy::Spread,
    }
}
