//! Directories of nodes that containers mount by name.
//!
//! A volume is where its node is: a container that mounts it can go nowhere else. That makes it a rule of
//! placement that concerns one node alone, and where one container wants it for itself, a claim
//! ([`claims`](crate::fsm::claims)).

use std::collections::BTreeSet;

use crate::error::Result;
use crate::fsm::apply::invalid;
use crate::fsm::objects::Node;
use crate::pb;

/// Of one node.
pub const VOLUMES_MAX: usize = 256;

/// What the spec mounts by name.
pub fn mounted(spec: Option<&pb::ContainerSpec>) -> impl Iterator<Item = &pb::Mount> {
    let mounts = spec.into_iter().flat_map(|spec| &spec.mounts);
    mounts.filter(|mount| mount.r#type() == pb::MountType::Volume)
}

/// Whether no two containers of the spec can be on one node.
pub fn wants_one_alone(spec: &pb::ContainerSpec) -> bool {
    mounted(Some(spec)).any(|mount| mount.exclusive)
}

/// Whether releases below feature level 5 would read the spec otherwise than it is meant.
pub(super) fn needs_level_5(spec: &pb::ContainerSpec) -> bool {
    let new = |mount: &pb::Mount| mount.r#type() == pb::MountType::Volume || mount.exclusive;
    spec.mounts.iter().any(new)
}

/// Takes out what those releases do not know; a mount that they know nothing of they refuse.
pub(super) fn clip(spec: &mut pb::ContainerSpec) {
    for mount in &mut spec.mounts {
        mount.exclusive = false;
        if mount.r#type() == pb::MountType::Volume {
            mount.r#type = pb::MountType::Unspecified.into();
        }
    }
}

/// Why the node cannot give the volume that is asked for.
pub(super) fn refusal(asked: &pb::Mount, node: &Node) -> Option<String> {
    let name = &asked.source;
    let mut volumes = node.description.volumes.iter();
    match volumes.find(|volume| volume.name == *name) {
        None => Some(format!("it has no volume {name}")),
        Some(volume) if volume.read_only && !asked.read_only => {
            Some(format!("its volume {name} can only be read"))
        }
        Some(_) => None,
    }
}

pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// Sorted by name; refused where a name is none, or is there twice.
pub(super) fn complete(volumes: &mut [pb::NodeVolume]) -> Result<()> {
    let refuse = |why: &str| Err(invalid("volume", why));
    if volumes.len() > VOLUMES_MAX {
        return refuse("a node has more than 256");
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut names = BTreeSet::new();
    for volume in &*volumes {
        if !is_name(&volume.name) {
            return refuse("a name has 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        if !names.insert(&volume.name) {
            return refuse("a name is in it twice");
        }
    }
    Ok(())
}
