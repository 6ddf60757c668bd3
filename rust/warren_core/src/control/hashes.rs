//! Members compare their states: every so many entries each says the hash of its own.
//!
//! The state is deterministic, so two hashes at one index differ only if a member's memory, disk or
//! release is broken. The minority then stops, because what it would answer is wrong. Where no hash
//! has a majority nobody can tell who is right: all say so and go on.

use std::collections::{BTreeMap, BTreeSet};

use crate::fsm::StateHash;
use crate::ids::{Index, MemberId};
use crate::mutant::{self, Mutant};

/// A hash is exchanged at each multiple of this.
pub const HASH_EVERY: u64 = 256;
/// Hashes kept of each member: how far members may be apart and still be compared.
const KEPT_MAX: usize = 64;

/// What the hashes at one index say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Most voters have another state than this member.
    Minority {
        index: Index,
        own: StateHash,
        majority: StateHash,
    },
    /// Most voters have this member's state, and somebody has another.
    Others { index: Index, member: MemberId },
    /// The states differ, and none has a majority.
    NoMajority { index: Index },
}

/// The last hashes of every member, by index.
#[derive(Default)]
pub struct Hashes {
    by_member: BTreeMap<MemberId, BTreeMap<Index, StateHash>>,
    /// Indexes that have been reported, and whether it was another member that differs: that this
    /// one does may turn out afterwards.
    reported: BTreeSet<(Index, bool)>,
    mismatches: u64,
}

impl Hashes {
    /// Whether the state at this index is to be hashed and told.
    pub fn is_due(index: Index) -> bool {
        index.0.is_multiple_of(HASH_EVERY) && !mutant::is_on(Mutant::ExchangesNoHashes)
    }

    /// What `member` had at `index`.
    pub fn record(&mut self, member: MemberId, index: Index, hash: StateHash) {
        let hashes = self.by_member.entry(member).or_default();
        hashes.insert(index, hash);
        while hashes.len() > KEPT_MAX {
            hashes.pop_first();
        }
        while self.reported.len() > KEPT_MAX {
            self.reported.pop_first();
        }
    }

    /// Forgets who is no member any more.
    pub fn retain(&mut self, is_member: impl Fn(MemberId) -> bool) {
        self.by_member.retain(|member, _| is_member(*member));
    }

    /// Judges `index` by the hashes of `voters`; each contradiction is told once.
    pub fn judge(&mut self, me: MemberId, voters: &[u64], index: Index) -> Option<Verdict> {
        let own = *self.by_member.get(&me)?.get(&index)?;
        let mut votes: BTreeMap<StateHash, usize> = BTreeMap::new();
        for voter in voters {
            let known = self.by_member.get(&MemberId(*voter));
            if let Some(hash) = known.and_then(|known| known.get(&index)) {
                *votes.entry(*hash).or_default() += 1;
            }
        }
        let known: usize = votes.values().sum();
        let (most, count) = votes.iter().max_by_key(|(_, count)| **count)?;
        let verdict = if count * 2 > voters.len() {
            if *most != own {
                Some(Verdict::Minority {
                    index,
                    own,
                    majority: *most,
                })
            } else {
                let differs = |voter: &&u64| {
                    let known = self.by_member.get(&MemberId(**voter));
                    known
                        .and_then(|known| known.get(&index))
                        .is_some_and(|hash| *hash != own)
                };
                let member = voters.iter().find(differs).map(|voter| MemberId(*voter));
                member.map(|member| Verdict::Others { index, member })
            }
        } else {
            // Whatever the silent ones have, it comes to no majority.
            let silent = voters.len() - known;
            let hopeless = votes.len() > 1 && (count + silent) * 2 <= voters.len();
            hopeless.then_some(Verdict::NoMajority { index })
        };
        let others = matches!(verdict, Some(Verdict::Others { .. }));
        let news = verdict.is_some() && self.reported.insert((index, others));
        self.mismatches += u64::from(news);
        verdict.filter(|_| news)
    }

    /// Contradictions seen since the start.
    pub fn mismatches(&self) -> u64 {
        self.mismatches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Index = Index(HASH_EVERY);

    fn judged(hashes: &[(u64, u128)], voters: &[u64]) -> Option<Verdict> {
        let mut known = Hashes::default();
        for (member, hash) in hashes {
            known.record(MemberId(*member), AT, StateHash(*hash));
        }
        known.judge(MemberId(1), voters, AT)
    }

    #[test]
    fn equal_states_say_nothing() {
        assert_eq!(judged(&[(1, 7), (2, 7), (3, 7)], &[1, 2, 3]), None);
        assert_eq!(judged(&[(1, 7)], &[1, 2, 3]), None);
        assert_eq!(judged(&[(2, 8), (3, 8)], &[1, 2, 3]), None, "not there yet");
    }

    #[test]
    fn the_minority_knows_that_it_is_one() {
        let (own, majority) = (StateHash(7), StateHash(8));
        let minority = Some(Verdict::Minority {
            index: AT,
            own,
            majority,
        });
        assert_eq!(judged(&[(1, 7), (2, 8), (3, 8)], &[1, 2, 3]), minority);
        let others = |member| {
            let member = MemberId(member);
            Some(Verdict::Others { index: AT, member })
        };
        assert_eq!(judged(&[(1, 8), (2, 8), (3, 7)], &[1, 2, 3]), others(3));
        assert_eq!(judged(&[(1, 8), (2, 8), (3, 7)], &[1, 2]), None, "no voter");
        // A learner is judged by the voters.
        assert_eq!(judged(&[(1, 7), (2, 8), (3, 8)], &[2, 3, 4]), minority);
    }

    #[test]
    fn without_a_majority_nobody_is_right() {
        let nobody = Some(Verdict::NoMajority { index: AT });
        assert_eq!(judged(&[(1, 7), (2, 8)], &[1, 2]), nobody);
        assert_eq!(judged(&[(1, 7), (2, 8), (3, 9)], &[1, 2, 3]), nobody);
        assert_eq!(
            judged(&[(1, 7), (2, 8)], &[1, 2, 3]),
            None,
            "the third decides"
        );
    }

    #[test]
    fn a_contradiction_is_told_once_and_memory_is_bounded() {
        let mut known = Hashes::default();
        for member in [1, 2] {
            for n in 1..=1_000 {
                known.record(
                    MemberId(member),
                    Index(n * HASH_EVERY),
                    StateHash(member.into()),
                );
            }
        }
        let last = Index(1_000 * HASH_EVERY);
        assert!(known.judge(MemberId(1), &[1, 2], last).is_some());
        assert_eq!(known.judge(MemberId(1), &[1, 2], last), None);
        assert_eq!(known.mismatches(), 1);
        assert!(
            known
                .by_member
                .values()
                .all(|hashes| hashes.len() == KEPT_MAX)
        );
    }
}
