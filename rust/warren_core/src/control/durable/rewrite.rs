//! How a data directory changes epochs: a cluster out of a backup, and one that goes on after it lost
//! its quorum.
//!
//! Both write the new state as a snapshot and begin a new log behind it. Where there was no log before
//! ([`restore`]) that is like founding: until the log is there, nothing is. Where there is one
//! ([`recover_quorum`]) the old and the new log cannot both be there, so the decision is a small file:
//!
//! 1. the new snapshot, durable; the old log does not look at it, it is of another epoch;
//! 2. the file `rewrite`, durable under its name: from here on the new epoch is what counts;
//! 3. the old log is erased, the new one begun, and `rewrite` removed.
//!
//! Whoever opens the directory finishes step 3 first ([`finish`]). Killed anywhere, the directory says
//! what it said before, or everything that it was to say.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::entropy::Entropy;
use super::super::{Config, Identity, Recovered, SnapshotJob};
use super::{Found, Snapshots, backup, begin_log, damaged, log_dir, recover, refusal};
use crate::error::Error;
use crate::fsm::{Member, State, Survivor, snapshot};
use crate::ids::{ClusterId, Index, MemberId, Term};
use crate::pb;
use crate::raft::{self, ConfState, HardState, LogEntry, Position};
use crate::wal::{self, Disk, Wal};

const MAGIC: &[u8; 8] = b"WARRNNEW";
const FILE_NAME: &str = "rewrite";
/// While it is written; a leftover means nothing.
const TEMPORARY_NAME: &str = "rewrite.tmp";
/// Magic, cluster, data directory, epoch, member, index, term, checksum.
const BYTES: usize = 8 + 16 + 16 + 4 * 8 + 4;

/// What a restore asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The backup.
    pub file: &'a Path,
    /// The new epoch is at least this, and above that of the backup.
    pub epoch_min: u64,
    /// Of no other cluster than this one.
    pub cluster: Option<ClusterId>,
}

/// Makes the directory, which holds no log, that of the only member of the cluster in a backup, and
/// goes on with it. Who the member is comes out of the configuration's seed.
///
/// # Errors
/// `AlreadyInCluster`, `BackupUnusable`: nothing has changed. `NoSpace`, `DataDir`: no log is there,
/// or a whole one.
pub fn restore(
    disk: Arc<dyn Disk>,
    raft_dir: &Path,
    options: wal::Options,
    config: &Config,
    wanted: Wanted<'_>,
) -> Result<(pb::RestoreClusterResponse, Found), Error> {
    if let Some(found) = recover(disk.clone(), raft_dir, options)? {
        let cluster = found.recovered.identity.cluster.to_string();
        return Err(Error::AlreadyInCluster { cluster });
    }
    let (header, mut state) = backup::read(&*disk, wanted.file)?;
    let cluster = ClusterId::from_slice(&header.cluster_id)?;
    if let Some(other) = wanted.cluster.filter(|wanted| *wanted != cluster) {
        let cluster = other.to_string();
        return Err(Error::AlreadyInCluster { cluster });
    }
    let mut entropy = Entropy::new(config.seed);
    let identity = Identity {
        cluster,
        epoch: (header.epoch + 1).max(wanted.epoch_min),
        member: MemberId(entropy.draw_u64() | 1),
        data_dir: entropy.draw_uuid(),
    };
    let at = after(state.index(), state.term());
    state.begin_epoch(identity.epoch, (at.index, at.term), me(config, &identity))?;
    let snapshots = Snapshots::new(disk.clone(), raft_dir);
    snapshots.clear()?;
    write_snapshot(&snapshots, &state, &identity, at)?;
    let wal = begin_log(disk, raft_dir, &identity, Some(at), options)?;
    let report = pb::RestoreClusterResponse {
        cluster_id: identity.cluster.to_vec(),
        epoch: identity.epoch,
        member_id: identity.member.0,
        index: at.index.0,
        term: at.term.0,
        backup: Some(header),
    };
    Ok((report, begun(wal, identity, state, at)))
}

/// Makes the member whose log the directory holds the only one of its cluster, in a new epoch, and
/// goes on with it. Every entry of its log is applied, committed or not: whatever was acknowledged to
/// a client and reached this member is among them.
///
/// # Errors
/// `NotInCluster`; `LogDamaged` as for every start. Nothing has changed then. `NoSpace`, `DataDir`:
/// the directory is the old member's, or the new one's.
pub fn recover_quorum(
    disk: Arc<dyn Disk>,
    raft_dir: &Path,
    options: wal::Options,
    config: &Config,
) -> Result<(pb::RecoverQuorumResponse, Found), Error> {
    let found = recover(disk.clone(), raft_dir, options)?.ok_or(Error::NotInCluster)?;
    // Its segments are about to go.
    drop(found.wal);
    let dir = log_dir(raft_dir);
    let broken = |why| damaged(&dir, why);
    let old = found.recovered.identity;
    let hard_state = hard_state(&found.recovered).map_err(broken)?;
    let (mut state, last) = apply_all(found.recovered, config).map_err(broken)?;
    let epoch = state.cluster().ok_or(Error::NotInCluster)?.epoch + 1;
    let identity = Identity { epoch, ..old };
    let at = after(last.index, last.term.max(Term(hard_state.term)));
    let removed = state.begin_epoch(epoch, (at.index, at.term), me(config, &identity))?;
    let snapshots = Snapshots::new(disk.clone(), raft_dir);
    write_snapshot(&snapshots, &state, &identity, at)?;
    decide(&*disk, raft_dir, &identity, at)?;
    let wal = carry_out(&disk, raft_dir, options, (&identity, at))?;
    let report = pb::RecoverQuorumResponse {
        cluster_id: identity.cluster.to_vec(),
        epoch,
        member_id: identity.member.0,
        last_index: last.index.0,
        last_term: last.term.0,
        commit_index: hard_state.commit,
        removed: removed.iter().map(pb::Member::from).collect(),
    };
    Ok((report, begun(wal, identity, state, at)))
}

/// What opening the directory would find.
fn begun(wal: Wal, identity: Identity, state: State, at: Position) -> Found {
    let snapshot = Some((at, alone(&identity)));
    let recovered = Recovered {
        identity,
        state,
        snapshot,
        hard_state: None,
        entries: Vec::new(),
        cut: false,
    };
    Found {
        wal,
        recovered,
        warnings: Vec::new(),
    }
}

/// Carries a change of epoch through that was decided and interrupted, if there is one.
///
/// # Errors
/// `LogDamaged` if what was decided cannot be read; `NoSpace`, `DataDir`.
pub(super) fn finish(
    disk: &Arc<dyn Disk>,
    raft_dir: &Path,
    options: wal::Options,
) -> Result<(), Error> {
    if let Some((identity, at)) = decided(&**disk, raft_dir)? {
        drop(carry_out(disk, raft_dir, options, (&identity, at))?);
    }
    Ok(())
}

fn carry_out(
    disk: &Arc<dyn Disk>,
    raft_dir: &Path,
    options: wal::Options,
    (identity, at): (&Identity, Position),
) -> Result<Wal, Error> {
    let dir = log_dir(raft_dir);
    Wal::erase(&**disk, &dir).map_err(|error| refusal(&dir, error))?;
    let wal = begin_log(disk.clone(), raft_dir, identity, Some(at), options)?;
    let removed = disk.remove(&raft_dir.join(FILE_NAME));
    let done = removed.and_then(|()| disk.sync_dir(raft_dir));
    done.map_err(|error| unusable(raft_dir, &error))?;
    Ok(wal)
}

fn after(index: Index, term: Term) -> Position {
    Position {
        index: Index(index.0 + 1),
        term: Term(term.0 + 1),
    }
}

fn me(config: &Config, identity: &Identity) -> Survivor {
    Survivor {
        member: Member {
            id: identity.member,
            data_dir: identity.data_dir,
            node: config.node,
            address: config.address.as_str().into(),
            voter: true,
            feature_level_max: config.feature_level_max,
            added_at_ms: 0,
            // Written down where the level allows it.
            api_address: Arc::default(),
        },
        node_name: config.node_name.clone(),
        advertise_addr: config.advertise_addr.clone(),
    }
}

fn hard_state(recovered: &Recovered) -> Result<HardState, String> {
    let bytes = recovered.hard_state.as_deref();
    let read = bytes.map(HardState::decode).transpose();
    read.map(Option::unwrap_or_default)
        .map_err(|damaged| damaged.why)
}

/// The state after the log's last entry, and where that is.
fn apply_all(recovered: Recovered, config: &Config) -> Result<(State, Position), String> {
    let mut state = recovered.state;
    let mut last = recovered.snapshot.map(|(at, _)| at).unwrap_or_default();
    for LogEntry {
        index,
        term,
        payload,
    } in recovered.entries
    {
        if index != last.index.0 + 1 {
            return Err(format!("the log jumps to entry {index}"));
        }
        last = Position {
            index: Index(index),
            term: Term(term),
        };
        let command = raft::command_of(&payload)
            .ok_or_else(|| format!("entry {index} is none that this release knows"))?;
        if command.is_empty() {
            state.advance(last.index, last.term);
            continue;
        }
        let level_max = config.feature_level_max;
        let applied = state.apply_bytes_as(level_max, last.index, last.term, command);
        applied.map_err(|error| format!("entry {index}: {error}"))?;
    }
    Ok((state, last))
}

fn alone(identity: &Identity) -> ConfState {
    ConfState {
        voters: vec![identity.member.0],
        ..ConfState::default()
    }
}

fn write_snapshot(
    snapshots: &Snapshots,
    state: &State,
    identity: &Identity,
    at: Position,
) -> Result<(), Error> {
    let header = snapshot::header(state, alone(identity).encode());
    let state = state.clone();
    let job = SnapshotJob { state, header, at };
    snapshots.write(&job, &[])
}

fn decide(
    disk: &dyn Disk,
    raft_dir: &Path,
    identity: &Identity,
    at: Position,
) -> Result<(), Error> {
    let temporary = raft_dir.join(TEMPORARY_NAME);
    let written = remove_if_there(disk, &temporary)
        .and_then(|()| disk.create(&temporary, 0))
        .and_then(|file| {
            file.write_at(&encode(identity, at), 0)?;
            file.sync_data()?;
            disk.rename(&temporary, &raft_dir.join(FILE_NAME))?;
            disk.sync_dir(raft_dir)
        });
    written.map_err(|error| unusable(raft_dir, &error))
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn decided(disk: &dyn Disk, raft_dir: &Path) -> Result<Option<(Identity, Position)>, Error> {
    let path = raft_dir.join(FILE_NAME);
    let file = match disk.open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| unusable(raft_dir, &error))?,
    };
    let mut bytes = [0; BYTES];
    let read = file.read_at(&mut bytes, 0);
    read.map_err(|error| unusable(raft_dir, &error))?;
    let why = || "what it says of the new epoch cannot be read".to_owned();
    decode(&bytes)
        .map(Some)
        .ok_or_else(|| damaged(&path, why()))
}

fn encode(identity: &Identity, at: Position) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&identity.cluster.0);
    bytes.extend_from_slice(&identity.data_dir);
    let words = [identity.epoch, identity.member.0, at.index.0, at.term.0];
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Option<(Identity, Position)> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if &body[..8] != MAGIC || crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| body[40 + 8 * at + byte]));
    let identity = Identity {
        cluster: ClusterId(body[8..24].try_into().ok()?),
        epoch: word(0),
        member: MemberId(word(1)),
        data_dir: body[24..40].try_into().ok()?,
    };
    let at = Position {
        index: Index(word(2)),
        term: Term(word(3)),
    };
    Some((identity, at))
}

fn unusable(raft_dir: &Path, error: &std::io::Error) -> Error {
    let path: PathBuf = raft_dir.join(FILE_NAME);
    Error::DataDir {
        path: path.to_string_lossy().into_owned(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
