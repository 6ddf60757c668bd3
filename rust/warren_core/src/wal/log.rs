//! The log being written: batches, segments, compaction.

mod batch;
mod files;
mod open;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use self::files::{allocate, remove, sync_error};
pub use self::open::Recovered;
use super::disk::{Disk, File};
use super::frame::{COMMIT_FRAME_BYTES, FrameKind, Marker, encode, frame_bytes};
use super::outline::{Outline, Position};
use super::replay::io_error;
use super::segment::{HEADER_BYTES, segment_name, spare_name};
use super::{HARD_STATE_BYTES_MAX, Identity, Options, WalError};
use crate::mutant::{self, Mutant};

/// Kept free at the end of every segment, so that a full disk never prevents the compaction that
/// frees space, nor the end mark.
const RESERVE_BYTES: usize = 1024;
/// What the buffer of pending frames keeps between batches.
const PENDING_BYTES_KEPT: usize = 1 << 20;

/// The last entry that is durable, or what the snapshot covers if that is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    pub index: u64,
    pub term: u64,
}

/// Counts since the log was opened, and its present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub batches_total: u64,
    pub frames_total: u64,
    pub written_bytes_total: u64,
    pub segments: usize,
    pub spare_segments: usize,
    /// Of the segments in use and the spare ones.
    pub allocated_bytes: u64,
}

/// A log open for appending. One writer per directory; the caller holds the lock.
///
/// Invariants: everything below `active.end` is durable; no frame is written before the batch before
/// it is durable; once `failure` is set, nothing is written again.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    identity: Identity,
    /// Oldest first; the last is the active one.
    segments: VecDeque<Facts>,
    active: Active,
    /// Behind `active.end` there are remains of a batch: the next one goes to a new segment, whose
    /// appearance makes them void in one step. Overwriting them here could leave, after a crash, a
    /// mixture that reads as another verdict on what had been there.
    has_remains: bool,
    /// Allocated files by number; true if the file is fresh, all zeros.
    spares: BTreeMap<u64, bool>,
    /// The oldest segment that the newest snapshot marker needs.
    first_sequence: u64,
    batch: u64,
    /// Includes what is pending.
    outline: Outline,
    durable: Durable,
    hard_state: Option<Vec<u8>>,
    pending: Pending,
    failure: Option<Failure>,
    stats: Stats,
}

struct Facts {
    sequence: u64,
    bytes: u64,
    index_max: u64,
}

struct Active {
    file: Box<dyn File>,
    sequence: u64,
    bytes: u64,
    /// Of the header; seeds the checksums of the frames, and their mask.
    seed: u32,
    /// Where the next batch goes.
    end: u64,
    /// Of the last frame.
    checksum: u32,
}

#[derive(Default)]
struct Pending {
    buf: Vec<u8>,
    frames: u32,
    index_max: u64,
}

struct Failure {
    op: &'static str,
    file: String,
    why: String,
}

impl Wal {
    /// Whether the entries after `index` follow an entry of this term there; false where the log ends
    /// before it.
    pub fn continues(&self, index: u64, term: u64) -> bool {
        self.outline.continues(Position { index, term })
    }

    /// Adds an entry to the pending batch. It follows the last entry, or overwrites everything from
    /// its index on.
    ///
    /// # Errors
    /// `OutOfOrder`, `BatchFull`, `SyncFailed`; the batch is then unchanged.
    pub fn append_entry(&mut self, index: u64, term: u64, payload: &[u8]) -> Result<(), WalError> {
        self.check_pending_room(payload.len())?;
        let at = Position { index, term };
        self.outline
            .push(at)
            .map_err(|why| self.out_of_order(index, why))?;
        self.pending.index_max = self.pending.index_max.max(index);
        self.push(FrameKind::Entry, at, payload);
        Ok(())
    }

    /// Adds a hard state to the pending batch; append it before the entries that it covers.
    ///
    /// # Errors
    /// `HardStateTooLong`, `BatchFull`, `SyncFailed`; the batch is then unchanged.
    pub fn append_hard_state(&mut self, payload: &[u8]) -> Result<(), WalError> {
        if payload.len() > HARD_STATE_BYTES_MAX {
            let (bytes, limit) = (payload.len(), HARD_STATE_BYTES_MAX);
            return Err(WalError::HardStateTooLong { bytes, limit });
        }
        self.check_pending_room(payload.len())?;
        self.hard_state = Some(payload.to_vec());
        self.push(FrameKind::HardState, Position::default(), payload);
        Ok(())
    }

    /// Writes the pending batch and makes it durable with one fdatasync. Without one it does nothing.
    ///
    /// # Errors
    /// `NoSpace`: nothing is lost, the batch stays pending and the call can be repeated.
    /// `SyncFailed`: for ever.
    pub fn commit(&mut self) -> Result<Durable, WalError> {
        self.check_failure()?;
        if self.pending.frames > 0 {
            let written = self.write_batch(FrameKind::Commit, RESERVE_BYTES);
            if written.is_err() && mutant::is_on(Mutant::DropsBatchWhenFull) {
                self.pending = Pending::default();
            }
            written?;
        }
        Ok(self.durable)
    }

    /// Records durably that a snapshot covers everything up to `index`, then drops the segments that
    /// only hold such entries. The snapshot must be durable before. Entries after `index` stay if the
    /// entry at `index` has this `term`, else they are of another history and go too. Commits what
    /// is pending; may be repeated after a failure. Where a newer snapshot is recorded, which one from
    /// another member may be by then, there is nothing left to do.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `SyncFailed`.
    pub fn compact(&mut self, index: u64, term: u64) -> Result<Durable, WalError> {
        self.commit()?;
        let at = Position { index, term };
        if at.index > self.outline.snapshot().index {
            let hard_state = self.hard_state.take().unwrap_or_default();
            let state_bytes = if hard_state.is_empty() {
                0
            } else {
                frame_bytes(hard_state.len())
            };
            let bytes = frame_bytes(Marker::BYTES) + state_bytes;
            let marked = self.mark(at, bytes);
            if marked.is_ok() && !hard_state.is_empty() {
                // The one in an older segment may be dropped with it.
                self.push(FrameKind::HardState, Position::default(), &hard_state);
            }
            self.hard_state = Some(hard_state).filter(|state| !state.is_empty());
            marked?;
            self.write_batch(FrameKind::Commit, COMMIT_FRAME_BYTES)?;
        }
        self.drop_segments()?;
        Ok(self.durable)
    }

    fn mark(&mut self, at: Position, bytes: usize) -> Result<(), WalError> {
        let rolls = self.must_roll(bytes, COMMIT_FRAME_BYTES);
        if rolls {
            // Before anything changes: without room the call is to be repeated.
            self.allocate_next()?;
        }
        let keep_suffix = self.outline.continues(at);
        let marked = self.outline.mark(at, keep_suffix);
        marked.map_err(|why| self.out_of_order(at.index, why))?;
        let needed = self
            .segments
            .iter()
            .find(|segment| segment.index_max > at.index);
        let own = self.active.sequence + u64::from(rolls);
        self.first_sequence = needed.map_or(own, |segment| segment.sequence);
        let marker = Marker {
            first_sequence: self.first_sequence,
            keep_suffix,
        };
        self.push(FrameKind::Snapshot, at, &marker.encode());
        Ok(())
    }

    /// Allocates the next segment before it is needed: when the active one is half full, so that an
    /// idle log takes one segment. Call it after each commit, and again before accepting new work
    /// while it fails: that is how a full disk refuses writes early instead of late.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the log is unchanged. `SyncFailed`.
    pub fn allocate_ahead(&mut self) -> Result<(), WalError> {
        self.check_failure()?;
        if self.wants_room() {
            self.allocate_next()?;
        }
        Ok(())
    }

    /// Whether [`allocate_ahead`](Self::allocate_ahead) has anything to do.
    pub fn wants_room(&self) -> bool {
        let nears_end = self.has_remains || self.active.end >= self.active.bytes / 2;
        nears_end && self.spares.is_empty()
    }

    fn allocate_next(&mut self) -> Result<(), WalError> {
        if self.spares.is_empty() {
            let number = self.active.sequence + 1;
            allocate(&*self.disk, &self.dir, number, self.options.segment_bytes)?;
            self.spares.insert(number, true);
        }
        Ok(())
    }

    /// Commits what is pending and marks a clean shutdown.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn close(mut self) -> Result<(), WalError> {
        self.commit()?;
        // A reserve used up by compactions leaves no room: the next start then only looks unclean.
        // Remains of a batch stay what they are.
        if self.must_roll(0, 0) {
            Ok(())
        } else {
            self.write_batch(FrameKind::End, 0)
        }
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The last entry, pending ones included, or what the snapshot covers.
    pub fn last_index(&self) -> u64 {
        self.outline.last().index
    }

    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// Bytes of the pending batch, against [`batch_bytes_max`](Self::batch_bytes_max).
    pub fn pending_bytes(&self) -> usize {
        self.pending.buf.len()
    }

    /// The largest batch, in bytes of frames: 32 a record, plus its payload, rounded up to 8.
    pub fn batch_bytes_max(&self) -> usize {
        self.options.segment_bytes as usize - HEADER_BYTES - COMMIT_FRAME_BYTES - RESERVE_BYTES
    }

    pub fn stats(&self) -> Stats {
        let segment_bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let spare_bytes = self.spares.len() as u64 * self.options.segment_bytes;
        Stats {
            segments: self.segments.len(),
            spare_segments: self.spares.len(),
            allocated_bytes: segment_bytes + spare_bytes,
            ..self.stats
        }
    }

    fn push(&mut self, kind: FrameKind, at: Position, payload: &[u8]) {
        encode(&mut self.pending.buf, kind, at, payload);
        self.pending.frames += 1;
    }

    fn check_pending_room(&self, payload_bytes: usize) -> Result<(), WalError> {
        self.check_failure()?;
        let bytes = self.pending.buf.len() + frame_bytes(payload_bytes);
        let limit = self.batch_bytes_max();
        if bytes > limit {
            Err(WalError::BatchFull { bytes, limit })
        } else {
            Ok(())
        }
    }

    /// Drops the segments before the first that the snapshot marker needs, oldest first, each
    /// durably before the next: a crash must not leave a hole.
    fn drop_segments(&mut self) -> Result<(), WalError> {
        while self.segments[0].sequence < self.first_sequence {
            let Facts {
                sequence, bytes, ..
            } = self.segments[0];
            let name = segment_name(sequence);
            let keep = bytes == self.options.segment_bytes
                && self.spares.len() < self.options.spare_segments_max;
            if keep {
                let spare = self.dir.join(spare_name(sequence));
                let renamed = self.disk.rename(&self.dir.join(&name), &spare);
                renamed.map_err(|error| io_error("renaming", &name, error))?;
                self.spares.insert(sequence, false);
            } else {
                remove(&*self.disk, &self.dir, &name)?;
            }
            self.segments.pop_front();
            if let Err(error) = self.disk.sync_dir(&self.dir) {
                let dir = self.dir.to_string_lossy().into_owned();
                return Err(self.poison(sync_error("fsync", &dir, &error)));
            }
        }
        Ok(())
    }

    /// From here on nothing is written: what the disk holds is unknown.
    fn poison(&mut self, error: WalError) -> WalError {
        if let WalError::SyncFailed { op, file, why } = &error {
            self.failure = Some(Failure {
                op,
                file: file.clone(),
                why: why.clone(),
            });
        }
        error
    }

    fn check_failure(&self) -> Result<(), WalError> {
        let Some(Failure { op, file, why }) = &self.failure else {
            return Ok(());
        };
        Err(WalError::SyncFailed {
            op,
            file: file.clone(),
            why: why.clone(),
        })
    }

    fn out_of_order(&self, index: u64, why: &'static str) -> WalError {
        let snapshot_index = self.outline.snapshot().index;
        WalError::OutOfOrder {
            index,
            snapshot_index,
            last_index: self.last_index(),
            why,
        }
    }
}
