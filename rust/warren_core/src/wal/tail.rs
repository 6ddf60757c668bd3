//! How a log ends: clean, open, torn by a crash, or with a batch that may have been promised. Pure.

use super::Location;
use super::frame::{COMMIT_FRAME_BYTES, FRAME_HEADER_BYTES, frame_bytes, u32_at};
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
    /// The batch's own commit frame is intact.
    pub has_commit: bool,
}

impl Incomplete<'_> {
    /// Whether the batch provably never was durable. To be asked only of a file that was all zeros
    /// before. The proof withstands the damage of one byte, or of one sector that does not become
    /// zeros.
    pub fn was_never_durable(&self) -> bool {
        let written = self.mask.written_bytes(self.bytes, self.start);
        let end = self.start + written as u64;
        self.has_hole(end) || (!self.has_commit && self.ends_early(end))
    }

    /// Whether a sector between the first and the last that were written was not.
    fn has_hole(&self, end: u64) -> bool {
        let mut at = self.start;
        while at < end {
            let share_end = sector_end(at).min(end);
            if self.mask.is_unwritten(self.range(at, share_end), at) {
                return true;
            }
            at = share_end;
        }
        false
    }

    /// Whether the batch goes on behind `end`, where sectors were no longer written.
    fn ends_early(&self, end: u64) -> bool {
        // A torn batch fills its last sector. A durable one ends with its commit frame: it can end
        // here only if the commit frame is what is bad, with all frames before it intact.
        let filled = end.is_multiple_of(SECTOR_BYTES);
        let commit_end = self.bad + COMMIT_FRAME_BYTES as u64;
        filled && (commit_end > end || (commit_end < end && self.bad_frame_reaches_behind(end)))
    }

    /// By its own length, which counts if it follows the frame before it: damage to the length alone
    /// would have left the commit frame intact.
    fn bad_frame_reaches_behind(&self, end: u64) -> bool {
        let header = self.range(self.bad, self.bad + FRAME_HEADER_BYTES as u64);
        let bytes = frame_bytes(u32_at(header, 8) as usize) as u64;
        u32_at(header, 4) == self.checksum && self.bad + bytes > end
    }

    fn range(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[(from - self.start) as usize..(to - self.start) as usize]
    }
}

fn sector_end(at: u64) -> u64 {
    (at + 1).next_multiple_of(SECTOR_BYTES)
}
