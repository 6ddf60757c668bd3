//! Who waits for room, once there is more of it.
//!
//! Of many that wait hardly one has what it needs whenever something ends somewhere, and a pass over
//! each, with a word on every node, would keep everybody else waiting. So it is asked first whether
//! any node would take one container at all; only then is the service marked like any other. Else what
//! was said of why it waits stands: how much is free at most may be more by now, until it is gone
//! through the next time, at the latest by the sweep.

use std::collections::BTreeMap;

use crate::fsm::{Service, State};
use crate::ids::ServiceId;
use crate::orchestrator::Orchestrator;
use crate::orchestrator::asking::{self, Placement};
use crate::orchestrator::budget::Meter;

/// Nodes that a search in vain passes over in the time of one look.
pub(super) const NODES_A_LOOK: usize = 64;

impl Orchestrator {
    /// The service waits for room, and there is more than when it was looked at last.
    pub(super) fn hope(&mut self, state: &State, id: ServiceId, meter: &mut Meter) {
        meter.look(1 + self.scheduler.node_count() / NODES_A_LOOK);
        let Some(service) = state.service(id) else {
            return;
        };
        if self.may_have_room(state, service) {
            self.mark(id);
        } else {
            self.marks.wait_for_room(id, self.marks.room_count());
        }
    }

    /// False only where a pass would find no more room than the last one did.
    fn may_have_room(&self, state: &State, service: &Service) -> bool {
        // An update waits for what its own containers leave; what preempts, for less urgent ones; of a
        // global service each slot for its node; and some things have yet to be learnt.
        let other = self.blocked.contains_key(&service.id)
            || service.rules.preempt
            || service.is_global()
            || state.holds_of_service(service.id).next().is_some()
            || self.asking.walks(service) > 0;
        // Without those that it has already, which keep nodes out but never let one in.
        let nowhere = BTreeMap::new();
        let placement = Placement {
            state,
            service,
            spread: &nowhere,
            avoided: &[],
            count: 1,
        };
        other || asking::may_fit(&self.asking, &self.scheduler, &placement)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use crate::orchestrator::testing::World;
    use crate::orchestrator::{Budget, Orchestrator};
    use crate::pb::{self, command::Body};

    const BUDGET: Budget = Budget {
        items: 512,
        looks: 2_048,
    };
    const WAITING: u32 = 40;
    const REPLICAS: u32 = 20;

    fn spec(name: &str, replicas: u32, cpu_milli: u64, image: &pb::ServiceSpec) -> pb::ServiceSpec {
        let container = image.container.clone().expect("it has one");
        pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            replicas,
            container: Some(pb::ContainerSpec {
                image: container.image,
                image_digest: container.image_digest,
                resources: Some(pb::Resources {
                    cpu_milli,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// One step, and what came of it. The items of its binds.
    fn step(world: &mut World, orchestrator: &mut Orchestrator) -> Vec<pb::BindItem> {
        let mut binds = Vec::new();
        for proposal in orchestrator.step(&world.state, 0, BUDGET) {
            if let Body::Bind(bind) = &proposal.body {
                binds.extend(bind.items.clone());
            }
            let told = world.apply_to(orchestrator, proposal.body);
            orchestrator.resolved(0, proposal.token, Ok(&told));
        }
        binds
    }

    /// Steps until nothing more is to be done at once. Looks that they took, and containers bound.
    fn settle(world: &mut World, orchestrator: &mut Orchestrator) -> (usize, usize) {
        let (mut looks, mut bound) = (0, 0);
        for _ in 0..5_000 {
            bound += step(world, orchestrator).len();
            looks += orchestrator.looked();
            if orchestrator.next_wakeup(0) != Some(0) {
                return (looks, bound);
            }
        }
        panic!("it never settles");
    }

    fn create(spec: pb::ServiceSpec) -> Body {
        Body::CreateService(pb::CreateService { spec: Some(spec) })
    }

    /// Something ends, so that there is more room.
    fn make_room(world: &mut World, orchestrator: &mut Orchestrator, of: &str) {
        let service = world.state.service_by_name(of).expect("it is there").id;
        let container = world.state.containers_of_service(service).next();
        let container = container.expect("it has one").clone();
        let item = pb::StatusItem {
            container_id: container.id.to_vec(),
            status: Some(pb::ContainerStatus {
                attempt: 1,
                state: pb::ContainerState::Failed.into(),
                ..Default::default()
            }),
        };
        let report = pb::ReportStatus {
            node_id: container.node.to_vec(),
            items: vec![item],
        };
        world.apply_to(orchestrator, Body::ReportStatus(report));
    }

    #[test]
    fn who_waits_in_vain_keeps_nobody_waiting_and_is_not_gone_through_again() {
        let mut world = World::new(1);
        let mut orchestrator = Orchestrator::new(0);
        orchestrator.lead(0);
        let image = world.spec("image");
        world.apply_to(&mut orchestrator, create(spec("there", 1, 100, &image)));
        for number in 0..WAITING {
            // More than any node has, and more than any has free.
            let cpu_milli = if number % 2 == 0 { 1 << 20 } else { 4_000 };
            let name = format!("waiting-{number}");
            let body = create(spec(&name, REPLICAS, cpu_milli, &image));
            world.apply_to(&mut orchestrator, body);
        }
        settle(&mut world, &mut orchestrator);
        let pending = orchestrator.pending_count();
        assert!(pending > (WAITING * REPLICAS / 2) as usize, "{pending}");
        make_room(&mut world, &mut orchestrator, "there");
        let told = world.apply_to(&mut orchestrator, create(spec("new", 1, 0, &image)));
        let new = pb::CreateServiceResponse::decode(&told[..]).expect("a service");
        let bound = step(&mut world, &mut orchestrator);
        assert!(bound.iter().any(|item| item.service_id == new.service_id));
        let (looks, _) = settle(&mut world, &mut orchestrator);
        let walks = (WAITING * REPLICAS) as usize;
        assert!(looks < walks / 4, "{looks} looks, {walks} slots wait");
        assert_eq!(orchestrator.pending_count(), pending);
    }

    #[test]
    fn who_waits_is_placed_as_soon_as_there_is_room_for_it() {
        let mut world = World::new(1);
        let mut orchestrator = Orchestrator::new(0);
        orchestrator.lead(0);
        let image = world.spec("image");
        let all = world.state.nodes();
        let cpus = all.map(|node| world.state.allocatable(node).cpu_milli);
        let most = cpus.max().expect("there are some");
        // Each takes a whole node, of which there are few.
        world.apply_to(&mut orchestrator, create(spec("whole", 40, most, &image)));
        settle(&mut world, &mut orchestrator);
        let whole = world.state.service_by_name("whole").expect("it is there");
        let there = world.state.container_count() as u32;
        assert!((1..40).contains(&there), "{there}");
        let fewer = pb::UpdateService {
            service_id: whole.id.to_vec(),
            expected_version: whole.version,
            spec: Some(spec("whole", there, most, &image)),
        };
        world.apply_to(&mut orchestrator, Body::UpdateService(fewer));
        for (name, replicas, cpu_milli) in [("half", 60, most / 2), ("large", 1, 1 << 20)] {
            let body = create(spec(name, replicas, cpu_milli, &image));
            world.apply_to(&mut orchestrator, body);
        }
        settle(&mut world, &mut orchestrator);
        let pending = orchestrator.pending_count();
        make_room(&mut world, &mut orchestrator, "whole");
        let (_, bound) = settle(&mut world, &mut orchestrator);
        assert_eq!((bound, orchestrator.pending_count()), (2, pending - 2));
        assert_eq!(orchestrator.stats().missed, 0);
    }
}
