//! What will happen, in order of time; what falls on one instant, in the order it was planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::network::End;
use crate::control::{CallId, Consistency, Input};
use crate::error::Error;

/// A process of a machine: the one of that boot, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub machine: End,
    pub boot: u32,
}

/// A request as it is on its way.
#[derive(Debug)]
pub struct Asked {
    pub from: End,
    /// Comes back with the answer.
    pub token: u64,
    pub identity: String,
    pub method: &'static str,
    pub body: Vec<u8>,
    pub timeout_ms: u64,
    pub consistency: Consistency,
    pub stream: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Refused(Error),
    /// Nobody took the request: it had no effect.
    Unavailable,
    /// The connection broke while somebody had it.
    Broken,
}

pub enum Event {
    Tick(Process),
    Step(Process),
    Frame {
        from: End,
        to: End,
        bytes: Vec<u8>,
    },
    /// The log thread does the work at hand.
    LogRuns(Process),
    /// It tells what came of it.
    LogDone(Process),
    /// Work of another thread is done.
    Done(Process, Box<Input>),
    /// The snapshot thread takes up its next job.
    SnapshotRuns(Process),
    Asked(End, Box<Asked>),
    Answered {
        to: End,
        token: u64,
        result: Result<Vec<u8>, Failure>,
    },
    /// An item of a stream; the reader takes it at once.
    Item {
        process: Process,
        call: CallId,
        to: End,
        token: u64,
        bytes: Vec<u8>,
    },
    /// The reader of a stream has gone.
    Cancel {
        machine: End,
        from: End,
        token: u64,
    },
    /// A client, a worker or the operator looks after what it waits for.
    Wake(End, u32),
    Start(End),
    /// Something goes wrong.
    Nemesis,
    /// Something is over.
    Heal,
    Phase,
}

impl Event {
    /// For the digest: what it is and whom it concerns.
    pub fn fingerprint(&self) -> u64 {
        let (kind, end, extra) = match self {
            Event::Tick(p) => (1, p.machine, u64::from(p.boot)),
            Event::Step(p) => (2, p.machine, u64::from(p.boot)),
            Event::Frame { from, to, bytes } => (3, *to, u64::from(from.0) << 32 | sum(bytes)),
            Event::LogRuns(p) => (4, p.machine, u64::from(p.boot)),
            Event::LogDone(p) => (5, p.machine, u64::from(p.boot)),
            Event::Done(p, _) => (6, p.machine, u64::from(p.boot)),
            Event::SnapshotRuns(p) => (7, p.machine, u64::from(p.boot)),
            Event::Asked(end, asked) => (8, *end, sum(&asked.body)),
            Event::Answered { to, token, result } => (
                9,
                *to,
                token ^ result.as_ref().map_or(0, |bytes| sum(bytes)),
            ),
            Event::Item { to, bytes, .. } => (10, *to, sum(bytes)),
            Event::Cancel { machine, token, .. } => (11, *machine, *token),
            Event::Wake(end, generation) => (12, *end, u64::from(*generation)),
            Event::Start(end) => (13, *end, 0),
            Event::Nemesis => (14, End(0), 0),
            Event::Phase => (15, End(0), 0),
            Event::Heal => (16, End(0), 0),
        };
        (kind << 56 | u64::from(end.0) << 48) ^ extra
    }
}

fn sum(bytes: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(bytes))
}

struct Planned {
    at_ns: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

/// How long a freeze is, and how long before the next event that is not frozen it ends.
#[derive(Clone, Copy)]
pub struct Freeze {
    pub shortest_ns: u64,
    pub longest_ns: u64,
    pub before_ns: u64,
}

#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Planned>>,
    planned: u64,
}

impl Queue {
    pub fn plan(&mut self, at_ns: u64, event: Event) {
        self.planned += 1;
        let number = self.planned;
        self.heap.push(Reverse(Planned {
            at_ns,
            number,
            event,
        }));
    }

    /// Lets everything stand still but the events that `bounds` names, until shortly before the first
    /// of those: as if the host of all machines and of the network between them had been frozen.
    /// Nothing happens if it is not worth it, or if `ready` is not true of each other event.
    pub fn freeze(
        &mut self,
        now_ns: u64,
        limits: Freeze,
        bounds: impl Fn(&Event) -> bool,
        ready: impl Fn(&Event) -> bool,
    ) -> u64 {
        let mut until_ns = now_ns + limits.longest_ns + limits.before_ns;
        for Reverse(planned) in &self.heap {
            match bounds(&planned.event) {
                true => until_ns = until_ns.min(planned.at_ns),
                false if !ready(&planned.event) => return 0,
                false => {}
            }
        }
        let for_ns = until_ns.saturating_sub(now_ns + limits.before_ns);
        if for_ns < limits.shortest_ns {
            return 0;
        }
        let mut all = std::mem::take(&mut self.heap).into_vec();
        for Reverse(planned) in &mut all {
            if !bounds(&planned.event) {
                planned.at_ns += for_ns;
            }
        }
        self.heap = all.into();
        for_ns
    }

    pub fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse(planned) = self.heap.pop()?;
        Some((planned.at_ns, planned.event))
    }
}
