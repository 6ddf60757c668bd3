//! A disk in memory that loses, tears, refuses, rots and dawdles as real ones do.
//!
//! It keeps two views of every file and of every name: what a running machine sees (the page cache) and
//! what would survive a power loss. fsync moves the first into the second. A *failed* fsync does not,
//! and as on Linux the next one succeeds without the data. Whatever is random comes from the caller's
//! stream.
//!
//! Files are sparse and their pages shared until they are written, so that large segments, and
//! [forks](SimDisk::fork), cost what is in them.

mod content;
mod file;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::content::Content;
use self::file::{SimFile, Unsynced};
use self::names::{NameChange, Names};
use super::random::Random;
use crate::wal::{Disk, File};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;
/// With this chance, of a million, rot finds the end of a log and not just anything.
const END_OF_LOG_CHANCE: u64 = 500_000;
/// So many bytes are the end.
const LAST_BYTES: u64 = 256;

/// What happens to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Only the process died: the page cache is intact, and still not durable.
    Kept,
    /// Power was lost, and nothing of it had reached the disk.
    Lost,
    /// Power was lost while the disk was writing: each sector, and each change of a name, made it or
    /// not.
    Torn,
    /// Power was lost, and of the writes some had reached the disk, each whole, in any order.
    Reordered,
}

impl Fate {
    pub const ALL: [Self; 4] = [Self::Kept, Self::Lost, Self::Torn, Self::Reordered];
}

/// What can fail, and take its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Sync,
}

/// What the disk refuses until it is told otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The machine dies in the change of this number, counted from 1.
    pub crash_at: Option<u64>,
    /// The next read fails.
    pub read_fails: bool,
    /// The next write fails, and changes nothing.
    pub write_fails: bool,
    /// The next fsync of a file or directory fails.
    pub sync_fails: bool,
    /// Writes within allocated space fail for want of space, as on copy-on-write file systems.
    pub writes_refused: bool,
}

/// How long operations take; see [`SimDisk::take_latency_ns`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    pub read_ns: u64,
    pub write_ns: u64,
    pub sync_ns: u64,
    /// For each 4 KiB read or written, begun ones included.
    pub page_ns: u64,
}

/// How often each fault had an effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub crashes: u64,
    /// Restarts at which something unsynced was kept, lost, torn, reordered.
    pub kept: u64,
    pub lost: u64,
    pub torn: u64,
    pub reordered: u64,
    pub read_errors: u64,
    pub write_errors: u64,
    pub sync_errors: u64,
    pub no_space: u64,
    pub flips: u64,
    pub stalls: u64,
}

/// The disk of one machine. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    next_inode: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    faults: Faults,
    latency: Latency,
    latency_ns: u64,
    /// Changes so far.
    operations: u64,
    crashed: bool,
    /// Counts restarts; a handle of an earlier one is dead.
    boot: u64,
    counters: Counters,
    /// The disk as it was before each change, while that is recorded.
    recorded: Option<Vec<SimDisk>>,
}

#[derive(Clone)]
struct Inode {
    cached: Content,
    durable: Content,
    unsynced: Vec<Unsynced>,
}

impl SimDisk {
    pub fn new(capacity_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: BTreeMap::new(),
            names: Names::default(),
            next_inode: 1,
            capacity_bytes,
            used_bytes: 0,
            faults: Faults::default(),
            latency: Latency::default(),
            latency_ns: 0,
            operations: 0,
            crashed: false,
            boot: 0,
            counters: Counters::default(),
            recorded: None,
        })))
    }

    /// From now on keeps a fork of the disk as it is before each change: every place where a crash
    /// can happen, from a single run.
    pub fn record_crash_points(&self) {
        self.lock().recorded = Some(Vec::new());
    }

    /// The forks since the last call, in order.
    pub fn take_crash_points(&self) -> Vec<SimDisk> {
        let mut state = self.lock();
        state
            .recorded
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// The next operation of this kind fails with an input/output error.
    pub fn fail_next(&self, operation: Operation) {
        let faults = &mut self.lock().faults;
        match operation {
            Operation::Read => faults.read_fails = true,
            Operation::Write => faults.write_fails = true,
            Operation::Sync => faults.sync_fails = true,
        }
    }

    /// How much can still be allocated.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        let state = &mut *self.lock();
        state.capacity_bytes = state.used_bytes + free_bytes;
    }

    pub fn free_bytes(&self) -> u64 {
        let state = self.lock();
        state.capacity_bytes.saturating_sub(state.used_bytes)
    }

    pub fn set_latency(&self, latency: Latency) {
        self.lock().latency = latency;
    }

    /// The disk does not answer for this long, once.
    pub fn stall_ns(&self, ns: u64) {
        let state = &mut *self.lock();
        state.latency_ns += ns;
        state.counters.stalls += 1;
    }

    /// How long the operations since the last call took, in nanoseconds. Nothing waits: it is the
    /// caller who lets that much time pass.
    pub fn take_latency_ns(&self) -> u64 {
        std::mem::take(&mut self.lock().latency_ns)
    }

    /// Changes so far: each is a place where a crash can happen.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// The process dies, if it has not yet, and starts again without faults.
    pub fn restart(&self, fate: Fate, random: &mut Random) {
        self.lock().restart(fate, random);
    }

    /// The names in `dir`, in order.
    pub fn file_names(&self, dir: &Path) -> Vec<String> {
        self.lock().names.list(dir)
    }

    /// What a running machine reads in `path`, which exists.
    pub fn contents(&self, path: &Path) -> Vec<u8> {
        let state = self.lock();
        let inode = state.names.get(path).expect("the file exists");
        state.inodes[&inode].cached.to_vec()
    }

    /// Bytes rot: `change` is made to the file behind everybody's back. The file does not grow.
    pub fn damage(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let state = &mut *self.lock();
        let number = state.names.get(path).expect("the file exists");
        let inode = state.inodes.get_mut(&number).expect("a name has a file");
        for content in [&mut inode.cached, &mut inode.durable] {
            let mut bytes = content.to_vec();
            change(&mut bytes);
            content.truncate(bytes.len() as u64);
            content.overwrite(&bytes);
        }
    }

    /// One bit rots, of any byte that was ever written, and often of the last that a log wrote;
    /// returns where. `None` on an empty disk.
    pub fn flip(&self, random: &mut Random) -> Option<(String, u64)> {
        self.lock().flip(random)
    }

    /// Somebody removes a file.
    pub fn lose(&self, path: &Path) {
        self.lock().names.lose(path);
    }

    /// An independent disk with the same contents, cache and durability.
    pub fn fork(&self) -> Self {
        let state = State {
            recorded: None,
            ..self.lock().clone()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked has failed already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &State, inode: u64) -> Box<dyn File> {
        Box::new(SimFile::new(self.clone(), inode, state.boot))
    }
}

impl State {
    /// Begins a change; true if the machine dies in it.
    fn begin(&mut self) -> io::Result<bool> {
        self.check_alive()?;
        if let Some(mut recorded) = self.recorded.take() {
            recorded.push(SimDisk(Arc::new(Mutex::new(self.clone()))));
            self.recorded = Some(recorded);
        }
        self.operations += 1;
        if self.faults.crash_at == Some(self.operations) {
            self.crashed = true;
            self.counters.crashes += 1;
        }
        Ok(self.crashed)
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.crashed { Err(died()) } else { Ok(()) }
    }

    /// Takes the time of an operation on `bytes`.
    fn spend(&mut self, operation: Operation, bytes: usize) {
        let latency = &self.latency;
        let base_ns = match operation {
            Operation::Read => latency.read_ns,
            Operation::Write => latency.write_ns,
            Operation::Sync => latency.sync_ns,
        };
        let pages = bytes.div_ceil(content::PAGE_BYTES) as u64;
        self.latency_ns += base_ns + latency.page_ns * pages;
    }

    /// Takes space from what is free.
    fn take_space(&mut self, bytes: u64) -> io::Result<()> {
        if self.used_bytes + bytes > self.capacity_bytes {
            self.counters.no_space += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used_bytes += bytes;
        Ok(())
    }

    /// `path` no longer names `inode`.
    fn give_space(&mut self, inode: u64) {
        let bytes = self.inodes[&inode].cached.size_bytes;
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
    }

    fn sync_fails(&mut self) -> bool {
        let fails = std::mem::take(&mut self.faults.sync_fails);
        self.counters.sync_errors += u64::from(fails);
        fails
    }

    fn restart(&mut self, fate: Fate, random: &mut Random) {
        (self.crashed, self.faults) = (false, Faults::default());
        self.boot += 1;
        let files = self.inodes.values();
        let unsynced = files.filter(|inode| !inode.unsynced.is_empty()).count();
        let counted = u64::from(unsynced > 0 || self.names.has_unsynced());
        match fate {
            Fate::Kept => self.counters.kept += counted,
            Fate::Lost => self.counters.lost += counted,
            Fate::Torn => self.counters.torn += counted,
            Fate::Reordered => self.counters.reordered += counted,
        }
        if fate != Fate::Kept {
            let some = fate != Fate::Lost;
            self.names.lose_power(&mut |_| some && random.below(2) == 0);
            for inode in self.inodes.values_mut() {
                inode.lose_power(fate, random);
            }
        }
        // No handle is left: what has no name is gone.
        let names = &self.names;
        self.inodes.retain(|inode, _| names.refers_to(*inode));
        let visible = self.names.inodes();
        let sizes = visible.map(|inode| self.inodes[&inode].cached.size_bytes);
        self.used_bytes = sizes.sum();
    }

    fn flip(&mut self, random: &mut Random) -> Option<(String, u64)> {
        let files: Vec<(String, u64)> = self.names.all();
        let newest_log = files
            .iter()
            .filter(|(name, _)| name.ends_with(".wal"))
            .max();
        let (name, number, offset) = if let Some((name, number)) = newest_log
            && random.chance(END_OF_LOG_CHANCE)
        {
            let content = self.inodes.get(number)?.durable.to_vec();
            let end = content.iter().rposition(|byte| *byte != 0)? as u64;
            (name, number, end - random.below(LAST_BYTES.min(end + 1)))
        } else {
            let (name, number) = random.pick(&files)?;
            let content = &self.inodes.get(number)?.durable;
            let pages: Vec<u64> = content.written_pages().collect();
            let page = *random.pick(&pages)?;
            let bytes = (content::PAGE_BYTES as u64).min(content.size_bytes.checked_sub(page)?);
            (name, number, page + random.below(bytes))
        };
        let inode = self.inodes.get_mut(number)?;
        let bit = 1 << random.below(8);
        for content in [&mut inode.cached, &mut inode.durable] {
            let mut byte = [0];
            if content.read(&mut byte, offset) {
                content.write(&[byte[0] ^ bit], offset);
            }
        }
        self.counters.flips += 1;
        Some((name.clone(), offset))
    }
}

impl Disk for SimDisk {
    /// Durable at once.
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        if state.begin()? {
            return Err(died());
        }
        state.names.create_dir(dir);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        state.check_alive()?;
        state.names.check_dir(dir)?;
        Ok(state.names.list(dir))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn File>> {
        let state = &mut *self.lock();
        let dies = state.begin()?;
        state.names.check_parent(path)?;
        if state.names.get(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.take_space(bytes)?;
        state.spend(Operation::Write, 0);
        let number = state.next_inode;
        state.next_inode += 1;
        let inode = Inode {
            cached: Content::of_zeros(bytes),
            durable: Content::of_zeros(bytes),
            unsynced: Vec::new(),
        };
        state.inodes.insert(number, inode);
        state.names.change(NameChange::create(path, number));
        if dies {
            Err(died())
        } else {
            Ok(self.handle(state, number))
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.lock();
        state.check_alive()?;
        Ok(self.handle(&state, state.names.find(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        let dies = state.begin()?;
        state.names.find(from)?;
        state.names.check_parent(to)?;
        if let Some(replaced) = state.names.get(to) {
            state.give_space(replaced);
        }
        state.names.change(NameChange::rename(from, to));
        if dies { Err(died()) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        let dies = state.begin()?;
        let inode = state.names.find(path)?;
        state.give_space(inode);
        state.names.change(NameChange::remove(path));
        if dies { Err(died()) } else { Ok(()) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        if state.begin()? {
            return Err(died());
        }
        state.spend(Operation::Sync, 0);
        if state.sync_fails() {
            state.names.forget_changes(dir);
            return Err(broken());
        }
        state.names.sync(dir);
        Ok(())
    }
}

fn died() -> io::Error {
    io::Error::other("the machine died")
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}
