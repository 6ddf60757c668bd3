//! What a container asks of its node: amounts that are reserved, limits that are enforced, ports of the
//! host, devices.
//!
//! A spec without limits means what it meant before there were any: what is reserved is enforced too.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::fsm::objects::{
    CPU_MILLI_MAX, DEVICES_PER_KIND_MAX, DISK_BYTES_MAX, MEMORY_BYTES_MAX, PIDS_MAX,
};
use crate::pb::{self, PortProtocol};

/// Less than the kernel's smallest useful cgroup limit: a container could not even start.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
pub const HOST_PORTS_MAX: usize = 256;
const DEVICE_KINDS_MAX: usize = 16;
const MODELS_MAX: usize = 32;
/// Of one device.
pub const DEVICE_MILLI: u32 = 1000;

fn refuse<T>(what: &'static str, why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid {
        what,
        why: why.into(),
    })
}

/// Refuses what makes no sense; brings the rest into one form, so that equal specs have equal digests.
pub(super) fn complete(spec: &mut pb::ContainerSpec) -> Result<()> {
    let asked = |amount: &pb::Resources| *amount != pb::Resources::default();
    spec.resources = spec.resources.filter(asked);
    let reserved = spec.resources.unwrap_or_default();
    check_amount(&reserved)?;
    if let Some(limits) = spec.limits {
        check_amount(&limits)?;
        check_limits(&reserved, &limits)?;
    }
    spec.limits = spec
        .limits
        .filter(|limits| *limits != enforceable(reserved));
    ports(&mut spec.host_ports)?;
    devices(&mut spec.devices)
}

/// What is enforced where nothing is said of limits. Nothing watches how much disk a container uses.
fn enforceable(reserved: pb::Resources) -> pb::Resources {
    pb::Resources {
        disk_bytes: 0,
        ..reserved
    }
}

/// What the worker enforces; 0 where there is no limit.
pub fn limits(spec: &pb::ContainerSpec) -> pb::Resources {
    let reserved = enforceable(spec.resources.unwrap_or_default());
    spec.limits.unwrap_or(reserved)
}

/// Whether releases below feature level 4 would read the spec otherwise than it is meant.
pub(super) fn needs_level_4(spec: &pb::ContainerSpec) -> bool {
    let mut clipped = spec.clone();
    clip(&mut clipped);
    clipped != *spec
}

/// Takes out what those releases do not know.
pub(super) fn clip(spec: &mut pb::ContainerSpec) {
    spec.limits = None;
    spec.host_ports.clear();
    spec.devices.clear();
    if let Some(reserved) = &mut spec.resources {
        (reserved.disk_bytes, reserved.pids) = (0, 0);
    }
}

fn check_amount(asked: &pb::Resources) -> Result<()> {
    if asked.cpu_milli > CPU_MILLI_MAX {
        return refuse("cpus", "it is more than a million");
    }
    if asked.memory_bytes > MEMORY_BYTES_MAX {
        return refuse("memory", "it is more than 1 PiB");
    }
    if (1..MEMORY_BYTES_MIN).contains(&asked.memory_bytes) {
        return refuse(
            "memory",
            "it is less than 4 MiB, with which no container starts",
        );
    }
    if asked.disk_bytes > DISK_BYTES_MAX {
        return refuse("disk", "it is more than 1 EiB");
    }
    if asked.pids > PIDS_MAX {
        return refuse("pids", format!("it is more than {PIDS_MAX}"));
    }
    Ok(())
}

fn check_limits(reserved: &pb::Resources, limits: &pb::Resources) -> Result<()> {
    if limits.disk_bytes != 0 {
        return refuse(
            "limit",
            "disk is reserved, but no limit of it can be enforced; leave it out",
        );
    }
    let below = |limit: u64, reserved: u64| limit != 0 && limit < reserved;
    for (name, limit, reserved) in [
        ("CPU", limits.cpu_milli, reserved.cpu_milli),
        ("memory", limits.memory_bytes, reserved.memory_bytes),
        ("pids", limits.pids, reserved.pids),
    ] {
        if below(limit, reserved) {
            let why =
                format!("that of {name} is below what is reserved; raise it, or reserve less");
            return refuse("limit", why);
        }
    }
    Ok(())
}

fn ports(ports: &mut Vec<pb::HostPort>) -> Result<()> {
    if ports.len() > HOST_PORTS_MAX {
        return refuse("host port", format!("there are more than {HOST_PORTS_MAX}"));
    }
    let mut known = BTreeSet::new();
    for port in &mut *ports {
        if !(1..=65_535).contains(&port.port) {
            return refuse(
                "host port",
                format!("{} is none; give 1 to 65535", port.port),
            );
        }
        match PortProtocol::try_from(port.protocol) {
            Ok(PortProtocol::Udp) => {}
            Ok(_) => port.protocol = PortProtocol::Unspecified.into(),
            Err(_) => return refuse("host port", "its protocol is tcp or udp"),
        }
        if !known.insert((port.port, port.protocol)) {
            return refuse("host port", format!("{} is claimed twice", port.port));
        }
    }
    ports.sort_by_key(|port| (port.port, port.protocol));
    Ok(())
}

fn devices(devices: &mut Vec<pb::DeviceAsk>) -> Result<()> {
    if devices.len() > DEVICE_KINDS_MAX {
        return refuse(
            "device",
            format!("there are more than {DEVICE_KINDS_MAX} kinds"),
        );
    }
    for ask in &mut *devices {
        if ask.kind.is_empty() || !pb::Device::is_word(&ask.kind) {
            return refuse("device", "a kind has 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        let whole = ask.milli.is_multiple_of(DEVICE_MILLI);
        if ask.milli == 0 || u64::from(ask.milli) > DEVICES_PER_KIND_MAX * 1000 {
            return refuse("device", format!("of {} ask for 0.001 to 1024", ask.kind));
        }
        if ask.milli > DEVICE_MILLI && !whole {
            let why = format!(
                "of {} ask for whole ones, or for a share of one: below 1",
                ask.kind
            );
            return refuse("device", why);
        }
        let bad = |model: &String| model.is_empty() || !pb::Device::is_word(model);
        if ask.models.len() > MODELS_MAX || ask.models.iter().any(bad) {
            return refuse(
                "device",
                "name at most 32 models, each of A-Z a-z 0-9 . _ -",
            );
        }
        ask.models.sort();
        ask.models.dedup();
    }
    devices.sort_by(|a, b| a.kind.cmp(&b.kind));
    if devices.windows(2).any(|pair| pair[0].kind == pair[1].kind) {
        return refuse("device", "a kind is in it twice; ask for it once");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(reserved: u64, limit: Option<u64>) -> pb::ContainerSpec {
        let memory = |memory_bytes| pb::Resources {
            memory_bytes,
            ..Default::default()
        };
        pb::ContainerSpec {
            resources: Some(memory(reserved)),
            limits: limit.map(memory),
            ..Default::default()
        }
    }

    #[test]
    fn limits_that_say_nothing_new_are_not_stored() {
        let stored = |reserved, limit| {
            let mut spec = spec(reserved, limit);
            complete(&mut spec).unwrap();
            (
                spec.limits.map(|it| it.memory_bytes),
                limits(&spec).memory_bytes,
            )
        };
        assert_eq!(stored(8 << 20, None), (None, 8 << 20));
        assert_eq!(stored(8 << 20, Some(8 << 20)), (None, 8 << 20));
        assert_eq!(stored(8 << 20, Some(16 << 20)), (Some(16 << 20), 16 << 20));
        assert_eq!(stored(8 << 20, Some(0)), (Some(0), 0), "no limit at all");
        assert_eq!(stored(0, Some(0)), (None, 0));
    }

    #[test]
    fn an_old_spec_is_read_by_old_releases() {
        let mut old = spec(8 << 20, None);
        complete(&mut old).unwrap();
        assert!(!needs_level_4(&old));
        for change in [
            |s: &mut pb::ContainerSpec| s.limits = Some(pb::Resources::default()),
            |s: &mut pb::ContainerSpec| s.resources.as_mut().unwrap().pids = 1,
            |s: &mut pb::ContainerSpec| {
                s.host_ports = vec![pb::HostPort {
                    port: 1,
                    protocol: 0,
                }]
            },
        ] {
            let mut new = old.clone();
            change(&mut new);
            assert!(needs_level_4(&new), "{new:?}");
            clip(&mut new);
            assert_eq!(new, old);
        }
    }
}
