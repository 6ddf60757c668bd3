//! Why frames were refused, counted, and said now and then.

use crate::control::{Level, Outputs};

/// One line a reason in this time; the count goes on.
const QUIET_MS: u64 = 10_000;

/// What was wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No frame: length, checksum or a field that no release writes.
    Garbled,
    /// A frame format or kind of another release.
    Format,
    OtherCluster,
    OtherEpoch,
    OtherReceiver,
    /// The sender was removed from the cluster.
    Removed,
    /// The sender's id is bound to another data directory.
    WrongDataDir,
    /// The body is not what its kind says, or consensus refuses it.
    Undecodable,
    /// More senders than there can be members.
    TooMany,
}

impl Refusal {
    pub const ALL: [Refusal; 9] = [
        Refusal::Garbled,
        Refusal::Format,
        Refusal::OtherCluster,
        Refusal::OtherEpoch,
        Refusal::OtherReceiver,
        Refusal::Removed,
        Refusal::WrongDataDir,
        Refusal::Undecodable,
        Refusal::TooMany,
    ];

    /// As a label of a metric.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Garbled => "garbled",
            Refusal::Format => "format",
            Refusal::OtherCluster => "other_cluster",
            Refusal::OtherEpoch => "other_epoch",
            Refusal::OtherReceiver => "other_receiver",
            Refusal::Removed => "removed",
            Refusal::WrongDataDir => "wrong_data_dir",
            Refusal::Undecodable => "undecodable",
            Refusal::TooMany => "too_many",
        }
    }
}

/// Counters by reason, in the order of [`Refusal::ALL`].
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    counts: [u64; Refusal::ALL.len()],
    quiet_until_ms: [u64; Refusal::ALL.len()],
}

impl Refusals {
    /// Counts one; logs `sentence` unless a line for the same reason has just been written.
    pub fn count(&mut self, why: Refusal, sentence: String, now_ms: u64, out: &mut Outputs) {
        let at = why as usize;
        self.counts[at] += 1;
        if now_ms >= self.quiet_until_ms[at] {
            self.quiet_until_ms[at] = now_ms + QUIET_MS;
            out.log(Level::Warning, "peer", sentence);
        }
    }

    pub fn get(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|why| (why, self.counts[why as usize]))
    }
}
