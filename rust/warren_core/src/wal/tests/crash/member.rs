//! A member that works on its disk and remembers what it was promised.

use std::rc::Rc;
use std::sync::Arc;

use super::super::super::snapshots::{Covered, SnapshotError, Store};
use super::super::super::{Entry, Tail, Wal, WalError};
use super::super::{create, open};
use super::model::{Model, Promise, content};
use crate::sim::disk::{Fate, Operation, SimDisk};
use crate::sim::random::Random;

pub const CAPACITY_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: u64 = 2048;

/// A place where a crash can happen, and what had been promised by then.
pub type Point = (SimDisk, Rc<Promise>);

pub fn store(disk: &SimDisk) -> Store {
    let dir = std::path::Path::new("snap");
    Store::new(Arc::new(disk.clone()), dir).with_block_bytes(BLOCK_BYTES)
}

pub struct Member<'a> {
    disk: &'a SimDisk,
    random: &'a mut Random,
    wal: Option<Wal>,
    store: Store,
    promise: Rc<Promise>,
    /// What has been appended, committed or not.
    latest: Model,
    hard_state: u64,
    points: Vec<Point>,
}

impl<'a> Member<'a> {
    /// Runs a workload; returns every point at which it could have crashed.
    pub fn run(disk: &'a SimDisk, random: &'a mut Random, acts: u64) -> Result<Vec<Point>, String> {
        disk.record_crash_points();
        let mut member = Self {
            disk,
            random,
            wal: None,
            store: store(disk),
            promise: Rc::default(),
            latest: Model::default(),
            hard_state: 0,
            points: Vec::new(),
        };
        member.promise(|promise| promise.possible = vec![Model::default()]);
        member.wal = Some(create(disk).map_err(text)?);
        member.promise(|promise| promise.founded = true);
        for _ in 0..acts {
            member.act()?;
        }
        member.wal = None;
        member.promise(|_| ());
        Ok(member.points)
    }

    fn act(&mut self) -> Result<(), String> {
        match self.random.below(24) {
            0..=8 => self.append().map_err(text),
            9..=10 => self.append_hard_state().map_err(text),
            11..=14 => self.commit().map_err(text),
            15 => self.wal().allocate_ahead().map_err(text),
            16..=18 => self.take_snapshot(),
            19 => self.receive_snapshot(),
            20 => self.fill_disk(),
            21 => self.fail_sync(),
            _ => self.reopen(),
        }
    }

    /// What is promised changes: the crash points so far belong to what was promised before.
    fn promise(&mut self, change: impl FnOnce(&mut Promise)) {
        let points = self.disk.take_crash_points();
        let known = points.into_iter().map(|disk| (disk, self.promise.clone()));
        self.points.extend(known);
        change(Rc::make_mut(&mut self.promise));
    }

    fn acknowledge(&mut self) {
        let latest = self.latest.clone();
        self.promise(|promise| promise.acknowledged = latest);
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the log is open")
    }

    fn append(&mut self) -> Result<(), WalError> {
        let (last, term) = self.latest.last();
        let back = if self.random.below(5) == 0 {
            self.random.below(last - self.latest.snapshot.0 + 1)
        } else {
            0
        };
        for step in 1..=1 + self.random.below(4) {
            let index = last - back + step;
            let term = term + u64::from(back > 0);
            // Zeros too: they must not pass for what was never written.
            let byte = [0, self.random.next() as u8][self.random.below(2) as usize];
            let payload = vec![byte; self.random.below(900) as usize];
            if self.wal().pending_bytes() + 1000 > self.wal().batch_bytes_max() {
                self.commit()?;
            }
            self.wal().append_entry(index, term, &payload)?;
            self.latest.append(Entry {
                index,
                term,
                payload,
            });
        }
        Ok(())
    }

    fn append_hard_state(&mut self) -> Result<(), WalError> {
        self.hard_state += 1;
        let state = self.hard_state;
        self.wal().append_hard_state(&state.to_le_bytes())?;
        self.latest.hard_state = Some(state);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), WalError> {
        let latest = self.latest.clone();
        self.promise(|promise| promise.possible = vec![latest]);
        self.wal().commit()?;
        self.acknowledge();
        Ok(())
    }

    /// Of an entry that the log holds.
    fn take_snapshot(&mut self) -> Result<(), String> {
        self.commit().map_err(text)?;
        let held = self.latest.entries.len() as u64;
        if held == 0 {
            return Ok(());
        }
        let entry = &self.latest.entries[self.random.below(held) as usize];
        let covered = (entry.index, entry.term);
        let written = self.write_snapshot(covered).map_err(text)?;
        self.finished(covered, written)
    }

    fn write_snapshot(&mut self, covered: Covered) -> Result<u64, SnapshotError> {
        let mut writer = self.store.begin(covered.0, covered.1)?;
        for piece in content(covered).chunks(700) {
            writer.write(piece)?;
        }
        writer.finish()
    }

    /// Of another history, or of one that is ahead: sent by somebody, not always to the end.
    fn receive_snapshot(&mut self) -> Result<(), String> {
        let (last, term) = self.latest.last();
        let snapshot = self.latest.snapshot.0;
        let ahead = snapshot + 1 + self.random.below(last - snapshot + 3);
        let covered = self.promise.incoming.unwrap_or((ahead, term + 1));
        if covered.0 <= snapshot {
            self.promise(|promise| promise.incoming = None);
            return self.store.abandon(covered.0, covered.1).map_err(text);
        }
        self.promise(|promise| promise.incoming = Some(covered));
        let bytes = content(covered);
        let mut incoming = self.store.incoming(covered.0, covered.1).map_err(text)?;
        let stop_at = bytes.len() as u64 / (1 + self.random.below(2));
        while incoming.held_bytes() < stop_at {
            let held = incoming.held_bytes() as usize;
            let piece = &bytes[held..bytes.len().min(held + 900)];
            incoming.write_at(held as u64, piece).map_err(text)?;
        }
        if (incoming.held_bytes() as usize) < bytes.len() {
            return Ok(());
        }
        let written = incoming.finish().map_err(text)?;
        self.promise(|promise| promise.incoming = None);
        self.finished(covered, written)
    }

    /// A snapshot is durable: the log is told, then the oldest go.
    fn finished(&mut self, covered: Covered, written: u64) -> Result<(), String> {
        assert_eq!(written, content(covered).len() as u64);
        let mut compacted = self.latest.clone();
        compacted.compact(covered);
        let latest = self.latest.clone();
        self.promise(|promise| {
            promise.newest_snapshot = promise.newest_snapshot.max(Some(covered));
            promise.possible = vec![latest, compacted];
        });
        let store = self.store.clone();
        store.prune(&[]).map_err(text)?;
        self.wal().compact(covered.0, covered.1).map_err(text)?;
        self.latest.compact(covered);
        self.acknowledge();
        Ok(())
    }

    /// A full disk refuses, and goes on when there is room.
    fn fill_disk(&mut self) -> Result<(), String> {
        let room = self.random.below(40_000);
        self.disk.set_free_bytes(room);
        for _ in 0..40 {
            self.append().or_else(no_space)?;
            if self.commit().or_else(no_space).is_err() {
                return Err("a full disk did more than refuse".into());
            }
        }
        self.disk.set_free_bytes(CAPACITY_BYTES);
        self.commit().map_err(text)
    }

    /// The log takes nothing more, and the process ends.
    fn fail_sync(&mut self) -> Result<(), String> {
        self.append().map_err(text)?;
        self.disk.fail_next(Operation::Sync);
        let outcome = self.commit();
        if outcome.is_ok() {
            return Ok(());
        }
        self.wal = None;
        self.disk.restart(Fate::Kept, self.random);
        self.recover()
    }

    fn reopen(&mut self) -> Result<(), String> {
        let clean = self.random.below(2) == 0;
        if clean {
            let latest = self.latest.clone();
            self.promise(|promise| promise.possible = vec![latest]);
            let wal = self.wal.take().expect("the log is open");
            wal.close().map_err(text)?;
            self.acknowledge();
        } else {
            self.wal = None;
            self.latest = self.promise.acknowledged.clone();
        }
        self.recover()
    }

    fn recover(&mut self) -> Result<(), String> {
        let (wal, recovered) = open(self.disk).map_err(text)?;
        let found = Model::of(&recovered);
        if found != self.promise.acknowledged && !self.promise.possible.contains(&found) {
            return Err(format!("recovered {found:?}"));
        }
        if matches!(recovered.tail, Tail::Torn(_) | Tail::Cut(_)) {
            return Err(format!("nothing was torn, but {:?}", recovered.tail));
        }
        self.wal = Some(wal);
        self.latest = found;
        self.acknowledge();
        Ok(())
    }
}

fn no_space(error: WalError) -> Result<(), String> {
    match error {
        WalError::NoSpace { .. } => Ok(()),
        other => Err(other.to_string()),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
