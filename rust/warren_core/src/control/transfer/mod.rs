//! Snapshots between members: one at a time to each follower, in pieces, going on where it stopped.
//!
//! The leader offers what it has. The follower says how much of it it holds already (a file that an
//! earlier attempt left counts), and that is where the leader begins. At most [`IN_FLIGHT_MAX`] pieces
//! are under way; each is acknowledged once it is written. What is lost on the way shows as an
//! acknowledgement that does not come, and the leader goes back to the last one.

pub mod receive;
pub mod send;

/// Bytes of one piece.
pub const CHUNK_BYTES: u32 = 256 << 10;
/// Pieces sent and not yet acknowledged.
pub const IN_FLIGHT_MAX: u64 = 4;

#[cfg(test)]
mod tests;
