//! The files: appending, rotating, and what to do when the disk will not take it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::arguments::Arguments;
use crate::timestamp;

/// Which of the container's streams a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout = 0,
    Stderr = 1,
}

const STREAM_NAMES: [&str; 2] = ["stdout", "stderr"];
/// Tags what the logger itself has to say.
const OWN_STREAM: &str = "warren";

/// `current.log` and its older siblings. Nothing here fails: what cannot be written is dropped by
/// whole lines, and counted in a line of its own once there is room again.
pub struct LogFile {
    arguments: Arguments,
    /// None until it can be opened, and after it could not be rotated.
    file: Option<File>,
    size_bytes: u64,
    /// The file does not end with a newline.
    torn: bool,
    batch: Vec<u8>,
    records: Vec<Record>,
    streams: [StreamState; 2],
    lines_dropped: u64,
}

/// A record in the batch.
#[derive(Clone, Copy)]
struct Record {
    stream: Stream,
    ends_line: bool,
    /// Offset in the batch after it.
    end: usize,
}

/// Where a stream stands in its current line.
#[derive(Clone, Copy, Default)]
struct StreamState {
    /// The last record in the file is a piece without the end of its line.
    unfinished: bool,
    /// A piece was dropped, so that the rest of the line has to be, too.
    dropping: bool,
    /// The line that is unfinished in the file will never be finished.
    broken: bool,
}

impl LogFile {
    pub fn new(arguments: Arguments) -> Self {
        Self {
            arguments,
            file: None,
            size_bytes: 0,
            torn: false,
            batch: Vec::new(),
            records: Vec::new(),
            streams: [StreamState::default(); 2],
            lines_dropped: 0,
        }
    }

    /// Opens the file early, so that it exists before the container's first line. If that fails, it is
    /// tried again with each batch.
    pub fn open(&mut self) {
        let _ = self.ensure_open();
    }

    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped
    }

    /// Adds one record; `piece` has no newline.
    pub fn add(&mut self, stream: Stream, time: SystemTime, piece: &[u8], ends_line: bool) {
        if self.streams[stream as usize].dropping {
            self.drop_record(stream, ends_line);
            return;
        }
        let start = self.batch.len();
        let flags = if ends_line { "F" } else { "P" };
        append_record(
            &mut self.batch,
            time,
            STREAM_NAMES[stream as usize],
            flags,
            piece,
        );
        let overfull = self.size_bytes + self.batch.len() as u64 > self.arguments.max_bytes;
        if overfull && start > 0 {
            let record = self.batch.split_off(start);
            self.flush(time);
            self.add_encoded(stream, ends_line, &record);
        } else {
            self.records.push(Record {
                stream,
                ends_line,
                end: self.batch.len(),
            });
        }
    }

    /// After a flush, which may have begun to drop this very line.
    fn add_encoded(&mut self, stream: Stream, ends_line: bool, record: &[u8]) {
        if self.streams[stream as usize].dropping {
            self.drop_record(stream, ends_line);
        } else {
            self.batch.extend_from_slice(record);
            self.records.push(Record {
                stream,
                ends_line,
                end: self.batch.len(),
            });
        }
    }

    /// Writes what was added, or drops it.
    pub fn flush(&mut self, time: SystemTime) {
        if self.records.is_empty() && self.lines_dropped == 0 {
            return;
        }
        let ready = self.ensure_open().and_then(|()| self.write_note(time));
        let written = if ready.is_ok() { self.write_batch() } else { 0 };
        for record in std::mem::take(&mut self.records) {
            if record.end <= written {
                self.streams[record.stream as usize].unfinished = !record.ends_line;
            } else {
                self.drop_record(record.stream, record.ends_line);
            }
        }
        self.batch.clear();
    }

    fn drop_record(&mut self, stream: Stream, ends_line: bool) {
        let state = &mut self.streams[stream as usize];
        state.broken |= state.unfinished;
        state.dropping = !ends_line;
        // Lines are counted, not pieces.
        self.lines_dropped += u64::from(ends_line);
    }

    /// Says what was dropped, and ends the lines that will not be continued.
    fn write_note(&mut self, time: SystemTime) -> io::Result<()> {
        let mut note = Vec::new();
        for (name, state) in STREAM_NAMES.iter().zip(&self.streams) {
            if state.broken {
                append_record(&mut note, time, name, "F", b"");
            }
        }
        if self.lines_dropped > 0 {
            let text = format!("… {} lines dropped", self.lines_dropped);
            append_record(&mut note, time, OWN_STREAM, "F", text.as_bytes());
        }
        let written = self.write(&note);
        if written < note.len() {
            self.cut(written as u64);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.lines_dropped = 0;
        for state in self.streams.iter_mut().filter(|state| state.broken) {
            (state.broken, state.unfinished) = (false, false);
        }
        Ok(())
    }

    /// Writes the batch; returns how much of it stays: whole records only.
    fn write_batch(&mut self) -> usize {
        let batch = std::mem::take(&mut self.batch);
        let written = self.write(&batch);
        self.batch = batch;
        let whole = self
            .records
            .iter()
            .map(|record| record.end)
            .take_while(|end| *end <= written);
        let whole = whole.last().unwrap_or(0);
        self.cut((written - whole) as u64);
        whole
    }

    /// Appends `bytes` as far as the disk takes them; returns how far.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = &mut self.file else { return 0 };
        if self.torn && !bytes.is_empty() {
            if file.write(b"\n").unwrap_or(0) == 0 {
                return 0;
            }
            self.torn = false;
            self.size_bytes += 1;
        }
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.size_bytes += written as u64;
        written
    }

    /// Takes back the last `bytes`: a part of a record is not left in the file.
    fn cut(&mut self, bytes: u64) {
        let Some(file) = &self.file else { return };
        if bytes > 0 {
            if file.set_len(self.size_bytes - bytes).is_ok() {
                self.size_bytes -= bytes;
            } else {
                self.torn = true;
            }
        }
    }

    /// Makes sure there is a file with room for the batch.
    fn ensure_open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.open_current()?;
        }
        let full = self.size_bytes + self.batch.len() as u64 > self.arguments.max_bytes;
        if full && self.size_bytes > 0 {
            self.file = None;
            self.rotate()?;
            self.open_current()?;
        }
        Ok(())
    }

    fn open_current(&mut self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.arguments.dir)?;
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(self.path(0))?;
        self.size_bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        if self.size_bytes > 0 {
            file.read_exact_at(&mut last, self.size_bytes - 1)?;
        }
        self.torn = last != [b'\n'];
        self.file = Some(file);
        Ok(())
    }

    /// `current.log` → `current.log.1` → … ; the oldest goes. Interrupted at any point, it can be
    /// repeated and loses at most the oldest.
    fn rotate(&self) -> io::Result<()> {
        let oldest = self.arguments.max_files - 1;
        if oldest == 0 {
            return ignore_missing(fs::remove_file(self.path(0)));
        }
        for number in (0..oldest).rev() {
            ignore_missing(fs::rename(self.path(number), self.path(number + 1)))?;
        }
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        let name = if number == 0 {
            "current.log".into()
        } else {
            format!("current.log.{number}")
        };
        self.arguments.dir.join(name)
    }
}

fn append_record(buf: &mut Vec<u8>, time: SystemTime, stream: &str, flags: &str, piece: &[u8]) {
    timestamp::append(buf, time);
    for part in [
        b" ",
        stream.as_bytes(),
        b" ",
        flags.as_bytes(),
        b" ",
        piece,
        b"\n",
    ] {
        buf.extend_from_slice(part);
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    /// A directory that goes with its test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("warren-log-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn log(&self) -> LogFile {
            let (dir, max_bytes, max_files) = (self.0.clone(), 1 << 20, 2);
            LogFile::new(Arguments {
                dir,
                max_bytes,
                max_files,
            })
        }

        /// Stream, flags and content of each record.
        fn read(&self) -> Vec<String> {
            let text = fs::read_to_string(self.0.join("current.log")).unwrap();
            text.lines()
                .map(|line| line.split_once(' ').unwrap().1.to_owned())
                .collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A disk on which every write fails.
    fn full_disk() -> Option<File> {
        Some(
            OpenOptions::new()
                .append(true)
                .open(Path::new("/dev/full"))
                .unwrap(),
        )
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1)
    }

    #[test]
    fn a_line_that_lost_a_piece_is_ended_counted_and_not_continued() {
        let scratch = Scratch::new("pieces");
        let mut log = scratch.log();
        log.add(Stream::Stdout, now(), b"begin", false);
        log.flush(now());
        log.file = full_disk();
        log.add(Stream::Stdout, now(), b"middle", false);
        log.add(Stream::Stderr, now(), b"other", true);
        log.flush(now());
        assert_eq!(log.lines_dropped(), 1);
        log.file = None;
        log.add(Stream::Stdout, now(), b"end", true);
        log.add(Stream::Stdout, now(), b"next", true);
        log.flush(now());
        let expected = [
            "stdout P begin",
            "stdout F ",
            "warren F … 2 lines dropped",
            "stdout F next",
        ];
        assert_eq!(scratch.read(), expected);
        assert_eq!(log.lines_dropped(), 0);
    }

    #[test]
    fn a_line_that_is_only_interrupted_goes_on() {
        let scratch = Scratch::new("interrupted");
        let mut log = scratch.log();
        log.add(Stream::Stdout, now(), b"begin", false);
        log.flush(now());
        log.file = full_disk();
        log.add(Stream::Stderr, now(), b"other", true);
        log.flush(now());
        log.file = None;
        log.add(Stream::Stdout, now(), b"end", true);
        log.flush(now());
        let expected = [
            "stdout P begin",
            "warren F … 1 lines dropped",
            "stdout F end",
        ];
        assert_eq!(scratch.read(), expected);
    }
}
