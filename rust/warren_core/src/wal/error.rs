//! What can go wrong with the log, and what to do about it.

use std::io;

/// Every failure of the log. The text says what happened and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The directory holds no log.
    #[error(
        "there is no log in {dir}: start the member on the data directory it was created with, or \
         create or join a cluster"
    )]
    NotFound { dir: String },

    /// `create` found a log.
    #[error("there is already a log in {dir}: open it, or choose an empty data directory")]
    AlreadyExists { dir: String },

    /// Bytes that were durable are no longer what was written.
    #[error(
        "the log is damaged: {file} at offset {offset}: {why}. Nothing was changed. On a member of \
         several managers, remove this member and join again with an empty data directory; on a \
         single manager, restore the data directory from a backup"
    )]
    Damaged {
        file: String,
        offset: u64,
        why: String,
    },

    /// Written by a release whose format this one does not know.
    #[error(
        "{file} has log format {found}, this release reads format {known}: start a release that reads \
         format {found}"
    )]
    Version {
        file: String,
        found: u32,
        known: u32,
    },

    /// The next segment cannot be allocated. The log is intact; retry when there is room.
    #[error(
        "no space to allocate {bytes} bytes for the log in {dir}: free space or raise the quota; \
         writes are refused until then and resume by themselves"
    )]
    NoSpace { dir: String, bytes: u64 },

    /// A write or an fsync failed. What is on disk is unknown, so the log never writes again.
    #[error(
        "{op} of {file} failed: {why}. The log takes no more writes, because the kernel may have \
         dropped the data: check the disk, then restart"
    )]
    SyncFailed {
        op: &'static str,
        file: String,
        why: String,
    },

    /// Any other failure of the disk, before anything was written.
    #[error("{op} of {file} failed: {source}: check the disk and the permissions, then restart")]
    Io {
        op: &'static str,
        file: String,
        source: io::Error,
    },

    /// The batch in hand cannot take this record.
    #[error(
        "a batch of {bytes} bytes exceeds the {limit} that fit: commit what is pending first, or \
         split the record"
    )]
    BatchFull { bytes: usize, limit: usize },

    /// A hard state longer than [`HARD_STATE_BYTES_MAX`](super::HARD_STATE_BYTES_MAX).
    #[error("a hard state of {bytes} bytes exceeds the limit of {limit}: shorten it")]
    HardStateTooLong { bytes: usize, limit: usize },

    /// An index that neither follows the log nor overwrites a part of it: a caller's mistake.
    #[error("index {index} does not fit a log of ({snapshot_index}, {last_index}]: {why}")]
    OutOfOrder {
        index: u64,
        snapshot_index: u64,
        last_index: u64,
        why: &'static str,
    },

    /// Whoever was shown the frames of a log wanted no more of them.
    #[error("the reading was stopped: read again for the rest")]
    Stopped,

    /// Options outside their range.
    #[error("segment_bytes is {segment_bytes}: use a multiple of 4096 from 16384 to 1073741824")]
    InvalidOptions { segment_bytes: u64 },
}

impl WalError {
    /// A stable, machine-readable name; never changes between releases.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "wal_not_found",
            Self::AlreadyExists { .. } => "wal_already_exists",
            Self::Damaged { .. } => "wal_damaged",
            Self::Version { .. } => "wal_version",
            Self::NoSpace { .. } => "wal_no_space",
            Self::SyncFailed { .. } => "wal_sync_failed",
            Self::Io { .. } => "wal_io",
            Self::BatchFull { .. } => "wal_batch_full",
            Self::HardStateTooLong { .. } => "wal_hard_state_too_long",
            Self::OutOfOrder { .. } => "wal_out_of_order",
            Self::Stopped => "wal_stopped",
            Self::InvalidOptions { .. } => "wal_invalid_options",
        }
    }
}

/// Whether the disk, or our share of it, is full: the one failure that passes by itself.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
