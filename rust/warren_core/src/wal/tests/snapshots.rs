//! The store of snapshots against disks that fail.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::super::snapshots::{SNAPSHOTS_MAX, SnapshotError, Store};
use super::AMPLE_BYTES;
use crate::sim::disk::{Fate, Faults, Operation, SimDisk};
use crate::sim::random::Random;

const BLOCK_BYTES: usize = 4 << 20;

fn dir() -> &'static Path {
    Path::new("raft/snap")
}

fn store(disk: &SimDisk) -> Store {
    Store::new(Arc::new(disk.clone()), dir())
}

fn restarted(disk: &SimDisk, fate: Fate) -> Store {
    disk.restart(fate, &mut Random::new(1));
    store(disk)
}

fn write(store: &Store, index: u64, bytes: &[u8]) -> Result<u64, SnapshotError> {
    let mut writer = store.begin(index, 1)?;
    for piece in bytes.chunks(100_000) {
        writer.write(piece)?;
    }
    writer.finish()
}

fn read(store: &Store, index: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = store.open(index, 1).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(reader.len_bytes(), bytes.len() as u64);
    bytes
}

#[test]
fn what_is_finished_survives_and_what_is_not_leaves_nothing() {
    let disk = SimDisk::new(AMPLE_BYTES);
    let bytes = vec![7; 1_000_001];
    assert_eq!(write(&store(&disk), 5, &bytes).unwrap(), 1_000_001);
    let mut unfinished = store(&disk).begin(6, 1).unwrap();
    unfinished.write(&bytes).unwrap();
    drop(unfinished);
    let store = restarted(&disk, Fate::Kept);
    assert_eq!(store.list().unwrap(), [(5, 1)]);
    assert_eq!(read(&store, 5), bytes);
    // The next one sweeps up after it.
    write(&store, 7, b"seven").unwrap();
    assert_eq!(disk.file_names(dir()).len(), 2);
    let store = restarted(&disk, Fate::Lost);
    assert_eq!(store.list().unwrap(), [(5, 1), (7, 1)]);
    assert_eq!(read(&store, 7), b"seven");
    assert_eq!(store.open(6, 1).err().unwrap().code(), "snapshot_not_found");
}

#[test]
fn reading_in_pieces_ends_where_the_file_does() {
    let disk = SimDisk::new(AMPLE_BYTES);
    write(&store(&disk), 5, b"0123456789").unwrap();
    let reader = store(&disk).open(5, 1).unwrap();
    let mut piece = [0; 4];
    assert_eq!(reader.read_at(&mut piece, 8).unwrap(), 2);
    assert_eq!(&piece[..2], b"89");
    assert_eq!(reader.read_at(&mut piece, 10).unwrap(), 0);
    assert_eq!(reader.read_at(&mut piece, 99).unwrap(), 0);
}

#[test]
fn three_are_kept_never_without_the_newest_nor_one_in_use() {
    let disk = SimDisk::new(AMPLE_BYTES);
    let store = store(&disk);
    for index in 1..=6 {
        write(&store, index, b"state").unwrap();
    }
    store.prune(&[(1, 1), (2, 1)]).unwrap();
    assert_eq!(store.list().unwrap(), [(1, 1), (2, 1), (6, 1)]);
    for index in 7..=9 {
        write(&store, index, b"state").unwrap();
    }
    store.prune(&[]).unwrap();
    assert_eq!(store.list().unwrap(), [(7, 1), (8, 1), (9, 1)]);
    let all = [(7, 1), (8, 1), (9, 1), (10, 1)];
    write(&store, 10, b"state").unwrap();
    store.prune(&all).unwrap();
    assert_eq!(store.list().unwrap(), all);
    assert!(all.len() > SNAPSHOTS_MAX);
}

#[test]
fn a_transfer_goes_on_after_a_restart_with_what_is_durable() {
    for fate in Fate::ALL {
        let disk = SimDisk::new(AMPLE_BYTES);
        let bytes: Vec<u8> = (0..BLOCK_BYTES + 900_000)
            .map(|at| (at / 977) as u8)
            .collect();
        let mut incoming = store(&disk).incoming(9, 1).unwrap();
        for (number, piece) in bytes.chunks(256 << 10).enumerate() {
            let offset = (number * (256 << 10)) as u64;
            incoming.write_at(offset, piece).unwrap();
        }
        assert_eq!(incoming.held_bytes(), bytes.len() as u64);
        drop(incoming);
        let store = restarted(&disk, fate);
        let mut incoming = store.incoming(9, 1).unwrap();
        // The name was never synced.
        let held = incoming.held_bytes() as usize;
        assert!(held == BLOCK_BYTES || fate != Fate::Kept, "{fate:?} {held}");
        assert!(held == BLOCK_BYTES || held == 0, "{fate:?} {held}");
        assert_eq!(
            incoming
                .write_at(held as u64 + 1, b"!")
                .err()
                .unwrap()
                .code(),
            "snapshot_gap"
        );
        // From further back: what is held already is passed over.
        let from = held.saturating_sub(10);
        incoming.write_at(from as u64, &bytes[from..]).unwrap();
        let mut checked = Vec::new();
        incoming
            .reader()
            .unwrap()
            .read_to_end(&mut checked)
            .unwrap();
        assert!(checked == bytes, "{fate:?}");
        assert_eq!(incoming.finish().unwrap(), bytes.len() as u64);
        let store = restarted(&disk, Fate::Lost);
        assert!(read(&store, 9) == bytes, "{fate:?}");
    }
}

#[test]
fn one_transfer_at_a_time_and_it_can_be_abandoned() {
    let disk = SimDisk::new(AMPLE_BYTES);
    let store = store(&disk);
    store.incoming(4, 1).unwrap().write_at(0, b"four").unwrap();
    store.incoming(5, 1).unwrap().write_at(0, b"five").unwrap();
    assert_eq!(disk.file_names(dir()).len(), 1);
    store.abandon(5, 1).unwrap();
    store.abandon(5, 1).unwrap();
    assert_eq!(disk.file_names(dir()).len(), 0);
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let disk = SimDisk::new(1 << 20);
    let store = store(&disk);
    let full = write(&store, 1, &vec![1; 2 << 20]).err().unwrap();
    assert_eq!(full.code(), "snapshot_no_space", "{full}");
    assert_eq!(disk.free_bytes(), 1 << 20, "it is gone");
    write(&store, 2, b"two").unwrap();
    disk.fail_next(Operation::Sync);
    let mut writer = store.begin(3, 1).unwrap();
    writer.write(b"three").unwrap();
    assert_eq!(writer.finish().err().unwrap().code(), "snapshot_failed");
    assert_eq!(disk.file_names(dir()).len(), 1);
    let mut incoming = store.incoming(4, 1).unwrap();
    incoming.write_at(0, b"fou").unwrap();
    disk.set_faults(Faults {
        writes_refused: true,
        ..Faults::default()
    });
    assert_eq!(
        incoming.write_at(3, b"r").err().unwrap().code(),
        "snapshot_no_space"
    );
    disk.set_faults(Faults::default());
    assert_eq!(incoming.write_at(3, b"r").unwrap(), 4);
    disk.fail_next(Operation::Sync);
    assert_eq!(incoming.finish().err().unwrap().code(), "snapshot_failed");
    assert_eq!(
        store.incoming(4, 1).unwrap().held_bytes(),
        0,
        "never believed again"
    );
}
