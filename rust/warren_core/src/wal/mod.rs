//! The write-ahead log: segmented, checksummed, recovered without guessing.
//!
//! A log is a directory of preallocated *segments*. A segment is a 4 KiB header followed by
//! 8-byte-aligned *frames*. What is appended is gathered in memory; [`Wal::commit`] writes it as one
//! *batch*, ends the batch with one commit frame and calls fdatasync once. A batch never crosses a
//! segment, and no batch is written before the one before it is durable. Recovery rests on that:
//!
//! - a batch counts only if its commit frame and every frame before it are intact;
//! - a commit frame names the offset at which its batch began, and everything below that offset was
//!   durable when the frame was written. A bad frame *below* that offset is therefore damage and
//!   refuses to open; a bad frame in the last batch leaves a [`Tail`];
//! - a segment's header names where the segment before it ended, and the segment gets its name when its
//!   first batch is durable, so only the last one has a tail;
//! - in a file that was all zeros, what was written is told from what was not. A batch of which a sector
//!   is missing is [`Tail::Torn`] and was never promised; any other is [`Tail::Cut`], and its owner must
//!   catch up before it votes or acknowledges.
//!
//! Checksums are CRC-32C, seeded by the segment's generation (a recycled file never revives old
//! frames) and chained (each frame repeats the checksum of the one before).
//!
//! The log knows frames, not consensus: entries (an index that grows by one, or steps back to
//! overwrite a suffix), an opaque hard state (the latest wins), and snapshot markers (what they cover
//! may be dropped). `docs/wal-format.md` gives every byte.
//!
//! Honest limits. A single node whose log is cut has nobody to catch up from. A last batch that is
//! replaced by zeros, or newest segments that somebody deletes, leave no trace at all.

mod disk;
mod error;
mod frame;
mod inspect;
mod log;
mod mask;
mod outline;
mod replay;
mod segment;
pub mod snapshots;
mod tail;

#[cfg(test)]
mod tests;

pub use disk::{Disk, File, FileDisk, ReadOnlyDisk};
pub use error::WalError;
pub use frame::FrameKind;
pub use inspect::{FrameInfo, Summary, dump, follow, verify};
pub use log::{Durable, Recovered, Stats, Wal};
pub use tail::Tail;

/// Whose log this is; stands in every segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: [u8; 16],
    /// UUID of the data directory that the member is bound to.
    pub data_dir: [u8; 16],
    /// Raised by restore and by quorum recovery, which begin a new log.
    pub epoch: u64,
    /// The consensus member; never reused, and never moved to another data directory.
    pub member_id: u64,
}

/// One recovered entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub payload: Vec<u8>,
}

/// A place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Name within the log's directory.
    pub file: String,
    pub offset: u64,
}

/// How a log is laid out on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a new segment: a multiple of 4,096 from 16 KiB to 1 GiB. Existing segments keep
    /// theirs.
    pub segment_bytes: u64,
    /// How many dropped segments are kept for reuse instead of being removed.
    pub spare_segments_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments_max: 2,
        }
    }
}

/// The longest hard state; bounded so that a compaction always fits the room a segment reserves.
pub const HARD_STATE_BYTES_MAX: usize = 256;
