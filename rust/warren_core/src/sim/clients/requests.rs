//! What clients say in the API's bytes, and what they make of the answers.

use prost::Message as _;

use super::super::linear::{Answer, Ask, Id};
use super::super::network::End;
use super::super::queue::Failure;
use super::super::random::Random;
use super::NAMES;
use crate::error::Error;
use crate::pb;

/// The label that holds an operation's tag.
const TAG: &str = "tag";
/// Replicas of a service, at most.
const REPLICAS: u64 = 5;

pub struct Request {
    pub method: &'static str,
    pub body: Vec<u8>,
}

/// What an attempt came to.
pub enum Heard {
    Answer(Answer),
    /// It had no effect; perhaps somebody else is to be asked.
    Nothing {
        leader: Option<End>,
    },
    Doubtful,
    Absurd(String),
}

impl Request {
    pub fn new(
        ask: Ask,
        name: &str,
        list: bool,
        (client, sequence): ([u8; 16], u64),
        random: &mut Random,
    ) -> Self {
        let request = Some(pb::RequestId {
            client: client.to_vec(),
            sequence,
            digest: Vec::new(),
        });
        let (method, body) = match ask {
            Ask::Get if list => ("ListServices", pb::ListServicesRequest {}.encode_to_vec()),
            Ask::Get => {
                let r#ref = name.to_owned();
                (
                    "GetService",
                    pb::GetServiceRequest { r#ref }.encode_to_vec(),
                )
            }
            Ask::Create { tag } => {
                let spec = Some(spec(name, tag, random));
                let create = pb::CreateServiceRequest { request, spec };
                ("CreateService", create.encode_to_vec())
            }
            Ask::Update { id, expected, tag } => {
                let update = pb::UpdateServiceRequest {
                    request,
                    service_id: id.to_vec(),
                    expected_version: expected,
                    spec: Some(spec(name, tag, random)),
                };
                ("UpdateService", update.encode_to_vec())
            }
            Ask::Remove { id } => {
                let service_id = id.to_vec();
                let remove = pb::RemoveServiceRequest {
                    request,
                    service_id,
                };
                ("RemoveService", remove.encode_to_vec())
            }
        };
        Self { method, body }
    }

    pub fn is_list(&self) -> bool {
        self.method == "ListServices"
    }
}

fn spec(name: &str, tag: u64, random: &mut Random) -> pb::ServiceSpec {
    let global = matches!(name, "everywhere" | "all-over");
    let mode = if global {
        pb::ServiceMode::Global
    } else {
        pb::ServiceMode::Replicated
    };
    let restart = random.below(4) as i32;
    // Most changes leave the containers as they are: a tag is a label of the service.
    let generation = random.below(3) / 2;
    let (partition, partition_stop_after_ms) = match (name, generation) {
        (_, 0) => (pb::PartitionPolicy::Keep, 0),
        ("one", _) => (pb::PartitionPolicy::Singleton, 5_000),
        ("two" | "three", _) => (pb::PartitionPolicy::Singleton, 25_000),
        _ => (pb::PartitionPolicy::StopAfter, 12_000),
    };
    let container = pb::ContainerSpec {
        image: "app".into(),
        env: vec![format!("GENERATION={generation}")],
        resources: Some(pb::Resources {
            cpu_milli: 100 + 300 * random.below(3),
            memory_bytes: 64 << 20,
            ..Default::default()
        }),
        restart,
        partition: partition.into(),
        partition_stop_after_ms,
        ..Default::default()
    };
    let mut spec = pb::ServiceSpec {
        name: name.to_owned(),
        labels: [(TAG.to_owned(), tag.to_string())].into(),
        mode: mode.into(),
        replicas: if global {
            0
        } else {
            random.below(REPLICAS) as u32
        },
        container: Some(container),
        ..Default::default()
    };
    ask_of_nodes(&mut spec, tag);
    ask_for_volumes(&mut spec, tag);
    ask_for_priority(&mut spec, tag);
    spec
}

/// One change in eight mounts a volume, which some nodes only let be read.
fn ask_for_volumes(spec: &mut pb::ServiceSpec, tag: u64) {
    let mut random = Random::stream(tag, "volumes", 0);
    if random.below(8) > 0 {
        return;
    }
    let container = spec.container.get_or_insert_default();
    container.mounts.push(pb::Mount {
        r#type: pb::MountType::Volume.into(),
        source: "data".into(),
        target: "/srv".into(),
        read_only: random.below(2) == 0,
        exclusive: random.below(2) == 0,
        ..Default::default()
    });
}

/// One change in four asks something of nodes. By the tag, so that the stream of everything else is
/// what it was.
fn ask_of_nodes(spec: &mut pb::ServiceSpec, tag: u64) {
    let mut random = Random::stream(tag, "placement", 0);
    if random.below(4) > 0 {
        return;
    }
    let zone = || "node.labels.zone".to_owned();
    let mut asked = pb::Placement::default();
    let global = spec.mode == i32::from(pb::ServiceMode::Global);
    match random.below(if global { 3 } else { 6 }) {
        0 => {
            let zones = ["==a", "!=b", " in (a,c)", " exists"];
            let asks = random.pick(&zones).copied().unwrap_or_default();
            asked.constraints = vec![zone() + asks];
        }
        1 => {
            let container = spec.container.get_or_insert_default();
            container.host_ports = vec![pb::HostPort {
                port: 80 + random.below(2) as u32,
                protocol: pb::PortProtocol::Tcp.into(),
            }];
        }
        2 => asked.anti_affinities.push(pb::AntiAffinity {
            service: NAMES[random.below(NAMES.len() as u64) as usize].to_owned(),
            attribute: zone(),
        }),
        3 => asked.max_replicas_per_node = 1,
        4 => asked.distinct = vec![zone()],
        _ => asked.spreads.push(pb::Spread {
            attribute: zone(),
            max_skew: random.below(3) as u32,
            ..Default::default()
        }),
    }
    asked.anti_affinities.retain(|it| it.service != spec.name);
    spec.placement = (asked != pb::Placement::default()).then_some(asked);
}

/// One change in three makes the service more or less urgent than others. Like [`ask_of_nodes`].
fn ask_for_priority(spec: &mut pb::ServiceSpec, tag: u64) {
    let mut random = Random::stream(tag, "priority", 0);
    if random.below(3) == 0 {
        let asked = spec.placement.get_or_insert_default();
        asked.priority = Some(25 * random.below(5) as u32);
        asked.preempt = random.below(2) == 0;
    }
}

/// What an answer means for the one who asked.
pub fn understand(ask: Ask, result: Result<Vec<u8>, Failure>) -> Heard {
    match result {
        Ok(bytes) => answer(ask, &bytes).map_or_else(
            || Heard::Absurd(format!("an answer to {ask:?} that cannot be read")),
            Heard::Answer,
        ),
        Err(Failure::Unavailable) => Heard::Nothing { leader: None },
        Err(Failure::Broken) => Heard::Doubtful,
        Err(Failure::Refused(error)) => refusal(ask, &error),
    }
}

fn refusal(ask: Ask, error: &Error) -> Heard {
    match (error.code(), ask) {
        ("name_taken", Ask::Create { .. }) => Heard::Answer(Answer::NameTaken),
        ("removing", Ask::Create { .. } | Ask::Update { .. }) => Heard::Answer(Answer::Removing),
        ("version_conflict", Ask::Update { .. }) => Heard::Answer(Answer::Conflict),
        ("not_found", Ask::Update { .. } | Ask::Remove { .. } | Ask::Get) => {
            Heard::Answer(Answer::Missing)
        }
        ("outcome_unknown" | "request_too_old", _) => Heard::Doubtful,
        ("not_leader", _) => Heard::Nothing {
            leader: leader(error),
        },
        (
            "no_leader" | "no_quorum" | "handing_over" | "overloaded" | "no_space"
            | "shutting_down" | "not_in_cluster" | "image_not_loaded" | "level_not_reached",
            _,
        ) => Heard::Nothing { leader: None },
        (code, _) => Heard::Absurd(format!("{ask:?} was refused with {code}: {error}")),
    }
}

fn leader(error: &Error) -> Option<End> {
    super::super::machine::end_of(&error.to_pb().leader_address)
}

fn answer(ask: Ask, bytes: &[u8]) -> Option<Answer> {
    Some(match ask {
        Ask::Create { .. } => {
            let created = pb::CreateServiceResponse::decode(bytes).ok()?;
            Answer::Created {
                id: created.service_id.try_into().ok()?,
            }
        }
        Ask::Update { .. } => {
            let updated = pb::UpdateServiceResponse::decode(bytes).ok()?;
            Answer::Updated {
                version: updated.version,
            }
        }
        Ask::Remove { .. } => {
            pb::RemoveServiceResponse::decode(bytes).ok()?;
            Answer::Removed
        }
        Ask::Get => found(pb::GetServiceResponse::decode(bytes).ok()?.service)?.1,
    })
}

/// The name and what is known of it.
fn found(view: Option<pb::ServiceView>) -> Option<(String, Answer)> {
    let service = view?.service?;
    let spec = service.spec?;
    let id: Id = service.id.try_into().ok()?;
    let tag = spec.labels.get(TAG)?.parse().ok()?;
    let (version, removing) = (service.version, service.removing);
    Some((
        spec.name,
        Answer::Found {
            id,
            version,
            tag,
            removing,
        },
    ))
}

/// What a list says of each name.
pub fn list(bytes: &[u8]) -> Option<[Answer; NAMES.len()]> {
    let mut answers = [Answer::Missing; NAMES.len()];
    for view in pb::ListServicesResponse::decode(bytes).ok()?.services {
        let (name, answer) = found(Some(view))?;
        answers[NAMES.iter().position(|known| *known == name)?] = answer;
    }
    Some(answers)
}
