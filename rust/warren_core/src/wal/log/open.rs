//! Creating a log, and opening one: what was read becomes durable, the rest unreadable.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use super::super::disk::Disk;
use super::super::frame::{COMMIT_FRAME_BYTES, FrameKind};
use super::super::outline::{Outline, Position};
use super::super::replay::{Replay, Tail, io_error, replay};
use super::super::segment::{FileName, HEADER_BYTES, Header, segment_name};
use super::super::{Entry, Identity, Location, Options, WalError};
use super::files::{allocate, install, remove, sync_error};
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
    /// An incomplete last batch was cut here. It may have been acknowledged only if its bytes rotted
    /// afterwards, which cannot be told from a crash: neither vote nor acknowledge before catching up.
    pub torn_tail: Option<Location>,
    /// The last thing written was the end mark, so nothing can be missing.
    pub clean_shutdown: bool,
}

impl Wal {
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
        let active = install(&*disk, dir, 1, &header)?;
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

    /// Opens the log in `dir` and reads it whole. A torn tail is cut; what is returned is durable.
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
        let mut replay = replay(&*disk, dir, &mut |_, _, _| {})?;
        let snapshot = replay.outline.snapshot();
        let recovered = Recovered {
            identity: replay.identity(),
            snapshot: (snapshot.index > 0).then_some((snapshot.index, snapshot.term)),
            hard_state: replay.hard_state.clone(),
            entries: std::mem::take(&mut replay.entries),
            torn_tail: replay.torn_tail(),
            clean_shutdown: replay.clean_shutdown(),
        };
        let tail = std::mem::take(&mut replay.tail);
        let mut wal = Self::resume(disk, dir, options, replay, &tail);
        wal.settle(&tail)?;
        wal.adopt_spares()?;
        Ok((wal, recovered))
    }

    fn resume(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        mut replay: Replay,
        tail: &Tail,
    ) -> Self {
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
                end: tail.end,
                checksum: tail.checksum,
            },
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

    /// Makes what was read durable, and the rest unreadable.
    fn settle(&mut self, tail: &Tail) -> Result<(), WalError> {
        if tail.torn_at.is_some() {
            self.wipe_after_end()?;
        }
        if let Some(prev_checksum) = tail.end_mark {
            // The end mark must not outlive the shutdown it marks: a plain commit takes its place.
            self.active.end -= COMMIT_FRAME_BYTES as u64;
            self.active.checksum = prev_checksum;
            self.batch -= 1;
            self.write_batch(FrameKind::Commit)?;
        } else {
            self.rewrite(tail.batch_start, tail.end)?;
        }
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|error| sync_error("fsync", &self.dir.to_string_lossy(), &error))
    }

    /// Zeros the remains of a torn batch, so that they are not taken for another torn batch, or for
    /// part of one, the next time.
    fn wipe_after_end(&mut self) -> Result<(), WalError> {
        let zeros = vec![0; 1 << 20];
        let mut offset = self.active.end;
        while offset < self.active.bytes {
            let chunk = (self.active.bytes - offset).min(zeros.len() as u64) as usize;
            self.write_active(&zeros[..chunk], offset)?;
            offset += chunk as u64;
        }
        self.sync_active()
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
            let file = self.disk.open(&self.dir.join(&name));
            let size = file.and_then(|file| file.size_bytes());
            let size = size.map_err(|error| io_error("opening", &name, error))?;
            let room = self.spares.len() < self.options.spare_segments_max.max(1);
            if size == self.options.segment_bytes && room {
                self.spares.insert(number, false);
            } else {
                remove(&*self.disk, &self.dir, &name)?;
            }
        }
        Ok(())
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
