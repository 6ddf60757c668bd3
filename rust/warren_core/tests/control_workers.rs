//! What managers promise to workers, and what people set for all of them.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use prost::Message;
use warren_core::error::Error;
use warren_core::fsm::FEATURE_LEVEL_MAX;
use warren_core::pb::{self, manager_message, worker_message};

fn heartbeat(sequence: u64) -> worker_message::Body {
    worker_message::Body::Heartbeat(pb::Heartbeat {
        sequence,
        usage: None,
    })
}

/// The sequence that is acknowledged, if one is.
fn acknowledged(answer: &[u8]) -> Option<u64> {
    match pb::ManagerMessage::decode(answer).unwrap().body? {
        manager_message::Body::HeartbeatAck(ack) => Some(ack.sequence),
        _ => None,
    }
}

fn at_the_newest_level(cluster: &mut Cluster) {
    cluster.until("the newest level", 5_000, |cluster| {
        cluster.status(1).feature_level == FEATURE_LEVEL_MAX
    });
}

#[test]
fn a_leader_acknowledges_heartbeats_while_it_is_confirmed() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.open_session(leader);
    for sequence in 1..=10 {
        cluster.run(2_000);
        let call = cluster.say(leader, heartbeat(sequence));
        let answer = cluster.finish(leader, call).unwrap();
        assert_eq!(acknowledged(&answer), Some(sequence));
    }
}

/// One that was paused while another one was elected does not know it yet: to be told that it is
/// heard would keep a worker running what has been replaced meanwhile.
#[test]
fn a_deposed_leader_acknowledges_nothing() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.open_session(leader);
    cluster.run(2_000);
    cluster.hosts.get_mut(&leader).unwrap().paused = true;
    cluster.until("another leads", 5_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
    cluster.run(3_000);
    cluster.hosts.get_mut(&leader).unwrap().paused = false;
    assert!(
        cluster.status(leader).serving,
        "it still thinks that it leads"
    );
    let call = cluster.say(leader, heartbeat(1));
    let answer = cluster.finish(leader, call).unwrap();
    assert_eq!(acknowledged(&answer), None);
}

/// Nor does a hello get it to say what is to be run: that waits for an entry that it cannot commit.
#[test]
fn a_deposed_leader_tells_nobody_what_to_run() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.open_session(leader);
    cluster.run(2_000);
    cluster.hosts.get_mut(&leader).unwrap().paused = true;
    cluster.until("another leads", 5_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
    let host = cluster.hosts.get_mut(&leader).unwrap();
    host.paused = false;
    host.items.clear();
    cluster.open_session(leader);
    cluster.run(5_000);
    let said = |item: &Vec<u8>| pb::ManagerMessage::decode(&item[..]).unwrap().body;
    let told = cluster.hosts[&leader].items.iter().filter_map(said);
    let sets = told.filter(|body| matches!(body, manager_message::Body::Assignments(_)));
    assert_eq!(sets.count(), 0);
}

#[test]
fn settings_are_changed_and_shown() {
    let mut cluster = Cluster::of(3);
    at_the_newest_level(&mut cluster);
    let leader = cluster.leader();
    let shown = |cluster: &mut Cluster| {
        let answer = cluster.call(leader, "GetCluster", &pb::GetClusterRequest {});
        let answer = pb::GetClusterResponse::decode(&answer.unwrap()[..]).unwrap();
        assert_eq!(answer.frozen_reason, "");
        answer.cluster.unwrap().settings.unwrap()
    };
    let settings = shown(&mut cluster);
    assert_eq!(settings.lost_nodes_freeze_percent, 30);
    assert_eq!(settings.node_grace_ms, 30_000);
    let mut update = pb::UpdateClusterRequest {
        node_grace_ms: 60_000,
        ..Default::default()
    };
    let answer = cluster.call(leader, "UpdateCluster", &update).unwrap();
    let answer = pb::UpdateClusterResponse::decode(&answer[..]).unwrap();
    assert_eq!(answer.settings, Some(shown(&mut cluster)));
    assert_eq!(shown(&mut cluster).node_grace_ms, 60_000);
    update.node_grace_ms = 1;
    let refused = cluster.call(leader, "UpdateCluster", &update).unwrap_err();
    assert_eq!(refused.code(), "invalid");
}

#[test]
fn older_releases_are_told_nothing_that_they_would_not_understand() {
    let mut cluster = Cluster::founded_with(1, |host| host.feature_level_max = 2);
    let mut spec = create("one", 1);
    let container = spec.spec.as_mut().unwrap().container.as_mut().unwrap();
    container.set_partition(pb::PartitionPolicy::Singleton);
    container.partition_stop_after_ms = 5_000;
    let told = cluster.call(1, "CreateService", &spec);
    assert!(matches!(told, Err(Error::LevelNotReached { .. })));
    let update = pb::UpdateClusterRequest {
        thaw: true,
        ..Default::default()
    };
    let told = cluster.call(1, "UpdateCluster", &update);
    assert!(matches!(told, Err(Error::LevelNotReached { .. })));
}

#[test]
fn what_came_with_level_4_waits_for_it() {
    let mut cluster = Cluster::founded_with(1, |host| host.feature_level_max = 3);
    cluster.until("level 3", 5_000, |cluster| {
        cluster.status(1).feature_level == 3
    });
    let refused = |cluster: &mut Cluster, change: fn(&mut pb::ServiceSpec)| {
        let mut request = create("one", 1);
        change(request.spec.as_mut().unwrap());
        let told = cluster.call(1, "CreateService", &request);
        assert!(matches!(told, Err(Error::LevelNotReached { .. })));
    };
    refused(&mut cluster, |spec| {
        spec.placement = Some(pb::Placement {
            max_replicas_per_node: 1,
            ..Default::default()
        });
    });
    refused(&mut cluster, |spec| {
        let container = spec.container.as_mut().unwrap();
        container.host_ports = vec![pb::HostPort {
            port: 80,
            protocol: 0,
        }];
    });
    let overcommit = pb::UpdateClusterRequest {
        overcommit_cpu_percent: 200,
        ..Default::default()
    };
    let told = cluster.call(1, "UpdateCluster", &overcommit);
    assert!(matches!(told, Err(Error::LevelNotReached { .. })));
    let told = cluster.call(1, "UpdateNode", &pb::UpdateNodeRequest::default());
    assert!(matches!(told, Err(Error::LevelNotReached { .. })));
}

#[test]
fn images_are_listed_where_they_are_asked_for() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.open_session_at(leader, 2);
    cluster.run(2_000);
    let mut images = |with_images| {
        let request = pb::ListNodesRequest {
            with_images,
            ..Default::default()
        };
        let answer = cluster.call(leader, "ListNodes", &request).unwrap();
        let answer = pb::ListNodesResponse::decode(&answer[..]).unwrap();
        let described = answer
            .nodes
            .into_iter()
            .filter_map(|it| it.node?.description);
        described.map(|it| it.images.len()).sum::<usize>()
    };
    assert_eq!((images(true), images(false)), (2, 0), "each of two has one");
}

#[test]
fn labels_and_taints_are_set_and_shown() {
    let mut cluster = Cluster::of(3);
    at_the_newest_level(&mut cluster);
    let leader = cluster.leader();
    let nodes = cluster.call(leader, "ListNodes", &pb::ListNodesRequest::default());
    let nodes = pb::ListNodesResponse::decode(&nodes.unwrap()[..]).unwrap();
    let node = nodes.nodes[0].node.as_ref().unwrap();
    let r#ref = node.description.as_ref().unwrap().name.clone();
    let mut update = pb::UpdateNodeRequest {
        r#ref: r#ref.clone(),
        ..Default::default()
    };
    update.labels_add.insert("zone".into(), "eu".into());
    update.taints_add.push(pb::Taint {
        key: "gpu".into(),
        effect: pb::TaintEffect::NoSchedule.into(),
        ..Default::default()
    });
    let answer = cluster.call(leader, "UpdateNode", &update).unwrap();
    let answer = pb::UpdateNodeResponse::decode(&answer[..]).unwrap();
    let told = answer.node.unwrap();
    assert_eq!(told.labels["zone"], "eu");
    let request = pb::GetNodeRequest { r#ref };
    let shown = cluster.call(leader, "GetNode", &request).unwrap();
    let shown = pb::GetNodeResponse::decode(&shown[..]).unwrap();
    let view = shown.node.unwrap();
    assert_eq!(view.attributes["node.labels.zone"], "eu");
    assert_eq!(view.node.unwrap().taints, told.taints);
    update.labels_add.insert("a b".into(), String::new());
    let refused = cluster.call(leader, "UpdateNode", &update).unwrap_err();
    assert_eq!(refused.code(), "invalid");
    update.r#ref = "nobody".into();
    let refused = cluster.call(leader, "UpdateNode", &update).unwrap_err();
    assert_eq!(refused.code(), "not_found");
}

fn used_beat(sequence: u64, cpu_milli: u64) -> worker_message::Body {
    let usage = Some(pb::NodeUsage {
        cpu_milli,
        memory_bytes: 2 << 20,
        pids: 3,
        disk_bytes: 4 << 30,
        age_ms: 250,
        measured_at_ms: 0,
    });
    worker_message::Body::Heartbeat(pb::Heartbeat { sequence, usage })
}

/// What `reader` shows of the use of the node of `of`.
fn shown_use(cluster: &mut Cluster, reader: u64, of: u64) -> Option<pb::NodeUsage> {
    let request = pb::GetNodeRequest {
        r#ref: format!("host-{of}"),
    };
    let answer = cluster.call(reader, "GetNode", &request).unwrap();
    pb::GetNodeResponse::decode(&answer[..])
        .unwrap()
        .node
        .unwrap()
        .used
}

/// It is in the leader's memory alone: whoever is asked, its answer has it, and the log has not.
#[test]
fn what_a_node_uses_is_shown_by_every_member_and_logged_by_none() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.open_session(leader);
    cluster.run(2_000);
    for reader in 1..=3 {
        assert_eq!(shown_use(&mut cluster, reader, leader), None);
    }
    let before = cluster.status(leader).last_index;
    let told_ms = cluster.now_ms;
    let call = cluster.say(leader, used_beat(1, 1_250));
    cluster.finish(leader, call).unwrap();
    for reader in 1..=3 {
        let used = shown_use(&mut cluster, reader, leader).expect("it was told");
        assert_eq!((used.cpu_milli, used.pids, used.age_ms), (1_250, 3, 0));
        let since_ms = used.measured_at_ms + 250;
        assert!((told_ms..=cluster.now_ms).contains(&since_ms), "{since_ms}");
    }
    assert_eq!(cluster.status(leader).last_index, before);
}

/// Of many by one request; a list of all nodes has none of it.
#[test]
fn what_several_nodes_use_is_in_one_answer() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    for (number, cpu_milli) in [(2, 20), (3, 30)] {
        cluster.open_session_at(leader, number);
        cluster.run(2_000);
        let call = cluster.say(leader, used_beat(1, cpu_milli));
        cluster.finish(leader, call).unwrap();
    }
    let id = |number: u8| vec![number; 16];
    let mut list = |reader, node_ids| {
        let request = pb::ListNodesRequest {
            node_ids,
            with_images: false,
        };
        let answer = cluster.call(reader, "ListNodes", &request)?;
        let answer = pb::ListNodesResponse::decode(&answer[..]).unwrap();
        let row = |view: pb::NodeView| {
            let used = view.used.map(|used| used.cpu_milli);
            (view.node.unwrap().id[0], used)
        };
        Ok::<Vec<_>, Error>(answer.nodes.into_iter().map(row).collect())
    };
    for reader in 1..=3 {
        // Of one nothing is known, one is named twice, one is none, and one is no id.
        let named = vec![id(3), id(2), id(1), id(2), id(77), vec![1, 2]];
        let expected = [(1, None), (2, Some(20)), (3, Some(30))];
        assert_eq!(list(reader, named).unwrap(), expected);
        assert_eq!(list(reader, vec![id(3)]).unwrap(), [(3, Some(30))]);
        let all = list(reader, vec![]).unwrap();
        assert_eq!(all, [(1, None), (2, None), (3, None)]);
        let refused = list(reader, vec![id(1); 257]).unwrap_err();
        assert_eq!(refused.code(), "invalid");
    }
}

/// A new leader knows only what it is told itself.
#[test]
fn what_a_node_uses_goes_with_the_leader_that_was_told() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.open_session(leader);
    cluster.run(2_000);
    let call = cluster.say(leader, used_beat(1, 1_250));
    cluster.finish(leader, call).unwrap();
    cluster.kill(leader);
    let alive: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    cluster.until("another leads", 5_000, |cluster| {
        cluster.leaders().iter().any(|n| *n != leader)
    });
    cluster.run(1_000);
    for reader in alive {
        assert_eq!(shown_use(&mut cluster, reader, leader), None);
    }
}
