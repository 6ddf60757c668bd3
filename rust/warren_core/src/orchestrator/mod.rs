//! Desired against observed, as commands. On the leader only, in memory only.
//!
//! Applied events mark services dirty; [`Orchestrator::step`] takes dirty services one by one,
//! derives from the state what each lacks (`plan`), and proposes it. Marks are an optimisation:
//! taking leadership marks everything, and a slow sweep derives what nobody marked. What it finds
//! is counted as missed, and is a bug.
//!
//! Nothing is proposed twice: what a proposal is about is busy until its outcome is known
//! (`in_flight`). Nothing here is trusted by `apply`, which judges each item again.
//!
//! Nor does a step take long, however large a service or a fleet is: everything that goes over
//! many things is a walk that stops when the step's budget is used up and goes on from there,
//! over the state as it is then. What changes behind a walk is marked and so walked over again.
//!
//! The rules, in short:
//! - a slot gets a container when nothing occupies it; the scheduler says where;
//! - a container of an older spec is stopped first and its slot filled afterwards, at most a
//!   quarter of the slots (at least one) being away at a time, and only if its successor would
//!   find room;
//! - a container that has ended is replaced as the restart condition says, after a back-off of
//!   1, 2, 4 … 60 s that a minute of running resets;
//! - a container on a node that is down is replaced elsewhere, as soon as there is room; a
//!   singleton only when its worker has surely stopped it, and nothing at all while too many nodes
//!   are lost at once;
//! - what is on a node that is being drained goes once a successor finds room elsewhere, as few at a
//!   time as with an update; once the drain's time is over it goes at once;
//! - where a service shrinks, what is of no use goes first and the rest stays spread; a removed
//!   service is forgotten after its last container.
//!
//! | file | idea |
//! |---|---|
//! | `budget` | what one step may do |
//! | `plan` | one service: what is there, what is missing. Pure, in slices |
//! | `pass` | what a walk over a service has found and is to be done |
//! | `reconcile` | a pass → what is to be filled, replaced, taken away |
//! | `fill` | vacant slots → nodes → binds, or why they wait |
//! | `replace` | what is outdated → removals, if a successor finds room |
//! | `successors` | room for what follows what was told to go |
//! | `preempt` | no room → others of a lower priority go, and room is kept |
//! | `shrink` | too many → which of them go |
//! | `progress` | how far services are, and what waits for a node |
//! | `settle` | outcomes of proposals → marks |
//! | `walks` | events that concern many services → marks, in slices |
//! | `asking` | what services ask of nodes → what the scheduler is asked |
//! | `in_flight` | proposals on their way, and what they make busy |
//! | `outbox` | items → commands of bounded size |
//! | `marks` | dirty services, who waits for room, timers |
//! | `hopes` | there is more room → who waits for some is marked, if it may have what it needs |
//! | `backoff` | how long a slot waits before it is filled again |
//! | `failures` | what crashes again and again, and where |
//! | `keeping` | what is said of that, and of room that is kept |
//! | `liveness` | which workers are there |
//! | `freeze` | whether too many of them were lost at once |
//! | `explain` | why something is where it is, or nowhere; by the state alone |
//! | `decisions` | what was decided lately, for people |
//! | `drain` | what is on a node that is drained → elsewhere, or away once the time is over |
//! | `dry_run` | what would follow, over a copy of the state |
//! | `sweep` | re-derives what nobody marked |

mod asking;
mod backoff;
mod budget;
mod decisions;
mod drain;
mod dry_run;
mod explain;
mod failures;
mod fill;
mod freeze;
mod hopes;
mod in_flight;
mod keeping;
mod liveness;
mod marks;
mod outbox;
mod pass;
mod plan;
mod preempt;
mod progress;
mod reconcile;
mod replace;
mod settle;
mod shrink;
mod successors;
mod sweep;
#[cfg(test)]
mod testing;
mod walks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Result;
use crate::fsm::{
    self, Container, ContainerState, DesiredState, Event, Node, NodeStatus, Overcommit, State,
};
use crate::ids::{NodeId, ServiceId};
use crate::pb;
use crate::scheduler::Scheduler;

use asking::Asking;
use backoff::BackOff;
use budget::Meter;
use decisions::Decisions;
use drain::Drains;
use failures::Failures;
use in_flight::InFlight;
use keeping::Keeper;
use liveness::Liveness;
use marks::Marks;
use outbox::Outbox;
use pass::Pass;
use plan::{Found, Slot};
use preempt::is_in_the_way;
use progress::Waiting;
use successors::Successors;
use sweep::Sweep;
use walks::Walks;

pub use budget::Budget;
pub use decisions::{DECISIONS_MAX, Decision, Kind as DecisionKind};
pub use dry_run::{DryRun, Outcome, Preempted};
pub use explain::{Explanation, Kept, NodeRow, Subject, explain};
pub use failures::{CrashLoop, FailingNode, KnownFailing};
pub use freeze::LOST_MIN;
pub use in_flight::PROPOSALS_MAX;
pub use keeping::{FailingSlot, Keeping};
pub use outbox::{BIND_ITEMS_MAX, DESIRED_ITEMS_MAX};
pub use preempt::{HOLDS_MAX, made_room};

/// Names a proposal; never used again by the same orchestrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A command body to be proposed. Its outcome must come back through
/// [`Orchestrator::resolved`], unless leadership ends before.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub token: Token,
    pub body: pb::command::Body,
}

/// A slot that waits for a node, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSlot {
    pub slot: u64,
    /// For global services: the node that is the slot.
    pub node: Option<NodeId>,
    pub reason: Arc<str>,
}

/// What the leader has done since it was made; counts only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Steps that looked at something dirty.
    pub cycles: u64,
    /// Containers bound.
    pub scheduled: u64,
    /// Placements that failed: no node would take the container, or `apply` refused the bind.
    pub failed: u64,
    /// What the sweep found and nobody had marked.
    pub missed: u64,
    /// Singletons that had to wait until their worker had surely stopped them.
    pub fenced: u64,
    /// Containers that had to make room for others of a higher priority.
    pub preempted: u64,
}

/// The leader's plans for every service. See the module.
#[derive(Debug)]
pub struct Orchestrator {
    leading: bool,
    scheduler: Scheduler,
    asking: Asking,
    marks: Marks,
    in_flight: InFlight,
    outbox: Outbox,
    backoff: BackOff,
    failures: Failures,
    liveness: Liveness,
    sweep: Sweep,
    drains: Drains,
    successors: Successors,
    decisions: Decisions,
    keeper: Keeper,
    walks: Walks,
    /// What a walk has found; empty between steps, but for its room.
    found: Vec<Found>,
    /// Services whose pass is under way; all of them are marked.
    passes: BTreeMap<ServiceId, Pass>,
    /// Marked while their pass was under way: to be marked once what it does is sent.
    again: Vec<ServiceId>,
    /// The next step begins with a scan that the last one could not afford.
    scans_next: bool,
    /// Services with one slot per node: every change of a node concerns them.
    globals: BTreeSet<ServiceId>,
    /// Slots that wait for room, with reasons; services without any are absent.
    pending: Waiting,
    /// Services whose update waits for room.
    blocked: BTreeMap<ServiceId, Arc<str>>,
    /// Since when slots that a pass left without a node have had none; by slot.
    unplaced: BTreeMap<ServiceId, BTreeMap<Slot, u64>>,
    /// Of services, as occupants of nodes were learnt by.
    priorities: BTreeMap<ServiceId, u32>,
    /// Of services that preempt and wait all the same: what is bound meanwhile may be a victim.
    preemptors: BTreeMap<ServiceId, u32>,
    /// As the state had it when the cluster changed last.
    frozen: bool,
    /// What the scheduler counts by, where that is known.
    overcommit: Option<Overcommit>,
    /// The feature level when the cluster changed last.
    level: u32,
    stats: Stats,
    latencies_ms: Vec<u64>,
    looked: usize,
}

impl Orchestrator {
    /// `seed` decides between nodes that are equally good.
    pub fn new(seed: u64) -> Self {
        Self {
            leading: false,
            scheduler: Scheduler::new(seed),
            asking: Asking::default(),
            marks: Marks::default(),
            in_flight: InFlight::default(),
            outbox: Outbox::default(),
            backoff: BackOff::default(),
            failures: Failures::default(),
            liveness: Liveness::default(),
            sweep: Sweep::default(),
            drains: Drains::default(),
            successors: Successors::default(),
            decisions: Decisions::default(),
            keeper: Keeper::default(),
            walks: Walks::default(),
            found: Vec::new(),
            passes: BTreeMap::new(),
            again: Vec::new(),
            scans_next: false,
            globals: BTreeSet::new(),
            pending: Waiting::default(),
            blocked: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            priorities: BTreeMap::new(),
            preemptors: BTreeMap::new(),
            frozen: false,
            overcommit: None,
            level: 0,
            stats: Stats::default(),
            latencies_ms: Vec::new(),
            looked: 0,
        }
    }

    /// Takes leadership at `now_ms` of the monotonic clock, once an entry of the own term is
    /// applied. Every worker has a full grace period from here.
    pub fn lead(&mut self, now_ms: u64) {
        self.follow();
        self.leading = true;
        self.liveness.lead();
        self.sweep.begin(now_ms);
        self.walks.lead();
    }

    /// Gives leadership up, and forgets everything but tokens and statistics.
    pub fn follow(&mut self) {
        self.leading = false;
        self.scheduler.clear();
        self.asking = Asking::default();
        self.marks = Marks::default();
        self.in_flight.clear();
        self.backoff = BackOff::default();
        self.failures = Failures::default();
        self.liveness.follow();
        self.walks = Walks::default();
        self.drains = Drains::default();
        self.successors = Successors::default();
        self.decisions.clear();
        self.keeper = Keeper::default();
        self.passes.clear();
        self.scans_next = false;
        self.globals.clear();
        self.pending.clear();
        self.blocked.clear();
        self.unplaced.clear();
        self.priorities.clear();
        self.preemptors.clear();
        self.frozen = false;
        self.overcommit = None;
    }

    /// The leader's own clock, in milliseconds since 1970: of what it decides when no command has told
    /// the state the time for long. Nothing is decided by it.
    pub fn clock(&mut self, wall_ms: u64) {
        self.decisions.at(wall_ms);
    }

    /// Marks what an applied entry makes worth looking at. `state` has it applied.
    pub fn observe(&mut self, state: &State, events: &[Event]) {
        if !self.leading {
            return;
        }
        self.decisions.at(state.time_ms());
        let mut room = false;
        // Of the event before: those of a command mostly concern one of them.
        let (mut last_service, mut last_node) = (None, None);
        let mut came = BTreeSet::new();
        for event in events {
            match *event {
                Event::Cluster => self.observe_cluster(state),
                Event::Member { .. } => {}
                Event::Service { id, gone: true } => self.forget(id),
                Event::Service { id, gone: false } => {
                    self.learn_urgency(state, id);
                    self.mark(id);
                    let asking = &mut self.asking;
                    asking.service_changed(&mut self.scheduler, id, state.service(id));
                    self.priority_changed(state, id);
                    if state.service(id).is_some_and(|service| service.is_global()) {
                        self.globals.insert(id);
                    }
                }
                Event::Node { id } => {
                    self.observe_node(state, id);
                    room = true;
                }
                Event::Container {
                    id,
                    service,
                    node,
                    gone,
                } => {
                    let container = state.container(id);
                    let ended = gone || container.is_some_and(Container::is_terminal);
                    if container.is_none_or(|container| claims(state, container)) {
                        self.asking.claims_changed(&mut self.scheduler, state, node);
                    }
                    // Who waits may wait for a port, a device, or for whom it is kept apart from, and
                    // not for an amount.
                    room |= ended || container.is_some_and(|it| self.is_new_victim(state, it));
                    if container.is_some_and(|it| is_in_the_way(state, it)) {
                        came.insert(service);
                    }
                    if last_service != Some(service)
                        && !container.is_some_and(|it| self.is_own_bind(it))
                    {
                        self.mark(service);
                        last_service = Some(service);
                    }
                    if last_node.replace(node) != Some(node) {
                        self.scheduler.occupants_changed(node);
                        room |= self.scheduler.node_refresh(state, node);
                    }
                }
            }
        }
        self.mark_who_keeps_apart(state, &came);
        if room {
            self.marks.room();
        }
    }

    /// It has just been bound as was proposed. To the service it is what it was on its way, so that
    /// there is nothing to look at until it is heard of; unless something else of the service waits,
    /// and why may be another thing now.
    fn is_own_bind(&self, container: &Container) -> bool {
        let id = container.service;
        let waits = !self.pending.of(id).is_empty() || self.blocked.contains_key(&id);
        let fresh = container.status.state == ContainerState::Assigned
            && container.desired == DesiredState::Run;
        let slot = Slot::of(container);
        fresh && !waits && self.in_flight.node_of(id, slot) == Some(container.node)
    }

    /// Takes a node over as it is now. True if that is news.
    fn node_put(&mut self, state: &State, node: &Node) -> bool {
        self.drains.put(node);
        self.keeper.node_put(state, node, &mut self.decisions);
        let news = self.scheduler.node_put(state, node);
        news | self.asking.node_put(&mut self.scheduler, state, node)
    }

    fn observe_node(&mut self, state: &State, id: NodeId) {
        if let Some(node) = state.node(id) {
            self.node_put(state, node);
            self.liveness.known(node);
        } else {
            self.asking.node_removed(&self.scheduler, id);
            self.scheduler.node_remove(id);
            self.drains.remove(id);
            self.successors.node_removed(id);
            self.keeper.node_gone(id, &mut self.decisions);
            self.liveness.gone(id);
        }
        self.walks.node(id);
    }

    fn learn_urgency(&mut self, state: &State, id: ServiceId) {
        if let Some(service) = state.service(id) {
            self.marks.set_urgency(id, service.rules.priority);
        }
    }

    /// The service is worth looking at: now, or again once its pass is done.
    fn mark(&mut self, service: ServiceId) {
        self.look_again_at(service);
        self.marks.mark(service);
    }

    fn look_again_at(&mut self, service: ServiceId) {
        if let Some(pass) = self.passes.get_mut(&service) {
            pass.again = true;
            pass.swept = false;
        }
    }

    fn forget(&mut self, service: ServiceId) {
        self.give_back(service);
        self.asking
            .service_changed(&mut self.scheduler, service, None);
        self.marks.forget(service);
        self.passes.remove(&service);
        self.backoff.forget(service);
        self.failures.forget(service);
        self.keeper.forget(service);
        self.globals.remove(&service);
        self.pending.forget(service);
        self.preemptors.remove(&service);
        self.blocked.remove(&service);
        self.unplaced.remove(&service);
        self.priorities.remove(&service);
    }

    /// Derives what to do next, within the budget, each proposal within the limits of a command.
    /// What is left is taken up by the next call.
    pub fn step(&mut self, state: &State, now_ms: u64, budget: Budget) -> Vec<Proposal> {
        let mut meter = Meter::new(budget);
        self.decisions.at(state.time_ms());
        self.keeper.now_ms = now_ms;
        let proposals = if self.leading {
            self.step_within(state, now_ms, &mut meter)
        } else {
            Vec::new()
        };
        self.looked = meter.looked();
        proposals
    }

    fn step_within(&mut self, state: &State, now_ms: u64, meter: &mut Meter) -> Vec<Proposal> {
        while let Some(service) = self.marks.take_due(now_ms, meter) {
            self.mark(service);
        }
        if !std::mem::take(&mut self.scans_next) {
            self.judge_nodes(state, meter);
            self.end_drains(state, now_ms, meter);
        }
        let walked = self.walk(state, meter);
        let mut cycle = false;
        while walked && meter.items > 0 && meter.looks > 0 && !self.in_flight.is_full() {
            // What is decided is sent, and busy, before anybody looks for room where there hardly is
            // any: it may be the same service, whose pass has begun before there was more room.
            let Some((service, hopes)) = self.marks.take(self.outbox.is_empty()) else {
                break;
            };
            if hopes {
                self.hope(state, service, meter);
                continue;
            }
            cycle |= !self.passes.get(&service).is_some_and(|pass| pass.swept);
            self.scans_next = !self.reconcile(state, service, now_ms, meter);
            if self.scans_next {
                break;
            }
        }
        self.stats.cycles += u64::from(cycle);
        // What was proposed is busy from here on, so that nothing finds it again.
        let proposals = self.send();
        for service in std::mem::take(&mut self.again) {
            self.mark(service);
        }
        let time = walked && meter.items > 0 && meter.looks > 0 && !self.in_flight.is_full();
        if time && self.sweep.is_due(now_ms) {
            self.sweep_slice(state, now_ms, meter);
        }
        proposals
    }

    fn judge_nodes(&mut self, state: &State, meter: &mut Meter) {
        let verdicts = self.liveness.verdicts(state, meter);
        // Before anybody is called down: what is behind it in the log is judged with it.
        let losing = verdicts.values().any(|status| *status == NodeStatus::Down);
        self.judge_freeze(state, losing);
        for (node, status) in verdicts {
            if !self.in_flight.is_full() && !self.in_flight.has_node(node) {
                self.outbox.node_status(node, status);
            }
        }
    }

    fn send(&mut self) -> Vec<Proposal> {
        let letters = self.outbox.take();
        letters
            .into_iter()
            .map(|(body, subject)| Proposal {
                token: self.in_flight.send(subject),
                body,
            })
            .collect()
    }

    /// The outcome of a proposal: the response that `apply` gave, or why it did not come to that.
    /// Its events have been observed.
    pub fn resolved(&mut self, now_ms: u64, token: Token, outcome: Result<&[u8]>) {
        if let Some(subject) = self.in_flight.take(token) {
            self.settle(now_ms, subject, outcome);
        }
    }

    /// When to call [`Orchestrator::step`] next if nothing happens before; not in the past.
    /// `None` when not leading.
    pub fn next_wakeup(&self, now_ms: u64) -> Option<u64> {
        if !self.leading {
            return None;
        }
        // With everything in flight that may be, only an outcome changes anything.
        if self.in_flight.is_full() {
            return Some(self.sweep.due_ms().max(now_ms + 1));
        }
        if !self.marks.is_clean() || !self.walks.is_idle() || self.liveness.has_news() {
            return Some(now_ms);
        }
        let timer = self.marks.next_timer().unwrap_or(u64::MAX);
        let timer = timer.min(self.drains.next_ms());
        Some(timer.min(self.sweep.due_ms()).max(now_ms))
    }

    /// A worker's stream is open.
    pub fn session_up(&mut self, node: NodeId, now_ms: u64) {
        self.liveness.session_up(node, now_ms);
    }

    /// A worker's stream is gone; unless it comes back, the node is down a grace period after it
    /// was last heard of.
    pub fn session_down(&mut self, node: NodeId, now_ms: u64) {
        self.liveness.session_down(node, now_ms);
    }

    /// A worker was heard of.
    pub fn alive(&mut self, node: NodeId, now_ms: u64) {
        self.liveness.alive(node, now_ms);
    }

    /// The event loop that hears the workers is itself alive. To be called about every second:
    /// silence is held against a worker only while these come.
    pub fn pulse(&mut self, now_ms: u64) {
        self.keeper.now_ms = now_ms;
        self.liveness.pulse(now_ms);
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// How many slots, containers, nodes and services the last step looked at.
    pub fn looked(&self) -> usize {
        self.looked
    }

    /// How long each container bound since the last call had waited for a node, in milliseconds.
    pub fn take_scheduling_latencies_ms(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.latencies_ms)
    }

    /// Proposals whose outcome is not known yet; at most [`PROPOSALS_MAX`] and one step's worth.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

/// Whether it holds more of its node than amounts.
fn claims(state: &State, container: &Container) -> bool {
    state
        .spec(&container.spec_digest)
        .is_some_and(|spec| fsm::claims(spec))
}
