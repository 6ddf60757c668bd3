//! What a member notes of entries, and how it is gone on with.

use super::*;
use crate::fsm::Settings;
use crate::ids::{Index, Term};
use crate::pb::{self, command::Body};

const NODE: NodeId = NodeId([3; 16]);

struct World {
    state: State,
    history: History,
    index: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self::empty();
        world.found();
        world
    }

    fn empty() -> Self {
        Self {
            state: State::new(),
            history: History::begin(&State::new()),
            index: 0,
        }
    }

    fn found(&mut self) {
        self.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: Some(pb::Member {
                id: 1,
                data_dir: vec![1; 16],
                node_id: NODE.to_vec(),
                address: "n1:1".into(),
                feature_level_max: 1,
                voter: true,
                ..Default::default()
            }),
        }));
        self.apply(Body::PutNode(pb::PutNode {
            node_id: NODE.to_vec(),
            description: Some(pb::NodeDescription {
                name: "n1".into(),
                ..Default::default()
            }),
            worker: true,
            ..Default::default()
        }));
    }

    fn apply(&mut self, body: Body) {
        self.index += 1;
        let mut entropy = vec![0; 12];
        entropy[..8].copy_from_slice(&self.index.to_be_bytes());
        let command = pb::Command {
            level: 1,
            entropy,
            time_ms: 1000 * self.index,
            body: Some(body),
            ..Default::default()
        };
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        applied.response.expect("it is right");
        self.history.dated(&self.state);
        self.history.applied(&self.state, &applied.events, "ann");
    }

    /// An entry without a command; `own_ms` as for [`History::elected`].
    fn elect(&mut self, term: u64, own_ms: Option<u64>) {
        self.index += 1;
        self.state.advance(Index(self.index), Term(term));
        self.history.elected(&self.state, None, own_ms);
    }

    fn status(&mut self, status: pb::NodeStatus) {
        self.apply(Body::SetNodeStatus(pb::SetNodeStatus {
            node_id: NODE.to_vec(),
            status: status.into(),
        }));
    }

    fn create(&mut self, name: &str) -> ServiceId {
        let spec = pb::ServiceSpec {
            name: name.to_owned(),
            mode: pb::ServiceMode::Replicated.into(),
            replicas: 1,
            container: Some(pb::ContainerSpec {
                image: "web".to_owned(),
                image_digest: format!("sha256:{}", "0".repeat(64)),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.apply(Body::CreateService(pb::CreateService { spec: Some(spec) }));
        self.state.service_by_name(name).expect("it is there").id
    }

    fn kinds(&self) -> Vec<&'static str> {
        let newest = self.history.newest(|_| true, HISTORY_MAX);
        newest.iter().map(|it| it.kind.word()).collect()
    }

    fn after(&self, place: Revision, count: usize) -> Following {
        self.history.after(&self.state, place, |_| true, count)
    }
}

fn known(following: Following) -> (Vec<&'static str>, Revision) {
    match following {
        Following::Known(found, upto) => (found.iter().map(|it| it.kind.word()).collect(), upto),
        Following::Lost => panic!("it is there"),
    }
}

#[test]
fn each_change_is_told_by_what_it_changed() {
    let mut world = World::new();
    world.status(pb::NodeStatus::Down);
    world.status(pb::NodeStatus::Ready);
    let web = world.create("web");
    let service = world.state.service(web).expect("it is there");
    let mut spec = service.spec.as_ref().clone();
    spec.replicas = 2;
    world.apply(Body::UpdateService(pb::UpdateService {
        service_id: web.to_vec(),
        expected_version: service.version,
        spec: Some(spec),
    }));
    world.apply(Body::RemoveService(pb::RemoveService {
        service_id: web.to_vec(),
    }));
    let told = world.history.newest(|_| true, 5);
    let updated = told.iter().find(|it| it.kind == Kind::ServiceUpdated);
    let updated = updated.expect("it was updated");
    assert_eq!(updated.why, "version 2; asked for by ann");
    assert_eq!(
        (&*updated.name, updated.subject),
        ("web", Subject::Service(web))
    );
    assert_eq!(updated.time_ms, 1000 * updated.at.index);
    let kinds = world.kinds();
    let expected = [
        "node_joined",
        "node_down",
        "node_ready",
        "service_created",
        "service_updated",
        "service_removing",
    ];
    assert!(kinds.ends_with(&expected), "{kinds:?}");
    let of_it = |it: &Happened| it.subject == Subject::Service(web);
    let of_it = world.history.newest(of_it, 9);
    assert_eq!(of_it.len(), 3);
}

#[test]
fn it_is_followed_in_pieces_without_a_gap_on_any_member() {
    let mut world = World::new();
    let began = end_of(&world.state);
    for number in 0..10 {
        world.create(&format!("s{number}"));
        world.status(pb::NodeStatus::Down);
        world.status(pb::NodeStatus::Ready);
    }
    // Another member, which began with a snapshot somewhere before.
    let other = World {
        state: world.state.clone(),
        history: History {
            events: world.history.events.iter().skip(1).cloned().collect(),
            from: world.history.events[0].at,
            ..History::default()
        },
        index: world.index,
    };
    let (mut place, mut told) = (began, Vec::new());
    for turn in 0.. {
        let member = if turn % 2 == 0 { &world } else { &other };
        let (kinds, upto) = known(member.after(place, 7));
        assert!(upto >= place && kinds.len() <= 7);
        (place, _) = (upto, told.extend(kinds.iter().copied()));
        if kinds.len() < 7 {
            break;
        }
    }
    assert_eq!(told.len(), 30);
    assert_eq!(told, world.kinds()[world.kinds().len() - 30..]);
    assert_eq!(place, end_of(&world.state));
    assert_eq!(known(world.after(place, 7)), (vec![], place));
}

#[test]
fn what_is_not_there_any_more_is_said() {
    let mut world = World::new();
    let began = end_of(&world.state);
    for _ in 0..HISTORY_MAX / 2 {
        world.status(pb::NodeStatus::Down);
        world.status(pb::NodeStatus::Ready);
    }
    assert_eq!(world.history.events.len(), HISTORY_MAX);
    let (kinds, _) = known(world.after(began, HISTORY_MAX));
    assert_eq!(kinds.len(), HISTORY_MAX, "just all of it");
    world.status(pb::NodeStatus::Down);
    assert_eq!(world.after(began, 1), Following::Lost);
    let foreign = Revision {
        epoch: 2,
        ..end_of(&world.state)
    };
    assert_eq!(world.after(foreign, 1), Following::Lost);
    // A member that has not come so far knows of nothing yet, and loses nothing.
    let ahead = Revision {
        index: world.index + 5,
        ..end_of(&world.state)
    };
    assert_eq!(known(world.after(ahead, 9)), (vec![], ahead));
}

#[test]
fn a_place_goes_on_past_what_is_not_wanted() {
    let mut world = World::new();
    let began = end_of(&world.state);
    world.status(pb::NodeStatus::Down);
    world.status(pb::NodeStatus::Ready);
    let down = |it: &Happened| it.kind == Kind::NodeDown;
    let after =
        |world: &World, place, count| known(world.history.after(&world.state, place, down, count));
    let (kinds, upto) = after(&world, began, 9);
    assert_eq!((kinds, upto), (vec!["node_down"], end_of(&world.state)));
    // A full answer goes no further than what is in it.
    let (kinds, upto) = after(&world, began, 1);
    assert_eq!(kinds, ["node_down"]);
    assert!(upto < end_of(&world.state));
    assert_eq!(after(&world, upto, 1), (vec![], end_of(&world.state)));
}

#[test]
fn what_is_gone_is_known_by_its_name_and_its_id() {
    let mut world = World::new();
    let web = world.create("web");
    let removed = [Event::Service {
        id: web,
        gone: true,
    }];
    world.history.applied(&world.state, &removed, "");
    let history = &world.history;
    assert_eq!(history.service_called("web"), Some(web));
    assert_eq!(history.service_called(&web.to_string()), Some(web));
    assert_eq!(history.node_called("n1"), Some(NODE));
    assert_eq!(history.node_called("web"), None);
    assert_eq!(history.service_called("n1"), None);
    // Neither what is of the cluster, which has no name, nor a beginning.
    assert_eq!(history.node_called(""), None);
    assert_eq!(history.service_called("we"), None);
}

#[test]
fn the_id_of_what_is_gone_is_written_like_that_of_what_is_there() {
    let mut world = World::new();
    let node = NodeId([0xab; 16]);
    let subject = Subject::Node(node);
    world.history.push(Happened {
        at: end_of(&world.state),
        time_ms: 1,
        kind: Kind::NodeRemoved,
        subject,
        name: "n2".into(),
        why: String::new(),
    });
    for written in ["ab".repeat(16), "AB".repeat(16)] {
        assert_eq!(world.history.node_called(&written), Some(node), "{written}");
    }
    assert_eq!(world.history.node_called(&"ab".repeat(15)), None);
}

#[test]
fn an_election_has_the_time_of_its_leader_or_of_the_next_command() {
    let mut world = World::new();
    world.elect(4, None);
    world.elect(5, None);
    let newest = |world: &World| world.history.newest(|_| true, 3);
    let times = |world: &World| {
        newest(world)
            .iter()
            .map(|it| it.time_ms)
            .collect::<Vec<_>>()
    };
    assert_eq!(times(&world), [2_000, 2_000, 2_000], "so far as is known");
    world.index = 8;
    world.status(pb::NodeStatus::Down);
    assert_eq!(times(&world), [9_000, 9_000, 9_000]);
    world.elect(6, Some(60_000));
    world.elect(7, None);
    world.elect(8, Some(70_000));
    assert_eq!(times(&world), [60_000, 70_000, 70_000]);
    // A clock that went back takes nothing back.
    world.elect(9, Some(50_000));
    world.status(pb::NodeStatus::Ready);
    assert_eq!(times(&world), [70_000, 70_000, 70_000]);
    let elected = &newest(&world)[1];
    let told = (elected.kind, &*elected.why, elected.subject);
    assert_eq!(told, (Kind::LeaderElected, "term 9", Subject::Cluster));
}

/// Whoever reads the log again later finds the same as whoever was there.
#[test]
fn who_founded_the_cluster_was_its_first_leader() {
    for own_ms in [Some(900), None] {
        let mut world = World::empty();
        world.elect(1, own_ms);
        world.found();
        let told = world.history.newest(|_| true, 9);
        let of = |kind| told.iter().find(|it| it.kind == kind).expect("it is told");
        for kind in [Kind::LeaderElected, Kind::ManagerAdded, Kind::NodeJoined] {
            let it = of(kind);
            assert_eq!(
                (it.subject, &*it.name),
                (Subject::Node(NODE), "n1"),
                "{kind:?}"
            );
        }
        let elected_ms = of(Kind::LeaderElected).time_ms;
        assert_eq!(elected_ms, own_ms.unwrap_or(2_000));
    }
}

#[test]
fn a_change_of_the_cluster_says_what() {
    let world = World::new();
    let founded = world
        .history
        .newest(|it| it.kind == Kind::ClusterChanged, 9);
    assert_eq!(founded[0].why, "founded; asked for by ann");
    let before = world.state.cluster().expect("it is founded").clone();
    let mut now = before.clone();
    (now.feature_level, now.epoch) = (before.feature_level + 1, before.epoch + 1);
    now.settings = Some(Settings {
        node_grace_ms: 1,
        ..Settings::default()
    });
    let what = what_changed(Some(&before), &now);
    assert_eq!(what, "node-grace, feature level 2, epoch 2");
    now.settings = Some(Settings::default());
    now.epoch = before.epoch;
    assert_eq!(what_changed(Some(&before), &now), "feature level 2");
}
