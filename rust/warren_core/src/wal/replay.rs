//! Reading a log back: which frames count, where it ends, and whether it may be trusted.
//!
//! Nothing here writes. [`Wal::open`](super::Wal::open) acts on the result; the offline readers
//! print it.

use std::path::Path;

use super::disk::{Disk, File};
use super::frame::{Commit, Frame, FrameKind, Marker, decode, latest_batch};
use super::mask::Mask;
use super::outline::{Outline, Position};
use super::segment::{BadHeader, FORMAT_VERSION, FileName, HEADER_BYTES, Header, segment_name};
use super::tail::{Incomplete, Tail};
use super::{Entry, Identity, Location, WalError};
use crate::mutant::{self, Mutant};

/// Called for each intact frame in log order: file, offset, frame. An error ends the reading.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&str, u64, &Frame<'_>) -> Result<(), WalError>;

/// What becomes of the entries that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entries {
    /// All that count are in the result.
    Keep,
    /// None is: memory stays bounded by one segment, however long the log.
    Drop,
}

/// Everything a log says.
pub(super) struct Replay {
    /// Oldest first; never empty.
    pub segments: Vec<Segment>,
    pub outline: Outline,
    /// All after the snapshot, without a gap; none if they were not to be kept.
    pub entries: Vec<Entry>,
    keep: Entries,
    /// The lowest index after the snapshot whose entry was read.
    pub first_index: u64,
    pub hard_state: Option<Vec<u8>>,
    /// The oldest segment that the newest snapshot marker still needs.
    pub first_sequence: u64,
    /// Batches so far.
    pub batch: u64,
    pub frames: u64,
    pub end: End,
    pub tail: Tail,
}

pub(super) struct Segment {
    pub header: Header,
    /// Seeds the checksums of its frames.
    pub seed: u32,
    pub file: Box<dyn File>,
    /// The highest index ever appended here, overwritten since or not.
    pub index_max: u64,
}

/// Where the last whole batch ends.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// The offset after it, in the last segment.
    pub offset: u64,
    /// Of its last frame.
    pub checksum: u32,
    /// Where it begins; equal to `offset` if the segment has none.
    pub batch_start: u64,
    /// Its last frame is an end mark.
    is_marked: bool,
}

impl End {
    fn of_empty_segment(seed: u32) -> Self {
        Self {
            offset: HEADER_BYTES as u64,
            checksum: seed,
            batch_start: HEADER_BYTES as u64,
            is_marked: false,
        }
    }
}

/// The first frame that does not count.
struct Bad {
    offset: u64,
    /// Of the frame before it.
    checksum: u32,
    why: &'static str,
}

impl Replay {
    pub fn identity(&self) -> Identity {
        self.active().header.identity
    }

    pub fn active(&self) -> &Segment {
        self.segments.last().expect("a log has a segment")
    }
}

/// Reads the log in `dir`.
pub(super) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    keep: Entries,
    visit: Visit<'_>,
) -> Result<Replay, WalError> {
    let segments = open_segments(disk, dir)?;
    let first = segments[0].header;
    let mut replay = Replay {
        outline: Outline::starting_after(first.last),
        entries: Vec::new(),
        keep,
        first_index: first.last.index + 1,
        hard_state: None,
        first_sequence: first.first_sequence,
        batch: first.batch,
        frames: 0,
        end: End::of_empty_segment(segments[0].seed),
        tail: Tail::Open,
        segments,
    };
    let mut bytes = Vec::new();
    for position in 0..replay.segments.len() {
        let next = replay
            .segments
            .get(position + 1)
            .map(|segment| segment.header);
        read_segment(&replay.segments[position], &mut bytes)?;
        replay.scan(position, &bytes, next.map(|next| next.prev_end), visit)?;
        if let Some(next) = next {
            replay.check_joint(&next)?;
        }
    }
    replay.check_complete()?;
    Ok(replay)
}

fn open_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<Segment>, WalError> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|error| io_error("listing", &dir.to_string_lossy(), error))?,
    };
    let mut sequences: Vec<u64> = names
        .iter()
        .filter_map(|name| match FileName::parse(name) {
            Some(FileName::Segment(sequence)) => Some(sequence),
            _ => None,
        })
        .collect();
    sequences.sort_unstable();
    let Some(first) = sequences.first() else {
        return Err(WalError::NotFound {
            dir: dir.display().to_string(),
        });
    };
    if let Some((gap, _)) = (*first..)
        .zip(&sequences)
        .find(|(want, have)| want != *have)
    {
        return Err(damaged(
            gap,
            0,
            "the file is missing, though later ones exist",
        ));
    }
    sequences
        .into_iter()
        .map(|sequence| open_segment(disk, dir, sequence))
        .collect()
}

fn open_segment(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Segment, WalError> {
    let name = segment_name(sequence);
    let file = disk
        .open(&dir.join(&name))
        .map_err(|error| io_error("opening", &name, error))?;
    let size_bytes = file
        .size_bytes()
        .map_err(|error| io_error("reading", &name, error))?;
    let mut page = vec![0; HEADER_BYTES.min(size_bytes as usize)];
    file.read_at(&mut page, 0)
        .map_err(|error| io_error("reading", &name, error))?;
    let (header, seed) = Header::decode(&page).map_err(|bad| match bad {
        BadHeader::Damaged(why) => damaged(sequence, 0, why),
        BadHeader::Version(found) => WalError::Version {
            file: name,
            found,
            known: FORMAT_VERSION,
        },
    })?;
    if header.sequence != sequence {
        return Err(damaged(
            sequence,
            0,
            "the header is that of another segment",
        ));
    }
    if size_bytes < header.segment_bytes {
        return Err(damaged(
            sequence,
            size_bytes,
            "the file is shorter than its header says",
        ));
    }
    Ok(Segment {
        header,
        seed,
        file,
        index_max: 0,
    })
}

/// Whole segments are read at once: it keeps scanning pure and is as fast as the disk.
fn read_segment(segment: &Segment, bytes: &mut Vec<u8>) -> Result<(), WalError> {
    bytes.resize(segment.header.segment_bytes as usize, 0);
    let name = segment_name(segment.header.sequence);
    segment
        .file
        .read_at(bytes, 0)
        .map_err(|error| io_error("reading", &name, error))?;
    Mask::new(segment.seed).apply(&mut bytes[HEADER_BYTES..], HEADER_BYTES as u64);
    Ok(())
}

impl Replay {
    /// Reads one segment's frames. `end` is where its successor says it ends; only the last segment
    /// has none and may have a tail.
    fn scan(
        &mut self,
        position: usize,
        bytes: &[u8],
        end: Option<u64>,
        visit: Visit<'_>,
    ) -> Result<(), WalError> {
        let Segment { header, seed, .. } = self.segments[position];
        let (sequence, name) = (header.sequence, segment_name(header.sequence));
        self.end = End::of_empty_segment(seed);
        let mut offset = HEADER_BYTES;
        let mut checksum = seed;
        let mut batch = Vec::new();
        let bad = loop {
            if end == Some(self.end.offset) && batch.is_empty() {
                return Ok(());
            }
            let frame = match next_frame(&bytes[offset..], seed, checksum) {
                Ok(frame) => frame,
                Err(why) => {
                    let offset = offset as u64;
                    break Bad {
                        offset,
                        checksum,
                        why,
                    };
                }
            };
            visit(&name, offset as u64, &frame)?;
            self.frames += 1;
            let frame_offset = offset as u64;
            offset += frame.bytes();
            checksum = frame.checksum;
            if !frame.kind.ends_batch() {
                batch.push(frame);
                continue;
            }
            let batch_start = self.end.offset;
            let index_max = self
                .apply_batch(&batch, &frame, batch_start)
                .map_err(|why| damaged(sequence, frame_offset, why))?;
            let segment = &mut self.segments[position];
            segment.index_max = segment.index_max.max(index_max);
            self.end = End {
                offset: offset as u64,
                checksum,
                batch_start,
                is_marked: frame.kind == FrameKind::End,
            };
            batch.clear();
        };
        if end.is_some() {
            return Err(damaged(sequence, bad.offset, bad.why));
        }
        self.tail = self.judge_tail(bytes, &bad)?;
        Ok(())
    }

    /// The last segment has a bad frame: damage, an incomplete batch, or simply the end?
    fn judge_tail(&self, bytes: &[u8], bad: &Bad) -> Result<Tail, WalError> {
        let Segment { header, seed, .. } = self.active();
        let (start, mask) = (self.end.offset, Mask::new(*seed));
        let mut rest = &bytes[bad.offset as usize..];
        if !header.recycled {
            rest = &rest[..mask.written_bytes(rest, bad.offset)];
        }
        let latest = latest_batch(rest, *seed);
        let proof = if latest.is_some_and(|(latest, _)| latest > start) {
            Some("a later batch proves that it had been durable")
        } else if header.sequence > 1 && start == HEADER_BYTES as u64 {
            Some("a segment gets its name only when its first batch is durable")
        } else {
            None
        };
        let (file, offset) = (segment_name(header.sequence), bad.offset);
        let place = Location { file, offset };
        if let Some(proof) = proof {
            if mutant::is_on(Mutant::TakesDamageForTorn) {
                return Ok(Tail::Torn(place));
            }
            let why = format!("{}, and {proof}", bad.why);
            return Err(damaged(header.sequence, bad.offset, why));
        }
        // In a file that was all zeros before, anything else is an attempt to write.
        let scribbled = !header.recycled && !rest.is_empty();
        // An earlier one is of a first batch that was written into this file before, when it did not
        // get its name.
        let own = latest.filter(|(latest, _)| *latest == start);
        if own.is_none() && bad.offset == start && !scribbled {
            return Ok(if self.end.is_marked {
                Tail::Clean
            } else {
                Tail::Open
            });
        }
        let incomplete = Incomplete {
            mask,
            bytes: &bytes[start as usize..],
            start,
            bad: bad.offset,
            checksum: bad.checksum,
            commit_end: own.map(|(_, end)| bad.offset + end as u64),
        };
        if header.recycled || !incomplete.was_never_durable() {
            return Ok(Tail::Cut(place));
        }
        if mutant::is_on(Mutant::RefusesTornTail) {
            return Err(damaged(header.sequence, bad.offset, bad.why));
        }
        Ok(Tail::Torn(place))
    }

    /// Takes over a batch whose frames are all intact. Returns its highest index.
    fn apply_batch(
        &mut self,
        batch: &[Frame<'_>],
        commit_frame: &Frame<'_>,
        batch_start: u64,
    ) -> Result<u64, &'static str> {
        let commit = Commit::decode(commit_frame.payload).ok_or("the commit frame is malformed")?;
        let expected = Commit {
            batch: self.batch + 1,
            batch_start,
            durable_index: self.outline.last().index,
            frames: batch.len() as u32,
        };
        if commit != expected {
            return Err("the commit frame is not that of the batch before it");
        }
        for frame in batch {
            self.apply_frame(frame)?;
        }
        if commit_frame.at != self.outline.last() {
            return Err("the commit frame names another last entry");
        }
        self.batch += 1;
        let entries = batch.iter().filter(|frame| frame.kind == FrameKind::Entry);
        Ok(entries.map(|frame| frame.at.index).max().unwrap_or(0))
    }

    fn apply_frame(&mut self, frame: &Frame<'_>) -> Result<(), &'static str> {
        let Position { index, term } = frame.at;
        match frame.kind {
            FrameKind::Entry => {
                self.outline.push(frame.at)?;
                self.first_index = self.first_index.min(index);
                if self.keep == Entries::Keep {
                    self.keep_entry(Entry {
                        index,
                        term,
                        payload: frame.payload.to_vec(),
                    });
                }
            }
            FrameKind::HardState => self.hard_state = Some(frame.payload.to_vec()),
            FrameKind::Snapshot => {
                let marker = Marker::decode(frame.payload).ok_or("the marker is malformed")?;
                self.outline.mark(frame.at, marker.keep_suffix)?;
                if marker.keep_suffix {
                    let covered = self.entries.partition_point(|entry| entry.index <= index);
                    self.entries.drain(..covered);
                    self.first_index = self.first_index.max(index + 1);
                } else {
                    self.entries.clear();
                    self.first_index = index + 1;
                }
                self.first_sequence = marker.first_sequence;
            }
            FrameKind::Commit | FrameKind::End => unreachable!("they end a batch"),
        }
        Ok(())
    }

    fn keep_entry(&mut self, entry: Entry) {
        let below = |kept: &Entry| kept.index < entry.index;
        self.entries.truncate(self.entries.partition_point(below));
        self.entries.push(entry);
    }

    /// `next` must begin exactly where the log stands now.
    fn check_joint(&mut self, next: &Header) -> Result<(), WalError> {
        if next.identity != self.segments[0].header.identity {
            return Err(damaged(
                next.sequence,
                0,
                "the segment is that of another member",
            ));
        }
        if next.prev_checksum != self.end.checksum
            || next.batch != self.batch
            || next.last != self.outline.last()
        {
            return Err(damaged(
                next.sequence,
                0,
                "the segment does not follow the one before it",
            ));
        }
        self.first_sequence = next.first_sequence;
        Ok(())
    }

    /// No segment is missing at the front, and no entry between the snapshot and the last.
    fn check_complete(&self) -> Result<(), WalError> {
        let sequence = self.segments[0].header.sequence;
        if sequence > self.first_sequence {
            return Err(damaged(
                self.first_sequence,
                0,
                "the file is missing, but still needed",
            ));
        }
        let (snapshot, last) = (self.outline.snapshot().index, self.outline.last().index);
        let first = self.first_index;
        if last > snapshot && first != snapshot + 1 {
            let why = format!("entries {} to {} are missing", snapshot + 1, first - 1);
            return Err(damaged(sequence, HEADER_BYTES as u64, why));
        }
        Ok(())
    }
}

fn next_frame(rest: &[u8], seed: u32, prev_checksum: u32) -> Result<Frame<'_>, &'static str> {
    let frame = decode(rest, seed)?;
    if frame.prev_checksum != prev_checksum {
        return Err("the frame does not follow the one before it");
    }
    Ok(frame)
}

fn damaged(sequence: u64, offset: u64, why: impl Into<String>) -> WalError {
    WalError::Damaged {
        file: segment_name(sequence),
        offset,
        why: why.into(),
    }
}

pub(super) fn io_error(op: &'static str, file: &str, source: std::io::Error) -> WalError {
    WalError::Io {
        op,
        file: file.to_owned(),
        source,
    }
}
