//! How a log ends: clean, open, torn by a crash, or with a batch that may have been promised. Pure.

use super::Location;
use super::frame::{COMMIT_FRAME_BYTES, FRAME_HEADER_BYTES, frame_bytes, frame_kind, u32_at};
use super::mask::Mask;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// How a log ends, and so what its owner may do.
///
/// Opening a log changes none of it, however often: the first batch that is committed afterwards
/// replaces the tail, and in the same moment. That batch must therefore hold whatever the owner has to
/// remember about a [`Cut`](Self::Cut).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// An end mark is the last thing in it: nothing is missing.
    Clean,
    /// It ends with a whole batch, and no attempt at another can be seen: the end after a kill.
    Open,
    /// An incomplete batch follows, of which a sector was never written: it was not durable, so
    /// nobody was promised anything in it. The place is its first bad frame.
    Torn(Location),
    /// An incomplete batch follows that may have been durable before it was damaged. A member may
    /// neither vote nor acknowledge until it has caught up with one that has all of it.
    Cut(Location),
}

impl Tail {
    /// Whether something that was promised may be missing.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Cut(_))
    }
}

/// The end of the last segment, where an incomplete batch is.
pub(super) struct Incomplete<'a> {
    pub mask: Mask,
    /// Unmasked, from the start of the batch to the end of the segment.
    pub bytes: &'a [u8],
    /// Offset of the batch in the segment.
    pub start: u64,
    /// Offset of its first bad frame.
    pub bad: u64,
    /// Checksum of the frame before that.
    pub checksum: u32,
    /// Offset behind the batch's own commit frame, if that is intact.
    pub commit_end: Option<u64>,
}

impl Incomplete<'_> {
    /// Whether the batch provably never was durable: of a sector, nothing that the batch has in it up
    /// to the end of its first bad frame was ever written. To be asked only of a file that was all
    /// zeros before.
    ///
    /// The proof withstands the damage of one byte, and of a sector that does not become zeros: what
    /// was written stays distinct from what was not, and the length that the proof relies on is that
    /// of a frame which follows the one before it. If just this length is wrong, the batch's commit
    /// frame is intact and sets the limit.
    pub fn was_never_durable(&self) -> bool {
        let end = self.bad_frame_end();
        let mut at = self.start.max(self.bad / SECTOR_BYTES * SECTOR_BYTES);
        while at < end {
            let share_end = ((at + 1).next_multiple_of(SECTOR_BYTES)).min(end);
            let share = &self.bytes[(at - self.start) as usize..(share_end - self.start) as usize];
            if self.mask.is_unwritten(share, at) {
                return true;
            }
            at = share_end;
        }
        false
    }

    /// Where the bad frame ends, or at least does not end before.
    fn bad_frame_end(&self) -> u64 {
        let limit = self.start + self.bytes.len() as u64;
        let frame = &self.bytes[(self.bad - self.start) as usize..];
        if frame.len() < FRAME_HEADER_BYTES {
            return limit;
        }
        let follows = u32_at(frame, 4) == self.checksum;
        let bytes = match frame_kind(frame) {
            Some(kind) if kind.ends_batch() => COMMIT_FRAME_BYTES,
            _ if follows => frame_bytes(u32_at(frame, 8) as usize),
            _ => FRAME_HEADER_BYTES,
        };
        let end = self.bad + bytes as u64;
        end.min(self.commit_end.unwrap_or(limit))
    }
}
