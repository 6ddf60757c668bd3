//! Backups of a running host, and hosts that begin with one or go on after a lost quorum.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{CALLS_MAX, Host, Options, check, core, metrics, take_place};
use crate::control::durable::{self, backup};
use crate::control::{Consistency, Input};
use crate::error::Error;
use crate::pb;
use crate::wal::{FileDisk, ReadOnlyDisk};

impl Host {
    /// Starts to write a backup to `file`, where nothing is yet. The one completion under the id is
    /// its header, once it is durable. `stale`: of this member's own state, without a quorum.
    ///
    /// # Errors
    /// As [`Host::submit`].
    pub fn backup(
        &self,
        identity: &str,
        file: &Path,
        stale: bool,
        timeout: Duration,
    ) -> Result<u64, Error> {
        let file = file.to_str().ok_or_else(|| Error::Invalid {
            what: "backup",
            why: "the name of its file is no text".into(),
        })?;
        let mut call = self.admit(identity, "BackupCluster", file.as_bytes(), timeout)?;
        if stale {
            call.consistency = Consistency::Stale;
        }
        take_place(&self.shared.calls, CALLS_MAX, "the core's call queue")
            .inspect_err(|_| self.shared.metrics.count_rejection(metrics::Queue::Calls))?;
        let id = call.id;
        self.send(Input::Call(call))?;
        Ok(id.0)
    }

    /// Makes a cluster out of the backup at `file`, with this as its only member, in a directory that
    /// no host is open on. The epoch is at least `epoch_min`. Open the directory afterwards.
    ///
    /// # Errors
    /// As [`durable::restore`].
    pub fn restore(
        options: &Options,
        file: &Path,
        epoch_min: u64,
    ) -> Result<pb::RestoreClusterResponse, Error> {
        check(options)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Error::DataDir {
            path: "the kernel's random source".into(),
            why: error.to_string(),
        })?;
        durable::restore(
            Arc::new(FileDisk),
            &options.raft_dir,
            options.wal(),
            &core::config(options, seed),
            (file, epoch_min),
        )
    }

    /// Makes the member in a directory that no host is open on the only one of its cluster. Open the
    /// directory afterwards.
    ///
    /// # Errors
    /// As [`durable::recover_quorum`].
    pub fn recover_quorum(options: &Options) -> Result<pb::RecoverQuorumResponse, Error> {
        check(options)?;
        durable::recover_quorum(
            Arc::new(FileDisk),
            &options.raft_dir,
            options.wal(),
            &core::config(options, [0; 32]),
        )
    }
}

/// The header of a backup that is whole; nothing needs to run for that.
///
/// # Errors
/// As [`backup::read`].
pub fn inspect_backup(file: &Path) -> Result<pb::BackupHeader, Error> {
    backup::read(&ReadOnlyDisk, file).map(|(header, _)| header)
}
