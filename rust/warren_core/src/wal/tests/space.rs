//! A full disk refuses and recovers; a failed fsync is the end.

use super::super::{HARD_STATE_BYTES_MAX, Options, Tail, Wal, WalError};
use super::{IDENTITY, OPTIONS, create, dir, open};
use crate::sim::disk::{Fate, Faults, SimDisk};
use crate::sim::random::Random;
use std::sync::Arc;

/// Appends until the disk is full; returns the last durable index.
fn fill(wal: &mut Wal) -> u64 {
    loop {
        let index = wal.last_index() + 1;
        wal.append_entry(index, 1, &[1; 700]).unwrap();
        match wal.commit() {
            Ok(durable) => assert_eq!(durable.index, index),
            Err(error) => {
                assert_eq!(error.code(), "wal_no_space");
                return index - 1;
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let disk = SimDisk::new(2 * OPTIONS.segment_bytes);
    let mut wal = create(&disk).unwrap();
    let durable = fill(&mut wal);
    assert!(durable > 10);
    assert_eq!(wal.allocate_ahead().err().unwrap().code(), "wal_no_space");
    assert_eq!(wal.commit().err().unwrap().code(), "wal_no_space");
    assert_eq!(wal.durable().index, durable);

    disk.set_free_bytes(OPTIONS.segment_bytes);
    assert_eq!(wal.commit().unwrap().index, durable + 1);
    drop(wal);
    disk.restart(Fate::Lost, &mut Random::new(0));
    assert_eq!(open(&disk).unwrap().1.entries.len() as u64, durable + 1);
}

/// The room that each segment reserves is enough to record the snapshot that frees space.
#[test]
fn compaction_frees_a_full_disk() {
    let disk = SimDisk::new(3 * OPTIONS.segment_bytes);
    let mut wal = create(&disk).unwrap();
    wal.append_hard_state(&[9; HARD_STATE_BYTES_MAX]).unwrap();
    let durable = fill(&mut wal);
    // What is pending stays pending: the caller drops its log and starts over without it.
    drop(wal);
    let (mut wal, _) = open(&disk).unwrap();
    assert_eq!(wal.allocate_ahead().err().unwrap().code(), "wal_no_space");
    wal.compact(durable, 1).unwrap();
    wal.allocate_ahead().unwrap();
    wal.append_entry(durable + 1, 1, &[1; 9000]).unwrap();
    assert_eq!(wal.commit().unwrap().index, durable + 1);
    wal.close().unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(
        recovered.hard_state.as_deref(),
        Some(&[9; HARD_STATE_BYTES_MAX][..])
    );
    assert_eq!(
        (recovered.snapshot, recovered.tail),
        (Some((durable, 1)), Tail::Clean)
    );
}

#[test]
fn a_write_refused_for_space_can_be_repeated() {
    let disk = SimDisk::new(1 << 20);
    let mut wal = create(&disk).unwrap();
    wal.append_entry(1, 1, b"one").unwrap();
    disk.set_faults(Faults {
        writes_refused: true,
        ..Faults::default()
    });
    assert_eq!(wal.commit().err().unwrap().code(), "wal_no_space");
    assert_eq!(wal.compact(1, 1).err().unwrap().code(), "wal_no_space");
    disk.set_faults(Faults::default());
    assert_eq!(wal.compact(1, 1).unwrap().index, 1);
    drop(wal);
    assert_eq!(open(&disk).unwrap().1.snapshot, Some((1, 1)));
}

#[test]
fn a_failed_fsync_poisons_the_log_for_ever() {
    let disk = SimDisk::new(1 << 20);
    let mut wal = create(&disk).unwrap();
    wal.append_entry(1, 1, b"one").unwrap();
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    let first = wal.commit().err().unwrap().to_string();
    assert!(
        first.contains("fsync of 0000000000000001.wal failed"),
        "{first}"
    );
    let operations = disk.operations();
    let later = [
        wal.commit().err(),
        wal.append_entry(2, 1, b"two").err(),
        wal.append_hard_state(b"state").err(),
        wal.compact(1, 1).err(),
        wal.allocate_ahead().err(),
        wal.close().err(),
    ];
    for error in later {
        assert_eq!(error.unwrap().to_string(), first);
    }
    assert_eq!(
        disk.operations(),
        operations,
        "a poisoned log touched the disk"
    );
}

/// The kernel marks pages clean when their fsync fails: the next process reads them from its cache
/// and may not believe that they are on the disk.
#[test]
fn what_is_read_after_a_failed_fsync_is_made_durable() {
    let disk = SimDisk::new(1 << 20);
    let mut wal = create(&disk).unwrap();
    wal.append_entry(1, 1, b"one").unwrap();
    wal.commit().unwrap();
    wal.append_entry(2, 1, b"two").unwrap();
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    assert_eq!(wal.commit().err().unwrap().code(), "wal_sync_failed");
    drop(wal);
    disk.restart(Fate::Kept, &mut Random::new(0));
    let read = open(&disk).unwrap().1.entries;
    disk.restart(Fate::Lost, &mut Random::new(0));
    assert_eq!(open(&disk).unwrap().1.entries, read);
}

#[test]
fn a_failed_directory_fsync_poisons_too() {
    let disk = SimDisk::new(1 << 20);
    let mut wal = create(&disk).unwrap();
    for index in 1..=30 {
        wal.append_entry(index, 1, &[1; 700]).unwrap();
        wal.commit().unwrap();
    }
    wal.append_hard_state(b"state").unwrap();
    wal.commit().unwrap();
    assert!(wal.stats().segments > 1);
    // The marker's own fsync comes first; the directory's is the next.
    wal.compact(1, 1).unwrap();
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    let error = wal.compact(30, 1).err().unwrap();
    assert_eq!(error.code(), "wal_sync_failed");
    assert_eq!(wal.commit().err().unwrap().code(), "wal_sync_failed");
}

#[test]
fn limits_are_refused_by_name() {
    let disk = SimDisk::new(1 << 20);
    let mut wal = create(&disk).unwrap();
    let codes = [
        wal.append_entry(2, 1, b"a gap"),
        wal.append_entry(0, 1, b"before the first"),
        wal.append_entry(1, 1, &vec![0; wal.batch_bytes_max()]),
        wal.append_hard_state(&[0; HARD_STATE_BYTES_MAX + 1]),
    ]
    .map(|result| result.err().unwrap().code());
    let expected = [
        "wal_out_of_order",
        "wal_out_of_order",
        "wal_batch_full",
        "wal_hard_state_too_long",
    ];
    assert_eq!(codes, expected);
    let largest = vec![3; wal.batch_bytes_max() - 32];
    wal.append_entry(1, 1, &largest).unwrap();
    wal.commit().unwrap();
    wal.append_entry(2, 1, &largest).unwrap();
    wal.close().unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.entries.len(), recovered.tail), (2, Tail::Clean));

    for segment_bytes in [0, 16 << 10 | 1, 8 << 10, 2 << 30] {
        let options = Options {
            segment_bytes,
            ..OPTIONS
        };
        let error = Wal::create(Arc::new(disk.clone()), dir(), IDENTITY, options)
            .err()
            .unwrap();
        assert!(matches!(error, WalError::InvalidOptions { .. }));
    }
    assert_eq!(create(&disk).err().unwrap().code(), "wal_already_exists");
}
