//! What a placement strands: capacity that can no longer be used at the ratio in which containers
//! ask for it.
//!
//! With `d` the mean demand of the containers that live, `T` the cluster's totals and `f` a
//! node's free capacity: `stranded(f) = Σ_r (f_r − u·d_r) / T_r`, where `u = min_r f_r / d_r` is
//! how many mean containers still fit. With two resources one of the terms is zero, and only the
//! ratio of the demands matters: with `x` and `y` the shares of the totals that are free, and `ρ`
//! the demand's `y` for an `x`, `stranded = max(y − ρ·x, x − y/ρ)`. Integers throughout; a share
//! is in units of 1 / [`WHOLE`].
//!
//! Placing shifts both arms of that V alike, so that along a line of nodes with the same `x` the
//! difference `stranded(after) − stranded(before)` is flat, then rises or falls once, then is flat:
//! an ask that is lean in `y` does best wherever `x` is left over before and after, and equally
//! well there. The pull toward fuller nodes decides among those, and with it one cell of
//! a line is the best of it (see `search`).

use crate::fsm::Resources;

/// The share that is all of the cluster.
const WHOLE_BITS: u32 = 36;
pub(super) const WHOLE: i64 = 1 << WHOLE_BITS;
/// Totals are brought below this many bits, so that products fit in a word.
const TOTAL_BITS: u32 = 40;
const FINE_BITS: u32 = 60;
/// Fraction bits of a ratio, and how far from 1 it is told apart.
const RATIO_BITS: u32 = 16;
const RATIO_MAX: u64 = 1 << (RATIO_BITS + 8);
const RATIO_MIN: u64 = 1 << (RATIO_BITS - 8);
/// What a pull is a fraction of.
const PULL_BITS: u32 = 10;

/// Turns amounts of a resource into shares of its total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Rate {
    shift: u32,
    most: u64,
    per: u64,
}

impl Rate {
    pub fn of(total: u64) -> Self {
        let bits = u64::BITS - total.leading_zeros();
        let shift = bits.saturating_sub(TOTAL_BITS);
        let most = total >> shift;
        Self {
            shift,
            most,
            per: (1u64 << FINE_BITS).checked_div(most).unwrap_or_default(),
        }
    }

    /// From 0 to [`WHOLE`]; what is more than the total counts as all of it.
    #[inline]
    pub fn share(self, amount: u64) -> i64 {
        (self.fine(amount) >> (FINE_BITS - WHOLE_BITS)) as i64
    }

    #[inline]
    fn fine(self, amount: u64) -> u64 {
        (amount >> self.shift).min(self.most) * self.per
    }
}

/// The ratio of the demands of both resources. Invariant: each of the two is the other's inverse,
/// within 1/256 and 256; or both are 0, where one resource alone is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Ratio {
    /// Memory for CPU.
    pub rows: i64,
    /// CPU for memory.
    pub columns: i64,
}

impl Ratio {
    /// Of what containers demand together; amounts as their totals' rates have them.
    pub fn of(cpu: (Rate, u64), memory: (Rate, u64)) -> Self {
        let (cpu, memory) = (cpu.0.fine(cpu.1), memory.0.fine(memory.1));
        let over = |above: u64, below: u64| {
            let ratio = above.checked_div(below >> RATIO_BITS);
            ratio.unwrap_or(u64::MAX).clamp(RATIO_MIN, RATIO_MAX) as i64
        };
        match cpu == 0 || memory == 0 {
            true => Self::default(), // One resource alone is never the wrong half of a pair.
            false => Self {
                rows: over(memory, cpu),
                columns: over(cpu, memory),
            },
        }
    }

    pub fn is_flat(self) -> bool {
        self.rows == 0
    }
}

/// How much a lean toward fuller nodes weighs against stranding, in 1/1024 of what is left free.
/// Not negative.
pub(super) type Pull = i64;

/// An ask as shares, and how nodes are to be scored for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub ratio: Ratio,
    pub pull: Pull,
    pub asked: (i64, i64),
}

impl Scale {
    /// Less is better; `free` in shares of CPU and memory, not below what is asked.
    #[inline]
    pub fn score(&self, free: (i64, i64)) -> i64 {
        let after = (free.0 - self.asked.0, free.1 - self.asked.1);
        let pulled = ((after.0 + after.1) * self.pull) >> PULL_BITS;
        self.stranded(after) - self.stranded(free) + pulled
    }

    #[inline]
    fn stranded(&self, (x, y): (i64, i64)) -> i64 {
        let (over_y, over_x) = (
            y - times(self.ratio.rows, x),
            x - times(self.ratio.columns, y),
        );
        if self.ratio.is_flat() {
            0
        } else {
            over_y.max(over_x)
        }
    }

    /// How far the ask is on the side of memory; negative on the side of CPU.
    #[inline]
    pub fn lean(&self) -> i64 {
        self.asked.1 - times(self.ratio.rows, self.asked.0)
    }

    /// Whether one more of these leaves more of what is left over on such a node already.
    pub fn strands(&self, free: (i64, i64)) -> bool {
        let lean = self.lean();
        let left_over = times(self.ratio.rows, free.0) - free.1;
        !self.ratio.is_flat() && lean != 0 && (lean > 0) == (left_over > 0)
    }

    /// How many more of these a node takes before its left-over changes sides: until then each
    /// strands as much as the one before.
    pub fn run(&self, free: (i64, i64)) -> u64 {
        let lean = self.lean();
        let left_over = times(self.ratio.rows, free.0) - free.1;
        // An ask on the side of CPU uses up what is left over of it.
        match self.ratio.is_flat() || lean == 0 || (lean > 0) == (left_over > 0) {
            true => u64::MAX,
            false => (left_over / lean).unsigned_abs().max(1),
        }
    }

    #[inline]
    pub fn pulled(&self, left: i64) -> i64 {
        (left * self.pull) >> PULL_BITS
    }
}

/// A share times a ratio.
#[inline]
pub(super) fn times(ratio: i64, share: i64) -> i64 {
    (ratio * share) >> RATIO_BITS
}

/// Sums that the ratio and the rates come from, kept as nodes change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Sums {
    /// CPU and memory that all nodes have.
    pub total: (u128, u128),
    /// What their containers hold, and what is held for some to come.
    pub used: (u128, u128),
    pub containers: u64,
}

impl Sums {
    /// Rates of CPU and memory.
    pub fn rates(&self) -> (Rate, Rate) {
        (Rate::of(word(self.total.0)), Rate::of(word(self.total.1)))
    }

    /// Mean demand of what lives; where nothing does, that of what is asked.
    #[inline]
    pub fn ratio(&self, rates: (Rate, Rate), asked: Resources) -> Ratio {
        let demand = match self.containers {
            0 => (asked.cpu_milli, asked.memory_bytes),
            _ => (word(self.used.0), word(self.used.1)),
        };
        Ratio::of((rates.0, demand.0), (rates.1, demand.1))
    }
}

fn word(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsm::{CPU_MILLI_MAX, MEMORY_BYTES_MAX};

    fn scale(demand: (u64, u64), total: (u64, u64), asked: (u64, u64)) -> (Scale, [Rate; 2]) {
        let rates = (Rate::of(total.0), Rate::of(total.1));
        let scale = Scale {
            ratio: Ratio::of((rates.0, demand.0), (rates.1, demand.1)),
            pull: 0,
            asked: (rates.0.share(asked.0), rates.1.share(asked.1)),
        };
        (scale, [rates.0, rates.1])
    }

    fn score((scale, rates): &(Scale, [Rate; 2]), free: (u64, u64)) -> i64 {
        scale.score((rates[0].share(free.0), rates[1].share(free.1)))
    }

    /// The definition, in fractions.
    fn stranded(free: (f64, f64), demand: (f64, f64), total: (f64, f64)) -> f64 {
        let mean = (free.0 / demand.0).min(free.1 / demand.1);
        (free.0 - mean * demand.0) / total.0 + (free.1 - mean * demand.1) / total.1
    }

    #[test]
    fn shares_and_ratios_are_the_definition() {
        let wide = |pair: (u64, u64)| (pair.0 as f64, pair.1 as f64);
        let demand = (900, 5 << 30);
        for total in [(64_000, 256 << 30), (6_400_000_000, 25_600_000 << 30)] {
            let asked = (2_000, 2 << 30);
            let scale = scale(demand, total, asked);
            for free in [(64_000, 256 << 30), (3_000, 200 << 30), (60_000, 3 << 30)] {
                let after = (free.0 - asked.0, free.1 - asked.1);
                let of = |free| stranded(wide(free), wide(demand), wide(total));
                let expected = (of(after) - of(free)) * WHOLE as f64;
                let found = score(&scale, free) as f64;
                let close = expected.abs() * 1e-3 + 8.0;
                assert!((found - expected).abs() < close, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_lopsided_ask_belongs_on_a_lopsided_node() {
        let scale = scale((1000, 4000), (10_000, 40_000), (1000, 1000));
        let balanced = score(&scale, (5000, 20_000));
        let rich_in_cpu = score(&scale, (5000, 8000));
        assert!(balanced > 0 && rich_in_cpu < 0, "{balanced} {rich_in_cpu}");
    }

    #[test]
    fn a_run_ends_where_the_side_changes() {
        let scale = scale((1000, 1000), (100_000, 100_000), (1000, 500));
        let share = |amount| scale.1[0].share(amount);
        let free = (share(50_000), share(40_000));
        let run = scale.0.run(free);
        assert!((19..=20).contains(&run), "{run}");
        let leaning = (share(30_000), share(40_000));
        assert_eq!(scale.0.run(leaning), u64::MAX);
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        for total in [1, CPU_MILLI_MAX, MEMORY_BYTES_MAX, u64::MAX] {
            for demand in [0, 1, u64::MAX] {
                let scale = scale((demand, 1), (total, total), (1, total));
                score(&scale, (u64::MAX, total));
                scale.0.run((WHOLE, 0));
            }
        }
    }
}
