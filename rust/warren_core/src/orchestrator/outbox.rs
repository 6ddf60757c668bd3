//! Items, gathered over a step, into commands of bounded size.

use crate::fsm::{Freeze, NodeStatus};
use crate::ids::{ContainerId, NodeId, ServiceId};
use crate::orchestrator::in_flight::{Bound, Moving, Preempting, Subject};
use crate::pb::{self, command::Body};

/// Binds of one command: as many as a state of a million containers takes in 2 ms, with what is left
/// of them for a copy of the pages that a snapshot holds.
pub const BIND_ITEMS_MAX: usize = 128;

/// Desired states of one command: likewise.
pub const DESIRED_ITEMS_MAX: usize = 512;

/// Preemptions of one command: likewise, each with the most victims there may be.
pub const PREEMPT_ITEMS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    binds: Vec<(pb::BindItem, Bound)>,
    desired: Vec<(pb::DesiredItem, (ContainerId, ServiceId))>,
    preempts: Vec<(pb::PreemptItem, Preempting)>,
    moves: Vec<(pb::MoveItem, Moving)>,
    others: Vec<(Body, Subject)>,
}

impl Outbox {
    pub fn bind(&mut self, item: pb::BindItem, bound: Bound) {
        self.binds.push((item, bound));
    }

    pub fn remove(&mut self, container: ContainerId, service: ServiceId) {
        let desired = pb::DesiredState::Remove.into();
        let item = pb::DesiredItem {
            container_id: container.to_vec(),
            desired,
        };
        self.desired.push((item, (container, service)));
    }

    pub fn preempt(&mut self, item: pb::PreemptItem, preempting: Preempting) {
        self.preempts.push((item, preempting));
    }

    pub fn move_slot(&mut self, item: pb::MoveItem, moving: Moving) {
        self.moves.push((item, moving));
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

    /// The commands, and what each is about. Nodes go first, then what makes room.
    pub fn take(&mut self) -> Vec<(Body, Subject)> {
        let mut letters = std::mem::take(&mut self.others);
        for batch in std::mem::take(&mut self.moves).chunks(DESIRED_ITEMS_MAX) {
            let (items, subjects) = batch.iter().cloned().unzip();
            let body = Body::MoveSlots(pb::MoveSlots { items });
            letters.push((body, Subject::Moves(subjects)));
        }
        for batch in std::mem::take(&mut self.desired).chunks(DESIRED_ITEMS_MAX) {
            let (items, subjects) = batch.iter().cloned().unzip();
            letters.push((
                Body::SetDesired(pb::SetDesired { items }),
                Subject::Desired(subjects),
            ));
        }
        for batch in std::mem::take(&mut self.preempts).chunks(PREEMPT_ITEMS_MAX) {
            let (items, subjects) = batch.iter().cloned().unzip();
            letters.push((
                Body::Preempt(pb::Preempt { items }),
                Subject::Preempt(subjects),
            ));
        }
        for batch in std::mem::take(&mut self.binds).chunks(BIND_ITEMS_MAX) {
            let (items, subjects) = batch.iter().cloned().unzip();
            letters.push((Body::Bind(pb::Bind { items }), Subject::Binds(subjects)));
        }
        letters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

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
