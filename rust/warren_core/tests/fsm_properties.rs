//! What must hold whatever commands come out of the log.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use prost::Message;
use support::{Replica, Rng, digest, invariants, put_node, snapshot_bytes, spec};
use warren_core::fsm::{State, snapshot};
use warren_core::ids::{Index, Term};
use warren_core::pb::{self, command::Body};

const SEEDS: u64 = 60;
const COMMANDS: u64 = 400;

/// Commands that often make sense and as often do not: ids, versions, slots and states from small
/// pools, and now and then no sense at all.
struct Commands {
    rng: Rng,
}

impl Commands {
    fn next(&mut self, replica: &Replica) -> pb::Command {
        let body = self.body(&replica.state);
        let mut command = replica.command(body);
        if self.rng.chance(3) {
            command.entropy = self.bytes(20);
        }
        if self.rng.chance(2) {
            command.body = None;
        }
        if self.rng.chance(30) {
            command.request = Some(self.request());
        }
        command.time_ms = self.rng.below(1 << 40);
        command.level = if self.rng.chance(2) { 9 } else { 1 };
        command
    }

    fn request(&mut self) -> pb::RequestId {
        let client = if self.rng.chance(5) {
            self.bytes(20)
        } else {
            vec![self.small(3); 16]
        };
        let digest = if self.rng.chance(5) {
            self.bytes(40)
        } else {
            vec![self.small(2); 32]
        };
        pb::RequestId {
            client,
            sequence: self.rng.below(40),
            digest,
        }
    }

    fn small(&mut self, end: u64) -> u8 {
        self.rng.below(end) as u8
    }

    fn bytes(&mut self, length_max: u64) -> Vec<u8> {
        let length = self.rng.below(length_max + 1);
        (0..length).map(|_| self.rng.next() as u8).collect()
    }

    fn body(&mut self, state: &State) -> Body {
        let service_id = self.service(state);
        let node_id = self.node();
        match self.rng.below(22) {
            0 => {
                let cluster_id = if self.rng.chance(80) {
                    vec![7; 16]
                } else {
                    self.bytes(17)
                };
                Body::CreateCluster(pb::CreateCluster {
                    cluster_id,
                    epoch: 1,
                })
            }
            1 => Body::RaiseFeatureLevel(pb::RaiseFeatureLevel {
                level: self.small(3).into(),
            }),
            2..=4 => Body::CreateService(pb::CreateService { spec: self.spec() }),
            5..=6 => {
                let known = state.services().map(|s| (s.id.to_vec(), s.version));
                let (service_id, version) = known.last().unwrap_or_default();
                let expected_version = version + u64::from(self.small(5) / 4);
                let spec = self.spec();
                Body::UpdateService(pb::UpdateService {
                    service_id,
                    expected_version,
                    spec,
                })
            }
            7 if self.rng.chance(15) => Body::RemoveService(pb::RemoveService { service_id }),
            8 => Body::ForgetService(pb::ForgetService { service_id }),
            9..=10 => self.put_node(),
            11 => {
                let status = if self.rng.chance(70) {
                    1
                } else {
                    self.small(4).into()
                };
                Body::SetNodeStatus(pb::SetNodeStatus { node_id, status })
            }
            12..=15 => Body::Bind(pb::Bind {
                items: self.many(|s| s.bind_item(state)),
            }),
            16..=17 => {
                let items = self.many(|s| pb::DesiredItem {
                    container_id: s.container(state),
                    desired: s.small(5).into(),
                });
                Body::SetDesired(pb::SetDesired { items })
            }
            _ => {
                let items = self.many(|s| s.status_item(state));
                Body::ReportStatus(pb::ReportStatus { node_id, items })
            }
        }
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.rng.below(6)).map(|_| one(self)).collect()
    }

    fn spec(&mut self) -> Option<pb::ServiceSpec> {
        let name = *self.rng.pick(&["a", "b", "c", "d", "Not A Label"]);
        let mut spec = spec(name, self.rng.below(5) as u32, "web");
        let container = spec.container.as_mut().unwrap();
        container.resources = Some(pb::Resources {
            cpu_milli: self.rng.below(3) * 400,
            memory_bytes: 0,
        });
        if self.rng.chance(20) {
            (spec.mode, spec.replicas) = (pb::ServiceMode::Global.into(), 0);
        }
        if self.rng.chance(5) {
            container.image_digest = String::from_utf8_lossy(&self.bytes(9)).into_owned();
        }
        if self.rng.chance(5) {
            spec.container = None;
        }
        (!self.rng.chance(2)).then_some(spec)
    }

    fn put_node(&mut self) -> Body {
        let name = *self.rng.pick(&["n1", "n2", "n3"]);
        let images: &[&str] = if self.rng.chance(90) { &["web"] } else { &[] };
        let mut body = put_node(name, self.rng.below(6) * 500, 64, images);
        if let Body::PutNode(put) = &mut body {
            put.worker = self.rng.chance(95);
            if self.rng.chance(3) {
                put.description = None;
            }
            if self.rng.chance(3) {
                put.node_id = self.bytes(17);
            }
        }
        body
    }

    fn node(&mut self) -> Vec<u8> {
        match *self.rng.pick(&["n1", "n2", "n3", ""]) {
            "" => self.bytes(17),
            name => support::node_id(name).to_vec(),
        }
    }

    fn service(&mut self, state: &State) -> Vec<u8> {
        let known: Vec<_> = state
            .services()
            .map(|service| service.id.to_vec())
            .collect();
        if known.is_empty() || self.rng.chance(5) {
            self.bytes(17)
        } else {
            self.rng.pick(&known).clone()
        }
    }

    fn container(&mut self, state: &State) -> Vec<u8> {
        let known: Vec<_> = state
            .containers()
            .map(|container| container.id.to_vec())
            .collect();
        if known.is_empty() || self.rng.chance(5) {
            self.bytes(17)
        } else {
            self.rng.pick(&known).clone()
        }
    }

    fn bind_item(&mut self, state: &State) -> pb::BindItem {
        let service_id = self.service(state);
        let version = state
            .services()
            .find(|s| s.id.to_vec() == service_id)
            .map(|s| s.version);
        let replaces = if self.rng.chance(40) {
            self.container(state)
        } else {
            Vec::new()
        };
        pb::BindItem {
            service_id,
            service_version: version.unwrap_or_default() + u64::from(self.rng.chance(5)),
            slot: self.rng.below(6),
            node_id: self.node(),
            replaces,
        }
    }

    fn status_item(&mut self, state: &State) -> pb::StatusItem {
        let status = pb::ContainerStatus {
            attempt: self.small(4).into(),
            state: self.small(12).into(),
            message: "é".repeat(self.rng.below(800) as usize),
            exited: self.rng.chance(50),
            exit_code: self.small(3).into(),
            removed: self.rng.chance(20),
            ..Default::default()
        };
        let status = (!self.rng.chance(3)).then_some(status);
        pb::StatusItem {
            container_id: self.container(state),
            status,
        }
    }
}

/// Every command is answered, and after each the invariants hold; what binds does not exceed
/// what a node had.
#[test]
fn apply_is_total_and_keeps_the_invariants() {
    let (mut binds, mut refusals, mut codes) = (0, 0, BTreeMap::new());
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut commands = Commands { rng: Rng(seed) };
        let mut replica = if seed % 8 == 0 {
            Replica::default()
        } else {
            Replica::in_cluster()
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
            binds += replica
                .state
                .container_count()
                .saturating_sub(before.container_count());
        }
    }
    // The generator must reach what it is to test.
    assert!(
        binds > 400 && refusals > 1000,
        "{binds} binds, {refusals} refusals"
    );
    for code in [
        "name_taken",
        "removing",
        "version_conflict",
        "request_reused",
        "unknown_level",
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
        if is.cpu_milli > was.cpu_milli {
            assert!(
                is.cpu_milli <= node.allocatable().cpu_milli,
                "{} overcommitted",
                node.name()
            );
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
        let mut first = Replica::in_cluster();
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
