//! Backups of a running host, and hosts that begin with one or go on after a lost quorum.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{CALLS_MAX, Host, Options, check, core, metrics, take_place};
use crate::control::durable::{self, Wanted, backup};
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

    /// Makes a cluster out of a backup, with this as its only member, and opens it; what was done.
    ///
    /// # Errors
    /// As [`durable::restore`], and what [`Host::open`] refuses.
    pub fn restore(
        options: Options,
        wanted: Wanted<'_>,
    ) -> Result<(Self, pb::RestoreClusterResponse), Error> {
        check(&options)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Error::DataDir {
            path: "the kernel's random source".into(),
            why: error.to_string(),
        })?;
        let config = core::config(&options, seed);
        let (disk, dir) = (Arc::new(FileDisk), &options.raft_dir);
        let (report, found) = durable::restore(disk, dir, options.wal(), &config, wanted)?;
        Ok((Self::start(options, Some(found))?, report))
    }

    /// Makes the member in the directory the only one of its cluster, and opens it; what was done.
    ///
    /// # Errors
    /// As [`durable::recover_quorum`], and what [`Host::open`] refuses.
    pub fn recover_quorum(options: Options) -> Result<(Self, pb::RecoverQuorumResponse), Error> {
        check(&options)?;
        let config = core::config(&options, [0; 32]);
        let (disk, dir) = (Arc::new(FileDisk), &options.raft_dir);
        let (report, found) = durable::recover_quorum(disk, dir, options.wal(), &config)?;
        Ok((Self::start(options, Some(found))?, report))
    }
}

/// The header of a backup that is whole; nothing needs to run for that.
///
/// # Errors
/// As [`backup::read`].
pub fn inspect_backup(file: &Path) -> Result<pb::BackupHeader, Error> {
    backup::read(&ReadOnlyDisk, file).map(|(header, _)| header)
}
