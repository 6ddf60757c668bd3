//! What must hold whatever commands come out of the log.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use prost::Message;
use support::commands::Commands;
use support::{Replica, Rng, digest, invariants, put_node, snapshot_bytes, spec};
use warren_core::fsm::{FEATURE_LEVEL_MAX, State, snapshot};
use warren_core::ids::{Index, Term};
use warren_core::pb::{self, command::Body};

const SEEDS: u64 = 90;
const COMMANDS: u64 = 400;

/// Every command is answered, and after each the invariants hold; what binds does not exceed
/// what a node had.
#[test]
fn apply_is_total_and_keeps_the_invariants() {
    let (mut binds, mut refusals, mut codes) = (0, 0, BTreeMap::new());
    let (mut with_ports, mut with_devices, mut with_holds) = (0, 0, 0);
    let mut with_volumes = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut commands = Commands { rng: Rng(seed) };
        let mut replica = match seed % 8 {
            0 => Replica::default(),
            1..4 => Replica::in_cluster(),
            _ => Replica::at_newest_level(),
        };
        let mut history = invariants::History::default();
        for _ in 0..COMMANDS {
            let command = commands.next(&replica);
            let before = replica.state.clone();
            let applied = replica.apply_command(&command);
            invariants::check(&replica.state);
            history.observe(&replica.state);
            no_bind_overcommits(&before, &replica.state);
            if let Err(refusal) = &applied.response {
                *codes.entry(refusal.code()).or_insert(0) += 1;
                refusals += 1;
                assert!(
                    applied.events.is_empty(),
                    "{command:?} was refused and changed something"
                );
            }
            let nodes = || replica.state.nodes().map(|node| node.id);
            with_ports += nodes().flat_map(|id| replica.state.port_claims(id)).count();
            with_devices += nodes()
                .flat_map(|id| replica.state.device_claims(id))
                .count();
            with_volumes += nodes()
                .flat_map(|id| replica.state.volume_claims(id))
                .count();
            with_holds += replica.state.hold_count();
            binds += replica
                .state
                .container_count()
                .saturating_sub(before.container_count());
        }
    }
    // The generator must reach what it is to test.
    assert!(
        binds > 250 && refusals > 1000,
        "{binds} binds, {refusals} refusals"
    );
    assert!(
        with_ports > 50 && with_holds > 10 && with_devices > 60 && with_volumes > 50,
        "{with_ports} with ports, {with_devices} with devices, {with_holds} with holds, \
         {with_volumes} with volumes"
    );
    for code in [
        "name_taken",
        "removing",
        "version_conflict",
        "request_reused",
        "unknown_level",
        "level_not_reached",
        "member_removed",
        "wrong_data_dir",
        "node_removed",
    ] {
        assert!(codes.contains_key(code), "{code} never came up: {codes:?}");
    }
}

fn no_bind_overcommits(before: &State, after: &State) {
    for node in after.nodes() {
        let (was, is) = (
            before.node_allocated(node.id),
            after.node_allocated(node.id),
        );
        let has = after.allocatable(node);
        for (was, is, has) in [
            (was.cpu_milli, is.cpu_milli, has.cpu_milli),
            (was.memory_bytes, is.memory_bytes, has.memory_bytes),
            (was.disk_bytes, is.disk_bytes, has.disk_bytes),
            (was.pids, is.pids, has.pids),
        ] {
            assert!(is <= was || is <= has, "{} overcommitted", node.name());
        }
    }
}

/// Two replicas fed the same commands are equal, also if one of them was restored from a snapshot
/// on the way; and they give the same answers.
#[test]
fn replicas_stay_equal_through_snapshots() {
    for seed in 1000..1000 + SEEDS / 2 {
        println!("seed {seed}");
        let mut commands = Commands { rng: Rng(seed) };
        let mut first = match seed % 2 {
            0 => Replica::in_cluster(),
            _ => Replica::at_newest_level(),
        };
        let mut second = first.clone();
        for n in 0..COMMANDS {
            let bytes = commands.next(&first).encode_to_vec();
            first.index += 1;
            second.index += 1;
            let (index, term) = (Index(first.index), Term(1));
            let one = first.state.apply_bytes(index, term, &bytes);
            let other = second.state.apply_bytes(index, term, &bytes);
            match (&one, &other) {
                (Ok(one), Ok(other)) => {
                    assert_eq!(one.events, other.events);
                    same_answer(&one.response, &other.response);
                }
                _ => assert_eq!(one, other),
            }
            if n % 50 == 20 {
                second.state = restored(&second.state);
            }
            assert_eq!(first.state.hash(), second.state.hash());
        }
        assert_eq!(first.bytes(), second.bytes());
    }
}

/// A refusal remembered is told apart from a new one only by its type.
fn same_answer(
    one: &Result<Vec<u8>, warren_core::error::Error>,
    other: &Result<Vec<u8>, warren_core::error::Error>,
) {
    let told = |answer: &Result<Vec<u8>, warren_core::error::Error>| {
        answer
            .clone()
            .map_err(|error| (error.code(), error.to_string()))
    };
    assert_eq!(told(one), told(other));
}

fn restored(state: &State) -> State {
    let bytes = snapshot_bytes(state);
    let (restored, header) = snapshot::read(&bytes[..]).expect("what was written is readable");
    assert_eq!(
        (header.index, header.conf_state),
        (state.index().0, b"conf".to_vec())
    );
    invariants::check(&restored);
    assert_eq!(snapshot_bytes(&restored), bytes);
    assert_eq!(restored.hash(), state.hash());
    restored
}

/// Garbage decodes or does not; neither panics.
#[test]
fn bytes_of_any_kind_are_answered_or_refused() {
    let mut rng = Rng(7);
    let mut commands = Commands { rng: Rng(8) };
    let mut replica = Replica::in_cluster();
    for n in 0..5_000 {
        let mut bytes = commands.next(&replica).encode_to_vec();
        for _ in 0..rng.below(4) {
            let position = rng.below(bytes.len().max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(position) {
                *byte = rng.next() as u8;
            }
        }
        replica.index += 1;
        let _answer = replica
            .state
            .apply_bytes(Index(replica.index), Term(1), &bytes);
        if n % 100 == 0 {
            invariants::check(&replica.state);
        }
    }
}

/// One byte changed or cut anywhere in a snapshot is an error, never another state.
#[test]
fn a_damaged_snapshot_is_never_taken_for_another() {
    let mut commands = Commands { rng: Rng(5) };
    let mut replica = Replica::in_cluster();
    for _ in 0..120 {
        let command = commands.next(&replica);
        replica.apply_command(&command);
    }
    let bytes = replica.bytes();
    for length in 0..bytes.len() {
        assert!(
            snapshot::read(&bytes[..length]).is_err(),
            "cut to {length} bytes"
        );
    }
    let mut rng = Rng(6);
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << rng.below(8);
        match snapshot::read(&damaged[..]) {
            Err(snapshot::ReadError::Damaged { offset, .. }) => {
                assert!(
                    offset <= position as u64,
                    "byte {position} reported at {offset}"
                );
            }
            Err(other) => panic!("byte {position}: {other}"),
            Ok(_) => panic!("byte {position}: the damage went unseen"),
        }
    }
}

/// However the bytes are cut, the same comes of them, and nothing before the last of them.
#[test]
fn a_snapshot_may_come_in_pieces() {
    let mut rng = Rng(9);
    let mut commands = Commands { rng: Rng(10) };
    let mut replica = Replica::in_cluster();
    for _ in 0..200 {
        let command = commands.next(&replica);
        replica.apply_command(&command);
    }
    let bytes = replica.bytes();
    for piece_max in [1, 7, 100, 5000] {
        let mut reader = snapshot::Reader::new(FEATURE_LEVEL_MAX);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = (1 + rng.below(piece_max) as usize).min(rest.len());
            reader.feed(&rest[..length]).expect("it is sound");
            rest = &rest[length..];
        }
        let (state, _) = reader.finish().expect("it is whole");
        assert_eq!(snapshot_bytes(&state), bytes);
        assert_eq!(state.hash(), replica.state.hash());
    }
}

/// A report is read where it lies, everything else as messages. That makes no difference, whatever
/// the bytes are.
#[test]
fn a_command_in_bytes_does_what_its_message_does() {
    let mut rng = Rng(21);
    let mut commands = Commands { rng: Rng(22) };
    let mut replica = Replica::in_cluster();
    let (mut reports, mut spoilt) = (0, 0);
    for n in 0..6_000 {
        let command = commands.next(&replica);
        reports += u32::from(matches!(command.body, Some(Body::ReportStatus(_))));
        let mut bytes = command.encode_to_vec();
        if n % 3 == 0 {
            let position = rng.below(bytes.len() as u64) as usize;
            bytes[position] = rng.next() as u8;
        }
        let mut other = replica.state.clone();
        let (index, term) = (Index(replica.index + 1), Term(1));
        let in_bytes = other.apply_bytes_as(u32::MAX, index, term, &bytes);
        match pb::Command::decode(&bytes[..]) {
            Ok(message) => {
                let applied = replica.state.apply(index, term, &message);
                assert_eq!(in_bytes.as_ref(), Ok(&applied), "{message:?}");
            }
            Err(_) => {
                assert!(in_bytes.is_err());
                spoilt += 1;
                continue;
            }
        }
        replica.index += 1;
        assert_eq!(other.hash(), replica.state.hash());
        assert_eq!(other.hash_from_scratch(), other.hash());
    }
    assert!(reports > 300 && spoilt > 300, "{reports} {spoilt}");
}

/// Bytes whose checksums are right, and nothing else: refused, or a state that holds what a state
/// must.
#[test]
fn a_snapshot_of_nonsense_is_refused_or_sound() {
    let mut rng = Rng(11);
    let mut commands = Commands { rng: Rng(12) };
    let mut replica = Replica::in_cluster();
    for _ in 0..150 {
        let command = commands.next(&replica);
        replica.apply_command(&command);
    }
    let sound = replica.bytes();
    let mut refused = 0;
    for _ in 0..3_000 {
        let mut bytes = sound.clone();
        for _ in 0..1 + rng.below(3) {
            let position = rng.below(bytes.len() as u64) as usize;
            bytes[position] = rng.next() as u8;
        }
        checksums_made_right(&mut bytes);
        match snapshot::read(&bytes[..]) {
            Ok((state, _)) => invariants::check(&state),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 2_500, "only {refused} of 3,000");
}

/// Walks the frames as far as their lengths lead.
fn checksums_made_right(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let Some(body) = bytes.get(at + 8..at + 8 + length) else {
            return;
        };
        let crc = crc32c::crc32c(body).to_le_bytes();
        bytes[at + 4..at + 8].copy_from_slice(&crc);
        at += 8 + length;
    }
}

/// A request is applied once however often it is repeated, also after a restore; one that the
/// window has lost is refused, never applied.
#[test]
fn a_request_is_applied_once() {
    let mut replica = Replica::in_cluster();
    let create = |replica: &Replica, sequence: u64| {
        let spec = spec(&format!("s{sequence}"), 1, "web");
        let mut command =
            replica.command(Body::CreateService(pb::CreateService { spec: Some(spec) }));
        let client = vec![1; 16];
        command.request = Some(pb::RequestId {
            client,
            sequence,
            digest: vec![sequence as u8; 32],
        });
        command
    };
    let command = create(&replica, 5);
    let first = replica
        .apply_command(&command)
        .response
        .expect("a new service");
    replica.state = restored(&replica.state);
    for _ in 0..3 {
        let repeated = replica.apply_command(&create(&replica, 5));
        assert_eq!(
            (repeated.response.as_ref(), repeated.events.len()),
            (Ok(&first), 0)
        );
    }
    assert_eq!(replica.state.service_count(), 1);
    let mut reused = create(&replica, 5);
    reused.request.as_mut().unwrap().digest = vec![9; 32];
    let reused = replica.apply_command(&reused).response.unwrap_err();
    assert_eq!(reused.code(), "request_reused");
    // A million entries later the answer is forgotten.
    replica.index += 1_000_001;
    let command = create(&replica, 6);
    replica
        .apply_command(&command)
        .response
        .expect("a new service");
    replica.state = restored(&replica.state);
    for sequence in [4, 5] {
        let late = replica
            .apply_command(&create(&replica, sequence))
            .response
            .unwrap_err();
        assert_eq!(late.code(), "request_too_old", "sequence {sequence}");
    }
    assert_eq!(replica.state.service_count(), 2);
}

#[test]
fn the_window_of_requests_is_bounded() {
    let mut replica = Replica::in_cluster();
    for client in 0..66_000_u32 {
        let body = Body::RemoveService(pb::RemoveService {
            service_id: vec![1; 16],
        });
        let mut command = replica.command(body);
        let mut id = [0; 16];
        id[..4].copy_from_slice(&client.to_be_bytes());
        command.request = Some(pb::RequestId {
            client: id.to_vec(),
            sequence: 1,
            digest: vec![1; 32],
        });
        replica.apply_command(&command);
    }
    assert_eq!(replica.state.request_count(), 65_536);
    assert!(
        replica.state.request(&[0; 16], 1).is_none(),
        "the oldest went first"
    );
}

/// An older clone is a state of its own: writes to the newer one do not show in it.
#[test]
fn clones_do_not_change() {
    let mut commands = Commands { rng: Rng(77) };
    let mut replica = Replica::in_cluster();
    let mut clones = Vec::new();
    for _ in 0..200 {
        clones.push((replica.state.clone(), replica.bytes()));
        let command = commands.next(&replica);
        replica.apply_command(&command);
    }
    for (state, bytes) in &clones {
        assert_eq!(&snapshot_bytes(state), bytes);
    }
}

#[test]
fn image_digests_are_decided_by_most_nodes_that_take_work() {
    let mut replica = Replica::in_cluster();
    let reference = "docker.io/library/web:latest";
    let missing = replica.state.image_digest(reference).unwrap_err();
    assert_eq!(missing.code(), "image_not_loaded");
    for (name, other) in [("n1", "b"), ("n2", "c"), ("n3", "c"), ("n4", "b")] {
        let mut body = put_node(name, 1000, 64, &["web"]);
        if let Body::PutNode(put) = &mut body {
            put.description.as_mut().unwrap().images[0].digest = digest(other);
        }
        replica.apply(body).response.expect("a node");
    }
    assert_eq!(
        replica.state.image_digest(reference),
        Ok(digest("b")),
        "a tie: the lesser"
    );
    let down = pb::SetNodeStatus {
        node_id: support::node_id("n1").to_vec(),
        status: 2,
    };
    replica
        .apply(Body::SetNodeStatus(down))
        .response
        .expect("a known node");
    assert_eq!(replica.state.image_digest(reference), Ok(digest("c")));
    let exact = format!("docker.io/library/web@{}", digest("b"));
    assert_eq!(replica.state.image_digest(&exact), Ok(digest("b")));
}
