//! What a member's log holds, as an outsider who watches its disk knows it.

use std::collections::VecDeque;

/// Of an entry's payload.
pub fn hash(payload: &[u8]) -> u64 {
    let high = u64::from(crc32c::crc32c(payload)) << 32;
    high | (payload.len() as u64 & 0xffff_ffff)
}

/// The first two words of a hard state, as consensus writes it.
pub fn term_and_vote(hard_state: &[u8]) -> Option<(u64, u64)> {
    let (term, rest) = hard_state.split_first_chunk()?;
    let (vote, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*term), u64::from_le_bytes(*vote)))
}

/// Invariant: `entries[n]` is the entry at `base + 1 + n`; everything up to `base` is in a snapshot
/// whose last entry had `base_term`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    base: u64,
    base_term: u64,
    /// Term and hash.
    entries: VecDeque<(u64, u64)>,
}

impl Shadow {
    pub fn first(&self) -> u64 {
        self.base + 1
    }

    pub fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub fn get(&self, index: u64) -> Option<(u64, u64)> {
        let at = index.checked_sub(self.first())?;
        self.entries.get(at as usize).copied()
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base && index > 0 {
            return Some(self.base_term);
        }
        self.get(index).map(|(term, _)| term)
    }

    /// Writes an entry; what stood there and behind it is overwritten.
    pub fn put(&mut self, index: u64, term: u64, hash: u64) {
        if index <= self.base {
            return;
        }
        if self.entries.is_empty() && index > self.first() {
            self.base = index - 1;
        }
        self.entries.truncate((index - self.first()) as usize);
        self.entries.push_back((term, hash));
    }

    /// Drops what a snapshot covers.
    pub fn compact(&mut self, index: u64, term: u64) {
        if index <= self.base {
            return;
        }
        let covered = (index - self.base).min(self.entries.len() as u64);
        self.entries.drain(..covered as usize);
        (self.base, self.base_term) = (index, term);
    }

    /// A snapshot takes the log's place; what follows it stays only if it is of the same history.
    pub fn install(&mut self, index: u64, term: u64) {
        if self.term_at(index) != Some(term) {
            self.entries.clear();
            self.base = self.base.min(index);
        }
        self.compact(index, term);
        (self.base, self.base_term) = (self.base.max(index), term);
    }

    /// Whether the entry is here, or was when a snapshot took it in.
    pub fn covers(&self, index: u64, term: u64) -> bool {
        index <= self.base || self.term_at(index) == Some(term)
    }

    /// The first entry of `other` that this one has neither as an entry nor in its snapshot.
    pub fn lacks(&self, other: &Self) -> Option<u64> {
        if other.base > self.last() {
            return Some(other.base);
        }
        (other.first()..=other.last())
            .find(|index| *index > self.base && self.get(*index) != other.get(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadow(base: u64, terms: &[u64]) -> Shadow {
        let mut shadow = Shadow::default();
        if base > 0 {
            shadow.install(base, 1);
        }
        for (at, term) in terms.iter().enumerate() {
            shadow.put(base + 1 + at as u64, *term, *term);
        }
        shadow
    }

    #[test]
    fn a_suffix_is_overwritten_and_a_prefix_compacted() {
        let mut log = shadow(0, &[1, 1, 1, 2]);
        log.put(3, 3, 3);
        assert_eq!((log.first(), log.last(), log.term_at(3)), (1, 3, Some(3)));
        log.compact(2, 1);
        assert_eq!((log.first(), log.last()), (3, 3));
        assert!(log.covers(1, 1) && log.covers(3, 3) && !log.covers(3, 1));
    }

    #[test]
    fn a_snapshot_of_another_history_clears_the_log() {
        let mut same = shadow(0, &[1, 1, 1]);
        same.install(2, 1);
        assert_eq!((same.first(), same.last()), (3, 3));
        let mut other = shadow(0, &[1, 1, 1]);
        other.install(2, 2);
        assert_eq!((other.first(), other.last()), (3, 2));
        let mut far = shadow(0, &[1]);
        far.install(9, 2);
        assert_eq!((far.first(), far.last(), far.term_at(9)), (10, 9, Some(2)));
    }

    #[test]
    fn what_is_lost_is_found() {
        assert_eq!(shadow(0, &[1, 1]).lacks(&shadow(0, &[1, 1, 1])), Some(3));
        assert_eq!(shadow(0, &[1, 1, 1]).lacks(&shadow(0, &[1, 1])), None);
        assert_eq!(shadow(2, &[1]).lacks(&shadow(0, &[1, 1, 1])), None);
        assert_eq!(shadow(0, &[1]).lacks(&shadow(3, &[])), Some(3));
        assert_eq!(shadow(0, &[1, 2]).lacks(&shadow(0, &[1, 1])), Some(2));
    }
}
