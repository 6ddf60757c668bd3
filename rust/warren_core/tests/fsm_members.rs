//! Members and the memory of removed ones stay within their bounds, also through snapshots.

#[path = "fsm_support/mod.rs"]
mod support;

use support::{Replica, member, node_id, put_node, snapshot_bytes};
use warren_core::fsm::{FEATURE_LEVEL_MAX, MEMBERS_MAX, REMOVED_MEMBERS_MAX, snapshot};
use warren_core::ids::MemberId;
use warren_core::pb::{self, command::Body};

fn put(id: u64) -> Body {
    Body::PutMember(pb::PutMember {
        member: Some(member(id, &format!("m{id}"), false, 1)),
    })
}

fn remove(member_id: u64) -> Body {
    Body::RemoveMember(pb::RemoveMember { member_id })
}

#[test]
fn a_cluster_has_so_many_members_and_no_more() {
    let mut replica = Replica::in_cluster();
    for id in 2..=MEMBERS_MAX as u64 {
        replica.apply(put(id)).response.expect("there is room");
    }
    let refused = replica.apply(put(100)).response.unwrap_err();
    assert!(refused.to_string().contains("the cluster has 64"));
    replica.apply(put(2)).response.expect("it is one of them");
    replica.apply(remove(2)).response.expect("it is no voter");
    replica.apply(put(100)).response.expect("room again");
}

#[test]
fn a_member_that_is_removed_offers_nothing_any_more() {
    let mut replica = Replica::in_cluster();
    let founder = member(1, "m1", true, 3);
    let founder = Some(founder);
    replica
        .apply(Body::PutMember(pb::PutMember { member: founder }))
        .response
        .expect("it is known");
    for level in [2, 3] {
        replica
            .apply(Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level }))
            .response
            .expect("all know it");
    }
    let Body::PutNode(mut node) = put_node("m2", 1_000, 64, &[]) else {
        unreachable!("it puts a node")
    };
    let description = node.description.as_mut().expect("it has one");
    description.data_dir = vec![2; 16];
    description.peer_address = "m2:2378".into();
    replica.apply(Body::PutNode(node)).response.expect("a node");
    let member = Some(member(2, "m2", false, 3));
    replica
        .apply(Body::PutMember(pb::PutMember { member }))
        .response
        .expect("a new one");
    let offered = |replica: &Replica| {
        let node = replica.state.node(node_id("m2")).expect("it is there");
        (
            !node.description.data_dir.is_empty(),
            !node.description.peer_address.is_empty(),
        )
    };
    assert_eq!(offered(&replica), (true, true));
    replica.apply(remove(2)).response.expect("it is no voter");
    assert_eq!(offered(&replica), (false, false));
    assert_eq!(replica.state.hash(), replica.state.hash_from_scratch());
}

#[test]
fn whether_a_node_manages_follows_from_the_members() {
    let mut replica = Replica::in_cluster();
    replica
        .apply(put_node("m2", 1_000, 64, &[]))
        .response
        .expect("a node");
    let member_of = |replica: &mut Replica, id: u64, name: &str, voter: bool| {
        let member = Some(member(id, name, voter, FEATURE_LEVEL_MAX));
        let put = Body::PutMember(pb::PutMember { member });
        replica.apply(put).response.expect("it may be one");
    };
    let manages = |replica: &Replica| {
        replica
            .state
            .node(node_id("m2"))
            .expect("it is there")
            .manager
    };
    member_of(&mut replica, 1, "m1", true);
    member_of(&mut replica, 2, "m2", false);
    assert!(!manages(&replica), "below the level it is what was said");
    let level = FEATURE_LEVEL_MAX;
    let raise = Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level });
    replica.apply(raise).response.expect("all know it");
    assert!(manages(&replica), "set right by the raise");
    replica.apply(remove(2)).response.expect("it is no voter");
    assert!(!manages(&replica), "it has said nothing since");
    member_of(&mut replica, 3, "m2", false);
    assert!(manages(&replica));
    replica
        .apply(put_node("m2", 2_000, 64, &[]))
        .response
        .expect("the node");
    assert!(manages(&replica), "whatever it says");
    assert_eq!(replica.state.hash(), replica.state.hash_from_scratch());
}

#[test]
fn the_longest_removed_member_is_forgotten_first() {
    let mut replica = Replica::in_cluster();
    let last = 2 + REMOVED_MEMBERS_MAX as u64;
    for id in 2..=last {
        replica.apply(put(id)).response.expect("a new one");
        replica.apply(remove(id)).response.expect("it is no voter");
    }
    let bytes = snapshot_bytes(&replica.state);
    let (restored, _) = snapshot::read(&bytes[..]).expect("what was written is readable");
    for state in [&replica.state, &restored] {
        assert!(!state.is_removed(MemberId(2)));
        assert!((3..=last).all(|id| state.is_removed(MemberId(id))));
    }
    replica.state = restored;
    replica.apply(put(last + 1)).response.expect("a new one");
    replica.apply(remove(last + 1)).response.expect("no voter");
    assert!(
        !replica.state.is_removed(MemberId(3)),
        "their order was kept"
    );
}
