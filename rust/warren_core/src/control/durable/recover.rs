//! What a disk holds, as the machine wants it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::super::{Identity, Level, LogLine, Recovered};
use super::{Snapshots, identity, log_dir, refusal, rewrite};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::Index;
use crate::raft::{ConfState, LogEntry, Position};
use crate::wal::{self, Disk, Tail, Wal, WalError};

/// A log, and what the machine goes on with.
pub struct Found {
    pub wal: Wal,
    pub recovered: Recovered,
    /// What an operator should know about how it was found.
    pub warnings: Vec<LogLine>,
}

/// Reads snapshot and log; `None` where there is no log, and so no cluster.
///
/// # Errors
/// `LogDamaged` names file and offset: acknowledged changes could be missing. `DataDir` if the disk
/// cannot be read.
pub fn recover(
    disk: Arc<dyn Disk>,
    raft_dir: &Path,
    options: wal::Options,
) -> Result<Option<Found>, Error> {
    rewrite::finish(&disk, raft_dir, options)?;
    let dir = log_dir(raft_dir);
    let (mut wal, found) = match Wal::open(disk.clone(), &dir, options) {
        Ok(opened) => opened,
        Err(WalError::NotFound { .. }) => return Ok(None),
        Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(refusal(&dir, error)),
    };
    let identity = identity(&found.identity);
    let marked_index = found.snapshot.map_or(0, |(index, _)| index);
    let mut warnings: Vec<LogLine> = cut_short(&found.tail).into_iter().collect();
    let snapshots = Snapshots::new(disk, raft_dir);
    // Before the log says, durably, that it needs one: who received it may have died between giving it
    // its name and having that on disk.
    snapshots.settle()?;
    let (state, snapshot) = newest(&snapshots, &identity, Index(marked_index), &mut warnings)?;
    let covered = snapshot.as_ref().map_or(0, |(at, _)| at.index.0);
    if let Some((at, _)) = snapshot.as_ref().filter(|_| covered > wal.last_index()) {
        // Whoever wrote the snapshot died before the marker: what follows would leave a gap.
        let marked = wal.compact(at.index.0, at.term.0);
        marked.map_err(|error| refusal(&dir, error))?;
    }
    let entries = found.entries.into_iter();
    let entries = entries
        .filter(|entry| entry.index > covered)
        .map(|entry| LogEntry {
            index: entry.index,
            term: entry.term,
            payload: entry.payload.into(),
        });
    let recovered = Recovered {
        identity,
        state,
        snapshot,
        hard_state: found.hard_state,
        entries: entries.collect(),
        cut: found.tail.is_cut(),
    };
    Ok(Some(Found {
        wal,
        recovered,
        warnings,
    }))
}

/// The newest snapshot that can be read. The log needs one that covers `marked`: with an older one
/// acknowledged changes would be missing.
fn newest(
    snapshots: &Snapshots,
    identity: &Identity,
    marked: Index,
    warnings: &mut Vec<LogLine>,
) -> Result<(State, Option<(Position, ConfState)>), Error> {
    let mut why_not = None;
    for at in snapshots.list()?.into_iter().rev() {
        if at.index < marked {
            break;
        }
        match snapshots.load(at, identity) {
            Ok((state, conf)) => {
                warnings.extend(why_not.as_ref().map(skipped));
                return Ok((state, Some((at, conf))));
            }
            Err(error) => why_not = why_not.or(Some(error)),
        }
    }
    match why_not {
        Some(error) if marked > Index(0) => Err(error),
        None if marked > Index(0) => Err(snapshots.missing(marked)),
        // The log is complete without it.
        unneeded => {
            warnings.extend(unneeded.as_ref().map(skipped));
            Ok((State::default(), None))
        }
    }
}

fn skipped(error: &Error) -> LogLine {
    warning(format!(
        "skipped a snapshot, the log goes further back: {error}"
    ))
}

fn cut_short(tail: &Tail) -> Option<LogLine> {
    let (at, sentence) = match tail {
        Tail::Clean | Tail::Open => return None,
        Tail::Torn(at) => (at, "nothing in it had been acknowledged"),
        Tail::Cut(at) => (
            at,
            "something in it may have been acknowledged: this member does not vote until it has \
             caught up with the others",
        ),
    };
    Some(warning(format!(
        "the log's last batch was cut short and is left out ({} from byte {}); {sentence}",
        at.file, at.offset
    )))
}

fn warning(message: String) -> LogLine {
    LogLine::new(Level::Warning, "wal", message)
}
