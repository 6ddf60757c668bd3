//! Services that shrink, against a twin that tries every way of taking containers away.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Replica, Rng, invariants, member, node_id, put_node, spec};
use warren_core::fsm::{Container, ContainerState, FEATURE_LEVEL_MAX};
use warren_core::ids::{ContainerId, NodeId, ServiceId};
use warren_core::orchestrator::{Budget, Orchestrator};
use warren_core::pb::{self, command::Body};

const ZONES: usize = 3;

struct World {
    rng: Rng,
    replica: Replica,
    orchestrator: Orchestrator,
    nodes: Vec<NodeId>,
    service: ServiceId,
    spread: bool,
}

impl World {
    /// A service whose containers are wherever chance has it; some do not run.
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let mut replica = Replica::in_cluster();
        let member = Some(member(1, "m1", true, FEATURE_LEVEL_MAX));
        let level = FEATURE_LEVEL_MAX;
        replica.apply(Body::PutMember(pb::PutMember { member }));
        replica.apply(Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level }));
        let mut nodes = Vec::new();
        for n in 0..2 + rng.below(5) {
            let name = format!("n{n}");
            let mut put = put_node(&name, 64_000, 64, &["web"]);
            if let Body::PutNode(pb::PutNode {
                description: Some(description),
                ..
            }) = &mut put
            {
                let zone = format!("z{}", rng.below(ZONES as u64));
                description.labels.insert("zone".to_owned(), zone);
            }
            replica.apply(put).response.expect("a node");
            nodes.push(node_id(&name));
        }
        let spread = rng.chance(70);
        let mut spec = spec("web", 1 + rng.below(9) as u32, "web");
        if spread {
            spec.placement = Some(pb::Placement {
                spreads: vec![pb::Spread {
                    attribute: "node.labels.zone".to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            });
        }
        let create = Body::CreateService(pb::CreateService { spec: Some(spec) });
        replica.apply(create).response.expect("a service");
        let service = replica.state.resolve_service("web").expect("it is there");
        let mut world = Self {
            rng,
            replica,
            orchestrator: Orchestrator::new(seed),
            nodes,
            service,
            spread,
        };
        world.fill();
        world
    }

    fn replicas(&self) -> u32 {
        self.replica
            .state
            .service(self.service)
            .expect("it is there")
            .spec
            .replicas
    }

    fn fill(&mut self) {
        for slot in 1..=u64::from(self.replicas()) {
            if self.rng.chance(10) {
                continue;
            }
            let node = *self.rng.pick(&self.nodes);
            let item = pb::BindItem {
                service_id: self.service.to_vec(),
                service_version: 1,
                slot,
                node_id: node.to_vec(),
                ..Default::default()
            };
            self.replica
                .apply(Body::Bind(pb::Bind { items: vec![item] }));
        }
        for container in self.containers() {
            let runs = self.rng.chance(80);
            let fails = self.rng.chance(50);
            let state = match (runs, fails) {
                (true, _) => ContainerState::Running,
                (false, true) => ContainerState::Failed,
                (false, false) => ContainerState::Starting,
            };
            self.report(&container, state, false);
        }
    }

    fn containers(&self) -> Vec<Container> {
        self.replica.state.containers().cloned().collect()
    }

    fn report(&mut self, container: &Container, state: ContainerState, removed: bool) {
        let status = pb::ContainerStatus {
            attempt: 1,
            state: state.into(),
            removed,
            ..Default::default()
        };
        let item = pb::StatusItem {
            container_id: container.id.to_vec(),
            status: Some(status),
        };
        let applied = self.replica.apply(Body::ReportStatus(pb::ReportStatus {
            node_id: container.node.to_vec(),
            items: vec![item],
        }));
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
    }

    fn scale(&mut self, replicas: u32) {
        let service = self
            .replica
            .state
            .service(self.service)
            .expect("it is there");
        let mut spec = (*service.spec).clone();
        spec.replicas = replicas;
        let (service_id, expected_version) = (service.id.to_vec(), service.version);
        let applied = self.replica.apply(Body::UpdateService(pb::UpdateService {
            service_id,
            expected_version,
            spec: Some(spec),
        }));
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
    }

    /// Until what had to go is gone. Time stands still, so that nothing is placed anew after a
    /// failure.
    fn settle(&mut self) {
        let looks = *self.rng.pick(&[3, 10, 4_096]);
        for _ in 0..400 {
            let budget = Budget { items: 7, looks };
            for proposal in self.orchestrator.step(&self.replica.state, 1_000, budget) {
                if matches!(proposal.body, Body::Bind(_)) {
                    // Nothing new: the containers that are there are what this is about.
                    let lost = Err(warren_core::error::Error::OutcomeUnknown);
                    self.orchestrator.resolved(1_000, proposal.token, lost);
                    continue;
                }
                let applied = self.replica.apply(proposal.body);
                invariants::check(&self.replica.state);
                self.orchestrator
                    .observe(&self.replica.state, &applied.events);
                let outcome = applied.response.as_deref().map_err(Clone::clone);
                self.orchestrator.resolved(1_000, proposal.token, outcome);
            }
            for container in self.containers() {
                if container.desired == warren_core::fsm::DesiredState::Remove {
                    self.report(&container, ContainerState::Shutdown, true);
                }
            }
        }
    }

    /// How many of those are in each zone, or on each node; zones and nodes without any count too.
    fn counts(&self, ids: &BTreeSet<ContainerId>, by_zone: bool) -> BTreeMap<String, usize> {
        let state = &self.replica.state;
        let key = |node: NodeId| {
            let node = state.node(node).expect("it is there");
            match by_zone {
                true => node.label("zone").expect("it has one").to_owned(),
                false => node.name().to_owned(),
            }
        };
        let mut counts: BTreeMap<String, usize> =
            self.nodes.iter().map(|id| (key(*id), 0)).collect();
        for container in self.containers().iter().filter(|it| ids.contains(&it.id)) {
            *counts.entry(key(container.node)).or_default() += 1;
        }
        counts
    }
}

fn skew(counts: &[usize]) -> usize {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// The least skew after taking so many away, by trying all ways.
fn least_skew(counts: &mut Vec<usize>, from: usize, take: usize) -> Option<usize> {
    if take == 0 {
        return Some(skew(counts));
    }
    let mut least = None;
    for at in from..counts.len() {
        if counts[at] == 0 {
            continue;
        }
        counts[at] -= 1;
        let skew = least_skew(counts, at, take - 1);
        counts[at] += 1;
        least = [least, skew].into_iter().flatten().min();
    }
    least
}

#[test]
fn what_is_of_no_use_goes_first_and_the_rest_stays_as_spread_as_it_can() {
    let (mut moved, mut spared) = (0, 0);
    for seed in 0..150 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.orchestrator.lead(1_000);
        for id in world.nodes.clone() {
            world.orchestrator.session_up(id, 1_000);
        }
        let before = world.containers();
        let replicas = world.rng.below(u64::from(world.replicas()) + 1) as u32;
        world.scale(replicas);
        world.settle();
        let after = world.containers();
        let slots: Vec<_> = after.iter().map(|it| it.slot).collect();
        let unique: BTreeSet<_> = slots.iter().collect();
        assert_eq!(unique.len(), slots.len());
        assert!(slots.iter().all(|slot| *slot <= u64::from(replicas)));
        let lives = |of: &[Container]| of.iter().filter(|it| !it.is_terminal()).count();
        let kept = lives(&before).min(replicas as usize);
        assert_eq!(lives(&after), kept, "no more go than have to");
        let old: BTreeMap<_, _> = before.iter().map(|it| (it.id, it)).collect();
        moved += after
            .iter()
            .filter(|it| old[&it.id].slot != it.slot)
            .count();

        let runs = |it: &&Container| it.status.state == ContainerState::Running;
        let (ran, run) = (
            before.iter().filter(runs).count(),
            after.iter().filter(runs).count(),
        );
        assert_eq!(run, ran.min(replicas as usize), "what runs goes last");
        spared += u32::from(run == ran && lives(&after) < lives(&before));
        let ids = |of: &[Container]| {
            let ids = of.iter().filter(runs).map(|it| it.id);
            ids.collect::<BTreeSet<_>>()
        };
        let left = world.counts(&ids(&after), world.spread);
        // As it was, with what is gone counted by the nodes it was on.
        let mut counts = left.clone();
        for gone in before.iter().filter(runs) {
            if !ids(&after).contains(&gone.id) {
                let node = world.replica.state.node(gone.node).expect("it is there");
                let key = match world.spread {
                    true => node.label("zone").expect("it has one"),
                    false => node.name(),
                };
                *counts.get_mut(key).expect("it is there") += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_values().collect();
        let least = least_skew(&mut counts, 0, ran - run).expect("there are so many");
        let left: Vec<_> = left.into_values().collect();
        assert_eq!(skew(&left), least, "{counts:?} -> {left:?}");
    }
    // The generator must reach what it is to test.
    assert!(moved > 50 && spared > 10, "{moved} moved, {spared} spared");
}
