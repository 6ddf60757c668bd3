//! Writing a batch: into the active segment, or as the first of the next.

use super::super::WalError;
use super::super::disk::File;
use super::super::error::is_out_of_space;
use super::super::frame::{COMMIT_FRAME_BYTES, Commit, FrameKind, encode, seal};
use super::super::mask::Mask;
use super::super::outline::Position;
use super::super::segment::{HEADER_BYTES, Header, header_checksum, segment_name};
use super::files::{install, no_space, sync_error};
use super::{Active, Durable, Facts, PENDING_BYTES_KEPT, Wal};
use crate::mutant::{self, Mutant};

/// What a batch continues.
struct Chain {
    seed: u32,
    /// Of the frame before it.
    checksum: u32,
}

impl Active {
    /// A segment without frames.
    pub(super) fn starting(file: Box<dyn File>, header: &Header, seed: u32) -> Self {
        Self {
            file,
            sequence: header.sequence,
            bytes: header.segment_bytes,
            seed,
            end: HEADER_BYTES as u64,
            checksum: seed,
        }
    }
}

impl Wal {
    /// Whether a batch of `bytes` has to go to the next segment: it does not fit the active one with
    /// `reserve` beside the room for an end mark.
    pub(super) fn must_roll(&self, bytes: usize, reserve: usize) -> bool {
        let end = self.active.end + (bytes + COMMIT_FRAME_BYTES + reserve) as u64;
        self.has_remains || end > self.active.bytes
    }

    /// Writes the pending frames and the frame that ends them, and syncs.
    pub(super) fn write_batch(
        &mut self,
        ending: FrameKind,
        reserve: usize,
    ) -> Result<(), WalError> {
        let mut buf = std::mem::take(&mut self.pending.buf);
        let pending_bytes = buf.len();
        let written = if self.must_roll(pending_bytes, reserve) {
            self.append_to_next(&mut buf, ending)
        } else {
            self.append_to_active(&mut buf, ending)
        };
        let written_bytes = buf.len() as u64;
        buf.truncate(pending_bytes);
        self.pending.buf = buf;
        written?;
        self.batch += 1;
        let Position { index, term } = self.outline.last();
        self.durable = Durable { index, term };
        let facts = self.segments.back_mut().expect("the active segment");
        facts.index_max = facts.index_max.max(self.pending.index_max);
        self.stats.batches_total += 1;
        self.stats.frames_total += u64::from(self.pending.frames) + 1;
        self.stats.written_bytes_total += written_bytes;
        let mut buf = std::mem::take(&mut self.pending).buf;
        buf.clear();
        buf.shrink_to(PENDING_BYTES_KEPT);
        self.pending.buf = buf;
        Ok(())
    }

    /// Ends the batch in `buf` that is to stand at `start`, and masks it. Returns the checksum of its
    /// last frame.
    fn seal(&self, buf: &mut Vec<u8>, ending: FrameKind, start: u64, chain: Chain) -> u32 {
        let commit = Commit {
            batch: self.batch + 1,
            batch_start: start,
            durable_index: self.durable.index,
            frames: self.pending.frames,
        };
        encode(buf, ending, self.outline.last(), &commit.encode());
        let checksum = seal(buf, chain.seed, chain.checksum);
        Mask::new(chain.seed).apply(buf, start);
        checksum
    }

    fn append_to_active(&mut self, buf: &mut Vec<u8>, ending: FrameKind) -> Result<(), WalError> {
        let Active {
            end,
            seed,
            checksum,
            ..
        } = self.active;
        let checksum = self.seal(buf, ending, end, Chain { seed, checksum });
        let written = self.write_active(buf, end);
        Mask::new(seed).apply(buf, end);
        written?;
        self.sync_active()?;
        self.active.end += buf.len() as u64;
        self.active.checksum = checksum;
        Ok(())
    }

    /// Goes on in the next segment, which appears together with its first batch. The active one is
    /// complete and durable, and the next header says where it ends.
    fn append_to_next(&mut self, buf: &mut Vec<u8>, ending: FrameKind) -> Result<(), WalError> {
        self.allocate_next()?;
        let (number, fresh) = self.spares.pop_last().expect("just allocated");
        let header = self.next_header(fresh);
        let page = header.encode();
        let seed = header_checksum(&page);
        let (start, checksum) = (HEADER_BYTES as u64, seed);
        let checksum = self.seal(buf, ending, start, Chain { seed, checksum });
        let installed = install(&*self.disk, &self.dir, number, header.sequence, &page, buf);
        Mask::new(seed).apply(buf, start);
        let file = match installed {
            Ok(file) => file,
            Err(error @ WalError::NoSpace { .. }) => {
                // No longer all zeros.
                self.spares.insert(number, false);
                return Err(error);
            }
            Err(error) => return Err(self.poison(error)),
        };
        self.active = Active::starting(file, &header, seed);
        self.active.end += buf.len() as u64;
        self.active.checksum = checksum;
        self.has_remains = false;
        self.segments.push_back(Facts {
            sequence: header.sequence,
            bytes: header.segment_bytes,
            index_max: 0,
        });
        Ok(())
    }

    fn next_header(&self, fresh: bool) -> Header {
        let Durable { index, term } = self.durable;
        Header {
            identity: self.identity,
            sequence: self.active.sequence + 1,
            segment_bytes: self.options.segment_bytes,
            recycled: !fresh,
            prev_end: self.active.end,
            prev_checksum: self.active.checksum,
            first_sequence: self.first_sequence,
            batch: self.batch,
            last: Position { index, term },
        }
    }

    pub(super) fn write_active(&mut self, buf: &[u8], offset: u64) -> Result<(), WalError> {
        let Err(error) = self.active.file.write_at(buf, offset) else {
            return Ok(());
        };
        if is_out_of_space(&error) {
            return Err(no_space(&self.dir, buf.len() as u64));
        }
        Err(self.poison(sync_error(
            "write",
            &segment_name(self.active.sequence),
            &error,
        )))
    }

    pub(super) fn sync_active(&mut self) -> Result<(), WalError> {
        let mut synced = self.active.file.sync_data();
        if synced.is_err() && mutant::is_on(Mutant::RetriesFailedSync) {
            synced = self.active.file.sync_data();
        }
        let Err(error) = synced else {
            return Ok(());
        };
        Err(self.poison(sync_error(
            "fsync",
            &segment_name(self.active.sequence),
            &error,
        )))
    }
}
