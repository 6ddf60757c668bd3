//! Whether this process measures itself. It does, always, but in the bench that tells what that
//! costs: the bench turns it off and on again while the core works.
//!
//! Off, no clock is read for a histogram, and neither histograms nor the log's counts are written.
//! What the core decides by, and counts that nothing else knows (elections, refusals, frames of
//! peers), go on.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::clock;

static OFF: AtomicBool = AtomicBool::new(false);

/// For the whole process, from now on. What has begun meanwhile is measured or it is not.
pub fn measure(on: bool) {
    OFF.store(!on, Relaxed);
}

/// Whether something is to be written down.
pub(super) fn is_on() -> bool {
    !OFF.load(Relaxed)
}

/// The monotonic clock, if somebody measures.
pub(super) fn stopwatch() -> Option<u64> {
    is_on().then(clock::mono_ns)
}
