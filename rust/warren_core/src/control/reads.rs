//! Answers to reads: pure functions of a state, for reader threads where they take long.

use std::collections::BTreeMap;

use prost::Message as _;

use super::CallId;
use super::access::Method;
use super::member::usage;
use super::requests::decode;
use super::{events, explaining, planning};
use crate::error::Error;
use crate::fsm::placement::Attribute;
use crate::fsm::{Container, ContainerState, DesiredState, Node, NodeStatus, Resources, Service};
use crate::fsm::{State, is_wanted, tally};
use crate::ids::{Index, MemberId, NodeId, ServiceId, Term};
use crate::orchestrator::{CrashLoop, Keeping, KnownFailing, PendingSlot, made_room};
use crate::pb;

/// A read that looks at no more than so many is answered where it stands: handing it to another
/// thread would take longer.
const SMALL_OBJECTS_MAX: usize = 64;

/// What an answer needs of the leader beside the state.
#[derive(Clone, Debug)]
pub struct LeaderView {
    pub node: NodeId,
    pub leader: Option<NodeId>,
    pub term: Term,
    pub last_index: Index,
    pub applied_index: Index,
    /// Slots of the service asked for that have no container, and why.
    pub pending: Vec<PendingSlot>,
    /// Slots of the service asked for that are crash-looping.
    pub loops: Vec<CrashLoop>,
    /// How many slots of services are crash-looping; for a list of the services only.
    pub looping: BTreeMap<ServiceId, u32>,
    /// What of the service keeps failing; for an explanation only.
    pub keeping: Keeping,
    /// Where services keep failing; for a plan only.
    pub failing: KnownFailing,
    /// The state may be old.
    pub stale: bool,
    /// A change of voters is under way.
    pub joint: bool,
    /// What the nodes asked for use, where that is known.
    pub used: BTreeMap<NodeId, pb::NodeUsage>,
    /// For a list of events only.
    pub told: Result<events::Told, Error>,
    /// For a list of the members only.
    pub members: Vec<MemberProgress>,
}

/// How consensus sees a member.
#[derive(Clone, Debug)]
pub struct MemberProgress {
    pub member: MemberId,
    pub leader: bool,
    pub voter: bool,
    pub recent_active: bool,
    /// 0 where it is not known.
    pub match_index: Index,
    pub release: String,
}

/// A read that may be answered, with everything that takes.
pub struct ReadJob {
    pub id: CallId,
    /// It was not asked whether the state is the newest: whoever gets the answer must be told.
    pub stale: bool,
    pub(super) method: Method,
    pub(super) body: Vec<u8>,
    pub(super) state: State,
    pub(super) view: LeaderView,
}

impl ReadJob {
    /// The encoded response; O(objects listed).
    pub fn answer(&self) -> Result<Vec<u8>, Error> {
        answer(&self.state, &self.view, self.method, &self.body)
    }
}

/// The answer to a read that looks at few objects; `None` for every other, and for those that are
/// refused.
pub(super) fn answer_small(
    state: &State,
    view: &LeaderView,
    method: Method,
    body: &[u8],
) -> Option<Vec<u8>> {
    state.cluster()?;
    match method {
        Method::GetCluster if state.node_count() <= SMALL_OBJECTS_MAX => {
            Some(get_cluster(state, view).encode_to_vec())
        }
        Method::GetService => {
            let request: pb::GetServiceRequest = decode(body).ok()?;
            let service = find_service(state, &request.r#ref).ok()?;
            let containers = state.container_count_of_service(service.id);
            (containers <= SMALL_OBJECTS_MAX)
                .then(|| get_service(state, view, service).encode_to_vec())
        }
        _ => None,
    }
}

fn answer(state: &State, view: &LeaderView, method: Method, body: &[u8]) -> Result<Vec<u8>, Error> {
    if state.cluster().is_none() {
        return Err(Error::NotInCluster);
    }
    Ok(match method {
        Method::GetCluster => get_cluster(state, view).encode_to_vec(),
        Method::ListNodes => list_nodes(state, view, &decode(body)?).encode_to_vec(),
        Method::GetNode => get_node(state, view, &decode(body)?)?.encode_to_vec(),
        Method::ListServices => {
            let services = state
                .services()
                .map(|service| pb::ServiceView {
                    crash_looping: view.looping.get(&service.id).copied().unwrap_or_default(),
                    ..service_view(state, service)
                })
                .collect();
            pb::ListServicesResponse { services }.encode_to_vec()
        }
        Method::GetService => {
            let request: pb::GetServiceRequest = decode(body)?;
            let service = find_service(state, &request.r#ref)?;
            get_service(state, view, service).encode_to_vec()
        }
        Method::ListMembers => list_members(state, view).encode_to_vec(),
        Method::ListSlots => list_slots(state, view, &decode(body)?)?.encode_to_vec(),
        Method::ListContainers => list_containers(state, &decode(body)?).encode_to_vec(),
        Method::GetContainer => get_container(state, &decode(body)?)?.encode_to_vec(),
        Method::Plan => planning::answer(state, &view.failing, decode(body)?)?.encode_to_vec(),
        Method::ListEvents => events::answer(state, view, &decode(body)?)?.encode_to_vec(),
        Method::Explain => explaining::answer(state, view, &decode(body)?)?.encode_to_vec(),
        _ => {
            return Err(Error::UnknownMethod {
                method: format!("{method:?}"),
            });
        }
    })
}

fn list_members(state: &State, view: &LeaderView) -> pb::ListMembersResponse {
    let members = view.members.iter().map(|known| pb::MemberView {
        member: state.member(known.member).map(Into::into),
        leader: known.leader,
        voter: known.voter,
        recent_active: known.recent_active,
        match_index: known.match_index.0,
        release: known.release.clone(),
    });
    pb::ListMembersResponse {
        members: members.collect(),
        joint: view.joint,
        last_index: view.last_index.0,
    }
}

fn get_cluster(state: &State, view: &LeaderView) -> pb::GetClusterResponse {
    let count = |matching: fn(&Node) -> bool| state.nodes().filter(|n| matching(n)).count() as u32;
    let sum = |of: &dyn Fn(&Node) -> Resources| {
        state
            .nodes()
            .map(of)
            .fold(Resources::default(), Resources::saturating_add)
    };
    pb::GetClusterResponse {
        cluster: cluster(state),
        node_id: view.node.to_vec(),
        leader_node_id: view.leader.map(NodeId::to_vec).unwrap_or_default(),
        stale: view.stale,
        term: view.term.0,
        last_index: view.last_index.0,
        applied_index: view.applied_index.0,
        managers: count(|node| node.manager),
        workers: count(|node| node.worker),
        nodes_ready: count(is_ready),
        services: state.service_count() as u32,
        containers: state.container_count() as u32,
        containers_running: state.containers_in(ContainerState::Running) as u32,
        capacity: Some(
            sum(&|node| {
                if node.worker {
                    node.capacity()
                } else {
                    <_>::default()
                }
            })
            .into(),
        ),
        allocated: Some(sum(&|node| state.node_allocated(node.id)).into()),
        frozen_reason: state
            .freeze()
            .map_or_else(String::new, |freeze| freeze.why()),
    }
}

/// With the settings that are in force, whether or not somebody has changed them.
fn cluster(state: &State) -> Option<pb::Cluster> {
    state.cluster().map(|cluster| pb::Cluster {
        settings: Some(state.settings().into()),
        ..cluster.into()
    })
}

fn is_ready(node: &Node) -> bool {
    node.status == NodeStatus::Ready
}

fn node_view(state: &State, view: &LeaderView, node: &Node) -> pb::NodeView {
    let running = |container: &&Container| container.status.state == ContainerState::Running;
    pb::NodeView {
        node: Some(node.into()),
        allocated: Some(state.node_allocated(node.id).into()),
        containers: state.container_count_of_node(node.id) as u32,
        containers_running: state.containers_of_node(node.id).filter(running).count() as u32,
        leader: Some(node.id) == view.leader,
        allocatable: Some(state.allocatable(node).into()),
        attributes: <_>::default(),
        used: view.used.get(&node.id).copied(),
    }
}

fn list_nodes(
    state: &State,
    view: &LeaderView,
    request: &pb::ListNodesRequest,
) -> pb::ListNodesResponse {
    let nodes = match &request.node_ids[..] {
        [] => state
            .nodes()
            .map(|node| node_view(state, view, node))
            .collect(),
        _ => usage::listed(request)
            .into_iter()
            .filter_map(|id| state.node(id))
            .map(|node| node_view(state, view, node))
            .collect(),
    };
    let mut answer = pb::ListNodesResponse { nodes };
    if !request.with_images {
        let shown = answer.nodes.iter_mut().filter_map(|it| it.node.as_mut());
        let described = shown.filter_map(|node| node.description.as_mut());
        described.for_each(|description| description.images.clear());
    }
    answer
}

fn get_node(
    state: &State,
    view: &LeaderView,
    request: &pb::GetNodeRequest,
) -> Result<pb::GetNodeResponse, Error> {
    let id = state.resolve_node(&request.r#ref)?;
    let node = state.node(id).map(|node| pb::NodeView {
        attributes: Attribute::all_of(node).collect(),
        ..node_view(state, view, node)
    });
    let containers = state.containers_of_node(id).map(Into::into).collect();
    Ok(pb::GetNodeResponse { node, containers })
}

fn service_view(state: &State, service: &Service) -> pb::ServiceView {
    let tally = tally(state, service);
    pb::ServiceView {
        service: Some(service.into()),
        desired: tally.desired,
        running: tally.running,
        crash_looping: 0,
    }
}

fn get_service(state: &State, view: &LeaderView, service: &Service) -> pb::GetServiceResponse {
    let crash_looping = view.loops.len() as u32;
    let service = Some(pb::ServiceView {
        crash_looping,
        ..service_view(state, service)
    });
    pb::GetServiceResponse { service }
}

fn find_service<'a>(state: &'a State, reference: &str) -> Result<&'a Service, Error> {
    let id = state.resolve_service(reference)?;
    let kind = ServiceId::KIND;
    state.service(id).ok_or_else(|| Error::NotFound {
        kind,
        reference: reference.to_owned(),
    })
}

fn list_slots(
    state: &State,
    view: &LeaderView,
    request: &pb::ListSlotsRequest,
) -> Result<pb::ListSlotsResponse, Error> {
    let service = find_service(state, &request.r#ref)?;
    let mut slots: Vec<pb::Slot> = state
        .containers_of_service(service.id)
        .filter(|container| request.all || container.desired == DesiredState::Run)
        .map(|container| pb::Slot {
            slot: container.slot,
            container: Some(shown(state, container)),
            node_name: node_name(state, container.node),
            pending_reason: String::new(),
            node_id: container.node.to_vec(),
            crash_loop: crash_loop(service, view, container),
        })
        .collect();
    slots.extend(view.pending.iter().map(|pending| {
        pb::Slot {
            slot: pending.slot,
            container: None,
            node_name: pending
                .node
                .map(|node| node_name(state, node))
                .unwrap_or_default(),
            pending_reason: pending.reason.to_string(),
            node_id: pending.node.map(NodeId::to_vec).unwrap_or_default(),
            crash_loop: None,
        }
    }));
    slots.sort_by_cached_key(|slot| {
        let created_at_ms = slot
            .container
            .as_ref()
            .map(|container| container.created_at_ms);
        (
            slot.slot,
            slot.node_name.clone(),
            std::cmp::Reverse(created_at_ms),
        )
    });
    Ok(pb::ListSlotsResponse {
        service: Some(service_view(state, service)),
        slots,
    })
}

fn node_name(state: &State, id: NodeId) -> String {
    state
        .node(id)
        .map(|node| node.name().to_owned())
        .unwrap_or_default()
}

fn crash_loop(
    service: &Service,
    view: &LeaderView,
    container: &Container,
) -> Option<pb::CrashLoop> {
    let node = service.is_global().then_some(container.node);
    let mut loops = view.loops.iter().filter(|_| is_wanted(service, container));
    let known = loops.find(|it| (it.slot, it.node) == (container.slot, node))?;
    Some(pb::CrashLoop {
        failures: known.failures,
        since_ms: known.since_ms,
        exit_code: known.exit_code.unwrap_or_default(),
        exited: known.exit_code.is_some(),
    })
}

/// With what it says of its state, if that is not all there is to say.
fn shown(state: &State, container: &Container) -> pb::Container {
    let mut shown = pb::Container::from(container);
    let hold = state.preempted_for(container);
    let said = hold.and_then(|hold| made_room(state, container, hold));
    if let Some((status, said)) = shown.status.as_mut().zip(said) {
        status.message = said;
    }
    shown
}

fn container_view(state: &State, container: &Container) -> pb::ContainerView {
    pb::ContainerView {
        container: Some(shown(state, container)),
        node_name: node_name(state, container.node),
        spec: None,
    }
}

fn list_containers(
    state: &State,
    request: &pb::ListContainersRequest,
) -> pb::ListContainersResponse {
    let listed = |container: &&Container| request.all || !container.is_terminal();
    let mut containers: Vec<_> = state.containers().filter(listed).collect();
    containers
        .sort_by(|a, b| (&a.service_name, a.slot, a.id).cmp(&(&b.service_name, b.slot, b.id)));
    let containers = containers
        .into_iter()
        .map(|c| container_view(state, c))
        .collect();
    pb::ListContainersResponse { containers }
}

fn get_container(
    state: &State,
    request: &pb::GetContainerRequest,
) -> Result<pb::GetContainerResponse, Error> {
    let id = state.resolve_container(&request.r#ref)?;
    let view = state.container(id).map(|container| pb::ContainerView {
        spec: state
            .spec(&container.spec_digest)
            .map(|spec| spec.as_ref().clone()),
        ..container_view(state, container)
    });
    Ok(pb::GetContainerResponse { container: view })
}
