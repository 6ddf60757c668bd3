//! Snapshot files, beside the log: opaque bytes, one file a snapshot, named by what it covers.
//!
//! | name | what it is |
//! |---|---|
//! | `0000000000000005-0000000000000002.snap` | the snapshot up to index 5 of term 2, in hex: names sort as indexes do |
//! | `….tmp` | one being written here; a leftover means nothing |
//! | `….part` | one being received; it survives a restart |
//!
//! A snapshot is whole and durable under its name, or it is not there: written under another name,
//! synced, renamed, and the directory synced. A *failed* sync is never repeated on the same file: the
//! kernel may have dropped the data, so the file goes and a new one has to be written.

mod incoming;
mod reader;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::error::is_out_of_space;
use crate::mutant::{self, Mutant};
pub use incoming::Incoming;
pub use reader::Reader;
pub use writer::Writer;

/// How many are kept: one that cannot be read then costs a longer replay at most.
pub const SNAPSHOTS_MAX: usize = 3;

/// Index and term of the last entry that a snapshot covers.
pub type Covered = (u64, u64);

/// What can go wrong with a snapshot file, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk, or our share of it, is full. What was there before is intact.
    #[error(
        "no space for a snapshot in {dir}: free space or raise the quota; the next one is tried again"
    )]
    NoSpace { dir: String },

    /// There is no such snapshot.
    #[error("the snapshot {file} is not there: ask for one of those that are listed")]
    NotFound { file: String },

    /// A piece that does not follow what is held: send from `held_bytes` on.
    #[error(
        "the piece at byte {offset} does not follow the {held_bytes} bytes held: send those first"
    )]
    Gap { offset: u64, held_bytes: u64 },

    /// The disk failed. The snapshot in hand is lost, those that were finished are not.
    #[error("{op} of {file} failed: {source}: check the disk and the permissions")]
    Failed {
        op: &'static str,
        file: String,
        source: io::Error,
    },
}

impl SnapshotError {
    /// A stable, machine-readable name; never changes between releases.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSpace { .. } => "snapshot_no_space",
            Self::NotFound { .. } => "snapshot_not_found",
            Self::Gap { .. } => "snapshot_gap",
            Self::Failed { .. } => "snapshot_failed",
        }
    }
}

/// The snapshots of one member. At most one is written and one received at a time.
#[derive(Clone)]
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// How much of a transfer is synced at a time.
    block_bytes: u64,
}

impl Store {
    /// `dir` is created by the first that writes.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            block_bytes: incoming::BLOCK_BYTES,
        }
    }

    #[cfg(test)]
    pub(super) fn with_block_bytes(self, block_bytes: u64) -> Self {
        Self {
            block_bytes,
            ..self
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins to write a snapshot. One that was begun before and not finished is gone.
    ///
    /// # Errors
    /// `NoSpace`, `Failed`.
    pub fn begin(&self, index: u64, term: u64) -> Result<Writer, SnapshotError> {
        self.create_dir()?;
        self.remove_all(Kind::Temporary, None)?;
        let name = file_name((index, term), Kind::Temporary);
        let file = self.create(&name)?;
        Ok(Writer::new(self.clone(), (index, term), file))
    }

    /// Begins to receive a snapshot, or goes on with it: what is [held](Incoming::held_bytes) need not
    /// be sent again. One of another position that was not finished is gone.
    ///
    /// # Errors
    /// `NoSpace`, `Failed`.
    pub fn incoming(&self, index: u64, term: u64) -> Result<Incoming, SnapshotError> {
        self.create_dir()?;
        let name = file_name((index, term), Kind::Partial);
        self.remove_all(Kind::Partial, Some(&name))?;
        let file = match self.disk.open(&self.dir.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(&name)?,
            opened => opened.map_err(|error| self.failure("opening", &name, error))?,
        };
        Incoming::resume(self.clone(), (index, term), file)
    }

    /// Drops what was received of a snapshot, if anything: it turned out to be damaged, or is no
    /// longer wanted.
    ///
    /// # Errors
    /// `Failed`.
    pub fn abandon(&self, index: u64, term: u64) -> Result<(), SnapshotError> {
        let name = file_name((index, term), Kind::Partial);
        if self.names()?.contains(&name) {
            self.remove(&name)?;
        }
        Ok(())
    }

    /// Removes a finished snapshot that turned out to be damaged.
    ///
    /// # Errors
    /// `Failed`.
    pub fn discard(&self, index: u64, term: u64) -> Result<(), SnapshotError> {
        self.remove(&file_name((index, term), Kind::Finished))
    }

    /// Opens a finished snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Failed`.
    pub fn open(&self, index: u64, term: u64) -> Result<Reader, SnapshotError> {
        let name = file_name((index, term), Kind::Finished);
        match self.disk.open(&self.dir.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.path(&name);
                Err(SnapshotError::NotFound { file })
            }
            opened => {
                let file = opened.map_err(|error| self.failure("opening", &name, error))?;
                let bytes = file.size_bytes();
                let bytes = bytes.map_err(|error| self.failure("reading", &name, error))?;
                Ok(Reader::new(file, bytes))
            }
        }
    }

    /// The finished snapshots, oldest first.
    ///
    /// # Errors
    /// `Failed`.
    pub fn list(&self) -> Result<Vec<Covered>, SnapshotError> {
        let names = self.names()?;
        let mut found: Vec<Covered> = names
            .iter()
            .filter_map(|name| parse(name, Kind::Finished))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Removes the oldest until [`SNAPSHOTS_MAX`] are left: never the newest, and none of `keep`, which
    /// are being sent.
    ///
    /// # Errors
    /// `Failed`.
    pub fn prune(&self, keep: &[Covered]) -> Result<(), SnapshotError> {
        let found = self.list()?;
        let surplus = found.len().saturating_sub(SNAPSHOTS_MAX);
        let mut order: Vec<&Covered> = found.iter().take(found.len().saturating_sub(1)).collect();
        if mutant::is_on(Mutant::PrunesNewestSnapshot) {
            order = found.iter().rev().collect();
        }
        let spared = order.into_iter().filter(|covered| !keep.contains(covered));
        for covered in spared.take(surplus) {
            self.remove(&file_name(*covered, Kind::Finished))?;
        }
        Ok(())
    }

    /// Removes all of them, finished or not: there is no log that continues any.
    ///
    /// # Errors
    /// `Failed`.
    pub fn clear(&self) -> Result<(), SnapshotError> {
        for kind in [Kind::Finished, Kind::Temporary, Kind::Partial] {
            self.remove_all(kind, None)?;
        }
        Ok(())
    }

    /// Gives a file that is synced its name.
    fn publish(&self, covered: Covered, from: Kind) -> Result<(), SnapshotError> {
        let (from, to) = (file_name(covered, from), file_name(covered, Kind::Finished));
        self.disk
            .rename(&self.dir.join(&from), &self.dir.join(&to))
            .map_err(|error| self.failure("renaming", &from, error))?;
        self.sync_dir()
    }

    fn create_dir(&self) -> Result<(), SnapshotError> {
        let created = self.disk.create_dir(&self.dir);
        created.map_err(|error| self.failure("creating", "", error))
    }

    fn create(&self, name: &str) -> Result<Box<dyn super::File>, SnapshotError> {
        let created = self.disk.create(&self.dir.join(name), 0);
        created.map_err(|error| self.failure("creating", name, error))
    }

    /// Removes the files of a kind but one.
    fn remove_all(&self, kind: Kind, except: Option<&str>) -> Result<(), SnapshotError> {
        for name in self.names()? {
            if parse(&name, kind).is_some() && Some(name.as_str()) != except {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        let removed = self.disk.remove(&self.dir.join(name));
        removed.map_err(|error| self.failure("removing", name, error))?;
        self.sync_dir()
    }

    /// Makes the names of what [`Store::list`] has durable: whoever gave them may have died before that.
    ///
    /// # Errors
    /// `Failed`.
    pub fn settle(&self) -> Result<(), SnapshotError> {
        match self.list()?.is_empty() {
            true => Ok(()),
            false => self.sync_dir(),
        }
    }

    fn sync_dir(&self) -> Result<(), SnapshotError> {
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|error| self.failure("fsync", "", error))
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        match self.disk.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(|error| self.failure("listing", "", error)),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn failure(&self, op: &'static str, name: &str, source: io::Error) -> SnapshotError {
        if is_out_of_space(&source) {
            let dir = self.dir.display().to_string();
            return SnapshotError::NoSpace { dir };
        }
        let file = self.path(name);
        SnapshotError::Failed { op, file, source }
    }
}

/// What a file in the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Finished,
    Temporary,
    Partial,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Finished => "snap",
            Self::Temporary => "tmp",
            Self::Partial => "part",
        }
    }
}

fn file_name((index, term): Covered, kind: Kind) -> String {
    format!("{index:016x}-{term:016x}.{}", kind.extension())
}

/// What the file covers, if it is of this kind; everything else in the directory is left alone.
fn parse(name: &str, kind: Kind) -> Option<Covered> {
    let (index, term) = name
        .strip_suffix(kind.extension())?
        .strip_suffix('.')?
        .split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let covered = (number(index)?, number(term)?);
    (file_name(covered, kind) == name).then_some(covered)
}
