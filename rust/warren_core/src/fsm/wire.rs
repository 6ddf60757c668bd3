//! Protobuf's encoding by hand, where there are too many objects to make a message of each:
//! containers, whose bytes are hashed with each change and stand in snapshots by the million, and
//! the answers to batches.
//!
//! The encoding is the canonical one that `prost` gives (fields in order, what is zero or empty
//! left out); tests hold the two against each other.

use prost::Message;

use crate::fsm::objects::{Container, Resources, Status};

/// Wire types.
pub(super) const VARINT: u64 = 0;
pub(super) const BYTES: u64 = 2;

pub(super) fn container(c: &Container, out: &mut Vec<u8>) {
    put_id(1, &c.id.0, out);
    put_id(2, &c.service.0, out);
    put_bytes(3, c.service_name.as_bytes(), out);
    put_number(4, c.slot, out);
    put_id(5, &c.spec_digest.0, out);
    put_number(6, c.service_version, out);
    put_id(7, &c.node.0, out);
    put_number(8, c.desired as u64, out);
    put_message(9, |out| status(&c.status, out), out);
    put_number(10, c.created_at_ms, out);
    put_message(11, |out| resources(c.resources, out), out);
    for share in c.devices() {
        put_message(12, |out| share.encode_raw(out), out);
    }
}

/// Bytes of a fixed number, which is neither 0 nor above 127, in a field below 16.
#[inline]
fn put_id<const N: usize>(field: u8, id: &[u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(&[field << 3 | BYTES as u8, N as u8]);
    out.extend_from_slice(id);
}

fn status(s: &Status, out: &mut Vec<u8>) {
    put_number(1, s.attempt.into(), out);
    put_number(2, s.state as u64, out);
    put_bytes(3, s.message.as_bytes(), out);
    put_number(4, zigzag(s.exit_code.unwrap_or_default()), out);
    put_number(5, s.exit_code.is_some().into(), out);
    put_number(6, s.oom_killed.into(), out);
    put_number(7, s.pid.into(), out);
    put_number(8, s.started_at_ms, out);
    put_number(9, s.finished_at_ms, out);
    put_number(10, s.retry_at_ms, out);
    put_number(11, s.removed.into(), out);
}

fn resources(r: Resources, out: &mut Vec<u8>) {
    put_number(1, r.cpu_milli, out);
    put_number(2, r.memory_bytes, out);
    put_number(3, r.disk_bytes, out);
    put_number(4, r.pids, out);
}

fn zigzag(number: i32) -> u64 {
    u64::from(((number << 1) ^ (number >> 31)) as u32)
}

#[inline]
pub(super) fn put_number(field: u64, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        put_varint(field << 3 | VARINT, out);
        put_varint(value, out);
    }
}

/// `bytes` as a field; also a message that is not empty.
#[inline]
pub(super) fn put_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_varint(field << 3 | BYTES, out);
        put_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// A message that is present, also if it is empty. Its length is known only afterwards: what does
/// not fit the one byte left for it moves the message.
fn put_message(field: u64, put: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    put_varint(field << 3 | BYTES, out);
    let at = out.len();
    out.push(0);
    put(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
    } else {
        let mut head = Vec::with_capacity(10);
        put_varint(length as u64, &mut head);
        out.splice(at..=at, head);
    }
}

#[inline]
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front; `None` if there is none, or one of more than 64 bits.
#[inline]
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    match bytes.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *bytes = rest;
            Some(byte.into())
        }
        _ => take_long_varint(bytes),
    }
}

fn take_long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        value |= bits << shift;
        if bits << shift >> shift != bits {
            return None;
        }
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Takes a field's content off the front.
#[inline]
pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsm::objects::{ContainerState, DesiredState, Origin};
    use crate::ids::{ContainerId, NodeId, ServiceId, SpecDigest};

    fn sample(number: u64, message: &str, exit_code: Option<i32>) -> Container {
        Container {
            id: ContainerId([1; 16]),
            origin: std::sync::Arc::new(Origin {
                service: ServiceId([2; 16]),
                service_name: "web".into(),
                service_version: number,
                spec_digest: SpecDigest([3; 32]),
                resources: Resources {
                    cpu_milli: number,
                    memory_bytes: number / 5,
                    disk_bytes: number / 7,
                    pids: number / 11,
                },
            }),
            slot: number,
            node: NodeId([4; 16]),
            desired: DesiredState::Run,
            status: Status {
                attempt: number as u32,
                state: ContainerState::Lost,
                message: message.into(),
                exit_code,
                oom_killed: number % 2 == 1,
                pid: number as u32,
                started_at_ms: number,
                finished_at_ms: number / 2,
                retry_at_ms: number / 3,
                removed: number % 3 == 1,
            },
            created_at_ms: number,
            devices: (number % 2 == 1).then(|| {
                let share = |number| crate::pb::DeviceShare {
                    kind: "gpu".into(),
                    number,
                    milli: 1000,
                };
                std::sync::Arc::new(vec![share(0), share(300)])
            }),
        }
    }

    #[test]
    fn numbers_come_back_and_longer_ones_do_not() {
        for number in [0, 1, 127, 128, 1 << 35, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            bytes.push(7);
            let mut rest = &bytes[..];
            assert_eq!((take_varint(&mut rest), rest), (Some(number), &[7][..]));
            let mut cut = &bytes[..bytes.len() - 2];
            assert_eq!(take_varint(&mut cut), None);
        }
        let mut too_long = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..];
        assert_eq!(take_varint(&mut too_long), None);
        let mut endless = &[0x80; 11][..];
        assert_eq!(take_varint(&mut endless), None);
        let mut short = &[3, 1, 2][..];
        assert_eq!(take_bytes(&mut short), None);
    }

    #[test]
    fn the_bytes_are_those_of_the_message() {
        for number in [0, 1, 127, 128, 300, 1 << 20, 1 << 49, u64::MAX] {
            for message in ["", "ready", &"é".repeat(30), &"x".repeat(1024)] {
                for exit_code in [None, Some(0), Some(137), Some(-1), Some(i32::MIN)] {
                    let container = sample(number, message, exit_code);
                    let mut bytes = Vec::new();
                    super::container(&container, &mut bytes);
                    let message = crate::pb::Container::from(&container);
                    assert_eq!(bytes, message.encode_to_vec(), "{container:?}");
                }
            }
        }
    }
}
