//! The real file system behaves as the simulated one promises.

#![allow(clippy::disallowed_methods, reason = "tests the file backend")]

use std::path::PathBuf;
use std::sync::Arc;

use super::super::{Disk, FileDisk, Tail, Wal};
use super::{IDENTITY, OPTIONS};

/// A directory that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("warren-wal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_log_lives_through_rolls_compactions_and_restarts() {
    let scratch = Scratch::new("life");
    let dir = scratch.0.join("below/wal");
    let mut wal = Wal::create(Arc::new(FileDisk), &dir, IDENTITY, OPTIONS).unwrap();
    for round in 0..5 {
        for index in round * 20 + 1..=round * 20 + 20 {
            wal.append_entry(index, 1, &[index as u8; 1500]).unwrap();
            wal.commit().unwrap();
            wal.allocate_ahead().unwrap();
        }
        wal.compact(round * 20 + 10, 1).unwrap();
        wal.close().unwrap();
        let (reopened, recovered) = Wal::open(Arc::new(FileDisk), &dir, OPTIONS).unwrap();
        assert_eq!(recovered.tail, Tail::Clean);
        assert_eq!(recovered.snapshot, Some((round * 20 + 10, 1)));
        let indexes: Vec<u64> = recovered.entries.iter().map(|entry| entry.index).collect();
        assert_eq!(
            indexes,
            (round * 20 + 11..=round * 20 + 20).collect::<Vec<_>>()
        );
        wal = reopened;
    }
    let on_disk: u64 = std::fs::read_dir(&dir)
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, wal.stats().allocated_bytes);
}

#[test]
fn files_are_allocated_whole_and_never_replaced() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("files");
    FileDisk.create_dir(&scratch.0).unwrap();
    let path = scratch.0.join("file");
    let file = FileDisk.create(&path, 1 << 20).unwrap();
    assert_eq!(file.size_bytes().unwrap(), 1 << 20);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    assert!(FileDisk.create(&path, 1 << 20).is_err());
    assert!(file.read_at(&mut [0; 8], (1 << 20) - 4).is_err());
}
