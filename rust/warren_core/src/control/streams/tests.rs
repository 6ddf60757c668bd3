//! Sessions and watches of much: served in slices, and all of them.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::control::causes::{self, Causes};
use crate::control::sessions::{Known, Sessions};
use crate::control::watches::Watches;
use crate::control::{CallId, Now, Outputs};
use crate::fsm::{DesiredState, Event, State};
use crate::ids::{ContainerId, Index, NodeId, ServiceId, Term};
use crate::orchestrator::Orchestrator;
use crate::pb::{self, command::Body};

/// More than two slices, and no whole number of them.
const CONTAINERS: usize = 1_300;
const NODE: NodeId = NodeId([3; 16]);

#[derive(Default)]
struct World {
    state: State,
    causes: Causes,
    index: u64,
}

impl World {
    fn known(&self) -> Known<'_> {
        Known {
            state: &self.state,
            causes: &self.causes,
        }
    }

    fn apply(&mut self, body: Body) -> Vec<u8> {
        self.index += 1;
        let mut entropy = vec![0; 12];
        entropy[..8].copy_from_slice(&self.index.to_be_bytes());
        let command = pb::Command {
            level: 1,
            entropy,
            body: Some(body),
            ..Default::default()
        };
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        applied.response.expect("it is right")
    }

    fn service(&mut self, name: &str) -> ServiceId {
        let container = pb::ContainerSpec {
            image: "web".to_owned(),
            image_digest: digest(),
            ..Default::default()
        };
        let spec = pb::ServiceSpec {
            name: name.to_owned(),
            mode: pb::ServiceMode::Replicated.into(),
            replicas: CONTAINERS as u32,
            container: Some(container),
            ..Default::default()
        };
        let spec = Some(spec);
        let created = self.apply(Body::CreateService(pb::CreateService { spec }));
        let created = pb::CreateServiceResponse::decode(&created[..]).expect("a response");
        ServiceId::from_slice(&created.service_id).expect("an id")
    }

    /// A cluster with one node.
    fn new() -> Self {
        let mut world = Self::default();
        world.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: None,
        }));
        let image = pb::NodeImage {
            digest: digest(),
            ..Default::default()
        };
        let description = pb::NodeDescription {
            name: "node".to_owned(),
            images: vec![image],
            ..Default::default()
        };
        world.apply(Body::PutNode(pb::PutNode {
            node_id: NODE.to_vec(),
            description: Some(description),
            worker: true,
            ..Default::default()
        }));
        world
    }

    fn bind(&mut self, service: ServiceId) {
        let items = (1..=CONTAINERS as u64).map(|slot| pb::BindItem {
            service_id: service.to_vec(),
            service_version: 1,
            slot,
            node_id: NODE.to_vec(),
            replaces: Vec::new(),
            ..Default::default()
        });
        let items = items.collect();
        self.apply(Body::Bind(pb::Bind { items }));
        assert_eq!(self.state.container_count(), CONTAINERS);
    }

    fn stop(&mut self, containers: &[ContainerId]) {
        let items = containers.iter().map(|id| pb::DesiredItem {
            container_id: id.to_vec(),
            desired: DesiredState::Stop.into(),
        });
        let items = items.collect();
        self.apply(Body::SetDesired(pb::SetDesired { items }));
    }
}

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

/// What a worker holds, as it is told.
#[derive(Default)]
struct Worker {
    held: BTreeMap<Vec<u8>, DesiredState>,
    specs: usize,
    complete: usize,
    set_hash: u64,
    requests: BTreeMap<Vec<u8>, Option<pb::RequestId>>,
}

impl Worker {
    fn take(&mut self, bytes: &[u8]) {
        let message = pb::ManagerMessage::decode(bytes).expect("a message");
        let Some(pb::manager_message::Body::Assignments(told)) = message.body else {
            return;
        };
        if told.complete {
            self.held.clear();
            self.complete += 1;
        }
        self.specs += told.specs.len();
        self.set_hash = told.set_hash;
        for told in told.upsert {
            self.held.insert(told.container_id.clone(), told.desired());
            self.requests.insert(told.container_id, told.request);
        }
        for id in told.remove {
            assert!(self.held.remove(&id).is_some(), "it was told of it");
        }
    }

    fn holds_all_of(&self, state: &State) {
        let containers = state.containers_of_node(NODE);
        let all: BTreeMap<_, _> = containers.map(|c| (c.id.to_vec(), c.desired)).collect();
        assert_eq!(self.held, all);
    }
}

const STREAM: CallId = CallId(9);

fn at(mono_ns: u64) -> Now {
    Now {
        mono_ns,
        wall_ms: 0,
    }
}

fn open(sessions: &mut Sessions, world: &World, hello: &pb::Hello) -> Outputs {
    let mut out = Outputs::default();
    let (term, heard_at) = ((1, Term(1)), Index(world.index));
    sessions.open(
        STREAM,
        NODE,
        hello,
        term,
        heard_at,
        [5; 12],
        pb::Managers::default(),
        &world.state,
        &mut out,
    );
    sessions.taken(at(2), STREAM, &mut Outputs::default());
    out
}

/// Steps until there is nothing more to do at once; how many it took.
fn settle(sessions: &mut Sessions, world: &World, worker: &mut Worker) -> usize {
    for step in 1.. {
        let mut out = Outputs::default();
        sessions.flush(world.known(), |_| <_>::default(), &mut out);
        for (_, item) in &out.items {
            worker.take(item);
            sessions.taken(at(2), STREAM, &mut Outputs::default());
        }
        if !out.again && out.items.is_empty() {
            return step;
        }
        assert!(step < 100, "it does not come to an end");
    }
    unreachable!("it ends or fails")
}

#[test]
fn a_large_set_takes_several_steps_and_is_one_message() {
    let mut world = World::new();
    let service = world.service("web");
    world.bind(service);
    let (mut sessions, mut worker) = (Sessions::default(), Worker::default());
    open(&mut sessions, &world, &pb::Hello::default());
    let steps = settle(&mut sessions, &world, &mut worker);
    assert!(steps > 2, "{steps}");
    assert_eq!((worker.complete, worker.specs), (1, 1));
    worker.holds_all_of(&world.state);
}

/// From the first change that a message tells of, until the worker's stream has taken it; what changes
/// while the message is on its way is the next one's.
#[test]
fn the_lag_of_assignments_is_that_of_the_oldest_change() {
    let mut world = World::new();
    let service = world.service("web");
    let (mut sessions, mut worker) = (Sessions::default(), Worker::default());
    open(&mut sessions, &world, &pb::Hello::default());
    settle(&mut sessions, &world, &mut worker);
    world.bind(service);
    let all: Vec<_> = world.state.containers_of_node(NODE).map(|c| c.id).collect();
    let taken = |sessions: &mut Sessions, now_ns| {
        let mut out = Outputs::default();
        sessions.taken(at(now_ns), STREAM, &mut out);
        out.samples.assignment_ns
    };
    let flush = |sessions: &mut Sessions| {
        let mut out = Outputs::default();
        sessions.flush(world.known(), |_| <_>::default(), &mut out);
        out.items.len()
    };
    sessions.touch(at(10), NODE, all[0]);
    sessions.touch(at(20), NODE, all[1]);
    assert_eq!(flush(&mut sessions), 1);
    sessions.touch(at(30), NODE, all[2]);
    assert_eq!(flush(&mut sessions), 0, "one message is on its way");
    assert_eq!(taken(&mut sessions, 100), [90]);
    assert_eq!(flush(&mut sessions), 1);
    assert_eq!(taken(&mut sessions, 150), [120]);
    // Nothing has changed since.
    assert_eq!(flush(&mut sessions), 0);
    assert_eq!(taken(&mut sessions, 200), []);
}

#[test]
fn what_changes_behind_a_walk_is_told_after_it() {
    let mut world = World::new();
    let service = world.service("web");
    world.bind(service);
    let (mut sessions, mut worker) = (Sessions::default(), Worker::default());
    open(&mut sessions, &world, &pb::Hello::default());
    let mut out = Outputs::default();
    sessions.flush(world.known(), |_| <_>::default(), &mut out);
    assert!(out.again && out.items.is_empty());
    let all: Vec<_> = world.state.containers_of_node(NODE).map(|c| c.id).collect();
    let some = [all[0], all[100], all[CONTAINERS - 1]];
    world.stop(&some);
    some.iter().for_each(|id| sessions.touch(at(1), NODE, *id));
    // What it holds already is on its way; it must come with its spec.
    sessions.resync(NODE);
    settle(&mut sessions, &world, &mut worker);
    assert_eq!((worker.complete, worker.specs), (1, 1));
    worker.holds_all_of(&world.state);
    // The hash that came along is that of a worker who has the set: it is not told again.
    let hello = pb::Hello {
        set_hash: worker.set_hash,
        last_revision: Some(world.state.revision().into()),
        ..Default::default()
    };
    open(&mut sessions, &world, &hello);
    let mut same = Worker::default();
    settle(&mut sessions, &world, &mut same);
    assert!(same.held.is_empty() && same.complete == 0);
}

#[test]
fn many_changes_are_told_in_several_messages() {
    let mut world = World::new();
    let service = world.service("web");
    let (mut sessions, mut worker) = (Sessions::default(), Worker::default());
    open(&mut sessions, &world, &pb::Hello::default());
    settle(&mut sessions, &world, &mut worker);
    world.bind(service);
    for container in world.state.containers_of_node(NODE) {
        sessions.touch(at(1), NODE, container.id);
    }
    settle(&mut sessions, &world, &mut worker);
    assert_eq!((worker.complete, worker.specs), (1, 1));
    worker.holds_all_of(&world.state);
}

/// Many workers whose sets do not fit at once: no more waits than may, and each gets its set.
#[test]
fn what_waits_for_all_workers_together_is_bounded() {
    const WORKERS: u8 = 40;
    const EACH: u64 = 10;
    let mut world = World::new();
    let service = world.service("web");
    let node = |number: u8| NodeId([100 + number; 16]);
    let description = |number: u8| pb::NodeDescription {
        name: format!("n{number}"),
        images: vec![pb::NodeImage {
            digest: digest(),
            ..Default::default()
        }],
        ..Default::default()
    };
    for number in 0..WORKERS {
        world.apply(Body::PutNode(pb::PutNode {
            node_id: node(number).to_vec(),
            description: Some(description(number)),
            worker: true,
            ..Default::default()
        }));
        let items = (1..=EACH).map(|slot| pb::BindItem {
            service_id: service.to_vec(),
            service_version: 1,
            slot: u64::from(number) * EACH + slot,
            node_id: node(number).to_vec(),
            ..Default::default()
        });
        let items = items.collect();
        world.apply(Body::Bind(pb::Bind { items }));
    }
    let mut sessions = Sessions::default();
    let mut waiting = BTreeMap::new();
    for number in 0..WORKERS {
        let mut out = Outputs::default();
        let stream = CallId(u64::from(number));
        let hello = pb::Hello::default();
        let heard_at = Index(world.index);
        sessions.open(
            stream,
            node(number),
            &hello,
            (1, Term(1)),
            heard_at,
            [number; 12],
            pb::Managers::default(),
            &world.state,
            &mut out,
        );
        waiting.extend(out.items);
    }
    let held = |waiting: &BTreeMap<CallId, Vec<u8>>| waiting.values().map(Vec::len).sum::<usize>();
    assert_eq!(sessions.waiting_bytes(), held(&waiting));
    std::mem::take(&mut waiting)
        .into_keys()
        .for_each(|id| sessions.taken(at(2), id, &mut Outputs::default()));
    assert_eq!(sessions.waiting_bytes(), 0);
    sessions.waiting_bytes_max = 3_000;
    let (mut told, mut most, mut gone) = (0, 0, 0);
    for _ in 0..1_000 {
        let mut out = Outputs::default();
        sessions.flush(world.known(), |_| <_>::default(), &mut out);
        let longest = out.items.iter().map(|(_, item)| item.len()).max();
        waiting.extend(out.items);
        assert_eq!(sessions.waiting_bytes(), held(&waiting));
        assert!(held(&waiting) < 3_000 + longest.unwrap_or(0));
        most = most.max(waiting.len());
        // One takes what it is sent, another one goes.
        let Some((id, item)) = waiting.pop_first() else {
            break;
        };
        let message = pb::ManagerMessage::decode(&item[..]).expect("a message");
        if let Some(pb::manager_message::Body::Assignments(all)) = message.body {
            assert_eq!((all.complete, all.upsert.len() as u64), (true, EACH));
            told += 1;
        }
        sessions.taken(at(2), id, &mut Outputs::default());
        if let Some((id, _)) = waiting.pop_last() {
            assert!(sessions.close(id).is_some());
            gone += 1;
        }
    }
    assert!(most > 1 && most < usize::from(WORKERS), "{most}");
    assert_eq!(told + gone, u64::from(WORKERS));
    assert_eq!(sessions.waiting_bytes(), 0);
}

#[test]
fn each_of_many_watches_has_its_turn() {
    const WATCHES: u64 = 50;
    let mut world = World::new();
    let service = world.service("web");
    let busy = world.service("busy");
    let orchestrator = Orchestrator::new(1);
    let mut watches = Watches::default();
    for id in 0..WATCHES {
        let watched = if id == 0 { busy } else { service };
        watches.open(CallId(id), watched).expect("there is room");
    }
    let mut told = BTreeMap::new();
    for _ in 0..10 {
        let mut out = Outputs::default();
        watches.flush(&world.state, &orchestrator, &mut out);
        for (id, item) in out.items {
            pb::ServiceProgress::decode(&item[..]).expect("progress");
            *told.entry(id).or_insert(0) += 1;
            watches.taken(id);
        }
        // It is dirty in every step, and keeps nobody from theirs.
        watches.touch(busy);
        if told.len() as u64 == WATCHES {
            break;
        }
    }
    assert_eq!(told.len() as u64, WATCHES);
    // Nothing has changed: nothing is said.
    watches.touch(service);
    let mut out = Outputs::default();
    for _ in 0..10 {
        watches.flush(&world.state, &orchestrator, &mut out);
    }
    assert!(out.items.is_empty());
    world.apply(Body::RemoveService(pb::RemoveService {
        service_id: service.to_vec(),
    }));
    world.apply(Body::ForgetService(pb::ForgetService {
        service_id: service.to_vec(),
    }));
    watches.touch(service);
    for _ in 0..10 {
        watches.flush(&world.state, &orchestrator, &mut out);
    }
    assert_eq!(out.ended.len() as u64, WATCHES - 1);
    assert_eq!(watches.len(), 1);
}

#[test]
fn a_container_is_told_with_what_changed_its_service_last() {
    let mut world = World::new();
    let service = world.service("web");
    world.bind(service);
    let by = |sequence| pb::RequestId {
        client: vec![0xc0; 16],
        sequence,
        digest: vec![1; 32],
    };
    let changed = |gone| Event::Service { id: service, gone };
    let told = |world: &World| {
        let (mut sessions, mut worker) = (Sessions::default(), Worker::default());
        open(&mut sessions, world, &pb::Hello::default());
        settle(&mut sessions, world, &mut worker);
        assert_eq!(worker.requests.len(), CONTAINERS);
        let mut told = worker.requests.into_values();
        let first = told.next().expect("there are many");
        assert!(told.all(|other| other == first));
        first.map(|request| (causes::name_of(&request), request.digest.len()))
    };
    assert_eq!(told(&world), None, "nobody knows who it was");
    world.causes.applied(Some(&by(7)), &[changed(false)]);
    world.causes.applied(None, &[changed(false)]);
    let name = format!("{}-7", "c0".repeat(16));
    assert_eq!(told(&world), Some((name, 0)));
    world.causes.applied(Some(&by(8)), &[changed(true)]);
    assert_eq!(told(&world), None, "it is gone");
    world.causes.applied(Some(&by(9)), &[changed(false)]);
    world.causes.retain(|_| false);
    assert_eq!(told(&world), None, "of another state");
}
