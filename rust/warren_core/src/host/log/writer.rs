//! Writing batches to the log, and measuring it; by the log's thread or by the core.

use std::sync::Arc;

use super::super::{Shared, clock, fatal, measuring};
use crate::control::durable;
use crate::raft::{Persist, Position};
use crate::wal::{Wal, WalError};

/// The disk has no room for it now: to be tried again.
pub struct NoRoom(pub String);

pub struct Writer {
    wal: Wal,
    shared: Arc<Shared>,
    last_commit_ns: u64,
}

impl Writer {
    pub fn new(wal: Wal, shared: Arc<Shared>) -> Self {
        Self {
            wal,
            shared,
            last_commit_ns: 0,
        }
    }

    /// How long the last commit took; 0 before the first.
    pub fn last_commit_ns(&self) -> u64 {
        self.last_commit_ns
    }

    /// One batch of all of these; the last number is durable then.
    ///
    /// # Errors
    /// What is left to be done, if there is no room.
    pub fn write(&mut self, persist: Vec<Persist>) -> Result<u64, Vec<Persist>> {
        self.shared.log_health.set_busy(clock::mono_ns().max(1));
        let written = self.write_batch(persist);
        self.shared.log_health.set_busy(0);
        written
    }

    fn write_batch(&mut self, persist: Vec<Persist>) -> Result<u64, Vec<Persist>> {
        let entries = persist.iter().map(|persist| persist.entries.len()).sum();
        let mut left = persist.into_iter();
        let mut number = 0;
        while let Some(mut persist) = left.next() {
            number = persist.number;
            if self.append(&mut persist).is_err() {
                return Err(std::iter::once(persist).chain(left).collect());
            }
        }
        if self.commit().is_err() {
            // It is in the log's pending batch, which the next commit writes.
            let nothing_more = Persist {
                number,
                install: None,
                hard_state: None,
                entries: Vec::new(),
            };
            return Err(vec![nothing_more]);
        }
        self.shared.metrics.batch(entries);
        Ok(number)
    }

    /// Adds to the batch; what has been added is taken out of `persist`.
    pub fn append(&mut self, persist: &mut Persist) -> Result<(), NoRoom> {
        let started_ns = measuring::stopwatch();
        let appended = room(durable::append(&mut self.wal, persist));
        self.shared.metrics.append.observe_since(started_ns);
        appended
    }

    /// Makes durable what is pending.
    pub fn commit(&mut self) -> Result<(), NoRoom> {
        let started_ns = clock::mono_ns();
        let committed = room(self.wal.commit().map(|_| ()));
        self.last_commit_ns = clock::mono_ns() - started_ns;
        if committed.is_ok() {
            let took_ns = self.last_commit_ns;
            self.shared.metrics.durable(took_ns, &self.wal.stats());
        }
        committed
    }

    pub fn compact(&mut self, at: Position) -> Result<(), NoRoom> {
        room(self.wal.compact(at.index.0, at.term.0).map(|_| ()))?;
        self.shared.metrics.set_log(&self.wal.stats());
        Ok(())
    }

    /// Whether it is time for [`make_room`](Self::make_room).
    pub fn wants_room(&self) -> bool {
        self.wal.wants_room()
    }

    /// Room for the next segment, before it is needed: without it writes are refused early, while
    /// there is still room to finish what has begun.
    pub fn make_room(&mut self) -> Result<(), NoRoom> {
        room(self.wal.allocate_ahead())
    }

    pub fn close(self) {
        // Without room for the end mark the next start looks unclean, and loses nothing.
        let _ = room(self.wal.close());
    }
}

/// What is on the disk after any other failure is unknown: only a restart, which reads it, may go
/// on.
fn room(outcome: Result<(), WalError>) -> Result<(), NoRoom> {
    match outcome {
        Ok(()) => Ok(()),
        Err(error @ WalError::NoSpace { .. }) => Err(NoRoom(error.to_string())),
        Err(error) => fatal::die("wal", &error.to_string()),
    }
}
