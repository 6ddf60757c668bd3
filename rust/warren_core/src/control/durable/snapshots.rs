//! Snapshot files, with what is in them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{Identity, SnapshotBytes, SnapshotJob, SnapshotRead};
use super::snapshot_dir;
use crate::error::Error;
use crate::fsm::{State, snapshot};
use crate::ids::{Index, Term};
use crate::mutant::{self, Mutant};
use crate::raft::{ConfState, Position};
use crate::wal::{Disk, File};

const KEPT_MAX: usize = 3;
const SUFFIX: &str = ".snap";

/// The snapshots of one member.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// A file that fills up.
pub struct Incoming {
    file: Box<dyn File>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    at: Position,
    held: u64,
}

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, raft_dir: &Path) -> Self {
        let dir = snapshot_dir(raft_dir);
        Self { disk, dir }
    }

    /// Writes one durably, and drops the oldest beyond three, never one that is `in_use`. Its size
    /// in bytes.
    pub fn write(&self, job: &SnapshotJob, in_use: &[Position]) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        let _ = snapshot::write(&job.state, &job.header, &mut |frame| {
            bytes.extend_from_slice(frame);
            Ok::<(), ()>(())
        });
        let mut incoming = self.incoming(job.at, bytes.len() as u64)?;
        incoming.write_at(0, &bytes)?;
        incoming.finish()?;
        self.prune(in_use)?;
        Ok(bytes.len() as u64)
    }

    /// Begins to take one in.
    pub(super) fn incoming(&self, at: Position, total: u64) -> Result<Incoming, Error> {
        let path = unfinished(&self.dir, at);
        let created = self.disk.create_dir(&self.dir).and_then(|()| {
            let _ = self.disk.remove(&path);
            self.disk.create(&path, total)
        });
        Ok(Incoming {
            file: created.map_err(|error| unusable(&path, &error))?,
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            at,
            held: 0,
        })
    }

    pub(super) fn abandon(&self, at: Position) -> Result<(), Error> {
        let path = unfinished(&self.dir, at);
        self.disk.remove(&path).map_err(|e| unusable(&path, &e))
    }

    pub(super) fn remove(&self, at: Position) -> Result<(), Error> {
        let path = finished(&self.dir, at);
        self.disk.remove(&path).map_err(|e| unusable(&path, &e))
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Result<Vec<Position>, Error> {
        let names = match self.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unusable(&self.dir, &error)),
        };
        let mut found: Vec<_> = names.iter().filter_map(|name| position(name)).collect();
        found.sort();
        Ok(found)
    }

    fn prune(&self, in_use: &[Position]) -> Result<(), Error> {
        let kept = self.list()?;
        let surplus = kept.len().saturating_sub(KEPT_MAX);
        let old = kept.iter().take(surplus).filter(|at| !in_use.contains(at));
        for at in old {
            self.remove(*at)?;
        }
        Ok(())
    }

    /// State and configuration, if the file is whole and this member's.
    pub fn load(&self, at: Position, identity: &Identity) -> Result<(State, ConfState), Error> {
        let path = finished(&self.dir, at);
        let damaged = |offset, why: String| Error::LogDamaged {
            file: path.to_string_lossy().into_owned(),
            offset,
            why,
        };
        let reader = Reader {
            file: self.disk.open(&path).map_err(|e| unusable(&path, &e))?,
            offset: 0,
        };
        let read = snapshot::read(io::BufReader::new(reader));
        let (state, header) = read.map_err(|error| match error {
            snapshot::ReadError::Damaged { offset, why } => damaged(offset, why),
            other => unusable(&path, &other),
        })?;
        if header.cluster_id != identity.cluster.0 || header.epoch != identity.epoch {
            let why = "it belongs to another cluster than the log";
            return Err(damaged(0, why.into()));
        }
        if (header.index, header.term) != (at.index.0, at.term.0) {
            return Err(damaged(0, "its name and its header disagree".into()));
        }
        let conf = ConfState::decode(&header.conf_state).map_err(|d| damaged(0, d.why))?;
        Ok((state, conf))
    }

    /// A part of a file, for another member.
    pub fn read(&self, read: &SnapshotRead) -> Result<SnapshotBytes, Error> {
        let path = finished(&self.dir, read.at);
        let part = || {
            let file = self.disk.open(&path)?;
            let total_bytes = file.size_bytes()?;
            let length = total_bytes.saturating_sub(read.offset);
            let mut bytes = vec![0; length.min(read.max_bytes.into()) as usize];
            file.read_at(&mut bytes, read.offset)?;
            Ok(SnapshotBytes { bytes, total_bytes })
        };
        part().map_err(|error: io::Error| unusable(&path, &error))
    }

    pub(super) fn missing(&self, marked: Index) -> Error {
        let why = format!(
            "the snapshot up to index {}, which the log needs, is gone",
            marked.0
        );
        super::damaged(&self.dir, why)
    }
}

impl Incoming {
    pub fn held_bytes(&self) -> u64 {
        self.held
    }

    /// The bytes there are now.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
        if offset == self.held {
            let written = self.file.write_at(bytes, offset);
            written.map_err(|error| unusable(&self.dir, &error))?;
            self.held += bytes.len() as u64;
        }
        Ok(self.held)
    }

    /// Durable under its name.
    pub fn finish(self) -> Result<(), Error> {
        let durable = !mutant::is_on(Mutant::InstallsBeforeDurable);
        let done = (|| {
            if durable {
                self.file.sync_data()?;
            }
            let name = finished(&self.dir, self.at);
            self.disk.rename(&unfinished(&self.dir, self.at), &name)?;
            if durable {
                self.disk.sync_dir(&self.dir)?;
            }
            Ok(())
        })();
        done.map_err(|error: io::Error| unusable(&self.dir, &error))
    }
}

struct Reader {
    file: Box<dyn File>,
    offset: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.size_bytes()?.saturating_sub(self.offset);
        let length = (buffer.len() as u64).min(left) as usize;
        self.file.read_at(&mut buffer[..length], self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

fn finished(dir: &Path, at: Position) -> PathBuf {
    dir.join(format!("{:016x}-{:016x}{SUFFIX}", at.index.0, at.term.0))
}

fn unfinished(dir: &Path, at: Position) -> PathBuf {
    finished(dir, at).with_extension("tmp")
}

fn position(name: &str) -> Option<Position> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Position {
        index: Index(number(index)?),
        term: Term(number(term)?),
    })
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::DataDir {
        path: path.to_string_lossy().into_owned(),
        why: error.to_string(),
    }
}
