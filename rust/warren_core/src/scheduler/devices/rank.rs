//! The nodes in the order of their scores for one shape, kept from one decision to the next.
//!
//! A decision changes one node, so that for the next ask of the same shape only those nodes are
//! judged again that have changed since. A tournament tree holds the best of each pair of nodes,
//! of each pair of pairs and so on: changing a node costs its logarithm, finding the best nothing.

/// Where a node that does not fit stands.
const NEVER: u64 = u64::MAX;
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

    /// The place with the least score, and the device that a share goes to there.
    pub fn best(&self) -> Option<(usize, u8)> {
        let place = *self.winners.get(1)? as usize;
        let fits = self.keys.get(place).is_some_and(|key| *key != NEVER);
        fits.then(|| (place, self.choices[place]))
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
