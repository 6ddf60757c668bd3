//! A member's two clocks, each wrong in its own way.
//!
//! The monotonic clock runs a little too fast or too slow, but never back. The wall clock runs with
//! it and is set from time to time, also back. Nothing that is decided may rest on the wall clock.

use crate::control::Now;

/// Oscillators of servers stay within this; beyond it an operator has another problem.
pub const DRIFT_PPM_MAX: i64 = 500;
/// The wall clock of the world when a simulation begins: 2030-01-01, in milliseconds.
const WORLD_BEGINS_WALL_MS: i64 = 1_893_456_000_000;

/// Invariant: the monotonic clock is continuous and rises with the world's.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Where the drift last changed, on the world's clock and on this one.
    since_ns: u64,
    mono_since_ns: u64,
    drift_ppm: i64,
    wall_offset_ms: i64,
}

impl Clock {
    /// `uptime_ns` is what the monotonic clock shows when the world begins.
    pub fn new(uptime_ns: u64) -> Self {
        Self {
            since_ns: 0,
            mono_since_ns: uptime_ns,
            drift_ppm: 0,
            wall_offset_ms: 0,
        }
    }

    pub fn mono_ns(&self, world_ns: u64) -> u64 {
        let passed_ns = (world_ns - self.since_ns) as i128;
        let gained_ns = passed_ns * i128::from(self.drift_ppm) / 1_000_000;
        self.mono_since_ns + (passed_ns + gained_ns) as u64
    }

    pub fn now(&self, world_ns: u64) -> Now {
        let mono_ns = self.mono_ns(world_ns);
        let wall_ms = WORLD_BEGINS_WALL_MS + (mono_ns / 1_000_000) as i64 + self.wall_offset_ms;
        Now {
            mono_ns,
            wall_ms: wall_ms.max(0) as u64,
        }
    }

    /// How long the world takes while this clock advances by `mono_ns`.
    pub fn world_ns_of(&self, mono_ns: u64) -> u64 {
        (u128::from(mono_ns) * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm)) as u128) as u64
    }

    /// From now on it gains (or, negative, loses) this much; cut at [`DRIFT_PPM_MAX`].
    pub fn set_drift(&mut self, world_ns: u64, drift_ppm: i64) {
        self.mono_since_ns = self.mono_ns(world_ns);
        self.since_ns = world_ns;
        self.drift_ppm = drift_ppm.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX);
    }

    /// Somebody sets the wall clock: forward, or back.
    pub fn jump_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms = self.wall_offset_ms.saturating_add(by_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn drift_bends_the_clock_and_never_breaks_it() {
        let mut clock = Clock::new(5 * SECOND_NS);
        assert_eq!(clock.mono_ns(SECOND_NS), 6 * SECOND_NS);
        clock.set_drift(SECOND_NS, 500);
        assert_eq!(clock.mono_ns(SECOND_NS), 6 * SECOND_NS);
        assert_eq!(clock.mono_ns(2 * SECOND_NS), 7 * SECOND_NS + 500_000);
        clock.set_drift(2 * SECOND_NS, -1_000_000);
        assert_eq!(clock.mono_ns(3 * SECOND_NS), 8 * SECOND_NS);
        assert!(clock.world_ns_of(SECOND_NS) > SECOND_NS);
    }

    #[test]
    fn the_wall_clock_jumps_and_the_other_does_not() {
        let mut clock = Clock::new(0);
        let before = clock.now(SECOND_NS);
        clock.jump_wall(-86_400_000);
        let after = clock.now(SECOND_NS);
        assert_eq!(after.mono_ns, before.mono_ns);
        assert_eq!(after.wall_ms + 86_400_000, before.wall_ms);
    }
}
