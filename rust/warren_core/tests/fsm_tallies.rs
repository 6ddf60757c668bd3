//! Counts of services of many blocks of slots, which random commands do not come to make.

#[path = "fsm_support/mod.rs"]
mod support;

use support::{Replica, Rng, invariants, node_id, put_node, spec};
use warren_core::fsm::{
    BATCH_ITEMS_MAX, ContainerState, DesiredState, NodeStatus, State, snapshot,
};
use warren_core::ids::ServiceId;
use warren_core::pb::{self, command::Body};

/// More than two blocks.
const REPLICAS: u32 = 2_500;
const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn bind_all(replica: &mut Replica, service: ServiceId) {
    let found = replica.state.service(service).expect("it exists");
    let (service_version, slots) = (found.version, u64::from(found.spec.replicas));
    let items: Vec<_> = (1..=slots)
        .map(|slot| pb::BindItem {
            service_id: service.to_vec(),
            service_version,
            slot,
            node_id: node_id(NODES[slot as usize % NODES.len()]).to_vec(),
            replaces: Vec::new(),
            ..Default::default()
        })
        .collect();
    for items in items.chunks(BATCH_ITEMS_MAX) {
        let items = items.to_vec();
        replica.apply(Body::Bind(pb::Bind { items }));
    }
}

/// Some containers of a node get on, in any direction.
fn report_some(replica: &mut Replica, rng: &mut Rng, node: &str) {
    use ContainerState::*;
    let states = [
        Running, Running, Running, Failed, Complete, Pending, Starting,
    ];
    let mut items = Vec::new();
    for container in replica.state.containers_of_node(node_id(node)) {
        if rng.chance(40) {
            let state = *rng.pick(&states);
            let status = pb::ContainerStatus {
                attempt: container.status.attempt + u32::from(rng.chance(50)),
                state: state.into(),
                message: if rng.chance(1) { "oh" } else { "" }.to_owned(),
                ..Default::default()
            };
            items.push(pb::StatusItem {
                container_id: container.id.to_vec(),
                status: Some(status),
            });
        }
    }
    let node_id = node_id(node).to_vec();
    replica.apply(Body::ReportStatus(pb::ReportStatus { node_id, items }));
}

fn stop_some(replica: &mut Replica, rng: &mut Rng, service: ServiceId) {
    let containers = replica.state.containers_of_service(service);
    let items: Vec<_> = containers
        .filter(|_| rng.chance(3))
        .map(|container| pb::DesiredItem {
            container_id: container.id.to_vec(),
            desired: DesiredState::Remove.into(),
        })
        .collect();
    replica.apply(Body::SetDesired(pb::SetDesired { items }));
}

fn update(replica: &mut Replica, rng: &mut Rng, service: ServiceId) {
    let found = replica.state.service(service).expect("it exists");
    let mut spec = (*found.spec).clone();
    // Ends of blocks among them.
    spec.replicas = *rng.pick(&[0, 1, 1_022, 1_023, 1_024, 2_047, 2_048, 2_300, REPLICAS]);
    if rng.chance(30) {
        let container = spec.container.as_mut().expect("it has one");
        container.env = vec![format!("N={}", rng.below(3))];
        container.restart = rng.below(3) as i32;
    }
    let update = pb::UpdateService {
        service_id: service.to_vec(),
        expected_version: found.version,
        spec: Some(spec),
    };
    replica.apply(Body::UpdateService(update));
}

#[test]
fn counts_of_many_blocks_are_those_of_their_containers() {
    let mut replica = Replica::in_cluster();
    for node in NODES {
        replica.apply(put_node(node, 1_000_000, 1 << 20, &["web"]));
    }
    let spec = Some(spec("web", REPLICAS, "web"));
    replica.apply(Body::CreateService(pb::CreateService { spec }));
    let service = replica
        .state
        .service_by_name("web")
        .expect("it is there")
        .id;
    bind_all(&mut replica, service);
    assert_eq!(replica.state.container_count(), REPLICAS as usize);
    let mut rng = Rng(31);
    let mut running: Vec<u32> = Vec::new();
    for round in 0..120 {
        let node = *rng.pick(&NODES);
        match round % 6 {
            0 | 1 => report_some(&mut replica, &mut rng, node),
            2 => update(&mut replica, &mut rng, service),
            3 => stop_some(&mut replica, &mut rng, service),
            4 => {
                let status = *rng.pick(&[NodeStatus::Ready, NodeStatus::Down]);
                replica.apply(Body::SetNodeStatus(pb::SetNodeStatus {
                    node_id: node_id(node).to_vec(),
                    status: status.into(),
                }));
            }
            _ => bind_all(&mut replica, service),
        }
        few_invariants(&replica.state);
        let found = replica.state.service(service).expect("it exists");
        running.push(warren_core::fsm::tally(&replica.state, found).running);
    }
    running.sort_unstable();
    running.dedup();
    assert!(running.len() > 20, "nothing much happened: {running:?}");
    let (restored, _) = snapshot::read(&replica.bytes()[..]).expect("it is sound");
    invariants::check(&restored);
}

fn few_invariants(state: &State) {
    invariants::tallies(state);
    assert_eq!(state.hash(), state.hash_from_scratch());
}
