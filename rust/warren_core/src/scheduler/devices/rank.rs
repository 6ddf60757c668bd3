//! The nodes in the order of their scores for one shape, kept from one decision to the next.
//!
//! A decision changes one node, so that for the next ask of the same shape only those nodes are
//! judged again that have changed since. A tournament tree holds the best of each pair of nodes,
//! of each pair of pairs and so on: changing a node costs its logarithm, finding the best nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Where a node that does not fit stands.
const NEVER: u64 = u64::MAX;
/// One in so many places is tried in the order of scores before all are looked at.
const SCAN_AFTER: usize = 16;
/// Makes scores positive, so that they compare as the upper half of a key.
const BIAS: i64 = 1 << 31;

/// Invariants: `keys` and `choices` have an entry for each place, and `winners[n]` is the place
/// with the least key, then the least number, below the tree's vertex `n`; its root is vertex 1.
#[derive(Debug, Default)]
pub(super) struct Rank {
    /// Score above, draw below.
    keys: Vec<u64>,
    /// The device that a share would go to.
    choices: Vec<u8>,
    winners: Vec<u32>,
    /// Which weights the scores are by.
    pub epoch: u64,
    /// The changes of nodes that are taken in.
    pub seen: u64,
    /// When the shape was asked for last.
    pub used: u64,
}

impl Rank {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Takes the scores of all places; `None` where the shape does not fit.
    pub fn rebuild(&mut self, scored: impl Iterator<Item = (Option<(i64, u8)>, u32)>) {
        self.keys.clear();
        self.choices.clear();
        for (score, draw) in scored {
            self.keys.push(key(score, draw));
            self.choices.push(score.map_or(0, |(_, choice)| choice));
        }
        let leaves = self.keys.len().next_power_of_two();
        self.winners.clear();
        self.winners.resize(2 * leaves, u32::MAX);
        for place in 0..self.keys.len() {
            self.winners[leaves + place] = place as u32;
        }
        for vertex in (1..leaves).rev() {
            self.winners[vertex] = self.winner(vertex);
        }
    }

    /// Takes the new score of one place.
    pub fn put(&mut self, place: usize, score: Option<(i64, u8)>, draw: u32) {
        self.keys[place] = key(score, draw);
        self.choices[place] = score.map_or(0, |(_, choice)| choice);
        let mut vertex = (self.winners.len() / 2 + place) / 2;
        while vertex > 0 {
            self.winners[vertex] = self.winner(vertex);
            vertex /= 2;
        }
    }

    /// The place with the least score of those that `allowed` says yes to, and the device that a share
    /// goes to there. Subtrees are opened in the order of their winners, so that it costs a logarithm for each better place that is not allowed;
    /// once these are many, one look at every place.
    pub fn best_of(&self, mut allowed: impl FnMut(usize) -> bool) -> Option<(usize, u8)> {
        let leaves = self.winners.len() / 2;
        let key = |place: u32| self.keys.get(place as usize).copied().unwrap_or(NEVER);
        let mut open = BinaryHeap::new();
        let entry = |vertex: usize| {
            let place = self.winners[vertex];
            Reverse((key(place), place, vertex))
        };
        if leaves > 0 {
            open.push(entry(1));
        }
        let mut looks = self.keys.len() / SCAN_AFTER + 1;
        while let Some(Reverse((key, place, mut vertex))) = open.pop() {
            if key == NEVER {
                return None;
            }
            if allowed(place as usize) {
                return Some((place as usize, self.choices[place as usize]));
            }
            looks -= 1;
            if looks == 0 {
                return self.scan(allowed);
            }
            while vertex < leaves {
                let (left, right) = (2 * vertex, 2 * vertex + 1);
                let to_left = self.winners[left] == place;
                open.push(entry(if to_left { right } else { left }));
                vertex = if to_left { left } else { right };
            }
        }
        None
    }

    fn scan(&self, mut allowed: impl FnMut(usize) -> bool) -> Option<(usize, u8)> {
        let fits = (0..self.keys.len()).filter(|place| self.keys[*place] != NEVER);
        let best = fits.filter(|place| allowed(*place));
        let best = best.min_by_key(|place| (self.keys[*place], *place))?;
        Some((best, self.choices[best]))
    }

    /// Every key, choice and winner, for comparison with a rank that was built anew.
    #[cfg(test)]
    pub fn order(&self) -> (&[u64], &[u8], &[u32]) {
        (&self.keys, &self.choices, &self.winners)
    }

    fn winner(&self, vertex: usize) -> u32 {
        let (left, right) = (self.winners[2 * vertex], self.winners[2 * vertex + 1]);
        let key = |place: u32| self.keys.get(place as usize).copied().unwrap_or(NEVER);
        if key(right) < key(left) { right } else { left }
    }
}

fn key(score: Option<(i64, u8)>, draw: u32) -> u64 {
    score.map_or(NEVER, |(score, _)| {
        let above = (score + BIAS).clamp(0, i64::from(u32::MAX) - 1) as u64;
        above << 32 | u64::from(draw)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_is_allowed_is_the_one_that_a_scan_finds() {
        let mut state = 1_u64;
        let mut below = move |limit: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % limit
        };
        let (mut found, mut none) = (0, 0);
        for places in (0..70).chain([500]) {
            for in_ten in 0..10 {
                let mut rank = Rank::default();
                let mut score = || {
                    let fits = below(5) > 0;
                    (fits.then(|| (below(4) as i64 - 2, 3)), below(3) as u32)
                };
                let scores: Vec<_> = (0..places).map(|_| score()).collect();
                rank.rebuild(scores.iter().copied());
                let allowed: Vec<bool> = (0..places).map(|_| below(10) < in_ten).collect();
                let naive = (0..places).filter(|at| allowed[*at]);
                let naive = naive.filter_map(|at| Some((scores[at].0?.0, scores[at].1, at)));
                let best = rank.best_of(|at| allowed[at]).map(|(at, _)| at);
                let naive = naive.min().map(|(.., at)| at);
                assert_eq!(best, naive, "{scores:?} {allowed:?}");
                (found, none) = match best {
                    Some(_) => (found + 1, none),
                    None => (found, none + 1),
                };
            }
        }
        assert!(found > 100 && none > 10);
    }
}
