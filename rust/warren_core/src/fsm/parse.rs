//! Protobuf's decoding by hand, where there are too many objects to make a message of each: the
//! items of a report, the answers to batches, and containers in snapshots.
//!
//! What is understood here is what `wire` and every canonical encoder write: known fields, each at
//! most once, in the order of their numbers. Whatever else the bytes are is `None`, which says
//! nothing about them: `prost` decodes them then, or refuses them. Where there is an answer here,
//! it is that of `prost`; tests hold the two against each other.

use crate::fsm::convert::StatusFields;
use crate::fsm::objects::Resources;
use crate::fsm::wire::{self, BYTES, VARINT};
use crate::pb;

/// An encoded [`pb::StatusItem`](crate::pb::StatusItem), where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ReportItem<'a> {
    pub container_id: &'a [u8],
    pub status: Option<StatusFields<'a>>,
}

/// An encoded [`pb::ReportStatus`](crate::pb::ReportStatus), where it lies.
#[derive(Debug, PartialEq)]
pub(super) struct Report<'a> {
    pub node_id: &'a [u8],
    pub items: Vec<ReportItem<'a>>,
}

/// An encoded [`pb::Container`](crate::pb::Container), where it lies.
#[derive(Debug, PartialEq)]
pub(super) struct ContainerFields<'a> {
    pub id: &'a [u8],
    pub service_id: &'a [u8],
    pub service_name: &'a str,
    pub slot: u64,
    pub spec_digest: &'a [u8],
    pub service_version: u64,
    pub node_id: &'a [u8],
    pub desired: i32,
    pub status: Option<StatusFields<'a>>,
    pub created_at_ms: u64,
    pub resources: Resources,
    /// None in what is understood here: containers that hold some are few.
    pub devices: &'a [pb::DeviceShare],
}

/// Of `Command`, where a report stands.
const REPORT_STATUS: u64 = 19;

/// The encoded envelope of a command, and the report that is all of its body.
pub(super) fn split_report(command: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = command;
    loop {
        let envelope = &command[..command.len() - rest.len()];
        let key = wire::take_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (REPORT_STATUS, BYTES) => {
                let report = wire::take_bytes(&mut rest)?;
                return rest.is_empty().then_some((envelope, report));
            }
            (_, VARINT) => drop(wire::take_varint(&mut rest)?),
            (_, BYTES) => drop(wire::take_bytes(&mut rest)?),
            _ => return None,
        }
    }
}

/// `None` also if there are more than `items_max` items.
pub(super) fn report(bytes: &[u8], items_max: usize) -> Option<Report<'_>> {
    let rest = &mut &*bytes;
    let node_id = content(rest, 1)?;
    let mut items = Vec::with_capacity((rest.len() / ITEM_BYTES_USUAL).min(items_max));
    while let Some(item) = present(rest, 2)? {
        if items.len() == items_max {
            return None;
        }
        items.push(report_item(item)?);
    }
    rest.is_empty().then_some(Report { node_id, items })
}

/// Of each item of an encoded [`pb::BatchResult`] whether it was applied.
pub fn applied_items(result: &[u8]) -> Option<Vec<bool>> {
    let rest = &mut &*result;
    let mut applied = Vec::with_capacity(rest.len() / RESULT_BYTES_USUAL);
    while let Some(item) = present(rest, 1)? {
        let item = &mut &*item;
        applied.push(number(item, 1)? != 0);
        text(item, 2)?;
        content(item, 3)?;
        if !item.is_empty() {
            return None;
        }
    }
    rest.is_empty().then_some(applied)
}

/// Of an encoded item of a result: that it was applied, and the container's id.
const RESULT_BYTES_USUAL: usize = 22;

/// Of an encoded item: id and status, with a time and a short sentence.
const ITEM_BYTES_USUAL: usize = 48;

fn report_item(bytes: &[u8]) -> Option<ReportItem<'_>> {
    let rest = &mut &*bytes;
    let item = ReportItem {
        container_id: content(rest, 1)?,
        status: match present(rest, 2)? {
            Some(bytes) => Some(status(bytes)?),
            None => None,
        },
    };
    rest.is_empty().then_some(item)
}

fn status(bytes: &[u8]) -> Option<StatusFields<'_>> {
    let rest = &mut &*bytes;
    // What does not fit is cut off, as by every decoder.
    let status = StatusFields {
        attempt: number(rest, 1)? as u32,
        state: number(rest, 2)? as i32,
        message: text(rest, 3)?,
        exit_code: unzigzag(number(rest, 4)? as u32),
        exited: number(rest, 5)? != 0,
        oom_killed: number(rest, 6)? != 0,
        pid: number(rest, 7)? as u32,
        started_at_ms: number(rest, 8)?,
        finished_at_ms: number(rest, 9)?,
        retry_at_ms: number(rest, 10)?,
        removed: number(rest, 11)? != 0,
    };
    rest.is_empty().then_some(status)
}

pub(super) fn container(bytes: &[u8]) -> Option<ContainerFields<'_>> {
    let rest = &mut &*bytes;
    let container = ContainerFields {
        id: content(rest, 1)?,
        service_id: content(rest, 2)?,
        service_name: text(rest, 3)?,
        slot: number(rest, 4)?,
        spec_digest: content(rest, 5)?,
        service_version: number(rest, 6)?,
        node_id: content(rest, 7)?,
        desired: number(rest, 8)? as i32,
        status: match present(rest, 9)? {
            Some(bytes) => Some(status(bytes)?),
            None => None,
        },
        created_at_ms: number(rest, 10)?,
        resources: resources(content(rest, 11)?)?,
        devices: &[],
    };
    rest.is_empty().then_some(container)
}

fn resources(bytes: &[u8]) -> Option<Resources> {
    let rest = &mut &*bytes;
    let resources = Resources {
        cpu_milli: number(rest, 1)?,
        memory_bytes: number(rest, 2)?,
        disk_bytes: number(rest, 3)?,
        pids: number(rest, 4)?,
    };
    rest.is_empty().then_some(resources)
}

/// The number in `field`, 0 if it is not the next one. Fields are below 16, so that a key is a byte.
#[inline]
fn number(rest: &mut &[u8], field: u8) -> Option<u64> {
    if next_is(rest, field, VARINT) {
        wire::take_varint(rest)
    } else {
        Some(0)
    }
}

/// The content of `field`, if it is the next one.
#[inline]
fn present<'a>(rest: &mut &'a [u8], field: u8) -> Option<Option<&'a [u8]>> {
    if next_is(rest, field, BYTES) {
        wire::take_bytes(rest).map(Some)
    } else {
        Some(None)
    }
}

#[inline]
fn content<'a>(rest: &mut &'a [u8], field: u8) -> Option<&'a [u8]> {
    present(rest, field).map(Option::unwrap_or_default)
}

#[inline]
fn text<'a>(rest: &mut &'a [u8], field: u8) -> Option<&'a str> {
    str::from_utf8(content(rest, field)?).ok()
}

/// Takes the key of `field` off the front, if it is there.
#[inline]
fn next_is(rest: &mut &[u8], field: u8, wire_type: u64) -> bool {
    match rest.split_first() {
        Some((&key, after)) if key == field << 3 | wire_type as u8 => {
            *rest = after;
            true
        }
        _ => false,
    }
}

fn unzigzag(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

#[cfg(test)]
mod tests;
