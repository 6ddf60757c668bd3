//! Clusters that lost their quorum, and clusters out of backups.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use prost::Message;
use warren_core::control::Consistency;
use warren_core::control::durable::backup;
use warren_core::control::peer::frame::{self, Kind};
use warren_core::error::Error;
use warren_core::pb;
use warren_core::wal::ReadOnlyDisk;

/// Three members with `count` acknowledged services.
fn with_services(count: u64) -> Cluster {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    for n in 0..count {
        let request = create(&format!("service-{n}"), n + 1);
        cluster.call(leader, "CreateService", &request).unwrap();
    }
    cluster
}

fn judge(cluster: &mut Cluster, number: u64, force: bool) -> Result<Vec<u8>, Error> {
    let request = pb::RecoverQuorumRequest {
        force,
        dry_run: true,
    };
    cluster.call(number, "JudgeRecovery", &request)
}

fn names(cluster: &Cluster, number: u64) -> Vec<String> {
    let services = cluster.state(number).services();
    let mut names: Vec<String> = services.map(|service| service.name.to_string()).collect();
    names.sort_unstable();
    names
}

fn services(numbers: impl Iterator<Item = u64>) -> Vec<String> {
    let mut names: Vec<String> = numbers.map(|n| format!("service-{n}")).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_lost_quorum_is_recovered_and_nothing_acknowledged_is_lost() {
    let mut cluster = with_services(50);
    cluster.settle(&[1, 2, 3]);
    let leader = cluster.leader();
    let survivor = (1..=3).find(|n| *n != leader).unwrap();
    let lost: Vec<u64> = (1..=3).filter(|n| *n != survivor).collect();
    lost.iter().for_each(|n| cluster.kill(*n));
    cluster.until("the loss is noticed", 10_000, |cluster| {
        cluster.status(survivor).leader.is_none()
    });
    cluster.run(2_000);
    let refused = cluster.call(survivor, "CreateService", &create("no", 90));
    assert_eq!(refused.unwrap_err().code(), "no_quorum");
    let told = judge(&mut cluster, survivor, false).unwrap();
    let told = pb::RecoverQuorumResponse::decode(told.as_slice()).unwrap();
    assert_eq!((told.epoch, told.removed.len()), (1, 2));
    let report = cluster.recover_quorum(survivor);
    assert_eq!((report.epoch, report.last_index), (2, told.last_index));
    cluster.until("it leads", 5_000, |cluster| {
        cluster.status(survivor).serving
    });
    assert_eq!(names(&cluster, survivor), services(0..50));
    // A request that was answered before is answered the same, not applied again.
    let again = cluster.call(survivor, "CreateService", &create("service-49", 50));
    again.unwrap();
    cluster.open_session(survivor);
    cluster
        .call(survivor, "CreateService", &create("service-50", 51))
        .unwrap();
    assert_eq!(names(&cluster, survivor), services(0..51));
    let hash = cluster.state(survivor).hash();
    assert_eq!(hash, cluster.state(survivor).hash_from_scratch());
}

#[test]
fn the_lost_come_back_to_nothing() {
    let mut cluster = with_services(5);
    cluster.settle(&[1, 2, 3]);
    cluster.kill(2);
    cluster.kill(3);
    cluster.run(3_000);
    cluster.recover_quorum(1);
    cluster.until("it leads", 5_000, |cluster| cluster.status(1).serving);
    cluster.open_session(1);
    let term = cluster.status(1).term;
    // Together they are a majority of the old epoch: they must not serve it.
    cluster.start(2);
    cluster.start(3);
    cluster.until("they stop", 10_000, |cluster| {
        !cluster.is_up(2) && !cluster.is_up(3)
    });
    for number in [2, 3] {
        let why = &cluster.hosts[&number].stop.as_ref().unwrap().why;
        assert!(why.contains("went on without this manager"), "{why}");
        assert!(why.contains("warrenctl node promote"), "{why}");
        assert!(cluster.hosts[&number].stop.as_ref().unwrap().removed);
    }
    assert!(
        cluster.hosts[&1]
            .log
            .iter()
            .any(|line| line.contains("is of epoch 1, this one of 2"))
    );
    assert_eq!(cluster.status(1).term, term);
    cluster
        .call(1, "CreateService", &create("after", 70))
        .unwrap();
    // Anew, under another identity, one of them takes part again.
    cluster.wipe(2);
    cluster.hosts.remove(&2);
    cluster.add_host(9);
    cluster.join(9);
    cluster.until("two vote", 10_000, |cluster| cluster.status(1).voters == 2);
    cluster.settle(&[1, 9]);
    cluster.assert_alike(&[1, 9]);
}

#[test]
fn what_is_not_lost_is_not_recovered() {
    let mut cluster = with_services(1);
    let leader = cluster.leader();
    for number in 1..=3 {
        let refused = judge(&mut cluster, number, false).unwrap_err();
        assert_eq!(refused.code(), "invalid");
        assert!(refused.to_string().contains("leads"), "{refused}");
        judge(&mut cluster, number, true).unwrap();
    }
    // The others have just heard of each other, and no election comes through.
    cluster.kill(leader);
    cluster.filter = |bytes| frame::decode(bytes).unwrap().0.kind != Kind::Raft;
    let other = (1..=3).find(|n| *n != leader).unwrap();
    cluster.until("the leader is missed", 5_000, |cluster| {
        cluster.status(other).leader.is_none()
    });
    let refused = judge(&mut cluster, other, false).unwrap_err();
    assert!(
        refused.to_string().contains("heard of just now"),
        "{refused}"
    );
}

#[test]
fn any_member_backs_up_what_was_acknowledged() {
    let mut cluster = with_services(20);
    let leader = cluster.leader();
    for number in 1..=3 {
        let file = cluster.root().join(format!("backup-{number}"));
        let id = cluster.start_backup(number, &file, Consistency::Linearizable);
        let header = cluster.finish(number, id).unwrap();
        let header = pb::BackupHeader::decode(header.as_slice()).unwrap();
        let (read, state) = backup::read(&ReadOnlyDisk, &file).unwrap();
        assert_eq!((&read, header.services), (&header, 20));
        assert_eq!(state.hash().to_bytes()[..], header.state_hash);
        assert!(!header.stale);
    }
    // Where there is no quorum only that member's own state can be had.
    let follower = (1..=3).find(|n| *n != leader).unwrap();
    for number in (1..=3).filter(|n| *n != follower) {
        cluster.kill(number);
    }
    cluster.run(3_000);
    let file = cluster.root().join("stale");
    let id = cluster.start_backup(follower, &file, Consistency::Linearizable);
    assert_eq!(
        cluster.finish(follower, id).unwrap_err().code(),
        "no_quorum"
    );
    let id = cluster.start_backup(follower, &file, Consistency::Stale);
    cluster.finish(follower, id).unwrap();
    assert!(backup::read(&ReadOnlyDisk, &file).unwrap().0.stale);
}

#[test]
fn a_backup_restored_elsewhere_serves_and_grows() {
    let mut cluster = with_services(10);
    let file = cluster.root().join("backup");
    let id = cluster.start_backup(1, &file, Consistency::Linearizable);
    cluster.finish(1, id).unwrap();
    (1..=3).for_each(|number| cluster.kill(number));
    cluster.add_host(7);
    let report = cluster.restore(7, &file);
    assert_eq!(report.epoch, 2);
    cluster.until("it leads", 5_000, |cluster| cluster.status(7).serving);
    assert_eq!(names(&cluster, 7), services(0..10));
    cluster.open_session(7);
    cluster
        .call(7, "CreateService", &create("service-10", 40))
        .unwrap();
    cluster.add_host(8);
    cluster.join(8);
    cluster.until("two vote", 10_000, |cluster| cluster.status(7).voters == 2);
    cluster.settle(&[7, 8]);
    cluster.assert_alike(&[7, 8]);
    assert_eq!(names(&cluster, 8), services(0..11));
}
