//! Is a recorded history linearizable?
//!
//! Each operation is to have taken effect at one instant between its invocation and its return, and
//! all effects in that order are to explain all answers (Herlihy, Wing: *Linearizability: a
//! correctness condition for concurrent objects*, 1990). The object is a service by name; names are
//! independent, and a history is linearizable exactly if its part for each name is (ibid., theorem
//! 1), so each is searched alone.
//!
//! The search is that of Wing and Gong (1993) as Lowe made it fast (*Testing for linearizability*,
//! 2017): depth first over the operations that could come next, never twice to the same set of
//! operations done with the same state of the object.
//!
//! An operation without an answer may take effect at any time after its invocation, or never. A
//! removed service goes when its containers are gone, at a time that nobody is told: a state
//! [`Service::Leaving`] stands for "still there or gone already".

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasherDefault;

#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;

/// A service's id; one incarnation of a name.
pub type Id = [u8; 16];

/// What a client asked. A tag names what was written, once in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Create { tag: u64 },
    Update { id: Id, expected: u64, tag: u64 },
    Remove { id: Id },
    Get,
}

/// What it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Created {
        id: Id,
    },
    Updated {
        version: u64,
    },
    Removed,
    /// Of a get.
    Found {
        id: Id,
        version: u64,
        tag: u64,
        removing: bool,
    },
    /// There is no such service.
    Missing,
    NameTaken,
    Conflict,
    /// The service is being removed.
    Removing,
}

/// One operation on one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub ask: Ask,
    /// `None`: nobody knows what became of it.
    pub answer: Option<Answer>,
    pub invoked_ns: u64,
    /// `u64::MAX` where there is no answer.
    pub returned_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violated,
    /// Not decided within the bound on steps.
    Undecided,
}

/// Steps of the search after which it gives up: some seconds.
pub const STEPS_MAX: u64 = 20_000_000;

/// The object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Service {
    Absent,
    Present {
        id: Id,
        version: u64,
        tag: u64,
    },
    /// Removed: to be seen as `removing`, or not there any more.
    Leaving {
        id: Id,
        version: u64,
        tag: u64,
    },
}

impl Service {
    /// The state after `ask` if it can be answered so now; without an answer, if it has an effect.
    fn after(self, ask: Ask, answer: Option<Answer>, born: &BTreeMap<u64, Id>) -> Option<Self> {
        match ask {
            Ask::Create { tag } => self.after_create(tag, answer, born),
            Ask::Update { id, expected, tag } => self.after_update(id, expected, tag, answer),
            Ask::Remove { id } => self.after_remove(id, answer),
            Ask::Get => self.after_get(answer),
        }
    }

    fn after_create(
        self,
        tag: u64,
        answer: Option<Answer>,
        born: &BTreeMap<u64, Id>,
    ) -> Option<Self> {
        let create = |id| {
            Some(Self::Present {
                id,
                version: 1,
                tag,
            })
        };
        match (self, answer) {
            (Self::Absent | Self::Leaving { .. }, None) => {
                create(born.get(&tag).copied().unwrap_or_else(|| unseen(tag)))
            }
            (Self::Absent | Self::Leaving { .. }, Some(Answer::Created { id })) => create(id),
            (Self::Present { .. } | Self::Leaving { .. }, Some(Answer::NameTaken))
            | (Self::Leaving { .. }, Some(Answer::Removing)) => Some(self),
            _ => None,
        }
    }

    fn after_update(self, to: Id, expected: u64, tag: u64, answer: Option<Answer>) -> Option<Self> {
        match (self, answer) {
            (Self::Present { id, version, .. }, None | Some(Answer::Updated { .. }))
                if id == to && version == expected =>
            {
                let version = version + 1;
                let told = answer.is_none_or(|answer| answer == Answer::Updated { version });
                told.then_some(Self::Present { id, version, tag })
            }
            (Self::Present { id, version, .. }, Some(Answer::Conflict)) => {
                (id == to && version != expected).then_some(self)
            }
            (Self::Leaving { id, .. }, Some(Answer::Removing)) => (id == to).then_some(self),
            (_, Some(Answer::Missing)) => self.without(to),
            _ => None,
        }
    }

    fn after_remove(self, to: Id, answer: Option<Answer>) -> Option<Self> {
        match (self, answer) {
            (Self::Present { id, version, tag }, None | Some(Answer::Removed)) if id == to => {
                Some(Self::Leaving { id, version, tag })
            }
            (Self::Leaving { id, .. }, Some(Answer::Removed)) => (id == to).then_some(self),
            (_, Some(Answer::Missing)) => self.without(to),
            _ => None,
        }
    }

    fn after_get(self, answer: Option<Answer>) -> Option<Self> {
        let found = |id, version, tag, removing| Answer::Found {
            id,
            version,
            tag,
            removing,
        };
        match (self, answer?) {
            (Self::Absent | Self::Leaving { .. }, Answer::Missing) => Some(Self::Absent),
            (Self::Present { id, version, tag }, seen) => {
                (seen == found(id, version, tag, false)).then_some(self)
            }
            (Self::Leaving { id, version, tag }, seen) => {
                (seen == found(id, version, tag, true)).then_some(self)
            }
            _ => None,
        }
    }

    /// The state in which no service has this id.
    fn without(self, gone: Id) -> Option<Self> {
        match self {
            Self::Absent => Some(self),
            Self::Present { id, .. } => (id != gone).then_some(self),
            Self::Leaving { id, .. } => Some(if id == gone { Self::Absent } else { self }),
        }
    }
}

/// Stands for the id of a service that nobody ever saw.
fn unseen(tag: u64) -> Id {
    let mut id = [0xff; 16];
    id[..8].copy_from_slice(&tag.to_le_bytes());
    id
}

/// The id under which what was created with a tag was seen.
fn births(operations: &[Operation]) -> BTreeMap<u64, Id> {
    let seen = operations
        .iter()
        .filter_map(|operation| match operation.answer {
            Some(Answer::Found { id, tag, .. }) => Some((tag, id)),
            _ => None,
        });
    seen.collect()
}

/// Judges the history of one name; in any order.
pub fn check(operations: &[Operation]) -> Verdict {
    Search::new(operations).run()
}

/// What was going on when a history first went wrong: the operations around the end of its
/// shortest prefix that has no order.
pub fn last_of_violation(history: &[Operation]) -> Vec<Operation> {
    let mut returns: Vec<u64> = history.iter().map(|o| o.returned_ns).collect();
    returns.retain(|at_ns| *at_ns < u64::MAX);
    returns.sort_unstable();
    let wrong =
        returns.partition_point(|at_ns| check(&until(history, *at_ns)) != Verdict::Violated);
    let Some(at_ns) = returns.get(wrong) else {
        return Vec::new();
    };
    let mut around = until(history, *at_ns);
    around.sort_by_key(|o| (o.returned_ns.min(*at_ns), o.invoked_ns));
    around.split_off(around.len().saturating_sub(AROUND))
}

/// Operations shown of a violation.
const AROUND: usize = 12;

/// The history as it was known at an instant.
fn until(history: &[Operation], at_ns: u64) -> Vec<Operation> {
    let begun = history.iter().filter(|o| o.invoked_ns <= at_ns).copied();
    let known = begun.map(|operation| match operation.returned_ns <= at_ns {
        true => operation,
        false => Operation {
            answer: None,
            returned_ns: u64::MAX,
            ..operation
        },
    });
    // A read without an answer says nothing.
    known
        .filter(|o| o.answer.is_some() || o.ask != Ask::Get)
        .collect()
}

type Done = HashSet<(Box<[u64]>, Service), BuildHasherDefault<Mixer>>;

/// Invariants: `next`/`previous` link the events of operations that are not placed, by time, with
/// the head at 0; `placed` holds the operations on `path`, in order.
struct Search<'a> {
    operations: &'a [Operation],
    born: BTreeMap<u64, Id>,
    /// Events by time: the operation, and whether it is the return.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where an operation's return stands; 0 where there is none.
    return_of: Vec<usize>,
    placed: Box<[u64]>,
    path: Vec<(usize, Service)>,
    seen: Done,
    /// Operations with an answer that are not placed yet.
    missing: usize,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut timed = Vec::with_capacity(operations.len() * 2);
        for (number, operation) in operations.iter().enumerate() {
            // At one instant the invocations come first: they overlap.
            timed.push((operation.invoked_ns, false, number));
            if operation.answer.is_some() {
                timed.push((operation.returned_ns, true, number));
            }
        }
        timed.sort_unstable();
        let mut events = vec![(usize::MAX, false)];
        let mut return_of = vec![0; operations.len()];
        for (_, is_return, number) in timed {
            if is_return {
                return_of[number] = events.len();
            }
            events.push((number, is_return));
        }
        let count = events.len();
        Self {
            operations,
            born: births(operations),
            next: (1..=count).map(|at| at % count).collect(),
            previous: (0..count).map(|at| (at + count - 1) % count).collect(),
            events,
            return_of,
            placed: vec![0; operations.len().div_ceil(64)].into(),
            path: Vec::new(),
            seen: Done::default(),
            missing: operations.iter().filter(|o| o.answer.is_some()).count(),
        }
    }

    fn run(mut self) -> Verdict {
        let mut state = Service::Absent;
        let mut at = self.next[0];
        for _ in 0..STEPS_MAX {
            if self.missing == 0 {
                return Verdict::Linearizable;
            }
            let (number, is_return) = self.events[at];
            if at != 0 && !is_return {
                at = match self.place(at, number, state) {
                    Some(after) => {
                        state = after;
                        self.next[0]
                    }
                    None => self.next[at],
                };
                continue;
            }
            // An operation has returned that is not placed, or there is none left to try: what was
            // placed last was placed too early.
            let Some((last, before)) = self.path.pop() else {
                return Verdict::Violated;
            };
            self.take_back(last);
            state = before;
            at = self.next[last];
        }
        Verdict::Undecided
    }

    /// Places the operation invoked at `at` next, if that is possible and was not tried before.
    fn place(&mut self, at: usize, number: usize, state: Service) -> Option<Service> {
        let Operation { ask, answer, .. } = self.operations[number];
        let after = state.after(ask, answer, &self.born)?;
        self.placed[number / 64] |= 1 << (number % 64);
        if !self.seen.insert((self.placed.clone(), after)) {
            self.placed[number / 64] &= !(1 << (number % 64));
            return None;
        }
        self.path.push((at, state));
        self.unlink(at);
        if self.return_of[number] != 0 {
            self.unlink(self.return_of[number]);
            self.missing -= 1;
        }
        Some(after)
    }

    fn take_back(&mut self, at: usize) {
        let number = self.events[at].0;
        self.placed[number / 64] &= !(1 << (number % 64));
        if self.return_of[number] != 0 {
            self.relink(self.return_of[number]);
            self.missing += 1;
        }
        self.relink(at);
    }

    fn unlink(&mut self, at: usize) {
        self.next[self.previous[at]] = self.next[at];
        self.previous[self.next[at]] = self.previous[at];
    }

    /// In the reverse order of [`unlink`](Self::unlink), each finds its neighbours as they were.
    fn relink(&mut self, at: usize) {
        self.next[self.previous[at]] = at;
        self.previous[self.next[at]] = at;
    }
}

/// A fast hash without secrets: nobody attacks a simulation.
#[derive(Default)]
struct Mixer(u64);

impl std::hash::Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
