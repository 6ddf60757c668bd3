//! The names of files, as a running machine sees them and as they are on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// A change to a directory that is not durable before the directory is synced.
#[derive(Clone)]
pub enum NameChange {
    Create(String, u64),
    /// Replaces what `to` named.
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    pub fn create(path: &Path, inode: u64) -> Self {
        Self::Create(key(path), inode)
    }

    pub fn rename(from: &Path, to: &Path) -> Self {
        Self::Rename(key(from), key(to))
    }

    pub fn remove(path: &Path) -> Self {
        Self::Remove(key(path))
    }

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

    /// Renames are within one directory.
    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Create(name, _) | Self::Rename(name, _) | Self::Remove(name)) = self;
        Path::new(name).parent() == Some(dir)
    }
}

/// Directories are durable when they are created; what is in them is not.
#[derive(Clone, Default)]
pub struct Names {
    dirs: BTreeSet<String>,
    visible: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    unsynced: Vec<NameChange>,
}

impl Names {
    pub fn create_dir(&mut self, dir: &Path) {
        self.dirs.extend(dir.ancestors().map(key));
    }

    pub fn check_dir(&self, dir: &Path) -> io::Result<()> {
        if self.dirs.contains(&key(dir)) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    pub fn check_parent(&self, path: &Path) -> io::Result<()> {
        self.check_dir(path.parent().unwrap_or(Path::new("")))
    }

    pub fn get(&self, path: &Path) -> Option<u64> {
        self.visible.get(&key(path)).copied()
    }

    pub fn find(&self, path: &Path) -> io::Result<u64> {
        self.get(path)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    pub fn list(&self, dir: &Path) -> Vec<String> {
        let inside = self.visible.keys().filter_map(|name| {
            let path = Path::new(name);
            let name = path.file_name()?.to_str()?;
            (path.parent() == Some(dir)).then(|| name.to_owned())
        });
        inside.collect()
    }

    /// All files by path.
    pub fn all(&self) -> Vec<(String, u64)> {
        let pairs = self.visible.iter();
        pairs.map(|(name, inode)| (name.clone(), *inode)).collect()
    }

    /// The files that a running machine sees.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.visible.values().copied()
    }

    pub fn change(&mut self, change: NameChange) {
        change.apply(&mut self.visible);
        self.unsynced.push(change);
    }

    /// The changes in `dir` become durable.
    pub fn sync(&mut self, dir: &Path) {
        for change in self.take(dir) {
            change.apply(&mut self.durable);
        }
    }

    /// The changes in `dir` will never become durable.
    pub fn forget_changes(&mut self, dir: &Path) {
        self.take(dir);
    }

    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Only what is durable is left, and those changes that had `made_it`.
    pub fn lose_power(&mut self, made_it: &mut dyn FnMut(&NameChange) -> bool) {
        for change in std::mem::take(&mut self.unsynced) {
            if made_it(&change) {
                change.apply(&mut self.durable);
            }
        }
        self.visible = self.durable.clone();
    }

    pub fn lose(&mut self, path: &Path) {
        self.visible.remove(&key(path));
        self.durable.remove(&key(path));
    }

    /// Whether a name of `inode` exists, or may after a power loss.
    pub fn refers_to(&self, inode: u64) -> bool {
        let named = |names: &BTreeMap<String, u64>| names.values().any(|other| *other == inode);
        let created =
            |change: &NameChange| matches!(change, NameChange::Create(_, of) if *of == inode);
        named(&self.visible) || named(&self.durable) || self.unsynced.iter().any(created)
    }

    fn take(&mut self, dir: &Path) -> Vec<NameChange> {
        let changes = std::mem::take(&mut self.unsynced);
        let (inside, outside) = changes.into_iter().partition(|change| change.is_in(dir));
        self.unsynced = outside;
        inside
    }
}

fn key(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
