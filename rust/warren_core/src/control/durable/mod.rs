//! What every driver does with a disk on the machine's behalf, over any [`Disk`]: a daemon on its
//! files, a simulation on a disk that loses and tears. Nothing in here decides anything about the
//! cluster; it keeps the one order that a crash at any moment survives:
//!
//! - a log never exists without the snapshot that it continues from: founding writes the genesis
//!   snapshot, then the log, then the marker ([`create`]);
//! - hard state goes before the entries it covers, and the marker of an installed snapshot before
//!   both ([`append`]);
//! - a received snapshot is durable under its name before anybody is told ([`Inbox`]);
//! - a change of epoch is decided by one file, and carried through by whoever comes next
//!   ([`restore`], [`recover_quorum`]).
//!
//! | directory | holds |
//! |---|---|
//! | `wal` | the log |
//! | `snap` | snapshots, `<index>-<term>.snap` in hex |
//! | `rewrite` | a change of epoch that was decided and is not finished |

pub mod backup;
mod inbox;
mod recover;
mod rewrite;
mod snapshots;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{GENESIS, Identity, SnapshotJob, genesis};
use crate::error::Error;
use crate::fsm::snapshot;
use crate::ids::MemberId;
use crate::raft::{Persist, Position};
use crate::wal::{self, Disk, Wal, WalError};
pub use inbox::Inbox;
pub use recover::{Found, recover};
pub use rewrite::{Wanted, recover_quorum, restore};
pub use snapshots::Snapshots;

/// Where the log is, below the directory of consensus.
pub fn log_dir(raft_dir: &Path) -> PathBuf {
    raft_dir.join("wal")
}

/// Where the snapshots are.
pub fn snapshot_dir(raft_dir: &Path) -> PathBuf {
    raft_dir.join("snap")
}

/// Makes an empty log: of a new cluster if `founds`, else of a member that joins one and waits for a
/// snapshot. Interrupted anywhere, it leaves no log, or one that [`recover`] goes on with.
///
/// # Errors
/// `NoSpace`, or `DataDir` if the disk refuses.
pub fn create(
    disk: Arc<dyn Disk>,
    raft_dir: &Path,
    identity: &Identity,
    founds: bool,
    options: wal::Options,
) -> Result<Wal, Error> {
    let snapshots = Snapshots::new(disk.clone(), raft_dir);
    let dir = log_dir(raft_dir);
    if !Wal::is_in(&*disk, &dir).map_err(|error| refusal(&dir, error))? {
        snapshots.clear()?;
    }
    if founds {
        let (state, conf) = genesis(identity.member);
        let mut header = snapshot::header(&state, conf.encode());
        header.cluster_id = identity.cluster.to_vec();
        header.epoch = identity.epoch;
        let job = SnapshotJob {
            state,
            header,
            at: GENESIS,
        };
        snapshots.write(&job, &[])?;
    }
    begin_log(disk, raft_dir, identity, founds.then_some(GENESIS), options)
}

/// Makes an empty log that continues the snapshot at `after`, which is there.
fn begin_log(
    disk: Arc<dyn Disk>,
    raft_dir: &Path,
    identity: &Identity,
    after: Option<Position>,
    options: wal::Options,
) -> Result<Wal, Error> {
    let dir = log_dir(raft_dir);
    let refused = |error| refusal(&dir, error);
    let owner = wal::Identity {
        cluster_id: identity.cluster.0,
        epoch: identity.epoch,
        member_id: identity.member.0,
        data_dir: identity.data_dir,
    };
    let mut wal = Wal::create(disk, &dir, owner, options).map_err(refused)?;
    if let Some(at) = after {
        wal.compact(at.index.0, at.term.0).map_err(refused)?;
    }
    Ok(wal)
}

/// Adds to the log's batch what is to become durable, in the order that it must. The batch is
/// committed by the caller, and also by this where it is full or a snapshot was installed.
///
/// # Errors
/// `NoSpace`: the caller makes room, commits, and calls again with what is left in `persist`; what
/// has been added is taken out of it. Everything else: the log is broken.
pub fn append(wal: &mut Wal, persist: &mut Persist) -> Result<(), WalError> {
    if let Some(at) = persist.install {
        wal.compact(at.index.0, at.term.0)?;
        persist.install = None;
    }
    if let Some(state) = &persist.hard_state {
        record(wal, |wal| wal.append_hard_state(state))?;
        persist.hard_state = None;
    }
    let mut added = 0;
    let mut outcome = Ok(());
    for entry in &persist.entries {
        outcome = record(wal, |wal| {
            wal.append_entry(entry.index, entry.term, &entry.payload)
        });
        if outcome.is_err() {
            break;
        }
        added += 1;
    }
    persist.entries.drain(..added);
    outcome
}

/// One record; a full batch is committed first.
fn record(
    wal: &mut Wal,
    append: impl Fn(&mut Wal) -> Result<(), WalError>,
) -> Result<(), WalError> {
    match append(wal) {
        Err(WalError::BatchFull { .. }) if wal.pending_bytes() > 0 => {
            wal.commit()?;
            append(wal)
        }
        outcome => outcome,
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

/// Whom a log belongs to.
fn identity(of: &wal::Identity) -> Identity {
    Identity {
        cluster: crate::ids::ClusterId(of.cluster_id),
        epoch: of.epoch,
        member: MemberId(of.member_id),
        data_dir: of.data_dir,
    }
}

#[cfg(test)]
mod tests;
