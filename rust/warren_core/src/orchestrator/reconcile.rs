//! From a plan to proposals, and from their outcomes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use crate::error::Result;
use crate::fsm::{Service, State};
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::in_flight::{Bound, Subject};
use crate::orchestrator::plan::{Plan, Slot, Vacancy, plan};
use crate::orchestrator::{Orchestrator, PendingSlot};
use crate::pb;
use crate::scheduler::Ask;

/// When to look again after a refusal at apply: the state was not what was thought, and is known
/// better by then. Keeps a contradiction from turning into a busy loop.
const RETRY_MS: u64 = 100;

/// A node for a slot, or why there is none.
type Choice = Result<NodeId, Arc<str>>;

impl Orchestrator {
    /// Does what a service lacks; how many items that took. Stops after `budget` items, and then
    /// leaves the service marked.
    pub(super) fn reconcile(
        &mut self,
        state: &State,
        id: ServiceId,
        now_ms: u64,
        budget: usize,
    ) -> usize {
        let Some(service) = state.service(id) else {
            return 0;
        };
        let nodes: BTreeSet<_> = if service.is_global() {
            self.scheduler.accepting().collect()
        } else {
            BTreeSet::new()
        };
        let mut plan = plan(state, service, &nodes);
        let busy = self.leave_out_busy(service, &mut plan);
        let resting = self.back_off(service, &mut plan, now_ms);
        let mut left = budget;
        left -= self.remove_surplus(service, &plan, left);
        let placed = self.fill(service, &plan, now_ms, left);
        left -= placed;
        let away = plan.moving.len() + busy + resting + placed;
        left -= self.replace_outdated(state, service, &plan, away, left);
        if plan.forget && !self.in_flight.has_service(id) && left > 0 {
            self.outbox.forget(id);
            left -= 1;
        }
        if left == 0 {
            self.marks.mark(id);
        }
        budget - left
    }

    /// Takes out what proposals in flight are about; how many slots those are going to fill.
    fn leave_out_busy(&self, service: &Service, plan: &mut Plan) -> usize {
        let busy: BTreeMap<_, _> = self.in_flight.slots_of(service.id).collect();
        plan.vacant
            .retain(|vacancy| !busy.contains_key(&vacancy.slot));
        plan.ended.retain(|(slot, _)| !busy.contains_key(slot));
        plan.remove.retain(|id| !self.in_flight.has_container(*id));
        let before = plan.outdated.len();
        plan.outdated
            .retain(|(id, _)| !self.in_flight.has_container(*id));
        for node in busy.values() {
            *plan.spread.entry(*node).or_insert(0) += 1;
        }
        busy.len() + before - plan.outdated.len()
    }

    /// Makes slots vacant whose back-off is over; how many still wait.
    fn back_off(&mut self, service: &Service, plan: &mut Plan, now_ms: u64) -> usize {
        let id = service.id;
        for slot in &plan.running {
            self.backoff.seen(id, *slot, true, now_ms);
        }
        for slot in &plan.moving {
            self.backoff.seen(id, *slot, false, now_ms);
        }
        let replicas = u64::from(service.spec.replicas);
        self.backoff
            .retain(id, |slot| slot.node.is_some() || slot.number <= replicas);
        let mut waiting = 0;
        for (slot, ended) in &plan.ended {
            let not_before_ms = self.backoff.not_before(id, *slot, *ended, now_ms);
            if not_before_ms <= now_ms {
                plan.vacant.push(Vacancy {
                    slot: *slot,
                    replaces: Some(*ended),
                });
            } else {
                self.marks.mark_at(id, not_before_ms);
                waiting += 1;
            }
        }
        plan.vacant.sort_unstable_by_key(|vacancy| vacancy.slot);
        waiting
    }

    fn remove_surplus(&mut self, service: &Service, plan: &Plan, budget: usize) -> usize {
        for container in plan.remove.iter().take(budget) {
            self.outbox.remove(*container, service.id);
        }
        plan.remove.len().min(budget)
    }

    /// Finds nodes for the vacant slots; how many were found. The others are pending.
    fn fill(&mut self, service: &Service, plan: &Plan, now_ms: u64, budget: usize) -> usize {
        let since = self.unplaced_since(service.id, plan, now_ms);
        if budget == 0 {
            return 0;
        }
        let choices = if service.is_global() {
            self.place_on_nodes(service, plan, budget)
        } else {
            self.place_replicas(service, plan, budget)
        };
        let (mut placed, mut pending) = (0, Vec::new());
        for ((vacancy, since_ms), choice) in plan.vacant.iter().zip(since).zip(choices) {
            match choice {
                Ok(node) => {
                    placed += 1;
                    self.propose_bind(service, vacancy, node, since_ms);
                }
                Err(why) => pending.push(waiting(vacancy.slot, why)),
            }
        }
        self.note_pending(service.id, pending);
        placed
    }

    fn propose_bind(&mut self, service: &Service, vacancy: &Vacancy, node: NodeId, since_ms: u64) {
        let item = pb::BindItem {
            service_id: service.id.to_vec(),
            service_version: service.version,
            slot: vacancy.slot.number,
            node_id: node.to_vec(),
            replaces: vacancy.replaces.map(|id| id.to_vec()).unwrap_or_default(),
        };
        let (slot, resources) = (vacancy.slot, service.resources());
        self.outbox.bind(
            item,
            Bound {
                service: service.id,
                slot,
                node,
                resources,
                since_ms,
            },
        );
    }

    /// A node, or why there is none, for each vacancy in order; ends early once `budget` nodes
    /// are found.
    fn place_replicas(&mut self, service: &Service, plan: &Plan, budget: usize) -> Vec<Choice> {
        let count = plan.vacant.len().min(budget);
        if count == 0 {
            return Vec::new();
        }
        let ask = ask(service, plan, count as u32);
        let placed = self.scheduler.place(&ask);
        let mut choices = dealt(placed.binds);
        if placed.refused > 0 {
            // Where one found no room, nor would those that the budget leaves out.
            let why: Arc<str> = self.scheduler.explain(&ask).to_string().into();
            choices.resize(plan.vacant.len(), Err(why));
        }
        choices
    }

    /// Like [`Orchestrator::place_replicas`], where each slot is a node.
    fn place_on_nodes(&mut self, service: &Service, plan: &Plan, budget: usize) -> Vec<Choice> {
        let ask = ask(service, plan, 1);
        let (mut placed, mut choices) = (0, Vec::new());
        for vacancy in &plan.vacant {
            if placed == budget {
                break;
            }
            let node = vacancy.slot.node.expect("the node is the slot");
            let choice = self.scheduler.place_on(node, &ask);
            placed += usize::from(choice.is_ok());
            choices.push(choice.map(|()| node).map_err(|reason| reason.why.into()));
        }
        choices
    }

    /// Since when each vacant slot has been so; remembered until it is bound.
    fn unplaced_since(&mut self, id: ServiceId, plan: &Plan, now_ms: u64) -> Vec<u64> {
        let known = self.unplaced.remove(&id).unwrap_or_default();
        let mut known = known.into_iter().peekable();
        let mut since = |slot: Slot| {
            while known.next_if(|(of, _)| *of < slot).is_some() {}
            known
                .next_if(|(of, _)| *of == slot)
                .map_or(now_ms, |(_, since_ms)| since_ms)
        };
        let slots = plan.vacant.iter().map(|vacancy| vacancy.slot);
        let all: Vec<_> = slots.map(|slot| (slot, since(slot))).collect();
        let times = all.iter().map(|(_, since_ms)| *since_ms).collect();
        if !all.is_empty() {
            self.unplaced.insert(id, all);
        }
        times
    }

    /// Counts what is newly pending as failed, once.
    fn note_pending(&mut self, id: ServiceId, pending: Vec<PendingSlot>) {
        let before: BTreeSet<_> = self
            .pending(id)
            .iter()
            .map(|slot| (slot.slot, slot.node))
            .collect();
        let is_new = |slot: &&PendingSlot| !before.contains(&(slot.slot, slot.node));
        self.stats.failed += pending.iter().filter(is_new).count() as u64;
        if pending.is_empty() {
            self.pending.remove(&id);
        } else {
            self.pending.insert(id, pending);
        }
    }

    /// Stops running containers of older specs, as few at a time as allowed, and only where the
    /// successor would find room; how many.
    fn replace_outdated(
        &mut self,
        state: &State,
        service: &Service,
        plan: &Plan,
        away: usize,
        budget: usize,
    ) -> usize {
        self.blocked.remove(&service.id);
        let allowed = plan.away_max.saturating_sub(away).min(budget);
        let ask = ask(service, plan, 1);
        let mut stopped = 0;
        for (container, node) in plan.outdated.iter().take(allowed) {
            let freed = state
                .container(*container)
                .map(|c| c.held())
                .unwrap_or_default();
            if !self.scheduler.would_fit(&ask, *node, freed) {
                let why = self.scheduler.explain(&ask);
                let reason = format!("keeps running the version before: {why}");
                self.blocked.insert(service.id, reason.into());
                break;
            }
            self.outbox.remove(*container, service.id);
            stopped += 1;
        }
        stopped
    }

    /// Takes the outcome of a proposal: frees what it held and marks what has to be looked at.
    pub(super) fn settle(
        &mut self,
        _state: &State,
        now_ms: u64,
        subject: Subject,
        outcome: Result<&[u8]>,
    ) {
        let applied = |count: usize| match &outcome {
            Ok(bytes) => pb::BatchResult::decode(*bytes)
                .map(|result| result.items.iter().map(|item| item.applied).collect())
                .unwrap_or_else(|_| vec![false; count]),
            Err(_) => vec![false; count],
        };
        match subject {
            Subject::Binds(binds) => {
                let applied = applied(binds.len());
                self.settle_binds(now_ms, &binds, &applied, outcome.is_ok());
            }
            Subject::Desired(items) => {
                for ((_, service), applied) in items.iter().zip(applied(items.len())) {
                    self.look_again(*service, now_ms, applied);
                }
            }
            Subject::Forget(service) => self.look_again(service, now_ms, outcome.is_ok()),
            Subject::Node(node) => self.liveness.recheck(node),
        }
    }

    fn settle_binds(&mut self, now_ms: u64, binds: &[Bound], applied: &[bool], judged: bool) {
        for (position, bound) in binds.iter().enumerate() {
            let applied = applied.get(position).copied().unwrap_or(false);
            self.scheduler.release(bound.node, bound.resources);
            if applied {
                self.stats.scheduled += 1;
                self.latencies_ms
                    .push(now_ms.saturating_sub(bound.since_ms));
            } else {
                self.stats.failed += u64::from(judged);
                let unplaced = self.unplaced.entry(bound.service).or_default();
                let place = unplaced.partition_point(|(slot, _)| *slot < bound.slot);
                unplaced.insert(place, (bound.slot, bound.since_ms));
            }
            self.look_again(bound.service, now_ms, applied);
        }
        if !applied.iter().all(|applied| *applied) {
            self.mark_waiting();
        }
    }

    /// At once if the item took effect, else when the state is known better.
    fn look_again(&mut self, service: ServiceId, now_ms: u64, applied: bool) {
        if applied {
            self.marks.mark(service);
        } else {
            self.marks.mark_at(service, now_ms + RETRY_MS);
        }
    }
}

/// Deals the nodes out in turns: neighbouring slots go to different nodes, so that a service stays
/// spread when it is scaled down.
fn dealt(mut binds: Vec<(NodeId, u32)>) -> Vec<Choice> {
    let mut choices = Vec::new();
    while !binds.is_empty() {
        for (node, count) in &mut binds {
            choices.push(Ok(*node));
            *count -= 1;
        }
        binds.retain(|(_, count)| *count > 0);
    }
    choices
}

fn ask<'a>(service: &'a Service, plan: &'a Plan, count: u32) -> Ask<'a> {
    let spec = service.container_spec();
    Ask {
        service: service.id,
        resources: service.resources(),
        count,
        image: &spec.image,
        image_digest: &spec.image_digest,
        spread: &plan.spread,
    }
}

fn waiting(slot: Slot, reason: Arc<str>) -> PendingSlot {
    PendingSlot {
        slot: slot.number,
        node: slot.node,
        reason,
    }
}
