//! Snapshot files, with what is in them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::{Identity, SnapshotBytes, SnapshotJob, SnapshotRead};
use super::snapshot_dir;
use crate::error::Error;
use crate::fsm::{State, snapshot};
use crate::ids::{Index, Term};
use crate::raft::{ConfState, Position};
use crate::wal::Disk;
use crate::wal::snapshots::{Covered, Incoming, SnapshotError, Store};

/// The snapshots of one member.
#[derive(Clone)]
pub struct Snapshots(Store);

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, raft_dir: &Path) -> Self {
        Self(Store::new(disk, &snapshot_dir(raft_dir)))
    }

    /// Writes one durably, and drops the oldest beyond three, never one that is `in_use`.
    ///
    /// # Errors
    /// `NoSpace`, `DataDir`: what was there before is intact.
    pub fn write(&self, job: &SnapshotJob, in_use: &[Position]) -> Result<(), Error> {
        let (index, term) = covered(job.at);
        let written = self.0.begin(index, term).and_then(|mut writer| {
            snapshot::write(&job.state, &job.header, &mut |frame| writer.write(frame))?;
            writer.finish()
        });
        written.map_err(|error| self.refused(error))?;
        self.prune(in_use)
    }

    pub(super) fn prune(&self, in_use: &[Position]) -> Result<(), Error> {
        let keep: Vec<Covered> = in_use.iter().copied().map(covered).collect();
        self.0.prune(&keep).map_err(|error| self.refused(error))
    }

    /// Goes on taking one in, or begins to.
    pub(super) fn incoming(&self, at: Position) -> Result<Incoming, Error> {
        let (index, term) = covered(at);
        let opened = self.0.incoming(index, term);
        opened.map_err(|error| self.refused(error))
    }

    pub(super) fn abandon(&self, at: Position) -> Result<(), Error> {
        let (index, term) = covered(at);
        let gone = self.0.abandon(index, term);
        gone.map_err(|error| self.refused(error))
    }

    /// All of them, oldest first.
    ///
    /// # Errors
    /// `DataDir` if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Position>, Error> {
        let found = self.0.list().map_err(|error| self.refused(error))?;
        let position = |(index, term)| Position {
            index: Index(index),
            term: Term(term),
        };
        Ok(found.into_iter().map(position).collect())
    }

    /// Makes durable that these are there.
    ///
    /// # Errors
    /// `DataDir` if the directory cannot be read or synced.
    pub(super) fn settle(&self) -> Result<(), Error> {
        self.0.settle().map_err(|error| self.refused(error))
    }

    /// Size of the newest in bytes; 0 where there is none.
    ///
    /// # Errors
    /// `DataDir` if it cannot be read.
    pub fn newest_bytes(&self) -> Result<u64, Error> {
        let found = self.0.list().map_err(|error| self.refused(error))?;
        let Some((index, term)) = found.last().copied() else {
            return Ok(0);
        };
        let reader = self.0.open(index, term);
        Ok(reader.map_err(|error| self.refused(error))?.len_bytes())
    }

    /// State and configuration, if the file is whole and this member's.
    ///
    /// # Errors
    /// `LogDamaged` names file and offset; `DataDir` if it cannot be read.
    pub fn load(&self, at: Position, identity: &Identity) -> Result<(State, ConfState), Error> {
        let (index, term) = covered(at);
        let reader = self.0.open(index, term);
        let reader = reader.map_err(|error| self.refused(error))?;
        self.check(reader, at, identity)
    }

    /// What `reader` holds, if it is the whole snapshot at `at` of this member's cluster.
    pub(super) fn check(
        &self,
        reader: impl io::Read,
        at: Position,
        identity: &Identity,
    ) -> Result<(State, ConfState), Error> {
        let damaged = |offset, why: String| Error::LogDamaged {
            file: self.path(at),
            offset,
            why,
        };
        let read = snapshot::read(io::BufReader::new(reader));
        let (state, header) = read.map_err(|error| match error {
            snapshot::ReadError::Damaged { offset, why } => damaged(offset, why),
            other => Error::DataDir {
                path: self.path(at),
                why: other.to_string(),
            },
        })?;
        if header.cluster_id != identity.cluster.0 || header.epoch != identity.epoch {
            let why = "it belongs to another cluster than the log";
            return Err(damaged(0, why.into()));
        }
        if (header.index, header.term) != covered(at) {
            return Err(damaged(0, "its name and its header disagree".into()));
        }
        let conf = ConfState::decode(&header.conf_state).map_err(|d| damaged(0, d.why))?;
        Ok((state, conf))
    }

    /// A part of a file, for another member.
    ///
    /// # Errors
    /// `DataDir` if it is gone or cannot be read.
    pub fn read(&self, read: &SnapshotRead) -> Result<SnapshotBytes, Error> {
        let (index, term) = covered(read.at);
        let reader = self.0.open(index, term);
        let reader = reader.map_err(|error| self.refused(error))?;
        let total_bytes = reader.len_bytes();
        let length = total_bytes.saturating_sub(read.offset);
        let mut bytes = vec![0; length.min(read.max_bytes.into()) as usize];
        let got = reader
            .read_at(&mut bytes, read.offset)
            .map_err(|error| Error::DataDir {
                path: self.path(read.at),
                why: error.to_string(),
            })?;
        bytes.truncate(got);
        Ok(SnapshotBytes { bytes, total_bytes })
    }

    /// Removes what an interrupted beginning left where there is no log: it would be taken for what
    /// the next one continues.
    pub(super) fn clear(&self) -> Result<(), Error> {
        self.0.clear().map_err(|error| self.refused(error))
    }

    pub(super) fn missing(&self, marked: Index) -> Error {
        let why = format!(
            "the snapshot up to index {}, which the log needs, is gone",
            marked.0
        );
        super::damaged(self.0.dir(), why)
    }

    fn path(&self, at: Position) -> String {
        let name = format!("{:016x}-{:016x}.snap", at.index.0, at.term.0);
        self.0.dir().join(name).to_string_lossy().into_owned()
    }

    /// The store's refusal as the daemon's.
    pub(super) fn refused(&self, error: SnapshotError) -> Error {
        match error {
            SnapshotError::NoSpace { dir } => Error::NoSpace { dir },
            other => Error::DataDir {
                path: self.0.dir().to_string_lossy().into_owned(),
                why: other.to_string(),
            },
        }
    }
}

fn covered(at: Position) -> Covered {
    (at.index.0, at.term.0)
}
