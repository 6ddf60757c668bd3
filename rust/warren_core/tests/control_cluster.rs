//! Clusters of the control plane as pure machines, over real files and a network in memory.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use prost::Message;
use warren_core::control::Input;
use warren_core::error::Error;
use warren_core::pb;

/// A service without replicas: any number of them fits.
fn create(name: &str, sequence: u64) -> pb::CreateServiceRequest {
    pb::CreateServiceRequest {
        request: Some(pb::RequestId {
            client: vec![7; 16],
            sequence,
            digest: Vec::new(),
        }),
        spec: Some(pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            container: Some(pb::ContainerSpec {
                image: "app".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

fn names(answer: Vec<u8>) -> Vec<String> {
    let listed = pb::ListServicesResponse::decode(answer.as_slice()).unwrap();
    let name = |view: pb::ServiceView| view.service.unwrap().spec.unwrap().name;
    listed.services.into_iter().map(name).collect()
}

fn list() -> pb::ListServicesRequest {
    pb::ListServicesRequest::default()
}

#[test]
fn three_members_replicate_and_elect() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster
        .call(leader, "CreateService", &create("web", 1))
        .unwrap();
    cluster.settle(&[1, 2, 3]);
    cluster.assert_alike(&[1, 2, 3]);
    for number in 1..=3 {
        let answer = cluster.call(number, "ListServices", &list()).unwrap();
        assert_eq!(names(answer), ["web"], "read at {number}");
    }
    cluster.kill(leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    cluster
        .call(next, "CreateService", &create("db", 2))
        .unwrap();
    cluster.start(leader);
    cluster.settle(&[1, 2, 3]);
    cluster.assert_alike(&[1, 2, 3]);
    assert_eq!(cluster.state(leader).service_count(), 2);
}

#[test]
fn a_follower_says_who_leads() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let other = (1..=3).find(|n| *n != leader).unwrap();
    let refused = cluster.call(other, "CreateService", &create("web", 1));
    let leads = Error::NotLeader {
        leader: cluster.member(leader).0,
        address: cluster::address(leader),
    };
    assert_eq!(refused, Err(leads));
}

#[test]
fn without_a_quorum_reads_fail_and_name_stale() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster
        .call(leader, "CreateService", &create("web", 1))
        .unwrap();
    cluster.settle(&[1, 2, 3]);
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    cluster.partition(&[leader], &others);
    let began_ms = cluster.now_ms;
    let refused = cluster.call(leader, "ListServices", &list()).unwrap_err();
    assert_eq!(refused, Error::NoQuorum);
    assert!(refused.to_string().contains("--stale"));
    assert!(cluster.now_ms - began_ms <= 1_000, "it fails at once");
    let stale = warren_core::control::Consistency::Stale;
    let id = cluster.start_call_as(leader, "ListServices", &list(), stale);
    assert_eq!(names(cluster.finish(leader, id).unwrap()), ["web"]);
}

#[test]
fn a_read_at_a_follower_sees_what_was_acknowledged() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let follower = (1..=3).find(|n| *n != leader).unwrap();
    for n in 0..20 {
        let name = format!("service-{n:02}");
        cluster
            .call(leader, "CreateService", &create(&name, n + 1))
            .unwrap();
        let seen = names(cluster.call(follower, "ListServices", &list()).unwrap());
        assert!(seen.contains(&name), "{name} in {seen:?}");
    }
}

#[test]
fn a_joiner_gets_a_snapshot_and_votes() {
    let mut cluster = Cluster::founded(2);
    for n in 0..300 {
        let name = format!("service-{n}");
        cluster
            .call(1, "CreateService", &create(&name, n + 1))
            .unwrap();
    }
    cluster.join(2);
    cluster.until("it votes", 5_000, |cluster| {
        cluster.status(1).voters == 2 && !cluster.status(1).is_joint
    });
    cluster.settle(&[1, 2]);
    cluster.assert_alike(&[1, 2]);
    assert!(cluster.status(2).transfers.received_bytes > 0);
    // What it has is on its disk.
    cluster.kill(2);
    cluster.start(2);
    cluster.settle(&[1, 2]);
    cluster.assert_alike(&[1, 2]);
}

#[test]
fn a_removed_member_stops_and_is_told() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let gone = (1..=3).find(|n| *n != leader).unwrap();
    let request = pb::RemoveMemberRequest {
        request: None,
        member_id: cluster.member(gone).0,
    };
    cluster.call(leader, "RemoveMember", &request).unwrap();
    cluster.until("two vote", 5_000, |cluster| {
        let status = cluster.status(leader);
        status.voters == 2 && !status.is_joint
    });
    cluster.until("it stops", 10_000, |cluster| !cluster.is_up(gone));
    let why = cluster.hosts[&gone].stop.as_ref().unwrap().why.clone();
    assert!(why.contains("was removed"), "{why}");
    // A zombie of it disturbs nobody.
    let term = cluster.status(leader).term;
    cluster.start(gone);
    cluster.until("it stops again", 10_000, |cluster| !cluster.is_up(gone));
    assert_eq!(cluster.status(leader).term, term);
}

#[test]
fn removing_the_leader_hands_the_lead_over_first() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let request = pb::RemoveMemberRequest {
        request: None,
        member_id: cluster.member(leader).0,
    };
    let refused = cluster.call(leader, "RemoveMember", &request);
    assert_eq!(refused, Err(Error::HandingOver));
    cluster.until("another leads", 2_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
    let next = cluster.leader();
    cluster.call(next, "RemoveMember", &request).unwrap();
    cluster.until("it stops", 10_000, |cluster| !cluster.is_up(leader));
    let rest: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    cluster
        .call(next, "CreateService", &create("web", 1))
        .unwrap();
    cluster.settle(&rest);
    cluster.assert_alike(&rest);
}

#[test]
fn the_lead_is_transferred_on_request() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let next = (1..=3).find(|n| *n != leader).unwrap();
    let request = pb::TransferLeadershipRequest {
        member_id: cluster.member(next).0,
    };
    cluster
        .call(leader, "TransferLeadership", &request)
        .unwrap();
    cluster.until("it leads", 2_000, |cluster| cluster.leaders() == [next]);
}

#[test]
fn a_leader_whose_event_loop_hangs_hands_the_lead_over() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.run(500);
    cluster.hosts.get_mut(&leader).unwrap().pulses = false;
    cluster.run(2_500);
    assert_eq!(cluster.leaders(), [leader]);
    cluster.run(1_500);
    assert_ne!(cluster.leader(), leader);
}

#[test]
fn a_leader_whose_disk_hangs_hands_the_lead_over() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.hosts.get_mut(&leader).unwrap().disk_stuck = true;
    // The others make a majority without it.
    cluster.start_call(leader, "CreateService", &create("web", 1));
    cluster.run(1_000);
    assert_eq!(cluster.leaders(), [leader]);
    cluster.until("another leads", 10_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
}

#[test]
fn a_leader_without_room_hands_the_lead_over() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.input(leader, Input::Space(false));
    cluster.until("another leads", 3_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
}

#[test]
fn a_daemon_that_ends_hands_the_lead_over() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let term = cluster.status(leader).term;
    cluster.input(leader, Input::Retire);
    cluster.until("it has", 1_000, |cluster| cluster.status(leader).retired);
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert_eq!(cluster.status(next).term.0, term.0 + 1, "without a pause");
}

#[test]
fn the_same_member_on_an_empty_disk_is_refused() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let victim = (1..=3).find(|n| *n != leader).unwrap();
    let identity = pb::AddMemberResponse {
        member_id: cluster.member(victim).0,
        cluster_id: cluster.state(leader).cluster().unwrap().id.to_vec(),
        epoch: 1,
    };
    cluster.wipe(victim);
    // Another directory has another UUID.
    let elsewhere = 9;
    cluster.add_host(elsewhere);
    cluster.hosts.remove(&victim);
    cluster.start_joiner(elsewhere, &identity);
    cluster.run(2_000);
    assert_eq!(cluster.status(elsewhere).last_index.0, 0);
    let refused = cluster.status(leader).peers.refusals;
    let wrong = refused
        .iter()
        .find(|(why, _)| why.name() == "wrong_data_dir");
    assert!(wrong.unwrap().1 > 0, "{refused:?}");
}

#[test]
fn a_lagging_member_is_brought_up_by_a_snapshot() {
    let mut cluster = Cluster::of(3);
    for host in cluster.hosts.values_mut() {
        host.snapshot_bytes = 20_000;
    }
    for number in 1..=3 {
        cluster.kill(number);
        cluster.start(number);
    }
    let leader = cluster.leader();
    let behind = (1..=3).find(|n| *n != leader).unwrap();
    cluster.kill(behind);
    let leader = cluster.leader();
    for n in 0..400 {
        let name = format!("service-{n}");
        cluster
            .call(leader, "CreateService", &create(&name, n + 1))
            .unwrap();
    }
    cluster.start(behind);
    cluster.settle(&[1, 2, 3]);
    cluster.assert_alike(&[1, 2, 3]);
}
