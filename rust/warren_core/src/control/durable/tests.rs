use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::control::{Input, SnapshotBytes, SnapshotRead, SnapshotStep, SnapshotWrite};
use crate::fsm::State;
use crate::ids::{ClusterId, Index, Term};
use crate::pb;
use crate::raft::{HardState, LogEntry, Position};
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

/// A snapshot of a cluster whose founder has this identity, and the steps of taking it in.
fn sent(identity: &Identity, (index, term): (u64, u64)) -> (Position, [SnapshotStep; 3]) {
    let mut state = State::new();
    let create = pb::Command {
        level: 1,
        entropy: vec![1; 12],
        body: Some(pb::command::Body::CreateCluster(pb::CreateCluster {
            cluster_id: identity.cluster.to_vec(),
            epoch: identity.epoch,
            founder: Some(pb::Member {
                id: identity.member.0,
                data_dir: identity.data_dir.to_vec(),
                node_id: vec![1; 16],
                address: "one:1".into(),
                voter: true,
                feature_level_max: 1,
                ..Default::default()
            }),
        })),
        ..Default::default()
    };
    let applied = state.apply(Index(index), Term(term), &create);
    applied.response.expect("it is founded");
    let (_, conf) = genesis(identity.member);
    let at = Position {
        index: Index(index),
        term: Term(term),
    };
    let sent = Snapshots::new(Arc::new(SimDisk::new(64 << 20)), &dir());
    let header = snapshot::header(&state, conf.encode());
    sent.write(&SnapshotJob { state, header, at }, &[]).unwrap();
    let read = sent.read(&SnapshotRead {
        token: 1,
        at,
        offset: 0,
        max_bytes: 1 << 20,
    });
    let SnapshotBytes { bytes, total_bytes } = read.unwrap();
    let steps = [
        SnapshotStep::Begin { total_bytes },
        SnapshotStep::Chunk { offset: 0, bytes },
        SnapshotStep::Finish,
    ];
    (at, steps)
}

/// Whoever lost its disk and kept its name would begin with an old configuration, of itself alone.
#[test]
fn a_snapshot_that_binds_the_member_to_another_data_directory_is_not_taken() {
    let identity = identity();
    let (at, steps) = sent(&identity, (2, 1));
    let taken_by = |identity: &Identity| {
        let received = Snapshots::new(Arc::new(SimDisk::new(64 << 20)), &dir());
        let mut inbox = Inbox::default();
        let answers = steps.clone().map(|step| {
            let write = SnapshotWrite { at, step };
            inbox.perform(&received, identity, write)
        });
        let Some(Some(Input::SnapshotLoaded { result, .. })) = answers.into_iter().last() else {
            panic!("it is answered");
        };
        (result.map(drop), received.list().unwrap().len())
    };
    assert_eq!(taken_by(&identity), (Ok(()), 1));
    let empty_disk = Identity {
        data_dir: [99; 16],
        ..identity
    };
    let member = identity.member.0;
    let refused = Err(Error::WrongDataDir { member });
    assert_eq!(taken_by(&empty_disk), (refused, 0));
    let joiner = Identity {
        member: MemberId(6),
        ..empty_disk
    };
    assert_eq!(taken_by(&joiner), (Ok(()), 1));
}

/// The process dies while it receives, goes on with what it finds, and then power is lost.
#[test]
fn what_a_start_goes_on_with_survives_the_next_power_cut() {
    let identity = identity();
    let (at, steps) = sent(&identity, (2, 1));
    let mut gone_on = 0;
    for crash_at in 1.. {
        let disk = SimDisk::new(64 << 20);
        create(Arc::new(disk.clone()), &dir(), &identity, false, options()).unwrap();
        disk.set_faults(Faults {
            crash_at: Some(disk.operations() + crash_at),
            ..Faults::default()
        });
        let (snapshots, mut inbox) = (
            Snapshots::new(Arc::new(disk.clone()), &dir()),
            Inbox::default(),
        );
        for step in steps.clone() {
            inbox.perform(&snapshots, &identity, SnapshotWrite { at, step });
        }
        let crashed = disk.crashed();
        disk.restart(Fate::Kept, &mut Random::new(crash_at));
        let found = recovered(&disk).expect("it has a log");
        let has = found.recovered.snapshot.is_some();
        drop(found);
        disk.restart(Fate::Lost, &mut Random::new(crash_at));
        let found = recovered(&disk).expect("it has a log");
        assert_eq!(found.recovered.snapshot.is_some(), has, "at {crash_at}");
        gone_on += u64::from(has && crashed);
        if !crashed {
            break;
        }
    }
    assert!(gone_on > 0, "it died with a name that was not durable");
}

/// Receives a snapshot, and dies before the log says so.
fn receive(disk: &SimDisk, identity: &Identity, at: (u64, u64)) {
    let (at, steps) = sent(identity, at);
    let snapshots = Snapshots::new(Arc::new(disk.clone()), &dir());
    let mut inbox = Inbox::default();
    for step in steps {
        inbox.perform(&snapshots, identity, SnapshotWrite { at, step });
    }
}

/// A log of its own with so many entries of term 2 behind the genesis, each durable by itself.
fn log_to(disk: &SimDisk, identity: &Identity, last: u64) {
    let made = create(Arc::new(disk.clone()), &dir(), identity, true, options());
    let mut wal = made.unwrap();
    for index in 2..=last {
        wal.append_entry(index, 2, &[index as u8; 100]).unwrap();
        wal.commit().unwrap();
    }
}

/// A leader whom nobody followed has entries that another one's snapshot does not continue with.
#[test]
fn a_log_of_another_history_does_not_follow_a_received_snapshot() {
    for term in [1, 3] {
        let (disk, identity) = (SimDisk::new(64 << 20), identity());
        log_to(&disk, &identity, 9);
        receive(&disk, &identity, (5, term));
        for _ in 0..2 {
            let found = recovered(&disk).unwrap().recovered;
            let snapshot = found.snapshot.map(|(at, _)| (at.index.0, at.term.0));
            assert_eq!((snapshot, found.entries.len()), (Some((5, term)), 0));
        }
    }
    let (disk, identity) = (SimDisk::new(64 << 20), identity());
    log_to(&disk, &identity, 9);
    receive(&disk, &identity, (5, 2));
    let found = recovered(&disk).unwrap().recovered;
    let kept: Vec<u64> = found.entries.iter().map(|entry| entry.index).collect();
    assert_eq!(kept, [6, 7, 8, 9]);
}

/// The first batch after a cut replaces the tail by which it was found.
#[test]
fn a_cut_is_not_forgotten_with_the_marker_of_a_snapshot() {
    let (disk, identity) = (SimDisk::new(64 << 20), identity());
    log_to(&disk, &identity, 9);
    let log = log_dir(&dir());
    let segment = log.join(disk.file_names(&log).into_iter().min().unwrap());
    disk.damage(&segment, |bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end - 60] ^= 0xFF;
    });
    receive(&disk, &identity, (12, 3));
    let state = |found: &crate::control::Recovered| {
        let state = found.hard_state.as_deref().map(HardState::decode);
        state.is_some_and(|state| state.unwrap().cut)
    };
    let first = recovered(&disk).unwrap().recovered;
    assert!(first.cut && state(&first));
    let second = recovered(&disk).unwrap().recovered;
    assert!(state(&second) && second.entries.is_empty());
}
