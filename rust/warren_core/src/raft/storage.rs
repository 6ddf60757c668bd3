//! The log since the last snapshot, in memory, as the library wants to read it.

use std::collections::VecDeque;

use raft::eraftpb::{self, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::codec::{self, ConfState, Damaged};
use super::{Position, Recovered};

/// `entries` follow `compacted` without gaps; `conf` is the configuration as of the last entry
/// applied.
pub struct Storage {
    hard_state: HardState,
    conf: ConfState,
    compacted: Position,
    entries: VecDeque<Entry>,
}

impl Storage {
    pub fn recover(recovered: Recovered) -> Result<Self, Damaged> {
        let Recovered {
            member,
            snapshot,
            hard_state,
            entries,
        } = recovered;
        let founder = ConfState {
            voters: vec![member.0],
            learners: Vec::new(),
        };
        let (compacted, conf) = snapshot.unwrap_or((Position::default(), founder));
        let entries = entries
            .into_iter()
            .map(codec::library_entry)
            .collect::<Result<_, _>>()?;
        let mut storage = Self {
            hard_state: HardState::default(),
            conf,
            compacted,
            entries,
        };
        storage.check_continuity()?;
        if let Some(bytes) = hard_state {
            storage.hard_state = codec::decode_hard_state(&bytes)?;
        }
        storage.clamp_hard_state();
        Ok(storage)
    }

    pub fn conf_state(&self) -> ConfState {
        self.conf.clone()
    }

    /// Adds entries; a conflicting suffix is overwritten.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = (first.index - self.compacted.index.0 - 1) as usize;
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    pub fn compact(&mut self, at: Position) {
        let covered = at.index.0.saturating_sub(self.compacted.index.0) as usize;
        if covered == 0 {
            return;
        }
        self.entries.drain(..covered.min(self.entries.len()));
        self.compacted = at;
    }

    fn last(&self) -> u64 {
        self.compacted.index.0 + self.entries.len() as u64
    }

    fn check_continuity(&self) -> Result<(), Damaged> {
        let expected = self.compacted.index.0 + 1..;
        match self
            .entries
            .iter()
            .zip(expected)
            .find(|(entry, index)| entry.index != *index)
        {
            None => Ok(()),
            Some((entry, index)) => Err(Damaged {
                why: format!("the log jumps to entry {}, not {index}", entry.index),
            }),
        }
    }

    /// A commit index is not made durable for its own sake, so the one on disk may lag behind the
    /// snapshot; the library wants `applied ≤ commit ≤ last`.
    fn clamp_hard_state(&mut self) {
        let state = &mut self.hard_state;
        state.commit = state.commit.max(self.compacted.index.0);
        state.term = state.term.max(self.compacted.term.0);
        state.commit = state
            .commit
            .min(self.compacted.index.0 + self.entries.len() as u64);
    }
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut conf = eraftpb::ConfState::default();
        conf.voters = self.conf.voters.clone();
        conf.learners = self.conf.learners.clone();
        Ok(RaftState::new(self.hard_state.clone(), conf))
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
        let range = (low - first) as usize..(high - first) as usize;
        let mut entries: Vec<_> = self.entries.range(range).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.compacted.index.0) {
            None => Err(StorageError::Compacted.into()),
            Some(0) => Ok(self.compacted.term.0),
            Some(offset) => self
                .entries
                .get(offset as usize - 1)
                .map(|entry| entry.term)
                .ok_or_else(|| StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // There is no follower to send one to; the library asks only for such.
        if request_index > self.compacted.index.0 {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (self.compacted.index.0, self.compacted.term.0);
        meta.mut_conf_state().voters = self.conf.voters.clone();
        meta.mut_conf_state().learners = self.conf.learners.clone();
        Ok(snapshot)
    }
}
