//! The network between everybody: delays, losses, and who cannot reach whom.
//!
//! It decides only *when* a message arrives, if it does; the world's queue carries it. Messages of
//! one lane between two ends arrive in order, as over a connection, unless they are reordered on
//! purpose: consensus must not rest on it.

use std::collections::BTreeMap;

use super::coverage::{Coverage, Kind};
use super::random::Random;

/// Ends that one network connects; a bit each.
const ENDS: usize = 256;

/// Whoever sends and receives: a machine, a worker, a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End(pub u8);

/// How bad it is at present. Probabilities are parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    pub loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
    /// A message that takes [`SPIKE_NS_MAX`] at most instead of the usual time.
    pub spike: u64,
    pub delay_ns_min: u64,
    /// Mean of what comes on top of the least delay.
    pub delay_ns_mean: u64,
}

pub const SPIKE_NS_MAX: u64 = 400_000_000;

impl Quality {
    /// A quiet local network.
    pub const GOOD: Self = Self {
        loss: 0,
        duplicate: 0,
        reorder: 0,
        spike: 0,
        delay_ns_min: 100_000,
        delay_ns_mean: 200_000,
    };
}

/// When the copies of a message arrive.
pub type Arrivals = [Option<u64>; 2];

pub struct Network {
    random: Random,
    pub quality: Quality,
    /// By sender, a bit for each receiver that cannot be reached.
    cut: Box<[[u64; ENDS / 64]; ENDS]>,
    /// When the last message of a lane arrives.
    busy_until: BTreeMap<(End, End, u8), u64>,
}

impl Network {
    pub fn new(random: Random) -> Self {
        Self {
            random,
            quality: Quality::GOOD,
            cut: Box::new([[0; ENDS / 64]; ENDS]),
            busy_until: BTreeMap::new(),
        }
    }

    /// Sends a message at `now_ns` that may be lost, overtaken or doubled.
    pub fn send(
        &mut self,
        now_ns: u64,
        (from, to): (End, End),
        lane: u8,
        coverage: &mut Coverage,
    ) -> Arrivals {
        let Some((first, in_order)) = self.arrival(now_ns, (from, to), lane, coverage) else {
            return [None; 2];
        };
        let arrives = if first < in_order && self.happens(self.quality.reorder) {
            coverage.note(Kind::Reordered);
            first
        } else {
            in_order
        };
        self.busy_until.insert((from, to, lane), in_order);
        let again = self.happens(self.quality.duplicate).then(|| {
            coverage.note(Kind::Duplicated);
            arrives + self.random.wait(self.quality.delay_ns_mean.max(1) * 4)
        });
        [Some(arrives), again]
    }

    /// Sends over a connection at `now_ns`: in order and once, or the connection breaks (`None`).
    pub fn stream(
        &mut self,
        now_ns: u64,
        (from, to): (End, End),
        lane: u8,
        coverage: &mut Coverage,
    ) -> Option<u64> {
        let (_, in_order) = self.arrival(now_ns, (from, to), lane, coverage)?;
        self.busy_until.insert((from, to, lane), in_order);
        Some(in_order)
    }

    /// When a message would arrive by itself, and when behind what its lane carries already.
    fn arrival(
        &mut self,
        now_ns: u64,
        (from, to): (End, End),
        lane: u8,
        coverage: &mut Coverage,
    ) -> Option<(u64, u64)> {
        if !self.passes(from, to) {
            coverage.note(Kind::CutOff);
            return None;
        }
        if self.happens(self.quality.loss) {
            coverage.note(Kind::Lost);
            return None;
        }
        let alone = now_ns + self.delay_ns(coverage);
        let last = self.busy_until.get(&(from, to, lane)).copied().unwrap_or(0);
        Some((alone, alone.max(last + 1)))
    }

    /// Draws only where something may happen, so that a good network costs nothing.
    fn happens(&mut self, of_million: u64) -> bool {
        of_million > 0 && self.random.chance(of_million)
    }

    fn delay_ns(&mut self, coverage: &mut Coverage) -> u64 {
        let usual_ns = self.quality.delay_ns_min + self.random.wait(self.quality.delay_ns_mean);
        if self.happens(self.quality.spike) {
            coverage.note(Kind::Delayed);
            return usual_ns + self.random.below(SPIKE_NS_MAX);
        }
        usual_ns
    }

    /// Whether messages get from one end to the other now. What is under way when a link is cut is
    /// lost, so this is asked again on arrival.
    pub fn passes(&self, from: End, to: End) -> bool {
        self.cut[usize::from(from.0)][usize::from(to.0 / 64)] & (1 << (to.0 % 64)) == 0
    }

    /// Nothing gets from one end to the other any more.
    pub fn cut(&mut self, from: End, to: End) {
        self.cut[usize::from(from.0)][usize::from(to.0 / 64)] |= 1 << (to.0 % 64);
    }

    pub fn cut_both(&mut self, a: End, b: End) {
        self.cut(a, b);
        self.cut(b, a);
    }

    pub fn heal(&mut self) {
        self.cut.fill([0; ENDS / 64]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: End = End(0);
    const B: End = End(1);

    fn network(quality: Quality) -> (Network, Coverage) {
        let mut network = Network::new(Random::new(4));
        network.quality = quality;
        (network, Coverage::default())
    }

    #[test]
    fn a_lane_keeps_its_order_and_lanes_do_not_wait_for_each_other() {
        let (mut network, mut coverage) = network(Quality {
            spike: 100_000,
            ..Quality::GOOD
        });
        let mut last = [0; 2];
        let mut overtook = false;
        for sent_ns in 0..2_000 {
            for lane in 0..2 {
                let [arrives, again] = network.send(sent_ns * 100_000, (A, B), lane, &mut coverage);
                let arrives = arrives.expect("a good network loses nothing");
                assert!(arrives > last[usize::from(lane)] && again.is_none());
                last[usize::from(lane)] = arrives;
                overtook |= arrives < last[usize::from(1 - lane)];
            }
        }
        assert!(overtook && coverage.of(Kind::Delayed) > 0);
    }

    #[test]
    fn a_bad_network_does_all_it_can() {
        let quality = Quality {
            loss: 100_000,
            duplicate: 100_000,
            reorder: 500_000,
            spike: 100_000,
            ..Quality::GOOD
        };
        let (mut network, mut coverage) = network(quality);
        for sent_ns in 0..1_000 {
            network.send(sent_ns, (A, B), 0, &mut coverage);
        }
        for kind in [Kind::Lost, Kind::Duplicated, Kind::Reordered, Kind::Delayed] {
            assert!(coverage.of(kind) > 20, "{kind:?}");
        }
    }

    #[test]
    fn a_cut_goes_one_way_until_it_is_healed() {
        let (mut network, mut coverage) = network(Quality::GOOD);
        network.cut(A, B);
        assert!(!network.passes(A, B) && network.passes(B, A));
        assert_eq!(network.send(0, (A, B), 0, &mut coverage), [None; 2]);
        assert_eq!(coverage.of(Kind::CutOff), 1);
        network.heal();
        assert!(network.passes(A, B));
    }
}
