//! Writes that come to a member that does not lead.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use warren_core::control::forwarding::FORWARDS_MAX;
use warren_core::control::peer::frame::Kind;
use warren_core::error::Error;
use warren_core::pb;

/// A cluster of three, who leads, and another.
fn three() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.settle(&[1, 2, 3]);
    let other = (1..=3).find(|n| *n != leader).unwrap();
    (cluster, leader, other)
}

fn anonymous(name: &str) -> pb::CreateServiceRequest {
    pb::CreateServiceRequest {
        request: None,
        ..create(name, 1)
    }
}

fn removal(cluster: &Cluster, number: u64, name: &str) -> pb::RemoveServiceRequest {
    let service = cluster.state(number).service_by_name(name).unwrap();
    pb::RemoveServiceRequest {
        service_id: service.id.to_vec(),
        request: None,
    }
}

#[test]
fn a_follower_passes_writes_on() {
    let (mut cluster, leader, other) = three();
    cluster
        .call(other, "CreateService", &create("web", 1))
        .unwrap();
    assert_eq!(cluster.state(leader).service_count(), 1);
    let again = cluster.call(other, "CreateService", &anonymous("web"));
    assert_eq!(again.unwrap_err().code(), "name_taken");
    let stats = cluster.status(other).forwards;
    assert_eq!((stats.answered, stats.refused, stats.waiting), (1, 1, 0));
    assert_eq!(cluster.status(leader).forwards.taken, 0);
}

#[test]
fn a_request_that_arrives_twice_is_taken_up_once() {
    let (mut cluster, leader, other) = three();
    let forward = pb::PeerForward {
        token: 7,
        identity: "local".into(),
        method: "CreateService".into(),
        body: prost::Message::encode_to_vec(&anonymous("web")),
        left_ms: 1_000,
    };
    let frame = cluster.frame(other, leader, Kind::Forward, &forward);
    cluster.inject(leader, frame.clone());
    cluster.until("it is there", 1_000, |cluster| {
        cluster.state(leader).service_count() == 1
    });
    let remove = removal(&cluster, leader, "web");
    cluster.call(leader, "RemoveService", &remove).unwrap();
    cluster.inject(leader, frame);
    cluster.run(500);
    assert_eq!(cluster.state(leader).service_count(), 0);
}

#[test]
fn what_others_pass_on_may_be_no_more_than_a_write_of_people() {
    let (mut cluster, leader, other) = three();
    let mut log = Vec::new();
    for (identity, method) in [
        (
            "worker/00000000-0000-0000-0000-000000000001",
            "CreateService",
        ),
        ("local", "InitCluster"),
        ("local", "SessionMessage"),
        ("local", "ListServices"),
        ("local", "Nothing"),
    ] {
        let forward = pb::PeerForward {
            token: 1 + log.len() as u64,
            identity: identity.into(),
            method: method.into(),
            body: prost::Message::encode_to_vec(&anonymous("web")),
            left_ms: 1_000,
        };
        let frame = cluster.frame(other, leader, Kind::Forward, &forward);
        cluster.inject(leader, frame);
        cluster.run(100);
        log.push(cluster.status(leader).forwards.taken);
    }
    assert_eq!(log, [0; 5], "each is answered at once");
    assert_eq!(cluster.state(leader).service_count(), 0);
}

#[test]
fn who_waits_for_a_leader_that_is_gone_is_told_soon() {
    let (mut cluster, leader, other) = three();
    let began_ms = cluster.now_ms;
    cluster.kill(leader);
    let call = cluster.start_call(other, "CreateService", &create("web", 1));
    let answer = cluster.finish(other, call);
    assert_eq!(answer, Err(Error::OutcomeUnknown));
    assert!(
        cluster.now_ms - began_ms < 3_000,
        "long before its deadline"
    );
    // Its request id makes it safe to repeat.
    cluster
        .call(other, "CreateService", &create("web", 1))
        .unwrap();
    assert_eq!(cluster.status(other).forwards.waiting, 0);
}

#[test]
fn what_waits_for_the_leader_is_bounded() {
    let (mut cluster, leader, other) = three();
    cluster.partition(&[leader], &[other]);
    let full = FORWARDS_MAX as u64;
    for sequence in 1..=full {
        cluster.start_call(other, "CreateService", &create("web", sequence));
    }
    assert_eq!(cluster.status(other).forwards.waiting, FORWARDS_MAX);
    let call = cluster.start_call(other, "CreateService", &create("web", full + 1));
    let refused = cluster.finish(other, call).unwrap_err();
    assert_eq!(refused.code(), "overloaded");
}

#[test]
fn of_a_release_that_takes_none_the_leader_is_named() {
    let (mut cluster, leader, other) = three();
    let hello = pb::PeerHello {
        format_min: 1,
        format_max: 1,
        feature_level_max: 1,
        address: cluster::address(leader),
        answer: true,
        ..pb::PeerHello::default()
    };
    let frame = cluster.frame(leader, other, Kind::Hello, &hello);
    cluster.inject(other, frame);
    let refused = cluster.call(other, "CreateService", &create("web", 1));
    let leads = Error::NotLeader {
        leader: cluster.member(leader).0,
        address: cluster::address(leader),
    };
    assert_eq!(refused, Err(leads));
}

/// The first copy of a request may still be on its way when a second one has been answered.
#[test]
fn a_late_copy_of_a_refused_request_is_refused_too() {
    let (mut cluster, leader, other) = three();
    cluster
        .call(leader, "CreateService", &create("web", 1))
        .unwrap();
    let refused = cluster.call(leader, "CreateService", &create("web", 2));
    assert_eq!(refused.unwrap_err().code(), "name_taken");
    let remove = removal(&cluster, leader, "web");
    cluster.call(leader, "RemoveService", &remove).unwrap();
    cluster.until("the name is free", 1_000, |cluster| {
        cluster.state(leader).service_by_name("web").is_none()
    });
    let late = cluster.call(other, "CreateService", &create("web", 2));
    assert_eq!(late.unwrap_err().code(), "name_taken");
    cluster
        .call(other, "CreateService", &create("web", 3))
        .unwrap();
}
