//! What a member notes of entries, and how it is gone on with.

use super::*;
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
        let mut world = Self {
            state: State::new(),
            history: History::begin(&State::new()),
            index: 0,
        };
        world.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![7; 16],
            epoch: 1,
            founder: None,
        }));
        world.apply(Body::PutNode(pb::PutNode {
            node_id: NODE.to_vec(),
            description: Some(pb::NodeDescription {
                name: "n1".into(),
                ..Default::default()
            }),
            worker: true,
            ..Default::default()
        }));
        world
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
        self.history.applied(&self.state, &applied.events, "ann");
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
        let newest = self.history.newest(None, HISTORY_MAX);
        newest.iter().map(|it| it.kind).collect()
    }

    fn after(&self, place: Revision, count: usize) -> Following {
        self.history.after(&self.state, place, None, count)
    }
}

fn known(following: Following) -> (Vec<&'static str>, Revision) {
    match following {
        Following::Known(found, upto) => (found.iter().map(|it| it.kind).collect(), upto),
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
    let told = world.history.newest(None, 5);
    let updated = told.iter().find(|it| it.kind == "service_updated");
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
    let of_it = world.history.newest(Some(web), 9);
    assert!(of_it.iter().all(|it| it.subject == Subject::Service(web)));
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
fn a_leader_is_told_of() {
    let mut world = World::new();
    world.state.advance(Index(world.index + 1), Term(4));
    world.history.elected(&world.state, None);
    let [elected] = &world.history.newest(None, 1)[..] else {
        panic!("one is asked for");
    };
    assert_eq!((elected.kind, &*elected.why), ("leader_elected", "term 4"));
}
