//! What only a leader does: taken up, laid down, and the answers that fall due on the way.

use prost::Message as _;

use super::super::calls::Calls;
use super::super::entropy::Entropy;
use super::super::proposals::{Origin, PROPOSALS_MAX, Proposal};
use super::super::{Level, Now, Outputs};
use super::{Member, nodes};
use crate::error::Error;
use crate::ids::MemberId;
use crate::orchestrator;
use crate::pb;
use crate::pb::command::Body;
use crate::raft::{Position, Role};

/// What the orchestrator may do in one pass, so that a step stays short.
const ORCHESTRATOR_BUDGET: orchestrator::Budget = orchestrator::Budget {
    items: 512,
    looks: 2048,
};

impl Member {
    /// Tells who proposed the entry what became of it, and of what it overtook. How long ago this
    /// member accepted the proposal, if it did.
    pub(super) fn resolve(
        &mut self,
        now: Now,
        at: Position,
        response: &Result<Vec<u8>, Error>,
        calls: &mut Calls,
        out: &mut Outputs,
    ) -> Option<u64> {
        let mut took_ns = None;
        for (proposed, proposal) in self.proposals.take(at) {
            if proposed == at {
                took_ns = Some(now.mono_ns.saturating_sub(proposal.proposed_ns));
                self.answer(now, proposal.origin, response.clone(), calls, out);
            } else {
                self.overtaken(now, proposal, calls, out);
            }
        }
        took_ns
    }

    /// Another term's entry stands in its place, so it never happened: where the request id makes
    /// that safe and this member leads (again), it is proposed once more.
    fn overtaken(&mut self, now: Now, proposal: Proposal, calls: &mut Calls, out: &mut Outputs) {
        let waits = match proposal.origin {
            Origin::Call(id) => calls.is_open(id),
            _ => false,
        };
        if let Some(command) = proposal.again.as_ref().filter(|_| waits)
            && let Ok(at) = self.raft.propose(command.to_vec())
        {
            return self.proposals.add(at, proposal);
        }
        let error = self.not_leading();
        self.answer(now, proposal.origin, Err(error), calls, out);
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        origin: Origin,
        response: Result<Vec<u8>, Error>,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        match origin {
            Origin::Call(id) => calls.reply(id, response, out),
            Origin::Founding(id) => {
                let founded = pb::InitClusterResponse {
                    cluster_id: self.identity.cluster.to_vec(),
                    node_id: self.config.node.to_vec(),
                };
                calls.reply(id, response.map(|_| founded.encode_to_vec()), out);
            }
            Origin::AddMember(id, member) => {
                let added = self.added(member).encode_to_vec();
                calls.reply(id, response.map(|_| added), out);
            }
            Origin::Promote(id, member) => {
                calls.reply(id, response.map(|_| nodes::promoted(member)), out);
            }
            Origin::AdmitNode(id) => {
                let admitted = self.admitted().encode_to_vec();
                calls.reply(id, response.map(|_| admitted), out);
            }
            Origin::RemoveMember(id, member) => self.removed(id, member, response, calls, out),
            Origin::Orchestrator(token) => {
                let response = response.as_deref().map_err(Clone::clone);
                self.orchestrator.resolved(now.mono_ms(), token, response);
            }
            Origin::Hello(node) => {
                if let Err(error) = response {
                    let message = format!("hello of node {node}: {error}");
                    out.log(Level::Warning, "session", message);
                }
            }
            Origin::Silent => {}
            Origin::Upkeep => {
                self.changes.upkeep_resolved();
                if let Err(error) = response {
                    out.log(Level::Warning, "control", format!("upkeep: {error}"));
                }
            }
        }
    }

    /// Takes up or lays down what only a leader does.
    pub(super) fn follow_role(&mut self, now: Now, calls: &mut Calls, out: &mut Outputs) {
        let term = self.raft.term();
        if term != self.term_seen {
            self.term_seen = term;
            out.samples.elections += 1;
        }
        let leads = self.raft.role() == Role::Leader && self.applied.term == term;
        if leads == self.leading {
            return;
        }
        self.leading = leads;
        out.samples.leader_changes += 1;
        if leads {
            self.orchestrator.lead(now.mono_ms());
            self.care.lead(now.mono_ms());
            out.log(
                Level::Info,
                "control",
                format!("leading in term {}", term.0),
            );
        } else {
            for node in self.sessions.nodes() {
                self.orchestrator.session_down(node, now.mono_ms());
            }
            self.orchestrator.follow();
            let error = self.not_leading();
            self.sessions.end_all(&error, out);
            self.watches.end_all(&error, out);
            self.stop_sending(out);
            self.changes.stepped_down(calls, self.leader(), out);
            self.removals.stepped_down(calls, out);
            self.reads.stepped_down();
        }
    }

    /// Says once, and on every member, that replacement has been frozen or goes on.
    pub(super) fn tell_freeze(&mut self, out: &mut Outputs) {
        let freeze = self.state.freeze();
        if self.frozen == freeze.is_some() {
            return;
        }
        self.frozen = freeze.is_some();
        match freeze {
            Some(freeze) => out.log(Level::Warning, "control", freeze.why()),
            None => out.log(
                Level::Info,
                "control",
                "replacement goes on: the freeze has ended",
            ),
        }
    }

    /// Why a request that only a leader can serve is refused here.
    pub(super) fn not_leading(&self) -> Error {
        match self.leader() {
            Some(leader) if leader != self.identity.member => Error::NotLeader {
                leader: leader.0,
                address: self.api_address(leader),
            },
            _ => match self
                .peers
                .missing_majority(&self.state, self.raft.conf_state())
            {
                Some(missing) => Error::QuorumLost { missing },
                None => Error::NoLeader,
            },
        }
    }

    /// Where a member's API is; empty where it is not known.
    fn api_address(&self, member: MemberId) -> String {
        let said = self.peers.known(member).map(|known| &*known.api_address);
        let written = self.state.member(member).map(|member| &*member.api_address);
        let known = said.filter(|address| !address.is_empty()).or(written);
        known.unwrap_or_default().to_owned()
    }

    /// Of the APIs of all managers, ordered.
    pub(super) fn api_addresses(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .state
            .members()
            .map(|member| match member.id == self.identity.member {
                true => self.config.advertise_addr.clone(),
                false => self.api_address(member.id),
            })
            .filter(|address| !address.is_empty())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Proposes a cluster's first commands where a log exists and nothing is in it.
    pub(super) fn begin_cluster(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        if !self.leading {
            return;
        }
        let Some((call, advertise_addr)) = self.founding.take() else {
            return;
        };
        if let Some(cluster) = self.state.cluster() {
            let cluster = cluster.id.to_string();
            return calls.reply(call, Err(Error::AlreadyInCluster { cluster }), out);
        }
        let [create, put, raise] = self.first_commands(advertise_addr);
        let mut proposed = self.propose_own(now, entropy, create, None);
        proposed = proposed.and_then(|()| self.propose_own(now, entropy, put, None));
        proposed = proposed.and_then(|()| {
            let origin = Some(Origin::Founding(call));
            self.propose_own(now, entropy, raise, origin)
        });
        if let Err(error) = proposed {
            calls.reply(call, Err(error), out);
        }
    }

    fn first_commands(&self, advertise_addr: String) -> [Body; 3] {
        let create = pb::CreateCluster {
            cluster_id: self.identity.cluster.to_vec(),
            epoch: self.identity.epoch,
            founder: Some(pb::Member {
                id: self.identity.member.0,
                data_dir: self.identity.data_dir.to_vec(),
                node_id: self.config.node.to_vec(),
                address: self.config.address.clone(),
                voter: true,
                feature_level_max: self.config.feature_level_max,
                added_at_ms: 0,
                // Written down once the level allows it.
                api_address: String::new(),
            }),
        };
        let put = pb::PutNode {
            node_id: self.config.node.to_vec(),
            description: Some(pb::NodeDescription {
                name: self.config.node_name.clone(),
                ..Default::default()
            }),
            manager: true,
            worker: false,
            advertise_addr: if advertise_addr.is_empty() {
                self.config.advertise_addr.clone()
            } else {
                advertise_addr
            },
        };
        // Whoever founds a cluster may ask next for what needs the newest level.
        let raise = pb::RaiseFeatureLevel {
            level: self.config.feature_level_max,
        };
        [
            Body::CreateCluster(create),
            Body::PutNode(put),
            Body::RaiseFeatureLevel(raise),
        ]
    }

    pub(super) fn orchestrate(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        out: &mut Outputs,
    ) -> bool {
        if !self.leading || !self.has_space || self.state.cluster().is_none() {
            return false;
        }
        if self.proposals.len() >= PROPOSALS_MAX / 2 {
            // Clients' requests keep half of the room.
            return false;
        }
        let cycles = self.orchestrator.stats().cycles;
        let started_ns = (self.config.stopwatch)();
        self.orchestrator.clock(now.wall_ms);
        let proposals = self
            .orchestrator
            .step(&self.state, now.mono_ms(), ORCHESTRATOR_BUDGET);
        let proposed = !proposals.is_empty();
        for orchestrator::Proposal { token, body } in proposals {
            let origin = Some(Origin::Orchestrator(token));
            if let Err(error) = self.propose_own(now, entropy, body, origin) {
                out.log(Level::Warning, "control", format!("not proposed: {error}"));
                self.orchestrator.resolved(now.mono_ms(), token, Err(error));
            }
        }
        // A step that found nothing dirty was no pass.
        if self.orchestrator.stats().cycles != cycles
            && let (Some(started_ns), Some(done_ns)) = (started_ns, (self.config.stopwatch)())
        {
            out.samples
                .reconcile_ns
                .push(done_ns.saturating_sub(started_ns));
        }
        proposed
    }
}
