//! One frame between members, as bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of everything after the checksum, LE |
//! | 4 | CRC-32C of everything after it, LE |
//! | 1, 1, 2 | format, lane, kind |
//! | 4 | zero |
//! | 16, 8 | cluster, epoch |
//! | 8, 16 | sender: member and data directory |
//! | 8 | receiver |
//! | … | body: one message of the kind |
//!
//! A transport moves frames without looking into them: all it needs is the length, and
//! [`FRAME_BYTES_MAX`] to refuse before it allocates. What is read here was sent by anybody:
//! [`decode`] never panics and never allocates.

use prost::Message;

use crate::control::Identity;
use crate::ids::{ClusterId, MemberId};
use crate::raft::Lane;

/// The oldest and the newest format that this release reads, and writes.
pub const FORMAT_MIN: u8 = 1;
pub const FORMAT_MAX: u8 = 1;
/// Length and checksum.
const PREFIX_BYTES: usize = 8;
const HEADER_BYTES: usize = 64;
/// Where the sender's member id begins.
const SENDER_AT: usize = PREFIX_BYTES + 32;
/// Longest frame, all of it: twice the longest append and its largest entry.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    Hello = 1,
    Raft = 2,
    ReadAsk = 3,
    ReadAnswer = 4,
    SnapshotOffer = 5,
    SnapshotChunk = 6,
    SnapshotAck = 7,
    StateHash = 8,
    Removed = 9,
    Forward = 10,
    ForwardAnswer = 11,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Hello,
        Kind::Raft,
        Kind::ReadAsk,
        Kind::ReadAnswer,
        Kind::SnapshotOffer,
        Kind::SnapshotChunk,
        Kind::SnapshotAck,
        Kind::StateHash,
        Kind::Removed,
        Kind::Forward,
        Kind::ForwardAnswer,
    ];
}

/// Whose frame it is and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub format: u8,
    pub lane: Lane,
    pub kind: Kind,
    pub cluster: ClusterId,
    pub epoch: u64,
    pub from: MemberId,
    pub from_data_dir: [u8; 16],
    pub to: MemberId,
}

impl Header {
    /// From `identity` to `to`.
    pub fn of(identity: &Identity, to: MemberId, format: u8, lane: Lane, kind: Kind) -> Self {
        Self {
            format,
            lane,
            kind,
            cluster: identity.cluster,
            epoch: identity.epoch,
            from: identity.member,
            from_data_dir: identity.data_dir,
            to,
        }
    }
}

/// Why bytes are no frame that this release reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Too short, too long, or not as long as it says.
    Length,
    Checksum,
    /// Of this newer or long forgotten format.
    Format(u8),
    Kind(u16),
    /// A lane or a reserved field holds what no release writes.
    Header,
}

pub fn encode(header: &Header, body: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + HEADER_BYTES + body.encoded_len());
    bytes.extend([0; PREFIX_BYTES]);
    bytes.extend([header.format, lane_number(header.lane)]);
    bytes.extend((header.kind as u16).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(header.cluster.0);
    bytes.extend(header.epoch.to_le_bytes());
    bytes.extend(header.from.0.to_le_bytes());
    bytes.extend(header.from_data_dir);
    bytes.extend(header.to.0.to_le_bytes());
    body.encode(&mut bytes).expect("a vector grows");
    let (length, crc) = (
        (bytes.len() - PREFIX_BYTES) as u32,
        crc32c::crc32c(&bytes[PREFIX_BYTES..]),
    );
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Header and body of a whole frame.
pub fn decode(bytes: &[u8]) -> Result<(Header, &[u8]), Unreadable> {
    if !(PREFIX_BYTES + HEADER_BYTES..=FRAME_BYTES_MAX).contains(&bytes.len()) {
        return Err(Unreadable::Length);
    }
    let (prefix, rest) = bytes.split_at(PREFIX_BYTES);
    if u32::from_le_bytes(array(prefix, 0)) as usize != rest.len() {
        return Err(Unreadable::Length);
    }
    if u32::from_le_bytes(array(prefix, 4)) != crc32c::crc32c(rest) {
        return Err(Unreadable::Checksum);
    }
    let (head, body) = rest.split_at(HEADER_BYTES);
    let format = head[0];
    if !(FORMAT_MIN..=FORMAT_MAX).contains(&format) {
        return Err(Unreadable::Format(format));
    }
    let number = u16::from_le_bytes(array(head, 2));
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u16 == number);
    let (Some(lane), [0, 0, 0, 0]) = (lane(head[1]), array(head, 4)) else {
        return Err(Unreadable::Header);
    };
    let header = Header {
        format,
        lane,
        kind: kind.ok_or(Unreadable::Kind(number))?,
        cluster: ClusterId(array(head, 8)),
        epoch: u64::from_le_bytes(array(head, 24)),
        from: MemberId(u64::from_le_bytes(array(head, 32))),
        from_data_dir: array(head, 40),
        to: MemberId(u64::from_le_bytes(array(head, 56))),
    };
    Ok((header, body))
}

/// Who a frame says it is from, without a look at anything else in it. `None` if it is too short.
pub fn sender(bytes: &[u8]) -> Option<MemberId> {
    let from = bytes.get(SENDER_AT..)?.first_chunk()?;
    Some(MemberId(u64::from_le_bytes(*from)))
}

fn lane_number(lane: Lane) -> u8 {
    match lane {
        Lane::Urgent => 0,
        Lane::Log => 1,
        Lane::Bulk => 2,
    }
}

fn lane(number: u8) -> Option<Lane> {
    [Lane::Urgent, Lane::Log, Lane::Bulk]
        .into_iter()
        .find(|lane| lane_number(*lane) == number)
}

/// `N` bytes from `at`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn frame() -> Vec<u8> {
        let identity = Identity {
            cluster: ClusterId([7; 16]),
            epoch: 3,
            member: MemberId(5),
            data_dir: [9; 16],
        };
        let header = Header::of(&identity, MemberId(6), 1, Lane::Log, Kind::ReadAsk);
        encode(
            &header,
            &pb::PeerReadAsk {
                context: 77,
                used_by: vec![],
            },
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = frame();
        let (header, body) = decode(&bytes).unwrap();
        assert_eq!((header.from, header.to), (MemberId(5), MemberId(6)));
        assert_eq!((header.lane, header.kind), (Lane::Log, Kind::ReadAsk));
        assert_eq!(header.from_data_dir, [9; 16]);
        assert_eq!(sender(&bytes), Some(header.from));
        assert_eq!(sender(&bytes[..SENDER_AT + 7]), None);
        assert_eq!((header.cluster, header.epoch), (ClusterId([7; 16]), 3));
        assert_eq!(pb::PeerReadAsk::decode(body).unwrap().context, 77);
    }

    #[test]
    fn a_flip_of_any_bit_is_found() {
        let whole = frame();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_part_of_a_frame_is_none() {
        let whole = frame();
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), Err(Unreadable::Length));
        }
        assert_eq!(
            decode(&[&whole[..], &[0]].concat()),
            Err(Unreadable::Length)
        );
        assert_eq!(
            decode(&vec![0; FRAME_BYTES_MAX + 1]),
            Err(Unreadable::Length)
        );
    }

    /// With a checksum that fits, so that it is the field that is judged.
    fn patched(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = frame();
        bytes[PREFIX_BYTES + at] = value;
        let crc = crc32c::crc32c(&bytes[PREFIX_BYTES..]);
        bytes[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn what_no_release_wrote_is_named() {
        assert_eq!(decode(&patched(0, 2)), Err(Unreadable::Format(2)));
        assert_eq!(decode(&patched(0, 0)), Err(Unreadable::Format(0)));
        assert_eq!(decode(&patched(1, 3)), Err(Unreadable::Header));
        assert_eq!(decode(&patched(2, 200)), Err(Unreadable::Kind(200)));
        assert_eq!(decode(&patched(6, 1)), Err(Unreadable::Header));
    }
}
