//! Backups: the whole state in one file that can be moved, kept, and looked into without a daemon.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `WARRNBAK` |
//! | 4, 4 | length of the header and its CRC-32C, both u32 LE |
//! | … | the header, a [`pb::BackupHeader`] |
//! | … | a snapshot, exactly as in a member's directory |
//! | 8 | `WARRNEND` |
//! | 8 | how many bytes come before the 48 of this trailer, u64 LE |
//! | 32 | SHA-256 of everything before it |
//!
//! A file that is cut short anywhere has no trailer, or one of another length. What is read is trusted
//! only as a whole: checksum, header, and the hash of the state that came out.

use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::super::BackupJob;
use crate::error::Error;
use crate::fsm::{State, snapshot};
use crate::pb;
use crate::wal::{Disk, File};

/// The format that this release writes, and the newest it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"WARRNBAK";
const END_MAGIC: &[u8; 8] = b"WARRNEND";
const TRAILER_BYTES: u64 = 48;
/// Magic, length and checksum of the header.
const HEAD_BYTES: usize = 16;
/// The header has a few short fields.
const HEADER_BYTES_MAX: usize = 4096;
/// Small pieces are gathered into writes of this size.
const BUFFER_BYTES: usize = 256 << 10;

/// The header of a backup of `state`; its time is the driver's to fill in.
pub fn header(state: &State, stale: bool) -> pb::BackupHeader {
    let cluster = state.cluster();
    pb::BackupHeader {
        format: FORMAT,
        cluster_id: cluster.map(|it| it.id.to_vec()).unwrap_or_default(),
        epoch: cluster.map_or(0, |it| it.epoch),
        index: state.index().0,
        term: state.term().0,
        time_ms: 0,
        release: env!("CARGO_PKG_VERSION").into(),
        state_hash: state.hash().to_bytes().to_vec(),
        feature_level: state.feature_level(),
        services: state.service_count() as u64,
        nodes: state.node_count() as u64,
        containers: state.container_count() as u64,
        stale,
    }
}

/// Writes a backup to `path`, where nothing is yet, and makes it durable. Its size in bytes.
///
/// # Errors
/// `NoSpace`, `DataDir`: nothing of it is left.
pub fn write(disk: &dyn Disk, path: &Path, job: &BackupJob) -> Result<u64, Error> {
    let created = disk.create(path, 0);
    let file = created.map_err(|error| refusal(path, &error))?;
    fill(file, job).map_err(|error| {
        // The first failure is the one to report; what is left in a directory for temporary files
        // goes at the next start.
        let _ = disk.remove(path);
        refusal(path, &error)
    })
}

fn fill(file: Box<dyn File>, job: &BackupJob) -> io::Result<u64> {
    let mut out = Out::new(file);
    let body = job.header.encode_to_vec();
    out.put(MAGIC)?;
    out.put(&(body.len() as u32).to_le_bytes())?;
    out.put(&crc32c::crc32c(&body).to_le_bytes())?;
    out.put(&body)?;
    snapshot::write(&job.state, &job.snapshot, &mut |frame| out.put(frame))?;
    out.finish()
}

/// Reads a backup whole: its header, and the state if all of it is as it was written.
///
/// # Errors
/// `BackupUnusable` says what is wrong with it; `DataDir` if it cannot be read.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<(pb::BackupHeader, State), Error> {
    let opened = disk
        .open(path)
        .and_then(|file| Ok((file.size_bytes()?, file)));
    let (bytes, file) = opened.map_err(|error| refusal(path, &error))?;
    let Some(end) = bytes.checked_sub(TRAILER_BYTES) else {
        return Err(unusable(format!(
            "it has {bytes} bytes, less than the shortest one"
        )));
    };
    let mut trailer = [0; TRAILER_BYTES as usize];
    let read = file.read_at(&mut trailer, end);
    read.map_err(|error| refusal(path, &error))?;
    let mut input = In::new(file, end);
    let header = read_header(&mut input, path)?;
    check_trailer(&trailer, end)?;
    let state = snapshot::read(&mut input);
    // A checksum that does not match explains best whatever else was found.
    let digest = input.digest().map_err(|error| refusal(path, &error))?;
    if digest[..] != trailer[16..] {
        return Err(unusable("its checksum does not match".into()));
    }
    let (state, inner) = state.map_err(|error| unusable(error.to_string()))?;
    let found = pb::BackupHeader {
        time_ms: header.time_ms,
        release: header.release.clone(),
        ..self::header(&state, header.stale)
    };
    if found != header || (inner.index, inner.term) != (header.index, header.term) {
        return Err(unusable(
            "header and content are of different states".into(),
        ));
    }
    Ok((header, state))
}

fn read_header(input: &mut In, path: &Path) -> Result<pb::BackupHeader, Error> {
    let mut head = [0; HEAD_BYTES];
    let short = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => unusable("it ends within its header".into()),
        _ => refusal(path, &error),
    };
    input.read_exact(&mut head).map_err(short)?;
    if head[..8] != MAGIC[..] {
        return Err(unusable("it does not begin as a backup does".into()));
    }
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
    let length = word(8) as usize;
    if length > HEADER_BYTES_MAX {
        return Err(unusable(format!("its header would have {length} bytes")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).map_err(short)?;
    if crc32c::crc32c(&body) != word(12) {
        return Err(unusable("the checksum of its header does not match".into()));
    }
    let header = pb::BackupHeader::decode(&body[..]);
    let header = header.map_err(|error| unusable(format!("its header: {error}")))?;
    if header.format != FORMAT {
        let format = header.format;
        return Err(unusable(format!(
            "it is of format {format}, unknown to this release; upgrade it"
        )));
    }
    Ok(header)
}

fn check_trailer(trailer: &[u8], end: u64) -> Result<(), Error> {
    if trailer[..8] != END_MAGIC[..] || trailer[8..16] != end.to_le_bytes() {
        return Err(unusable(
            "its end is missing: it was not copied whole".into(),
        ));
    }
    Ok(())
}

fn unusable(why: String) -> Error {
    Error::BackupUnusable { why }
}

fn refusal(path: &Path, error: &io::Error) -> Error {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
    if full.contains(&error.kind()) {
        let dir = path.parent().unwrap_or(path);
        let dir = dir.to_string_lossy().into_owned();
        return Error::NoSpace { dir };
    }
    Error::DataDir {
        path: path.to_string_lossy().into_owned(),
        why: error.to_string(),
    }
}

/// Bytes on their way out, hashed as they go.
struct Out {
    file: Box<dyn File>,
    hash: Sha256,
    buffer: Vec<u8>,
    /// In the file; `buffer` goes behind them.
    written_bytes: u64,
}

impl Out {
    fn new(file: Box<dyn File>) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            buffer: Vec::with_capacity(BUFFER_BYTES),
            written_bytes: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.add(bytes)
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written_bytes)?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        let before = self.written_bytes + self.buffer.len() as u64;
        self.put(END_MAGIC)?;
        self.put(&before.to_le_bytes())?;
        let digest = self.hash.clone().finalize();
        self.add(&digest)?;
        self.flush()?;
        self.file.sync_data()?;
        Ok(self.written_bytes)
    }
}

/// Bytes on their way in, up to the trailer, hashed as they come.
struct In {
    file: Box<dyn File>,
    hash: Sha256,
    offset: u64,
    end: u64,
}

impl In {
    fn new(file: Box<dyn File>, end: u64) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            offset: 0,
            end,
        }
    }

    /// Of everything before the digest, what has not been read included.
    fn digest(mut self) -> io::Result<[u8; 32]> {
        let mut rest = vec![0; BUFFER_BYTES];
        self.end += TRAILER_BYTES - 32;
        while self.read(&mut rest)? > 0 {}
        Ok(self.hash.finalize().into())
    }
}

impl io::Read for In {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let bytes = buf.len().min(left);
        let buf = &mut buf[..bytes];
        if bytes > 0 {
            self.file.read_at(buf, self.offset)?;
            self.hash.update(&*buf);
            self.offset += bytes as u64;
        }
        Ok(bytes)
    }
}
