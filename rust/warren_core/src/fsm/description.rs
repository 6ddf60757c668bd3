//! What a node may say of itself.

use std::collections::BTreeSet;

use prost::Message;

use crate::error::{Error, Result};
use crate::fsm::apply::invalid;
use crate::fsm::objects::{
    CPU_MILLI_MAX, DEVICES_PER_KIND_MAX, DISK_BYTES_MAX, MEMORY_BYTES_MAX, PIDS_MAX,
};
use crate::fsm::placement::taints;
use crate::fsm::volumes;
use crate::pb;

const NODE_NAME_BYTES_MAX: usize = 253;
const NODE_DESCRIPTION_BYTES_MAX: usize = 256 << 10;
/// Kinds and models of a node's devices.
const DEVICE_ROWS_MAX: usize = 64;

/// Takes out what releases of an older level do not know, and so do not write into the state either.
pub fn clip(description: &mut pb::NodeDescription, level: u32) {
    if level < 3 {
        description.peer_address.clear();
        description.api_address.clear();
        description.data_dir.clear();
    }
    if level < 4 {
        description.reserved = None;
        description.devices.clear();
        description.taints.clear();
        description.disk_free_bytes = 0;
        if let Some(capacity) = &mut description.capacity {
            (capacity.disk_bytes, capacity.pids) = (0, 0);
        }
    }
    if level < 5 {
        description.volumes.clear();
    }
}

/// The description in normal form, as it is stored at that level.
pub(super) fn checked(
    description: Option<&pb::NodeDescription>,
    level: u32,
) -> Result<pb::NodeDescription> {
    let mut description = description
        .cloned()
        .ok_or_else(|| invalid("node description", "there is none"))?;
    // What came with level 3 older releases know, and keep.
    clip(&mut description, level.max(3));
    let size = description.encoded_len();
    if size > NODE_DESCRIPTION_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "node description",
            actual_bytes: size,
            limit_bytes: NODE_DESCRIPTION_BYTES_MAX,
        });
    }
    if description.name.is_empty() || description.name.len() > NODE_NAME_BYTES_MAX {
        return Err(invalid(
            "node description",
            "its name must have 1 to 253 bytes",
        ));
    }
    check_amount(&description.capacity.unwrap_or_default())?;
    check_amount(&description.reserved.unwrap_or_default())?;
    check_devices(&mut description.devices)?;
    volumes::complete(&mut description.volumes)?;
    taints::check_taints(&mut description.taints)?;
    description
        .images
        .sort_by(|a, b| (&a.reference, &a.digest).cmp(&(&b.reference, &b.digest)));
    Ok(description)
}

fn check_amount(amount: &pb::Resources) -> Result<()> {
    if amount.cpu_milli > CPU_MILLI_MAX
        || amount.memory_bytes > MEMORY_BYTES_MAX
        || amount.disk_bytes > DISK_BYTES_MAX
        || amount.pids > PIDS_MAX
    {
        return Err(invalid(
            "node description",
            "its capacity exceeds a million CPUs, 1 PiB of memory, 1 EiB of disk or 4,194,304 processes",
        ));
    }
    Ok(())
}

/// In the order given: devices of a kind are numbered by it.
fn check_devices(devices: &mut Vec<pb::Device>) -> Result<()> {
    let refuse = |why: &str| Err(invalid("device", why));
    devices.retain(|device| device.count > 0);
    if devices.len() > DEVICE_ROWS_MAX {
        return refuse("a node has more than 64 kinds and models");
    }
    let mut known = BTreeSet::new();
    for device in &*devices {
        if !pb::Device::is_word(&device.kind) || device.kind.is_empty() {
            return refuse("a kind has 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        if !pb::Device::is_word(&device.model) {
            return refuse("a model has at most 64 of A-Z a-z 0-9 . _ -");
        }
        if !known.insert((&device.kind, &device.model)) {
            return refuse("a kind and model is in it twice; add the counts up");
        }
        let of_kind = devices.iter().filter(|other| other.kind == device.kind);
        if of_kind.map(|other| u64::from(other.count)).sum::<u64>() > DEVICES_PER_KIND_MAX {
            return refuse("a node has more than 1,024 of a kind");
        }
    }
    Ok(())
}

impl pb::Device {
    /// Whether it can name a kind or a model of devices; empty can.
    pub(super) fn is_word(text: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        text.len() <= 64 && text.bytes().all(plain)
    }
}
