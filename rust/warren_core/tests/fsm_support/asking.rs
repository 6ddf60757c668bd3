//! Random and written asks: placements, ports, devices, limits, labels, taints.

use std::collections::BTreeMap;

use warren_core::fsm::State;
use warren_core::ids::{NodeId, ServiceId};
use warren_core::pb::{self, command::Body};

use super::Rng;

/// Makes the service ask for something, which sometimes makes no sense.
pub fn ask(rng: &mut Rng, spec: &mut pb::ServiceSpec) {
    let container = spec.container.as_mut().expect("it has one");
    if rng.chance(35) {
        let names = ["data", "data", "logs", "no name"];
        container.mounts.push(pb::Mount {
            r#type: pb::MountType::Volume.into(),
            source: (*rng.pick(&names)).to_owned(),
            target: "/srv".into(),
            read_only: rng.chance(30),
            exclusive: rng.chance(40),
            ..Default::default()
        });
    }
    match rng.below(5) {
        0 => {
            let port = *rng.pick(&[80, 81, 0]);
            let protocol = rng.below(4) as i32;
            container.host_ports = vec![pb::HostPort { port, protocol }];
        }
        1 => {
            let kind = (*rng.pick(&["gpu", "gpu", "gpu", "gpu", "fpga", ""])).to_owned();
            let milli = *rng.pick(&[300, 500, 1_000, 2_000, 1_500]);
            let models = rng.chance(30).then(|| "A100".to_owned());
            container.devices = vec![pb::DeviceAsk {
                kind,
                milli,
                models: models.into_iter().collect(),
            }];
        }
        2 => {
            let resources = container.resources.get_or_insert_default();
            resources.disk_bytes = rng.below(4) << 30;
            resources.pids = rng.below(3) * 100;
            container.limits = rng.chance(50).then(|| pb::Resources {
                cpu_milli: rng.below(3) * 400,
                ..Default::default()
            });
        }
        _ => spec.placement = Some(placement(rng)),
    }
}

fn placement(rng: &mut Rng) -> pb::Placement {
    let expressions = [
        "node.labels.zone==eu",
        "node.labels.zone in (eu,us)",
        "node.labels.zone not exists",
        "node.arch != arm64",
        "nonsense",
    ];
    let constraints = (0..rng.below(2)).map(|_| (*rng.pick(&expressions)).to_owned());
    pb::Placement {
        constraints: constraints.collect(),
        max_replicas_per_node: rng.below(3) as u32,
        priority: rng.chance(30).then(|| rng.below(110) as u32),
        preempt: rng.chance(60),
        strategy: rng.below(5) as i32,
        tolerations: rng
            .chance(30)
            .then(pb::Toleration::default)
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

pub fn update_node(rng: &mut Rng, node_id: Vec<u8>) -> Body {
    let zone = *rng.pick(&["eu", "us"]);
    let added = rng.chance(60).then(|| ("zone".to_owned(), zone.to_owned()));
    let taint = |rng: &mut Rng| pb::Taint {
        key: (*rng.pick(&["old", "gpu", "a b"])).to_owned(),
        value: String::new(),
        effect: rng.below(4) as i32,
    };
    Body::UpdateNode(pb::UpdateNode {
        node_id,
        labels_add: added.into_iter().collect(),
        labels_remove: rng
            .chance(30)
            .then(|| "zone".to_owned())
            .into_iter()
            .collect(),
        taints_add: rng.chance(6).then(|| taint(rng)).into_iter().collect(),
        taints_remove: rng.chance(40).then(|| taint(rng)).into_iter().collect(),
    })
}

pub fn describe(rng: &mut Rng, description: &mut pb::NodeDescription) {
    if rng.chance(25) {
        return;
    }
    let device = |model: &str, count| pb::Device {
        kind: "gpu".to_owned(),
        model: model.to_owned(),
        count,
    };
    description.devices = vec![device("A100", rng.below(3) as u32), device("", 1)];
    let volume = |name: &str, read_only| pb::NodeVolume {
        name: name.to_owned(),
        read_only,
    };
    description.volumes = match rng.below(12) {
        0 => Vec::new(),
        1 => vec![volume("logs", false), volume("data", rng.chance(30))],
        2 => vec![volume("data", false), volume("data", false)],
        _ => vec![volume("data", false)],
    };
    description.reserved = Some(pb::Resources {
        cpu_milli: rng.below(3) * 300,
        ..Default::default()
    });
    description.disk_free_bytes = rng.below(9) << 30;
    if let Some(capacity) = &mut description.capacity {
        capacity.disk_bytes = 5 << 30;
        capacity.pids = 250;
    }
}

/// Those that the state would choose; now and then others.
pub fn devices(rng: &mut Rng, state: &State, service: &[u8], node: &[u8]) -> Vec<pb::DeviceShare> {
    if rng.chance(5) {
        return vec![pb::DeviceShare {
            kind: "gpu".to_owned(),
            number: rng.below(4) as u32,
            milli: *rng.pick(&[0, 500, 1_000, 5_000]),
        }];
    }
    let service = ServiceId::from_slice(service)
        .ok()
        .and_then(|id| state.service(id));
    let node = NodeId::from_slice(node).ok();
    let chosen = service
        .zip(node)
        .and_then(|(service, node)| state.choose_devices(service, node));
    chosen.unwrap_or_default()
}

/// The command as an older release decodes it: without what came with level 4.
pub fn before_level_4(command: &pb::Command) -> pb::Command {
    let mut command = command.clone();
    match &mut command.body {
        Some(Body::UpdateNode(_)) => command.body = None,
        Some(Body::CreateService(create)) => clip(create.spec.as_mut()),
        Some(Body::UpdateService(update)) => clip(update.spec.as_mut()),
        Some(Body::Bind(bind)) => bind.items.iter_mut().for_each(|item| item.devices.clear()),
        Some(Body::UpdateClusterSettings(update)) => {
            update.overcommit_cpu_percent = 0;
            update.overcommit_memory_percent = 0;
            update.overcommit_disk_percent = 0;
            update.overcommit_pids_percent = 0;
        }
        Some(Body::PutNode(put)) => {
            if let Some(description) = &mut put.description {
                description.reserved = None;
                description.devices.clear();
                description.taints.clear();
                description.disk_free_bytes = 0;
                description.capacity.iter_mut().for_each(clip_amount);
            }
        }
        _ => {}
    }
    command
}

/// The command as an older release decodes it: without what came with level 5.
pub fn before_level_5(command: &pb::Command) -> pb::Command {
    let mut command = command.clone();
    let spec = match &mut command.body {
        Some(Body::Preempt(_) | Body::MoveSlots(_)) => {
            command.body = None;
            None
        }
        Some(Body::PutNode(put)) => {
            let description = put.description.iter_mut();
            description.for_each(|it| it.volumes.clear());
            None
        }
        Some(Body::CreateService(create)) => create.spec.as_mut(),
        Some(Body::UpdateService(update)) => update.spec.as_mut(),
        _ => None,
    };
    let container = spec.and_then(|spec| spec.container.as_mut());
    let mounts = container.into_iter().flat_map(|it| &mut it.mounts);
    mounts.for_each(|mount| mount.exclusive = false);
    command
}

fn clip(spec: Option<&mut pb::ServiceSpec>) {
    let Some(spec) = spec else { return };
    spec.placement = None;
    if let Some(container) = &mut spec.container {
        container.limits = None;
        container.host_ports.clear();
        container.devices.clear();
        container.resources.iter_mut().for_each(clip_amount);
    }
}

fn clip_amount(amount: &mut pb::Resources) {
    (amount.disk_bytes, amount.pids) = (0, 0);
}

type Options<'a> = BTreeMap<&'a str, &'a str>;

/// `spread=node.labels.zone,max-skew=1,eu=60` `affinity=node.labels.zone==eu,80` `strategy=pack`
/// `constraint=…` `max-per-node=1` `distinct=node.labels.zone` `apart=web,node.labels.zone` `tolerate=key` `port=80/udp` `device=gpu:500:A100` `volume=data:alone`
/// `volume=data:ro` `disk=5` (GiB)
/// `pids=10` `cpu-limit=2` `priority=80` `preempt`
pub fn described(spec: &mut pb::ServiceSpec, options: &Options) {
    let text = |key: &str| options.get(key).map(|text| (*text).to_owned());
    let placement = pb::Placement {
        constraints: text("constraint").into_iter().collect(),
        max_replicas_per_node: super::words::number(options, "max-per-node") as u32,
        priority: options.get("priority").map(|it| it.parse().expect("one")),
        preempt: options.contains_key("preempt"),
        distinct: text("distinct").into_iter().collect(),
        spreads: text("spread").map(spread).into_iter().collect(),
        affinities: text("affinity").map(affinity).into_iter().collect(),
        strategy: match options.get("strategy") {
            Some(&"pack") => 2,
            Some(&"consolidate") => 3,
            _ => 0,
        },
        anti_affinities: text("apart")
            .map(|text| {
                let (service, attribute) = text.split_once(',').unwrap_or((&text, ""));
                pb::AntiAffinity {
                    service: service.to_owned(),
                    attribute: attribute.to_owned(),
                }
            })
            .into_iter()
            .collect(),
        tolerations: text("tolerate")
            .map(|key| pb::Toleration {
                key,
                ..Default::default()
            })
            .into_iter()
            .collect(),
        ..Default::default()
    };
    spec.placement = (placement != pb::Placement::default()).then_some(placement);
    let container = spec.container.as_mut().expect("it has one");
    let port = options
        .get("port")
        .map(|text| text.split_once('/').unwrap_or((text, "tcp")));
    container.host_ports = port
        .map(|(port, protocol)| pb::HostPort {
            port: port.parse().expect("a port"),
            protocol: if protocol == "udp" { 2 } else { 1 },
        })
        .into_iter()
        .collect();
    let device = options
        .get("device")
        .map(|text| text.split(':').collect::<Vec<_>>());
    container.devices = device
        .map(|words| pb::DeviceAsk {
            kind: words[0].to_owned(),
            milli: words[1].parse().expect("thousandths"),
            models: words[2..].iter().map(|model| (*model).to_owned()).collect(),
        })
        .into_iter()
        .collect();
    let volume = options.get("volume").map(|text| {
        let (name, how) = text.split_once(':').unwrap_or((text, ""));
        pb::Mount {
            r#type: pb::MountType::Volume.into(),
            source: name.to_owned(),
            target: "/srv".into(),
            read_only: how == "ro",
            exclusive: how == "alone",
            ..Default::default()
        }
    });
    container.mounts = volume.into_iter().collect();
    container.limits = options.get("cpu-limit").map(|cpus| pb::Resources {
        cpu_milli: cpus.parse::<u64>().expect("CPUs") * 1_000,
        ..Default::default()
    });
    amounts(container.resources.get_or_insert_default(), options);
}

fn spread(text: String) -> pb::Spread {
    let mut words = text.split(',');
    let mut spread = pb::Spread {
        attribute: words.next().unwrap_or_default().to_owned(),
        ..Default::default()
    };
    for (name, number) in words.filter_map(|word| word.split_once('=')) {
        let number = number.parse().expect("a number");
        match name {
            "max-skew" => spread.max_skew = number,
            value => spread.targets.push(pb::SpreadTarget {
                value: value.to_owned(),
                percent: number,
            }),
        }
    }
    spread
}

fn affinity(text: String) -> pb::Affinity {
    let (expression, weight) = text.rsplit_once(',').expect("an expression and a weight");
    pb::Affinity {
        expression: expression.to_owned(),
        weight: weight.parse().expect("a weight"),
    }
}

pub fn amounts(amount: &mut pb::Resources, options: &Options) {
    amount.disk_bytes = super::words::number(options, "disk") << 30;
    amount.pids = super::words::number(options, "pids");
}

/// `devices=gpu:A100:2,gpu::1` `volumes=data,logs:ro` `reserved=1` (CPUs) `arch=arm64` `zone=eu`
pub fn put(body: &mut Body, options: &Options) {
    let Body::PutNode(pb::PutNode {
        description: Some(description),
        ..
    }) = body
    else {
        return;
    };
    let rows = options
        .get("devices")
        .into_iter()
        .flat_map(|list| list.split(','));
    let row = |row: &str| {
        let words: Vec<_> = row.split(':').collect();
        pb::Device {
            kind: words[0].to_owned(),
            model: words[1].to_owned(),
            count: words[2].parse().expect("a count"),
        }
    };
    description.devices = rows.map(row).collect();
    let volumes = options.get("volumes").into_iter();
    let volumes = volumes.flat_map(|list| list.split(','));
    description.volumes = volumes
        .map(|text| pb::NodeVolume {
            name: text.trim_end_matches(":ro").to_owned(),
            read_only: text.ends_with(":ro"),
        })
        .collect();
    description.reserved = options.get("reserved").map(|cpus| pb::Resources {
        cpu_milli: cpus.parse::<u64>().expect("CPUs") * 1_000,
        ..Default::default()
    });
    description.architecture = options.get("arch").copied().unwrap_or_default().to_owned();
    let zone = options
        .get("zone")
        .map(|zone| ("zone".to_owned(), (*zone).to_owned()));
    description.labels = zone.into_iter().collect();
    amounts(description.capacity.get_or_insert_default(), options);
}

/// `label=zone:eu` `unlabel=zone` `taint=key:value` `dislike=key:value` `untaint=key`
pub fn update(node_id: Vec<u8>, options: &Options) -> Body {
    let pair = |key: &str| {
        let text = options.get(key)?;
        let (key, value) = text.split_once(':').expect("key:value");
        Some((key.to_owned(), value.to_owned()))
    };
    let taint = |key: String, value: String, effect: i32| pb::Taint { key, value, effect };
    let untaint = options.get("untaint").map(|key| (*key).to_owned());
    Body::UpdateNode(pb::UpdateNode {
        node_id,
        labels_add: pair("label").into_iter().collect(),
        labels_remove: options
            .get("unlabel")
            .map(|key| (*key).to_owned())
            .into_iter()
            .collect(),
        taints_add: pair("taint")
            .map(|(key, value)| taint(key, value, 1))
            .into_iter()
            .chain(pair("dislike").map(|(key, value)| taint(key, value, 2)))
            .collect(),
        taints_remove: untaint
            .map(|key| taint(key, String::new(), 0))
            .into_iter()
            .collect(),
    })
}

/// `devices=gpu:0:1000,gpu:1:1000`
pub fn shares(options: &Options) -> Vec<pb::DeviceShare> {
    let shares = options
        .get("devices")
        .into_iter()
        .flat_map(|list| list.split(','));
    let share = |share: &str| {
        let words: Vec<_> = share.split(':').collect();
        pb::DeviceShare {
            kind: words[0].to_owned(),
            number: words[1].parse().expect("a number"),
            milli: words[2].parse().expect("thousandths"),
        }
    };
    shares.map(share).collect()
}
