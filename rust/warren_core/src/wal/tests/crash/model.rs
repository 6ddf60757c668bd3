//! What a member may hold: the naive twin.

use std::collections::BTreeSet;
use std::fmt;

use super::super::super::snapshots::Covered;
use super::super::super::{Entry, Recovered};
use crate::sim::random::Random;

/// What a log contains.
#[derive(Clone, Default, PartialEq)]
pub struct Model {
    pub snapshot: Covered,
    /// Only ever grows.
    pub hard_state: Option<u64>,
    pub entries: Vec<Entry>,
}

impl Model {
    pub fn last(&self) -> Covered {
        self.entries
            .last()
            .map_or(self.snapshot, |entry| (entry.index, entry.term))
    }

    pub fn append(&mut self, entry: Entry) {
        self.entries.retain(|old| old.index < entry.index);
        self.entries.push(entry);
    }

    pub fn compact(&mut self, (index, term): Covered) {
        let same = |entry: &Entry| (entry.index, entry.term) == (index, term);
        if self.entries.iter().any(same) {
            self.entries.retain(|entry| entry.index > index);
        } else {
            self.entries.clear();
        }
        self.snapshot = (index, term);
    }

    pub fn of(recovered: &Recovered) -> Self {
        let number = |state: &Vec<u8>| u64::from_le_bytes(state[..].try_into().expect("ours"));
        Self {
            snapshot: recovered.snapshot.unwrap_or_default(),
            hard_state: recovered.hard_state.as_ref().map(number),
            entries: recovered.entries.clone(),
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, snapshot) = (self.hard_state, self.snapshot);
        write!(f, "hard state {state:?}, snapshot {snapshot:?}, entries")?;
        let mut entries = self.entries.iter();
        entries.try_for_each(
            |Entry {
                 index,
                 term,
                 payload,
             }| { write!(f, " {index}@{term}:{}", payload.len()) },
        )
    }
}

/// What the member knows of its disk.
#[derive(Clone, Default)]
pub struct Promise {
    /// The log has been created.
    pub founded: bool,
    pub acknowledged: Model,
    /// What an interrupted call may leave instead.
    pub possible: Vec<Model>,
    /// The newest snapshot that was finished.
    pub newest_snapshot: Option<Covered>,
    /// A transfer under way.
    pub incoming: Option<Covered>,
}

/// The bytes of the snapshot of a position: some blocks of a transfer, and a bit.
pub fn content((index, term): Covered) -> Vec<u8> {
    let mut random = Random::new(index << 20 | term);
    let bytes = 1_500 + random.below(9_000);
    (0..bytes).map(|_| random.next() as u8).collect()
}

/// Ordered, so that the newest is the last.
pub type Listed = BTreeSet<Covered>;
