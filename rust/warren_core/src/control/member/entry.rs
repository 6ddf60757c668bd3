//! What comes in: calls, streams and what sessions say, and the commands they become.

use prost::Message as _;
use prost::bytes::Bytes;

use super::super::access::{Method, node_of};
use super::super::calls::Calls;
use super::super::entropy::Entropy;
use super::super::proposals::{Origin, PROPOSALS_MAX, Proposal};
use super::super::requests::{self, Prepared};
use super::super::{Call, CallId, Now, Outputs, sessions};
use super::Member;
use super::reading::Read;
use crate::error::Error;
use crate::ids::{NodeId, ServiceId};
use crate::mutant::{self, Mutant};
use crate::pb;
use crate::pb::command::Body;

/// Longest command; half of the smallest segment of the log.
const COMMAND_BYTES_MAX: usize = 512 << 10;

impl Member {
    /// Starts a call; an answer if there is one already.
    pub fn call(
        &mut self,
        now: Now,
        method: Method,
        call: Call,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) -> Option<Result<Vec<u8>, Error>> {
        if self.stopped {
            return Some(Err(Error::ShuttingDown));
        }
        if let Some(leader) = self.forwards_to(method, &call) {
            let forwarded = self.forward(now, leader, &call, entropy, out);
            return forwarded.err().map(Err);
        }
        let result = match method {
            Method::InitCluster => self.init_again(&call),
            Method::CreateService
            | Method::UpdateService
            | Method::RemoveService
            | Method::UpdateCluster
            | Method::UpdateNode
            | Method::AddMember
            | Method::RemoveMember
            | Method::AdmitNode
            | Method::RemoveNode
            | Method::PromoteNode
            | Method::DemoteNode => self.change(now, method, call, entropy),
            Method::SessionMessage => self.session_message(now, &call, entropy),
            Method::TransferLeadership => self.transfer(now, &call),
            Method::JudgeRecovery => self.judge_recovery(&call.body).map(Some),
            _ => self.read(now, method, call, calls, out).map(|()| None),
        };
        result.map_or_else(|error| Some(Err(error)), |answer| answer.map(Ok))
    }

    pub fn subscribe(
        &mut self,
        now: Now,
        method: Method,
        call: Call,
        entropy: &mut Entropy,
        out: &mut Outputs,
    ) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::ShuttingDown);
        }
        self.check_serving()?;
        if method == Method::WatchService {
            let request: pb::WatchServiceRequest = requests::decode(&call.body)?;
            return self
                .watches
                .open(call.id, ServiceId::from_slice(&request.service_id)?);
        }
        self.open_session(now, &call, entropy, out)
    }

    /// Takes up what changes the state. What becomes an entry is judged where it stands in the log. An
    /// answer without one is only as new as the state here, and others may have deposed this member:
    /// it waits until a quorum has confirmed that state, like a read, and is judged again.
    fn change(
        &mut self,
        now: Now,
        method: Method,
        call: Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        match self.judge(now, method, &call, entropy) {
            Ok(None) => Ok(None),
            Err(error) if is_of_this_member(&error) => Err(error),
            answer if mutant::is_on(Mutant::RefusesUnconfirmed) => answer,
            _ => {
                self.reads.add(Read::new(method, call));
                Ok(None)
            }
        }
    }

    /// The state is confirmed: answered by it, or proposed if it has changed meanwhile.
    pub(super) fn judge_again(
        &mut self,
        now: Now,
        Read { method, call, .. }: Read,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        if !calls.is_open(call.id) {
            return;
        }
        match self.judge(now, method, &call, entropy) {
            Ok(None) => out.again = true,
            Ok(Some(answer)) => calls.reply(call.id, Ok(answer), out),
            Err(error) => calls.reply(call.id, Err(error), out),
        }
    }

    /// Proposes it, or says by the state as it is here why not.
    fn judge(
        &mut self,
        now: Now,
        method: Method,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        match method {
            Method::AddMember => self.add_member(now, call, entropy),
            Method::RemoveMember => self.remove_member(now, call, entropy),
            Method::AdmitNode => self.admit_node(now, call, entropy),
            Method::RemoveNode => self.remove_node(now, call, entropy),
            Method::PromoteNode => self.promote_node(now, call, entropy),
            Method::DemoteNode => self.demote_node(now, call, entropy),
            _ => self.write(now, method, call, entropy),
        }
    }

    fn write(
        &mut self,
        now: Now,
        method: Method,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let (request, body) = match requests::prepare(&self.state, method, &call.body)? {
            Prepared::Answered(answer) => return answer.map(Some),
            Prepared::Propose(request, body) => (request, *body),
        };
        self.check_space()?;
        let origin = Some(Origin::Call(call.id));
        self.propose(now, entropy, &call.identity, request, body, origin)?;
        Ok(None)
    }

    fn init_again(&mut self, call: &Call) -> Result<Option<Vec<u8>>, Error> {
        if self.state.cluster().is_some() || self.founding.is_some() {
            let cluster = self.identity.cluster.to_string();
            return Err(Error::AlreadyInCluster { cluster });
        }
        // The daemon died between creating the log and its first entries.
        let request: pb::InitClusterRequest = requests::decode(&call.body)?;
        self.founding = Some((call.id, request.advertise_addr));
        Ok(None)
    }

    pub(super) fn propose_own(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        body: Body,
        origin: Option<Origin>,
    ) -> Result<(), Error> {
        self.propose(now, entropy, "system", None, body, origin)
    }

    pub(super) fn propose(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        identity: &str,
        request: Option<pb::RequestId>,
        body: Body,
        origin: Option<Origin>,
    ) -> Result<(), Error> {
        self.check_room()?;
        let repeatable = request.is_some();
        let bytes = self.command(now, entropy, identity, request, body)?;
        let again = repeatable.then(|| Bytes::from(bytes.clone()));
        let at = self.raft.propose(bytes)?;
        if let Some(origin) = origin {
            let proposed_ns = now.mono_ns;
            let proposal = Proposal {
                origin,
                proposed_ns,
                again,
            };
            self.proposals.add(at, proposal);
        }
        Ok(())
    }

    pub(super) fn check_room(&self) -> Result<(), Error> {
        if self.proposals.len() < PROPOSALS_MAX {
            return Ok(());
        }
        Err(Error::Overloaded {
            queue: "the log",
            limit: PROPOSALS_MAX,
        })
    }

    /// A command as it stands in the log, stamped with time and entropy.
    pub(super) fn command(
        &self,
        now: Now,
        entropy: &mut Entropy,
        identity: &str,
        request: Option<pb::RequestId>,
        body: Body,
    ) -> Result<Vec<u8>, Error> {
        let level_max = self.config.feature_level_max;
        let command = pb::Command {
            level: self.state.feature_level().min(level_max),
            time_ms: now.wall_ms,
            entropy: entropy.draw().to_vec(),
            request: request.filter(|_| !mutant::is_on(Mutant::DropsRequestIds)),
            identity: identity.to_owned(),
            body: Some(body),
        };
        let bytes = command.encode_to_vec();
        if bytes.len() <= COMMAND_BYTES_MAX {
            return Ok(bytes);
        }
        let (what, actual_bytes) = ("the command", bytes.len());
        Err(Error::TooLarge {
            what,
            actual_bytes,
            limit_bytes: COMMAND_BYTES_MAX,
        })
    }

    pub(super) fn check_serving(&self) -> Result<(), Error> {
        match (self.leading, self.state.cluster()) {
            (false, _) => Err(self.not_leading()),
            (true, None) => Err(Error::NotInCluster),
            (true, Some(_)) => Ok(()),
        }
    }

    pub(super) fn check_space(&self) -> Result<(), Error> {
        if self.has_space || mutant::is_on(Mutant::WritesWithoutSpace) {
            Ok(())
        } else {
            Err(Error::NoSpace {
                dir: self.config.log_dir.clone(),
            })
        }
    }

    fn open_session(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
        out: &mut Outputs,
    ) -> Result<(), Error> {
        let hello: pb::Hello = requests::decode(&call.body)?;
        let node = NodeId::from_slice(&hello.node_id)?;
        if node_of(&call.identity).is_some_and(|own| own != node) {
            let (identity, method) = (call.identity.clone(), format!("Session of node {node}"));
            return Err(Error::Denied { identity, method });
        }
        self.state.check_not_removed(node)?;
        if self.sessions.unheard() >= sessions::UNHEARD_MAX {
            let (queue, limit) = ("the list of workers that come back", sessions::UNHEARD_MAX);
            return Err(Error::Overloaded { queue, limit });
        }
        let origin = Origin::Hello(node);
        let introduced = self.introduce(now, node, hello.description.as_ref(), entropy, origin)?;
        let mut reports: Vec<_> = hello.observed.chunks(sessions::REPORT_ITEMS_MAX).collect();
        // A hello is always followed by an entry, and answered once that is applied: what the worker
        // is told then, a quorum has confirmed since. A leader that was deposed and does not know it
        // yet tells nobody to go on with what has been replaced meanwhile.
        if reports.is_empty() && !introduced {
            reports.push(&[]);
        }
        for items in reports {
            let report = pb::ReportStatus {
                node_id: node.to_vec(),
                items: items.to_vec(),
            };
            let origin = Some(Origin::Hello(node));
            let body = Body::ReportStatus(report);
            self.propose(now, entropy, &call.identity, None, body, origin)?;
        }
        let (term, last_index) = (self.raft.term(), self.raft.last().index);
        let epoch = self.identity.epoch;
        let managers = self.managers_for(node);
        self.sessions.open(
            call.id,
            node,
            &hello,
            (epoch, term),
            last_index,
            entropy.draw(),
            managers,
            &self.state,
            out,
        );
        self.orchestrator.session_up(node, now.mono_ms());
        Ok(())
    }

    /// Makes the node's record say what the node says of itself; false if it does.
    fn introduce(
        &mut self,
        now: Now,
        node: NodeId,
        description: Option<&pb::NodeDescription>,
        entropy: &mut Entropy,
        origin: Origin,
    ) -> Result<bool, Error> {
        let known = self.state.node(node);
        let mut description = description.cloned().unwrap_or_default();
        self.clip_description(&mut description);
        if known.is_some_and(|known| known.worker && *known.description == description) {
            return Ok(false);
        }
        let put = pb::PutNode {
            node_id: node.to_vec(),
            description: Some(description),
            manager: self.state.manages(node),
            worker: true,
            advertise_addr: known.map_or(String::new(), |known| known.advertise_addr.to_string()),
        };
        self.propose_own(now, entropy, Body::PutNode(put), Some(origin))?;
        Ok(true)
    }

    /// One message of an open session: 16 bytes of session id, then the message.
    fn session_message(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        use pb::worker_message::Body as Message;
        self.check_serving()?;
        let (node, message) = self.sessions.message(&call.body)?;
        if node_of(&call.identity).is_some_and(|own| own != node) {
            return Err(Error::StaleSession);
        }
        self.orchestrator.alive(node, now.mono_ms());
        match message.body {
            // No acknowledgement by one that may have been deposed: the worker would rely on it.
            Some(Message::Heartbeat(_)) if !self.reads.is_confirmed(now) => Ok(Some(Vec::new())),
            Some(Message::Heartbeat(heartbeat)) => {
                if let Some(usage) = heartbeat.usage {
                    self.used_told(now, node, usage);
                }
                let interval_ms = sessions::heartbeat_interval_ms(self.state.node_count());
                Ok(Some(sessions::heartbeat_ack(
                    heartbeat.sequence,
                    interval_ms,
                    now.wall_ms,
                )))
            }
            None => Ok(Some(Vec::new())),
            Some(Message::Resync(_)) => {
                self.sessions.resync(node);
                Ok(Some(Vec::new()))
            }
            Some(Message::Description(description)) => {
                self.check_space()?;
                let origin = Origin::Call(call.id);
                let proposed = self.introduce(now, node, Some(&description), entropy, origin)?;
                Ok((!proposed).then(Vec::new))
            }
            Some(Message::Report(report)) => {
                self.check_space()?;
                sessions::check_report(&report)?;
                let report = pb::ReportStatus {
                    node_id: node.to_vec(),
                    items: report.items,
                };
                let origin = Some(Origin::Call(call.id));
                let body = Body::ReportStatus(report);
                self.propose(now, entropy, &call.identity, None, body, origin)?;
                Ok(None)
            }
            Some(Message::Hello(_)) => Err(Error::Invalid {
                what: "session message",
                why: "a hello opens a session; it cannot come later".into(),
            }),
        }
    }

    pub(super) fn cancel(&mut self, now: Now, id: CallId) {
        self.watches.close(id);
        if let Some(node) = self.sessions.close(id) {
            self.orchestrator.session_down(node, now.mono_ms());
        }
    }
}

/// Errors that speak of this member as it is now, and not of what the state says.
fn is_of_this_member(error: &Error) -> bool {
    matches!(
        error,
        Error::NotLeader { .. }
            | Error::NoLeader
            | Error::NoQuorum
            | Error::QuorumLost { .. }
            | Error::NotInCluster
            | Error::HandingOver
            | Error::Overloaded { .. }
            | Error::NoSpace { .. }
            | Error::ShuttingDown
    )
}
