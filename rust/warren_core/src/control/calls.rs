//! The calls that wait for an answer, and when each must have one.

use std::collections::{BTreeMap, BTreeSet};

use super::{CallId, Now, Outputs};
use crate::error::Error;

/// Invariant: `deadlines` holds exactly the pairs of `open`.
#[derive(Default)]
pub struct Calls {
    open: BTreeMap<CallId, u64>,
    deadlines: BTreeSet<(u64, CallId)>,
}

impl Calls {
    pub fn open_call(&mut self, id: CallId, deadline_mono_ms: u64) {
        self.open.insert(id, deadline_mono_ms);
        self.deadlines.insert((deadline_mono_ms, id));
    }

    /// Answers a call, unless it has been given up.
    pub fn reply(&mut self, id: CallId, result: Result<Vec<u8>, Error>, out: &mut Outputs) {
        if self.close(id) {
            out.replies.push((id, result));
        }
    }

    /// Takes a call off the list without an answer from here; false if it is not on it.
    pub fn close(&mut self, id: CallId) -> bool {
        match self.open.remove(&id) {
            Some(deadline) => self.deadlines.remove(&(deadline, id)),
            None => false,
        }
    }

    /// Gives up what is due. The work goes on, so the outcome is unknown.
    pub fn expire(&mut self, now: Now, out: &mut Outputs) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now.mono_ms() {
                return;
            }
            self.reply(id, Err(Error::OutcomeUnknown), out);
        }
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }
}
