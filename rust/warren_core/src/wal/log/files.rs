//! Spare files, and how they become segments.

use std::io;
use std::path::Path;

use super::super::WalError;
use super::super::disk::{Disk, File};
use super::super::error::is_out_of_space;
use super::super::replay::io_error;
use super::super::segment::{HEADER_BYTES, segment_name, spare_name};

/// Allocates a spare file.
pub(super) fn allocate(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    bytes: u64,
) -> Result<(), WalError> {
    let name = spare_name(number);
    match disk.create(&dir.join(&name), bytes) {
        Ok(_) => Ok(()),
        Err(error) if is_out_of_space(&error) => Err(no_space(dir, bytes)),
        Err(error) => Err(io_error("allocating", &name, error)),
    }
}

/// Turns a spare file into the segment that begins with `page`, a header, and `batch`. It gets its
/// name only once both are durable: a segment without its first batch can then only be damage, and the
/// step from one segment to the next is atomic.
pub(super) fn install(
    disk: &dyn Disk,
    dir: &Path,
    spare: u64,
    sequence: u64,
    page: &[u8],
    batch: &[u8],
) -> Result<Box<dyn File>, WalError> {
    let (from, to) = (spare_name(spare), segment_name(sequence));
    let file = disk
        .open(&dir.join(&from))
        .map_err(|error| sync_error("opening", &from, &error))?;
    let written = file
        .write_at(page, 0)
        .and_then(|()| file.write_at(batch, HEADER_BYTES as u64));
    if let Err(error) = written {
        return Err(if is_out_of_space(&error) {
            no_space(dir, batch.len() as u64)
        } else {
            sync_error("write", &from, &error)
        });
    }
    file.sync_data()
        .map_err(|error| sync_error("fsync", &from, &error))?;
    let renamed = disk.rename(&dir.join(&from), &dir.join(&to));
    renamed.map_err(|error| sync_error("renaming", &from, &error))?;
    let synced = disk.sync_dir(dir);
    synced.map_err(|error| sync_error("fsync", &dir.to_string_lossy(), &error))?;
    Ok(file)
}

/// Whether a file is as it was allocated: all zeros. One that has been a segment, or nearly one, has a
/// header, so that only a fresh file is read whole.
pub(super) fn is_fresh(file: &dyn File, bytes: u64) -> io::Result<bool> {
    let mut page = vec![0; HEADER_BYTES];
    for offset in (0..bytes).step_by(HEADER_BYTES) {
        file.read_at(&mut page, offset)?;
        if page.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn remove(disk: &dyn Disk, dir: &Path, name: &str) -> Result<(), WalError> {
    disk.remove(&dir.join(name))
        .map_err(|error| io_error("removing", name, error))
}

pub(super) fn no_space(dir: &Path, bytes: u64) -> WalError {
    WalError::NoSpace {
        dir: dir.display().to_string(),
        bytes,
    }
}

pub(super) fn sync_error(op: &'static str, file: &str, error: &io::Error) -> WalError {
    WalError::SyncFailed {
        op,
        file: file.to_owned(),
        why: error.to_string(),
    }
}
