//! A leader that cannot do its work hands the lead to one that can.

use std::collections::VecDeque;

use super::super::{Level, Now, Outputs};
use super::Member;
use crate::raft::Role;

/// The event loop is taken for stuck after this long without a pulse.
const PULSE_MS_MAX: u64 = 3_000;
/// The disk is taken for stuck after this long without an answer.
const PERSIST_MS_MAX: u64 = 5_000;
/// Between two attempts.
const RETRY_MS: u64 = 2_000;
/// A daemon that ends waits for a successor no longer than this.
const RETIRE_MS_MAX: u64 = 2_000;

/// How this member itself is doing.
#[derive(Default)]
pub struct Care {
    /// `None` until the first one: a driver without an event loop sends none.
    pulse_at_ms: Option<u64>,
    led_at_ms: u64,
    /// What the log was given and has not answered: numbers, and since when.
    unanswered: VecDeque<(u64, u64)>,
    not_before_ms: u64,
    retire_at_ms: Option<u64>,
    /// Nobody can take over, or nobody did.
    gave_up: bool,
}

impl Care {
    pub fn pulse(&mut self, now_ms: u64) {
        self.pulse_at_ms = Some(now_ms);
    }

    /// Liveness is counted from the beginning of the lead.
    pub fn lead(&mut self, now_ms: u64) {
        self.led_at_ms = now_ms;
    }

    pub fn persisting(&mut self, number: u64, now_ms: u64) {
        self.unanswered.push_back((number, now_ms));
    }

    pub fn persisted(&mut self, number: u64, _now_ms: u64) {
        while self.unanswered.front().is_some_and(|(n, _)| *n <= number) {
            self.unanswered.pop_front();
        }
    }

    pub fn retire(&mut self, now_ms: u64) {
        self.retire_at_ms.get_or_insert(now_ms);
        self.not_before_ms = 0;
    }

    pub fn is_retired(&self, leads: bool) -> bool {
        self.retire_at_ms.is_some() && (!leads || self.gave_up)
    }

    fn why_not_lead(&self, now_ms: u64) -> Option<&'static str> {
        let pulse_at_ms = self.pulse_at_ms.map(|at| at.max(self.led_at_ms));
        let written_at_ms = self.unanswered.front().map(|(_, at)| *at);
        if self.retire_at_ms.is_some() {
            Some("this daemon is ending")
        } else if pulse_at_ms.is_some_and(|at| now_ms >= at + PULSE_MS_MAX) {
            Some("this daemon's event loop does not answer")
        } else if written_at_ms.is_some_and(|at| now_ms >= at + PERSIST_MS_MAX) {
            Some("this host's disk does not answer")
        } else {
            None
        }
    }
}

impl Member {
    pub(super) fn tend_lead(&mut self, now: Now, out: &mut Outputs) {
        let now_ms = now.mono_ms();
        if let Some(since_ms) = self.care.retire_at_ms {
            self.care.gave_up =
                self.raft.conf_state().voters.len() < 2 || now_ms >= since_ms + RETIRE_MS_MAX;
        }
        if self.raft.role() != Role::Leader || now_ms < self.care.not_before_ms {
            return;
        }
        let full = (!self.has_space).then_some("this host's disk is full");
        let Some(why) = self.care.why_not_lead(now_ms).or(full) else {
            return;
        };
        if self.raft.transfer_target().is_some() {
            return;
        }
        let Some(to) = self.successor() else { return };
        self.care.not_before_ms = now_ms + RETRY_MS;
        if self.raft.transfer_leadership(to).is_ok() {
            let message = format!("handing the lead to member {}: {why}", to.0);
            out.log(Level::Warning, "control", message);
        }
    }
}
