use super::super::LogLine;
use super::*;
use crate::ids::{ClusterId, Index, NodeId, Term};

const US: MemberId = MemberId(1);
const THEM: MemberId = MemberId(2);

fn identity(member: MemberId) -> Identity {
    Identity {
        cluster: ClusterId([7; 16]),
        epoch: 1,
        member,
        data_dir: [member.0 as u8; 16],
    }
}

fn peers(member: MemberId) -> Peers {
    Peers::new(Myself {
        identity: identity(member),
        address: format!("host-{}:1", member.0),
        feature_level_max: 2,
        api_address: String::new(),
        out_of_space: false,
    })
}

/// A cluster whose members are 1 and 2, and 3 was removed.
fn state() -> State {
    let mut state = State::new();
    let member = |id: u64| pb::Member {
        id,
        data_dir: vec![id as u8; 16],
        node_id: NodeId([id as u8; 16]).to_vec(),
        address: format!("host-{id}:1"),
        voter: true,
        feature_level_max: 2,
        added_at_ms: 0,
        api_address: String::new(),
    };
    use pb::command::Body;
    let create = pb::CreateCluster {
        cluster_id: vec![7; 16],
        epoch: 1,
        founder: Some(member(1)),
    };
    let put = |id| {
        Body::PutMember(pb::PutMember {
            member: Some(member(id)),
        })
    };
    let remove = Body::RemoveMember(pb::RemoveMember { member_id: 3 });
    let bodies = [Body::CreateCluster(create), put(2), put(3), remove];
    for (body, index) in bodies.into_iter().zip(2..) {
        let command = pb::Command {
            level: 1,
            entropy: vec![index as u8; 12],
            body: Some(body),
            ..Default::default()
        };
        let applied = state.apply(Index(index), Term(1), &command);
        assert!(applied.response.is_ok(), "{:?}", applied.response);
    }
    state
}

fn conf() -> ConfState {
    ConfState {
        voters: vec![1, 2],
        ..ConfState::default()
    }
}

fn known<'a>(state: &'a State, conf: &'a ConfState) -> Membership<'a> {
    Membership {
        state,
        conf,
        settled: true,
    }
}

fn frame_of(from: &Identity, to: MemberId) -> Vec<u8> {
    let header = Header::of(from, to, 1, Lane::Urgent, Kind::ReadAsk);
    frame::encode(
        &header,
        &pb::PeerReadAsk {
            context: 1,
            used_by: vec![],
        },
    )
}

/// Whether the frame is taken, and what is refused with it.
fn judged(bytes: &[u8]) -> (bool, Option<Refusal>, Outputs) {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let taken = ours.accept(bytes, known(&state(), &conf()), 0, &mut out);
    let taken = taken.is_some();
    let counted = ours.stats().refusals.into_iter();
    let refused = counted.filter(|(_, n)| *n > 0).map(|(why, _)| why);
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() <= 1);
    (taken, refused.first().copied(), out)
}

#[test]
fn only_members_of_this_cluster_are_listened_to() {
    let them = identity(THEM);
    assert_eq!(judged(&frame_of(&them, US)).1, None);
    let refused = |bytes: &[u8]| {
        let (taken, why, out) = judged(bytes);
        assert!(!taken && out.log_lines.len() == 1, "said once");
        why.unwrap()
    };
    let other_cluster = Identity {
        cluster: ClusterId([8; 16]),
        ..them
    };
    assert_eq!(
        refused(&frame_of(&other_cluster, US)),
        Refusal::OtherCluster
    );
    let restored = Identity { epoch: 2, ..them };
    assert_eq!(refused(&frame_of(&restored, US)), Refusal::OtherEpoch);
    assert_eq!(
        refused(&frame_of(&them, MemberId(9))),
        Refusal::OtherReceiver
    );
    assert_eq!(
        refused(&frame_of(&identity(US), US)),
        Refusal::OtherReceiver
    );
    let empty_disk = Identity {
        data_dir: [99; 16],
        ..them
    };
    assert_eq!(refused(&frame_of(&empty_disk, US)), Refusal::WrongDataDir);
    assert_eq!(refused(b"GET / HTTP/1.1\r\n"), Refusal::Garbled);
}

/// A joiner that restarts before it has the state knows nobody: without another hello it would not
/// know where to send its answers.
#[test]
fn who_is_silent_is_greeted_again() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    ours.follow(&state(), &conf(), 0);
    let hello = pb::PeerHello {
        format_min: 1,
        format_max: 1,
        address: "host-2:1".into(),
        answer: true,
        ..Default::default()
    };
    ours.hello(THEM, &hello, 0, &mut out);
    let greeted = |ours: &mut Peers, now_ms: u64| {
        let mut out = Outputs::default();
        ours.tick(now_ms, &mut out);
        let kinds = out.frames.iter().map(|frame| frame::decode(&frame.bytes));
        kinds
            .filter(|read| read.as_ref().unwrap().0.kind == Kind::Hello)
            .count()
    };
    assert_eq!(greeted(&mut ours, SILENCE_MS - 1), 0);
    assert_eq!(greeted(&mut ours, SILENCE_MS), 1);
    let (state, conf) = (state(), conf());
    let frame = frame_of(&identity(THEM), US);
    ours.accept(&frame, known(&state, &conf), SILENCE_MS, &mut out);
    ours.hello(THEM, &hello, SILENCE_MS, &mut out);
    assert_eq!(greeted(&mut ours, 2 * SILENCE_MS - 1), 0);
}

#[test]
fn a_removed_member_is_told() {
    let (taken, why, out) = judged(&frame_of(&identity(MemberId(3)), US));
    assert_eq!((taken, why), (false, Some(Refusal::Removed)));
    let (header, _) = frame::decode(&out.frames[0].bytes).unwrap();
    assert_eq!((header.to, header.kind), (MemberId(3), Kind::Removed));
}

/// Whoever restarts may have forgotten that the old configuration was left, and need its vote.
#[test]
fn a_removed_member_is_told_once_its_removal_is_settled() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let (state, conf) = (state(), conf());
    let unsettled = Membership {
        settled: false,
        ..known(&state, &conf)
    };
    let frame = frame_of(&identity(MemberId(3)), US);
    assert!(ours.accept(&frame, unsettled, 0, &mut out).is_none());
    assert!(out.frames.is_empty() && ours.take_knock());
    assert!(!ours.take_knock(), "told once");
    let settled = known(&state, &conf);
    assert!(ours.accept(&frame, settled, 1, &mut out).is_none());
    assert!(out.frames.len() == 1 && !ours.take_knock());
}

#[test]
fn a_removed_member_that_still_votes_is_heard() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let joint = ConfState {
        voters_outgoing: vec![1, 2, 3],
        ..conf()
    };
    let bytes = frame_of(&identity(MemberId(3)), US);
    let taken = ours.accept(&bytes, known(&state(), &joint), 0, &mut out);
    assert!(
        taken.is_some(),
        "its vote is needed to leave the joint configuration"
    );
}

/// An old identity on an empty disk would be sent a snapshot, and vote a second time.
#[test]
fn a_removed_member_that_still_votes_is_heard_from_its_own_data_directory_only() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let joint = ConfState {
        voters_outgoing: vec![1, 2, 3],
        ..conf()
    };
    let (state, removed) = (state(), identity(MemberId(3)));
    ours.bind(removed.member, removed.data_dir);
    let empty_disk = Identity {
        data_dir: [99; 16],
        ..removed
    };
    let mut hears = |ours: &mut Peers, from: &Identity| {
        let known = known(&state, &joint);
        ours.accept(&frame_of(from, US), known, 0, &mut out)
            .is_some()
    };
    ours.follow(&state, &joint, 0);
    assert!(hears(&mut ours, &removed));
    assert!(!hears(&mut ours, &empty_disk));
    ours.follow(&state, &conf(), 1);
    assert!(ours.bound.is_empty(), "nobody listens to it any more");
}

#[test]
fn refusals_are_counted_all_and_said_now_and_then() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    for now_ms in 0..20_000 {
        assert!(
            ours.accept(b"junk", known(&state(), &conf()), now_ms, &mut out)
                .is_none()
        );
    }
    assert_eq!(ours.stats().refusals[0], (Refusal::Garbled, 20_000));
    let lines: &[LogLine] = &out.log_lines;
    assert_eq!(lines.len(), 2);
}

/// What `from` says, to `to`.
fn pass(from: &mut Outputs, to: &mut Peers, now_ms: u64) -> Outputs {
    let mut out = Outputs::default();
    let (state, conf) = (state(), conf());
    for sent in std::mem::take(&mut from.frames) {
        let known = known(&state, &conf);
        let Some((header, body)) = to.accept(&sent.bytes, known, now_ms, &mut out) else {
            continue;
        };
        assert_eq!(header.kind, Kind::Hello);
        let hello = pb::PeerHello::decode(body).unwrap();
        to.hello(header.from, &hello, now_ms, &mut out);
    }
    out
}

#[test]
fn hellos_are_repeated_until_answered_and_then_no_more() {
    let (mut ours, mut theirs) = (peers(US), peers(THEM));
    ours.follow(&state(), &conf(), 0);
    let mut sent = 0;
    for now_ms in (0..4_000).step_by(100) {
        let mut out = Outputs::default();
        ours.tick(now_ms, &mut out);
        sent += out.frames.len();
    }
    assert_eq!(sent, 6, "at 0, 100, 300, 700, 1,500 and 3,100 ms");
    let mut out = Outputs::default();
    ours.tick(8_000, &mut out);
    assert_eq!(out.frames.len(), 1);
    let mut answer = pass(&mut out, &mut theirs, 8_000);
    assert_eq!(answer.frames.len(), 1);
    let back = pass(&mut answer, &mut ours, 8_001);
    assert!(back.frames.is_empty(), "an answer is not answered");
    assert_eq!(ours.known(THEM).unwrap().feature_level_max, 2);
    let mut quiet = Outputs::default();
    ours.tick(8_000 + SILENCE_MS, &mut quiet);
    assert!(quiet.frames.is_empty());
}

#[test]
fn a_release_without_a_common_format_is_named() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let newer = pb::PeerHello {
        format_min: 2,
        format_max: 3,
        ..Default::default()
    };
    assert!(!ours.hello(THEM, &newer, 0, &mut out));
    assert!(ours.known(THEM).is_none());
    assert!(out.log_lines[0].message.contains("upgrade the older one"));
}

#[test]
fn the_highest_common_format_is_spoken() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let newer = pb::PeerHello {
        format_min: 1,
        format_max: 9,
        address: "elsewhere:1".into(),
        ..Default::default()
    };
    assert!(ours.hello(THEM, &newer, 0, &mut out));
    assert_eq!(ours.known(THEM).unwrap().format, frame::FORMAT_MAX);
    assert_eq!(ours.address(THEM), "elsewhere:1");
    assert!(!ours.hello(THEM, &newer, 1, &mut out), "no news any more");
}

#[test]
fn links_are_bounded_and_strangers_forgotten() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    let hello = pb::PeerHello {
        format_min: 1,
        format_max: 1,
        address: "x:1".into(),
        ..Default::default()
    };
    for id in 100..1_000 {
        ours.hello(MemberId(id), &hello, 0, &mut out);
    }
    assert_eq!(ours.stats().links, LINKS_MAX);
    ours.follow(&state(), &conf(), 1);
    ours.tick(STRANGER_KEPT_MS, &mut out);
    assert_eq!(ours.stats().links, 1, "the other member");
}

#[test]
fn whose_address_is_another_members_by_now_is_forgotten_at_once() {
    let (mut ours, mut out) = (peers(US), Outputs::default());
    for (id, address) in [(100, "host-2:1"), (101, "elsewhere:1")] {
        let hello = pb::PeerHello {
            format_min: 1,
            format_max: 1,
            address: address.into(),
            ..Default::default()
        };
        ours.hello(MemberId(id), &hello, 0, &mut out);
    }
    ours.follow(&state(), &conf(), 1);
    ours.tick(1, &mut out);
    let reached = out.peers.expect("they have changed");
    let ids: Vec<u64> = reached.iter().map(|peer| peer.member.0).collect();
    assert_eq!(ids, [2, 101]);
}
