//! A new epoch: the state goes on, and with it one member alone.
//!
//! A restore and a recovery from lost quorum do not append to a history, they begin another one. So
//! this is no command: the state is rewritten where nothing runs, and written down as the snapshot that
//! a new log continues. What clients know (ids, versions, answers to requests) stays; who takes
//! part in consensus does not.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fsm::objects::{Availability, Member, Node, NodeStatus};
use crate::fsm::state::State;
use crate::ids::{Index, Term};
use crate::pb;

/// Who an epoch begins with.
#[derive(Clone, Debug)]
pub struct Survivor {
    pub member: Member,
    /// For its node's record, where there is none yet.
    pub node_name: String,
    /// `host:port` of its API.
    pub advertise_addr: String,
}

/// The first level at which members say where their API is.
const API_ADDRESS_LEVEL: u32 = 3;

impl State {
    /// Makes this the state after a last entry at `index` of `term`, in which `epoch` began with
    /// `survivor` as the only member. All other members are removed for good. Returns those.
    ///
    /// # Errors
    /// `NotInCluster`; `Invalid` if the epoch or the position does not rise; `UnknownLevel`.
    /// Nothing has changed then.
    pub fn begin_epoch(
        &mut self,
        epoch: u64,
        (index, term): (Index, Term),
        survivor: Survivor,
    ) -> Result<Vec<Member>> {
        let cluster = self.cluster().ok_or(Error::NotInCluster)?;
        if epoch <= cluster.epoch || index <= self.index() || term <= self.term() {
            return Err(Error::Invalid {
                what: "new epoch",
                why: format!(
                    "epoch {epoch} at index {} of term {} does not come after epoch {} at index \
                     {} of term {}",
                    index.0,
                    term.0,
                    cluster.epoch,
                    self.index().0,
                    self.term().0
                ),
            });
        }
        let level = self.feature_level();
        if survivor.member.feature_level_max < level {
            return Err(Error::UnknownLevel { level });
        }
        let mut cluster = cluster.clone();
        cluster.epoch = epoch;
        self.cluster = Some(Arc::new(cluster));
        self.advance(index, term);
        self.manage_from(&survivor);
        let Survivor {
            mut member,
            advertise_addr,
            ..
        } = survivor;
        if level >= API_ADDRESS_LEVEL {
            member.api_address = advertise_addr.into();
        }
        let others = |other: &&Member| other.id != member.id;
        let removed: Vec<Member> = self.members().filter(others).cloned().collect();
        removed.iter().for_each(|gone| self.members.bury(gone.id));
        let known = self.member(member.id);
        member.added_at_ms = known.map_or(self.time_ms, |known| known.added_at_ms);
        self.members.put(member);
        Ok(removed)
    }

    /// The survivor's node manages, and no other does.
    fn manage_from(&mut self, survivor: &Survivor) {
        let id = survivor.member.node;
        self.removed_nodes.forget(id);
        let others = |node: &&Node| node.manager && node.id != id;
        let demoted: Vec<Node> = self.nodes().filter(others).cloned().collect();
        for node in demoted {
            self.put_node(Node {
                manager: false,
                ..node
            });
        }
        let known = self.node(id).cloned();
        // It introduces itself once its worker has a session.
        let own = known.unwrap_or_else(|| Node {
            id,
            description: Arc::new(pb::NodeDescription {
                name: survivor.node_name.clone(),
                ..Default::default()
            }),
            manager: true,
            worker: false,
            status: NodeStatus::Ready,
            availability: Availability::Active,
            joined_at_ms: self.time_ms,
            advertise_addr: Arc::default(),
            labels: Arc::default(),
            taints: Arc::default(),
            drain: None,
            holds: Arc::default(),
        });
        self.put_node(Node {
            manager: true,
            advertise_addr: survivor.advertise_addr.as_str().into(),
            ..own
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsm::{Cluster, FEATURE_LEVEL_MAX};
    use crate::ids::{MemberId, NodeId};

    fn survivor(id: u64) -> Survivor {
        Survivor {
            member: Member {
                id: MemberId(id),
                data_dir: [id as u8; 16],
                node: NodeId([id as u8; 16]),
                address: "here:2378".into(),
                voter: true,
                feature_level_max: FEATURE_LEVEL_MAX,
                added_at_ms: 0,
                api_address: Arc::default(),
            },
            node_name: "here".into(),
            advertise_addr: "here:2377".into(),
        }
    }

    fn founded() -> State {
        let mut state = State::new();
        let create = pb::CreateCluster {
            cluster_id: vec![1; 16],
            epoch: 1,
            founder: Some((&survivor(1).member).into()),
        };
        let command = pb::Command {
            level: 1,
            body: Some(pb::command::Body::CreateCluster(create)),
            entropy: vec![0; 12],
            ..Default::default()
        };
        let applied = state.apply(Index(2), Term(2), &command);
        applied.response.unwrap();
        state
    }

    #[test]
    fn an_epoch_begins_after_the_last_one_only() {
        let state = founded();
        let at = |index, term| (Index(index), Term(term));
        for (epoch, at) in [(1, at(3, 3)), (2, at(2, 3)), (2, at(3, 2))] {
            let mut changed = state.clone();
            let refused = changed.begin_epoch(epoch, at, survivor(1)).unwrap_err();
            assert_eq!(refused.code(), "invalid");
            assert_eq!(changed.hash(), state.hash());
        }
        let nothing = State::new().begin_epoch(2, at(3, 3), survivor(1));
        assert_eq!(nothing.unwrap_err(), Error::NotInCluster);
    }

    #[test]
    fn everything_but_who_takes_part_stays() {
        let mut state = founded();
        let before = state.cluster().unwrap().clone();
        let removed = state
            .begin_epoch(2, (Index(3), Term(3)), survivor(9))
            .unwrap();
        assert_eq!(removed.len(), 1);
        let cluster = Cluster { epoch: 2, ..before };
        assert_eq!(state.cluster(), Some(&cluster));
        let members: Vec<u64> = state.members().map(|member| member.id.0).collect();
        assert_eq!(members, [9]);
        assert!(state.is_removed(MemberId(1)));
        let managers = state.nodes().filter(|node| node.manager).count();
        assert_eq!(managers, 1);
        assert_eq!(state.hash(), state.hash_from_scratch());
    }
}
