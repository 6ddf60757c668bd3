//! What a data directory holds, as the machine wants it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Options, snapshots};
use crate::control::{Identity, Level, LogLine, Recovered};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::{ClusterId, MemberId};
use crate::raft::LogEntry;
use crate::wal::{self, FileDisk, Tail, Wal, WalError};

pub struct Recovery {
    pub wal: Wal,
    pub recovered: Recovered,
    /// What an operator should know about how it was found.
    pub warnings: Vec<LogLine>,
}

pub fn log_dir(raft_dir: &Path) -> PathBuf {
    raft_dir.join("wal")
}

/// Reads snapshot and log; `None` where there is no log, and so no cluster.
pub fn recover(options: &Options) -> Result<Option<Recovery>, Error> {
    let dir = log_dir(&options.raft_dir);
    let exists = dir.try_exists();
    if !exists.map_err(|error| refusal(&dir, io_error(&dir, error)))? {
        return Ok(None);
    }
    let (wal, found) = match Wal::open(Arc::new(FileDisk), &dir, wal_options(options)) {
        Ok(opened) => opened,
        Err(WalError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(refusal(&dir, error)),
    };
    let identity = Identity {
        cluster: ClusterId(found.identity.cluster_id),
        epoch: found.identity.epoch,
        member: MemberId(found.identity.member_id),
        data_dir: found.identity.data_dir,
    };
    let marked_index = found.snapshot.map_or(0, |(index, _)| index);
    let mut warnings = Vec::new();
    warnings.extend(tail_warning(&found.tail));
    let loaded = snapshots::load(&options.raft_dir, &identity, marked_index, &mut |skipped| {
        warnings.push(warning(format!(
            "skipped a snapshot, the log goes further back: {skipped}"
        )));
    })?;
    let (state, snapshot) = match loaded {
        Some(loaded) => (loaded.state, Some((loaded.at, loaded.conf_state))),
        None => (State::default(), None),
    };
    let covered = snapshot.as_ref().map_or(0, |(at, _)| at.index.0);
    let entries = found
        .entries
        .into_iter()
        .filter(|entry| entry.index > covered)
        .map(log_entry);
    let entries = entries.collect();
    let hard_state = found.hard_state;
    let recovered = Recovered {
        identity,
        state,
        snapshot,
        hard_state,
        entries,
    };
    Ok(Some(Recovery {
        wal,
        recovered,
        warnings,
    }))
}

fn warning(message: String) -> LogLine {
    LogLine {
        level: Level::Warning,
        component: "wal",
        message,
    }
}

/// What an operator should know about how the log ends.
fn tail_warning(tail: &Tail) -> Option<LogLine> {
    match tail {
        Tail::Clean | Tail::Open => None,
        Tail::Torn(at) => Some(warning(format!(
            "the log's last batch was cut short by a crash and is left out ({} from byte {}); \
             nothing in it had been acknowledged",
            at.file, at.offset
        ))),
        Tail::Cut(at) => Some(warning(format!(
            "the log's last batch is damaged and is left out ({} from byte {}); it may have been \
             acknowledged. Among several managers this one catches up before it votes; a single \
             manager goes on without it: check what was last changed, and the disk",
            at.file, at.offset
        ))),
    }
}

pub fn wal_options(options: &Options) -> wal::Options {
    wal::Options {
        segment_bytes: options.segment_bytes,
        ..wal::Options::default()
    }
}

fn log_entry(entry: wal::Entry) -> LogEntry {
    let wal::Entry {
        index,
        term,
        payload,
    } = entry;
    LogEntry {
        index,
        term,
        payload: payload.into(),
    }
}

fn io_error(dir: &Path, source: std::io::Error) -> WalError {
    WalError::Io {
        op: "looking for",
        file: dir.to_string_lossy().into_owned(),
        source,
    }
}

/// The log's refusal as the daemon's.
pub fn refusal(dir: &Path, error: WalError) -> Error {
    match error {
        WalError::Damaged { file, offset, why } => Error::LogDamaged {
            file: dir.join(file).to_string_lossy().into_owned(),
            offset,
            why,
        },
        WalError::NoSpace { dir, .. } => Error::NoSpace { dir },
        other => Error::DataDir {
            path: dir.to_string_lossy().into_owned(),
            why: other.to_string(),
        },
    }
}

/// Content that passes every checksum and still makes no sense.
pub fn damaged(dir: &Path, why: String) -> Error {
    Error::LogDamaged {
        file: dir.to_string_lossy().into_owned(),
        offset: 0,
        why,
    }
}
