//! Whether a node takes containers, and by when it has to be rid of those that it has.
//!
//! A deadline is data: nothing happens here when it passes. The leader, whose clock measures how long
//! that is, says so with a command of its own, so that every replica agrees and the next leader knows.

use crate::error::Result;
use crate::fsm::apply::{Context, invalid, not_found};
use crate::fsm::convert::specified;
use crate::fsm::objects::{Availability, Drain, Event, Node};
use crate::fsm::state::State;
use crate::ids::NodeId;
use crate::pb;

/// From this level on a drain can have a deadline.
pub const DRAIN_LEVEL: u32 = 5;
/// Longest time that a drain may be given: 30 days.
const DRAIN_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Refuses what makes no sense, before it costs a log entry.
pub fn check_drain(set: &pb::SetNodeAvailability) -> Result<()> {
    let availability: Availability =
        specified("availability", set.availability, Availability::Unspecified)?;
    if set.drain_within_ms > 0 && availability != Availability::Drain {
        return Err(invalid("availability", "only a drain has a deadline"));
    }
    if set.drain_within_ms > DRAIN_MS_MAX {
        let why = "a drain ends within 30 days; leave the deadline out for one that waits";
        return Err(invalid("drain deadline", why));
    }
    Ok(())
}

impl State {
    pub(super) fn set_node_availability(
        &mut self,
        cx: &mut Context,
        command: &pb::SetNodeAvailability,
    ) -> Result<Vec<u8>> {
        let id = NodeId::from_slice(&command.node_id)?;
        let availability = specified(
            "availability",
            command.availability,
            Availability::Unspecified,
        )?;
        let node = self.node(id).ok_or_else(|| not_found(NodeId::KIND, id))?;
        let drain = self.drain_after(node, availability, command);
        if command.drain_overdue && self.feature_level() >= DRAIN_LEVEL && drain.is_none() {
            return Err(invalid("drain", "none with a deadline is under way there"));
        }
        if (node.availability, node.drain) != (availability, drain) {
            self.put_node(Node {
                availability,
                drain,
                ..node.clone()
            });
            cx.events.push(Event::Node { id });
        }
        Ok(Vec::new())
    }

    fn drain_after(
        &self,
        node: &Node,
        availability: Availability,
        command: &pb::SetNodeAvailability,
    ) -> Option<Drain> {
        if self.feature_level() < DRAIN_LEVEL || availability != Availability::Drain {
            // Older releases know no deadlines.
            return None;
        }
        if command.drain_overdue {
            let under_way = node.drain.filter(|_| node.is_draining());
            return under_way.map(|drain| Drain {
                overdue: true,
                ..drain
            });
        }
        (command.drain_within_ms > 0).then(|| Drain {
            deadline_ms: self
                .time_ms
                .saturating_add(command.drain_within_ms.min(DRAIN_MS_MAX)),
            overdue: false,
        })
    }
}
