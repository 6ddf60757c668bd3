//! The log against disks that fail.

mod crash;
mod damage;
mod disk;
mod scenarios;
mod space;

use std::path::Path;
use std::sync::Arc;

use super::sim_disk::SimDisk;
use super::{Identity, Options, Recovered, Wal, WalError};

const IDENTITY: Identity = Identity {
    cluster_id: *b"0123456789abcdef",
    data_dir: *b"fedcba9876543210",
    epoch: 1,
    member_id: 1,
};
const OPTIONS: Options = Options {
    segment_bytes: 16 << 10,
    spare_segments_max: 2,
};
const AMPLE_BYTES: u64 = 1 << 30;

fn dir() -> &'static Path {
    Path::new("wal")
}

fn create(disk: &SimDisk) -> Result<Wal, WalError> {
    Wal::create(Arc::new(disk.clone()), dir(), IDENTITY, OPTIONS)
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), dir(), OPTIONS)
}
