//! Randomness: one seed, and a stream of its own for each purpose.
//!
//! Purposes do not share a stream, so that a change in how one draws (one more client, a new kind
//! of fault) leaves what the others draw as it was, and a failing seed goes on failing.

/// A small seeded generator: SplitMix64 (Steele, Lea, Flood: *Fast splittable pseudorandom number
/// generators*, 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream number `number` for `purpose`, of a simulation's seed.
    pub fn stream(seed: u64, purpose: &str, number: u64) -> Self {
        let named = purpose.bytes().fold(mix(seed ^ GAMMA), |state, byte| {
            mix(state.wrapping_add(GAMMA) ^ u64::from(byte))
        });
        Self(mix(named.wrapping_add(mix(number.wrapping_add(GAMMA)))))
    }

    #[allow(
        clippy::should_implement_trait,
        reason = "an endless stream is no iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// In `0..limit`, uniform but for a bias of less than `limit / 2^64`; 0 where `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// In `from..to`; `from` where that is empty.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from))
    }

    /// True in `of_million` of a million draws.
    pub fn chance(&mut self, of_million: u64) -> bool {
        self.below(1_000_000) < of_million
    }

    /// A waiting time: exponential with this mean, cut at eight times the mean.
    pub fn wait(&mut self, mean: u64) -> u64 {
        // Inverse of the distribution; `unit` is in (0, 1], so its logarithm is finite.
        let unit = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        ((-unit.ln()).min(8.0) * mean as f64) as u64
    }

    /// One of `items`; `None` where there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |purpose, number| Random::stream(7, purpose, number).next();
        assert_eq!(draw("network", 1), draw("network", 1));
        let all = [draw("network", 1), draw("network", 2), draw("disk", 1)];
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
        assert_ne!(Random::stream(8, "network", 1).next(), all[0]);
    }

    #[test]
    fn draws_stay_in_range_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[random.below(10) as usize] = true;
            assert!((5..9).contains(&random.range(5, 9)));
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
        assert_eq!(random.range(5, 5), 5);
    }

    #[test]
    fn waits_have_their_mean() {
        let mut random = Random::new(2);
        let sum: u64 = (0..100_000).map(|_| random.wait(1_000)).sum();
        assert!((95_000_000..101_000_000).contains(&sum), "{sum}");
    }
}
