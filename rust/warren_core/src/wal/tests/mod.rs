//! The log against disks that fail.

mod crash;
mod damage;
mod disk;
mod inspect;
mod scenarios;
mod snapshots;
mod space;

use std::path::Path;
use std::sync::Arc;

use super::{Identity, Options, Recovered, Wal, WalError};
use crate::sim::disk::SimDisk;
pub(super) use crate::sim::random::Random;

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

/// The files of the log, in order.
fn file_names(disk: &SimDisk) -> Vec<String> {
    disk.file_names(dir())
}

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    disk.contents(&dir().join(name))
}

fn rot(disk: &SimDisk, name: &str, change: impl Fn(&mut Vec<u8>)) {
    disk.damage(&dir().join(name), change);
}

fn create(disk: &SimDisk) -> Result<Wal, WalError> {
    Wal::create(Arc::new(disk.clone()), dir(), IDENTITY, OPTIONS)
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), dir(), OPTIONS)
}
