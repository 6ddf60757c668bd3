//! From a request to a command: decoded, known or not, valid, complete.

use super::access::Method;
use crate::error::Error;
use crate::fsm::{self, RequestKey, State, settings, validate};
use crate::ids::ServiceId;
use crate::pb;
use crate::pb::command::Body;

/// What becomes of a request that changes something.
pub enum Prepared {
    /// To be proposed under this request id.
    Propose(Option<pb::RequestId>, Box<Body>),
    /// A repetition: this was the answer.
    Answered(Result<Vec<u8>, Error>),
}

pub fn undecodable(error: &prost::DecodeError) -> Error {
    Error::Invalid {
        what: "request",
        why: format!("it cannot be decoded: {error}"),
    }
}

/// Judges a request against the state, before it costs a log entry; `apply` judges again.
pub fn prepare(state: &State, method: Method, body: &[u8]) -> Result<Prepared, Error> {
    match method {
        Method::CreateService => create_service(state, body),
        Method::UpdateService => update_service(state, body),
        Method::RemoveService => remove_service(state, body),
        Method::UpdateCluster => update_cluster(state, body),
        Method::UpdateNode => update_node(state, body),
        Method::SetNodeAvailability => set_node_availability(state, body),
        _ => Err(Error::UnknownMethod {
            method: format!("{method:?}"),
        }),
    }
}

fn create_service(state: &State, body: &[u8]) -> Result<Prepared, Error> {
    let mut request: pb::CreateServiceRequest = decode(body)?;
    let id = match identify(state, "CreateService", request.request.take(), &request)? {
        Ok(id) => id,
        Err(answer) => return Ok(Prepared::Answered(answer)),
    };
    let mut spec = check_spec(state, request.spec)?;
    // With an id it is refused at apply, and the refusal remembered: another copy of the request may
    // be on its way, and must not find the name free later.
    if let Some(taken) = state.service_by_name(&spec.name).filter(|_| id.is_none()) {
        return Err(Error::NameTaken {
            kind: ServiceId::KIND,
            name: taken.name.to_string(),
        });
    }
    resolve_image(state, &mut spec, None)?;
    Ok(Prepared::Propose(
        id,
        Box::new(Body::CreateService(pb::CreateService { spec: Some(spec) })),
    ))
}

fn update_service(state: &State, body: &[u8]) -> Result<Prepared, Error> {
    let mut request: pb::UpdateServiceRequest = decode(body)?;
    let id = match identify(state, "UpdateService", request.request.take(), &request)? {
        Ok(id) => id,
        Err(answer) => return Ok(Prepared::Answered(answer)),
    };
    let service = existing(state, &request.service_id)?;
    let carried = request
        .spec
        .as_ref()
        .and_then(|spec| spec.container.as_ref());
    let carried_digest = carried.map(|container| container.image_digest.clone());
    let mut spec = check_spec(state, request.spec)?;
    // Scaling must never change what runs: the same image with the digest it has stays that.
    let before = service.container_spec();
    let keeps = carried_digest.as_ref() == Some(&before.image_digest);
    resolve_image(state, &mut spec, keeps.then_some(before))?;
    let update = pb::UpdateService {
        service_id: request.service_id,
        expected_version: request.expected_version,
        spec: Some(spec),
    };
    Ok(Prepared::Propose(id, Box::new(Body::UpdateService(update))))
}

fn remove_service(state: &State, body: &[u8]) -> Result<Prepared, Error> {
    let mut request: pb::RemoveServiceRequest = decode(body)?;
    let id = match identify(state, "RemoveService", request.request.take(), &request)? {
        Ok(id) => id,
        Err(answer) => return Ok(Prepared::Answered(answer)),
    };
    existing(state, &request.service_id)?;
    let remove = pb::RemoveService {
        service_id: request.service_id,
    };
    Ok(Prepared::Propose(id, Box::new(Body::RemoveService(remove))))
}

fn update_cluster(state: &State, body: &[u8]) -> Result<Prepared, Error> {
    let mut request: pb::UpdateClusterRequest = decode(body)?;
    let id = match identify(state, "UpdateCluster", request.request.take(), &request)? {
        Ok(id) => id,
        Err(answer) => return Ok(Prepared::Answered(answer)),
    };
    let update = pb::UpdateClusterSettings {
        lost_nodes_freeze_percent: request.lost_nodes_freeze_percent,
        node_grace_ms: request.node_grace_ms,
        thaw: request.thaw,
        overcommit_cpu_percent: request.overcommit_cpu_percent,
        overcommit_memory_percent: request.overcommit_memory_percent,
        overcommit_disk_percent: request.overcommit_disk_percent,
        overcommit_pids_percent: request.overcommit_pids_percent,
    };
    let overcommits = settings::needs_level_4(&update);
    check_level(state, if overcommits { 4 } else { 3 })?;
    fsm::check_settings(&update)?;
    Ok(Prepared::Propose(
        id,
        Box::new(Body::UpdateClusterSettings(update)),
    ))
}

fn update_node(state: &State, body: &[u8]) -> Result<Prepared, Error> {
    let mut request: pb::UpdateNodeRequest = decode(body)?;
    let id = match identify(state, "UpdateNode", request.request.take(), &request)? {
        Ok(id) => id,
        Err(answer) => return Ok(Prepared::Answered(answer)),
    };
    check_level(state, 4)?;
    let update = pb::UpdateNode {
        node_id: state.resolve_node(&request.r#ref)?.to_vec(),
        labels_add: request.labels_add,
        labels_remove: request.labels_remove,
        taints_add: request.taints_add,
        taints_remove: request.taints_remove,
    };
    fsm::check_node_update(&update)?;
    Ok(Prepared::Propose(id, Box::new(Body::UpdateNode(update))))
}

fn set_node_availability(state: &State, body: &[u8]) -> Result<Prepared, Error> {
    let mut request: pb::SetNodeAvailabilityRequest = decode(body)?;
    let taken = request.request.take();
    let id = match identify(state, "SetNodeAvailability", taken, &request)? {
        Ok(id) => id,
        Err(answer) => return Ok(Prepared::Answered(answer)),
    };
    let drains = request.drain_within_ms > 0;
    check_level(state, if drains { fsm::DRAIN_LEVEL } else { 2 })?;
    let set = pb::SetNodeAvailability {
        node_id: state.resolve_node(&request.r#ref)?.to_vec(),
        availability: request.availability,
        drain_within_ms: request.drain_within_ms,
        drain_overdue: false,
    };
    fsm::check_drain(&set)?;
    Ok(Prepared::Propose(
        id,
        Box::new(Body::SetNodeAvailability(set)),
    ))
}

/// Refuses what a member of an older release would not understand.
fn check_level(state: &State, level: u32) -> Result<(), Error> {
    let current = state.feature_level();
    if current < level {
        return Err(Error::LevelNotReached { level, current });
    }
    Ok(())
}

fn check_spec(state: &State, spec: Option<pb::ServiceSpec>) -> Result<pb::ServiceSpec, Error> {
    let spec = validate::check_service_spec(&spec.unwrap_or_default())?;
    check_level(state, validate::level_of(&spec))?;
    Ok(spec)
}

pub fn decode<M: prost::Message + Default>(body: &[u8]) -> Result<M, Error> {
    M::decode(body).map_err(|error| undecodable(&error))
}

fn existing<'a>(state: &'a State, id: &[u8]) -> Result<&'a fsm::Service, Error> {
    let id = ServiceId::from_slice(id)?;
    let not_found = || Error::NotFound {
        kind: ServiceId::KIND,
        reference: id.to_string(),
    };
    state.service(id).ok_or_else(not_found)
}

/// Completes the request id with the digest of what it names, `request` having no id any more.
/// The outer error refuses, the inner one is the remembered answer to a repetition.
#[allow(clippy::type_complexity)]
pub fn identify(
    state: &State,
    method: &str,
    id: Option<pb::RequestId>,
    request: &impl prost::Message,
) -> Result<Result<Option<pb::RequestId>, Result<Vec<u8>, Error>>, Error> {
    let Some(mut id) = id else {
        return Ok(Ok(None));
    };
    id.digest = fsm::request_digest(method, &request.encode_to_vec()).to_vec();
    let key = RequestKey::try_from(&id)?;
    Ok(match state.answered(&key) {
        Some(Err(error @ (Error::RequestReused | Error::RequestTooOld))) => return Err(error),
        Some(answer) => Err(answer),
        None => Ok(Some(id)),
    })
}

/// Fills in the digest that the image's reference stands for now.
fn resolve_image(
    state: &State,
    spec: &mut pb::ServiceSpec,
    before: Option<&pb::ContainerSpec>,
) -> Result<(), Error> {
    let container = spec.container.get_or_insert_default();
    container.image_digest = match before {
        Some(before) if before.image == container.image => before.image_digest.clone(),
        _ => state.image_digest(&container.image)?,
    };
    Ok(())
}
