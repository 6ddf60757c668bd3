//! Members that come, go and are replaced, in clusters of the control plane as pure machines.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use prost::Message;
use warren_core::control::peer::frame::{self, Kind};
use warren_core::error::Error;
use warren_core::fsm::FEATURE_LEVEL_MAX;
use warren_core::pb;
use warren_core::raft::TICK_MS;

/// What is asked for next may need the newest level.
#[test]
fn a_founder_is_answered_at_the_level_of_its_release() {
    let cluster = Cluster::founded(1);
    assert_eq!(cluster.state(1).feature_level(), FEATURE_LEVEL_MAX);
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

/// Whatever comes first, what its consensus says or that the snapshot is installed: where nothing
/// is written after the snapshot, no further entry will say that the learner has everything.
#[test]
fn a_joiner_votes_also_where_nothing_follows_its_snapshot() {
    let mut cluster = Cluster::founded(2);
    cluster.filter = |bytes| {
        let (header, body) = frame::decode(bytes).expect("a member sent it");
        let installed = header.kind == Kind::SnapshotAck
            && pb::PeerSnapshotAck::decode(body).unwrap().installed;
        // What a member says of itself would be written down.
        header.kind != Kind::Hello && !installed
    };
    cluster.join(2);
    cluster.until("it votes", 20_000, |cluster| {
        cluster.status(1).voters == 2 && !cluster.status(1).is_joint
    });
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
    cluster.until("it stops", 40_000, |cluster| !cluster.is_up(gone));
    let why = cluster.hosts[&gone].stop.as_ref().unwrap().why.clone();
    assert!(why.contains("was removed"), "{why}");
    // A zombie of it disturbs nobody.
    let term = cluster.status(leader).term;
    cluster.start(gone);
    cluster.until("it stops again", 40_000, |cluster| !cluster.is_up(gone));
    assert_eq!(cluster.status(leader).term, term);
}

#[test]
fn the_leader_knows_how_far_away_and_how_far_behind_the_others_are() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    let ids: Vec<_> = others.iter().map(|n| cluster.member(*n)).collect();
    cluster.latency_ms = 2 * TICK_MS;
    cluster.run(1_000);
    cluster
        .hosts
        .get_mut(&leader)
        .unwrap()
        .round_trips_ns
        .clear();
    cluster.run(1_000);
    let trips = &cluster.hosts[&leader].round_trips_ns;
    let there_and_back = 4 * TICK_MS * 1_000_000;
    for id in &ids {
        let of: Vec<u64> = trips
            .iter()
            .filter(|(of, _)| of == id)
            .map(|(_, ns)| *ns)
            .collect();
        // Every heartbeat is answered, also while others are on their way.
        assert!(
            of.len() >= 18 && of.iter().all(|ns| *ns == there_and_back),
            "{of:?}"
        );
    }
    for other in &others {
        assert_eq!(cluster.hosts[other].round_trips_ns, []);
    }
    cluster.latency_ms = 0;
    cluster.run(500);
    assert!(cluster.status(leader).lags.iter().all(|(_, lag)| *lag == 0));
    assert_eq!(cluster.status(leader).silent_voters, 0);
    cluster.hosts.get_mut(&others[0]).unwrap().paused = true;
    for n in 1..=5 {
        let request = create(&format!("service-{n}"), n);
        cluster.call(leader, "CreateService", &request).unwrap();
    }
    cluster.run(2_000);
    let status = cluster.status(leader);
    let lag = |id| {
        status
            .lags
            .iter()
            .find(|(of, _)| *of == id)
            .map(|(_, lag)| *lag)
    };
    assert!(lag(ids[0]) >= Some(5), "{:?}", status.lags);
    assert_eq!((lag(ids[1]), status.silent_voters), (Some(0), 1));
    let follower = cluster.status(others[1]);
    assert!(follower.lags.len() == 2 && follower.lags.iter().all(|(_, lag)| *lag == 0));
    assert_eq!(follower.silent_voters, 0);
}

/// A copy of the request may have been on its way all the while.
#[test]
fn a_late_copy_of_a_request_does_not_add_a_member_that_was_removed() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.add_host(4);
    let add = pb::AddMemberRequest {
        request: Some(pb::RequestId {
            client: vec![7; 16],
            sequence: 1,
            digest: Vec::new(),
        }),
        data_dir: vec![4; 16],
        node_id: vec![4; 16],
        address: "host-4:7400".into(),
        ..Default::default()
    };
    let ask = |cluster: &mut Cluster| {
        let answer = cluster.call(leader, "AddMember", &add)?;
        Ok(pb::AddMemberResponse::decode(answer.as_slice()).unwrap())
    };
    let added: pb::AddMemberResponse = ask(&mut cluster).unwrap();
    assert_eq!(ask(&mut cluster).unwrap().member_id, added.member_id);
    let remove = pb::RemoveMemberRequest {
        request: None,
        member_id: added.member_id,
    };
    cluster.call(leader, "RemoveMember", &remove).unwrap();
    let refused: Result<_, Error> = ask(&mut cluster);
    assert_eq!(refused.unwrap_err().code(), "invalid");
    let status = cluster.status(leader);
    assert_eq!((status.voters, status.learners), (3, 0));
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
fn the_same_member_on_an_empty_disk_is_refused() {
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
fn adding_a_member_twice_adds_it_once() {
    let mut cluster = Cluster::founded(2);
    let first = cluster.add_member(2, false).unwrap();
    let again = cluster.add_member(2, false).unwrap();
    assert_eq!(first.member_id, again.member_id);
    assert_eq!(cluster.state(1).members().count(), 2);
}

#[test]
fn a_learner_that_is_to_stay_one_never_votes() {
    let mut cluster = Cluster::founded(2);
    let added = cluster.add_member(2, true).unwrap();
    cluster.start_joiner(2, &added);
    cluster.run(3_000);
    let status = cluster.status(1);
    assert_eq!((status.voters, status.learners), (1, 1));
    cluster.settle(&[1, 2]);
    cluster.assert_alike(&[1, 2]);
}

#[test]
fn a_learner_that_is_not_there_does_not_vote() {
    let mut cluster = Cluster::founded(2);
    cluster.add_member(2, false).unwrap();
    cluster.run(3_000);
    let status = cluster.status(1);
    assert_eq!(
        (status.voters, status.learners, status.is_joint),
        (1, 1, false)
    );
}

#[test]
fn a_joint_configuration_is_left_by_the_next_leader() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let gone = (1..=3).find(|n| *n != leader).unwrap();
    let request = pb::RemoveMemberRequest {
        request: None,
        member_id: cluster.member(gone).0,
    };
    cluster.start_call(leader, "RemoveMember", &request);
    cluster.until("a joint configuration", 2_000, |cluster| {
        (1..=3).any(|n| cluster.is_up(n) && cluster.status(n).is_joint)
            || cluster.status(leader).voters == 2
    });
    cluster.kill(leader);
    let rest = (1..=3).find(|n| *n != leader && *n != gone).unwrap();
    cluster.start(leader);
    cluster.until("two vote", 10_000, |cluster| {
        let status = cluster.status(rest);
        status.voters == 2 && !status.is_joint
    });
}

#[test]
fn members_are_listed_with_how_they_are_doing() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.run(500);
    let answer = cluster
        .call(leader, "ListMembers", &pb::ListMembersRequest {})
        .unwrap();
    let listed = pb::ListMembersResponse::decode(answer.as_slice()).unwrap();
    assert_eq!(listed.members.len(), 3);
    assert!(!listed.joint);
    for view in &listed.members {
        let member = view.member.as_ref().unwrap();
        assert!(view.voter && view.recent_active);
        assert_eq!(view.leader, member.id == cluster.member(leader).0);
        assert_eq!(member.feature_level_max, FEATURE_LEVEL_MAX);
        assert_eq!(view.release, env!("CARGO_PKG_VERSION"));
        let behind = listed.last_index - view.match_index;
        assert!(view.leader || behind == 0, "{view:?}");
    }
}

#[test]
fn a_member_that_the_state_would_refuse_does_not_change_the_configuration() {
    let mut cluster = Cluster::founded(1);
    let request = pb::AddMemberRequest {
        data_dir: vec![1; 15],
        node_id: vec![2; 16],
        address: cluster::address(2),
        ..Default::default()
    };
    let refused = cluster.call(1, "AddMember", &request).unwrap_err();
    assert_eq!(refused.code(), "invalid");
    cluster.run(500);
    let status = cluster.status(1);
    assert_eq!((status.voters, status.learners), (1, 0));
}

/// Whoever is told that a member is removed may switch its host off at that moment.
#[test]
fn a_removal_is_answered_once_the_member_is_not_needed_any_more() {
    let mut cluster = Cluster::of(2);
    let leader = cluster.leader();
    let gone = 3 - leader;
    let request = pb::RemoveMemberRequest {
        request: None,
        member_id: cluster.member(gone).0,
    };
    cluster.call(leader, "RemoveMember", &request).unwrap();
    cluster.kill(gone);
    let status = cluster.status(leader);
    assert_eq!((status.voters, status.is_joint), (1, false));
    cluster
        .call(leader, "CreateService", &create("web", 1))
        .unwrap();
    // Repeated, it is answered the same.
    cluster.call(leader, "RemoveMember", &request).unwrap();
}

/// Killed at any moment of a removal, a leader may forget that the old configuration was left, and
/// need the removed member's vote once more.
#[test]
fn a_removal_survives_the_leader_at_every_step() {
    for ticks in 0..12 {
        let mut cluster = Cluster::of(2);
        let leader = cluster.leader();
        let gone = cluster.member(3 - leader).0;
        let request = pb::RemoveMemberRequest {
            request: None,
            member_id: gone,
        };
        let call = cluster.start_call(leader, "RemoveMember", &request);
        cluster.run(ticks * TICK_MS);
        let done = matches!(cluster.answer(leader, call), Some(Ok(_)));
        cluster.kill(leader);
        if done {
            // It was said that nobody needs it.
            cluster.kill(3 - leader);
        }
        cluster.start(leader);
        cluster.until("somebody serves", 5_000, |cluster| {
            !cluster.leaders().is_empty()
        });
    }
}

/// With one of three voters down, the removal of another one would leave a configuration that
/// nobody can decide in; the removal of the one that is down helps.
#[test]
fn a_voter_that_is_needed_cannot_be_removed() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let (down, needed) = match leader {
        1 => (2, 3),
        2 => (1, 3),
        _ => (1, 2),
    };
    cluster.kill(down);
    cluster.run(1_000);
    assert_eq!(cluster.leader(), leader);
    let removal = |cluster: &Cluster, number: u64| pb::RemoveMemberRequest {
        request: None,
        member_id: cluster.member(number).0,
    };
    let request = removal(&cluster, needed);
    let refused = cluster.call(leader, "RemoveMember", &request).unwrap_err();
    assert!(refused.to_string().contains("only 1 answer"), "{refused}");
    let request = removal(&cluster, down);
    cluster.call(leader, "RemoveMember", &request).unwrap();
    let request = removal(&cluster, needed);
    cluster.call(leader, "RemoveMember", &request).unwrap();
    assert_eq!(cluster.status(leader).voters, 1);
}
