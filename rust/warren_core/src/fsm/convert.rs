//! Between the objects and their messages: the only place that does either.
//!
//! Towards objects a message may hold anything; what does not make sense is [`Error::Invalid`].

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fsm::holds::Hold;
use crate::fsm::objects::{
    Cluster, Container, ContainerState, DesiredState, Drain, Member, Node, Origin, Resources,
    Revision, Service, Status,
};
use crate::fsm::parse::ContainerFields;
use crate::fsm::placement::Rules;
use crate::ids::{ClusterId, ContainerId, MemberId, NodeId, ServiceId, SpecDigest};
use crate::pb;

/// Longest message of a status; the rest is cut off.
const STATUS_MESSAGE_BYTES_MAX: usize = 1024;
/// A name of DNS (RFC 1035: 253 bytes), a colon, a port.
const MEMBER_ADDRESS_BYTES_MAX: usize = 259;

fn invalid(what: &'static str, why: impl Into<String>) -> Error {
    Error::Invalid {
        what,
        why: why.into(),
    }
}

impl From<pb::Resources> for Resources {
    fn from(r: pb::Resources) -> Self {
        Self {
            cpu_milli: r.cpu_milli,
            memory_bytes: r.memory_bytes,
            disk_bytes: r.disk_bytes,
            pids: r.pids,
        }
    }
}

impl From<Resources> for pb::Resources {
    fn from(r: Resources) -> Self {
        Self {
            cpu_milli: r.cpu_milli,
            memory_bytes: r.memory_bytes,
            disk_bytes: r.disk_bytes,
            pids: r.pids,
        }
    }
}

impl From<Revision> for pb::Revision {
    fn from(r: Revision) -> Self {
        Self {
            epoch: r.epoch,
            index: r.index,
            ordinal: r.ordinal,
        }
    }
}

impl From<&Cluster> for pb::Cluster {
    fn from(c: &Cluster) -> Self {
        Self {
            id: c.id.to_vec(),
            epoch: c.epoch,
            created_at_ms: c.created_at_ms,
            feature_level: c.feature_level,
            settings: c.settings.map(Into::into),
            freeze: c.freeze.map(Into::into),
        }
    }
}

impl TryFrom<pb::Cluster> for Cluster {
    type Error = Error;

    fn try_from(c: pb::Cluster) -> Result<Self> {
        Ok(Self {
            id: ClusterId::from_slice(&c.id)?,
            epoch: c.epoch,
            created_at_ms: c.created_at_ms,
            feature_level: c.feature_level,
            settings: c.settings.map(Into::into),
            freeze: c.freeze.map(Into::into),
        })
    }
}

impl From<&Service> for pb::Service {
    fn from(s: &Service) -> Self {
        Self {
            id: s.id.to_vec(),
            spec: Some((*s.spec).clone()),
            version: s.version,
            spec_digest: s.spec_digest.0.to_vec(),
            created_at_ms: s.created_at_ms,
            updated_at_ms: s.updated_at_ms,
            removing: s.removing,
        }
    }
}

impl TryFrom<pb::Service> for Service {
    type Error = Error;

    fn try_from(s: pb::Service) -> Result<Self> {
        let spec = s.spec.ok_or_else(|| invalid("service", "it has no spec"))?;
        let container = spec.container.as_ref();
        let digest = container.map(super::validate::spec_digest);
        if digest != Some(spec_digest(&s.spec_digest)?) {
            return Err(invalid("service", "its spec does not match the digest"));
        }
        Ok(Self {
            id: ServiceId::from_slice(&s.id)?,
            name: spec.name.as_str().into(),
            spec_digest: spec_digest(&s.spec_digest)?,
            rules: Rules::of(&spec)?,
            spec: Arc::new(spec),
            version: s.version,
            created_at_ms: s.created_at_ms,
            updated_at_ms: s.updated_at_ms,
            removing: s.removing,
        })
    }
}

/// From a message's bytes; there must be 32.
pub fn spec_digest(bytes: &[u8]) -> Result<SpecDigest> {
    let length = || {
        invalid(
            "spec digest",
            format!("it has {} bytes, not 32", bytes.len()),
        )
    };
    bytes.try_into().map(SpecDigest).map_err(|_| length())
}

impl From<&Status> for pb::ContainerStatus {
    fn from(s: &Status) -> Self {
        Self {
            attempt: s.attempt,
            state: s.state.into(),
            message: s.message.to_string(),
            exit_code: s.exit_code.unwrap_or_default(),
            exited: s.exit_code.is_some(),
            oom_killed: s.oom_killed,
            pid: s.pid,
            started_at_ms: s.started_at_ms,
            finished_at_ms: s.finished_at_ms,
            retry_at_ms: s.retry_at_ms,
            removed: s.removed,
        }
    }
}

/// A [`pb::ContainerStatus`] that lies elsewhere: in one, or in the bytes of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StatusFields<'a> {
    pub attempt: u32,
    pub state: i32,
    pub message: &'a str,
    pub exit_code: i32,
    pub exited: bool,
    pub oom_killed: bool,
    pub pid: u32,
    pub started_at_ms: u64,
    pub finished_at_ms: u64,
    pub retry_at_ms: u64,
    pub removed: bool,
}

impl<'a> From<&'a pb::ContainerStatus> for StatusFields<'a> {
    fn from(s: &'a pb::ContainerStatus) -> Self {
        Self {
            attempt: s.attempt,
            state: s.state,
            message: &s.message,
            exit_code: s.exit_code,
            exited: s.exited,
            oom_killed: s.oom_killed,
            pid: s.pid,
            started_at_ms: s.started_at_ms,
            finished_at_ms: s.finished_at_ms,
            retry_at_ms: s.retry_at_ms,
            removed: s.removed,
        }
    }
}

impl Status {
    /// From a message. Its sentence is kept as `message` if they are the same, and becomes it
    /// otherwise.
    pub(super) fn sharing(message: &mut Arc<str>, s: &StatusFields<'_>) -> Result<Self> {
        let state = specified("container state", s.state, ContainerState::Unspecified)?;
        if s.attempt == 0 {
            return Err(invalid("container status", "attempts count from 1"));
        }
        let text = truncated(s.message, STATUS_MESSAGE_BYTES_MAX);
        if text != &**message {
            *message = text.into();
        }
        Ok(Self {
            attempt: s.attempt,
            state,
            message: Arc::clone(message),
            exit_code: s.exited.then_some(s.exit_code),
            oom_killed: s.oom_killed,
            pid: s.pid,
            started_at_ms: s.started_at_ms,
            finished_at_ms: s.finished_at_ms,
            retry_at_ms: s.retry_at_ms,
            removed: s.removed,
        })
    }
}

fn truncated(text: &str, bytes_max: usize) -> &str {
    let fits = |end: &usize| *end <= bytes_max && text.is_char_boundary(*end);
    let end = (0..=text.len().min(bytes_max))
        .rev()
        .find(fits)
        .unwrap_or(0);
    &text[..end]
}

/// The enumeration's value, unless it is unknown or unspecified.
pub(super) fn specified<E: TryFrom<i32> + PartialEq>(
    what: &'static str,
    value: i32,
    unspecified: E,
) -> Result<E> {
    match E::try_from(value) {
        Ok(known) if known != unspecified => Ok(known),
        _ => Err(invalid(what, format!("{value} is no known value"))),
    }
}

impl From<&Container> for pb::Container {
    fn from(c: &Container) -> Self {
        Self {
            id: c.id.to_vec(),
            service_id: c.service.to_vec(),
            service_name: c.service_name.to_string(),
            slot: c.slot,
            spec_digest: c.spec_digest.0.to_vec(),
            service_version: c.service_version,
            node_id: c.node.to_vec(),
            desired: c.desired.into(),
            status: Some((&c.status).into()),
            created_at_ms: c.created_at_ms,
            resources: Some(c.resources.into()),
            devices: c.devices().to_vec(),
        }
    }
}

impl<'a> From<&'a pb::Container> for ContainerFields<'a> {
    fn from(c: &'a pb::Container) -> Self {
        Self {
            id: &c.id,
            service_id: &c.service_id,
            service_name: &c.service_name,
            slot: c.slot,
            spec_digest: &c.spec_digest,
            service_version: c.service_version,
            node_id: &c.node_id,
            desired: c.desired,
            status: c.status.as_ref().map(StatusFields::from),
            created_at_ms: c.created_at_ms,
            resources: c.resources.unwrap_or_default().into(),
            devices: &c.devices,
        }
    }
}

impl Container {
    /// From a message. What it has in common with others and its sentence are kept as `origin` and
    /// `message` if they are the same, and become these otherwise.
    pub(super) fn sharing(
        origin: &mut Arc<Origin>,
        message: &mut Arc<str>,
        c: &ContainerFields<'_>,
    ) -> Result<Self> {
        let no_status = || invalid("container", "it has no status");
        let status = c.status.as_ref().ok_or_else(no_status)?;
        let of = Origin {
            service: ServiceId::from_slice(c.service_id)?,
            service_name: match *c.service_name == *origin.service_name {
                true => Arc::clone(&origin.service_name),
                false => c.service_name.into(),
            },
            service_version: c.service_version,
            spec_digest: spec_digest(c.spec_digest)?,
            resources: c.resources,
        };
        if of != **origin {
            *origin = Arc::new(of);
        }
        Ok(Self {
            id: ContainerId::from_slice(c.id)?,
            origin: Arc::clone(origin),
            slot: c.slot,
            node: NodeId::from_slice(c.node_id)?,
            desired: specified("desired state", c.desired, DesiredState::Unspecified)?,
            status: Status::sharing(message, status)?,
            created_at_ms: c.created_at_ms,
            devices: (!c.devices.is_empty()).then(|| Arc::new(c.devices.to_vec())),
        })
    }
}

impl From<&Node> for pb::Node {
    fn from(n: &Node) -> Self {
        Self {
            id: n.id.to_vec(),
            description: Some((*n.description).clone()),
            manager: n.manager,
            worker: n.worker,
            status: n.status.into(),
            availability: n.availability.into(),
            joined_at_ms: n.joined_at_ms,
            advertise_addr: n.advertise_addr.to_string(),
            labels: (*n.labels).clone(),
            taints: (*n.taints).clone(),
            drain_deadline_ms: n.drain.map_or(0, |drain| drain.deadline_ms),
            drain_overdue: n.drain.is_some_and(|drain| drain.overdue),
            holds: n.holds.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Node> for Node {
    type Error = Error;

    fn try_from(n: pb::Node) -> Result<Self> {
        let description = n
            .description
            .ok_or_else(|| invalid("node", "it has no description"))?;
        Ok(Self {
            id: NodeId::from_slice(&n.id)?,
            description: Arc::new(description),
            manager: n.manager,
            worker: n.worker,
            status: specified("node status", n.status, pb::NodeStatus::Unspecified)?,
            availability: specified(
                "availability",
                n.availability,
                pb::Availability::Unspecified,
            )?,
            joined_at_ms: n.joined_at_ms,
            advertise_addr: n.advertise_addr.as_str().into(),
            labels: Arc::new(n.labels),
            taints: Arc::new(n.taints),
            drain: (n.drain_deadline_ms > 0).then_some(Drain {
                deadline_ms: n.drain_deadline_ms,
                overdue: n.drain_overdue,
            }),
            holds: Arc::new(n.holds.iter().map(Hold::try_from).collect::<Result<_>>()?),
        })
    }
}

impl From<&Hold> for pb::Hold {
    fn from(h: &Hold) -> Self {
        Self {
            service_id: h.service.to_vec(),
            slot: h.slot,
            spec_digest: h.spec_digest.0.to_vec(),
            resources: Some(h.resources.into()),
            devices: h.devices.clone(),
            victims: h.victims.iter().map(|id| id.to_vec()).collect(),
            since_ms: h.since_ms,
        }
    }
}

impl TryFrom<&pb::Hold> for Hold {
    type Error = Error;

    fn try_from(h: &pb::Hold) -> Result<Self> {
        let victims = h.victims.iter().map(|id| ContainerId::from_slice(id));
        Ok(Self {
            service: ServiceId::from_slice(&h.service_id)?,
            slot: h.slot,
            spec_digest: spec_digest(&h.spec_digest)?,
            resources: h.resources.unwrap_or_default().into(),
            devices: h.devices.clone(),
            victims: victims.collect::<Result<_>>()?,
            since_ms: h.since_ms,
        })
    }
}

impl From<&Member> for pb::Member {
    fn from(m: &Member) -> Self {
        Self {
            id: m.id.0,
            data_dir: m.data_dir.to_vec(),
            node_id: m.node.to_vec(),
            address: m.address.to_string(),
            voter: m.voter,
            feature_level_max: m.feature_level_max,
            added_at_ms: m.added_at_ms,
            api_address: m.api_address.to_string(),
        }
    }
}

impl TryFrom<&pb::Member> for Member {
    type Error = Error;

    fn try_from(m: &pb::Member) -> Result<Self> {
        let bytes = m.data_dir.len();
        let data_dir = m.data_dir[..]
            .try_into()
            .map_err(|_| invalid("data directory id", format!("it has {bytes} bytes, not 16")))?;
        if m.id == 0 {
            return Err(invalid("member", "0 is no member's id"));
        }
        // None yet: a founder is alone, and nobody has to reach it.
        if m.address.len().max(m.api_address.len()) > MEMBER_ADDRESS_BYTES_MAX {
            let limit = MEMBER_ADDRESS_BYTES_MAX;
            let why = format!("its address has more than {limit} bytes");
            return Err(invalid("member", why));
        }
        Ok(Self {
            id: MemberId(m.id),
            data_dir,
            node: NodeId::from_slice(&m.node_id)?,
            address: m.address.as_str().into(),
            voter: m.voter,
            feature_level_max: m.feature_level_max,
            added_at_ms: m.added_at_ms,
            api_address: m.api_address.as_str().into(),
        })
    }
}
