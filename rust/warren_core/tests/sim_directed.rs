//! Planted faults that random worlds hardly find, each in a scenario made for it.
#![cfg(feature = "sim")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use prost::Message;
use warren_core::control::Input;
use warren_core::control::peer::frame::{self, Kind};
use warren_core::error::Error;
use warren_core::mutant::{self, Mutant};
use warren_core::pb;

/// How many services a leader lists that was paused while the next one took up a write.
fn listed_after_a_pause() -> usize {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let list = pb::ListServicesRequest {};
    cluster.call(leader, "ListServices", &list).unwrap();
    cluster.hosts.get_mut(&leader).unwrap().paused = true;
    cluster.until("another leads", 5_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
    let leaders = cluster.leaders();
    let next = leaders.into_iter().find(|n| *n != leader).unwrap();
    let created = cluster.call(next, "CreateService", &create("web", 1));
    created.unwrap();
    cluster.hosts.get_mut(&leader).unwrap().paused = false;
    let call = cluster.start_call(leader, "ListServices", &list);
    let answer = cluster.finish(leader, call).unwrap();
    let listed = pb::ListServicesResponse::decode(answer.as_slice()).unwrap();
    listed.services.len()
}

#[test]
fn a_lease_by_the_wall_clock_is_found() {
    assert_eq!(listed_after_a_pause(), 1);
    mutant::set(Some(Mutant::LeaseByWallClock));
    assert_eq!(listed_after_a_pause(), 0);
    mutant::set(None);
}

#[test]
fn writing_without_space_is_found() {
    let write = || {
        let mut cluster = Cluster::of(1);
        let leader = cluster.leader();
        cluster.input(leader, Input::Space(false));
        cluster.call(leader, "CreateService", &create("web", 1))
    };
    assert!(matches!(write(), Err(Error::NoSpace { .. })));
    mutant::set(Some(Mutant::WritesWithoutSpace));
    assert!(write().is_ok());
    mutant::set(None);
}

#[test]
fn a_read_that_hangs_is_found() {
    let answered = || {
        let mut cluster = Cluster::of(3);
        let leader = cluster.leader();
        let follower = (1..=3).find(|n| *n != leader).unwrap();
        // The leader is never asked.
        cluster.filter =
            |bytes| frame::decode(bytes).is_ok_and(|(header, _)| header.kind != Kind::ReadAsk);
        let list = pb::ListServicesRequest {};
        let call = cluster.start_call(follower, "ListServices", &list);
        cluster.run(10_000);
        cluster.answer(follower, call).cloned()
    };
    assert_eq!(answered(), Some(Err(Error::NoQuorum)));
    mutant::set(Some(Mutant::ReadsNeverExpire));
    assert_eq!(answered(), None);
    mutant::set(None);
}

/// Whether a member's identity on an empty disk votes: it does not know for whom it has already.
fn an_empty_disk_votes() -> bool {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let victim = (1..=3).find(|n| *n != leader).unwrap();
    let identity = pb::AddMemberResponse {
        member_id: cluster.member(victim).0,
        cluster_id: cluster.state(leader).cluster().unwrap().id.to_vec(),
        epoch: 1,
        ..Default::default()
    };
    cluster.wipe(victim);
    let elsewhere = 9;
    cluster.add_host(elsewhere);
    cluster.hosts.remove(&victim);
    cluster.start_joiner(elsewhere, &identity);
    cluster.run(1_000);
    cluster.kill(leader);
    cluster.run(5_000);
    !cluster.leaders().is_empty()
}

#[test]
fn an_identity_on_another_disk_is_found() {
    assert!(!an_empty_disk_votes());
    mutant::set(Some(Mutant::AcceptsAnotherDataDir));
    assert!(an_empty_disk_votes());
    mutant::set(None);
}

/// Whether a leader takes up its own removal without handing the lead over first.
fn a_leader_removes_itself() -> bool {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let request = pb::RemoveMemberRequest {
        member_id: cluster.member(leader).0,
        ..Default::default()
    };
    let call = cluster.start_call(leader, "RemoveMember", &request);
    let refused = cluster.finish(leader, call).err();
    refused != Some(Error::HandingOver)
}

#[test]
fn a_leader_that_removes_itself_is_found() {
    assert!(!a_leader_removes_itself());
    mutant::set(Some(Mutant::RemovesItselfWhileLeading));
    assert!(a_leader_removes_itself());
    mutant::set(None);
}

#[test]
fn states_that_are_not_compared_are_found() {
    let goes_on = || {
        let mut cluster = Cluster::of(3);
        let leader = cluster.leader();
        for n in 0..300 {
            let request = create(&format!("service-{n}"), n + 1);
            cluster.call(leader, "CreateService", &request).unwrap();
        }
        cluster.run(500);
        let victim = (1..=3).find(|n| *n != leader).unwrap();
        for other in (1..=3).filter(|n| *n != victim) {
            let bytes = cluster.contradiction(other, victim, 256);
            cluster.inject(victim, bytes);
        }
        cluster.is_up(victim)
    };
    assert!(!goes_on());
    mutant::set(Some(Mutant::ExchangesNoHashes));
    assert!(goes_on());
    mutant::set(None);
}
