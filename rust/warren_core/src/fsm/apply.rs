//! What each command does. Total: every decodable command gets an answer, none panics.

use std::sync::Arc;

use prost::Message;

use crate::error::{Error, Result};
use crate::fsm::content::Content;
use crate::fsm::convert::specified;
use crate::fsm::description;
use crate::fsm::members::ROLE_LEVEL;
use crate::fsm::objects::{Availability, Cluster, Event, Member, Node, NodeStatus, Service};
use crate::fsm::placement::Rules;
use crate::fsm::requests::RequestKey;
use crate::fsm::state::State;
use crate::fsm::validate;
use crate::ids::{ClusterId, ENTROPY_BYTES, Index, NodeId, ServiceId, Term};
use crate::mutant::{self, Mutant};
use crate::pb::{self, command::Body};

/// The newest feature level this release knows.
pub const FEATURE_LEVEL_MAX: u32 = 5;

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The encoded response of the API method behind the command, [`pb::BatchResult`] for
    /// batches, nothing for the cluster's own commands; or why it was refused.
    pub response: Result<Vec<u8>>,
    /// In order; none where refused, or where a repeated request was answered from memory.
    pub events: Vec<Event>,
}

/// A command in progress: where it stands, and what it has changed so far.
pub(super) struct Context {
    pub entropy: Result<[u8; ENTROPY_BYTES]>,
    pub events: Vec<Event>,
}

impl State {
    /// Applies the encoded command of the entry at `index`; see [`State::apply_bytes_as`].
    pub fn apply_bytes(&mut self, index: Index, term: Term, bytes: &[u8]) -> Result<Applied> {
        self.apply_bytes_as(FEATURE_LEVEL_MAX, index, term, bytes)
    }

    /// Applies the encoded command of the entry at `index`, as a release does that knows the
    /// feature levels up to `level_max`.
    ///
    /// An error is no refusal. It means that the others may do with the entry what this release
    /// cannot: its bytes are no command, or it raises the cluster to a level above `level_max`
    /// ([`Error::UnknownLevel`]). Nothing was changed, and the process must stop.
    pub fn apply_bytes_as(
        &mut self,
        level_max: u32,
        index: Index,
        term: Term,
        bytes: &[u8],
    ) -> Result<Applied> {
        if let Some((envelope, content)) = Content::in_place(bytes) {
            return Ok(self.apply_content(index, term, &envelope, Some(content)));
        }
        let command = pb::Command::decode(bytes).map_err(|error| Error::Invalid {
            what: "log entry",
            why: format!(
                "at index {}: {error}; was it written by a newer release?",
                index.0
            ),
        })?;
        if let Some(Body::RaiseFeatureLevel(raise)) = &command.body
            && raise.level > level_max
            && self.judge_raise(raise.level).is_ok()
        {
            return Err(Error::UnknownLevel { level: raise.level });
        }
        Ok(self.apply(index, term, &command))
    }

    /// Applies a command: looks up its request id, judges it, changes the state or refuses.
    pub fn apply(&mut self, index: Index, term: Term, command: &pb::Command) -> Applied {
        let content = command.body.as_ref().map(Content::Message);
        self.apply_content(index, term, command, content)
    }

    /// `content` is the body of the command; that in `command` is not looked at.
    fn apply_content(
        &mut self,
        index: Index,
        term: Term,
        command: &pb::Command,
        content: Option<Content<'_>>,
    ) -> Applied {
        self.advance(index, term);
        self.time_ms = self.time_ms.max(command.time_ms);
        self.requests.evict(index);
        let key = match command
            .request
            .as_ref()
            .map(RequestKey::try_from)
            .transpose()
        {
            Ok(key) => key,
            Err(refusal) => {
                return Applied {
                    response: Err(refusal),
                    events: Vec::new(),
                };
            }
        };
        let repeated = key
            .as_ref()
            .filter(|_| !mutant::is_on(Mutant::AppliesRetriesAgain));
        if let Some(response) = repeated.and_then(|key| self.requests.lookup(key)) {
            return Applied {
                response,
                events: Vec::new(),
            };
        }
        let entropy = command.entropy[..].try_into().map_err(|_| Error::Invalid {
            what: "command",
            why: format!(
                "it carries {} bytes of entropy, not 12",
                command.entropy.len()
            ),
        });
        let mut context = Context {
            entropy,
            events: Vec::new(),
        };
        let response = self.execute(&mut context, command.level, content);
        if let Some(key) = key {
            self.requests.remember(&key, index, &response);
            self.requests.evict(index);
        }
        Applied {
            response,
            events: context.events,
        }
    }

    fn execute(
        &mut self,
        context: &mut Context,
        level: u32,
        content: Option<Content<'_>>,
    ) -> Result<Vec<u8>> {
        // Before the body is looked at: an older release may not even know it, and has to come to
        // the same refusal.
        let current = self.feature_level();
        if level > current {
            return Err(Error::LevelNotReached { level, current });
        }
        let known = |content: &Content<'_>| content.level() <= level.max(1);
        let Some(content) = content.filter(known) else {
            return Err(invalid("command", "it says nothing"));
        };
        if self.cluster.is_none() && !matches!(content, Content::Message(Body::CreateCluster(_))) {
            return Err(Error::NotInCluster);
        }
        let body = match content {
            Content::Message(body) => body,
            Content::Report(report) => return self.report(context, report),
        };
        match body {
            Body::CreateCluster(c) => self.create_cluster(context, c),
            Body::RaiseFeatureLevel(c) => self.raise_feature_level(context, c),
            Body::CreateService(c) => self.create_service(context, c),
            Body::UpdateService(c) => self.update_service_spec(context, c),
            Body::RemoveService(c) => self.mark_removing(context, c),
            Body::ForgetService(c) => self.forget_service(context, c),
            Body::PutNode(c) => self.describe_node(context, c),
            Body::SetNodeStatus(c) => self.set_node_status(context, c),
            Body::SetNodeAvailability(c) => self.set_node_availability(context, c),
            Body::Bind(c) => self.bind(context, c),
            Body::SetDesired(c) => self.set_desired(context, c),
            Body::ReportStatus(c) => self.report_status(context, c),
            Body::PutMember(c) => self.put_member(context, c),
            Body::RemoveMember(c) => self.remove_member(context, c),
            Body::AdmitNode(c) => self.admit_node(c),
            Body::RemoveNode(c) => self.remove_node(context, c),
            Body::UpdateClusterSettings(c) => self.update_cluster_settings(context, c),
            Body::FreezeReplacement(c) => self.freeze_replacement(context, c),
            Body::UpdateNode(c) => self.update_node(context, c),
            Body::Preempt(c) => self.preempt(context, c),
            Body::MoveSlots(c) => self.move_slots(context, c),
        }
    }

    fn create_cluster(&mut self, cx: &mut Context, command: &pb::CreateCluster) -> Result<Vec<u8>> {
        if let Some(cluster) = &self.cluster {
            return Err(Error::AlreadyInCluster {
                cluster: cluster.id.to_string(),
            });
        }
        let id = ClusterId::from_slice(&command.cluster_id)?;
        let founder = command.founder.as_ref().map(Member::try_from).transpose()?;
        if let Some(founder) = founder {
            if !founder.voter {
                return Err(invalid("member", "the first one of a cluster votes"));
            }
            self.admit(cx, founder)?;
        }
        self.cluster = Some(Arc::new(Cluster {
            id,
            epoch: command.epoch,
            created_at_ms: self.time_ms,
            feature_level: 1,
            settings: None,
            freeze: None,
        }));
        cx.events.push(Event::Cluster);
        // Which node answers is the manager's to fill in.
        let node_id = Vec::new();
        Ok(pb::InitClusterResponse {
            cluster_id: id.to_vec(),
            node_id,
        }
        .encode_to_vec())
    }

    fn raise_feature_level(
        &mut self,
        cx: &mut Context,
        command: &pb::RaiseFeatureLevel,
    ) -> Result<Vec<u8>> {
        self.judge_raise(command.level)?;
        let cluster = Arc::make_mut(self.cluster.as_mut().ok_or(Error::NotInCluster)?);
        if command.level > cluster.feature_level {
            cluster.feature_level = command.level;
            cx.events.push(Event::Cluster);
            self.follow_roles(cx);
        }
        Ok(Vec::new())
    }

    /// Every member has to know the level; where none is known nobody can tell.
    fn judge_raise(&self, level: u32) -> Result<()> {
        let refuse = |why: &str| Err(invalid("feature level", why));
        if level <= self.feature_level() {
            return Ok(());
        }
        match self.members().min_by_key(|member| member.feature_level_max) {
            None => refuse("the cluster has no members that could know it"),
            Some(behind) if behind.feature_level_max < level => {
                let member = behind.id.0;
                refuse(&format!(
                    "member {member} does not know it; upgrade it first"
                ))
            }
            Some(_) => Ok(()),
        }
    }

    /// The level that the cluster can be raised to now: the newest that all members, and a leader
    /// whose release knows the levels up to `level_max`, know. `None` if it is there already.
    pub fn raisable_level(&self, level_max: u32) -> Option<u32> {
        let known = self.members().map(|member| member.feature_level_max).min();
        let level = known?.min(level_max);
        (level > self.feature_level()).then_some(level)
    }

    fn create_service(&mut self, cx: &mut Context, command: &pb::CreateService) -> Result<Vec<u8>> {
        let (spec, digest) = checked_spec(command.spec.as_ref(), self.feature_level())?;
        match self.service_by_name(&spec.name) {
            Some(known) if known.removing => return Err(Error::Removing { name: spec.name }),
            Some(_) => {
                return Err(Error::NameTaken {
                    kind: "service",
                    name: spec.name,
                });
            }
            None => {}
        }
        let id = ServiceId::compose(cx.entropy.clone()?, 0);
        if self.service(id).is_some() {
            return Err(invalid("command", "its entropy has been used before"));
        }
        let version = 1;
        self.insert_service(Service {
            id,
            name: spec.name.as_str().into(),
            rules: Rules::of(&spec)?,
            spec: Arc::new(spec),
            version,
            spec_digest: digest,
            created_at_ms: self.time_ms,
            updated_at_ms: self.time_ms,
            removing: false,
        });
        cx.events.push(Event::Service { id, gone: false });
        Ok(pb::CreateServiceResponse {
            service_id: id.to_vec(),
            version,
        }
        .encode_to_vec())
    }

    fn update_service_spec(
        &mut self,
        cx: &mut Context,
        command: &pb::UpdateService,
    ) -> Result<Vec<u8>> {
        let (spec, digest) = checked_spec(command.spec.as_ref(), self.feature_level())?;
        let service = self.known_service(&command.service_id)?;
        if service.removing {
            return Err(Error::Removing {
                name: service.name.to_string(),
            });
        }
        if service.version != command.expected_version {
            let (expected, actual) = (command.expected_version, service.version);
            return Err(Error::VersionConflict { expected, actual });
        }
        if spec.name != *service.name {
            return Err(invalid(
                "service spec",
                "a service keeps its name; create another one",
            ));
        }
        if spec.mode != service.spec.mode {
            return Err(invalid(
                "service spec",
                "a service keeps its mode; create another one",
            ));
        }
        let (id, version, time_ms) = (service.id, service.version + 1, self.time_ms);
        let rules = Rules::of(&spec)?;
        self.update_service(id, |service| {
            service.rules = rules;
            service.spec = Arc::new(spec);
            service.spec_digest = digest;
            service.version = version;
            service.updated_at_ms = time_ms;
        });
        cx.events.push(Event::Service { id, gone: false });
        self.end_unwanted_holds(cx, id);
        Ok(pb::UpdateServiceResponse { version }.encode_to_vec())
    }

    fn mark_removing(&mut self, cx: &mut Context, command: &pb::RemoveService) -> Result<Vec<u8>> {
        let service = self.known_service(&command.service_id)?;
        let (id, already) = (service.id, service.removing);
        if !already {
            let time_ms = self.time_ms;
            self.update_service(id, |service| {
                service.removing = true;
                service.updated_at_ms = time_ms;
            });
            cx.events.push(Event::Service { id, gone: false });
            self.end_unwanted_holds(cx, id);
        }
        Ok(pb::RemoveServiceResponse {}.encode_to_vec())
    }

    fn forget_service(&mut self, cx: &mut Context, command: &pb::ForgetService) -> Result<Vec<u8>> {
        let service = self.known_service(&command.service_id)?;
        let id = service.id;
        if !service.removing || self.container_count_of_service(id) > 0 {
            return Err(invalid(
                "command",
                "only a removed service without containers goes",
            ));
        }
        self.remove_service(id);
        cx.events.push(Event::Service { id, gone: true });
        Ok(Vec::new())
    }

    fn describe_node(&mut self, cx: &mut Context, command: &pb::PutNode) -> Result<Vec<u8>> {
        let id = NodeId::from_slice(&command.node_id)?;
        self.check_not_removed(id)?;
        let level = self.feature_level();
        let description = description::checked(command.description.as_ref(), level)?;
        let known = self.node(id);
        let node = Node {
            id,
            description: Arc::new(description),
            manager: match level {
                ROLE_LEVEL.. => self.manages(id),
                _ => command.manager,
            },
            worker: command.worker,
            // It has just spoken.
            status: known.map_or(NodeStatus::Ready, |node| node.status),
            availability: known.map_or(Availability::Active, |node| node.availability),
            joined_at_ms: known.map_or(self.time_ms, |node| node.joined_at_ms),
            advertise_addr: command.advertise_addr.as_str().into(),
            labels: known.map(|node| node.labels.clone()).unwrap_or_default(),
            taints: known.map(|node| node.taints.clone()).unwrap_or_default(),
            drain: known.and_then(|node| node.drain),
            holds: known.map(|node| node.holds.clone()).unwrap_or_default(),
        };
        if known != Some(&node) {
            self.put_node(node);
            cx.events.push(Event::Node { id });
        }
        Ok(Vec::new())
    }

    fn set_node_status(
        &mut self,
        cx: &mut Context,
        command: &pb::SetNodeStatus,
    ) -> Result<Vec<u8>> {
        let id = NodeId::from_slice(&command.node_id)?;
        let status = specified("node status", command.status, NodeStatus::Unspecified)?;
        let node = self.node(id).ok_or_else(|| not_found(NodeId::KIND, id))?;
        if node.status != status {
            self.put_node(Node {
                status,
                ..node.clone()
            });
            cx.events.push(Event::Node { id });
        }
        Ok(Vec::new())
    }

    fn known_service(&self, id: &[u8]) -> Result<&Service> {
        let id = ServiceId::from_slice(id)?;
        self.service(id)
            .ok_or_else(|| not_found(ServiceId::KIND, id))
    }
}

pub(super) fn invalid(what: &'static str, why: &str) -> Error {
    Error::Invalid {
        what,
        why: why.to_owned(),
    }
}

pub(super) fn not_found(kind: &'static str, id: impl std::fmt::Display) -> Error {
    Error::NotFound {
        kind,
        reference: id.to_string(),
    }
}

fn checked_spec(
    spec: Option<&pb::ServiceSpec>,
    level: u32,
) -> Result<(pb::ServiceSpec, crate::ids::SpecDigest)> {
    let mut spec = spec
        .cloned()
        .ok_or_else(|| invalid("service spec", "there is none"))?;
    validate::clip(&mut spec, level);
    let spec = validate::check_service_spec(&spec)?;
    let container = spec
        .container
        .as_ref()
        .expect("a checked spec has a container");
    validate::check_image_digest(&container.image_digest)?;
    let digest = validate::spec_digest(container);
    Ok((spec, digest))
}
