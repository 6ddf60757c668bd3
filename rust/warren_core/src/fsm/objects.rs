//! The objects of the replicated state, as the core sees them: ids are types, enumerations are
//! never unspecified. `convert` turns them into messages and back.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use crate::fsm::holds::Hold;
use crate::fsm::placement::Rules;
use crate::fsm::settings::{Freeze, Settings};
use crate::fsm::volumes;
use crate::ids::{ClusterId, ContainerId, MemberId, NodeId, ServiceId, SpecDigest};
use crate::pb;

pub use crate::pb::{
    Availability, ContainerState, DesiredState, NodeStatus, RestartCondition, ServiceMode,
};

/// Upper bounds of what a node may claim and a container may ask: a million CPUs, a pebibyte.
/// With them no sum or product of the scheduler leaves its integers.
pub const CPU_MILLI_MAX: u64 = 1_000_000_000;
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// An exbibyte, and what Linux can number on a host of 64 bits.
pub const DISK_BYTES_MAX: u64 = 1 << 60;
pub const PIDS_MAX: u64 = 1 << 22;
/// Devices of one kind on a node.
pub const DEVICES_PER_KIND_MAX: u64 = 1024;

/// An amount of what nodes have and containers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Resources {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Resources {
    pub fn saturating_add(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// Each of the amounts with that of `other`.
    pub fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_milli: join(self.cpu_milli, other.cpu_milli),
            memory_bytes: join(self.memory_bytes, other.memory_bytes),
            disk_bytes: join(self.disk_bytes, other.disk_bytes),
            pids: join(self.pids, other.pids),
        }
    }

    /// Whether `self` can be taken from `free`. Asking for none of a resource always fits, also
    /// on a node that is over-allocated in it since it shrank.
    pub fn fits(self, free: Self) -> bool {
        let one = |asked: u64, free: u64| asked == 0 || asked <= free;
        one(self.cpu_milli, free.cpu_milli)
            && one(self.memory_bytes, free.memory_bytes)
            && one(self.disk_bytes, free.disk_bytes)
            && one(self.pids, free.pids)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub id: ClusterId,
    /// Raised by a restore or a recovery from lost quorum.
    pub epoch: u64,
    pub created_at_ms: u64,
    pub feature_level: u32,
    /// `None` until somebody changes one.
    pub settings: Option<Settings>,
    /// There while containers of workers that are down are not replaced.
    pub freeze: Option<Freeze>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub id: ServiceId,
    pub name: Arc<str>,
    /// As `validate::check_service_spec` left it: complete and normal.
    pub spec: Arc<pb::ServiceSpec>,
    /// What its placement means; derived from the spec.
    pub rules: Arc<Rules>,
    /// Raised by each update; updates carry the one they expect.
    pub version: u64,
    pub spec_digest: SpecDigest,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
    /// Gets no new containers, and is forgotten when its last one is gone.
    pub removing: bool,
}

impl Service {
    pub fn mode(&self) -> ServiceMode {
        self.spec.mode()
    }

    pub fn is_global(&self) -> bool {
        self.mode() == ServiceMode::Global
    }

    /// What each of its containers runs.
    pub fn container_spec(&self) -> &pb::ContainerSpec {
        self.spec
            .container
            .as_ref()
            .expect("a stored spec has a container")
    }

    /// Containers of it that one node may have, whatever room there is: of those that claim the same
    /// port, or a volume for themselves, no two.
    pub fn per_node_max(&self) -> u32 {
        match self.rules.max_replicas_per_node {
            _ if !self.container_spec().host_ports.is_empty() => 1,
            _ if volumes::wants_one_alone(self.container_spec()) => 1,
            0 => u32::MAX,
            most => most,
        }
    }

    pub fn resources(&self) -> Resources {
        self.container_spec().resources.unwrap_or_default().into()
    }

    /// Of containers that are made of it as it is.
    pub fn origin(&self) -> Origin {
        Origin {
            service: self.id,
            service_name: self.name.clone(),
            service_version: self.version,
            spec_digest: self.spec_digest,
            resources: self.resources(),
        }
    }
}

/// What a node last said of its container. Invariant: `attempt` ≥ 1, and (`attempt`, `state`)
/// only grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub attempt: u32,
    pub state: ContainerState,
    /// A sentence for people.
    pub message: Arc<str>,
    /// Of the last exit, where there was one.
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    pub pid: u32,
    pub started_at_ms: u64,
    pub finished_at_ms: u64,
    pub retry_at_ms: u64,
    /// Nothing of it is left on its node.
    pub removed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: ContainerId,
    /// Its fields are read like the container's own.
    pub origin: Arc<Origin>,
    /// From 1; 0 for global services, where the node is the slot.
    pub slot: u64,
    /// For life.
    pub node: NodeId,
    pub desired: DesiredState,
    pub status: Status,
    pub created_at_ms: u64,
    /// Held like its resources; `None` where there are none, as with most.
    pub devices: Option<Arc<Vec<pb::DeviceShare>>>,
}

/// What all containers of one version of a service have in common, kept once for all of them: there
/// may be a million.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub service: ServiceId,
    pub service_name: Arc<str>,
    pub service_version: u64,
    pub spec_digest: SpecDigest,
    /// Held on the node until a terminal state.
    pub resources: Resources,
}

impl Deref for Container {
    type Target = Origin;

    #[inline]
    fn deref(&self) -> &Origin {
        &self.origin
    }
}

impl Container {
    pub fn is_terminal(&self) -> bool {
        is_terminal(self.status.state)
    }

    /// Given up with its node, where it may still run.
    pub fn is_lost(&self) -> bool {
        self.status.state == ContainerState::Lost
    }

    /// Whether it keeps its slot from being filled: it is meant to run, or may still be running.
    pub fn occupies(&self) -> bool {
        self.desired == DesiredState::Run || !self.is_terminal()
    }

    pub fn devices(&self) -> &[pb::DeviceShare] {
        self.devices.as_ref().map_or(&[], |devices| devices)
    }

    /// What it holds of its node now.
    pub fn held(&self) -> Resources {
        if self.is_terminal() {
            Resources::default()
        } else {
            self.resources
        }
    }
}

/// States that a container never leaves: it runs no more and holds nothing.
pub fn is_terminal(state: ContainerState) -> bool {
    use ContainerState::*;
    matches!(state, Complete | Failed | Shutdown | Rejected | Lost)
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub id: NodeId,
    pub description: Arc<pb::NodeDescription>,
    pub manager: bool,
    pub worker: bool,
    pub status: NodeStatus,
    pub availability: Availability,
    pub joined_at_ms: u64,
    pub advertise_addr: Arc<str>,
    /// What operators have set, apart from what the node says of itself.
    pub labels: Arc<BTreeMap<String, String>>,
    pub taints: Arc<Vec<pb::Taint>>,
    /// While it is drained by a certain time.
    pub drain: Option<Drain>,
    /// The oldest first; none while it takes no containers.
    pub holds: Arc<Vec<Hold>>,
}

/// By when a drain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// On the state's clock.
    pub deadline_ms: u64,
    /// The leader has found that the time is over: what is still there goes at once.
    pub overdue: bool,
}

impl Node {
    pub fn name(&self) -> &str {
        &self.description.name
    }

    pub fn capacity(&self) -> Resources {
        self.description.capacity.unwrap_or_default().into()
    }

    /// What its host keeps for the system.
    pub fn reserved(&self) -> Resources {
        self.description.reserved.unwrap_or_default().into()
    }

    /// What it has for containers: its capacity without what is reserved for the system. How much
    /// of that may be given away is [`State::allocatable`](crate::fsm::State::allocatable)'s to say.
    pub fn allocatable(&self) -> Resources {
        self.capacity().saturating_sub(self.reserved())
    }

    /// The value of a label; what operators have set comes first.
    pub fn label(&self, key: &str) -> Option<&str> {
        let own = || self.description.labels.get(key);
        self.labels.get(key).or_else(own).map(String::as_str)
    }

    /// Keys of its labels, each once: those that operators have set, then the others.
    pub fn label_keys(&self) -> impl Iterator<Item = &str> {
        let own = self.description.labels.keys();
        let own = own.filter(|key| !self.labels.contains_key(*key));
        self.labels.keys().chain(own).map(String::as_str)
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.all_taints().next().is_some()
    }

    /// Those of its host and those that operators have set.
    pub fn all_taints(&self) -> impl Iterator<Item = &pb::Taint> {
        self.description.taints.iter().chain(self.taints.iter())
    }

    /// Whether new containers may be bound to it, whatever they are.
    pub fn accepts_work(&self) -> bool {
        self.refusal().is_none()
    }

    pub fn is_draining(&self) -> bool {
        self.availability == Availability::Drain
    }

    /// Whether what is on it goes without waiting for room elsewhere.
    pub fn is_drain_overdue(&self) -> bool {
        self.is_draining() && self.drain.is_some_and(|drain| drain.overdue)
    }

    /// Why no container may be bound to it, whatever it is.
    pub fn refusal(&self) -> Option<&'static str> {
        if !self.worker {
            Some("it is no worker")
        } else if self.status != NodeStatus::Ready {
            Some("it is down")
        } else {
            match self.availability {
                Availability::Active => None,
                Availability::Drain => Some("it is being drained"),
                _ => Some("it is paused"),
            }
        }
    }

    pub fn has_image(&self, digest: &str) -> bool {
        self.description
            .images
            .iter()
            .any(|image| image.digest == digest)
    }
}

/// The UUID of a data directory, drawn when it was made.
pub type DataDirId = [u8; 16];

/// A manager that takes part in consensus, as the cluster wants it; what the configuration of
/// consensus holds at the moment is `raft`'s to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Never used for another one.
    pub id: MemberId,
    /// For life: the same id on an empty disk would have forgotten its votes.
    pub data_dir: DataDirId,
    pub node: NodeId,
    /// `host:port` that other members reach it at.
    pub address: Arc<str>,
    /// Wanted to vote, once it has caught up; else it stays a learner.
    pub voter: bool,
    /// The newest feature level that its release knows; ≥ that of the state.
    pub feature_level_max: u32,
    pub added_at_ms: u64,
    /// `host:port` of its API; empty where it is not known.
    pub api_address: Arc<str>,
}

/// A position in the history of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision {
    pub epoch: u64,
    pub index: u64,
    pub ordinal: u32,
}

/// What an applied command changed. The revision of event number `n` of an entry is
/// (epoch, index of the entry, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Cluster,
    Service {
        id: ServiceId,
        gone: bool,
    },
    Node {
        id: NodeId,
    },
    Member {
        id: MemberId,
        gone: bool,
    },
    Container {
        id: ContainerId,
        service: ServiceId,
        node: NodeId,
        gone: bool,
    },
}
