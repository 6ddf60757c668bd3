//! Which requests were answered, and how: a request whose first answer got lost is repeated under
//! its id and answered from here, never applied a second time.
//!
//! The window is replicated, so it must not grow: it holds at most [`REQUESTS_MAX`] answers, none
//! older than [`AGE_ENTRIES_MAX`] log entries. What leaves raises its client's floor, and a
//! request below the floor is refused as too old: never applied, because it may have been.
//!
//! Floors of clients without remembered requests are bounded by [`FLOORS_MAX`], the longest
//! unused going first. A client whose floor is gone could repeat an old request unnoticed; but
//! by then at least as many other clients have come and gone, and clients give up within minutes.

use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::fsm::hash::{self, Sum};
use crate::ids::Index;
use crate::pb;

/// Answers remembered in all.
pub const REQUESTS_MAX: usize = 65_536;
/// Log entries after which an answer is forgotten.
pub const AGE_ENTRIES_MAX: u64 = 1_000_000;
/// Clients remembered by nothing but their floor.
pub const FLOORS_MAX: usize = 65_536;

pub type ClientId = [u8; 16];

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Where it was applied.
    pub index: Index,
    /// SHA-256 of method and request.
    pub digest: [u8; 32],
    /// The encoded response; where refused, code and message.
    pub answer: Result<Vec<u8>, (&'static str, String)>,
}

impl Remembered {
    /// The answer as it was given the first time.
    pub fn response(&self) -> Result<Vec<u8>> {
        self.answer
            .clone()
            .map_err(|(code, message)| Error::RefusedBefore { code, message })
    }
}

/// A request id whose parts have the right lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    pub client: ClientId,
    pub sequence: u64,
    pub digest: [u8; 32],
}

impl TryFrom<&pb::RequestId> for RequestKey {
    type Error = Error;

    fn try_from(id: &pb::RequestId) -> Result<Self> {
        let wrong = |why: &str| Error::Invalid {
            what: "request id",
            why: why.to_owned(),
        };
        Ok(Self {
            client: id.client[..]
                .try_into()
                .map_err(|_| wrong("client must have 16 bytes"))?,
            sequence: id.sequence,
            digest: id.digest[..]
                .try_into()
                .map_err(|_| wrong("digest must have 32 bytes"))?,
        })
    }
}

/// The digest that stands in a request id: of the method and the request without its id.
pub fn request_digest(method: &str, request: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((method.len() as u64).to_le_bytes());
    hash.update(method);
    hash.update(request);
    hash.finalize().into()
}

/// Invariants: `order` names every answer once, by the index it was applied at; `floors` holds a
/// client if and only if one of its answers was forgotten, `idle` those of them that have no
/// answer left.
#[derive(Clone, Default)]
pub(super) struct Requests {
    answers: OrdMap<(ClientId, u64), Remembered>,
    order: OrdSet<(Index, ClientId, u64)>,
    floors: OrdMap<ClientId, Floor>,
    idle: OrdSet<(Index, ClientId)>,
    sum: Sum,
}

#[derive(Clone, Copy)]
struct Floor {
    /// Sequences below it that are not remembered were, or might have been, applied.
    sequence: u64,
    /// Of the last answer that was forgotten.
    index: Index,
}

impl Requests {
    pub fn get(&self, client: &ClientId, sequence: u64) -> Option<&Remembered> {
        self.answers.get(&(*client, sequence))
    }

    pub fn sum(&self) -> Sum {
        self.sum
    }

    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// The answer to a repetition; `None` for a new request, which may be applied now.
    pub fn lookup(&self, key: &RequestKey) -> Option<Result<Vec<u8>>> {
        match self.get(&key.client, key.sequence) {
            Some(known) if known.digest == key.digest => Some(known.response()),
            Some(_) => Some(Err(Error::RequestReused)),
            None => {
                let floor = self.floors.get(&key.client)?;
                (key.sequence < floor.sequence).then_some(Err(Error::RequestTooOld))
            }
        }
    }

    pub fn remember(&mut self, key: &RequestKey, index: Index, response: &Result<Vec<u8>>) {
        let answer = response
            .clone()
            .map_err(|error| (error.code(), error.to_string()));
        let known = Remembered {
            index,
            digest: key.digest,
            answer,
        };
        self.insert(key.client, key.sequence, known);
    }

    pub fn insert(&mut self, client: ClientId, sequence: u64, known: Remembered) {
        if let Some(floor) = self.floors.get(&client) {
            self.idle.remove(&(floor.index, client));
        }
        self.sum.add(hash::answer(&client, sequence, &known));
        self.order.insert((known.index, client, sequence));
        if let Some(before) = self.answers.insert((client, sequence), known) {
            self.sum.take(hash::answer(&client, sequence, &before));
        }
    }

    /// Forgets what is too old at `now`, or too much.
    pub fn evict(&mut self, now: Index) {
        while let Some(&(index, client, sequence)) = self.order.get_min() {
            let expired = now.0.saturating_sub(index.0) > AGE_ENTRIES_MAX;
            if !expired && self.answers.len() <= REQUESTS_MAX {
                break;
            }
            self.order.remove(&(index, client, sequence));
            let known = self.answers.remove(&(client, sequence)).expect("in order");
            self.sum.take(hash::answer(&client, sequence, &known));
            let floor = self.floors.get(&client).map_or(0, |floor| floor.sequence);
            self.set_floor(client, floor.max(sequence.saturating_add(1)), index);
        }
        while self.idle.len() > FLOORS_MAX {
            let &(index, client) = self.idle.get_min().expect("it is not empty");
            self.idle.remove(&(index, client));
            let floor = self.floors.remove(&client).expect("it is idle");
            self.sum
                .take(hash::floor(&client, floor.sequence, floor.index));
        }
    }

    pub fn set_floor(&mut self, client: ClientId, sequence: u64, index: Index) {
        self.sum.add(hash::floor(&client, sequence, index));
        if let Some(before) = self.floors.insert(client, Floor { sequence, index }) {
            self.sum
                .take(hash::floor(&client, before.sequence, before.index));
            self.idle.remove(&(before.index, client));
        }
        let first = self.answers.range((client, 0)..=(client, u64::MAX)).next();
        if first.is_none() {
            self.idle.insert((index, client));
        }
    }

    /// Answers in the order they were given.
    pub fn answers(&self) -> impl Iterator<Item = (&ClientId, u64, &Remembered)> {
        self.order
            .iter()
            .map(|(_, client, sequence)| (client, *sequence, &self.answers[&(*client, *sequence)]))
    }

    /// (client, floor, index of the last answer forgotten), by client.
    pub fn floors(&self) -> impl Iterator<Item = (&ClientId, u64, Index)> {
        self.floors
            .iter()
            .map(|(client, floor)| (client, floor.sequence, floor.index))
    }
}
