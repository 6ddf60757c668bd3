//! Containers of older specs make room for their successors.

use std::sync::Arc;

use crate::fsm::{Container, Resources, Service, State};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::asking::{self, Reasons};
use crate::orchestrator::budget::Meter;
use crate::orchestrator::decisions::Kind;
use crate::orchestrator::fill::placement;
use crate::orchestrator::hopes::NODES_A_LOOK;
use crate::orchestrator::pass::Pass;
use crate::orchestrator::plan::{Slot, Verdict, judge_again};
use crate::orchestrator::reconcile::Turn;
use crate::orchestrator::successors::Room;
use crate::scheduler::Why;

impl Orchestrator {
    /// Stops running containers of older specs, as few at a time as allowed, and only where the
    /// successor would find room; none while the successor of one waits for a node.
    pub(super) fn replace_outdated(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        if pass.stuck {
            pass.outdated.clear();
        }
        if pass.outdated.is_empty() {
            return Turn::Done;
        }
        if pass.away >= pass.away_max {
            return hold_up(state, pass);
        }
        if !service.is_global() && !self.learn(state, service, meter) {
            return Turn::Next;
        }
        let mut rooms = Vec::new();
        let turn = self.replace_within(state, service, pass, &mut rooms, meter);
        rooms.iter().for_each(|room| self.release_room(room));
        turn
    }

    /// `rooms`: held elsewhere, for nobody yet.
    fn replace_within(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        rooms: &mut Vec<Room>,
        meter: &mut Meter,
    ) -> Turn {
        let reasons = Reasons::on_one_node(state, service);
        while pass.away < pass.away_max
            && let Some(&(container, node)) = pass.outdated.front()
        {
            if meter.items == 0 || !meter.try_look() {
                return Turn::Later;
            }
            let verdict = judge_again(state, service, &self.liveness, container);
            let still = matches!(verdict, Some(Verdict::Outdated(..)));
            let outgoing = state.container(container).filter(|_| still);
            let Some(outgoing) = outgoing else {
                pass.outdated.pop_front();
                continue;
            };
            // Its successor is judged as if it had gone.
            pass.leaves(node);
            let mut room = self.room_in_place(state, service, pass, &reasons, outgoing);
            if room.is_none() && !service.is_global() {
                if rooms.is_empty() {
                    *rooms = self.rooms_anywhere(state, service, pass, meter);
                }
                room = rooms.pop();
            }
            let Some(room) = room else {
                let why = self.why_no_room(state, service, pass, &reasons, outgoing, meter);
                pass.comes(node);
                let Some(why) = why else {
                    return Turn::Next;
                };
                pass.blocked = Some(why);
                pass.outdated.pop_front();
                if service.is_global() {
                    continue;
                }
                pass.outdated.clear();
                break;
            };
            pass.comes(room.node);
            if asking::bounds_itself(service) {
                // Where the others are was gone through for this one.
                meter.look(self.scheduler.node_count() / NODES_A_LOOK);
            }
            if self.propose_removal(service, (container, node), meter) {
                let of = (service.id, outgoing.slot);
                let why = "its spec is outdated, and its successor has room".into();
                self.decisions.note(Kind::Replaced, of, Some(node), why);
                let (slot, update) = (Slot::of(outgoing), Some(service.spec_digest));
                self.expect_successor(service.id, slot, Some(room), update);
            } else {
                self.release_room(&room);
            }
            pass.is_away(Slot::of(outgoing));
            pass.outdated.pop_front();
        }
        hold_up(state, pass)
    }

    /// Room for a successor where its predecessor is, with what that leaves.
    fn room_in_place(
        &mut self,
        state: &State,
        service: &Service,
        pass: &Pass,
        reasons: &Reasons,
        outgoing: &Container,
    ) -> Option<Room> {
        let node = outgoing.node;
        let placement = placement(state, service, pass, 1);
        let mut ask = placement.ask();
        if service.is_global() {
            ask.rules.max_per_node = None;
        }
        let fits = self.scheduler.would_fit(&ask, node, outgoing.held())
            && reasons.against_successor(node, outgoing).is_none()
            && (service.is_global()
                || asking::is_left(&self.asking, &self.scheduler, &placement, node));
        if !fits {
            return None;
        }
        // What it needs beyond that must not be another's by then.
        let more = service.resources().saturating_sub(outgoing.held());
        let resources = (more != Resources::default()).then_some(more);
        if let Some(more) = resources {
            self.scheduler.hold(node, more);
        }
        Some(Room {
            node,
            resources,
            devices: Vec::new(),
        })
    }

    /// Room wherever there is some now: for as many as may go, unless where one is makes a
    /// difference to the next.
    fn rooms_anywhere(
        &mut self,
        state: &State,
        service: &Service,
        pass: &Pass,
        meter: &mut Meter,
    ) -> Vec<Room> {
        let most = match asking::bounds_itself(service) {
            true => 1,
            false => self.asking.at_a_time(service).min(meter.items),
        };
        let most = most.min(pass.away_max - pass.away);
        let count = most.min(pass.outdated.len());
        let rooms = self.hold_rooms(&placement(state, service, pass, count));
        // One in vain is part of the scan that says why.
        meter.look(rooms.len());
        rooms
    }

    /// `None` if it takes more looks than are left to say so.
    fn why_no_room(
        &self,
        state: &State,
        service: &Service,
        pass: &Pass,
        reasons: &Reasons,
        outgoing: &Container,
        meter: &mut Meter,
    ) -> Option<Arc<str>> {
        let placement = placement(state, service, pass, 1);
        let why = if service.is_global() {
            let why = |id| reasons.against_successor(id, outgoing);
            let mut ask = placement.ask();
            ask.rules.max_per_node = None;
            ask.rules.why = Some(Why(&why));
            let why = self.scheduler.explain_node(outgoing.node, &ask);
            why.map(|why| why.why).unwrap_or_default()
        } else {
            let nodes = self.scheduler.node_count();
            if !meter.affords(nodes) {
                return None;
            }
            meter.look(nodes);
            self.explain(&placement)
        };
        Some(format!("keeps running the version before: {why}").into())
    }
}

/// As many are away as may be: the others wait for them.
fn hold_up(state: &State, pass: &mut Pass) -> Turn {
    if !pass.outdated.is_empty() {
        pass.held_up = Some(pass.waits_for(state, "the update"));
    }
    pass.outdated.clear();
    Turn::Done
}
