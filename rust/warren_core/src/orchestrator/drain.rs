//! What runs on a node that is being drained: moved away as far as there is room elsewhere; told to go
//! once the drain's time is over.
//!
//! The deadline stands in the state, on the state's clock, and passes by the leader's: what is left
//! of it is counted from when the leader learns of it, by the newest time that any command carried.
//! A cluster in which nothing is written makes a new leader wait longer, never shorter.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fsm::{ContainerState, Node, Service, State};
use crate::ids::{ContainerId, NodeId};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::asking::Placement;
use crate::orchestrator::budget::Meter;
use crate::orchestrator::decisions::Kind;
use crate::orchestrator::pass::Pass;
use crate::orchestrator::plan::{Slot, Verdict, judge_again};
use crate::orchestrator::reconcile::Turn;
use crate::orchestrator::successors::Room;

/// A refused command is not tried again sooner.
const RETRY_MS: u64 = 1_000;

/// Drains with a deadline that has not passed.
#[derive(Debug, Default)]
pub(super) struct Drains {
    nodes: BTreeMap<NodeId, Due>,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    /// On the state's clock.
    deadline_ms: u64,
    /// On the leader's; `None` until its next step.
    at_ms: Option<u64>,
    /// When it was said last, of one that passed.
    said_ms: Option<u64>,
}

impl Due {
    /// When there is something to be said; at once if that is not known yet.
    fn next_ms(&self) -> u64 {
        let again_ms = self.said_ms.map_or(0, |said_ms| said_ms + RETRY_MS);
        self.at_ms.unwrap_or(0).max(again_ms)
    }
}

impl Drains {
    /// Takes a node over as it is now.
    pub fn put(&mut self, node: &Node) {
        let drain = node
            .drain
            .filter(|drain| node.is_draining() && !drain.overdue);
        let Some(deadline_ms) = drain.map(|drain| drain.deadline_ms) else {
            self.nodes.remove(&node.id);
            return;
        };
        let known = self.nodes.get(&node.id);
        if known.is_none_or(|due| due.deadline_ms != deadline_ms) {
            let due = Due {
                deadline_ms,
                at_ms: None,
                said_ms: None,
            };
            self.nodes.insert(node.id, due);
        }
    }

    pub fn remove(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// When the next one has something to be said.
    pub fn next_ms(&self) -> u64 {
        let due = self.nodes.values().map(Due::next_ms);
        due.min().unwrap_or(u64::MAX)
    }
}

impl Orchestrator {
    /// Says of drains whose time is over that it is.
    pub(super) fn end_drains(&mut self, state: &State, now_ms: u64, meter: &mut Meter) {
        for (node, due) in &mut self.drains.nodes {
            meter.look(1);
            let left_ms = due.deadline_ms.saturating_sub(state.time_ms());
            let at_ms = now_ms.saturating_add(left_ms);
            // The state's clock may have come closer since.
            let at_ms = due.at_ms.map_or(at_ms, |known| known.min(at_ms));
            due.at_ms = Some(at_ms);
            let free = !self.in_flight.has_node(*node) && !self.in_flight.is_full();
            if free && due.next_ms() <= now_ms {
                self.outbox.drain_overdue(*node);
                due.said_ms = Some(now_ms);
            }
        }
    }

    /// Stops as many of those that are to be moved as are allowed to be away and would find room.
    pub(super) fn move_away(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        pass.draining.retain(|(id, _)| {
            let verdict = judge_again(state, service, &self.liveness, *id);
            matches!(verdict, Some(Verdict::Draining(..)))
        });
        while let Some(&(next, _)) = pass.draining.front() {
            let runs = runs(state, next);
            if runs && pass.away >= pass.away_max {
                pass.held_up = Some(pass.waits_for(state, "what is on drained nodes"));
                break;
            }
            if meter.items == 0 || meter.looks == 0 {
                return Turn::Later;
            }
            if !self.learn(state, service, meter) {
                return Turn::Next;
            }
            // What does not run is away already.
            let most = match runs {
                true => pass.away_max - pass.away,
                false => 1,
            };
            let most = most.min(self.asking.at_a_time(service)).min(meter.items);
            let count = pass.draining.len().min(most);
            let rooms = self.rooms_elsewhere(state, service, pass, count);
            let found = rooms.len();
            // One in vain is part of the scan that says why.
            meter.look(found);
            for room in rooms {
                if let Some((container, node)) = pass.draining.pop_front() {
                    self.move_to(state, service, pass, (container, node), room, meter);
                }
            }
            if found < count {
                return self.stay(state, service, pass, meter);
            }
        }
        pass.draining.clear();
        Turn::Done
    }

    /// Tells it to go, and keeps the room for its successor.
    fn move_to(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        (container, node): (ContainerId, NodeId),
        room: Room,
        meter: &mut Meter,
    ) {
        let slot = state.container(container).map_or(0, |it| it.slot);
        if runs(state, container) {
            pass.is_away(Slot::numbered(slot));
        }
        pass.leaves(node);
        pass.comes(room.node);
        if self.propose_removal(service, (container, node), meter) {
            let slot = Slot::numbered(slot);
            self.expect_successor(service.id, slot, Some(room), None);
        } else {
            self.release_room(&room);
        }
        let why = "its node is being drained, and there is room elsewhere".into();
        let of = (service.id, slot);
        self.decisions.note(Kind::Moved, of, Some(node), why);
    }

    /// Room for as many of the first `count` as find a place if they are not where they are. It is
    /// held for them: of two services that are moved at once, each counts on its own room.
    fn rooms_elsewhere(
        &mut self,
        state: &State,
        service: &Service,
        pass: &Pass,
        count: usize,
    ) -> Vec<Room> {
        let spread = without(pass, count);
        self.hold_rooms(&Placement {
            state,
            service,
            spread: &spread,
            avoided: &pass.avoided,
            count: count as u32,
        })
    }

    /// Keeps why the others stay for those who ask.
    fn stay(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        let nodes = self.scheduler.node_count();
        if !meter.affords(nodes) {
            return Turn::Next;
        }
        meter.look(nodes);
        let spread = without(pass, 1);
        let why = self.explain(&Placement {
            state,
            service,
            spread: &spread,
            avoided: &pass.avoided,
            count: 1,
        });
        let why: Arc<str> = format!("stays on a node that is being drained: {why}").into();
        if self.blocked.get(&service.id) != Some(&why)
            && let Some((id, node)) = pass.draining.front()
        {
            let slot = state.container(*id).map_or(0, |it| it.slot);
            let of = (service.id, slot);
            self.decisions
                .note(Kind::Stays, of, Some(*node), why.clone());
        }
        pass.blocked = Some(why);
        pass.draining.clear();
        Turn::Done
    }
}

/// Whether it does not merely wait for its next attempt.
pub(super) fn runs(state: &State, id: ContainerId) -> bool {
    let container = state.container(id);
    container.is_some_and(|it| it.status.state == ContainerState::Running)
}

/// The service's containers by node, without the next `count` of those to be moved.
fn without(pass: &Pass, count: usize) -> BTreeMap<NodeId, u32> {
    let mut spread = pass.spread.clone();
    for (_, node) in pass.draining.iter().take(count) {
        if let Some(kept) = spread.get_mut(node) {
            *kept = kept.saturating_sub(1);
        }
    }
    spread
}
