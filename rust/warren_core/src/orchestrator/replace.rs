//! Containers of older specs make room for their successors.

use std::sync::Arc;

use crate::fsm::{Service, State};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::asking::{self, Reasons};
use crate::orchestrator::budget::Meter;
use crate::orchestrator::decisions::Kind;
use crate::orchestrator::fill::placement;
use crate::orchestrator::pass::{Pass, is_to_go};
use crate::orchestrator::reconcile::Turn;
use crate::scheduler::Why;

impl Orchestrator {
    /// Stops running containers of older specs, as few at a time as allowed, and only where the
    /// successor would find room.
    pub(super) fn replace_outdated(
        &mut self,
        state: &State,
        service: &Service,
        pass: &mut Pass,
        meter: &mut Meter,
    ) -> Turn {
        let mut fits_somewhere = false;
        let reasons = Reasons::on_one_node(state, service);
        while pass.away < pass.away_max
            && let Some(&(container, node)) = pass.outdated.front()
        {
            if meter.items == 0 || !meter.try_look() {
                return Turn::Later;
            }
            let outgoing = state.container(container);
            let Some(outgoing) = outgoing.filter(|_| is_to_go(state, service, container, false))
            else {
                pass.outdated.pop_front();
                continue;
            };
            let placement = placement(state, service, pass, 1);
            let mut ask = placement.ask();
            ask.rules.max_per_node = None;
            let fits = self.scheduler.would_fit(&ask, node, outgoing.held())
                && reasons.against_successor(node, outgoing).is_none();
            if !fits && service.is_global() {
                let why = |id| reasons.against_successor(id, outgoing);
                ask.rules.why = Some(Why(&why));
                let why = self.scheduler.explain_node(node, &ask);
                pass.blocked = why.map(|why| keeps_running(why.why));
                pass.outdated.pop_front();
                continue;
            }
            if !fits && !fits_somewhere {
                let scan = self.scheduler.node_count() * (1 + self.asking.walks(service));
                if !meter.affords(scan) {
                    return Turn::Next;
                }
                meter.look(scan);
                self.asking.learn(&mut self.scheduler, state, service);
                fits_somewhere = asking::fits_somewhere(&self.asking, &self.scheduler, &placement);
                if !fits_somewhere {
                    pass.blocked = Some(keeps_running(self.explain(&placement)));
                    break;
                }
            }
            if self.propose_removal(service, (container, node), meter) {
                let of = (service.id, outgoing.slot);
                let why = "its spec is outdated, and its successor has room".into();
                self.decisions.note(Kind::Replaced, of, Some(node), why);
            }
            pass.away += 1;
            pass.outdated.pop_front();
        }
        pass.outdated.clear();
        Turn::Done
    }
}

fn keeps_running(why: String) -> Arc<str> {
    format!("keeps running the version before: {why}").into()
}
