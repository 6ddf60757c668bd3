//! Items, gathered over a step, into commands of bounded size.

use crate::fsm::{Freeze, NodeStatus};
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::in_flight::{Bound, Moving, Preempting, Removing, Subject};
use crate::pb::{self, command::Body};

/// Binds of one command: as many as a state of a million containers takes in 2 ms, with what is left
/// of them for a copy of the pages that a snapshot holds.
pub const BIND_ITEMS_MAX: usize = 128;

/// Devices that the binds of one command hold, unless it has but one bind.
const BIND_DEVICES_MAX: usize = 1024;

/// Desired states of one command: likewise.
pub const DESIRED_ITEMS_MAX: usize = 512;

/// Preemptions of one command: likewise, each with the most victims there may be.
pub const PREEMPT_ITEMS_MAX: usize = 16;

/// The lists keep their room from step to step: what is fresh memory in each costs more than what is
/// written into it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    binds: Vec<(pb::BindItem, Bound)>,
    desired: Vec<(pb::DesiredItem, Removing)>,
    preempts: Vec<(pb::PreemptItem, Preempting)>,
    moves: Vec<(pb::MoveItem, Moving)>,
    others: Vec<(Body, Subject)>,
}

impl Outbox {
    pub fn bind(&mut self, item: pb::BindItem, bound: Bound) {
        self.binds.push((item, bound));
    }

    pub fn remove(&mut self, removing: Removing) {
        let desired = pb::DesiredState::Remove.into();
        let item = pb::DesiredItem {
            container_id: removing.container.to_vec(),
            desired,
        };
        self.desired.push((item, removing));
    }

    pub fn preempt(&mut self, item: pb::PreemptItem, preempting: Preempting) {
        self.preempts.push((item, preempting));
    }

    pub fn move_slot(&mut self, item: pb::MoveItem, moving: Moving) {
        self.moves.push((item, moving));
    }

    pub fn is_empty(&self) -> bool {
        self.binds.is_empty()
            && self.desired.is_empty()
            && self.preempts.is_empty()
            && self.moves.is_empty()
            && self.others.is_empty()
    }

    pub fn preempting(&self) -> usize {
        self.preempts.len()
    }

    pub fn forget(&mut self, service: ServiceId) {
        let body = Body::ForgetService(pb::ForgetService {
            service_id: service.to_vec(),
        });
        self.others.push((body, Subject::Forget(service)));
    }

    /// Before whatever else is in here.
    pub fn freeze(&mut self, freeze: Option<Freeze>) {
        let freeze = freeze.map(Into::into);
        let body = Body::FreezeReplacement(pb::FreezeReplacement { freeze });
        self.others.insert(0, (body, Subject::Freeze));
    }

    pub fn node_status(&mut self, node: NodeId, status: NodeStatus) {
        let command = pb::SetNodeStatus {
            node_id: node.to_vec(),
            status: status.into(),
        };
        self.others
            .push((Body::SetNodeStatus(command), Subject::Node(node)));
    }

    /// The time of a drain is over.
    pub fn drain_overdue(&mut self, node: NodeId) {
        let command = pb::SetNodeAvailability {
            node_id: node.to_vec(),
            availability: pb::Availability::Drain.into(),
            drain_within_ms: 0,
            drain_overdue: true,
        };
        self.others
            .push((Body::SetNodeAvailability(command), Subject::Node(node)));
    }

    /// The commands, and what each is about. Nodes go first, then what makes room.
    pub fn take(&mut self) -> Vec<(Body, Subject)> {
        let mut letters = std::mem::take(&mut self.others);
        let mut moves = self.moves.drain(..);
        while moves.len() > 0 {
            let (items, subjects) = moves.by_ref().take(DESIRED_ITEMS_MAX).unzip();
            let body = Body::MoveSlots(pb::MoveSlots { items });
            letters.push((body, Subject::Moves(subjects)));
        }
        let mut desired = self.desired.drain(..);
        while desired.len() > 0 {
            let (items, subjects) = desired.by_ref().take(DESIRED_ITEMS_MAX).unzip();
            let body = Body::SetDesired(pb::SetDesired { items });
            letters.push((body, Subject::Desired(subjects)));
        }
        let mut preempts = self.preempts.drain(..);
        while preempts.len() > 0 {
            let (items, subjects) = preempts.by_ref().take(PREEMPT_ITEMS_MAX).unzip();
            let body = Body::Preempt(pb::Preempt { items });
            letters.push((body, Subject::Preempt(subjects)));
        }
        let mut binds = self.binds.drain(..);
        while binds.len() > 0 {
            let count = first_batch(binds.as_slice());
            let (items, subjects) = binds.by_ref().take(count).unzip();
            letters.push((Body::Bind(pb::Bind { items }), Subject::Binds(subjects)));
        }
        letters
    }
}

/// Items of the first command: no more than it may have, and than have so many devices.
fn first_batch(binds: &[(pb::BindItem, Bound)]) -> usize {
    let mut devices = 0;
    let within = binds.iter().take(BIND_ITEMS_MAX).take_while(|(item, _)| {
        devices += item.devices.len();
        devices <= BIND_DEVICES_MAX
    });
    within.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::plan::Slot;
    use prost::Message;

    #[test]
    fn binds_with_many_devices_go_in_several_commands() {
        let share = pb::DeviceShare {
            kind: "k".repeat(64),
            number: 1_023,
            milli: 1_000,
        };
        let mut outbox = Outbox::default();
        for count in [100; 30].into_iter().chain([3_000, 1]) {
            let item = pb::BindItem {
                devices: vec![share.clone(); count],
                ..Default::default()
            };
            let bound = Bound {
                service: ServiceId::default(),
                slot: Slot {
                    number: 1,
                    node: None,
                },
                node: NodeId::default(),
                resources: Default::default(),
                devices: item.devices.clone(),
                since_ms: 0,
            };
            outbox.bind(item, bound);
        }
        let mut sizes = Vec::new();
        for (body, subject) in outbox.take() {
            let (Body::Bind(bind), Subject::Binds(bounds)) = (body, subject) else {
                panic!("only binds were put in");
            };
            assert_eq!(bind.items.len(), bounds.len());
            assert!(bind.items.len() == 1 || bind.encoded_len() < 255 << 10);
            sizes.push(bind.items.len());
        }
        assert_eq!(sizes, [10, 10, 10, 1, 1]);
    }

    #[test]
    fn a_full_command_of_the_largest_items_stays_below_256_kib() {
        let item = pb::BindItem {
            service_id: vec![0xff; 16],
            service_version: u64::MAX,
            slot: u64::MAX,
            node_id: vec![0xff; 16],
            replaces: vec![0xff; 16],
            ..Default::default()
        };
        let bind = pb::Bind {
            items: vec![item; BIND_ITEMS_MAX],
        };
        assert!(bind.encoded_len() < 255 << 10, "{}", bind.encoded_len());
        let item = pb::DesiredItem {
            container_id: vec![0xff; 16],
            desired: 3,
        };
        let desired = pb::SetDesired {
            items: vec![item; DESIRED_ITEMS_MAX],
        };
        assert!(
            desired.encoded_len() < 255 << 10,
            "{}",
            desired.encoded_len()
        );
    }
}
