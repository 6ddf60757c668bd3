//! Releases of neighbouring feature levels together: the older one refuses alike, or stops.

#[path = "fsm_support/mod.rs"]
mod support;

use prost::Message;
use support::commands::Commands;
use support::{Replica, Rng, asking, member, node_id, put_node, snapshot_bytes};
use warren_core::fsm::{Availability, Member, snapshot};
use warren_core::ids::{Index, Term};
use warren_core::pb::{self, command::Body};

const OLD: u32 = 1;
const NEW: u32 = 2;

fn raise(level: u32) -> Body {
    Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level })
}

fn put_member(level_max: u32) -> Body {
    Body::PutMember(pb::PutMember {
        member: Some(member(1, "m1", true, level_max)),
    })
}

fn drain() -> Body {
    Body::SetNodeAvailability(pb::SetNodeAvailability {
        node_id: node_id("n1").to_vec(),
        availability: Availability::Drain.into(),
        ..Default::default()
    })
}

/// Both releases come to the same state, command by command, until the older one stops; and it
/// stops before it has changed anything.
#[test]
fn two_releases_agree_until_the_older_one_stops() {
    let (mut stopped, mut refused) = (0, 0);
    for seed in 0..40 {
        println!("seed {seed}");
        let mut commands = Commands { rng: Rng(seed) };
        let mut new = Replica::in_cluster();
        let mut old = new.clone();
        for n in 0..320 {
            let command = match n {
                // At the end everybody is upgraded, and the level raised.
                0..300 => commands.next(&new),
                _ => new.command(upgraded(&new)),
            };
            let bytes = command.encode_to_vec();
            new.index += 1;
            let at = Index(new.index);
            let before = old.bytes();
            let told_new = new.state.apply_bytes_as(NEW, at, Term(1), &bytes);
            let told_old = old.state.apply_bytes_as(OLD, at, Term(1), &bytes);
            if let Err(why) = told_old {
                assert_eq!(why.code(), "unknown_level");
                assert_eq!(old.bytes(), before);
                stopped += 1;
                break;
            }
            assert_eq!(told_old, told_new);
            assert_eq!(old.state.hash(), new.state.hash());
            let response = told_old.expect("it did not stop").response;
            refused += u32::from(response.is_err_and(|why| why.code() == "level_not_reached"));
        }
    }
    // The generator must reach what it is to test.
    assert!(
        stopped == 40 && refused > 50,
        "{stopped} stopped, {refused}"
    );
}

/// The next step to level 2: a member that does not know it yet is upgraded; then it is raised.
fn upgraded(replica: &Replica) -> Body {
    let behind = |member: &&Member| member.feature_level_max < NEW;
    match replica.state.members().find(behind) {
        None => raise(NEW),
        Some(member) => Body::PutMember(pb::PutMember {
            member: Some(pb::Member {
                feature_level_max: NEW,
                ..member.into()
            }),
        }),
    }
}

/// Below a level the newer release does with each command what the older one does with the part of it
/// that it can read. Returns how many commands differed, and how many of these were applied.
fn unread_below(level: u32, before: fn(&pb::Command) -> pb::Command) -> (u32, u32) {
    let (mut differing, mut applied) = (0, 0);
    for seed in 0..40 {
        println!("seed {seed}");
        let mut commands = Commands { rng: Rng(seed) };
        let mut new = Replica::in_cluster();
        new.apply(put_member(level - 1)).response.unwrap();
        new.apply(raise(level - 1)).response.unwrap();
        let mut old = new.clone();
        for _ in 0..300 {
            let command = commands.next(&new);
            let raises =
                matches!(&command.body, Some(Body::RaiseFeatureLevel(it)) if it.level >= level);
            if raises {
                continue;
            }
            let read = before(&command);
            let told = [new.apply_command(&command), old.apply_command(&read)];
            assert_eq!(told[0], told[1], "{command:?}");
            assert_eq!(new.state.hash(), old.state.hash(), "{command:?}");
            differing += u32::from(read != command);
            applied += u32::from(read != command && told[0].response.is_ok());
        }
    }
    (differing, applied)
}

#[test]
fn what_came_with_level_4_is_not_read_below_it() {
    let (differing, applied) = unread_below(4, asking::before_level_4);
    // The generator must reach what it is to test.
    assert!(
        differing > 500 && applied > 200,
        "{differing} differing, {applied} applied"
    );
}

#[test]
fn what_came_with_level_5_is_not_read_below_it() {
    let (differing, _) = unread_below(5, asking::before_level_5);
    assert!(differing > 100, "{differing}");
}

/// What the older release has no type for, it refuses exactly as the newer one does.
#[test]
fn a_body_that_only_the_newer_release_knows_is_nothing_below_its_level() {
    let mut new = Replica::in_cluster();
    new.apply(put_node("n1", 1000, 64, &[])).response.unwrap();
    let mut old = new.clone();
    let known = new.command(drain());
    let unknown = pb::Command {
        body: None,
        ..known.clone()
    };
    let told = [new.apply_command(&known), old.apply_command(&unknown)];
    assert_eq!(told[0], told[1]);
    assert_eq!(new.state.hash(), old.state.hash());
}

#[test]
fn the_level_rises_when_the_last_member_knows_it() {
    let mut replica = Replica::in_cluster();
    replica
        .apply(put_node("n1", 1000, 64, &[]))
        .response
        .unwrap();
    assert_eq!(replica.state.raisable_level(NEW), None);
    replica.apply(put_member(3)).response.unwrap();
    assert_eq!(replica.state.raisable_level(OLD), None);
    assert_eq!(replica.state.raisable_level(NEW), Some(NEW));
    replica.apply(raise(NEW)).response.unwrap();
    assert_eq!(replica.state.raisable_level(NEW), None);
    let mut command = replica.command(drain());
    command.level = NEW;
    replica.apply_command(&command).response.unwrap();
    let node = replica.state.node(node_id("n1")).unwrap();
    assert_eq!(node.refusal(), Some("it is being drained"));
}

#[test]
fn a_deadline_of_a_drain_is_not_read_below_level_5() {
    for level in [4, 5] {
        let mut replica = Replica::in_cluster();
        replica.apply(put_member(5)).response.unwrap();
        replica.apply(raise(level)).response.unwrap();
        replica.apply(put_node("n1", 4_000, 64, &[]));
        let Body::SetNodeAvailability(mut set) = drain() else {
            unreachable!("it is one");
        };
        set.drain_within_ms = 60_000;
        let body = Body::SetNodeAvailability(set.clone());
        replica.apply(body).response.unwrap();
        let node = replica.state.node(node_id("n1")).unwrap();
        assert!(node.is_draining());
        let deadline_ms = node.drain.map(|drain| drain.deadline_ms);
        let expected_ms = replica.state.time_ms() + 60_000;
        assert_eq!(deadline_ms, (level == 5).then_some(expected_ms));
        (set.drain_within_ms, set.drain_overdue) = (0, true);
        let body = Body::SetNodeAvailability(set);
        replica.apply(body).response.unwrap();
        let node = replica.state.node(node_id("n1")).unwrap();
        assert_eq!(node.is_drain_overdue(), level == 5);
        let again = snapshot::read_as(level, &snapshot_bytes(&replica.state)[..]);
        let (restored, _) = again.expect("it is known");
        assert_eq!(restored.hash(), replica.state.hash());
        // What is not drained any more has no deadline.
        let active = Body::SetNodeAvailability(pb::SetNodeAvailability {
            node_id: node_id("n1").to_vec(),
            availability: Availability::Active.into(),
            ..Default::default()
        });
        replica.apply(active).response.unwrap();
        assert_eq!(replica.state.node(node_id("n1")).unwrap().drain, None);
    }
}

#[test]
fn a_snapshot_of_a_later_level_is_refused() {
    let mut replica = Replica::in_cluster();
    replica.apply(put_member(NEW)).response.unwrap();
    replica.apply(raise(NEW)).response.unwrap();
    let bytes = snapshot_bytes(&replica.state);
    let refused = snapshot::read_as(OLD, &bytes[..]).err().expect("too new");
    assert_eq!(
        refused.to_string(),
        "it is of feature level 2, which this release does not know; upgrade it"
    );
    let (restored, _) = snapshot::read_as(NEW, &bytes[..]).expect("it is known");
    assert_eq!(restored.hash(), replica.state.hash());
}
