//! The leader's part in one thread without a disk: decide, apply, observe, and again.

use std::time::Instant;

use warren_core::orchestrator::{Budget, Orchestrator, Proposal};
use warren_core::pb::command::Body;

use crate::cluster::Cluster;
use crate::times::{Field, Fields, Times, thread_ns};

/// As a member has it.
const BUDGET: Budget = Budget {
    items: 512,
    looks: 2048,
};

/// A cluster and its leader.
pub struct Direct {
    pub cluster: Cluster,
    pub orchestrator: Orchestrator,
    began: Instant,
    /// Of the orchestrator, each.
    pub steps: Times,
    /// One for each command: applied, and observed.
    pub applies: Times,
    pub commands: u64,
}

impl Direct {
    /// Leads from here on.
    pub fn new(cluster: Cluster) -> Self {
        let mut direct = Self {
            cluster,
            orchestrator: Orchestrator::new(1),
            began: Instant::now(),
            steps: Times::default(),
            applies: Times::default(),
            commands: 0,
        };
        direct.orchestrator.lead(0);
        direct
    }

    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Applies what somebody else asks for.
    pub fn apply(&mut self, body: Body) -> Vec<u8> {
        let (response, events) = self.cluster.apply_events(body);
        self.orchestrator.observe(&self.cluster.state, &events);
        response
    }

    /// One step and what it proposes; false if there was nothing to be done.
    pub fn turn(&mut self) -> bool {
        let (began, now_ms) = (Instant::now(), self.now_ms());
        let state = &self.cluster.state;
        let proposals = self.orchestrator.step(state, now_ms, BUDGET);
        self.steps.add(began.elapsed().as_nanos() as u64);
        let busy = !proposals.is_empty();
        for Proposal { token, body } in proposals {
            let began = Instant::now();
            let response = self.apply(body);
            self.orchestrator.resolved(now_ms, token, Ok(&response));
            self.applies.add(began.elapsed().as_nanos() as u64);
            self.commands += 1;
        }
        self.orchestrator.take_scheduling_latencies_ms();
        busy || self.orchestrator.next_wakeup(now_ms) <= Some(now_ms)
    }

    /// Until nothing more is to be done at once. How long that took.
    pub fn settle(&mut self) -> u64 {
        let began = Instant::now();
        while self.turn() {}
        began.elapsed().as_nanos() as u64
    }

    pub fn placed(&self) -> u64 {
        self.cluster.state.container_count() as u64
    }

    pub fn fields(&self) -> Fields {
        vec![
            ("commands", Field::of(self.commands)),
            ("step", self.steps.field()),
            ("apply", self.applies.field()),
        ]
    }
}

/// Places all that is wanted.
pub fn fill(cluster: Cluster) -> Fields {
    let wanted = cluster.wanted;
    let mut direct = Direct::new(cluster);
    let (began, began_thread_ns) = (Instant::now(), thread_ns());
    let (mut bound, mut before) = (Times::default(), 0);
    while before < wanted {
        let busy = direct.turn();
        let now = direct.placed();
        bound.add_many(began.elapsed().as_nanos() as u64, now - before);
        before = now;
        assert!(
            busy || now == wanted,
            "{now} of {wanted} are placed, and no more"
        );
    }
    let took_ns = began.elapsed().as_nanos() as u64;
    let thread_took_ns = thread_ns() - began_thread_ns;
    let mut fields = vec![
        ("containers", Field::of(wanted)),
        ("seconds", Field::seconds(took_ns)),
        ("thread_seconds", Field::seconds(thread_took_ns)),
        ("settled_seconds", Field::seconds(took_ns + direct.settle())),
        ("bound", bound.field()),
    ];
    fields.extend(direct.fields());
    fields
}
