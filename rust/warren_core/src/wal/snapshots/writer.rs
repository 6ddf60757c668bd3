//! Writing a snapshot.

use super::super::disk::File;
use super::{Covered, Kind, SnapshotError, Store, file_name};

/// Small pieces are gathered into writes of this size.
const BUFFER_BYTES: usize = 256 << 10;

/// A snapshot being written. It counts only once it is [finished](Self::finish).
pub struct Writer {
    store: Store,
    covered: Covered,
    file: Box<dyn File>,
    buf: Vec<u8>,
    /// In the file; `buf` goes behind them.
    written_bytes: u64,
}

impl Writer {
    pub(super) fn new(store: Store, covered: Covered, file: Box<dyn File>) -> Self {
        Self {
            store,
            covered,
            file,
            buf: Vec::with_capacity(BUFFER_BYTES),
            written_bytes: 0,
        }
    }

    /// Adds `bytes`.
    ///
    /// # Errors
    /// `NoSpace`, `Failed`: it is gone, and with it the space that it took; begin another later.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let added = self.add(bytes);
        if added.is_err() {
            self.sweep_up();
        }
        added
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.buf.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            return self.write_through(bytes);
        }
        self.buf.extend_from_slice(bytes);
        Ok(())
    }

    /// Makes it durable under its name; returns its size in bytes.
    ///
    /// # Errors
    /// `NoSpace`, `Failed`: nothing of it is left, but that after a failed fsync of the directory it
    /// may be there, whole.
    pub fn finish(mut self) -> Result<u64, SnapshotError> {
        let finished = self.flush().and_then(|()| {
            let synced = self.file.sync_data();
            synced.map_err(|error| self.failure("fsync", error))?;
            self.store.publish(self.covered, Kind::Temporary)
        });
        if finished.is_err() {
            self.sweep_up();
        }
        finished.map(|()| self.written_bytes)
    }

    fn sweep_up(&self) {
        // The first failure is the one to report; the next one that is begun removes it too.
        let _ = self.store.remove_all(Kind::Temporary, None);
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        let buf = std::mem::take(&mut self.buf);
        let flushed = self.write_through(&buf);
        self.buf = buf;
        self.buf.clear();
        flushed
    }

    fn write_through(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_at(bytes, self.written_bytes);
        written.map_err(|error| self.failure("writing", error))?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    fn failure(&self, op: &'static str, error: std::io::Error) -> SnapshotError {
        let name = file_name(self.covered, Kind::Temporary);
        self.store.failure(op, &name, error)
    }
}
