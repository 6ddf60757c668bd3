//! The one who runs the cluster: adds members, removes them, replaces what broke, and repeats a
//! request until it is answered.

use std::collections::VecDeque;

use prost::Message as _;

use super::coverage::Kind;
use super::network::End;
use super::queue::{Asked, Event, Failure};
use super::random::Random;
use super::wire::Wire;
use crate::control::Consistency;
use crate::ids::{ClusterId, MemberId, NodeId};
use crate::pb;

const SECOND_NS: u64 = 1_000_000_000;
const TIMEOUT_MS: u64 = 5_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    Add {
        machine: End,
        data_dir: [u8; 16],
        node: NodeId,
        address: String,
    },
    Remove {
        member: MemberId,
    },
    Transfer {
        member: MemberId,
    },
    /// A worker whose host is gone.
    RemoveNode {
        node: NodeId,
    },
    AdmitNode {
        node: NodeId,
    },
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    Added {
        machine: End,
        cluster: ClusterId,
        epoch: u64,
        member: MemberId,
    },
    Removed(MemberId),
    NodeRemoved(NodeId),
    NodeAdmitted(NodeId),
    Transferred,
    /// Wished for, and refused.
    NotTransferred,
}

/// Invariant: the first task is the one under way.
pub struct Operator {
    end: End,
    id: [u8; 16],
    random: Random,
    sequence: u64,
    tasks: VecDeque<Task>,
    tokens: u64,
    generation: u32,
    target: Option<End>,
    last_refusal: String,
}

impl Operator {
    pub fn new(seed: u64, end: End) -> Self {
        let mut random = Random::stream(seed, "operator", 0);
        Self {
            end,
            id: random.bytes(),
            random,
            sequence: 0,
            tasks: VecDeque::new(),
            tokens: 0,
            generation: 0,
            target: None,
            last_refusal: String::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Tasks not done yet.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter()
    }

    /// Why the task under way is not done yet.
    pub fn last_refusal(&self) -> &str {
        &self.last_refusal
    }

    pub fn give(&mut self, wire: &mut Wire, task: Task) {
        self.tasks.push_back(task);
        if self.tasks.len() == 1 {
            self.begin(wire);
        }
    }

    fn begin(&mut self, wire: &mut Wire) {
        self.sequence += 1;
        self.attempt(wire);
    }

    fn wake_in(&mut self, wire: &mut Wire, delay_ns: u64) {
        self.generation += 1;
        wire.plan_in(delay_ns, Event::Wake(self.end, self.generation));
    }

    /// Time to ask again. A change of members is never given up: it may have been made.
    pub fn wake(&mut self, wire: &mut Wire, generation: u32) {
        if self.generation == generation {
            self.attempt(wire);
        }
    }

    fn next(&mut self, wire: &mut Wire) {
        self.tokens += 1;
        self.generation += 1;
        if !self.tasks.is_empty() {
            self.begin(wire);
        }
    }

    fn attempt(&mut self, wire: &mut Wire) {
        let Some((method, body)) = self.tasks.front().map(|task| self.request(task)) else {
            return;
        };
        self.tokens += 1;
        let target = self.target.take();
        let target = target.or_else(|| self.random.pick(&wire.directory).copied());
        let asked = Asked {
            from: self.end,
            token: self.tokens,
            identity: "local".into(),
            method,
            body,
            timeout_ms: TIMEOUT_MS,
            consistency: Consistency::Linearizable,
            stream: false,
        };
        if let Some(target) = target {
            wire.ask(target, asked);
        }
        self.wake_in(wire, (TIMEOUT_MS + 500) * 1_000_000);
    }

    fn request(&self, task: &Task) -> (&'static str, Vec<u8>) {
        let request = Some(pb::RequestId {
            client: self.id.to_vec(),
            sequence: self.sequence,
            digest: Vec::new(),
        });
        match task {
            Task::Add {
                data_dir,
                node,
                address,
                ..
            } => {
                let add = pb::AddMemberRequest {
                    api_address: String::new(),
                    request,
                    data_dir: data_dir.to_vec(),
                    node_id: node.to_vec(),
                    address: address.clone(),
                    learner_only: false,
                };
                ("AddMember", add.encode_to_vec())
            }
            Task::Remove { member } => {
                let member_id = member.0;
                let remove = pb::RemoveMemberRequest { request, member_id };
                ("RemoveMember", remove.encode_to_vec())
            }
            Task::RemoveNode { node } => {
                let (r#ref, force) = (node.to_string(), true);
                let remove = pb::RemoveNodeRequest {
                    request,
                    r#ref,
                    force,
                };
                ("RemoveNode", remove.encode_to_vec())
            }
            Task::AdmitNode { node } => {
                let node_id = node.to_vec();
                let admit = pb::AdmitNodeRequest { request, node_id };
                ("AdmitNode", admit.encode_to_vec())
            }
            Task::Transfer { member } => {
                let member_id = member.0;
                let transfer = pb::TransferLeadershipRequest { member_id };
                ("TransferLeadership", transfer.encode_to_vec())
            }
        }
    }

    pub fn answered(
        &mut self,
        wire: &mut Wire,
        token: u64,
        result: Result<Vec<u8>, Failure>,
    ) -> Option<Done> {
        if token != self.tokens {
            return None;
        }
        let task = self.tasks.front()?;
        let done = match (result, task) {
            (Ok(bytes), Task::Add { machine, .. }) => added(*machine, &bytes),
            (Ok(_), Task::Remove { member }) => Some(Done::Removed(*member)),
            (Ok(_), Task::RemoveNode { node }) => Some(Done::NodeRemoved(*node)),
            (Err(Failure::Refused(error)), Task::RemoveNode { node })
                if error.code() == "not_found" =>
            {
                Some(Done::NodeRemoved(*node))
            }
            (Ok(_), Task::AdmitNode { node }) => Some(Done::NodeAdmitted(*node)),
            (Ok(_), Task::Transfer { .. }) => Some(Done::Transferred),
            (Err(Failure::Refused(error)), Task::Remove { member })
                if error.code() == "not_found" =>
            {
                Some(Done::Removed(*member))
            }
            // A wish, not a need.
            (Err(_), Task::Transfer { .. }) => Some(Done::NotTransferred),
            (Err(failure), _) => {
                self.refused(&failure);
                None
            }
        };
        if done.is_none() {
            let pause_ns = SECOND_NS / 4 + self.random.below(SECOND_NS);
            self.generation += 1;
            wire.note(Kind::Retried);
            wire.plan_in(pause_ns, Event::Wake(self.end, self.generation));
            return None;
        }
        self.tasks.pop_front();
        self.next(wire);
        done
    }

    fn refused(&mut self, failure: &Failure) {
        self.last_refusal = match failure {
            Failure::Refused(error) => {
                self.target = super::machine::end_of(&error.to_pb().leader_address);
                error.to_string()
            }
            other => format!("{other:?}"),
        };
    }
}

fn added(machine: End, bytes: &[u8]) -> Option<Done> {
    let response = pb::AddMemberResponse::decode(bytes).ok()?;
    Some(Done::Added {
        machine,
        cluster: ClusterId::from_slice(&response.cluster_id).ok()?,
        epoch: response.epoch,
        member: MemberId(response.member_id),
    })
}
