//! Backups of a cluster, and what becomes of them; a member that goes on alone.

use std::path::Path;
use std::sync::Arc;

use warren_core::control::Consistency;
use warren_core::control::durable::{self, Wanted};
use warren_core::pb;
use warren_core::wal::FileDisk;

use super::{Cluster, options};

impl Cluster {
    /// Goes on alone, in a new epoch, from its files.
    pub fn recover_quorum(&mut self, number: u64) -> pb::RecoverQuorumResponse {
        self.kill(number);
        let host = &self.hosts[&number];
        let config = host.config(number);
        let report = durable::recover_quorum(Arc::new(FileDisk), &host.dir, options(), &config);
        let (report, _) = report.unwrap();
        self.start(number);
        report
    }

    /// Becomes the only member of the cluster in a backup.
    pub fn restore(&mut self, number: u64, file: &Path) -> pb::RestoreClusterResponse {
        self.kill(number);
        let host = &self.hosts[&number];
        let (disk, config) = (Arc::new(FileDisk), host.config(number));
        let wanted = Wanted {
            file,
            epoch_min: 0,
            cluster: None,
        };
        let restored = durable::restore(disk, &host.dir, options(), &config, wanted);
        let (report, _) = restored.unwrap();
        self.start(number);
        report
    }

    /// Starts to write a backup.
    pub fn start_backup(&mut self, number: u64, file: &Path, consistency: Consistency) -> u64 {
        let nothing = pb::BackupClusterRequest::default();
        let mut call = self.new_call("BackupCluster", &nothing, consistency);
        call.body = file.to_str().unwrap().into();
        self.put_call(number, call)
    }

    /// Where files of a test can be.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
