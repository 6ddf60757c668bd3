//! The leader's half: offers, reads pieces from its disk, sends them, and hears how far they came.

use std::collections::BTreeMap;

use super::super::{SnapshotBytes, SnapshotRead};
use super::{CHUNK_BYTES, IN_FLIGHT_MAX};
use crate::error::Error;
use crate::ids::MemberId;
use crate::pb;
use crate::raft::Position;

/// Followers served at a time; the others are asked again by consensus.
pub const SENDING_MAX: usize = 8;
/// Without an acknowledgement for this long, what was under way counts as lost.
const RETRY_MS: u64 = 1_000;
/// Without one for this long, the follower is given up.
const GIVE_UP_MS: u64 = 20_000;

/// What to say to a follower.
pub enum Say {
    Offer(pb::PeerSnapshotOffer),
    Chunk(pb::PeerSnapshotChunk),
}

/// What became of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Installed,
    Failed,
}

/// Invariant: `held` ≤ `next` ≤ `held` + 4 pieces.
struct Transfer {
    at: Position,
    /// Known once the first piece was read.
    total: Option<u64>,
    /// The follower has answered the offer.
    open: bool,
    held: u64,
    next: u64,
    progress_at_ms: u64,
    retry_at_ms: u64,
}

/// All transfers under way.
#[derive(Default)]
pub struct Sending {
    transfers: BTreeMap<MemberId, Transfer>,
    /// Reads of the disk, by token: for whom, from where.
    reads: BTreeMap<u64, (MemberId, u64)>,
    next_token: u64,
    sent_bytes: u64,
}

impl Sending {
    /// Begins, unless one to `to` is under way. False if there are too many.
    pub fn begin(
        &mut self,
        to: MemberId,
        at: Position,
        now_ms: u64,
        reads: &mut Vec<SnapshotRead>,
    ) -> bool {
        if self.transfers.contains_key(&to) {
            return true;
        }
        if self.transfers.len() >= SENDING_MAX {
            return false;
        }
        let transfer = Transfer {
            at,
            total: None,
            open: false,
            held: 0,
            next: 0,
            progress_at_ms: now_ms,
            retry_at_ms: now_ms + RETRY_MS,
        };
        self.transfers.insert(to, transfer);
        self.read(to, at, 0, reads);
        true
    }

    fn read(&mut self, to: MemberId, at: Position, offset: u64, reads: &mut Vec<SnapshotRead>) {
        self.next_token += 1;
        let token = self.next_token;
        self.reads.insert(token, (to, offset));
        reads.push(SnapshotRead {
            token,
            at,
            offset,
            max_bytes: CHUNK_BYTES,
        });
    }

    /// A piece has been read: what to say with it, to whom. An error ends the transfer.
    pub fn was_read(
        &mut self,
        token: u64,
        result: Result<SnapshotBytes, Error>,
    ) -> Option<(MemberId, Result<Say, Error>)> {
        let (to, offset) = self.reads.remove(&token)?;
        let transfer = self.transfers.get_mut(&to)?;
        let read = match result {
            Ok(read) => read,
            Err(error) => {
                self.transfers.remove(&to);
                return Some((to, Err(error)));
            }
        };
        if transfer.total.is_none() {
            transfer.total = Some(read.total_bytes);
            return Some((to, Ok(Say::Offer(transfer.offer()?))));
        }
        if offset < transfer.held || offset >= transfer.next {
            // The follower holds it by now, or is to be sent it anew.
            return None;
        }
        self.sent_bytes += read.bytes.len() as u64;
        let chunk = pb::PeerSnapshotChunk {
            index: transfer.at.index.0,
            term: transfer.at.term.0,
            offset,
            bytes: read.bytes,
        };
        Some((to, Ok(Say::Chunk(chunk))))
    }

    /// The follower says how far it is.
    pub fn acknowledged(
        &mut self,
        from: MemberId,
        ack: &pb::PeerSnapshotAck,
        now_ms: u64,
        reads: &mut Vec<SnapshotRead>,
    ) -> Option<End> {
        let transfer = self.transfers.get_mut(&from)?;
        if (ack.index, ack.term) != (transfer.at.index.0, transfer.at.term.0) {
            return None;
        }
        if ack.installed || ack.refused {
            self.transfers.remove(&from);
            let end = if ack.installed {
                End::Installed
            } else {
                End::Failed
            };
            return Some(end);
        }
        let total = transfer.total?;
        if ack.held_bytes > total {
            self.transfers.remove(&from);
            return Some(End::Failed);
        }
        if !transfer.open || ack.held_bytes > transfer.held {
            (transfer.open, transfer.progress_at_ms) = (true, now_ms);
            transfer.held = ack.held_bytes;
            transfer.next = transfer.next.max(transfer.held);
            transfer.retry_at_ms = now_ms + RETRY_MS;
        }
        self.advance(from, reads);
        None
    }

    /// Reads as far ahead as may be under way.
    fn advance(&mut self, to: MemberId, reads: &mut Vec<SnapshotRead>) {
        while let Some(transfer) = self.transfers.get_mut(&to)
            && let Some(total) = transfer.total
            && transfer.open
            && transfer.next < total
            && transfer.next - transfer.held < IN_FLIGHT_MAX * u64::from(CHUNK_BYTES)
        {
            let (at, offset) = (transfer.at, transfer.next);
            transfer.next = (offset + u64::from(CHUNK_BYTES)).min(total);
            self.read(to, at, offset, reads);
        }
    }

    /// The follower introduces itself: an offer that it has not answered may have met nobody.
    pub fn introduced(&mut self, follower: MemberId, now_ms: u64) {
        let transfer = self.transfers.get_mut(&follower);
        if let Some(transfer) = transfer.filter(|transfer| !transfer.open) {
            transfer.retry_at_ms = now_ms;
        }
    }

    /// Who must be asked again, and who is given up.
    pub fn tick(&mut self, now_ms: u64) -> (Vec<(MemberId, Say)>, Vec<MemberId>) {
        let (mut say, mut failed) = (Vec::new(), Vec::new());
        self.transfers.retain(|to, transfer| {
            if now_ms >= transfer.progress_at_ms + GIVE_UP_MS {
                failed.push(*to);
                return false;
            }
            if now_ms >= transfer.retry_at_ms {
                // The answer to the offer says where to go on.
                transfer.retry_at_ms = now_ms + RETRY_MS;
                (transfer.open, transfer.next) = (false, transfer.held);
                say.extend(transfer.offer().map(|offer| (*to, Say::Offer(offer))));
            }
            true
        });
        (say, failed)
    }

    /// The lead is lost, and with it the right to send.
    pub fn stop(&mut self) {
        self.transfers.clear();
        self.reads.clear();
    }

    /// Snapshots that must stay on the disk.
    pub fn in_use(&self) -> Vec<Position> {
        let mut in_use: Vec<_> = self.transfers.values().map(|t| t.at).collect();
        in_use.sort();
        in_use.dedup();
        in_use
    }

    pub fn len(&self) -> usize {
        self.transfers.len()
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }
}

impl Transfer {
    fn offer(&self) -> Option<pb::PeerSnapshotOffer> {
        Some(pb::PeerSnapshotOffer {
            index: self.at.index.0,
            term: self.at.term.0,
            total_bytes: self.total?,
        })
    }
}
