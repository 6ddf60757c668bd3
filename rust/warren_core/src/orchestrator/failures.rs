//! What keeps failing: slots whose containers crash again and again, and nodes on which those of a
//! service do.
//!
//! A slot is *crash-looping* from its third failure in a row on, until what is in it has run for a
//! minute. Failures are restarts by the worker, which raise the attempt, and ends that are replaced. A
//! service *keeps failing* on a node after three failures there within ten minutes; while it runs
//! elsewhere, that node is the last choice for its containers.
//!
//! Kept in the leader's memory, on its monotonic clock. A new leader knows what attempts tell it, not
//! when each was, and nothing of what is gone; it finds out again as failures go on.

use std::collections::{BTreeMap, VecDeque};

use crate::fsm::{Container, ContainerState, Service, State, is_wanted, rests};
use crate::ids::{ContainerId, NodeId, ServiceId, SpecDigest};
use crate::orchestrator::plan::Slot;

/// Failures in a row that make a loop; and on a node, that make it the last choice.
const FAILURES: u32 = 3;
/// Running for so long ends a loop.
pub(super) const RAN_WELL_MS: u64 = 60_000;
/// Failures on a node that are longer ago do not count.
const RECENT_MS: u64 = 600_000;
/// Of failures on a node, those that are counted.
const COUNTED_MAX: usize = 16;
/// Slots and nodes that are known at a time; what fails beyond that is not noticed.
const KNOWN_MAX: usize = 16_384;

/// A slot whose containers crash again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashLoop {
    pub slot: u64,
    /// For global services: the node that is the slot.
    pub node: Option<NodeId>,
    /// In a row.
    pub failures: u32,
    /// Of the first of them, by the state's clock: for people.
    pub since_ms: u64,
    /// Of the last exit, where there was one.
    pub exit_code: Option<i32>,
}

/// What is known of a slot that has failed; also of one that runs well again, so that its restarts are
/// not counted anew.
#[derive(Debug)]
struct Known {
    container: ContainerId,
    attempt: u32,
    /// That the container ended has been counted.
    ended: bool,
    failures: u32,
    since_ms: u64,
    exit_code: Option<i32>,
    running_since_ms: Option<u64>,
}

/// A node on which a service keeps failing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingNode {
    pub node: NodeId,
    /// Within the last ten minutes; no more than sixteen are counted.
    pub failures: u32,
    /// Until that is forgotten, unless it fails there again.
    pub left_ms: u64,
    /// It is the last choice for the service; not so while the service runs nowhere else.
    pub avoided: bool,
}

/// Failures of a service on a node: when the last few were. Invariants: at most [`COUNTED_MAX`], and
/// ascending.
#[derive(Debug)]
struct OnNode {
    spec: SpecDigest,
    at_ms: VecDeque<u64>,
}

/// Which services keep failing on which nodes, for who decides beside the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownFailing(Vec<(ServiceId, NodeId, SpecDigest)>);

#[derive(Debug, Default)]
pub(super) struct Failures {
    slots: BTreeMap<(ServiceId, Slot), Known>,
    nodes: BTreeMap<(ServiceId, NodeId), OnNode>,
    loops: usize,
}

impl Failures {
    /// Whether what is in the slot is worth a look.
    pub fn concerns(&self, service: ServiceId, slot: Slot, container: &Container) -> bool {
        let status = &container.status;
        let failed = status.attempt > 1 || container.is_terminal();
        failed || self.slots.contains_key(&(service, slot))
    }

    /// What is in the slot now. Returns when to look again, if there is something to wait for.
    pub fn seen(
        &mut self,
        state: &State,
        service: &Service,
        slot: Slot,
        container: &Container,
        now_ms: u64,
    ) -> Option<u64> {
        if !is_wanted(service, container) {
            self.end(service.id, slot);
            return None;
        }
        let key = (service.id, slot);
        let running = container.status.state == ContainerState::Running;
        if !self.slots.contains_key(&key) {
            if self.is_full() {
                self.slots.retain(|_, known| known.failures > 0);
            }
            if self.is_full() || ran_well(state, container) {
                return None;
            }
        }
        let known = self.slots.entry(key).or_insert_with(|| Known {
            container: container.id,
            attempt: 1,
            ended: false,
            failures: 0,
            since_ms: state.time_ms(),
            exit_code: None,
            running_since_ms: None,
        });
        let was_loop = known.failures >= FAILURES;
        let new = known.take_in(service, container, (now_ms, state.time_ms()));
        let well = match running {
            true => {
                let since_ms = *known.running_since_ms.get_or_insert(now_ms);
                let well_at_ms = since_ms + RAN_WELL_MS;
                (well_at_ms > now_ms).then_some(well_at_ms)
            }
            false => {
                known.running_since_ms = None;
                None
            }
        };
        if running && well.is_none() {
            known.failures = 0;
        }
        let is_loop = known.failures >= FAILURES;
        self.loops = self.loops + usize::from(is_loop) - usize::from(was_loop);
        for _ in 0..new {
            self.failed_on(service, container.node, now_ms);
        }
        well
    }

    fn is_full(&self) -> bool {
        self.slots.len() + self.nodes.len() >= KNOWN_MAX
    }

    fn failed_on(&mut self, service: &Service, node: NodeId, now_ms: u64) {
        if self.is_full() {
            self.nodes.retain(|_, it| it.recent(now_ms) > 0);
        }
        if self.is_full() {
            return;
        }
        let on = self.nodes.entry((service.id, node)).or_insert(OnNode {
            spec: service.spec_digest,
            at_ms: VecDeque::new(),
        });
        if on.spec != service.spec_digest {
            on.spec = service.spec_digest;
            on.at_ms.clear();
        }
        on.at_ms.push_back(now_ms);
        if on.at_ms.len() > COUNTED_MAX {
            on.at_ms.pop_front();
        }
    }

    /// Nodes that are the last choice for the service, which runs on those that `runs_on` says.
    pub fn avoided(
        &self,
        service: &Service,
        runs_on: &BTreeMap<NodeId, u32>,
        now_ms: u64,
    ) -> Vec<NodeId> {
        let failing = self.of_service(service, now_ms);
        let failing: Vec<_> = failing.map(|(node, _)| node).collect();
        let elsewhere = runs_on
            .iter()
            .any(|(node, count)| *count > 0 && !failing.contains(node));
        if elsewhere { failing } else { Vec::new() }
    }

    /// What keeps failing where, of all services. O(nodes on which something failed).
    pub fn known_failing(&self, now_ms: u64) -> KnownFailing {
        let failing = self.nodes.iter().filter(|(_, on)| on.is_recent(now_ms));
        let failing = failing.map(|((service, node), on)| (*service, *node, on.spec));
        KnownFailing(failing.collect())
    }

    /// Takes over what somebody else knows, as if it had all failed at this moment.
    pub fn learn(&mut self, known: &KnownFailing, now_ms: u64) {
        let each = known.0.iter().map(|(service, node, spec)| {
            let at_ms = [now_ms; FAILURES as usize].into();
            ((*service, *node), OnNode { spec: *spec, at_ms })
        });
        self.nodes.extend(each);
    }

    /// Nodes that it keeps failing on, whether or not it runs elsewhere.
    pub fn on_nodes(&self, service: &Service, now_ms: u64) -> Vec<FailingNode> {
        let failing = self.of_service(service, now_ms);
        let told = failing.map(|(node, on)| FailingNode {
            node,
            failures: on.recent(now_ms),
            left_ms: on.until_ms().unwrap_or_default().saturating_sub(now_ms),
            avoided: false,
        });
        told.collect()
    }

    fn of_service(
        &self,
        service: &Service,
        now_ms: u64,
    ) -> impl Iterator<Item = (NodeId, &OnNode)> {
        let (id, digest) = (service.id, service.spec_digest);
        let range = (id, NodeId([0; 16]))..=(id, NodeId([0xff; 16]));
        let of_service = self.nodes.range(range);
        let failing = of_service.filter(move |(_, on)| on.spec == digest && on.is_recent(now_ms));
        failing.map(|((_, node), on)| (*node, on))
    }

    /// The slot, if it is crash-looping.
    pub fn loop_of(&self, service: ServiceId, slot: Slot) -> Option<CrashLoop> {
        let known = self.slots.get(&(service, slot))?;
        (known.failures >= FAILURES).then(|| known.told(slot))
    }

    /// Slots of the service that are crash-looping, by slot.
    pub fn loops(&self, service: ServiceId) -> Vec<CrashLoop> {
        let slots = self.slots.range((service, Slot::FIRST)..);
        let slots = slots.take_while(|((of, _), _)| *of == service);
        let loops = slots.filter(|(_, known)| known.failures >= FAILURES);
        loops.map(|((_, slot), known)| known.told(*slot)).collect()
    }

    /// How many slots of each service are crash-looping.
    pub fn loop_counts(&self) -> BTreeMap<ServiceId, u32> {
        let mut counts = BTreeMap::new();
        if self.loops > 0 {
            let slots = self.slots.iter();
            for ((service, _), _) in slots.filter(|(_, known)| known.failures >= FAILURES) {
                *counts.entry(*service).or_default() += 1;
            }
        }
        counts
    }

    /// How many slots are crash-looping.
    pub fn loop_count(&self) -> usize {
        self.loops
    }

    /// Nothing is known of the slot any more.
    pub fn end(&mut self, service: ServiceId, slot: Slot) {
        if let Some(known) = self.slots.remove(&(service, slot)) {
            self.loops -= usize::from(known.failures >= FAILURES);
        }
    }

    /// Forgets the slots with higher numbers: they are no more.
    pub fn forget_above(&mut self, service: ServiceId, number: u64) {
        let above = Slot::numbered(number + 1);
        let slots = self.slots.range((service, above)..);
        let slots = slots.take_while(|((of, _), _)| *of == service);
        let slots: Vec<_> = slots.map(|((_, slot), _)| *slot).collect();
        slots.into_iter().for_each(|slot| self.end(service, slot));
    }

    pub fn forget(&mut self, service: ServiceId) {
        let slots = self.slots.range((service, Slot::FIRST)..);
        let slots = slots.take_while(|((of, _), _)| *of == service);
        let slots: Vec<_> = slots.map(|((_, slot), _)| *slot).collect();
        slots.into_iter().for_each(|slot| self.end(service, slot));
        self.nodes.retain(|(of, _), _| *of != service);
    }
}

impl Known {
    fn told(&self, slot: Slot) -> CrashLoop {
        CrashLoop {
            slot: slot.number,
            node: slot.node,
            failures: self.failures,
            since_ms: self.since_ms,
            exit_code: self.exit_code,
        }
    }

    /// How many failures are new.
    fn take_in(
        &mut self,
        service: &Service,
        container: &Container,
        (now_ms, time_ms): (u64, u64),
    ) -> u32 {
        let status = &container.status;
        if self.container != container.id {
            (self.container, self.attempt, self.ended) = (container.id, 1, false);
        }
        let restarts = status.attempt.saturating_sub(self.attempt);
        let ended = container.is_terminal() && !self.ended && !rests(service, container);
        let ended = ended && status.state != ContainerState::Shutdown;
        let new = restarts + u32::from(ended);
        self.attempt = self.attempt.max(status.attempt);
        self.ended |= container.is_terminal();
        if new == 0 {
            return 0;
        }
        let ran_ms = self
            .running_since_ms
            .map(|since_ms| now_ms.saturating_sub(since_ms));
        if self.failures == 0 || ran_ms.is_some_and(|ran_ms| ran_ms >= RAN_WELL_MS) {
            (self.failures, self.since_ms) = (0, time_ms);
        }
        self.failures = self.failures.saturating_add(new);
        self.exit_code = status.exit_code.or(self.exit_code);
        self.running_since_ms = None;
        new
    }
}

impl OnNode {
    /// When too few of them are recent; `None` where there have never been enough.
    fn until_ms(&self) -> Option<u64> {
        let last = self.at_ms.len().checked_sub(FAILURES as usize)?;
        Some(self.at_ms[last] + RECENT_MS)
    }

    fn is_recent(&self, now_ms: u64) -> bool {
        self.until_ms().is_some_and(|until_ms| now_ms < until_ms)
    }

    fn recent(&self, now_ms: u64) -> u32 {
        let since = |at_ms: &&u64| now_ms.saturating_sub(**at_ms) < RECENT_MS;
        self.at_ms.iter().filter(since).count() as u32
    }
}

/// Whether what runs has done so for long, by what its worker says: for who does not know yet.
fn ran_well(state: &State, container: &Container) -> bool {
    let status = &container.status;
    let ran_ms = state.time_ms().saturating_sub(status.started_at_ms);
    status.state == ContainerState::Running && ran_ms >= RAN_WELL_MS
}
