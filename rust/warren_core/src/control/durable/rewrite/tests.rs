use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;

use super::super::{Found, append, create};
use super::*;
use crate::control::{BackupJob, CallId};
use crate::fsm::{FEATURE_LEVEL_MAX, StateHash};
use crate::ids::NodeId;
use crate::pb::command::Body;
use crate::raft::Persist;
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::random::Random;

const OPTIONS: wal::Options = wal::Options {
    segment_bytes: 64 << 10,
    spare_segments_max: 2,
};
const NODE: NodeId = NodeId([5; 16]);

fn dir() -> PathBuf {
    PathBuf::from("/raft")
}

fn file() -> PathBuf {
    PathBuf::from("/tmp/backup")
}

fn config() -> Config {
    Config {
        node: NODE,
        node_name: "five".into(),
        advertise_addr: "five:2377".into(),
        log_dir: "the log".into(),
        seed: [3; 32],
        address: "five:2378".into(),
        feature_level_max: FEATURE_LEVEL_MAX,
        snapshot_bytes: u64::MAX,
        stopwatch: || None,
    }
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId([7; 16]),
        epoch: 1,
        member: MemberId(5),
        data_dir: [9; 16],
    }
}

fn member(id: u64) -> pb::Member {
    pb::Member {
        id,
        data_dir: vec![id as u8 + 4; 16],
        node_id: vec![id as u8; 16],
        address: format!("host-{id}:2378"),
        voter: true,
        feature_level_max: FEATURE_LEVEL_MAX,
        ..Default::default()
    }
}

fn command(number: u64, body: Body) -> Vec<u8> {
    let command = pb::Command {
        level: 1,
        time_ms: 1_000 + number,
        entropy: vec![number as u8; 12],
        identity: "local".into(),
        body: Some(body),
        request: Some(pb::RequestId {
            client: vec![1; 16],
            sequence: number,
            digest: vec![2; 32],
        }),
    };
    [vec![0], command.encode_to_vec()].concat()
}

fn service(name: &str) -> Body {
    Body::CreateService(pb::CreateService {
        spec: Some(pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            container: Some(pb::ContainerSpec {
                image: "docker.io/library/app:latest".into(),
                image_digest: format!("sha256:{}", "a".repeat(64)),
                ..Default::default()
            }),
            ..Default::default()
        }),
    })
}

/// The commands of a cluster of three, the last of which creates a service.
fn commands() -> Vec<Vec<u8>> {
    let create = pb::CreateCluster {
        cluster_id: vec![7; 16],
        epoch: 1,
        founder: Some(member(5)),
    };
    let put = |id| {
        let member = Some(member(id));
        Body::PutMember(pb::PutMember { member })
    };
    let bodies = [
        Body::CreateCluster(create),
        put(6),
        put(8),
        service("web"),
        service("last"),
    ];
    let numbered = (1..).zip(bodies);
    numbered
        .map(|(number, body)| command(number, body))
        .collect()
}

fn entries(first: u64, term: u64, payloads: Vec<Vec<u8>>) -> Vec<LogEntry> {
    let numbered = (first..).zip(payloads);
    numbered
        .map(|(index, payload)| LogEntry {
            index,
            term,
            payload: payload.into(),
        })
        .collect()
}

/// A member's disk; nothing of what is in its log is known to be committed.
fn three_members() -> SimDisk {
    let disk = SimDisk::new(64 << 20);
    let made = create(Arc::new(disk.clone()), &dir(), &identity(), true, OPTIONS);
    let mut wal = made.unwrap();
    let hard_state = HardState {
        term: 4,
        commit: 1,
        ..HardState::default()
    };
    let mut persist = Persist {
        number: 1,
        install: None,
        hard_state: Some(hard_state.encode()),
        entries: entries(2, 3, commands()),
    };
    append(&mut wal, &mut persist).unwrap();
    wal.commit().unwrap();
    disk
}

fn opened(disk: &SimDisk) -> Option<Found> {
    recover(Arc::new(disk.clone()), &dir(), OPTIONS).unwrap()
}

/// What a member that wakes up on this disk comes to, and whether it can go on writing.
fn outcome(disk: &SimDisk) -> Option<(Identity, State, Vec<u64>)> {
    let Found {
        mut wal, recovered, ..
    } = opened(disk)?;
    let (owner, conf) = (
        recovered.identity,
        recovered.snapshot.clone().expect("a snapshot").1,
    );
    let (state, last) = apply_all(recovered, &config()).unwrap();
    assert_eq!(state.hash(), state.hash_from_scratch());
    let mut next = Persist {
        number: 1,
        install: None,
        hard_state: None,
        entries: entries(last.index.0 + 1, last.term.0, vec![vec![0]]),
    };
    append(&mut wal, &mut next).unwrap();
    wal.commit().unwrap();
    drop(wal);
    let again = opened(disk).unwrap().recovered;
    let index = again.entries.last().expect("it was written").index;
    assert_eq!(index, last.index.0 + 1);
    Some((owner, state, conf.voters))
}

fn recovered(disk: &SimDisk) -> Result<pb::RecoverQuorumResponse, Error> {
    let done = recover_quorum(Arc::new(disk.clone()), &dir(), OPTIONS, &config());
    done.map(|(report, found)| {
        check_found(disk, found);
        report
    })
}

fn restored(disk: &SimDisk) -> Result<pb::RestoreClusterResponse, Error> {
    restored_as(disk, wanted(&file()))
}

fn wanted(file: &Path) -> Wanted<'_> {
    Wanted {
        file,
        epoch_min: 0,
        cluster: None,
    }
}

fn restored_as(disk: &SimDisk, wanted: Wanted<'_>) -> Result<pb::RestoreClusterResponse, Error> {
    let done = restore(Arc::new(disk.clone()), &dir(), OPTIONS, &config(), wanted);
    done.map(|(report, found)| {
        check_found(disk, found);
        report
    })
}

/// What it goes on with is what the next one will find.
fn check_found(disk: &SimDisk, found: Found) {
    drop(found.wal);
    let again = opened(disk).expect("a log").recovered;
    let said = found.recovered;
    assert_eq!(said.identity, again.identity);
    assert_eq!(said.snapshot, again.snapshot);
    assert_eq!(said.state.hash(), again.state.hash());
    assert_eq!(said.state.index(), again.state.index());
    assert!(again.entries.is_empty());
}

fn names(state: &State) -> Vec<&str> {
    state.services().map(|service| &*service.name).collect()
}

#[test]
fn a_survivor_goes_on_alone_with_everything_in_its_log() {
    let disk = three_members();
    let report = recovered(&disk).unwrap();
    assert_eq!((report.epoch, report.member_id), (2, 5));
    assert_eq!((report.last_index, report.last_term), (6, 3));
    assert_eq!(report.commit_index, 1);
    let gone: Vec<u64> = report.removed.iter().map(|member| member.id).collect();
    assert_eq!(gone, [6, 8]);
    let (owner, state, voters) = outcome(&disk).unwrap();
    assert_eq!(
        owner,
        Identity {
            epoch: 2,
            ..identity()
        }
    );
    assert_eq!(voters, [5]);
    assert_eq!(names(&state), ["last", "web"]);
    assert_eq!((state.index(), state.term()), (Index(7), Term(5)));
    assert_eq!(state.cluster().unwrap().epoch, 2);
    let members: Vec<u64> = state.members().map(|member| member.id.0).collect();
    assert_eq!(members, [5]);
    assert!(state.is_removed(MemberId(6)) && state.is_removed(MemberId(8)));
    // What was answered is still known: a repetition is not applied a second time.
    assert!(state.request(&[1; 16], 5).is_some());
}

#[test]
fn killed_anywhere_a_recovery_has_happened_or_not() {
    let disk = three_members();
    disk.record_crash_points();
    recovered(&disk).unwrap();
    let points = disk.take_crash_points();
    assert!(points.len() >= 20, "{} crash points", points.len());
    let mut seen = [0; 2];
    for (number, point) in points.iter().enumerate() {
        for fate in Fate::ALL {
            let after = point.fork();
            after.restart(fate, &mut Random::stream(7, "recovery", number as u64));
            let (owner, state, voters) = outcome(&after.fork()).expect("a log is there");
            let cluster = state.cluster().unwrap();
            assert_eq!(cluster.epoch, owner.epoch, "{number}, {fate:?}");
            assert_eq!(names(&state), ["last", "web"], "{number}, {fate:?}");
            let members = state.members().count();
            // Before the first change of members is applied, the founder is the only voter.
            assert_eq!(voters, [5]);
            assert_eq!(members, if owner.epoch == 1 { 3 } else { 1 });
            seen[owner.epoch as usize - 1] += 1;
            let report = recovered(&after).unwrap();
            assert_eq!(report.epoch, owner.epoch + 1);
            let (_, state, _) = outcome(&after).unwrap();
            assert_eq!(names(&state), ["last", "web"]);
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}

#[test]
fn a_directory_without_a_log_has_nothing_to_recover() {
    let disk = SimDisk::new(64 << 20);
    let refused = recovered(&disk).unwrap_err();
    assert_eq!(refused, Error::NotInCluster);
}

/// A backup of what [`three_members`] came to, and its hash.
fn backed_up(disk: &SimDisk) -> StateHash {
    disk.create_dir(&PathBuf::from("/tmp")).unwrap();
    let found = opened(&three_members()).unwrap();
    let (state, _) = apply_all(found.recovered, &config()).unwrap();
    let hash = state.hash();
    let job = BackupJob {
        id: CallId(1),
        file: file(),
        header: backup::header(&state, false),
        snapshot: snapshot::header(&state, ConfState::default().encode()),
        state,
    };
    let bytes = backup::write(disk, &file(), &job).unwrap();
    assert_eq!(bytes, disk.contents(&file()).len() as u64);
    disk.sync_dir(&PathBuf::from("/tmp")).unwrap();
    hash
}

#[test]
fn a_backup_becomes_a_cluster_of_one() {
    let disk = SimDisk::new(64 << 20);
    let hash = backed_up(&disk);
    let (header, state) = backup::read(&disk, &file()).unwrap();
    assert_eq!(state.hash(), hash);
    assert_eq!(header.state_hash, hash.to_bytes());
    assert_eq!(
        (header.services, header.nodes, header.containers),
        (2, 0, 0)
    );
    let report = restored(&disk).unwrap();
    assert_eq!(report.backup, Some(header));
    let (owner, state, voters) = outcome(&disk).unwrap();
    assert_eq!((owner.cluster, owner.epoch), (ClusterId([7; 16]), 2));
    assert_eq!(voters, [owner.member.0]);
    assert!(![5, 6, 8].contains(&owner.member.0));
    assert!([5, 6, 8].iter().all(|id| state.is_removed(MemberId(*id))));
    assert_eq!((state.index(), state.term()), (Index(7), Term(4)));
    assert_eq!(names(&state), ["last", "web"]);
    let node = state.node(NODE).expect("its node manages");
    assert!(node.manager);
    assert_eq!(node.name(), "five");
    assert!(state.request(&[1; 16], 5).is_some());
    // A second time there is a cluster.
    let refused = restored(&disk).unwrap_err();
    assert_eq!(refused.code(), "already_in_cluster");
}

#[test]
fn a_restore_can_ask_for_an_epoch_and_a_cluster() {
    let disk = SimDisk::new(64 << 20);
    backed_up(&disk);
    let (disk, other) = (disk.clone(), disk.fork());
    let file = file();
    let ninth = Wanted {
        epoch_min: 9,
        cluster: Some(ClusterId([7; 16])),
        ..wanted(&file)
    };
    assert_eq!(restored_as(&disk, ninth).unwrap().epoch, 9);
    assert_eq!(outcome(&disk).unwrap().0.epoch, 9);
    // And for the cluster that it is to be of.
    let cluster = Some(ClusterId([8; 16]));
    let refused = restored_as(&other, Wanted { cluster, ..ninth }).unwrap_err();
    assert_eq!(refused.code(), "already_in_cluster");
    assert!(opened(&other).is_none());
}

#[test]
fn killed_anywhere_a_restore_has_happened_or_not() {
    let disk = SimDisk::new(64 << 20);
    backed_up(&disk);
    disk.record_crash_points();
    restored(&disk).unwrap();
    let mut seen = [0; 2];
    for (number, point) in disk.take_crash_points().iter().enumerate() {
        for fate in Fate::ALL {
            let after = point.fork();
            after.restart(fate, &mut Random::stream(8, "restore", number as u64));
            let found = outcome(&after.fork());
            seen[usize::from(found.is_some())] += 1;
            if let Some((owner, state, _)) = found {
                assert_eq!((owner.epoch, names(&state)), (2, vec!["last", "web"]));
                continue;
            }
            // It can be done again, or something else be begun here instead.
            let other = after.fork();
            restored(&after).unwrap();
            assert_eq!(names(&outcome(&after).unwrap().1), ["last", "web"]);
            let shared = Arc::new(other.clone());
            create(shared, &dir(), &identity(), true, OPTIONS).unwrap();
            let (owner, state, _) = outcome(&other).unwrap();
            assert_eq!((owner, state.cluster()), (identity(), None));
        }
    }
    assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
}

#[test]
fn a_backup_that_is_not_whole_is_refused_and_nothing_changes() {
    let disk = SimDisk::new(64 << 20);
    backed_up(&disk);
    let check = |at: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let bad = disk.fork();
        bad.damage(&file(), change);
        let refused = restored(&bad).expect_err("it is damaged");
        assert_eq!(refused.code(), "backup_unusable", "{at}: {refused}");
        assert!(opened(&bad).is_none());
    };
    for at in 0..disk.contents(&file()).len() {
        check(at, &|bytes| bytes[at] ^= 0x20);
        check(at, &|bytes| bytes.truncate(at));
    }
}

#[test]
fn a_backup_that_finds_no_room_leaves_nothing() {
    let disk = SimDisk::new(64 << 20);
    backed_up(&disk);
    let (header, state) = backup::read(&disk, &file()).unwrap();
    let job = BackupJob {
        id: CallId(1),
        file: PathBuf::from("/tmp/second"),
        header,
        snapshot: snapshot::header(&state, ConfState::default().encode()),
        state,
    };
    disk.set_free_bytes(10);
    let refused = backup::write(&disk, &job.file, &job).unwrap_err();
    assert_eq!(refused.code(), "no_space", "{refused}");
    assert_eq!(disk.file_names(&PathBuf::from("/tmp")), ["backup"]);
    // One that is there is not touched.
    let second = BackupJob {
        file: file(),
        ..job
    };
    assert_eq!(
        backup::write(&disk, &file(), &second).unwrap_err().code(),
        "data_dir"
    );
    backup::read(&disk, &file()).unwrap();
}
