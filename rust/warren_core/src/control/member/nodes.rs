//! Workers that come and go by request, and what each is told of the managers.

use super::super::access::node_of;
use super::super::entropy::Entropy;
use super::super::proposals::Origin;
use super::super::requests::{decode, identify};
use super::super::sessions::Known;
use super::super::{Call, Now, Outputs};
use super::Member;
use super::change::removed_since;
use crate::error::Error;
use crate::fsm::{self, Node, NodeStatus};
use crate::ids::{MemberId, NodeId};
use crate::pb;
use crate::pb::command::Body;
use prost::Message as _;

/// The feature level of what is in here.
const LEVEL: u32 = 3;

impl Member {
    /// Who manages the cluster, and whether this node is to.
    pub(super) fn managers_for(&self, node: NodeId) -> pb::Managers {
        let member = self.state.members().find(|member| member.node == node);
        let membership = member.map(|member| pb::Membership {
            member_id: member.id.0,
            cluster_id: self.identity.cluster.to_vec(),
            epoch: self.identity.epoch,
            data_dir: member.data_dir.to_vec(),
        });
        pb::Managers {
            api_addresses: self.api_addresses(),
            membership,
        }
    }

    pub(super) fn flush_sessions(&mut self, out: &mut Outputs) {
        let mut sessions = std::mem::take(&mut self.sessions);
        let known = Known {
            state: &self.state,
            causes: &self.causes,
        };
        sessions.flush(known, |node| self.managers_for(node), out);
        self.sessions = sessions;
    }

    /// What an older release would not write into the state is left out until all know it.
    pub(super) fn clip_description(&self, description: &mut pb::NodeDescription) {
        fsm::clip_description(description, self.state.feature_level());
    }

    /// A host wants to be a worker. One that was removed is let in again; for others there is
    /// nothing to be written.
    pub(super) fn admit_node(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let request: pb::AdmitNodeRequest = decode(&call.body)?;
        let node = NodeId::from_slice(&request.node_id)?;
        check_own(call, "AdmitNode", node)?;
        if !self.state.is_removed_node(node) {
            return Ok(Some(self.admitted().encode_to_vec()));
        }
        self.check_space()?;
        let admit = Body::AdmitNode(pb::AdmitNode {
            node_id: node.to_vec(),
        });
        let origin = Origin::AdmitNode(call.id);
        self.propose(now, entropy, &call.identity, None, admit, Some(origin))?;
        Ok(None)
    }

    pub(super) fn admitted(&self) -> pb::AdmitNodeResponse {
        pb::AdmitNodeResponse {
            cluster_id: self.identity.cluster.to_vec(),
            epoch: self.identity.epoch,
            api_addresses: self.api_addresses(),
        }
    }

    pub(super) fn remove_node(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let mut request: pb::RemoveNodeRequest = decode(&call.body)?;
        let id = match identify(&self.state, "RemoveNode", request.request.take(), &request)? {
            Ok(id) => id,
            Err(answer) => return answer.map(Some),
        };
        let node = self.named_node(&request.r#ref)?;
        check_own(call, "RemoveNode", node.id)?;
        if let Some(member) = self.state.members().find(|member| member.node == node.id) {
            let name = node.name();
            return Err(Error::Invalid {
                what: "node",
                why: format!(
                    "it is a manager (member {}); demote it first: warrenctl node demote {name}",
                    member.id.0
                ),
            });
        }
        let leaves = node_of(&call.identity).is_some();
        if node.status == NodeStatus::Ready && !request.force && !leaves {
            return Err(Error::Invalid {
                what: "node",
                why: "it is up, and what it runs would be stopped; let it leave by itself \
                      (warrenctl cluster leave, on that host), or remove it all the same with \
                      --force"
                    .into(),
            });
        }
        let node_id = node.id.to_vec();
        self.check_level()?;
        self.check_space()?;
        let remove = Body::RemoveNode(pb::RemoveNode { node_id });
        let origin = Some(Origin::Call(call.id));
        self.propose(now, entropy, &call.identity, id, remove, origin)?;
        Ok(None)
    }

    pub(super) fn promote_node(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let mut request: pb::PromoteNodeRequest = decode(&call.body)?;
        let (id, repeated) =
            match identify(&self.state, "PromoteNode", request.request.take(), &request)? {
                Ok(id) => (id, false),
                Err(Err(refusal)) => return Err(refusal),
                // What was remembered is that of the log's command, which names no member.
                Err(Ok(_)) => (None, true),
            };
        let node = self.named_node(&request.r#ref)?;
        let known = self.state.members().find(|member| member.node == node.id);
        if let Some(member) = known.map(|member| member.id) {
            return Ok(Some(promoted(member)));
        }
        if repeated {
            return Err(removed_since("promote its node anew"));
        }
        let invalid = |why: &str| {
            let why = why.to_owned();
            Err(Error::Invalid { what: "node", why })
        };
        if node.status != NodeStatus::Ready {
            return invalid(
                "it is not up, and a manager that is down weakens the cluster; start its daemon first",
            );
        }
        let said = &node.description;
        if said.data_dir.is_empty() || said.peer_address.is_empty() {
            return invalid(
                "it does not offer to be a manager: its certificate is a worker's, or it was one \
                 until half a minute ago and is putting its log aside; give it a manager's \
                 certificate and restart its daemon, or try again in half a minute",
            );
        }
        let wanted = pb::Member {
            id: entropy.draw_u64() | 1,
            data_dir: said.data_dir.clone(),
            node_id: node.id.to_vec(),
            address: said.peer_address.clone(),
            voter: true,
            feature_level_max: self.level_of_joiners(),
            added_at_ms: 0,
            api_address: said.api_address.clone(),
        };
        self.check_level()?;
        let member = MemberId(wanted.id);
        let origin = Origin::Promote(call.id, member);
        self.propose_member(now, call, entropy, id, wanted, origin)?;
        Ok(None)
    }

    pub(super) fn demote_node(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let mut request: pb::DemoteNodeRequest = decode(&call.body)?;
        let id = match identify(&self.state, "DemoteNode", request.request.take(), &request)? {
            Ok(id) => id,
            Err(answer) => return answer.map(Some),
        };
        let node = self.named_node(&request.r#ref)?;
        check_own(call, "DemoteNode", node.id)?;
        let member = self.state.members().find(|member| member.node == node.id);
        match member.map(|member| member.id) {
            None => Ok(Some(Vec::new())),
            Some(member) => self.propose_removal(now, call, entropy, id, member),
        }
    }

    fn named_node(&self, reference: &str) -> Result<&Node, Error> {
        let id = self.state.resolve_node(reference)?;
        Ok(self.state.node(id).expect("it was found"))
    }

    fn check_level(&self) -> Result<(), Error> {
        match self.state.feature_level() {
            current if current < LEVEL => Err(Error::LevelNotReached {
                level: LEVEL,
                current,
            }),
            _ => Ok(()),
        }
    }
}

/// What whoever asked for a promotion is told.
pub(super) fn promoted(member: MemberId) -> Vec<u8> {
    let member_id = member.0;
    pb::PromoteNodeResponse { member_id }.encode_to_vec()
}

/// A node speaks for itself only.
pub(super) fn check_own(call: &Call, method: &str, node: NodeId) -> Result<(), Error> {
    match node_of(&call.identity) {
        Some(own) if own != node => Err(Error::Denied {
            identity: call.identity.clone(),
            method: format!("{method} of node {node}"),
        }),
        _ => Ok(()),
    }
}
