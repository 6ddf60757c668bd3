//! Reading a log without changing it, also while its owner writes to it.

use std::path::Path;

use super::disk::Disk;
use super::replay::{Entries, Replay, replay};
use super::{FrameKind, Identity, Tail, WalError};

/// How often a log that looks different each time is read before the last finding stands.
const READS_MAX: usize = 16;

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
    /// Whole batches in these segments.
    pub batches: u64,
    /// Index and term of the newest snapshot marker.
    pub snapshot: Option<(u64, u64)>,
    /// The first entry after the snapshot, if there is one.
    pub first_index: Option<u64>,
    /// The last entry, or what the snapshot covers.
    pub last_index: u64,
    pub last_term: u64,
    /// The latest, as the consensus layer wrote it.
    pub hard_state: Option<Vec<u8>>,
    pub tail: Tail,
}

impl Summary {
    fn of(replay: Replay) -> Self {
        let (snapshot, last) = (replay.outline.snapshot(), replay.outline.last());
        Self {
            identity: replay.identity(),
            segments: replay.segments.len(),
            frames: replay.frames,
            batches: replay.batch - replay.segments[0].header.batch,
            snapshot: (snapshot.index > 0).then_some((snapshot.index, snapshot.term)),
            first_index: (last.index > snapshot.index).then_some(replay.first_index),
            last_index: last.index,
            last_term: last.term,
            hard_state: replay.hard_state,
            tail: replay.tail,
        }
    }
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
    read(disk, dir, &mut |frame| {
        visit(frame);
        Ok(())
    })
}

/// Like [`dump`], of a log whose owner may be writing to it; the memory taken is that of one
/// segment. An error of `visit` ends the reading and is returned.
///
/// A reader can see a batch half written, or a later one but not the one before it, and a segment can
/// be dropped under its hands. Bytes at rest look the same each time. So what looks incomplete or
/// damaged is read again, and believed only if it is found again at the same place; each frame is
/// visited once, since a frame never moves.
///
/// # Errors
/// As [`Wal::open`](super::Wal::open), and what `visit` returns.
pub fn follow(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(&FrameInfo<'_>) -> Result<(), WalError>,
) -> Result<Summary, WalError> {
    let mut visited = Visited::default();
    let mut suspicion = None;
    for _ in 1..READS_MAX {
        let found = read(disk, dir, &mut |frame| visited.once(frame, visit));
        let suspect = match &found {
            Ok(summary) => match &summary.tail {
                Tail::Clean | Tail::Open => return found,
                tail => format!("{tail:?}"),
            },
            Err(WalError::Stopped) => return found,
            Err(error) => error.to_string(),
        };
        if suspicion.as_ref() == Some(&suspect) {
            return found;
        }
        suspicion = Some(suspect);
    }
    read(disk, dir, &mut |frame| visited.once(frame, visit))
}

/// How far a log has been shown.
#[derive(Default)]
struct Visited {
    /// Names of segments sort as their places in the log do.
    file: String,
    offset: u64,
}

impl Visited {
    fn once(
        &mut self,
        frame: &FrameInfo<'_>,
        visit: &mut dyn FnMut(&FrameInfo<'_>) -> Result<(), WalError>,
    ) -> Result<(), WalError> {
        if (frame.file, frame.offset) <= (self.file.as_str(), self.offset) {
            return Ok(());
        }
        if self.file != frame.file {
            frame.file.clone_into(&mut self.file);
        }
        self.offset = frame.offset;
        visit(frame)
    }
}

fn read(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(&FrameInfo<'_>) -> Result<(), WalError>,
) -> Result<Summary, WalError> {
    let replay = replay(disk, dir, Entries::Drop, &mut |file, offset, frame| {
        visit(&FrameInfo {
            file,
            offset,
            kind: frame.kind,
            index: frame.at.index,
            term: frame.at.term,
            payload: frame.payload,
        })
    })?;
    Ok(Summary::of(replay))
}
