//! Reading a log that nobody is writing, without changing it.

use std::path::Path;

use super::disk::Disk;
use super::replay::replay;
use super::{FrameKind, Identity, Tail, WalError};

/// One intact frame and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct FrameInfo<'a> {
    pub file: &'a str,
    pub offset: u64,
    pub kind: FrameKind,
    /// Entry and snapshot: its index. Commit and end mark: the last index of the log. Else zero.
    pub index: u64,
    pub term: u64,
    pub payload: &'a [u8],
}

/// What a whole, readable log contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub identity: Identity,
    pub segments: usize,
    pub frames: u64,
    /// Index and term of the newest snapshot marker.
    pub snapshot: Option<(u64, u64)>,
    /// The last entry, or what the snapshot covers.
    pub last_index: u64,
    pub last_term: u64,
    pub tail: Tail,
}

/// Checks the log in `dir` as opening it would, and changes nothing.
///
/// # Errors
/// As [`Wal::open`](super::Wal::open).
pub fn verify(disk: &dyn Disk, dir: &Path) -> Result<Summary, WalError> {
    dump(disk, dir, &mut |_| {})
}

/// Like [`verify`], and calls `visit` with each intact frame in log order, up to the first bad one.
/// The intact frames of an incomplete batch are visited too.
pub fn dump(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(&FrameInfo<'_>),
) -> Result<Summary, WalError> {
    let replay = replay(disk, dir, &mut |file, offset, frame| {
        visit(&FrameInfo {
            file,
            offset,
            kind: frame.kind,
            index: frame.at.index,
            term: frame.at.term,
            payload: frame.payload,
        });
    })?;
    let (snapshot, last) = (replay.outline.snapshot(), replay.outline.last());
    Ok(Summary {
        identity: replay.identity(),
        segments: replay.segments.len(),
        frames: replay.frames,
        snapshot: (snapshot.index > 0).then_some((snapshot.index, snapshot.term)),
        last_index: last.index,
        last_term: last.term,
        tail: replay.tail,
    })
}
