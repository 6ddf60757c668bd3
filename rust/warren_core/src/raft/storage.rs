//! The log since the last snapshot and some before it, in memory, as the library wants to read it.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{self, Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::codec::{self, ConfState, Damaged, HardState, damaged};
use super::{Position, Recovered};
use crate::ids::{Index, Term};
use crate::mutant::{self, Mutant};

/// Entries in one message at most; bytes are limited by the library.
const ENTRIES_PER_MESSAGE_MAX: usize = 4096;

struct Stored {
    entry: Entry,
    /// Bytes of all payloads up to and with this one, since the start of the process.
    end_bytes: u64,
}

/// Invariants: `entries` follow `compacted` without gaps; the snapshot is not before `compacted`,
/// so that whoever takes it finds here what follows.
pub struct Storage {
    hard_state: HardState,
    compacted: Position,
    compacted_bytes: u64,
    snapshot: Option<(Position, ConfState)>,
    entries: VecDeque<Stored>,
    /// A follower asked for a snapshot that only a newer one can be.
    snapshot_due: Cell<bool>,
}

impl Storage {
    pub fn recover(recovered: Recovered) -> Result<Self, Damaged> {
        let mut storage = Self {
            hard_state: HardState::default(),
            compacted: recovered
                .snapshot
                .as_ref()
                .map_or(Position::default(), |s| s.0),
            compacted_bytes: 0,
            snapshot: recovered.snapshot,
            entries: VecDeque::with_capacity(recovered.entries.len()),
            snapshot_due: Cell::new(false),
        };
        if storage.snapshot.is_none() && !recovered.entries.is_empty() {
            return Err(damaged("a log without the snapshot that it continues"));
        }
        for entry in recovered.entries {
            let expected = storage.last().index.0 + 1;
            if entry.index != expected {
                let why = format!("the log jumps to entry {}, not {expected}", entry.index);
                return Err(damaged(why));
            }
            if entry.term < storage.last().term.0 {
                return Err(damaged(format!("the term falls at entry {expected}")));
            }
            storage.push(codec::library_entry(entry)?);
        }
        if let Some(bytes) = recovered.hard_state {
            storage.hard_state = HardState::decode(&bytes)?;
        }
        storage.clamp_hard_state();
        Ok(storage)
    }

    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub fn snapshot_position(&self) -> Option<Position> {
        self.snapshot.as_ref().map(|(at, _)| *at)
    }

    pub fn conf(&self) -> ConfState {
        self.snapshot
            .as_ref()
            .map_or_else(ConfState::default, |(_, conf)| conf.clone())
    }

    /// Adds entries; a conflicting suffix is overwritten.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = (first.index - self.compacted.index.0 - 1) as usize;
        self.entries.truncate(keep);
        entries.iter().for_each(|entry| self.push(entry.clone()));
    }

    /// Replaces the whole log by a snapshot (Raft §7).
    pub fn install(&mut self, at: Position, conf: ConfState) {
        let after = at.index.0.saturating_sub(self.compacted.index.0) as usize;
        let kept = if mutant::is_on(Mutant::InstallKeepsEntries) && after < self.entries.len() {
            self.entries.split_off(after)
        } else {
            VecDeque::new()
        };
        self.compacted_bytes = self.end_bytes();
        self.entries = kept;
        self.compacted = at;
        self.snapshot = Some((at, conf));
    }

    /// The newest durable snapshot.
    pub fn set_snapshot(&mut self, at: Position, conf: ConfState) {
        if self.snapshot_position().is_none_or(|held| held < at) {
            self.snapshot = Some((at, conf));
        }
    }

    /// Drops entries up to `up_to` and the newest snapshot, except those from `needed_from` on as
    /// long as they are less than `bytes_max`, and the last `bytes_min` in any case.
    pub fn compact(&mut self, up_to: u64, needed_from: u64, bytes_min: u64, bytes_max: u64) {
        let covered = self.snapshot_position().map_or(0, |at| at.index.0);
        let up_to = up_to.min(covered).min(self.last().index.0);
        let end_bytes = self.bytes_up_to(up_to);
        while let Some(first) = self.entries.front() {
            let index = first.entry.index;
            let kept_bytes = end_bytes.saturating_sub(self.compacted_bytes);
            let spare = index < needed_from && kept_bytes > bytes_min;
            if index > up_to || !(spare || kept_bytes > bytes_max) {
                return;
            }
            self.compacted = position(&first.entry);
            self.compacted_bytes = first.end_bytes;
            self.entries.pop_front();
        }
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.end_bytes() - self.bytes_up_to(index)
    }

    pub fn entries_after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let skip = index.saturating_sub(self.compacted.index.0) as usize;
        self.entries.iter().skip(skip).map(|stored| &stored.entry)
    }

    pub fn take_snapshot_due(&self) -> bool {
        self.snapshot_due.take()
    }

    fn push(&mut self, entry: Entry) {
        let end_bytes = self.end_bytes() + entry.data.len() as u64;
        self.entries.push_back(Stored { entry, end_bytes });
    }

    fn last(&self) -> Position {
        self.entries
            .back()
            .map_or(self.compacted, |stored| position(&stored.entry))
    }

    fn end_bytes(&self) -> u64 {
        self.entries
            .back()
            .map_or(self.compacted_bytes, |stored| stored.end_bytes)
    }

    fn bytes_up_to(&self, index: u64) -> u64 {
        match index.checked_sub(self.compacted.index.0) {
            None | Some(0) => self.compacted_bytes,
            Some(offset) => self
                .entries
                .get(offset as usize - 1)
                .map_or(self.end_bytes(), |stored| stored.end_bytes),
        }
    }

    /// A commit index is not made durable for its own sake, so the one on disk may lag behind the
    /// snapshot, and one that was may be ahead of a log that was cut; the library wants
    /// `applied ≤ commit ≤ last`.
    fn clamp_hard_state(&mut self) {
        let (first, last) = (self.compacted, self.last());
        let state = &mut self.hard_state;
        state.commit = state.commit.clamp(first.index.0, last.index.0);
        if state.term < last.term.0 {
            // The vote was of an older term.
            (state.term, state.vote) = (last.term.0, 0);
        }
    }
}

fn position(entry: &Entry) -> Position {
    Position {
        index: Index(entry.index),
        term: Term(entry.term),
    }
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let HardState {
            term, vote, commit, ..
        } = self.hard_state;
        let state = eraftpb::HardState {
            term,
            vote,
            commit,
            ..Default::default()
        };
        Ok(RaftState::new(state, self.conf().to_library()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.compacted.index.0 + 1;
        if low < first {
            return Err(StorageError::Compacted.into());
        }
        let all = self
            .entries
            .range((low - first) as usize..(high - first) as usize);
        // Without a limit the library looks through entries, and must see each of them.
        let Some(bytes_max) = max_size.into() else {
            return Ok(all.map(|stored| stored.entry.clone()).collect());
        };
        let before = self.bytes_up_to(low - 1);
        let fits = all
            .enumerate()
            .take(ENTRIES_PER_MESSAGE_MAX)
            .take_while(|(i, stored)| *i == 0 || stored.end_bytes - before <= bytes_max);
        Ok(fits.map(|(_, stored)| stored.entry.clone()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.compacted.index.0) {
            None => Err(StorageError::Compacted.into()),
            Some(0) => Ok(self.compacted.term.0),
            Some(offset) => self
                .entries
                .get(offset as usize - 1)
                .map(|stored| stored.entry.term)
                .ok_or_else(|| StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // One that does not name the follower would be refused by it: it takes a newer one.
        let fit = |(at, conf): &&(Position, ConfState)| {
            at.index.0 >= request_index.max(self.compacted.index.0) && conf.contains(to)
        };
        let Some((at, conf)) = self.snapshot.as_ref().filter(fit) else {
            self.snapshot_due.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        Ok(library_snapshot(*at, conf))
    }
}

/// A snapshot as the library sees it: where, and with which members. Its content is none of the
/// library's business.
pub fn library_snapshot(at: Position, conf: &ConfState) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (at.index.0, at.term.0);
    meta.set_conf_state(conf.to_library());
    snapshot
}
