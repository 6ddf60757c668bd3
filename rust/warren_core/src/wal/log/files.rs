//! Spare files, and how they become segments.

use std::path::Path;

use super::super::WalError;
use super::super::disk::Disk;
use super::super::error::is_out_of_space;
use super::super::replay::io_error;
use super::super::segment::{HEADER_BYTES, Header, segment_name, spare_name};
use super::Active;

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

/// Turns a spare file into the segment that `header` describes. It gets its name only once the header
/// is durable: a segment without a header can then only be damage.
pub(super) fn install(
    disk: &dyn Disk,
    dir: &Path,
    spare: u64,
    header: &Header,
) -> Result<Active, WalError> {
    let (from, to) = (spare_name(spare), segment_name(header.sequence));
    let page = header.encode();
    let (_, seed) = Header::decode(&page).unwrap_or_else(|_| unreachable!("just encoded"));
    let file = disk
        .open(&dir.join(&from))
        .map_err(|error| sync_error("opening", &from, &error))?;
    if let Err(error) = file.write_at(&page, 0) {
        return Err(if is_out_of_space(&error) {
            no_space(dir, header.segment_bytes)
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
    Ok(Active {
        file,
        sequence: header.sequence,
        bytes: header.segment_bytes,
        seed,
        end: HEADER_BYTES as u64,
        checksum: seed,
    })
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

pub(super) fn sync_error(op: &'static str, file: &str, error: &std::io::Error) -> WalError {
    WalError::SyncFailed {
        op,
        file: file.to_owned(),
        why: error.to_string(),
    }
}
