//! Which workers are there. Kept in the leader's memory; only changes become commands.
//!
//! Silence is measured on a clock of its own that advances from pulse to pulse of the event loop
//! that hears the workers. While the loop is stuck, nobody could have been heard, so nobody is
//! blamed: a gap between pulses counts as [`PULSE_GAP_MAX_MS`] at most.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::fsm::{Node, NodeStatus, State};
use crate::ids::NodeId;
use crate::orchestrator::budget::Meter;

/// Pulses come about every second; more than this between two is no time in which to be heard.
const PULSE_GAP_MAX_MS: u64 = 2_000;

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Advances with the pulses.
    clock_ms: u64,
    last_pulse_ms: Option<u64>,
    workers: BTreeMap<NodeId, Worker>,
    /// Workers to look at now, rather than with the next pulse.
    news: BTreeSet<NodeId>,
    /// Set by a pulse: everybody is to be looked at, in order; those up to this node have been.
    round: Option<Option<NodeId>>,
    /// On `clock_ms`, when leadership began.
    led_ms: u64,
    /// A pulse came, and nobody has counted the lost since.
    pulsed: bool,
    /// On `clock_ms`: since when enough of the lost have been back.
    enough_since_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Worker {
    in_session: bool,
    /// On `clock_ms`.
    heard_ms: u64,
    /// As the state has it.
    down: bool,
    /// On `clock_ms`: when this leader saw it go down.
    fell_ms: Option<u64>,
}

/// Workers that are lost at the moment, and among how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Gone down within the grace period, or ready and silent for most of it.
    pub recent: u32,
    /// Down, or silent for most of the grace period.
    pub silent: u32,
}

impl Liveness {
    /// The workers of the state are made known one by one ([`Liveness::known`]).
    pub fn lead(&mut self) {
        // A session may have come up before leadership was taken.
        self.round = Some(None);
        self.led_ms = self.clock_ms;
        self.pulsed = false;
        self.enough_since_ms = None;
    }

    /// Sessions stay known: they end by themselves.
    pub fn follow(&mut self) {
        self.workers.retain(|_, worker| worker.in_session);
        self.workers
            .values_mut()
            .for_each(|worker| worker.heard_ms = self.clock_ms);
        self.news.clear();
    }

    /// A worker in the state has a full grace period from when it is first known.
    pub fn known(&mut self, node: &Node) {
        if node.worker {
            let heard_ms = self.clock_ms;
            let down = node.status == NodeStatus::Down;
            let worker = self.workers.entry(node.id).or_insert(Worker {
                in_session: false,
                heard_ms,
                down,
                fell_ms: None,
            });
            match (worker.down, down) {
                (false, true) => worker.fell_ms = Some(self.clock_ms),
                (_, false) => worker.fell_ms = None,
                (true, true) => {}
            }
            worker.down = down;
            self.news.insert(node.id);
        }
    }

    /// It is no node of the state any more.
    pub fn gone(&mut self, node: NodeId) {
        self.workers.remove(&node);
        self.news.remove(&node);
    }

    pub fn session_up(&mut self, node: NodeId, _now_ms: u64) {
        let heard_ms = self.clock_ms;
        let worker = self.workers.entry(node).or_insert(Worker {
            in_session: true,
            heard_ms,
            down: false,
            fell_ms: None,
        });
        (worker.in_session, worker.heard_ms) = (true, heard_ms);
        self.news.insert(node);
    }

    pub fn session_down(&mut self, node: NodeId, _now_ms: u64) {
        if let Some(worker) = self.workers.get_mut(&node) {
            worker.in_session = false;
        }
    }

    pub fn alive(&mut self, node: NodeId, _now_ms: u64) {
        if let Some(worker) = self.workers.get_mut(&node) {
            worker.heard_ms = self.clock_ms;
        }
    }

    pub fn pulse(&mut self, now_ms: u64) {
        let gap_ms = self
            .last_pulse_ms
            .map_or(0, |last_ms| now_ms.saturating_sub(last_ms));
        self.clock_ms += gap_ms.min(PULSE_GAP_MAX_MS);
        self.last_pulse_ms = Some(now_ms);
        self.round.get_or_insert(None);
        self.pulsed = true;
    }

    /// Whether a pulse has come since this was asked last, and leadership is as old as that: before,
    /// nobody can be missed.
    pub fn take_pulse(&mut self, grace_ms: u64) -> bool {
        std::mem::take(&mut self.pulsed) && self.clock_ms > self.led_ms + grace_ms
    }

    /// For how long enough of the lost have been back, if they are.
    pub fn lasts_ms(&mut self, enough: bool) -> Option<u64> {
        let since_ms = self.enough_since_ms.unwrap_or(self.clock_ms);
        self.enough_since_ms = enough.then_some(since_ms);
        enough.then(|| self.clock_ms - since_ms)
    }

    /// Who is lost counts only from here on.
    pub fn forgive(&mut self) {
        self.enough_since_ms = None;
        for worker in self.workers.values_mut() {
            worker.fell_ms = None;
        }
    }

    /// O(workers).
    pub fn loss(&self, grace_ms: u64) -> Loss {
        let mut loss = Loss {
            recent: 0,
            silent: 0,
        };
        for worker in self.workers.values() {
            let recent = match worker.down {
                true => worker
                    .fell_ms
                    .is_some_and(|at| self.clock_ms <= at + grace_ms),
                // One that was heard of less than a few heartbeats ago is there.
                false => self.clock_ms - worker.heard_ms > grace_ms / 4 * 3,
            };
            loss.recent += u32::from(recent);
            loss.silent += u32::from(recent || worker.down);
        }
        loss
    }

    /// Time to go until a worker has been silent for `after_ms`; 0 if it has, or is none. Counted
    /// from this leader's own leadership if it has heard nothing.
    pub fn silent_in_ms(&self, node: NodeId, after_ms: u64) -> u64 {
        let until_ms = self.workers.get(&node).map(|it| it.heard_ms + after_ms);
        until_ms.map_or(0, |until_ms| until_ms.saturating_sub(self.clock_ms))
    }

    /// Whether somebody is to be looked at without waiting for anything.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty() || self.round.is_some_and(|after| after.is_some())
    }

    /// To be looked at again: what was proposed for it has had its outcome.
    pub fn recheck(&mut self, node: NodeId) {
        self.news.insert(node);
    }

    /// Workers whose status in the state is wrong, with the right one. Looks at some, for half of
    /// the looks at most: silence is measured in seconds, and others have to do something too.
    pub fn verdicts(&mut self, state: &State, meter: &mut Meter) -> BTreeMap<NodeId, NodeStatus> {
        let mut wrong = BTreeMap::new();
        for _ in 0..(meter.looks / 2).max(1) {
            let Some(id) = self.next_to_judge(meter) else {
                break;
            };
            let node = state.node(id).filter(|node| node.worker);
            let grace_ms = u64::from(state.settings().node_grace_ms);
            if let (Some(node), Some(right)) = (node, self.status(id, grace_ms))
                && node.status != right
            {
                wrong.insert(id, right);
            }
        }
        wrong
    }

    fn next_to_judge(&mut self, meter: &mut Meter) -> Option<NodeId> {
        if self.news.is_empty() && self.round.is_none() || !meter.try_look() {
            return None;
        }
        if let Some(id) = self.news.pop_first() {
            return Some(id);
        }
        let from = self.round?.map_or(Unbounded, Excluded);
        let next = self.workers.range((from, Unbounded)).next();
        let next = next.map(|(id, _)| *id);
        self.round = next.map(Some);
        next
    }

    /// `None` for a worker that has left its session, but not for long.
    fn status(&self, id: NodeId, grace_ms: u64) -> Option<NodeStatus> {
        let worker = self.workers.get(&id)?;
        if self.clock_ms.saturating_sub(worker.heard_ms) > grace_ms {
            Some(NodeStatus::Down)
        } else {
            worker.in_session.then_some(NodeStatus::Ready)
        }
    }
}
