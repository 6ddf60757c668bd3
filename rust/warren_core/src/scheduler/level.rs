//! Amounts in 64 levels whose width grows with the amount: two nodes that differ by a quarter are
//! told apart when little is free as when much is.

/// Levels of an axis: the bits of a word.
pub(super) const LEVELS: usize = 64;

/// Levels that an octave is divided into, as a power of two. With two, seventeen octaves are told
/// apart; with three, ten, and what many containers ask for would lie on the lowest levels, where
/// nodes that have not quite enough are many.
const MANTISSA_BITS: u32 = 2;
const MANTISSA: u64 = (1 << MANTISSA_BITS) - 1;
/// Bits of the largest amount that still has a level of its own.
const RANGE_BITS: u32 = LEVELS as u32 / (MANTISSA as u32 + 1) + MANTISSA_BITS - 1;

/// An axis that fits amounts up to the largest one there is.
///
/// Invariants: `level` never falls as the amount grows; `floor(level(x)) ≤ x`; and
/// `level(floor(l)) = l`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Axis {
    shift: u32,
}

impl Axis {
    /// The finest axis that tells amounts up to `max` apart.
    pub fn covering(max: u64) -> Self {
        let bits = u64::BITS - max.leading_zeros();
        Self {
            shift: bits.saturating_sub(RANGE_BITS),
        }
    }

    /// From 0; amounts beyond the axis share its last level.
    #[inline]
    pub fn level(self, amount: u64) -> u32 {
        let steps = amount >> self.shift;
        if steps <= MANTISSA {
            return steps as u32;
        }
        let octave = steps.ilog2() - MANTISSA_BITS;
        let mantissa = (steps >> octave) & MANTISSA;
        let level = ((octave + 1) << MANTISSA_BITS) + mantissa as u32;
        level.min(LEVELS as u32 - 1)
    }

    /// The least amount of a level.
    #[inline]
    pub fn floor(self, level: u32) -> u64 {
        let mantissa = u64::from(level) & MANTISSA;
        let steps = match level >> MANTISSA_BITS {
            0 => mantissa,
            octave => (mantissa | (MANTISSA + 1)) << (octave - 1),
        };
        steps << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_begins_where_it_says() {
        for max in [0, 1, 100, 64_000, 192_000, 384 << 30, u64::MAX] {
            let axis = Axis::covering(max);
            for level in 0..LEVELS as u32 {
                let floor = axis.floor(level);
                assert_eq!(axis.level(floor), level, "{max}");
                if floor > 0 {
                    assert_eq!(axis.level(floor - 1), level - 1, "{max}");
                }
            }
            assert!(axis.level(max) < LEVELS as u32);
        }
    }

    #[test]
    fn amounts_a_quarter_apart_are_told_apart() {
        for max in [1_000, 64_000, 192_000, 384 << 30, 1 << 60] {
            let axis = Axis::covering(max);
            for amount in [max, max / 2, max / 100] {
                assert!(
                    axis.level(amount) > axis.level(amount - amount / 4 - 1),
                    "{amount}"
                );
            }
        }
    }
}
