//! The calls that wait for an answer, and when each must have one.

use std::collections::{BTreeMap, BTreeSet};

use super::{CallId, Now, Outputs};
use crate::error::Error;
use crate::mutant::{self, Mutant};

/// Invariant: `deadlines` holds exactly the pairs of `open`.
#[derive(Default)]
pub struct Calls {
    open: BTreeMap<CallId, Open>,
    deadlines: BTreeSet<(u64, CallId)>,
}

#[derive(Clone, Copy)]
struct Open {
    deadline_mono_ms: u64,
    read: bool,
}

impl Calls {
    pub fn open_call(&mut self, id: CallId, deadline_mono_ms: u64, read: bool) {
        let open = Open {
            deadline_mono_ms,
            read,
        };
        self.open.insert(id, open);
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
            Some(open) => self.deadlines.remove(&(open.deadline_mono_ms, id)),
            None => false,
        }
    }

    pub fn is_open(&self, id: CallId) -> bool {
        self.open.contains_key(&id)
    }

    /// Gives up what is due. A write goes on, so its outcome is unknown; a read that nobody could
    /// answer in time found no quorum.
    pub fn expire(&mut self, now: Now, out: &mut Outputs) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now.mono_ms() {
                return;
            }
            let read = self.open.get(&id).is_some_and(|open| open.read);
            if read && mutant::is_on(Mutant::ReadsNeverExpire) {
                self.deadlines.remove(&(deadline, id));
                continue;
            }
            let error = if read || mutant::is_on(Mutant::RefusesWhatMayHappen) {
                Error::NoQuorum
            } else {
                Error::OutcomeUnknown
            };
            self.reply(id, Err(error), out);
        }
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }
}
