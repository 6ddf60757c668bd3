//! Members and the memory of removed ones stay within their bounds, also through snapshots.

#[path = "fsm_support/mod.rs"]
mod support;

use support::{Replica, member, snapshot_bytes};
use warren_core::fsm::{MEMBERS_MAX, REMOVED_MEMBERS_MAX, snapshot};
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
