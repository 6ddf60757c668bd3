//! The real clocks.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::control::Now;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub fn now() -> Now {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        mono_ns: mono_ns(),
        wall_ms: since_epoch.as_millis() as u64,
    }
}

/// Nanoseconds since the first use; 584 years of them.
pub fn mono_ns() -> u64 {
    START.elapsed().as_nanos() as u64
}
