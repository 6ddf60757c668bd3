//! Answers to `Plan`: what is asked for is judged as it would be, then tried on a copy of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use super::access::Method;
use super::requests::{self, Prepared};
use crate::error::Error;
use crate::fsm::{State, tally, validate};
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::{DryRun, KnownFailing};
use crate::pb::{self, command::Body, plan_item::Item};

/// Changes of one plan.
const ITEMS_MAX: usize = 256;
/// Containers that would be preempted, of those that are told one by one.
const PREEMPTED_MAX: usize = 1_000;
/// Between nodes that are equally good a plan decides alike each time.
const SEED: u64 = 0;

/// What is planned, and what is to be told of it.
struct Planning<'a> {
    state: &'a State,
    run: DryRun,
    /// In the order in which they were asked for.
    services: Vec<ServiceId>,
    draining: BTreeSet<NodeId>,
    /// Services with containers on those nodes.
    moving: BTreeSet<ServiceId>,
}

/// `failing`: where services keep failing, as the leader knows.
pub(super) fn answer(
    state: &State,
    failing: &KnownFailing,
    request: pb::PlanRequest,
) -> Result<pb::PlanResponse, Error> {
    if request.items.len() > ITEMS_MAX {
        let why = format!("it has more than {ITEMS_MAX} items; divide it");
        return Err(Error::Invalid { what: "plan", why });
    }
    let mut planning = Planning {
        state,
        run: DryRun::new(state, SEED),
        services: Vec::new(),
        draining: BTreeSet::new(),
        moving: BTreeSet::new(),
    };
    planning.run.avoid(failing);
    for item in request.items {
        planning.take(item.item)?;
    }
    let finished = planning.run.run();
    let mut services = planning.services.clone();
    let named: BTreeSet<_> = services.iter().copied().collect();
    let mut others = planning.run.others(&named);
    others.extend(planning.moving.difference(&named));
    services.extend(others);
    let mut preempted = planning.preempted();
    let preempted_total = preempted.len() as u32;
    preempted.truncate(PREEMPTED_MAX);
    Ok(pb::PlanResponse {
        services: services
            .into_iter()
            .map(|id| planning.planned(id, named.contains(&id)))
            .collect(),
        state_index: state.index().0,
        unfinished: !finished,
        preempted,
        preempted_total,
    })
}

impl Planning<'_> {
    fn take(&mut self, item: Option<Item>) -> Result<(), Error> {
        match item {
            Some(Item::Create(create)) => {
                let request = pb::CreateServiceRequest {
                    request: None,
                    spec: create.spec,
                };
                self.change(Method::CreateService, &request.encode_to_vec())
            }
            Some(Item::Update(update)) => {
                let request = pb::UpdateServiceRequest {
                    request: None,
                    service_id: update.service_id,
                    expected_version: update.expected_version,
                    spec: update.spec,
                };
                self.change(Method::UpdateService, &request.encode_to_vec())
            }
            Some(Item::Service(spec)) => self.declare(spec),
            Some(Item::DrainNode(reference)) => self.drain(&reference),
            None => Err(Error::Invalid {
                what: "plan",
                why: "one of its items says nothing".into(),
            }),
        }
    }

    /// Creates the service, or makes it what is said.
    fn declare(&mut self, spec: pb::ServiceSpec) -> Result<(), Error> {
        let state = self.run.state();
        let mut spec = validate::check_service_spec(&spec)?;
        let Some(known) = state.service_by_name(&spec.name) else {
            let create = Item::Create(pb::PlanCreate { spec: Some(spec) });
            return self.take(Some(create));
        };
        let before = known.container_spec();
        let container = spec.container.get_or_insert_default();
        if container.image_digest.is_empty() && container.image == before.image {
            container.image_digest = before.image_digest.clone();
        }
        let update = Item::Update(pb::PlanUpdate {
            service_id: known.id.to_vec(),
            expected_version: known.version,
            spec: Some(spec),
        });
        self.take(Some(update))
    }

    fn change(&mut self, method: Method, request: &[u8]) -> Result<(), Error> {
        let prepared = requests::prepare(self.run.state(), method, request)?;
        let Prepared::Propose(_, body) = prepared else {
            unreachable!("it has no request id that could be known");
        };
        let name = match &*body {
            Body::CreateService(create) => create.spec.as_ref().map(|spec| spec.name.clone()),
            Body::UpdateService(update) => update.spec.as_ref().map(|spec| spec.name.clone()),
            _ => None,
        };
        self.run.change(*body)?;
        let name = name.unwrap_or_default();
        let service = self.run.state().service_by_name(&name);
        if let Some(id) = service.map(|service| service.id)
            && !self.services.contains(&id)
        {
            self.services.push(id);
            self.run.take_up(id);
        }
        Ok(())
    }

    fn drain(&mut self, reference: &str) -> Result<(), Error> {
        let id = self.run.state().resolve_node(reference)?;
        self.draining.insert(id);
        let containers = self.run.state().containers_of_node(id);
        let running = containers.filter(|it| !it.is_terminal());
        let services: BTreeSet<_> = running.map(|container| container.service).collect();
        for service in services {
            self.run.take_up(service);
            self.moving.insert(service);
        }
        self.run
            .change(Body::SetNodeAvailability(pb::SetNodeAvailability {
                node_id: id.to_vec(),
                availability: pb::Availability::Drain.into(),
                ..Default::default()
            }))?;
        Ok(())
    }

    fn planned(&self, id: ServiceId, named: bool) -> pb::PlannedService {
        let (before, after) = (self.state.service(id), self.run.state().service(id));
        let outcome = self.run.outcome(id);
        let action = match (before, after) {
            (None, _) => "create",
            (Some(before), Some(after)) if before.spec != after.spec => "update",
            _ if named => "none",
            _ if self.moving.contains(&id) => "moved",
            _ if outcome.preempted.is_empty() => "moved",
            _ => "preempted",
        };
        let either = after.or(before);
        let spec = |service: &crate::fsm::Service| service.spec.as_ref().clone();
        let reason = outcome.pending.first().map(|slot| slot.reason.to_string());
        let blocked = outcome.blocked_reason.as_ref().map(Arc::to_string);
        pb::PlannedService {
            name: either.map_or_else(String::new, |service| service.name.to_string()),
            action: action.into(),
            before: before.map(spec),
            after: after.map(spec),
            desired: after.map_or(0, |service| tally(self.run.state(), service).desired),
            unchanged: outcome.unchanged,
            placed: self.nodes(&outcome.placed),
            stopped: self.nodes(&outcome.stopped),
            preempted: self.nodes(&outcome.preempted),
            pending: outcome.pending.len() as u32,
            pending_reason: reason.unwrap_or_default(),
            blocked: blocked.as_ref().map_or(0, |_| outcome.blocked),
            blocked_reason: blocked.unwrap_or_default(),
        }
    }

    /// By name and slot.
    fn preempted(&self) -> Vec<pb::PlannedPreemption> {
        let each = self.run.preempted().filter_map(|it| {
            let after = self.run.state();
            let of = after.service(it.container.service)?;
            let by = after.service(it.by)?;
            Some(pb::PlannedPreemption {
                container_id: it.container.id.to_vec(),
                service_name: of.name.to_string(),
                slot: it.container.slot,
                node_id: it.container.node.to_vec(),
                node_name: self.name(it.container.node),
                priority: of.rules.priority,
                by_service_name: by.name.to_string(),
                by_slot: it.slot,
                by_priority: by.rules.priority,
            })
        });
        let mut rows: Vec<_> = each.collect();
        rows.sort_by(|a, b| {
            let key = |it: &pb::PlannedPreemption| (it.slot, it.node_name.clone());
            (&a.service_name, key(a)).cmp(&(&b.service_name, key(b)))
        });
        rows
    }

    fn name(&self, id: NodeId) -> String {
        let node = self.run.state().node(id).or_else(|| self.state.node(id));
        node.map(|node| node.name().to_owned()).unwrap_or_default()
    }

    /// By name.
    fn nodes(&self, counts: &BTreeMap<NodeId, u32>) -> Vec<pb::PlannedNode> {
        let rows = counts.iter().map(|(id, count)| pb::PlannedNode {
            node_id: id.to_vec(),
            name: self.name(*id),
            count: *count,
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| (&a.name, &a.node_id).cmp(&(&b.name, &b.node_id)));
        rows
    }
}

#[cfg(test)]
mod tests;
