//! From what a pass finds to proposals.

use crate::fsm::{Container, DesiredState, Node, Service, State};
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::budget::Meter;
use crate::orchestrator::decisions::Kind;
use crate::orchestrator::drain::runs;
use crate::orchestrator::in_flight::Removing;
use crate::orchestrator::pass::{Pass, Vacancy};
use crate::orchestrator::plan::{Found, Slot, Verdict, judge_again};
use crate::orchestrator::shrink::Shrinking;
use crate::orchestrator::{Orchestrator, PendingSlot};

/// What waits for a node to have been silent for long is looked at no more often.
const FENCE_POLL_MS: u64 = 1_000;

/// How far a pass has come in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Done,
    /// The budget is used up: others have their turn first.
    Later,
    /// A scan needs more looks than are left: it is the first of the next step.
    Next,
}

impl Orchestrator {
    /// Begins or goes on with the pass of a service, within what is left of the budget. False if
    /// too little is left of it for what comes next.
    pub(super) fn reconcile(
        &mut self,
        state: &State,
        id: ServiceId,
        now_ms: u64,
        meter: &mut Meter,
    ) -> bool {
        meter.look(1);
        let Some(service) = state.service(id) else {
            self.passes.remove(&id);
            return true;
        };
        let begun = self.passes.remove(&id);
        let mut pass = match begun {
            Some(pass) if pass.version == service.version => pass,
            other => {
                let since = match other {
                    Some(void) => void.waited(),
                    None => self.unplaced.remove(&id).unwrap_or_default(),
                };
                let room = self.marks.room_count();
                Pass::new(service, since, room)
            }
        };
        let (items_before, room_before) = (meter.items, self.marks.room_count());
        let turn = self.go_on(state, service, &mut pass, now_ms, meter);
        // There is room for what waited only since: nobody had to mark it.
        if pass.swept && pass.room == room_before {
            self.stats.missed += (items_before - meter.items) as u64;
        }
        match turn {
            Turn::Done => self.finish(service, pass),
            Turn::Later => {
                self.passes.insert(id, pass);
                self.marks.mark(id);
            }
            Turn::Next => {
                self.passes.insert(id, pass);
                self.marks.mark_first(id);
            }
        }
        turn != Turn::Next
    }

    fn go_on(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        now_ms: u64,
        meter: &mut Meter,
    ) -> Turn {
        if let Some(mut walk) = pass.walk.take() {
            let mut found = std::mem::take(&mut self.found);
            let done = walk.go_on(
                state,
                service,
                (&self.scheduler, &self.liveness, &self.failures),
                meter,
                &mut found,
            );
            for found in found.drain(..) {
                match found {
                    Found::Surplus(container) => pass.surplus.push(container),
                    Found::Needless(slot) => self.needs_no_room(state, service.id, pass, slot),
                    Found::Slot(slot, verdict, watched) => {
                        self.watch(state, service, slot, watched, now_ms);
                        self.take_in(state, service, pass, slot, verdict, now_ms);
                    }
                }
            }
            self.found = found;
            if !done {
                pass.walk = Some(walk);
                return Turn::Later;
            }
            pass.walked(walk.slots);
            if service.is_global() {
                self.end_lost_loops(state, service);
            }
            pass.avoided = self.failures.avoided(service, &pass.spread, now_ms);
            self.note_avoided(service, &pass.avoided, now_ms);
            pass.shrinking = walk.shrink.map(Shrinking::of);
        }
        let turn = self.shrink(state, service, pass, meter);
        if turn != Turn::Done {
            return turn;
        }
        let turn = self.remove_found(state, service, pass, meter);
        if turn != Turn::Done {
            return turn;
        }
        let turn = if service.is_global() {
            self.fill_nodes(state, service, pass, meter)
        } else {
            self.fill_replicas(state, service, pass, meter)
        };
        if turn != Turn::Done {
            return turn;
        }
        let turn = self.replace_outdated(state, service, pass, meter);
        if turn != Turn::Done {
            return turn;
        }
        let turn = self.move_away(state, service, pass, meter);
        if turn != Turn::Done {
            return turn;
        }
        self.forget_removed(state, service, meter)
    }

    fn take_in(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        slot: Slot,
        verdict: Verdict,
        now_ms: u64,
    ) {
        let id = service.id;
        let bound_to = self.in_flight.node_of(id, slot);
        if let Some(node) = bound_to {
            pass.is_away(slot);
            pass.comes(node);
        }
        let fills = !matches!(
            verdict,
            Verdict::Vacant(_)
                | Verdict::Ended(_)
                | Verdict::Moving
                | Verdict::Waits
                | Verdict::Frozen
                | Verdict::Fenced(..)
        );
        if fills {
            self.needs_no_room(state, id, pass, slot);
        }
        let successor = self.successor_of(id, slot, verdict);
        match verdict {
            Verdict::Rests => {}
            // Nobody is spared anything by others waiting for it, too.
            Verdict::Waits => self.backoff.seen(id, slot, false, now_ms),
            Verdict::Vacant(_) | Verdict::Ended(_) if bound_to.is_some() => {}
            Verdict::Vacant(replaces) => self.vacate(state, id, pass, (slot, replaces), now_ms),
            Verdict::Ended(container) => {
                let not_before_ms = self.backoff.not_before(id, slot, container, now_ms);
                if not_before_ms <= now_ms {
                    self.vacate(state, id, pass, (slot, Some(container)), now_ms);
                } else {
                    self.marks.mark_at(id, not_before_ms);
                    pass.is_away(slot);
                }
            }
            Verdict::Running(node) => {
                pass.comes(node);
                self.backoff.seen(id, slot, true, now_ms);
            }
            Verdict::Outdated(container, node) => {
                pass.comes(successor.unwrap_or(node));
                if self.in_flight.has_container(container) {
                    pass.is_away(slot);
                } else {
                    pass.outdated.push_back((container, node));
                }
            }
            Verdict::Draining(container, node) => {
                pass.comes(successor.unwrap_or(node));
                let busy = self.in_flight.has_container(container);
                let runs = runs(state, container);
                if busy || !runs {
                    pass.is_away(slot);
                }
                match runs {
                    _ if busy => {}
                    true => pass.draining.push_back((container, node)),
                    // Nothing is lost by moving it.
                    false => pass.draining.push_front((container, node)),
                }
            }
            Verdict::Frozen | Verdict::Fenced(..) => {
                pass.is_away(slot);
                self.wait_for_node(state, service, pass, slot, verdict, now_ms);
            }
            Verdict::Moving | Verdict::Starting(_) | Verdict::Unready(..) => {
                pass.is_away(slot);
                self.backoff.seen(id, slot, false, now_ms);
                match verdict {
                    Verdict::Starting(node) => pass.comes(node),
                    Verdict::Unready(container, node) => {
                        pass.comes(successor.unwrap_or(node));
                        pass.unready.push_back(container);
                    }
                    _ => successor.into_iter().for_each(|node| pass.comes(node)),
                }
            }
        }
    }

    /// What is kept for the slot, if anything is, is of no use; unless it is on its way there.
    fn needs_no_room(&self, state: &State, id: ServiceId, pass: &mut Pass, slot: Slot) {
        let busy = self.in_flight.node_of(id, slot).is_some();
        if !busy && state.hold_of(id, slot.number, slot.node).is_some() {
            pass.needless.push(slot);
        }
    }

    /// Notes what a container that has failed does now, and looks again when it has run for long.
    fn watch(
        &mut self,
        state: &State,
        service: &Service,
        slot: Slot,
        watched: Option<ContainerId>,
        now_ms: u64,
    ) {
        if let Some(container) = watched.and_then(|id| state.container(id)) {
            let before = self.failures.loop_of(service.id, slot);
            let failures = &mut self.failures;
            let again = failures.seen(state, service, slot, container, now_ms);
            self.note_loop(service, slot, container, before);
            again
                .into_iter()
                .for_each(|at_ms| self.marks.mark_at(service.id, at_ms));
        }
    }

    /// Says why the slot is not filled anew, and looks again when it may be.
    fn wait_for_node(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        slot: Slot,
        verdict: Verdict,
        now_ms: u64,
    ) {
        let reason = match verdict {
            Verdict::Fenced(node, wait_ms) => {
                let known = self.pending(service.id).iter();
                let waits = |pending: &PendingSlot| pending.slot == slot.number;
                self.stats.fenced += u64::from(!known.clone().any(waits));
                // Not a millisecond later: the clock that counts advances with the pulses.
                self.marks
                    .mark_at(service.id, now_ms + wait_ms.max(FENCE_POLL_MS));
                let name = state.node(node).map_or("gone", |node| node.name());
                format!(
                    "node {name} is down, and a singleton may still be running there: replaced \
                     once that node has been silent for long enough to have stopped it"
                )
            }
            _ => state.freeze().unwrap_or_default().why(),
        };
        pass.pending.push(PendingSlot {
            slot: slot.number,
            node: slot.node,
            reason: reason.into(),
        });
    }

    fn vacate(
        &mut self,
        state: &State,
        id: ServiceId,
        pass: &mut Pass,
        (slot, replaces): (Slot, Option<ContainerId>),
        now_ms: u64,
    ) {
        let waiting = self.unplaced.get(&id).and_then(|slots| slots.get(&slot));
        let before = waiting.or_else(|| pass.since.get(&slot));
        let since_ms = before.copied().unwrap_or(now_ms);
        let held = state.hold_of(id, slot.number, slot.node).is_some();
        let vacant = match held {
            true => &mut pass.held,
            false if self.successors.has(id, slot) => &mut pass.awaited,
            false => &mut pass.vacant,
        };
        vacant.push_back(Vacancy {
            slot,
            replaces,
            since_ms,
        });
    }

    /// Removes what is surplus, the highest slots first, then what never ran as it should.
    fn remove_found(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        loop {
            if meter.items == 0 {
                return Turn::Later;
            }
            let surplus = !pass.surplus.is_empty();
            if (surplus || !pass.unready.is_empty()) && !meter.try_look() {
                return Turn::Later;
            }
            let Some(container) = pass.surplus.pop().or_else(|| pass.unready.pop_front()) else {
                return Turn::Done;
            };
            // What was not ready and is by now is found anew, as what may have to wait.
            let unready = || {
                let verdict = judge_again(state, service, &self.liveness, container);
                matches!(verdict, Some(Verdict::Unready(..)))
            };
            let known = state.container(container);
            let known = known.filter(|it| it.desired != DesiredState::Remove);
            let Some(container) = known.filter(|_| surplus || unready()) else {
                continue;
            };
            if self.propose_removal(service, (container.id, container.node), meter) {
                self.note_removal(state, service, container, surplus);
                if !surplus && container.spec_digest != service.spec_digest {
                    let (id, slot) = (service.id, Slot::of(container));
                    self.expect_successor(id, slot, None, Some(service.spec_digest));
                }
            }
        }
    }

    /// Says why a container is told to go that nobody waits for.
    fn note_removal(
        &mut self,
        state: &State,
        service: &Service,
        container: &Container,
        surplus: bool,
    ) {
        let drained = state.node(container.node).is_some_and(Node::is_draining);
        let (kind, why) = match (surplus, drained) {
            (_, true) => (Kind::Moved, "its node is being drained"),
            (true, _) if service.removing => (Kind::ScaledDown, "its service was removed"),
            (true, _) => (Kind::ScaledDown, "its slot is no more"),
            (false, _) => (Kind::Replaced, "it does not run, and its spec is outdated"),
        };
        let of = (service.id, container.slot);
        self.decisions
            .note(kind, of, Some(container.node), why.into());
    }

    /// True unless something about it is on its way already.
    pub(super) fn propose_removal(
        &mut self,
        service: &Service,
        (container, node): (ContainerId, NodeId),
        meter: &mut Meter,
    ) -> bool {
        let new = self.claim(container, node);
        if new {
            self.outbox.remove(Removing {
                container,
                service: service.id,
                node,
            });
            meter.items -= 1;
        }
        new
    }

    /// The container is to be told something, and is nobody's victim until that has an outcome. False
    /// if there is something on its way already.
    pub(super) fn claim(&mut self, container: ContainerId, node: NodeId) -> bool {
        let new = self.in_flight.claim(container);
        if new {
            self.scheduler.occupant_leaves(node, container);
        }
        new
    }

    fn forget_removed(&mut self, state: &State, service: &Service, meter: &mut Meter) -> Turn {
        let empty = state.container_count_of_service(service.id) == 0;
        if service.removing && empty && !self.in_flight.has_service(service.id) {
            if meter.items == 0 {
                return Turn::Later;
            }
            self.outbox.forget(service.id);
            meter.items -= 1;
        }
        Turn::Done
    }

    /// Keeps what the pass learnt for those who ask.
    fn finish(&mut self, service: &Service, mut pass: Pass) {
        let id = service.id;
        pass.pending
            .sort_by_key(|pending| (pending.slot, pending.node));
        match service.rules.preempt && !pass.pending.is_empty() {
            true => self.preemptors.insert(id, service.rules.priority),
            false => self.preemptors.remove(&id),
        };
        let waits = !pass.pending.is_empty() || pass.blocked.is_some();
        self.pending.put(id, pass.pending);
        self.pending.hold_up(id, pass.held_up);
        match waits {
            true => self.marks.wait_for_room(id, pass.room),
            false => self.marks.hope_no_more(id),
        }
        match pass.blocked {
            Some(reason) => self.blocked.insert(id, reason),
            None => self.blocked.remove(&id),
        };
        if !service.is_global() {
            let last = u64::from(service.spec.replicas);
            self.backoff.forget_above(id, last);
            self.note_loops_above(id, last);
            self.give_back_above(id, last);
            self.failures.forget_above(id, last);
        }
        if service.removing {
            self.give_back(id);
        }
        if pass.again {
            self.again.push(id);
        }
    }
}
