//! The follower's half: one snapshot at a time comes onto the disk, and becomes the state only once it
//! is there whole, checked and durable.

use super::super::{SnapshotStep, SnapshotWrite};
use super::CHUNK_BYTES;
use crate::error::Error;
use crate::fsm::State;
use crate::ids::{Index, MemberId, Term};
use crate::mutant::{self, Mutant};
use crate::pb;
use crate::raft::{ConfState, Position};

/// A sender that is silent for this long makes room for another; what it sent stays on the disk.
const SILENCE_MS: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The disk has not said how much of it is there.
    Opening,
    /// Pieces come.
    Filling,
    /// All is there: it is being checked, made durable and read back.
    Finishing,
    /// Read back, and given to consensus.
    Installing,
}

/// Invariant: `held` ≤ `next` ≤ `total`: what is written, and what is given to the disk.
struct Incoming {
    from: MemberId,
    at: Position,
    total: u64,
    held: u64,
    next: u64,
    stage: Stage,
    heard_at_ms: u64,
}

/// The snapshot on its way in, if there is one.
#[derive(Default)]
pub struct Receiving {
    current: Option<Incoming>,
    received_bytes: u64,
}

/// A snapshot that is durable here, for consensus to take.
pub struct Install {
    pub from: MemberId,
    pub at: Position,
    pub state: State,
    pub conf: ConfState,
}

/// What to tell the sender, and what went wrong if something did.
pub type Told = (MemberId, pb::PeerSnapshotAck, Option<Error>);

impl Receiving {
    /// The leader has one. `applied` is where the state stands.
    pub fn offered(
        &mut self,
        from: MemberId,
        offer: &pb::PeerSnapshotOffer,
        applied: Index,
        now_ms: u64,
        writes: &mut Vec<SnapshotWrite>,
    ) -> Option<(MemberId, pb::PeerSnapshotAck)> {
        let at = Position {
            index: Index(offer.index),
            term: Term(offer.term),
        };
        if at.index <= applied {
            let installed = ack(at, offer.total_bytes);
            return Some((
                from,
                pb::PeerSnapshotAck {
                    installed: true,
                    ..installed
                },
            ));
        }
        if let Some(current) = &mut self.current {
            if current.at == at && current.total == offer.total_bytes {
                // The same again: asked anew, or by a new leader.
                (current.from, current.heard_at_ms) = (from, now_ms);
                return (current.stage == Stage::Filling).then(|| (from, ack(at, current.held)));
            }
            if current.is_settling() {
                // Two in quick succession: the first one is finished first, the offer comes again.
                return None;
            }
            if current.at > at && now_ms < current.heard_at_ms + SILENCE_MS {
                let refused = pb::PeerSnapshotAck {
                    refused: true,
                    ..ack(at, 0)
                };
                return Some((from, refused));
            }
            writes.push(write(current.at, SnapshotStep::Abandon));
        }
        self.current = Some(Incoming {
            from,
            at,
            total: offer.total_bytes,
            held: 0,
            next: 0,
            stage: Stage::Opening,
            heard_at_ms: now_ms,
        });
        writes.push(write(
            at,
            SnapshotStep::Begin {
                total_bytes: offer.total_bytes,
            },
        ));
        None
    }

    /// A piece; one that does not follow the last is dropped, the sender goes back by itself.
    pub fn chunk(
        &mut self,
        from: MemberId,
        chunk: pb::PeerSnapshotChunk,
        now_ms: u64,
        writes: &mut Vec<SnapshotWrite>,
    ) {
        let Some(current) = self.current.as_mut().filter(|current| {
            (current.at.index.0, current.at.term.0) == (chunk.index, chunk.term)
                && current.from == from
                && current.stage == Stage::Filling
        }) else {
            return;
        };
        let length = chunk.bytes.len() as u64;
        let end = chunk.offset.saturating_add(length);
        if chunk.offset != current.next
            || length == 0
            || length > u64::from(CHUNK_BYTES)
            || end > current.total
        {
            return;
        }
        (current.next, current.heard_at_ms) = (end, now_ms);
        self.received_bytes += length;
        let (offset, bytes) = (chunk.offset, chunk.bytes);
        writes.push(write(current.at, SnapshotStep::Chunk { offset, bytes }));
    }

    /// The disk holds this much of it; what to tell the sender.
    pub fn written(
        &mut self,
        at: Position,
        result: Result<u64, Error>,
        writes: &mut Vec<SnapshotWrite>,
    ) -> Option<Told> {
        let current = self.current.as_mut().filter(|current| current.at == at)?;
        if current.is_settling() {
            return None;
        }
        let from = current.from;
        let held = match result {
            Ok(held) if held <= current.total => held,
            Ok(_) => return self.give_up(None, writes),
            Err(error) => return self.give_up(Some(error), writes),
        };
        if current.stage == Stage::Opening {
            (current.stage, current.next) = (Stage::Filling, held);
        }
        current.held = held;
        if held == current.total {
            current.stage = Stage::Finishing;
            writes.push(write(at, SnapshotStep::Finish));
        }
        Some((from, ack(at, held), None))
    }

    fn give_up(&mut self, error: Option<Error>, writes: &mut Vec<SnapshotWrite>) -> Option<Told> {
        let gone = self.current.take()?;
        writes.push(write(gone.at, SnapshotStep::Abandon));
        let refused = pb::PeerSnapshotAck {
            refused: true,
            ..ack(gone.at, 0)
        };
        Some((gone.from, refused, error))
    }

    /// It is whole and durable, and was read back; or it is not what was sent.
    pub fn loaded(
        &mut self,
        at: Position,
        result: Result<Box<(State, ConfState)>, Error>,
        writes: &mut Vec<SnapshotWrite>,
    ) -> Result<Option<Install>, Option<Told>> {
        let matching = |current: &&mut Incoming| {
            current.at == at || mutant::is_on(Mutant::InstallsWhatWasReplaced)
        };
        let Some(current) = self.current.as_mut().filter(matching) else {
            return Ok(None);
        };
        let (state, conf) = match result {
            Ok(loaded) => *loaded,
            Err(error) => return Err(self.give_up(Some(error), writes)),
        };
        current.stage = Stage::Installing;
        Ok(Some(Install {
            from: current.from,
            at: current.at,
            state,
            conf,
        }))
    }

    /// Consensus took it, or had no need of it any more.
    pub fn installed(&mut self, at: Position) -> Option<(MemberId, pb::PeerSnapshotAck)> {
        let done = self.current.take_if(|current| current.at == at)?;
        let installed = pb::PeerSnapshotAck {
            installed: true,
            ..ack(at, done.total)
        };
        Some((done.from, installed))
    }

    pub fn tick(&mut self, now_ms: u64) {
        self.current.take_if(|current| {
            !current.is_settling() && now_ms >= current.heard_at_ms + SILENCE_MS
        });
    }

    pub fn is_receiving(&self) -> bool {
        self.current.is_some()
    }

    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }
}

impl Incoming {
    fn is_settling(&self) -> bool {
        let settling = matches!(self.stage, Stage::Finishing | Stage::Installing);
        settling && !mutant::is_on(Mutant::InstallsWhatWasReplaced)
    }
}

fn write(at: Position, step: SnapshotStep) -> SnapshotWrite {
    SnapshotWrite { at, step }
}

fn ack(at: Position, held_bytes: u64) -> pb::PeerSnapshotAck {
    pb::PeerSnapshotAck {
        index: at.index.0,
        term: at.term.0,
        held_bytes,
        installed: false,
        refused: false,
    }
}
