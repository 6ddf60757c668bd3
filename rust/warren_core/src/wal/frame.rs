//! Frames: how one record, or the end of a batch, stands in a segment. Pure.

use super::outline::Position;

pub(super) const FRAME_HEADER_BYTES: usize = 32;
/// A commit frame or an end mark, header included.
pub(super) const COMMIT_FRAME_BYTES: usize = FRAME_HEADER_BYTES + COMMIT_PAYLOAD_BYTES;
pub(super) const ALIGN: usize = 8;
const COMMIT_PAYLOAD_BYTES: usize = 32;

/// What a frame says. The numbers are the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A log entry at (index, term).
    Entry = 1,
    /// The consensus layer's own durable state; the latest wins.
    HardState = 2,
    /// Entries up to (index, term) are in a snapshot and may be dropped.
    Snapshot = 3,
    /// Ends a batch: everything since the last one counts from here on.
    Commit = 4,
    /// Ends a batch and the log: a clean shutdown.
    End = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::HardState,
            3 => Self::Snapshot,
            4 => Self::Commit,
            5 => Self::End,
            _ => return None,
        })
    }

    pub(super) fn ends_batch(self) -> bool {
        matches!(self, Self::Commit | Self::End)
    }
}

/// A frame whose checksum is right. Whether it belongs where it stands, `prev_checksum` tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub kind: FrameKind,
    pub at: Position,
    pub payload: &'a [u8],
    pub checksum: u32,
    pub prev_checksum: u32,
}

impl Frame<'_> {
    pub fn bytes(&self) -> usize {
        frame_bytes(self.payload.len())
    }
}

/// The size of a frame on disk: header, payload, zeros up to the alignment.
pub(super) fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// Appends a frame whose checksums [`seal`] has yet to fill in: they depend on the segment and on
/// what precedes the frame there, which is known only when the batch is written.
pub(super) fn encode(buf: &mut Vec<u8>, kind: FrameKind, at: Position, payload: &[u8]) {
    let end = buf.len() + frame_bytes(payload.len());
    let payload_bytes = u32::try_from(payload.len()).expect("a batch is below 4 GiB");
    buf.extend_from_slice(&[0; 8]);
    buf.extend_from_slice(&payload_bytes.to_le_bytes());
    buf.extend_from_slice(&[kind as u8, 0, 0, 0]);
    buf.extend_from_slice(&at.index.to_le_bytes());
    buf.extend_from_slice(&at.term.to_le_bytes());
    buf.extend_from_slice(payload);
    buf.resize(end, 0);
}

/// Fills in the checksums of the frames in `buf`, the first of which follows `prev_checksum`.
/// Returns the checksum of the last.
pub(super) fn seal(mut buf: &mut [u8], seed: u32, mut prev_checksum: u32) -> u32 {
    while !buf.is_empty() {
        let bytes = frame_bytes(u32_at(buf, 8) as usize);
        let (frame, rest) = buf.split_at_mut(bytes);
        frame[4..8].copy_from_slice(&prev_checksum.to_le_bytes());
        prev_checksum = crc32c::crc32c_append(seed, &frame[4..]);
        frame[..4].copy_from_slice(&prev_checksum.to_le_bytes());
        buf = rest;
    }
    prev_checksum
}

/// Reads the frame at the start of `buf`, which reaches to the end of the segment.
pub(super) fn decode(buf: &[u8], seed: u32) -> Result<Frame<'_>, &'static str> {
    if buf.len() < FRAME_HEADER_BYTES {
        return Err("no room for a frame");
    }
    let kind = frame_kind(buf).ok_or("no such kind of frame")?;
    let payload_bytes = u32_at(buf, 8) as usize;
    let bytes = frame_bytes(payload_bytes);
    if bytes > buf.len() {
        return Err("the frame is longer than the segment");
    }
    let checksum = u32_at(buf, 0);
    if crc32c::crc32c_append(seed, &buf[4..bytes]) != checksum {
        return Err("the checksum is wrong");
    }
    Ok(Frame {
        kind,
        at: Position {
            index: u64_at(buf, 16),
            term: u64_at(buf, 24),
        },
        payload: &buf[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_bytes],
        checksum,
        prev_checksum: u32_at(buf, 4),
    })
}

/// What the frame at the start of `buf` claims to be.
pub(super) fn frame_kind(buf: &[u8]) -> Option<FrameKind> {
    FrameKind::from_byte(buf[12])
}

/// What a commit frame or an end mark says about its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// Counts all batches of a log from 1.
    pub batch: u64,
    /// Offset in the segment of the batch's first frame. All below it was durable before this batch
    /// was written.
    pub batch_start: u64,
    /// The last entry that was durable before this batch was written.
    pub durable_index: u64,
    /// Frames in the batch, this one not counted.
    pub frames: u32,
}

impl Commit {
    pub fn encode(self) -> [u8; COMMIT_PAYLOAD_BYTES] {
        let mut payload = [0; COMMIT_PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&self.batch.to_le_bytes());
        payload[8..16].copy_from_slice(&self.batch_start.to_le_bytes());
        payload[16..24].copy_from_slice(&self.durable_index.to_le_bytes());
        payload[24..28].copy_from_slice(&self.frames.to_le_bytes());
        payload
    }

    pub fn decode(payload: &[u8]) -> Option<Self> {
        (payload.len() == COMMIT_PAYLOAD_BYTES).then(|| Self {
            batch: u64_at(payload, 0),
            batch_start: u64_at(payload, 8),
            durable_index: u64_at(payload, 16),
            frames: u32_at(payload, 24),
        })
    }
}

/// Of all intact commit frames and end marks in `buf`, at any aligned offset, the one with the greatest
/// `batch_start`: that, and where the frame ends in `buf`.
///
/// Linear in `buf`: only frames of a commit's fixed size are checksummed, so that payloads which look
/// like long frames cannot make recovery slow.
pub(super) fn latest_batch(buf: &[u8], seed: u32) -> Option<(u64, usize)> {
    let offsets = (0..=buf.len().checked_sub(COMMIT_FRAME_BYTES)?).step_by(ALIGN);
    let starts = offsets.filter_map(|offset| {
        let frame = &buf[offset..offset + COMMIT_FRAME_BYTES];
        if u32_at(frame, 8) as usize != COMMIT_PAYLOAD_BYTES {
            return None;
        }
        let frame = decode(frame, seed)
            .ok()
            .filter(|frame| frame.kind.ends_batch())?;
        let commit = Commit::decode(frame.payload)?;
        Some((commit.batch_start, offset + COMMIT_FRAME_BYTES))
    });
    starts.max()
}

/// What a snapshot marker says beside its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// The oldest segment that recovery still needs.
    pub first_sequence: u64,
    /// Whether entries above the snapshot belong to its history and stay.
    pub keep_suffix: bool,
}

impl Marker {
    pub const BYTES: usize = 16;

    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut payload = [0; Self::BYTES];
        payload[..8].copy_from_slice(&self.first_sequence.to_le_bytes());
        payload[8] = u8::from(self.keep_suffix);
        payload
    }

    pub fn decode(payload: &[u8]) -> Option<Self> {
        (payload.len() == Self::BYTES).then(|| Self {
            first_sequence: u64_at(payload, 0),
            keep_suffix: payload[8] != 0,
        })
    }
}

pub(super) fn u32_at(buf: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(buf[offset..offset + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(buf: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(buf[offset..offset + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 0x5eed;

    fn two_frames() -> Vec<u8> {
        let mut buf = Vec::new();
        encode(
            &mut buf,
            FrameKind::Entry,
            Position { index: 1, term: 2 },
            b"thirteen byte",
        );
        encode(&mut buf, FrameKind::HardState, Position::default(), b"");
        seal(&mut buf, SEED, 99);
        buf
    }

    #[test]
    fn what_is_sealed_is_decoded_and_chained() {
        let buf = two_frames();
        let first = decode(&buf, SEED).unwrap();
        assert_eq!(
            (first.payload, first.prev_checksum),
            (&b"thirteen byte"[..], 99)
        );
        assert_eq!(first.bytes(), 48);
        let second = decode(&buf[48..], SEED).unwrap();
        assert_eq!(
            (second.kind, second.prev_checksum),
            (FrameKind::HardState, first.checksum)
        );
        assert_eq!(buf.len(), 48 + second.bytes());
    }

    #[test]
    fn every_flipped_bit_and_another_seed_is_noticed() {
        let buf = two_frames();
        assert!(decode(&buf, SEED + 1).is_err());
        for bit in 0..48 * 8 {
            let mut flipped = buf.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, SEED).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn any_bytes_decode_without_a_panic() {
        let mut random = super::super::tests::Random::new(3);
        for _ in 0..20_000 {
            let mut buf: Vec<u8> = (0..random.below(200))
                .map(|_| random.next() as u8)
                .collect();
            if buf.len() > 12 {
                buf[12] = random.below(7) as u8;
                buf[9..12].fill(0);
            }
            assert!(decode(&buf, SEED).is_err());
            assert_eq!(latest_batch(&buf, SEED), None);
        }
    }

    #[test]
    fn a_commit_is_found_behind_garbage() {
        let commit = Commit {
            batch: 7,
            batch_start: 4096,
            durable_index: 41,
            frames: 2,
        };
        let mut frames = Vec::new();
        encode(
            &mut frames,
            FrameKind::Commit,
            Position::default(),
            &commit.encode(),
        );
        seal(&mut frames, SEED, 1);
        let mut buf = vec![0xa5; 800];
        buf.extend_from_slice(&frames);
        assert_eq!(latest_batch(&buf, SEED), Some((4096, buf.len())));
        assert_eq!(latest_batch(&buf[..buf.len() - 1], SEED), None);
    }
}
