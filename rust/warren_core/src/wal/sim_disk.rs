//! A disk in memory that loses, tears, refuses and lies as real ones do, from a seed.
//!
//! It keeps two views: what a running machine sees (the page cache) and what would survive a power
//! loss. fsync moves the first into the second. A *failed* fsync does not, and as on Linux the next
//! one succeeds without the data.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, File};

const SECTOR_BYTES: usize = 512;

/// What happens to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Only the process died: the page cache is intact, and still not durable.
    Kept,
    /// Power was lost, and nothing of it had reached the disk.
    Lost,
    /// Power was lost while the disk was writing: each sector, and each change of a name, made it or
    /// not.
    Torn,
}

/// What the disk refuses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The machine dies in the operation of this number, counted from 1.
    pub crash_at: Option<u64>,
    /// The next fsync of a file or directory fails.
    pub sync_fails: bool,
    /// Writes within allocated space fail for want of space, as on copy-on-write file systems.
    pub writes_refused: bool,
}

#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
    free_bytes: u64,
    faults: Faults,
    operations: u64,
    crashed: bool,
    /// Counts restarts; a handle of an earlier one is dead.
    boot: u64,
}

#[derive(Clone)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl SimDisk {
    pub fn new(free_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            free_bytes,
            faults: Faults::default(),
            operations: 0,
            crashed: false,
            boot: 0,
        })))
    }

    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.lock().free_bytes = free_bytes;
    }

    /// Operations so far that a crash can interrupt.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The process dies, if it has not yet, and starts again without faults.
    pub fn restart(&self, fate: Fate, random: &mut Random) {
        let state = &mut *self.lock();
        state.crashed = false;
        state.faults = Faults::default();
        state.boot += 1;
        if fate == Fate::Kept {
            return;
        }
        for change in std::mem::take(&mut state.pending) {
            if fate == Fate::Torn && random.below(2) == 0 {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        for inode in state.inodes.values_mut() {
            for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
                if fate == Fate::Torn {
                    tear(&mut inode.durable, offset, &bytes, random);
                }
            }
            inode.cached = inode.durable.clone();
        }
    }

    pub fn file_names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    pub fn contents(&self, name: &str) -> Vec<u8> {
        let state = self.lock();
        state.inodes[&state.names[name]].cached.clone()
    }

    /// Bytes rot: `change` is made to the file behind everybody's back.
    pub fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let state = &mut *self.lock();
        let inode = state
            .inodes
            .get_mut(&state.names[name])
            .expect("the file exists");
        change(&mut inode.cached);
        change(&mut inode.durable);
    }

    /// Somebody removes a file.
    pub fn lose(&self, name: &str) {
        let state = &mut *self.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// An independent disk with the same contents, cache and durability.
    pub fn fork(&self) -> Self {
        let state = self.lock();
        Self(Arc::new(Mutex::new(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending: state.pending.clone(),
            ..*state
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics inside the disk")
    }
}

/// Applies a write sector by sector, each or not.
fn tear(durable: &mut [u8], offset: usize, bytes: &[u8], random: &mut Random) {
    let mut at = offset;
    let end = offset + bytes.len();
    while at < end {
        let sector_end = (at + 1).next_multiple_of(SECTOR_BYTES).min(end);
        if random.below(2) == 0 {
            durable[at..sector_end].copy_from_slice(&bytes[at - offset..sector_end - offset]);
        }
        at = sector_end;
    }
}

impl State {
    /// Begins an operation; true if the machine dies in it.
    fn begin(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(died());
        }
        self.operations += 1;
        self.crashed = self.faults.crash_at == Some(self.operations);
        Ok(self.crashed)
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.names.get(&name_of(path)).copied().ok_or_else(missing)
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.file_names())
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn File>> {
        let state = &mut *self.lock();
        let dies = state.begin()?;
        if state.names.contains_key(&name_of(path)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if bytes > state.free_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.free_bytes -= bytes;
        let number = state.inodes.len() as u64;
        let zeros = vec![0; bytes as usize];
        let inode = Inode {
            cached: zeros.clone(),
            durable: zeros,
            unsynced: Vec::new(),
        };
        state.inodes.insert(number, inode);
        state.change(NameChange::Create(name_of(path), number));
        if dies {
            Err(died())
        } else {
            Ok(self.handle(state, number))
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.lock();
        let inode = state.inode(path)?;
        Ok(self.handle(&state, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        let dies = state.begin()?;
        state.inode(from)?;
        assert!(
            state.inode(to).is_err(),
            "{} would be replaced",
            to.display()
        );
        state.change(NameChange::Rename(name_of(from), name_of(to)));
        if dies { Err(died()) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        let dies = state.begin()?;
        let inode = state.inode(path)?;
        state.free_bytes += state.inodes[&inode].cached.len() as u64;
        state.change(NameChange::Remove(name_of(path)));
        if dies { Err(died()) } else { Ok(()) }
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        if state.begin()? {
            return Err(died());
        }
        let pending = std::mem::take(&mut state.pending);
        if std::mem::take(&mut state.faults.sync_fails) {
            return Err(broken());
        }
        for change in pending {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }
}

impl SimDisk {
    fn handle(&self, state: &State, inode: u64) -> Box<dyn File> {
        Box::new(SimFile {
            disk: self.clone(),
            inode,
            boot: state.boot,
        })
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    boot: u64,
}

impl SimFile {
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.disk.lock();
        assert_eq!(state.boot, self.boot, "a handle outlived its process");
        state
    }
}

impl File for SimFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.state().inodes[&self.inode].cached.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state();
        let start = offset as usize;
        let bytes = state.inodes[&self.inode]
            .cached
            .get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.state();
        let dies = state.begin()?;
        if state.faults.writes_refused {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.get_mut(&self.inode).expect("the file exists");
        let start = offset as usize;
        inode.cached[start..start + buf.len()].copy_from_slice(buf);
        inode.unsynced.push((start, buf.to_vec()));
        if dies { Err(died()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.state();
        if state.begin()? {
            return Err(died());
        }
        let fails = std::mem::take(&mut state.faults.sync_fails);
        let inode = state.inodes.get_mut(&self.inode).expect("the file exists");
        for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
            if !fails {
                inode.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
        }
        if fails { Err(broken()) } else { Ok(()) }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .expect("a file has a name")
        .to_string_lossy()
        .into_owned()
}

fn died() -> io::Error {
    io::Error::other("the machine died")
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

/// A small seeded generator (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform enough for tests in 0..`limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
