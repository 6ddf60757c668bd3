//! Clusters of the control plane as pure machines, over real files and a network in memory.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use prost::Message;
use warren_core::control::Input;
use warren_core::control::peer::frame::{self, Kind};
use warren_core::error::Error;
use warren_core::fsm::FEATURE_LEVEL_MAX;
use warren_core::pb;
use warren_core::raft::TICK_MS;

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
    assert_eq!(refused, Error::NoLeader, "they might elect another");
    assert!(cluster.now_ms - began_ms <= 1_000, "it fails at once");
    cluster.run(2_000);
    let refused = cluster.call(leader, "ListServices", &list()).unwrap_err();
    assert!(matches!(refused, Error::QuorumLost { .. }), "{refused:?}");
    assert!(refused.to_string().contains("--stale"));
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

/// Until its first entry is committed a leader refuses to say from where on reads are answered, and is
/// not asked as fast as it refuses.
#[test]
fn a_leader_that_cannot_answer_yet_is_asked_with_each_tick() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.kill(leader);
    cluster.filter = |bytes| {
        let (header, body) = frame::decode(bytes).expect("a member sent it");
        let raft = (header.kind == Kind::Raft).then(|| pb::RaftMessage::decode(body).unwrap());
        raft.is_none_or(|message| message.r#type() != pb::RaftMessageType::AppendResponse)
    };
    let next = |cluster: &Cluster| (1..=3).find(|n| *n != leader && cluster.status(*n).is_leader);
    cluster.until("another is elected", 5_000, |cluster| {
        next(cluster).is_some()
    });
    let next = next(&cluster).unwrap();
    let follower = (1..=3).find(|n| ![leader, next].contains(n)).unwrap();
    cluster.run(200);
    assert!(!cluster.status(next).serving);
    let before = cluster.frames_delivered;
    cluster.run(1_000);
    let quiet = cluster.frames_delivered - before;
    let call = cluster.start_call(follower, "ListServices", &list());
    let before = cluster.frames_delivered;
    cluster.run(1_000);
    let asked = cluster.frames_delivered - before;
    let ticks = 1_000 / TICK_MS;
    assert!(
        asked >= quiet + 2 && asked <= quiet + 3 * ticks,
        "{quiet}, {asked}"
    );
    cluster.filter = |_| true;
    cluster.finish(follower, call).unwrap();
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

/// Told to take over, a member stands for election at once, in a term of its own: one that nobody
/// hears would depose the leader as soon as it is heard again.
#[test]
fn the_lead_is_not_transferred_to_a_member_that_is_not_heard() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let unheard = (1..=3).find(|n| *n != leader).unwrap();
    cluster.run(500);
    let request = pb::TransferLeadershipRequest {
        member_id: cluster.member(unheard).0,
    };
    for other in (1..=3).filter(|n| *n != unheard) {
        cluster.cut.insert((unheard, other));
    }
    cluster.run(2_000);
    let refused = cluster
        .call(leader, "TransferLeadership", &request)
        .unwrap_err();
    assert!(refused.to_string().contains("not been heard"), "{refused}");
    cluster.run(2_000);
    let term = cluster.status(leader).term;
    cluster.heal();
    cluster.run(2_000);
    assert_eq!(cluster.leaders(), [leader]);
    assert_eq!(cluster.status(leader).term, term);
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

/// Restarts every host with what `change` makes of it.
fn restart_with(cluster: &mut Cluster, change: impl Fn(&mut cluster::Host)) {
    let numbers: Vec<u64> = cluster.hosts.keys().copied().collect();
    for number in numbers {
        change(cluster.hosts.get_mut(&number).unwrap());
        cluster.kill(number);
        cluster.start(number);
    }
}

#[test]
fn the_feature_level_follows_the_slowest_member() {
    let mut cluster = Cluster::of(3);
    // All came up with the newest release.
    cluster.until("the newest level", 5_000, |cluster| {
        cluster.status(1).feature_level == FEATURE_LEVEL_MAX
    });
    let mut old = Cluster::founded_with(3, |host| host.feature_level_max = 1);
    for number in 2..=3 {
        old.join(number);
    }
    old.until("three vote", 5_000, |cluster| cluster.status(1).voters == 3);
    old.run(1_000);
    assert_eq!(old.status(1).feature_level, 1);
    for number in 1..=3 {
        assert_eq!(
            old.status(1).feature_level,
            1,
            "before {number} is upgraded"
        );
        old.hosts.get_mut(&number).unwrap().feature_level_max = FEATURE_LEVEL_MAX;
        old.kill(number);
        old.start(number);
        old.leader();
        old.run(1_000);
    }
    old.until("the newest level", 5_000, |cluster| {
        cluster.status(1).feature_level == FEATURE_LEVEL_MAX
    });
    old.settle(&[1, 2, 3]);
    old.assert_alike(&[1, 2, 3]);
}

#[test]
fn a_release_too_old_for_the_state_stops_with_a_sentence() {
    let mut cluster = Cluster::of(3);
    cluster.until("the newest level", 5_000, |cluster| {
        cluster.status(1).feature_level == FEATURE_LEVEL_MAX
    });
    cluster.settle(&[1, 2, 3]);
    let leader = cluster.leader();
    let back = (1..=3).find(|n| *n != leader).unwrap();
    cluster.hosts.get_mut(&back).unwrap().feature_level_max = 1;
    cluster.kill(back);
    cluster.start(back);
    cluster.until("it stops", 5_000, |cluster| !cluster.is_up(back));
    let stop = cluster.hosts[&back].stop.clone().unwrap();
    assert!(stop.keep_logs);
    assert!(stop.why.contains("release"), "{}", stop.why);
    // Nothing was lost by the attempt.
    cluster.hosts.get_mut(&back).unwrap().feature_level_max = FEATURE_LEVEL_MAX;
    cluster.start(back);
    cluster.settle(&[1, 2, 3]);
    cluster.assert_alike(&[1, 2, 3]);
}

#[test]
fn a_member_whose_state_differs_from_the_others_stops() {
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
        assert!(cluster.is_up(victim), "one is no majority");
        cluster.inject(victim, bytes);
    }
    assert!(!cluster.is_up(victim));
    let stop = cluster.hosts[&victim].stop.clone().unwrap();
    assert!(
        stop.keep_logs && stop.why.contains("index 256"),
        "{}",
        stop.why
    );
    cluster
        .call(leader, "CreateService", &create("on", 999))
        .unwrap();
}

#[test]
fn what_was_overtaken_did_not_happen_and_may_be_repeated() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    cluster.partition(&[leader], &others);
    let lost = cluster.start_call(leader, "CreateService", &create("lost", 1));
    let anonymous = pb::CreateServiceRequest {
        request: None,
        ..create("anonymous", 0)
    };
    let refused = cluster.start_call(leader, "CreateService", &anonymous);
    cluster.until("another leads", 5_000, |cluster| {
        cluster.leaders().iter().any(|n| others.contains(n))
    });
    let next = cluster.leader();
    cluster
        .call(next, "CreateService", &create("kept", 2))
        .unwrap();
    cluster.heal();
    let leads = Error::NotLeader {
        leader: cluster.member(next).0,
        address: cluster::address(next),
    };
    // Neither happened: overtaken, and this member does not lead.
    assert_eq!(cluster.finish(leader, lost), Err(leads.clone()));
    assert_eq!(cluster.finish(leader, refused), Err(leads));
    cluster
        .call(next, "CreateService", &create("lost", 1))
        .unwrap();
    cluster.settle(&[1, 2, 3]);
    cluster.assert_alike(&[1, 2, 3]);
    assert_eq!(cluster.state(next).service_count(), 2);
}

/// What a leader that was deposed and does not know it yet has seen must not refuse anybody.
#[test]
fn a_refusal_is_as_new_as_a_read() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    cluster
        .call(leader, "CreateService", &create("web", 1))
        .unwrap();
    let refused = cluster.call(leader, "CreateService", &create("web", 2));
    assert!(
        matches!(refused, Err(Error::NameTaken { .. })),
        "{refused:?}"
    );
    cluster.settle(&[1, 2, 3]);
    // From here on it hears nobody; for a while it believes to lead.
    cluster.partition(&[leader], &others);
    assert!(cluster.status(leader).serving);
    let stale = cluster.start_call(leader, "CreateService", &create("web", 3));
    let again = cluster.start_call(leader, "CreateService", &create("web", 1));
    cluster.run(100);
    assert_eq!(cluster.answer(leader, stale), None, "nobody confirmed it");
    cluster.until("another leads", 5_000, |cluster| {
        cluster.leaders().iter().any(|n| others.contains(n))
    });
    let next = cluster.leader();
    let id = cluster.state(next).service_by_name("web").unwrap().id;
    let remove = pb::RemoveServiceRequest {
        service_id: id.to_vec(),
        request: None,
    };
    cluster.call(next, "RemoveService", &remove).unwrap();
    cluster.heal();
    for call in [stale, again] {
        let answer = cluster.finish(leader, call);
        assert!(
            matches!(answer, Err(Error::NoLeader | Error::NotLeader { .. })),
            "{answer:?}"
        );
    }
}

#[test]
fn without_an_answer_in_time_the_outcome_is_unknown() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    cluster.partition(&[leader], &others);
    let call = cluster.start_call(leader, "CreateService", &create("web", 1));
    assert_eq!(cluster.finish(leader, call), Err(Error::OutcomeUnknown));
}

#[test]
fn a_repeated_request_is_answered_once_by_whoever_leads() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let first = cluster
        .call(leader, "CreateService", &create("web", 1))
        .unwrap();
    cluster.kill(leader);
    let next = cluster.leader();
    let again = cluster
        .call(next, "CreateService", &create("web", 1))
        .unwrap();
    assert_eq!(first, again);
    assert_eq!(cluster.state(next).service_count(), 1);
}

#[test]
fn members_that_grow_their_log_take_snapshots_and_restart_from_them() {
    let mut cluster = Cluster::of(3);
    restart_with(&mut cluster, |host| host.snapshot_bytes = 4_000);
    let leader = cluster.leader();
    for n in 0..100 {
        let request = create(&format!("service-{n}"), n + 1);
        cluster.call(leader, "CreateService", &request).unwrap();
    }
    restart_with(&mut cluster, |_| {});
    cluster.leader();
    cluster.settle(&[1, 2, 3]);
    cluster.assert_alike(&[1, 2, 3]);
    assert_eq!(cluster.state(1).service_count(), 100);
}

/// Equal inputs at equal times: every member of both clusters says and stores the same.
#[test]
fn two_clusters_fed_alike_are_alike() {
    let run = || {
        let mut cluster = Cluster::of(3);
        let leader = cluster.leader();
        cluster
            .call(leader, "CreateService", &create("web", 1))
            .unwrap();
        cluster.kill(leader);
        let next = cluster.leader();
        cluster
            .call(next, "CreateService", &create("db", 2))
            .unwrap();
        cluster.start(leader);
        cluster.settle(&[1, 2, 3]);
        (
            next,
            cluster.now_ms,
            cluster.frames_delivered,
            cluster.state(1).hash(),
        )
    };
    assert_eq!(run(), run());
}
