//! What is said of slots and nodes that keep failing, and of room that is kept: decisions for people,
//! and what explanations need beside the state.
//!
//! In the leader's memory, like what it is about; what is kept for whom is in the state, and only
//! compared here with what it was, to tell when that has come to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fsm::{Container, DesiredState, Node, Service, State, is_wanted};
use crate::ids::{NodeId, ServiceId, SpecDigest};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::decisions::{Decisions, Kind};
use crate::orchestrator::failures::{CrashLoop, FailingNode, KnownFailing};
use crate::orchestrator::in_flight::{Moving, Preempting};
use crate::orchestrator::plan::Slot;

/// A slot that waits to be tried again, or crashes again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingSlot {
    pub slot: u64,
    /// For global services: the node that is the slot.
    pub node: Option<NodeId>,
    /// In a row.
    pub failures: u32,
    pub crash_looping: bool,
    /// Of the last exit, where one is known.
    pub exit_code: Option<i32>,
    /// Until its container is replaced; `None` where that does not wait, as with restarts by its worker.
    pub retry_in_ms: Option<u64>,
}

/// What of a service keeps failing, as its leader knows; elsewhere empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// By slot.
    pub slots: Vec<FailingSlot>,
    /// By node.
    pub nodes: Vec<FailingNode>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// By the monotonic clock, as it was last told.
    pub now_ms: u64,
    /// Nodes that the last pass of a service avoided; services without any are absent.
    avoiding: BTreeMap<ServiceId, Vec<NodeId>>,
    /// What is kept on each node, as it was last seen; nodes without any are absent.
    holds: BTreeMap<NodeId, Vec<(ServiceId, u64, SpecDigest)>>,
}

impl Keeper {
    /// A node as it is now. Room that is kept there no more, and where nothing starts, was given up.
    pub fn node_put(&mut self, state: &State, node: &Node, decisions: &mut Decisions) {
        if node.holds.is_empty() && self.holds.is_empty() {
            return;
        }
        let kept = node.holds.iter();
        let kept: Vec<_> = kept
            .map(|it| (it.service, it.slot, it.spec_digest))
            .collect();
        let ended = self.holds.remove(&node.id).unwrap_or_default();
        for hold in ended.into_iter().filter(|it| !kept.contains(it)) {
            if let Some(why) = why_given_up(state, node, hold) {
                let of = (hold.0, hold.1);
                decisions.note(Kind::PreemptionGivenUp, of, Some(node.id), why.into());
            }
        }
        if !kept.is_empty() {
            self.holds.insert(node.id, kept);
        }
    }

    pub fn node_gone(&mut self, id: NodeId, decisions: &mut Decisions) {
        for (service, slot, _) in self.holds.remove(&id).unwrap_or_default() {
            let why = "the node is no more".into();
            decisions.note(Kind::PreemptionGivenUp, (service, slot), Some(id), why);
        }
    }

    pub fn forget(&mut self, service: ServiceId) {
        self.avoiding.remove(&service);
    }
}

/// Why room that was kept on the node is kept no more; `None` if its slot was filled there.
fn why_given_up(
    state: &State,
    node: &Node,
    (id, slot, digest): (ServiceId, u64, SpecDigest),
) -> Option<String> {
    let runs = |it: &&Container| it.desired == DesiredState::Run && !it.is_terminal();
    let mut here = state.containers_of_node(node.id).filter(runs);
    if here.any(|it| (it.service, it.slot) == (id, slot)) {
        return None;
    }
    let Some(service) = state.service(id).filter(|service| !service.removing) else {
        return Some("its service was removed".into());
    };
    if service.spec_digest != digest || !service.rules.preempt {
        return Some("its service was changed".into());
    }
    if slot > u64::from(service.spec.replicas) {
        return Some("its slot is no more".into());
    }
    if !service.is_global() {
        let from = (slot, crate::ids::ContainerId([0; 16]));
        let of_slot = state.containers_of_service_from(id, from);
        let mut of_slot = of_slot.take_while(|it| it.slot == slot).filter(runs);
        if let Some(elsewhere) = of_slot.next() {
            let name = state.node(elsewhere.node).map_or("gone", |it| it.name());
            return Some(format!("it found room on {name}"));
        }
    }
    Some(match node.refusal() {
        Some(why) => format!("the node takes no containers: {why}"),
        None => "what was to make room has stopped, and it does not fit".into(),
    })
}

impl Orchestrator {
    /// What keeps failing where, of all services, as of the last step or pulse.
    pub fn known_failing(&self) -> KnownFailing {
        self.failures.known_failing(self.keeper.now_ms)
    }

    /// What of a service keeps failing, as of the last step or pulse.
    pub fn keeping(&self, service: &Service) -> Keeping {
        let (id, now_ms) = (service.id, self.keeper.now_ms);
        let mut slots = BTreeMap::new();
        for it in self.failures.loops(id) {
            let known = FailingSlot {
                slot: it.slot,
                node: it.node,
                failures: it.failures,
                crash_looping: true,
                exit_code: it.exit_code,
                retry_in_ms: None,
            };
            slots.insert((it.slot, it.node), known);
        }
        for (slot, failures, in_ms) in self.backoff.waiting(id, now_ms) {
            let known = slots.entry((slot.number, slot.node));
            let known = known.or_insert(FailingSlot {
                slot: slot.number,
                node: slot.node,
                failures,
                crash_looping: false,
                exit_code: None,
                retry_in_ms: None,
            });
            known.retry_in_ms = Some(in_ms);
        }
        let avoiding = self.keeper.avoiding.get(&id).map_or(&[][..], Vec::as_slice);
        let mut nodes = self.failures.on_nodes(service, now_ms);
        for it in &mut nodes {
            it.avoided = avoiding.contains(&it.node);
        }
        Keeping {
            slots: slots.into_values().collect(),
            nodes,
        }
    }

    /// Says which nodes have become the last choice for a service, and which are that no more; and
    /// looks again when the next one is to be forgiven.
    pub(super) fn note_avoided(&mut self, service: &Service, avoided: &[NodeId], now_ms: u64) {
        let id = service.id;
        if avoided.is_empty() && !self.keeper.avoiding.contains_key(&id) {
            return;
        }
        let failing = self.failures.on_nodes(service, now_ms);
        let known = |node: &NodeId| failing.iter().find(|it| it.node == *node);
        let before = self.keeper.avoiding.remove(&id).unwrap_or_default();
        for node in avoided.iter().filter(|node| !before.contains(node)) {
            let failures = known(node).map_or(0, |it| it.failures);
            let why = format!("the service failed there {failures} times within ten minutes");
            let of = (id, 0);
            self.decisions
                .note(Kind::Avoided, of, Some(*node), why.into());
        }
        for node in before.iter().filter(|node| !avoided.contains(node)) {
            let why = match known(node) {
                Some(_) => "the service runs nowhere else",
                None => {
                    "it has not failed there three times within the last ten minutes, as it is now"
                }
            };
            let of = (id, 0);
            self.decisions
                .note(Kind::Forgiven, of, Some(*node), why.into());
        }
        let left = failing.iter().filter(|it| avoided.contains(&it.node));
        if let Some(left_ms) = left.map(|it| it.left_ms).min() {
            self.marks.mark_at(id, now_ms + left_ms);
        }
        if !avoided.is_empty() {
            self.keeper.avoiding.insert(id, avoided.to_vec());
        }
    }

    /// Says that a slot has begun or ceased to crash-loop; `before`: as it was before a look at what
    /// is in it.
    pub(super) fn note_loop(
        &mut self,
        service: &Service,
        slot: Slot,
        container: &Container,
        before: Option<CrashLoop>,
    ) {
        let after = self.failures.loop_of(service.id, slot);
        let (kind, why): (_, Arc<str>) = match (before, after) {
            (None, Some(it)) => (
                Kind::CrashLooping,
                how_often(it.failures, it.exit_code).into(),
            ),
            (Some(_), None) if is_wanted(service, container) => {
                (Kind::CrashLoopOver, "it has run for a minute".into())
            }
            (Some(_), None) => (Kind::CrashLoopOver, "its service is another now".into()),
            _ => return,
        };
        let of = (service.id, slot.number);
        self.decisions.note(kind, of, Some(container.node), why);
    }

    /// Slots with higher numbers are no more.
    pub(super) fn note_loops_above(&mut self, service: ServiceId, number: u64) {
        if self.failures.loop_count() == 0 {
            return;
        }
        let loops = self.failures.loops(service).into_iter();
        for it in loops.filter(|it| it.slot > number) {
            let (of, why) = ((service, it.slot), "its slot is no more".into());
            self.decisions.note(Kind::CrashLoopOver, of, None, why);
        }
    }

    /// Nodes that a global service has no slot on any more: they are gone, or take it no more, and no
    /// container of it is left there.
    pub(super) fn end_lost_loops(&mut self, state: &State, service: &Service) {
        if self.failures.loop_count() == 0 {
            return;
        }
        for it in self.failures.loops(service.id) {
            let node = it.node.and_then(|id| state.node(id));
            let may_go = |node: &Node| node.accepts_work() && service.rules.refusal(node).is_none();
            let has_one = |node: &Node| {
                let mut containers = state.containers_of_node(node.id);
                containers.any(|of| of.service == service.id && !of.is_terminal())
            };
            if node.is_some_and(|node| may_go(node) || has_one(node)) {
                continue;
            }
            let (of, why) = ((service.id, it.slot), "its slot is no more".into());
            self.decisions.note(Kind::CrashLoopOver, of, it.node, why);
            self.failures.end(
                service.id,
                Slot {
                    number: it.slot,
                    node: it.node,
                },
            );
        }
    }

    pub(super) fn note_preempted(&mut self, preempting: &Preempting) {
        let node = Some(preempting.node);
        for (service, slot, why) in &preempting.told {
            let of = (*service, *slot);
            self.decisions.note(Kind::Preempted, of, node, why.clone());
        }
        if let Some(waits) = &preempting.waits {
            let of = (preempting.service, preempting.slot.number);
            let node = preempting.slot.node;
            self.decisions.note(Kind::Pending, of, node, waits.clone());
        }
    }

    pub(super) fn note_moved(&mut self, moving: &Moving) {
        let of = (moving.service, moving.to.number);
        let why = format!("it was in slot {}, which is no more", moving.from);
        let node = Some(moving.node);
        self.decisions.note(Kind::SlotMoved, of, node, why.into());
    }
}

/// Reads like "4 failures in a row, exit code 1".
pub(super) fn how_often(failures: u32, exit_code: Option<i32>) -> String {
    let exit = exit_code.map(|code| format!(", exit code {code}"));
    let plural = if failures == 1 { "" } else { "s" };
    format!(
        "{failures} failure{plural} in a row{}",
        exit.unwrap_or_default()
    )
}
