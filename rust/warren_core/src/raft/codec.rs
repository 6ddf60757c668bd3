//! Our own bytes for what the library keeps: its protobuf parser never sees a disk.

use raft::eraftpb::{self, EntryType};

use super::{Committed, LogEntry, Position, ReadReady};
use crate::ids::{Index, Term};

const HARD_STATE_BYTES: usize = 24;

/// Recovered bytes that no version of this code wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub why: String,
}

/// Who votes and who only learns. Ordered, so that equal configurations are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
}

impl ConfState {
    /// The counts of voters and learners (u32 LE each), then the ids (u64 LE).
    pub fn encode(&self) -> Vec<u8> {
        let counts = [self.voters.len() as u32, self.learners.len() as u32];
        let ids = self.voters.iter().chain(&self.learners);
        counts
            .iter()
            .flat_map(|count| count.to_le_bytes())
            .chain(ids.flat_map(|id| id.to_le_bytes()))
            .collect()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let damaged = || Damaged {
            why: "a configuration of members has the wrong length".into(),
        };
        let (counts, ids) = bytes.split_at_checked(8).ok_or_else(damaged)?;
        let (ids, rest) = ids.as_chunks::<8>();
        let voters = u32::from_le_bytes([counts[0], counts[1], counts[2], counts[3]]) as usize;
        let learners = u32::from_le_bytes([counts[4], counts[5], counts[6], counts[7]]) as usize;
        if !rest.is_empty() || voters.checked_add(learners) != Some(ids.len()) {
            return Err(damaged());
        }
        let ids: Vec<u64> = ids.iter().map(|id| u64::from_le_bytes(*id)).collect();
        let (voters, learners) = ids.split_at(voters);
        Ok(Self {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
        })
    }
}

/// Term, vote, commit index: u64 LE each.
pub fn encode_hard_state(state: &eraftpb::HardState) -> Vec<u8> {
    [state.term, state.vote, state.commit]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

pub fn decode_hard_state(bytes: &[u8]) -> Result<eraftpb::HardState, Damaged> {
    let (words, rest) = bytes.as_chunks::<8>();
    if bytes.len() != HARD_STATE_BYTES || !rest.is_empty() {
        return Err(Damaged {
            why: format!("a hard state has {} bytes, not 24", bytes.len()),
        });
    }
    let [term, vote, commit] = [0, 1, 2].map(|at| u64::from_le_bytes(words[at]));
    Ok(eraftpb::HardState {
        term,
        vote,
        commit,
        ..Default::default()
    })
}

/// One byte says what the entry is (0 command, 1 membership change, 2 joint change), then the data.
pub fn log_entry(entry: &eraftpb::Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    };
    let mut payload = Vec::with_capacity(1 + entry.data.len());
    payload.push(kind);
    payload.extend_from_slice(&entry.data);
    LogEntry {
        index: entry.index,
        term: entry.term,
        payload,
    }
}

pub fn library_entry(entry: LogEntry) -> Result<eraftpb::Entry, Damaged> {
    let LogEntry {
        index,
        term,
        payload,
    } = entry;
    let (kind, data) = payload.split_first().ok_or_else(|| Damaged {
        why: format!("entry {index} of the log is empty"),
    })?;
    if *kind != 0 {
        let why = format!("entry {index} of the log is of kind {kind}, which this release ignores");
        return Err(Damaged { why });
    }
    let data = data.to_vec().into();
    Ok(eraftpb::Entry {
        index,
        term,
        data,
        ..Default::default()
    })
}

pub fn committed(entry: eraftpb::Entry) -> Committed {
    let at = Position {
        index: Index(entry.index),
        term: Term(entry.term),
    };
    Committed {
        at,
        command: entry.data.to_vec(),
    }
}

pub fn read_ready(state: &raft::ReadState) -> Option<ReadReady> {
    let context = state
        .request_ctx
        .as_slice()
        .try_into()
        .ok()
        .map(u64::from_le_bytes)?;
    Some(ReadReady {
        context,
        index: Index(state.index),
    })
}
