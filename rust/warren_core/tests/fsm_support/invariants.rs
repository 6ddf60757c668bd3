//! What holds of every state, recomputed from its objects alone.

use std::collections::{BTreeMap, BTreeSet};

use warren_core::fsm::{
    Container, ContainerState, DesiredState, HOLDS_PER_NODE_MAX, MEMBERS_MAX, Member, Node,
    NodeStatus, Resources, State, Tally, Workers, ailing, is_terminal, is_wanted, rests, tally,
};
use warren_core::ids::{ContainerId, MemberId, NodeId};
use warren_core::pb::MountType;

/// Panics with what is wrong.
pub fn check(state: &State) {
    totals(state);
    claims(state);
    holds(state);
    references(state);
    slots(state);
    members(state);
    workers(state);
    tallies(state);
    assert_eq!(state.hash(), state.hash_from_scratch());
}

/// What is counted as it changes, counted from the containers.
pub fn tallies(state: &State) {
    for service in state.services() {
        let mut counted = Tally::default();
        let mut resting = 0;
        let mut ailing_says = BTreeSet::new();
        for container in state.containers().filter(|c| c.service == service.id) {
            let node = state.node(container.node).expect("it has a node");
            if !is_wanted(service, container) {
                counted.leaving += 1;
                let kept = service.is_global() && !service.removing && !node.accepts_work();
                let kept = kept && container.desired == DesiredState::Run;
                counted.stranded += u32::from(node.status != NodeStatus::Ready || kept);
                continue;
            }
            let status = &container.status;
            if status.state != ContainerState::Running && !status.message.is_empty() {
                ailing_says.insert(container.id);
            }
            match status.state {
                ContainerState::Running if node.status == NodeStatus::Ready => counted.running += 1,
                ContainerState::Failed | ContainerState::Rejected => counted.failing += 1,
                ContainerState::Pending if status.attempt > 1 => counted.failing += 1,
                ContainerState::Complete if rests(service, container) => resting += 1,
                _ => {}
            }
        }
        let suits = |node: &&Node| node.accepts_work() && service.rules.refusal(node).is_none();
        let slots = match service.is_global() {
            _ if service.removing => 0,
            true => state.nodes().filter(suits).count() as u32,
            false => service.spec.replicas,
        };
        counted.desired = slots.saturating_sub(resting);
        assert_eq!(tally(state, service), counted, "{service:?}");
        let found = ailing(state, service).map(|container| container.id);
        match found {
            Some(id) => assert!(ailing_says.contains(&id)),
            None if state.container_count_of_service(service.id) > 1024 => {}
            None => assert!(ailing_says.is_empty(), "of so few none is overlooked"),
        }
    }
}

fn totals(state: &State) {
    let mut allocated: BTreeMap<NodeId, Resources> = BTreeMap::new();
    let mut by_state = BTreeMap::new();
    for container in state.containers() {
        *by_state.entry(container.status.state).or_insert(0) += 1;
        if !is_terminal(container.status.state) {
            let sum = allocated.entry(container.node).or_default();
            *sum = sum.saturating_add(container.resources);
        }
    }
    for number in 1..=ContainerState::Lost as i32 {
        let state_of = ContainerState::try_from(number).unwrap();
        let counted = by_state.get(&state_of).copied().unwrap_or_default();
        assert_eq!(state.containers_in(state_of), counted, "{state_of:?}");
    }
    for node in state.nodes() {
        let sum = allocated.get(&node.id).copied().unwrap_or_default();
        assert_eq!(
            state.node_allocated(node.id),
            sum,
            "allocated on {}",
            node.name()
        );
        let on_node: Vec<_> = state.containers_of_node(node.id).map(|c| c.id).collect();
        let scanned = state
            .containers()
            .filter(|c| c.node == node.id)
            .map(|c| c.id);
        assert_eq!(on_node, scanned.collect::<Vec<_>>());
    }
}

/// A slot has at most one, which is found, only where containers go; and what is set aside never makes
/// room for more than there is without its victims.
fn holds(state: &State) {
    let mut slots = BTreeSet::new();
    let mut count = 0;
    for node in state.nodes() {
        assert!(node.holds.is_empty() || node.accepts_work());
        assert!(node.holds.len() <= HOLDS_PER_NODE_MAX);
        for hold in node.holds.iter() {
            count += 1;
            let service = state.service(hold.service).expect("it has a service");
            let on = service.is_global().then_some(node.id);
            assert!(slots.insert((hold.service, hold.slot, on)), "{hold:?}");
            assert_eq!(
                state.hold_of(hold.service, hold.slot, on),
                Some((node.id, hold))
            );
            assert!(!service.removing && service.rules.preempt);
            assert_eq!(service.spec_digest, hold.spec_digest);
            let victims = &hold.victims;
            assert!(!victims.is_empty() && victims.is_sorted_by(|a, b| a < b));
            for left in state.victims_left(node.id, hold) {
                assert!(left.desired != DesiredState::Run && !is_terminal(left.status.state));
                assert_eq!(left.node, node.id);
            }
        }
    }
    assert_eq!(count, state.hold_count());
}

/// No port is held twice, of no device more than all of it; what is held is what is listed.
fn claims(state: &State) {
    let mut ports = BTreeSet::new();
    let mut devices: BTreeMap<_, u32> = BTreeMap::new();
    let mut volumes: BTreeMap<_, (u32, u32)> = BTreeMap::new();
    let mut lost: BTreeMap<_, u32> = BTreeMap::new();
    for container in state.containers().filter(|container| container.is_lost()) {
        for share in container.devices() {
            let device = (container.node, share.kind.clone(), share.number);
            *lost.entry(device).or_default() += share.milli;
        }
    }
    for container in state.containers().filter(|c| !is_terminal(c.status.state)) {
        let spec = state.spec(&container.spec_digest).expect("it has one");
        for port in &spec.host_ports {
            let claim = (container.node, port.port, port.protocol);
            assert!(ports.insert(claim), "claimed twice: {claim:?}");
        }
        for mount in &spec.mounts {
            if mount.r#type() == MountType::Volume {
                let used = volumes.entry((container.node, mount.source.clone()));
                let (count, alone) = used.or_default();
                *count += 1;
                *alone += u32::from(mount.exclusive);
            }
        }
        for share in container.devices() {
            let device = (container.node, share.kind.clone(), share.number);
            *devices.entry(device).or_default() += share.milli;
        }
        let asked = spec.devices.iter().map(|ask| ask.milli).sum::<u32>();
        let held = container.devices().iter().map(|share| share.milli).sum();
        assert_eq!(asked, held, "{container:?}");
    }
    for node in state.nodes() {
        for share in node.holds.iter().flat_map(|hold| &hold.devices) {
            let device = (node.id, share.kind.clone(), share.number);
            *devices.entry(device).or_default() += share.milli;
        }
    }
    assert!(devices.values().all(|milli| *milli <= 1_000), "{devices:?}");
    let nodes = || state.nodes().map(|node| node.id);
    let listed = |node| {
        state
            .port_claims(node)
            .map(move |it| (node, it.port, it.protocol))
    };
    assert!(nodes().flat_map(listed).eq(ports));
    let mut listed: BTreeMap<_, u32> = BTreeMap::new();
    for node in nodes() {
        for (kind, number, milli) in state.device_claims(node) {
            *listed.entry((node, kind.to_owned(), number)).or_default() += milli;
        }
    }
    // Beside what is held, that of the lost is in use.
    for (device, milli) in lost {
        *devices.entry(device).or_default() += milli;
    }
    assert_eq!(listed, devices);
    let alone = |(count, alone): &(u32, u32)| *alone == 0 || *count == 1;
    assert!(volumes.values().all(alone), "{volumes:?}");
    let listed = |node| {
        let claims = state.volume_claims(node);
        claims.map(move |(name, count, alone)| ((node, name.to_owned()), (count, alone)))
    };
    assert!(nodes().flat_map(listed).eq(volumes));
}

fn references(state: &State) {
    for container in state.containers() {
        assert!(
            state.service(container.service).is_some(),
            "{container:?} has no service"
        );
        assert!(
            state.node(container.node).is_some(),
            "{container:?} has no node"
        );
        assert!(
            state.spec(&container.spec_digest).is_some(),
            "{container:?} has no spec"
        );
        assert!(container.status.attempt >= 1);
    }
    for service in state.services() {
        assert_eq!(
            state.service_by_name(&service.name).map(|s| s.id),
            Some(service.id)
        );
        assert!(
            state.spec(&service.spec_digest).is_some(),
            "{service:?} has no spec"
        );
        let own = state
            .containers()
            .filter(|c| c.service == service.id)
            .count();
        assert_eq!(state.container_count_of_service(service.id), own);
    }
}

/// A slot has at most one container that is meant to run or may be running.
fn slots(state: &State) {
    let mut taken = BTreeSet::new();
    for container in state.containers().filter(|container| container.occupies()) {
        let node = (container.slot == 0).then_some(container.node);
        let slot = (container.service, container.slot, node);
        assert!(taken.insert(slot), "slot filled twice: {container:?}");
    }
}

/// They are counted as they change, and a node that was removed is none.
fn workers(state: &State) {
    let count = |status| {
        let of = |node: &&Node| node.worker && (node.status == NodeStatus::Down) == status;
        state.nodes().filter(of).count() as u32
    };
    let counted = Workers {
        ready: count(false),
        down: count(true),
    };
    assert_eq!(state.workers(), counted);
    for node in state.nodes() {
        assert!(!state.is_removed_node(node.id), "{node:?} was removed");
    }
}

fn members(state: &State) {
    let mut data_dirs = BTreeSet::new();
    for member in state.members() {
        assert!(!state.is_removed(member.id), "{member:?} is a zombie");
        assert!(
            data_dirs.insert(member.data_dir),
            "{member:?} shares its data"
        );
        assert!(member.feature_level_max >= state.feature_level());
        assert_eq!(state.member(member.id), Some(member));
    }
    assert!(data_dirs.len() <= MEMBERS_MAX);
    for node in state.nodes().filter(|_| state.feature_level() >= 5) {
        assert_eq!(node.manager, state.manages(node.id), "{node:?}");
    }
}

/// Holds one state against a later one: (attempt, state) and the desired state never go back,
/// and what a container is never changes.
#[derive(Default)]
pub struct History {
    seen: BTreeMap<ContainerId, Container>,
    members: BTreeMap<MemberId, Member>,
}

impl History {
    pub fn observe(&mut self, state: &State) {
        for now in state.members() {
            let fixed = |m: &Member| (m.data_dir, m.node, m.added_at_ms);
            if let Some(before) = self.members.insert(now.id, now.clone()) {
                assert_eq!(fixed(now), fixed(&before), "an id changed hands");
            }
        }
        for id in self.members.keys() {
            assert!(state.member(*id).is_some() || state.is_removed(*id));
        }
        for now in state.containers() {
            if let Some(before) = self.seen.insert(now.id, now.clone()) {
                let position = |c: &Container| (c.status.attempt, c.status.state);
                assert!(
                    position(now) >= position(&before),
                    "{before:?} went back to {now:?}"
                );
                assert!(
                    now.desired >= before.desired,
                    "{before:?} is wanted again: {now:?}"
                );
                let terminal = is_terminal(before.status.state);
                assert!(
                    !terminal || now.status.state == before.status.state,
                    "{now:?} rose"
                );
                let fixed = |c: &Container| (c.service, c.node, c.spec_digest);
                assert_eq!(fixed(now), fixed(&before));
            }
        }
    }
}
