//! Which workers are there.

/// Silence after which a worker counts as down. Only time in which pulses arrive counts, and a
/// new leader begins anew.
pub const NODE_GRACE_MS: u64 = 30_000;
