//! The few file operations the log needs, as a trait, and their real implementation.
//!
//! Everything the log does to a disk goes through [`Disk`] and [`File`], so that a simulated disk can
//! lose, tear and refuse what a real one may lose, tear and refuse.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the file backend is what touches files"
)]

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A directory tree. A name is durable only after [`sync_dir`](Disk::sync_dir) on its directory.
pub trait Disk: Send + Sync {
    /// Creates `dir`, with its parents, if it is missing, and makes that durable.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names in `dir`, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a file of `bytes` zeros whose space is allocated, so that no later write within it
    /// can fail for want of space. An empty one grows with what is written. Leaves nothing behind
    /// when it fails.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Renames within one directory; what `to` named before is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes all creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Writes are durable only after [`sync_data`](File::sync_data).
pub trait File: Send {
    fn size_bytes(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset`; fails if the file ends before that.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Grows the file where it ends before that.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file to at most `bytes`.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// fdatasync(2): the data, and as much metadata as is needed to read it back.
    fn sync_data(&self) -> io::Result<()>;
}

/// The host's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDisk;

impl Disk for FileDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir(parent)?;
        }
        fs::create_dir(dir)?;
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
        names
            .filter_map(|name| name.map(|name| name.into_string().ok()).transpose())
            .collect()
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        let allocated = allocate(&file, bytes).and_then(|()| file.sync_all());
        if let Err(error) = allocated {
            // The first failure is the one to report; a file left behind is found at the next open.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(
            fs::OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

/// The host's file system, for those who may only look: nothing can be written through it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnlyDisk;

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        read_only()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        FileDisk.list(dir)
    }

    fn create(&self, _path: &Path, _bytes: u64) -> io::Result<Box<dyn File>> {
        read_only()
    }

    /// For reading alone: neither the permission to write nor a writable file system is needed.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::File::open(path)?))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        read_only()
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl File for fs::File {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buf, offset)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let size_bytes = self.metadata()?.len();
        self.set_len(bytes.min(size_bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }
}

/// Reserves `bytes` for `file` and sets its size: a write within it then changes no size, which makes
/// its fdatasync two to three times cheaper.
fn allocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if bytes == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return zero_fill(file, bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

/// For file systems without fallocate(2).
fn zero_fill(file: &fs::File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < bytes {
        let chunk = (bytes - offset).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..chunk], offset)?;
        offset += chunk as u64;
    }
    Ok(())
}
