//! Receiving a snapshot, over restarts.

use super::super::disk::File;
use super::{Covered, Kind, Reader, SnapshotError, Store, file_name};

/// No byte of a block is written before the block before it is durable. After a crash everything but
/// the last block that was begun is therefore known to be there.
pub(super) const BLOCK_BYTES: u64 = 4 << 20;

/// A snapshot being received, in order and from the start. It counts only once it is
/// [finished](Self::finish); what it holds is only as good as what was sent, so check it before.
pub struct Incoming {
    store: Store,
    covered: Covered,
    file: Box<dyn File>,
    held_bytes: u64,
}

impl Incoming {
    /// Goes on with what a file holds for certain, and cuts the rest.
    pub(super) fn resume(
        store: Store,
        covered: Covered,
        file: Box<dyn File>,
    ) -> Result<Self, SnapshotError> {
        let mut incoming = Self {
            store,
            covered,
            file,
            held_bytes: 0,
        };
        let bytes = incoming.file.size_bytes();
        let bytes = bytes.map_err(|error| incoming.failure("reading", error))?;
        let block_bytes = incoming.store.block_bytes;
        incoming.held_bytes = bytes.saturating_sub(1) / block_bytes * block_bytes;
        if bytes > incoming.held_bytes {
            let cut = incoming.file.truncate(incoming.held_bytes);
            cut.map_err(|error| incoming.failure("cutting", error))?;
        }
        Ok(incoming)
    }

    /// How much is held: the next piece begins here.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Adds a piece, or what of it is not yet held; returns how much is held now.
    ///
    /// # Errors
    /// `Gap` changes nothing. `NoSpace` can be repeated. `Failed`: it is to be abandoned.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, SnapshotError> {
        let (held_bytes, block_bytes) = (self.held_bytes, self.store.block_bytes);
        let Some(known) = held_bytes.checked_sub(offset) else {
            return Err(SnapshotError::Gap { offset, held_bytes });
        };
        let mut new = bytes.get(known as usize..).unwrap_or_default();
        while !new.is_empty() {
            if self.held_bytes > 0 && self.held_bytes.is_multiple_of(block_bytes) {
                self.sync()?;
            }
            let room = block_bytes - self.held_bytes % block_bytes;
            let (part, rest) = new.split_at(new.len().min(room as usize));
            let written = self.file.write_at(part, self.held_bytes);
            written.map_err(|error| self.failure("writing", error))?;
            self.held_bytes += part.len() as u64;
            new = rest;
        }
        Ok(self.held_bytes)
    }

    /// What is held, to be checked before it is finished.
    ///
    /// # Errors
    /// `Failed`.
    pub fn reader(&self) -> Result<Reader, SnapshotError> {
        let name = file_name(self.covered, Kind::Partial);
        let opened = self.store.disk.open(&self.store.dir.join(&name));
        let file = opened.map_err(|error| self.failure("opening", error))?;
        Ok(Reader::new(file, self.held_bytes))
    }

    /// Makes it durable under its name; returns its size in bytes.
    ///
    /// # Errors
    /// `NoSpace`, `Failed`: after a failed fsync it has to be sent anew.
    pub fn finish(self) -> Result<u64, SnapshotError> {
        self.sync()?;
        self.store.publish(self.covered, Kind::Partial)?;
        Ok(self.held_bytes)
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        let Err(error) = self.file.sync_data() else {
            return Ok(());
        };
        // What the file holds is unknown. The first failure is the one to report.
        let _ = self.store.abandon(self.covered.0, self.covered.1);
        Err(self.failure("fsync", error))
    }

    fn failure(&self, op: &'static str, error: std::io::Error) -> SnapshotError {
        let name = file_name(self.covered, Kind::Partial);
        self.store.failure(op, &name, error)
    }
}
