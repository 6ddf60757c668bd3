//! An open file, and what of it a power loss leaves.

use std::io;
use std::sync::MutexGuard;

use super::super::random::Random;
use super::{Fate, Inode, Operation, SECTOR_BYTES, SimDisk, State, broken, died};
use crate::wal::File;

/// A change to a file since it was last synced.
#[derive(Clone)]
pub enum Unsynced {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Inode {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Unsynced::Write(offset, bytes) => {
                    self.durable.adopt_pages(&self.cached, offset, bytes.len());
                }
                Unsynced::Truncate(size_bytes) => self.durable.truncate(size_bytes),
            }
        }
        self.durable.size_bytes = self.cached.size_bytes;
    }

    /// The page cache is gone.
    pub fn lose_power(&mut self, fate: Fate, random: &mut Random) {
        let mut changes = std::mem::take(&mut self.unsynced);
        if fate == Fate::Reordered {
            shuffle(&mut changes, random);
        }
        for change in changes {
            match (fate, change) {
                (Fate::Torn, Unsynced::Write(offset, bytes)) => self.tear(offset, &bytes, random),
                (Fate::Torn | Fate::Reordered, change) if random.below(2) == 0 => match change {
                    Unsynced::Write(offset, bytes) => self.durable.write(&bytes, offset),
                    Unsynced::Truncate(size_bytes) => self.durable.truncate(size_bytes),
                },
                _ => {}
            }
        }
        self.cached = self.durable.clone();
    }

    /// Each sector of a write made it or not.
    fn tear(&mut self, offset: u64, bytes: &[u8], random: &mut Random) {
        let (mut at, end) = (offset, offset + bytes.len() as u64);
        while at < end {
            let sector_end = (at + 1).next_multiple_of(SECTOR_BYTES).min(end);
            if random.below(2) == 0 {
                let part = &bytes[(at - offset) as usize..(sector_end - offset) as usize];
                self.durable.write(part, at);
            }
            at = sector_end;
        }
    }
}

fn shuffle(changes: &mut [Unsynced], random: &mut Random) {
    for at in (1..changes.len()).rev() {
        changes.swap(at, random.below(at as u64 + 1) as usize);
    }
}

pub struct SimFile {
    disk: SimDisk,
    inode: u64,
    boot: u64,
}

impl SimFile {
    pub fn new(disk: SimDisk, inode: u64, boot: u64) -> Self {
        Self { disk, inode, boot }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.disk.lock();
        assert_eq!(state.boot, self.boot, "a handle outlived its process");
        state
    }
}

impl State {
    fn file(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an open file")
    }
}

impl File for SimFile {
    fn size_bytes(&self) -> io::Result<u64> {
        let state = &mut *self.state();
        state.check_alive()?;
        Ok(state.file(self.inode).cached.size_bytes)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.state();
        state.check_alive()?;
        state.spend(Operation::Read, buf.len());
        if std::mem::take(&mut state.faults.read_fails) {
            state.counters.read_errors += 1;
            return Err(broken());
        }
        if state.file(self.inode).cached.read(buf, offset) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.state();
        let dies = state.begin()?;
        state.spend(Operation::Write, buf.len());
        if std::mem::take(&mut state.faults.write_fails) {
            state.counters.write_errors += 1;
            return Err(broken());
        }
        let size_bytes = state.file(self.inode).cached.size_bytes;
        let grows_by = (offset + buf.len() as u64).saturating_sub(size_bytes);
        if state.faults.writes_refused {
            state.counters.no_space += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.take_space(grows_by)?;
        let inode = state.file(self.inode);
        inode.cached.write(buf, offset);
        inode.unsynced.push(Unsynced::Write(offset, buf.to_vec()));
        if dies { Err(died()) } else { Ok(()) }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let state = &mut *self.state();
        let dies = state.begin()?;
        let inode = state.file(self.inode);
        let freed = inode.cached.size_bytes.saturating_sub(bytes);
        inode.cached.truncate(bytes);
        inode.unsynced.push(Unsynced::Truncate(bytes));
        state.used_bytes = state.used_bytes.saturating_sub(freed);
        if dies { Err(died()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.state();
        if state.begin()? {
            return Err(died());
        }
        state.spend(Operation::Sync, 0);
        let fails = state.sync_fails();
        let inode = state.file(self.inode);
        if fails {
            inode.unsynced.clear();
            return Err(broken());
        }
        inode.sync();
        Ok(())
    }
}
