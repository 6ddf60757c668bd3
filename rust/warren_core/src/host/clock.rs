//! The real clocks, and how the wall clock is written.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::control::Now;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub fn now() -> Now {
    Now {
        mono_ns: mono_ns(),
        wall_ms: since_epoch().as_millis() as u64,
    }
}

/// The wall clock; 0 before 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Nanoseconds since the first use; 584 years of them.
pub fn mono_ns() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// As `2026-01-31T12:00:00Z`.
pub fn utc(since_epoch: Duration) -> String {
    format!("{}Z", date_and_time(since_epoch))
}

/// As the lines of the daemon's log have it: `2026-01-31T12:00:00.000000Z`.
pub fn utc_us(since_epoch: Duration) -> String {
    let us = since_epoch.subsec_micros();
    format!("{}.{us:06}Z", date_and_time(since_epoch))
}

fn date_and_time(since_epoch: Duration) -> String {
    let (days, seconds) = (
        since_epoch.as_secs() / 86_400,
        since_epoch.as_secs() % 86_400,
    );
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of a day since 1970, in the Gregorian calendar (Howard Hinnant, "chrono-
/// Compatible Low-Level Date Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    // Eras of 400 years that begin in March: the leap day is a year's last.
    let since_march_0000 = days + 719_468;
    let (era, of_era) = (since_march_0000 / 146_097, since_march_0000 % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}
