use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::ids::{ClusterId, Index, Term};
use crate::raft::{LogEntry, Position};
use crate::sim::disk::{Fate, Faults, SimDisk};
use crate::sim::random::Random;

const SEGMENT_BYTES: u64 = 1 << 20;

fn identity() -> Identity {
    Identity {
        cluster: ClusterId([7; 16]),
        epoch: 1,
        member: MemberId(5),
        data_dir: [9; 16],
    }
}

fn options() -> wal::Options {
    wal::Options {
        segment_bytes: SEGMENT_BYTES,
        ..wal::Options::default()
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/raft")
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    LogEntry {
        index,
        term: 2,
        payload: vec![index as u8; bytes].into(),
    }
}

fn recovered(disk: &SimDisk) -> Option<Found> {
    recover(Arc::new(disk.clone()), &dir(), options()).unwrap()
}

#[test]
fn a_founded_log_continues_its_genesis_snapshot() {
    let disk = SimDisk::new(64 << 20);
    assert!(recovered(&disk).is_none());
    let made = create(Arc::new(disk.clone()), &dir(), &identity(), true, options());
    made.unwrap().close().unwrap();
    let found = recovered(&disk).unwrap().recovered;
    let (_, conf) = genesis(MemberId(5));
    assert_eq!(found.snapshot, Some((GENESIS, conf)));
    assert_eq!(found.identity, identity());
    assert!(found.entries.is_empty() && !found.cut);
}

#[test]
fn a_joiner_has_a_log_and_no_snapshot() {
    let disk = SimDisk::new(64 << 20);
    let made = create(
        Arc::new(disk.clone()),
        &dir(),
        &identity(),
        false,
        options(),
    );
    drop(made.unwrap());
    let found = recovered(&disk).unwrap().recovered;
    assert_eq!((found.snapshot, found.entries.len()), (None, 0));
}

#[test]
fn founding_survives_a_crash_at_any_boundary() {
    let mut boundaries = 0;
    for crash_at in 1.. {
        let disk = SimDisk::new(64 << 20);
        disk.set_faults(Faults {
            crash_at: Some(crash_at),
            ..Faults::default()
        });
        let made = create(Arc::new(disk.clone()), &dir(), &identity(), true, options());
        let done = made.is_ok();
        drop(made);
        for (seed, fate) in [Fate::Kept, Fate::Lost, Fate::Torn, Fate::Reordered]
            .into_iter()
            .enumerate()
        {
            let after = disk.fork();
            after.restart(fate, &mut Random::new(crash_at * 8 + seed as u64));
            match recovered(&after) {
                Some(found) => assert!(
                    found.recovered.snapshot.is_some(),
                    "a log without its snapshot at {crash_at}, {fate:?}"
                ),
                // Nothing was founded: it can be done again.
                None => {
                    assert!(!done || fate != Fate::Kept);
                    let again = create(
                        Arc::new(after.clone()),
                        &dir(),
                        &identity(),
                        true,
                        options(),
                    );
                    again.unwrap();
                }
            }
        }
        if done {
            break;
        }
        boundaries += 1;
    }
    assert!(boundaries >= 10, "{boundaries} boundaries");
}

#[test]
fn what_a_persist_holds_is_there_in_its_order() {
    let disk = SimDisk::new(64 << 20);
    let made = create(Arc::new(disk.clone()), &dir(), &identity(), true, options());
    let mut wal = made.unwrap();
    // Larger than a batch, so that it takes several.
    let mut persist = Persist {
        number: 1,
        install: None,
        hard_state: Some(vec![1; 24]),
        entries: (2..12).map(|index| entry(index, 200 << 10)).collect(),
    };
    append(&mut wal, &mut persist).unwrap();
    assert!(persist.entries.is_empty(), "all of it was added");
    wal.commit().unwrap();
    let mut install = Persist {
        number: 2,
        install: Some(Position {
            index: Index(50),
            term: Term(3),
        }),
        hard_state: Some(vec![2; 24]),
        entries: vec![LogEntry {
            term: 3,
            ..entry(51, 10)
        }],
    };
    append(&mut wal, &mut install).unwrap();
    wal.commit().unwrap();
    drop(wal);
    let (_, found) = Wal::open(Arc::new(disk), &log_dir(&dir()), options()).unwrap();
    assert_eq!(found.snapshot, Some((50, 3)));
    assert_eq!(found.hard_state, Some(vec![2; 24]));
    assert_eq!(
        found.entries.iter().map(|e| e.index).collect::<Vec<_>>(),
        [51]
    );
}
