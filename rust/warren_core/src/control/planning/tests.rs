//! Plans as messages, on a small cluster.

use crate::control::planning::answer;
use crate::fsm::{FEATURE_LEVEL_MAX, State};
use crate::ids::{Index, Term};
use crate::orchestrator::KnownFailing;
use crate::pb::{self, command::Body, plan_item::Item};

const IMAGE: &str = "docker.io/library/web:1";

fn digest(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

/// What keeps failing.
fn nothing() -> KnownFailing {
    KnownFailing::default()
}

struct World {
    state: State,
    index: u64,
}

impl World {
    /// Nodes `n0`, `n1` … with so many CPUs each.
    fn new(cpus: &[u64]) -> Self {
        let mut world = Self {
            state: State::new(),
            index: 0,
        };
        world.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![1; 16],
            epoch: 1,
            founder: Some(pb::Member {
                id: 1,
                data_dir: vec![1; 16],
                node_id: vec![1; 16],
                address: "n0:1".into(),
                voter: true,
                feature_level_max: FEATURE_LEVEL_MAX,
                ..Default::default()
            }),
        }));
        let level = FEATURE_LEVEL_MAX;
        world.apply(Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level }));
        for (number, cpus) in cpus.iter().enumerate() {
            world.node(number as u8, *cpus, &digest('a'));
        }
        world
    }

    fn node(&mut self, number: u8, cpus: u64, digest: &str) {
        let image = pb::NodeImage {
            reference: IMAGE.into(),
            digest: digest.into(),
            size_bytes: 1,
        };
        let description = pb::NodeDescription {
            name: format!("n{number}"),
            capacity: Some(pb::Resources {
                cpu_milli: cpus * 1000,
                memory_bytes: 1 << 30,
                ..Default::default()
            }),
            images: vec![image],
            ..Default::default()
        };
        self.apply(Body::PutNode(pb::PutNode {
            node_id: vec![number + 1; 16],
            description: Some(description),
            worker: true,
            ..Default::default()
        }));
    }

    fn apply(&mut self, body: Body) {
        self.index += 1;
        let mut entropy = [0; 12];
        entropy[..8].copy_from_slice(&self.index.to_le_bytes());
        let command = pb::Command {
            level: self.state.feature_level(),
            time_ms: self.index,
            entropy: entropy.to_vec(),
            body: Some(body),
            ..Default::default()
        };
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        applied.response.expect("it makes sense");
    }

    /// A service with its containers bound where `nodes` say, slot by slot.
    fn service(&mut self, name: &str, nodes: &[u8]) {
        let mut spec = spec(name, nodes.len() as u32);
        let container = spec.container.as_mut().expect("it has one");
        container.image_digest = digest('a');
        self.apply(Body::CreateService(pb::CreateService { spec: Some(spec) }));
        let service = self.state.service_by_name(name).expect("created").clone();
        let items = nodes.iter().enumerate().map(|(slot, node)| pb::BindItem {
            service_id: service.id.to_vec(),
            service_version: 1,
            slot: slot as u64 + 1,
            node_id: vec![node + 1; 16],
            ..Default::default()
        });
        let items = items.collect();
        self.apply(Body::Bind(pb::Bind { items }));
    }

    fn plan(&self, items: Vec<Item>) -> Vec<pb::PlannedService> {
        let items = items
            .into_iter()
            .map(|item| pb::PlanItem { item: Some(item) });
        let items = items.collect();
        let before = self.state.hash();
        let told =
            answer(&self.state, &nothing(), pb::PlanRequest { items }).expect("it makes sense");
        assert!(!told.unfinished);
        assert_eq!(self.state.hash(), before);
        told.services
    }
}

/// One CPU each.
fn spec(name: &str, replicas: u32) -> pb::ServiceSpec {
    pb::ServiceSpec {
        name: name.into(),
        mode: pb::ServiceMode::Replicated.into(),
        replicas,
        container: Some(pb::ContainerSpec {
            image: "web:1".into(),
            resources: Some(pb::Resources {
                cpu_milli: 1000,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn on(nodes: &[pb::PlannedNode]) -> Vec<(&str, u32)> {
    nodes.iter().map(|it| (&it.name[..], it.count)).collect()
}

#[test]
fn what_is_declared_is_created_changed_or_left_as_it_is() {
    let mut world = World::new(&[4, 4]);
    world.service("old", &[0, 1]);
    // The reference means other bytes by now; what runs is not changed by saying it again.
    world.node(0, 4, &digest('b'));
    world.node(1, 4, &digest('b'));
    world.node(2, 4, &digest('a'));
    let told = world.plan(vec![
        Item::Service(spec("old", 2)),
        Item::Service(spec("new", 1)),
    ]);
    let actions: Vec<_> = told
        .iter()
        .map(|it| (&it.name[..], &it.action[..]))
        .collect();
    assert_eq!(actions, [("old", "none"), ("new", "create")]);
    assert_eq!((told[0].unchanged, told[0].placed.len()), (2, 0));
    assert_eq!(told[1].before, None);
    let told = world.plan(vec![Item::Service(spec("old", 3))]);
    assert_eq!(told[0].action, "update");
    assert_eq!(
        (told[0].unchanged, on(&told[0].placed)),
        (2, vec![("n2", 1)])
    );
}

#[test]
fn what_finds_no_room_is_told_with_the_reason() {
    let world = World::new(&[2, 1]);
    let told = world.plan(vec![Item::Create(pb::PlanCreate {
        spec: Some(spec("new", 5)),
    })]);
    assert_eq!(on(&told[0].placed), [("n0", 2), ("n1", 1)]);
    assert_eq!((told[0].desired, told[0].pending), (5, 2));
    let reason = &told[0].pending_reason;
    assert!(
        reason.contains("not enough CPU (asked 1, most free 0)"),
        "{reason}"
    );
}

#[test]
fn services_of_one_plan_count_on_each_others_room() {
    let world = World::new(&[2, 1]);
    let told = world.plan(vec![
        Item::Service(spec("a", 2)),
        Item::Service(spec("b", 2)),
    ]);
    let placed: u32 = told
        .iter()
        .flat_map(|it| &it.placed)
        .map(|it| it.count)
        .sum();
    let pending: u32 = told.iter().map(|it| it.pending).sum();
    assert_eq!((placed, pending), (3, 1));
}

#[test]
fn a_drain_tells_of_what_moves_and_of_what_stays() {
    let mut world = World::new(&[3, 2]);
    world.service("a", &[0, 1]);
    world.service("b", &[0, 0]);
    let told = world.plan(vec![Item::DrainNode("n0".into())]);
    let moved: u32 = told
        .iter()
        .flat_map(|it| &it.placed)
        .map(|it| it.count)
        .sum();
    let blocked: u32 = told.iter().map(|it| it.blocked).sum();
    assert_eq!((moved, blocked), (1, 2), "{told:?}");
    assert!(
        told.iter()
            .all(|it| it.action == "moved" && it.preempted.is_empty())
    );
    let reasons: Vec<_> = told.iter().map(|it| &it.blocked_reason[..]).collect();
    let stays = |reason: &&&str| reason.contains("stays on a node that is being drained");
    assert!(reasons.iter().any(|reason| stays(&reason)), "{reasons:?}");
}

#[test]
fn what_would_be_refused_is_refused() {
    let mut world = World::new(&[2]);
    world.service("old", &[0]);
    let refused = |item| {
        let items = vec![pb::PlanItem { item }];
        let told = answer(&world.state, &nothing(), pb::PlanRequest { items });
        told.expect_err("it makes no sense").code()
    };
    let create = |spec| Some(Item::Create(pb::PlanCreate { spec: Some(spec) }));
    assert_eq!(refused(create(spec("old", 1))), "name_taken");
    assert_eq!(refused(create(spec("Not a name", 1))), "invalid");
    assert_eq!(refused(None), "invalid");
    assert_eq!(
        refused(Some(Item::DrainNode("nowhere".into()))),
        "not_found"
    );
    let service_id = world.state.services().next().expect("one").id.to_vec();
    let update = pb::PlanUpdate {
        service_id,
        expected_version: 9,
        spec: Some(spec("old", 1)),
    };
    assert_eq!(refused(Some(Item::Update(update))), "version_conflict");
}

#[test]
fn who_would_make_room_is_told_one_by_one_and_by_node() {
    let mut world = World::new(&[2, 2]);
    world.service("old", &[0, 0, 1]);
    let mut urgent = spec("web", 2);
    urgent.placement = Some(pb::Placement {
        priority: Some(80),
        preempt: true,
        ..Default::default()
    });
    let items = vec![pb::PlanItem {
        item: Some(Item::Service(urgent)),
    }];
    let told = answer(&world.state, &nothing(), pb::PlanRequest { items }).expect("it makes sense");
    let (web, old) = (&told.services[0], &told.services[1]);
    assert_eq!((web.placed.len(), web.pending), (2, 0));
    assert_eq!(
        (&old.action[..], old.unchanged, old.pending),
        ("preempted", 2, 1)
    );
    assert_eq!(old.preempted.len(), 1);
    assert!(old.stopped.is_empty());
    assert_eq!(told.preempted_total, 1);
    let [victim] = &told.preempted[..] else {
        panic!("{:?}", told.preempted)
    };
    assert_eq!((&victim.service_name[..], victim.priority), ("old", 50));
    assert_eq!(victim.node_name, old.preempted[0].name);
    assert_eq!(
        (&victim.by_service_name[..], victim.by_priority),
        ("web", 80)
    );
}
