//! The vocabulary of the scenarios: one line is one command.
//!
//! `node n1 cpu=4 memory=512MiB images=web,db` · `node-status n1 down` ·
//! `create web replicas=3 image=web memory=100MiB cpu=0.5 mode=global restart=none request=1` ·
//! `update web version=1 …` · `remove web` · `forget web` ·
//! `bind web.1@n1 web.2@n1 version=1 replaces=web.1` · `desired web.1 remove` ·
//! `member 2 on=m2 voter level=2` · `remove-member 2` · `raise 2` · `members` · `hash` ·
//! `update-node n1 label=zone:eu taint=key:value` · `asks web` · `node? n1` ·
//! `availability n1 drain built-for=2` ·
//! `admit n1` · `remove-node n1` · `settings freeze=30 grace=30000 thaw` · `freeze lost=3 ready=9 down=1` ·
//! `unfreeze` · `cluster?` ·
//! `move web.3 slot=1` · `preempt web.1@n1 victims=batch.1,batch.2` · `holds` · `report n1 web.1 state=running attempt=1 removed` · `show`
//!
//! Answers: the response or the refusal, then the events; `show` prints the state.

use std::collections::BTreeMap;

use prost::Message;
use warren_core::fsm::{
    Applied, Container, ContainerState, DesiredState, Event, Member, Node, State,
};
use warren_core::pb::{self, command::Body};

use super::{MIB, Replica, asking, digest, member, node_id, options, put_node, spec};

type Options<'a> = BTreeMap<&'a str, &'a str>;

/// The command that a line means; ids of containers are looked up in the state.
pub fn command(replica: &Replica, line: &str) -> pb::Command {
    let words: Vec<_> = line.split_whitespace().collect();
    let options = options(&words[1..]);
    let mut command = replica.command(body(&replica.state, &words, &options));
    command.level = match options.get("built-for") {
        Some(level) => level.parse().expect("a level"),
        None => replica.state.feature_level(),
    };
    if let Some(sequence) = options.get("request") {
        let (client, digest) = (vec![1; 16], vec![words.len() as u8; 32]);
        let sequence = sequence.parse().expect("a sequence");
        command.request = Some(pb::RequestId {
            client,
            sequence,
            digest,
        });
    }
    command
}

fn body(state: &State, words: &[&str], options: &Options) -> Body {
    let name = words.get(1).copied().unwrap_or_default();
    let service_id = || {
        state
            .resolve_service(name)
            .map_or(vec![0xee; 16], |id| id.to_vec())
    };
    match words[0] {
        "cluster" => Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: options
                .get("founder")
                .map(|name| member(1, name, !options.contains_key("learner"), 1)),
        }),
        "member" => {
            let on = options.get("on").copied().unwrap_or_default();
            let voter = options.contains_key("voter");
            let level_max = options
                .get("level")
                .map_or(1, |level| level.parse().expect("one"));
            let mut member = member(name.parse().expect("an id"), on, voter, level_max);
            if let Some(data) = options.get("data") {
                member.data_dir = node_id(data).to_vec();
            }
            Body::PutMember(pb::PutMember {
                member: Some(member),
            })
        }
        "remove-member" => Body::RemoveMember(pb::RemoveMember {
            member_id: name.parse().expect("an id"),
        }),
        "availability" => {
            let availability = format!("AVAILABILITY_{}", words[2].to_uppercase());
            let availability = pb::Availability::from_str_name(&availability).expect("one");
            Body::SetNodeAvailability(pb::SetNodeAvailability {
                node_id: node_id(name).to_vec(),
                availability: availability.into(),
                ..Default::default()
            })
        }
        "raise" => Body::RaiseFeatureLevel(pb::RaiseFeatureLevel {
            level: name.parse().expect("a level"),
        }),
        "node" => {
            let asked = resources(options);
            let images: Vec<_> = options
                .get("images")
                .into_iter()
                .flat_map(|list| list.split(','))
                .collect();
            let mut put = put_node(name, asked.cpu_milli, asked.memory_bytes / MIB, &images);
            asking::put(&mut put, options);
            put
        }
        "node-status" => {
            let status = if words[2] == "down" { 2 } else { 1 };
            Body::SetNodeStatus(pb::SetNodeStatus {
                node_id: node_id(name).to_vec(),
                status,
            })
        }
        "update-node" => asking::update(node_id(name).to_vec(), options),
        "admit" => Body::AdmitNode(pb::AdmitNode {
            node_id: node_id(name).to_vec(),
        }),
        "remove-node" => Body::RemoveNode(pb::RemoveNode {
            node_id: node_id(name).to_vec(),
        }),
        "settings" => Body::UpdateClusterSettings(pb::UpdateClusterSettings {
            lost_nodes_freeze_percent: number(options, "freeze") as u32,
            node_grace_ms: number(options, "grace") as u32,
            thaw: options.contains_key("thaw"),
            overcommit_cpu_percent: number(options, "overcommit-cpu") as u32,
            ..Default::default()
        }),
        "freeze" => Body::FreezeReplacement(pb::FreezeReplacement {
            freeze: Some(pb::Freeze {
                since_ms: 0,
                lost: number(options, "lost") as u32,
                ready_before: number(options, "ready") as u32,
                down_before: number(options, "down") as u32,
            }),
        }),
        "unfreeze" => Body::FreezeReplacement(pb::FreezeReplacement { freeze: None }),
        "create" => Body::CreateService(pb::CreateService {
            spec: Some(described(name, options)),
        }),
        "update" => Body::UpdateService(pb::UpdateService {
            service_id: service_id(),
            expected_version: number(options, "version"),
            spec: Some(described(name, options)),
        }),
        "remove" => Body::RemoveService(pb::RemoveService {
            service_id: service_id(),
        }),
        "forget" => Body::ForgetService(pb::ForgetService {
            service_id: service_id(),
        }),
        "bind" => Body::Bind(pb::Bind {
            items: binds(state, words, options),
        }),
        "move" => {
            let id = container(state, name);
            let known = state.containers().find(|it| it.id.to_vec() == id);
            let service = known.and_then(|it| state.service(it.service));
            Body::MoveSlots(pb::MoveSlots {
                items: vec![pb::MoveItem {
                    service_id: service.map_or(vec![0xee; 16], |it| it.id.to_vec()),
                    service_version: service.map_or(0, |it| it.version),
                    container_id: id,
                    slot: number(options, "slot"),
                }],
            })
        }
        "preempt" => {
            let bind = binds(state, words, options).pop();
            let victims = options.get("victims").into_iter();
            let victims = victims.flat_map(|list| list.split(','));
            let mut victims: Vec<_> = victims.map(|it| container(state, it)).collect();
            victims.sort_unstable();
            Body::Preempt(pb::Preempt {
                items: vec![pb::PreemptItem { bind, victims }],
            })
        }
        "desired" => {
            let desired = if words[2] == "stop" {
                DesiredState::Stop
            } else {
                DesiredState::Remove
            };
            let desired = if words[2] == "run" {
                DesiredState::Run
            } else {
                desired
            };
            let item = pb::DesiredItem {
                container_id: container(state, name),
                desired: desired.into(),
            };
            Body::SetDesired(pb::SetDesired { items: vec![item] })
        }
        "report" => {
            let node_id = node_id(name).to_vec();
            let item = reported(state, words[2], options);
            Body::ReportStatus(pb::ReportStatus {
                node_id,
                items: vec![item],
            })
        }
        other => panic!("unknown word {other}"),
    }
}

fn described(name: &str, options: &Options) -> pb::ServiceSpec {
    let image = options.get("image").copied().unwrap_or("web");
    let mut spec = spec(name, number(options, "replicas") as u32, image);
    if options.get("mode") == Some(&"global") {
        spec.mode = pb::ServiceMode::Global.into();
    }
    let container = spec.container.as_mut().expect("it has one");
    container.image_digest = digest(image);
    container.resources = Some(resources(options));
    container.env = options
        .get("env")
        .map(|env| format!("E={env}"))
        .into_iter()
        .collect();
    container.restart = match options.get("restart") {
        Some(&"none") => 1,
        Some(&"on-failure") => 2,
        _ => 3,
    };
    let (partition, seconds) = match options.get("partition").map(|text| text.split_once(':')) {
        Some(Some(("singleton", seconds))) => (pb::PartitionPolicy::Singleton, seconds),
        Some(Some((_, seconds))) => (pb::PartitionPolicy::StopAfter, seconds),
        _ => (pb::PartitionPolicy::Keep, "0"),
    };
    container.set_partition(partition);
    let seconds: u32 = seconds.trim_end_matches('s').parse().expect("seconds");
    container.partition_stop_after_ms = seconds * 1_000;
    asking::described(&mut spec, options);
    spec
}

pub fn number(options: &Options, key: &str) -> u64 {
    options
        .get(key)
        .map_or(0, |text| text.parse().expect("a number"))
}

pub fn resources(options: &Options) -> pb::Resources {
    let cpus: f64 = options
        .get("cpu")
        .map_or(0.0, |text| text.parse().expect("CPUs"));
    let memory = options.get("memory").map_or(0, |text| {
        let mib: u64 = text.trim_end_matches("MiB").parse().expect("MiB");
        mib * MIB
    });
    pb::Resources {
        cpu_milli: (cpus * 1000.0) as u64,
        memory_bytes: memory,
        ..Default::default()
    }
}

/// `service.slot`, or `service.slot@node` for the newest one there.
fn container(state: &State, reference: &str) -> Vec<u8> {
    let on_node = || {
        state
            .containers()
            .filter(|c| label(state, c) == reference)
            .last()
    };
    let known = state
        .resolve_container(reference)
        .ok()
        .or_else(|| on_node().map(|c| c.id));
    known.map_or(vec![0xee; 16], |id| id.to_vec())
}

fn binds(state: &State, words: &[&str], options: &Options) -> Vec<pb::BindItem> {
    let places = words[1..].iter().filter_map(|word| word.split_once('@'));
    let item = |(slot, node): (&str, &str)| {
        let (service, slot) = slot.rsplit_once('.').expect("service.slot");
        let service = state.service_by_name(service);
        let version = service.map_or(0, |service| service.version);
        pb::BindItem {
            service_id: service.map_or(vec![0xee; 16], |service| service.id.to_vec()),
            service_version: options
                .get("version")
                .map_or(version, |v| v.parse().expect("one")),
            slot: slot.parse().expect("a slot"),
            node_id: node_id(node).to_vec(),
            replaces: options
                .get("replaces")
                .map_or(Vec::new(), |old| container(state, old)),
            devices: asking::shares(options),
        }
    };
    places.map(item).collect()
}

fn reported(state: &State, reference: &str, options: &Options) -> pb::StatusItem {
    let named = |name: &str| {
        let name = format!("CONTAINER_STATE_{}", name.to_uppercase());
        ContainerState::from_str_name(&name).expect("a state")
    };
    let status = pb::ContainerStatus {
        attempt: options
            .get("attempt")
            .map_or(1, |text| text.parse().expect("an attempt")),
        state: named(options.get("state").copied().unwrap_or("running")).into(),
        message: options
            .get("message")
            .copied()
            .unwrap_or_default()
            .replace('_', " "),
        removed: options.contains_key("removed"),
        ..Default::default()
    };
    pb::StatusItem {
        container_id: container(state, reference),
        status: Some(status),
    }
}

/// Applies a line, or shows the state.
pub fn execute(replica: &mut Replica, line: &str) -> Vec<String> {
    if line == "show" {
        return show(&replica.state);
    }
    if line == "hash" {
        return vec![replica.state.hash().to_string()];
    }
    if let Some(name) = line.strip_prefix("node? ") {
        return show_node(&replica.state, name);
    }
    if let Some(name) = line.strip_prefix("asks ") {
        return show_asks(&replica.state, name);
    }
    if line == "holds" {
        return show_holds(&replica.state);
    }
    if line == "cluster?" {
        return show_cluster(&replica.state);
    }
    if line == "members" {
        return show_members(&replica.state);
    }
    let command = command(replica, line);
    let batch = matches!(
        command.body,
        Some(
            Body::Bind(_)
                | Body::SetDesired(_)
                | Body::ReportStatus(_)
                | Body::Preempt(_)
                | Body::MoveSlots(_)
        )
    );
    let before = replica.state.clone();
    let applied = replica.apply_command(&command);
    told(&before, &replica.state, &applied, batch)
}

pub fn told(before: &State, after: &State, applied: &Applied, batch: bool) -> Vec<String> {
    let mut lines = match &applied.response {
        Err(refusal) => vec![format!("refused {}: {refusal}", refusal.code())],
        Ok(response) if batch => {
            let items = pb::BatchResult::decode(&response[..])
                .expect("a batch")
                .items;
            let each = |item: &pb::ItemResult| {
                if item.applied {
                    "ok".to_owned()
                } else {
                    format!("refused {}", item.rejected)
                }
            };
            vec![items.iter().map(each).collect::<Vec<_>>().join(", ")]
        }
        Ok(_) => vec!["ok".to_owned()],
    };
    let either = |event| describe(after, event).or_else(|| describe(before, event));
    lines.extend(applied.events.iter().filter_map(either));
    lines
}

fn describe(state: &State, event: &Event) -> Option<String> {
    let suffix = |gone: bool| if gone { " gone" } else { "" };
    Some(match *event {
        Event::Cluster => "  cluster".to_owned(),
        Event::Service { id, gone } => {
            format!("  service {}{}", state.service(id)?.name, suffix(gone))
        }
        Event::Member { id, gone } => format!("  member {}{}", id.0, suffix(gone)),
        Event::Node { id } => format!("  node {}", state.node(id)?.name()),
        Event::Container { id, gone, .. } => {
            format!(
                "  container {}{}",
                label(state, state.container(id)?),
                suffix(gone)
            )
        }
    })
}

/// `service.slot@node`.
pub fn label(state: &State, container: &Container) -> String {
    let node = state.node(container.node).map_or("?", |node| node.name());
    format!("{}.{}@{node}", container.service_name, container.slot)
}

fn show_cluster(state: &State) -> Vec<String> {
    let settings = state.settings();
    let percent = settings.lost_nodes_freeze_percent;
    let said = format!(
        "freeze above {percent} %, grace {} ms",
        settings.node_grace_ms
    );
    let why = state.freeze().map(|freeze| freeze.why());
    std::iter::once(said).chain(why).collect()
}

/// What it has to give away, and what is held of it one by one.
fn show_node(state: &State, name: &str) -> Vec<String> {
    let node = state.node(node_id(name)).expect("it is there");
    let has = state.allocatable(node);
    let mut lines = vec![format!(
        "{} milli-CPU, {} GiB of disk, {} processes to give away",
        has.cpu_milli,
        has.disk_bytes >> 30,
        has.pids
    )];
    let labels = node
        .label_keys()
        .map(|key| (key, node.label(key).unwrap_or_default()));
    lines.extend(labels.map(|(key, value)| format!("label {key} is {value}")));
    let taint = |it: &pb::Taint| format!("taint {}={}", it.key, it.value);
    lines.extend(node.all_taints().map(taint));
    let port = |it: pb::HostPort| format!("port {} {} is held", it.port, it.protocol);
    lines.extend(state.port_claims(node.id).map(port));
    let device = |(kind, number, milli)| format!("{milli} of {kind} {number} is held");
    lines.extend(state.device_claims(node.id).map(device));
    lines
}

/// What is kept for whom, and who has to stop first.
pub fn show_holds(state: &State) -> Vec<String> {
    let holds = state.nodes().flat_map(|node| {
        node.holds.iter().map(move |hold| {
            let service = state.service(hold.service).expect("it is there");
            let left = state.victims_left(node.id, hold);
            let left: Vec<_> = left.map(|container| label(state, container)).collect();
            let aside = state.set_aside_for(node.id, hold.service, hold.slot);
            format!(
                "{}.{}@{}: {} milli-CPU set aside, waits for {left:?}",
                service.name,
                hold.slot,
                node.name(),
                aside.cpu_milli
            )
        })
    });
    holds.collect()
}

/// Node by node, why a container of the service cannot go there.
fn show_asks(state: &State, name: &str) -> Vec<String> {
    let service = state.service_by_name(name).expect("it is there");
    let told = |node| {
        state
            .refusal(service, node)
            .unwrap_or_else(|| "may".to_owned())
    };
    let line = |node| format!("{}: {}", Node::name(node), told(node));
    state.nodes().map(line).collect()
}

fn show_members(state: &State) -> Vec<String> {
    let member = |member: &Member| {
        let role = if member.voter { "voter" } else { "learner" };
        format!(
            "member {} at {}: {role}, knows level {}, added at {} ms",
            member.id.0, member.address, member.feature_level_max, member.added_at_ms
        )
    };
    let level = format!("level {}", state.feature_level());
    std::iter::once(level)
        .chain(state.members().map(member))
        .collect()
}

pub fn show(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for node in state.nodes() {
        let allocated = state.node_allocated(node.id);
        lines.push(format!(
            "node {} {}: {} milli-CPU, {} MiB allocated",
            node.name(),
            short(node.status.as_str_name()),
            allocated.cpu_milli,
            allocated.memory_bytes / MIB,
        ));
    }
    for service in state.services() {
        let removing = if service.removing { ", removing" } else { "" };
        lines.push(format!(
            "service {} version {}{removing}",
            service.name, service.version
        ));
        for container in state.containers_of_service(service.id) {
            lines.push(format!(
                "  {} v{} {}: {} {}",
                label(state, container),
                container.service_version,
                short(container.desired.as_str_name()),
                container.status.attempt,
                short(container.status.state.as_str_name()),
            ));
        }
    }
    lines
}

/// The last word of an enumeration's name.
fn short(name: &str) -> String {
    name.rsplit('_').next().unwrap_or(name).to_lowercase()
}
