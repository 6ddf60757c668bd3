//! What a disk holds, as the machine wants it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::super::{Identity, Level, LogLine, Recovered};
use super::{Snapshots, identity, log_dir, refusal, rewrite};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::Index;
use crate::raft::{ConfState, HardState, LogEntry, Position};
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
    let at = snapshot.as_ref().map(|(at, _)| *at).unwrap_or_default();
    let (mut entries, mut hard_state) = (found.entries, found.hard_state);
    if snapshot.is_some() && !wal.continues(at.index.0, at.term.0) {
        // Whoever wrote or received the snapshot died before the marker: what the log has would leave
        // a gap behind it, or is of another history.
        entries.clear();
        let marked = mark(&mut wal, at, found.tail.is_cut(), &mut hard_state);
        marked.map_err(|error| refusal(&dir, error))?;
    }
    let entries = entries
        .into_iter()
        .filter(|entry| entry.index > at.index.0)
        .map(|entry| LogEntry {
            index: entry.index,
            term: entry.term,
            payload: entry.payload.into(),
        });
    let recovered = Recovered {
        identity,
        state,
        snapshot,
        hard_state,
        entries: entries.collect(),
        cut: found.tail.is_cut(),
    };
    Ok(Some(Found {
        wal,
        recovered,
        warnings,
    }))
}

/// Has the log begin behind a snapshot. Whatever is written first replaces a tail that was cut off, so
/// it has to remember the cut.
fn mark(
    wal: &mut Wal,
    at: Position,
    cut: bool,
    hard_state: &mut Option<Vec<u8>>,
) -> Result<(), WalError> {
    let known = hard_state.as_deref().map(HardState::decode);
    // One that cannot be read is refused by who goes on with it.
    if cut && let Ok(known) = known.unwrap_or_else(|| Ok(HardState::default())) {
        let remembered = HardState {
            generation: known.generation + 1,
            cut: true,
            ..known
        };
        let bytes = remembered.encode();
        wal.append_hard_state(&bytes)?;
        *hard_state = Some(bytes);
    }
    wal.compact(at.index.0, at.term.0).map(drop)
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
