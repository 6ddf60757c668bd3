//! Our own bytes for what the library keeps: its protobuf parser never sees a disk or a peer.

use prost::bytes::Bytes;
use raft::eraftpb::{self, EntryType};

use super::changes::ConfChange;
use super::{Committed, LogEntry, Position, ReadReady};
use crate::ids::{Index, Term};

/// Term, vote, commit index; then, once a log was cut, how often, and whether it still is.
const HARD_STATE_BYTES: usize = 24;
const CUT_STATE_BYTES: usize = HARD_STATE_BYTES + 9;

const KIND_COMMAND: u8 = 0;
const KIND_CHANGE: u8 = 2;

/// Bytes from the disk or a peer that no version of this code wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub why: String,
}

pub(super) fn damaged(why: impl Into<String>) -> Damaged {
    Damaged { why: why.into() }
}

/// Reads little-endian words and lists of ids off the front of some bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u32(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }

    pub fn u64(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    /// A count (u32), then so many ids (u64). Never allocates more than there are bytes.
    pub fn ids(&mut self) -> Option<Vec<u64>> {
        let bytes = (self.u32()? as usize).checked_mul(8)?;
        let (ids, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        let (ids, _) = ids.as_chunks::<8>();
        Some(ids.iter().map(|id| u64::from_le_bytes(*id)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn put_ids(out: &mut Vec<u8>, ids: &[u64]) {
    out.extend_from_slice(&(ids.len() as u32).to_le_bytes());
    ids.iter()
        .for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
}

/// Who votes and who only learns. While `voters_outgoing` is not empty the configuration is joint:
/// elections and commits need a majority of both (Raft §6). It is always left by an entry of its
/// own.
///
/// Invariant: every list is sorted, so that equal configurations are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub voters_outgoing: Vec<u64>,
    /// Voters of the outgoing half that are to stay as learners.
    pub learners_next: Vec<u64>,
}

impl ConfState {
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    pub fn is_voter(&self, member: u64) -> bool {
        self.voters.contains(&member) || self.voters_outgoing.contains(&member)
    }

    pub fn contains(&self, member: u64) -> bool {
        self.is_voter(member) || self.learners.contains(&member)
    }

    /// Whether those for whom `agrees` holds decide: a majority, of both halves if joint.
    pub fn has_quorum(&self, agrees: impl Fn(u64) -> bool) -> bool {
        let majority =
            |half: &[u64]| half.iter().filter(|id| agrees(**id)).count() > half.len() / 2;
        majority(&self.voters) && (!self.is_joint() || majority(&self.voters_outgoing))
    }

    /// Whether `agrees` holds for every voter.
    pub fn is_unanimous(&self, agrees: impl Fn(u64) -> bool) -> bool {
        let mut voters = self.voters.iter().chain(&self.voters_outgoing);
        voters.all(|id| agrees(*id))
    }

    /// The four lists, each as its count (u32 LE) and ids (u64 LE).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let lists = [
            &self.voters,
            &self.learners,
            &self.voters_outgoing,
            &self.learners_next,
        ];
        lists.iter().for_each(|list| put_ids(&mut out, list));
        out
    }

    /// # Errors
    /// [`Damaged`] if the bytes are not four lists, or a member stands in two that exclude each
    /// other, which the library would not survive.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Reader(bytes);
        let mut list = || reader.ids();
        let lists = [list(), list(), list(), list()];
        let [Some(voters), Some(learners), Some(outgoing), Some(next)] = lists else {
            return Err(damaged("a configuration of members is cut short"));
        };
        if !reader.is_empty() {
            return Err(damaged("a configuration of members is too long"));
        }
        let conf = Self {
            voters,
            learners,
            voters_outgoing: outgoing,
            learners_next: next,
        };
        conf.check()?;
        Ok(conf)
    }

    fn check(&self) -> Result<(), Damaged> {
        let lists = [
            &self.voters,
            &self.learners,
            &self.voters_outgoing,
            &self.learners_next,
        ];
        let sorted = lists
            .iter()
            .all(|list| list.is_sorted_by(|a, b| a < b) && list.first() != Some(&0));
        let apart = self.learners.iter().all(|id| !self.is_voter(*id));
        let next = self
            .learners_next
            .iter()
            .all(|id| self.voters_outgoing.contains(id) && !self.voters.contains(id));
        let voters = !self.voters.is_empty() || lists.iter().all(|list| list.is_empty());
        if sorted && apart && next && voters {
            Ok(())
        } else {
            Err(damaged(format!(
                "a configuration of members contradicts itself: {self:?}"
            )))
        }
    }

    pub(super) fn from_library(conf: &eraftpb::ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(&conf.voters),
            learners: sorted(&conf.learners),
            voters_outgoing: sorted(&conf.voters_outgoing),
            learners_next: sorted(&conf.learners_next),
        }
    }

    pub(super) fn to_library(&self) -> eraftpb::ConfState {
        eraftpb::ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            ..Default::default()
        }
    }
}

/// What must survive a restart besides the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    /// How many times the log was cut.
    pub generation: u64,
    /// It was, and this member has not caught up since.
    pub cut: bool,
}

impl HardState {
    /// Words of u64 LE, then the flag.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CUT_STATE_BYTES);
        for word in [self.term, self.vote, self.commit] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        if self.generation > 0 {
            out.extend_from_slice(&self.generation.to_le_bytes());
            out.push(u8::from(self.cut));
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Reader(bytes);
        let state = Self::read(&mut reader, bytes.len());
        state.filter(|_| reader.is_empty()).ok_or_else(|| {
            damaged(format!(
                "a hard state of {} bytes is none that this release writes",
                bytes.len()
            ))
        })
    }

    fn read(reader: &mut Reader<'_>, bytes: usize) -> Option<Self> {
        let mut state = Self {
            term: reader.u64()?,
            vote: reader.u64()?,
            commit: reader.u64()?,
            ..Self::default()
        };
        if bytes != HARD_STATE_BYTES {
            state.generation = reader.u64()?;
            state.cut = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            };
        }
        Some(state)
    }
}

/// A command as it stands in the log: its kind, then its bytes.
pub fn command_payload(command: &[u8]) -> Bytes {
    let mut payload = Vec::with_capacity(1 + command.len());
    payload.push(KIND_COMMAND);
    payload.extend_from_slice(command);
    payload.into()
}

/// A membership change and the command that goes with it: kind, length of the change (u32 LE),
/// change, command.
pub fn change_payload(change: &ConfChange, command: &[u8]) -> Bytes {
    let change = change.encode();
    let mut payload = Vec::with_capacity(5 + change.len() + command.len());
    payload.push(KIND_CHANGE);
    payload.extend_from_slice(&(change.len() as u32).to_le_bytes());
    payload.extend_from_slice(&change);
    payload.extend_from_slice(command);
    payload.into()
}

fn split_change(payload: &Bytes) -> Option<(ConfChange, Bytes)> {
    let mut reader = Reader(payload.get(1..)?);
    let change_bytes = reader.u32()? as usize;
    let change = ConfChange::decode(reader.0.get(..change_bytes)?)?;
    Some((change, payload.slice(5 + change_bytes..)))
}

/// The command in an entry's payload, with a membership change or without; empty in the entry with
/// which a leader begins its term. `None` for a payload that this release does not know.
pub fn command_of(payload: &[u8]) -> Option<&[u8]> {
    let (kind, rest) = payload.split_first()?;
    match *kind {
        KIND_COMMAND => Some(rest),
        KIND_CHANGE => {
            let mut reader = Reader(rest);
            let change_bytes = reader.u32()? as usize;
            reader.0.get(change_bytes..)
        }
        _ => None,
    }
}

/// The payload of an entry of the library; a leader's first in its term has none there.
pub fn payload(entry: &eraftpb::Entry) -> Bytes {
    if entry.data.is_empty() {
        Bytes::from_static(&[KIND_COMMAND])
    } else {
        entry.data.clone()
    }
}

pub fn log_entry(entry: &eraftpb::Entry) -> LogEntry {
    LogEntry {
        index: entry.index,
        term: entry.term,
        payload: payload(entry),
    }
}

/// # Errors
/// [`Damaged`] if this release does not know what the entry is.
pub fn library_entry(entry: LogEntry) -> Result<eraftpb::Entry, Damaged> {
    let LogEntry {
        index,
        term,
        payload,
    } = entry;
    let entry_type = match payload.first() {
        Some(&KIND_COMMAND) => EntryType::EntryNormal,
        Some(&KIND_CHANGE) if split_change(&payload).is_some() => EntryType::EntryConfChangeV2,
        Some(&KIND_CHANGE) => {
            return Err(damaged(format!(
                "the membership change in entry {index} makes no sense"
            )));
        }
        Some(kind) => {
            return Err(damaged(format!(
                "entry {index} is of kind {kind}, which this release does not know"
            )));
        }
        None => return Err(damaged(format!("entry {index} is empty"))),
    };
    Ok(eraftpb::Entry {
        entry_type,
        index,
        term,
        data: payload,
        ..Default::default()
    })
}

pub fn committed(entry: eraftpb::Entry) -> Committed {
    let at = Position {
        index: Index(entry.index),
        term: Term(entry.term),
    };
    let (change, command) = match split_if_change(&entry) {
        Some((change, command)) => (Some(change), command),
        None => (None, entry.data.slice(1.min(entry.data.len())..)),
    };
    Committed {
        at,
        command,
        change,
    }
}

fn split_if_change(entry: &eraftpb::Entry) -> Option<(ConfChange, Bytes)> {
    (entry.get_entry_type() == EntryType::EntryConfChangeV2)
        .then(|| split_change(&entry.data).expect("checked when the entry came in"))
}

/// Whether it is a change of membership by which others are to vote.
pub fn adds_voters(entry: &eraftpb::Entry) -> bool {
    split_if_change(entry).is_some_and(|(change, _)| !change.promote.is_empty())
}

pub fn read_ready(state: &raft::ReadState) -> Option<ReadReady> {
    let context = state.request_ctx.as_slice().try_into().ok()?;
    Some(ReadReady {
        context: u64::from_le_bytes(context),
        index: Index(state.index),
    })
}
