//! Creating a log, and opening one: what was read becomes durable, the rest unreadable.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use super::super::disk::Disk;
use super::super::outline::{Outline, Position};
use super::super::replay::{End, Entries, Replay, io_error, replay};
use super::super::segment::{FileName, HEADER_BYTES, Header, header_checksum, segment_name};
use super::super::{Entry, Identity, Options, Tail, WalError};
use super::files::{allocate, install, is_fresh, remove, sync_error};
use super::{Active, Durable, Facts, Pending, Stats, Wal};

/// What opening a log found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub identity: Identity,
    /// Index and term of the newest snapshot marker. The snapshot itself is kept elsewhere.
    pub snapshot: Option<(u64, u64)>,
    /// The latest hard state, as it was appended.
    pub hard_state: Option<Vec<u8>>,
    /// All entries after the snapshot, in order, without a gap.
    pub entries: Vec<Entry>,
    /// How the log ends: whether something may be missing.
    pub tail: Tail,
}

impl Wal {
    /// Whether `dir` holds a log, whole or not.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_in(disk: &dyn Disk, dir: &Path) -> Result<bool, WalError> {
        let segment = |name: &String| matches!(FileName::parse(name), Some(FileName::Segment(_)));
        Ok(names(disk, dir)?.iter().any(segment))
    }

    /// Removes the log in `dir`, whatever is left of it. Interrupted, it can be repeated; until then
    /// what is there is no log.
    ///
    /// # Errors
    /// `Io`, `SyncFailed`.
    pub fn erase(disk: &dyn Disk, dir: &Path) -> Result<(), WalError> {
        let ours = names(disk, dir)?;
        let ours: Vec<_> = ours
            .iter()
            .filter(|name| FileName::parse(name).is_some())
            .collect();
        if ours.is_empty() {
            return Ok(());
        }
        for name in ours {
            remove(disk, dir, name)?;
        }
        let synced = disk.sync_dir(dir);
        synced.map_err(|error| sync_error("fsync", &dir.to_string_lossy(), &error))
    }

    /// Creates an empty log in `dir`, which is created if missing. Interrupted, it can be repeated.
    ///
    /// # Errors
    /// `AlreadyExists` if `dir` holds a log, `NoSpace`, `InvalidOptions`, `Io`, `SyncFailed`.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
        options: Options,
    ) -> Result<Self, WalError> {
        check_options(options)?;
        let dir_name = dir.to_string_lossy();
        disk.create_dir(dir)
            .map_err(|error| io_error("creating", &dir_name, error))?;
        let names = disk
            .list(dir)
            .map_err(|error| io_error("listing", &dir_name, error))?;
        for name in names {
            match FileName::parse(&name) {
                Some(FileName::Segment(_)) => {
                    return Err(WalError::AlreadyExists {
                        dir: dir_name.into_owned(),
                    });
                }
                Some(FileName::Spare(_)) => remove(&*disk, dir, &name)?,
                None => {}
            }
        }
        let header = Header {
            identity,
            sequence: 1,
            segment_bytes: options.segment_bytes,
            recycled: false,
            prev_end: 0,
            prev_checksum: 0,
            first_sequence: 1,
            batch: 0,
            last: Position::default(),
        };
        allocate(&*disk, dir, 1, options.segment_bytes)?;
        let page = header.encode();
        let file = install(&*disk, dir, 1, 1, &page, &[])?;
        let active = Active::starting(file, &header, header_checksum(&page));
        let facts = Facts {
            sequence: 1,
            bytes: options.segment_bytes,
            index_max: 0,
        };
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            options,
            identity,
            segments: VecDeque::from([facts]),
            active,
            has_remains: false,
            spares: BTreeMap::new(),
            first_sequence: 1,
            batch: 0,
            outline: Outline::default(),
            durable: Durable::default(),
            hard_state: None,
            pending: Pending::default(),
            failure: None,
            stats: Stats::default(),
        })
    }

    /// Opens the log in `dir` and reads it whole; what is returned is durable. A tail is left as it is
    /// until a batch replaces it, so that it is judged the same at the next opening.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` and `Version` change nothing on disk. `InvalidOptions`, `Io`,
    /// `SyncFailed`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Recovered), WalError> {
        check_options(options)?;
        let mut replay = replay(&*disk, dir, Entries::Keep, &mut |_, _, _| Ok(()))?;
        let snapshot = replay.outline.snapshot();
        let recovered = Recovered {
            identity: replay.identity(),
            snapshot: (snapshot.index > 0).then_some((snapshot.index, snapshot.term)),
            hard_state: replay.hard_state.clone(),
            entries: std::mem::take(&mut replay.entries),
            tail: replay.tail.clone(),
        };
        let end = replay.end;
        let mut wal = Self::resume(disk, dir, options, replay);
        wal.settle(&end)?;
        wal.adopt_spares()?;
        Ok((wal, recovered))
    }

    fn resume(disk: Arc<dyn Disk>, dir: &Path, options: Options, mut replay: Replay) -> Self {
        let identity = replay.identity();
        let facts = replay.segments.iter().map(|segment| Facts {
            sequence: segment.header.sequence,
            bytes: segment.header.segment_bytes,
            index_max: segment.index_max,
        });
        let segments = facts.collect();
        let last = replay.segments.pop().expect("a log has a segment");
        let Position { index, term } = replay.outline.last();
        Self {
            disk,
            dir: dir.to_owned(),
            options,
            identity,
            segments,
            active: Active {
                file: last.file,
                sequence: last.header.sequence,
                bytes: last.header.segment_bytes,
                seed: last.seed,
                end: replay.end.offset,
                checksum: replay.end.checksum,
            },
            has_remains: matches!(replay.tail, Tail::Torn(_) | Tail::Cut(_)),
            spares: BTreeMap::new(),
            first_sequence: replay.first_sequence,
            batch: replay.batch,
            outline: replay.outline,
            durable: Durable { index, term },
            hard_state: replay.hard_state,
            pending: Pending::default(),
            failure: None,
            stats: Stats::default(),
        }
    }

    /// Makes what was read durable. A tail stays as it is: the next batch replaces it.
    fn settle(&mut self, end: &End) -> Result<(), WalError> {
        self.rewrite(end.batch_start, end.offset)?;
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|error| sync_error("fsync", &self.dir.to_string_lossy(), &error))
    }

    /// Writes the last batch again before syncing it: if its fsync failed in a process that has died,
    /// the page cache may hold it as clean although the disk never got it.
    fn rewrite(&mut self, start: u64, end: u64) -> Result<(), WalError> {
        let mut batch = vec![0; (end - start) as usize];
        let read = self.active.file.read_at(&mut batch, start);
        read.map_err(|error| io_error("reading", &segment_name(self.active.sequence), error))?;
        self.write_active(&batch, start)?;
        self.sync_active()
    }

    fn adopt_spares(&mut self) -> Result<(), WalError> {
        let dir_name = self.dir.to_string_lossy();
        let listed = self.disk.list(&self.dir);
        let names = listed.map_err(|error| io_error("listing", &dir_name, error))?;
        for name in names {
            let Some(FileName::Spare(number)) = FileName::parse(&name) else {
                continue;
            };
            let room = self.spares.len() < self.options.spare_segments_max.max(1);
            let fits = self.disk.open(&self.dir.join(&name)).and_then(|file| {
                let bytes = file.size_bytes()?;
                let fits = room && bytes == self.options.segment_bytes;
                fits.then(|| is_fresh(&*file, bytes)).transpose()
            });
            match fits.map_err(|error| io_error("reading", &name, error))? {
                Some(fresh) => drop(self.spares.insert(number, fresh)),
                None => remove(&*self.disk, &self.dir, &name)?,
            }
        }
        Ok(())
    }
}

/// None if the directory is not there.
fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, WalError> {
    match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| io_error("listing", &dir.to_string_lossy(), error)),
    }
}

fn check_options(options: Options) -> Result<(), WalError> {
    let segment_bytes = options.segment_bytes;
    let in_range = (16 << 10..=1 << 30).contains(&segment_bytes);
    if in_range && segment_bytes.is_multiple_of(HEADER_BYTES as u64) {
        return Ok(());
    }
    Err(WalError::InvalidOptions { segment_bytes })
}
