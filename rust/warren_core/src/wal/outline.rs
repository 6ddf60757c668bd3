//! The shape of the log without its payloads: which indexes it covers, in which terms.

/// Position of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub index: u64,
    pub term: u64,
}

/// Invariants: `snapshot.index ≤ last.index`; `runs` are ordered by `first_index`, each begins where
/// the term changes, and none begins above `last.index`.
#[derive(Clone, Debug, Default)]
pub(super) struct Outline {
    snapshot: Position,
    last: Position,
    runs: Vec<TermRun>,
}

#[derive(Clone, Copy, Debug)]
struct TermRun {
    first_index: u64,
    term: u64,
}

impl Outline {
    /// An outline that starts in the middle of a log: what came before was in dropped segments.
    pub fn starting_after(last: Position) -> Self {
        Self {
            snapshot: Position::default(),
            last,
            runs: Vec::new(),
        }
    }

    /// What the newest snapshot covers; zero if there is none.
    pub fn snapshot(&self) -> Position {
        self.snapshot
    }

    /// The last entry, or the snapshot if no entry follows it.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Adds an entry that follows the last, or overwrites everything from its index on.
    pub fn push(&mut self, at: Position) -> Result<(), &'static str> {
        if at.index > self.last.index + 1 {
            return Err("it would leave a gap");
        }
        if at.index <= self.snapshot.index {
            return Err("a snapshot already covers it");
        }
        while self
            .runs
            .last()
            .is_some_and(|run| run.first_index >= at.index)
        {
            self.runs.pop();
        }
        if self.runs.last().is_none_or(|run| run.term != at.term) {
            self.runs.push(TermRun {
                first_index: at.index,
                term: at.term,
            });
        }
        self.last = at;
        Ok(())
    }

    /// Whether the entries after a snapshot that ends `at` belong to the same history as it, and so
    /// survive it (Raft §7, InstallSnapshot step 6).
    pub fn continues(&self, at: Position) -> bool {
        at.index <= self.last.index && self.term_at(at.index) == Some(at.term)
    }

    /// Moves the snapshot forward; with `keep_suffix` the entries above it stay, else none do.
    pub fn mark(&mut self, at: Position, keep_suffix: bool) -> Result<(), &'static str> {
        if at.index <= self.snapshot.index {
            return Err("a newer snapshot is already recorded");
        }
        if keep_suffix && at.index > self.last.index {
            return Err("it claims to continue a log that ends before it");
        }
        self.snapshot = at;
        if keep_suffix {
            let below = self
                .runs
                .partition_point(|run| run.first_index <= at.index + 1);
            self.runs.drain(..below.saturating_sub(1));
        } else {
            self.runs.clear();
            self.last = at;
        }
        Ok(())
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        if index == self.last.index {
            return Some(self.last.term);
        }
        let after = self.runs.partition_point(|run| run.first_index <= index);
        after.checked_sub(1).map(|run| self.runs[run].term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    fn outline(terms: &[u64]) -> Outline {
        let mut outline = Outline::default();
        for (index, term) in terms.iter().enumerate() {
            outline.push(at(index as u64 + 1, *term)).unwrap();
        }
        outline
    }

    #[test]
    fn an_entry_follows_or_overwrites_but_never_leaves_a_gap() {
        let mut log = outline(&[1, 1, 2, 2]);
        assert!(log.push(at(6, 2)).is_err());
        log.push(at(3, 3)).unwrap();
        assert_eq!(log.last(), at(3, 3));
        assert_eq!((log.term_at(2), log.term_at(3)), (Some(1), Some(3)));
    }

    #[test]
    fn a_snapshot_keeps_the_suffix_only_of_its_own_history() {
        let log = outline(&[1, 1, 2, 2]);
        assert!(log.continues(at(2, 1)) && log.continues(at(4, 2)));
        assert!(!log.continues(at(2, 2)) && !log.continues(at(5, 2)));
    }

    #[test]
    fn a_snapshot_only_moves_forward_and_guards_what_it_covers() {
        let mut log = outline(&[1, 1, 2, 2]);
        log.mark(at(3, 2), true).unwrap();
        assert!(log.mark(at(3, 2), true).is_err());
        assert!(log.push(at(3, 4)).is_err());
        assert!(log.continues(at(4, 2)));
        log.mark(at(9, 5), false).unwrap();
        assert_eq!(log.last(), at(9, 5));
        log.push(at(10, 5)).unwrap();
    }

    /// Every operation agrees with a plain list of terms.
    #[test]
    fn agrees_with_a_naive_twin() {
        let mut random = super::super::tests::Random::new(7);
        let (mut log, mut twin, mut start) = (Outline::default(), Vec::<u64>::new(), 0u64);
        for _ in 0..20_000 {
            let last = start + twin.len() as u64;
            let index = start + 1 + random.below(twin.len() as u64 + 2);
            let term = 1 + random.below(3);
            if random.below(10) < 9 {
                assert_eq!(log.push(at(index, term)).is_ok(), index <= last + 1);
                if index <= last + 1 {
                    twin.truncate((index - start - 1) as usize);
                    twin.push(term);
                }
            } else {
                let held = twin.get((index - start - 1) as usize) == Some(&term);
                assert_eq!(log.continues(at(index, term)), held);
                log.mark(at(index, term), held).unwrap();
                let drop = if held {
                    (index - start) as usize
                } else {
                    twin.len()
                };
                twin.drain(..drop);
                start = index;
            }
            let expect = twin.last().map(|term| at(start + twin.len() as u64, *term));
            assert_eq!(log.last(), expect.unwrap_or(log.snapshot()));
        }
    }
}
