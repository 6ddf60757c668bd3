//! Golden scenarios: `testdata/wal/*.txt`.
//!
//! A scenario is a list of blocks: commands, one a line, then `----`, then what they print, then an
//! empty line. `#` begins a comment. `UPDATE_GOLDEN=1` writes what the commands print now; the
//! difference belongs in the commit's message.
//!
//! Commands: `create`, `open`, `close`, `append FIRST..LAST TERM [BYTES]`, `hard_state TEXT`, `commit`,
//! `compact INDEX TERM`, `allocate`, `crash kept|lost`, `flip FRAME BYTE` (in the frame of that number,
//! from 0), `zero FRAME` (all of it), `unwrite FILE OFFSET` (zeros from there to the end of the
//! 512-byte sector), `lose FILE`, `free BYTES`, `fail_sync`, `files`, `dump`.

#![allow(clippy::disallowed_methods, reason = "reads its scenarios from files")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::super::{Recovered, Tail, Wal, WalError, dump};
use super::{AMPLE_BYTES, create, dir, file_names, open, rot};
use crate::sim::disk::{Fate, Faults, SimDisk};
use crate::sim::random::Random;

struct Runner {
    disk: SimDisk,
    wal: Option<Wal>,
    frames: Vec<(String, usize, usize)>,
}

#[test]
fn every_scenario_prints_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/wal");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let golden = std::fs::read_to_string(&path).unwrap();
        let actual = run(&golden);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, actual).unwrap();
        } else {
            assert_eq!(actual, golden, "{}", path.display());
        }
    }
}

/// Runs a scenario; returns it with the output that it had.
fn run(scenario: &str) -> String {
    let mut runner = Runner {
        disk: SimDisk::new(AMPLE_BYTES),
        wal: None,
        frames: Vec::new(),
    };
    let mut printed = String::new();
    let mut output = String::new();
    let mut in_output = false;
    for line in scenario.lines() {
        if in_output {
            in_output = !line.is_empty();
        } else if line == "----" {
            in_output = true;
            write!(printed, "----\n{}\n", std::mem::take(&mut output)).unwrap();
        } else {
            writeln!(printed, "{line}").unwrap();
            let command = line.split('#').next().unwrap_or_default().trim();
            if !command.is_empty() {
                let result = runner.run(command);
                output += &result.unwrap_or_else(|error| format!("{}: {error}\n", error.code()));
            }
        }
    }
    assert!(output.is_empty(), "the last commands have no ----");
    printed.truncate(printed.trim_end().len());
    printed + "\n"
}

impl Runner {
    fn run(&mut self, command: &str) -> Result<String, WalError> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "create" => self.wal = Some(create(&self.disk)?),
            "open" => return self.open(),
            "close" => self.wal.take().expect("open").close()?,
            "append" => self.append(words[1], number(2), words.get(3).copied())?,
            "hard_state" => self.wal().append_hard_state(words[1].as_bytes())?,
            "commit" => return self.wal().commit().map(|durable| format!("{durable:?}\n")),
            "compact" => self.wal().compact(number(1), number(2)).map(drop)?,
            "allocate" => self.wal().allocate_ahead()?,
            "crash" => self.crash(if words[1] == "kept" {
                Fate::Kept
            } else {
                Fate::Lost
            }),
            "flip" => self.flip(number(1) as usize, number(2) as usize),
            "zero" => self.zero(number(1) as usize),
            "unwrite" => self.unwrite(words[1], number(2) as usize),
            "lose" => self.disk.lose(&dir().join(words[1])),
            "free" => self.disk.set_free_bytes(number(1)),
            "fail_sync" => {
                self.disk.set_faults(Faults {
                    sync_fails: true,
                    ..Faults::default()
                });
            }
            "files" => return Ok(file_names(&self.disk).join("\n") + "\n"),
            "dump" => return self.dump(),
            other => panic!("no such command: {other}"),
        }
        Ok(String::new())
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the log is open")
    }

    fn open(&mut self) -> Result<String, WalError> {
        let (wal, recovered) = open(&self.disk)?;
        self.wal = Some(wal);
        Ok(describe(&recovered))
    }

    fn append(&mut self, range: &str, term: u64, bytes: Option<&str>) -> Result<(), WalError> {
        let (first, last) = range.split_once("..").unwrap_or((range, range));
        let bytes = bytes.map_or(10, |bytes| bytes.parse().expect("a number"));
        for index in first.parse().expect("a number")..=last.parse().expect("a number") {
            self.wal().append_entry(index, term, &vec![b'x'; bytes])?;
        }
        Ok(())
    }

    fn crash(&mut self, fate: Fate) {
        self.wal = None;
        self.disk.restart(fate, &mut Random::new(0));
    }

    fn flip(&mut self, frame: usize, byte: usize) {
        let (file, offset, _) = self.frame(frame);
        rot(&self.disk, &file, |bytes| bytes[offset + byte] ^= 0x80);
    }

    fn zero(&mut self, frame: usize) {
        let (file, offset, length) = self.frame(frame);
        rot(&self.disk, &file, |bytes| {
            bytes[offset..offset + length].fill(0)
        });
    }

    fn unwrite(&mut self, file: &str, offset: usize) {
        let end = (offset + 1).next_multiple_of(512);
        rot(&self.disk, file, |bytes| bytes[offset..end].fill(0));
    }

    /// File, offset and length of a frame, as it was when the whole log could last be read.
    fn frame(&mut self, number: usize) -> (String, usize, usize) {
        let mut frames = Vec::new();
        let read = dump(&self.disk, dir(), &mut |frame| {
            let length = (32 + frame.payload.len()).next_multiple_of(8);
            frames.push((frame.file.to_owned(), frame.offset as usize, length));
        });
        if read.is_ok() {
            self.frames = frames;
        }
        self.frames[number].clone()
    }

    fn dump(&self) -> Result<String, WalError> {
        let mut lines = String::new();
        let summary = dump(&self.disk, dir(), &mut |frame| {
            let (kind, index, term) = (frame.kind, frame.index, frame.term);
            let bytes = frame.payload.len();
            let at = format!("{}+{}", frame.file, frame.offset);
            writeln!(lines, "{at} {kind:?} {index}@{term} {bytes} bytes").unwrap();
        })?;
        let tail = describe_tail(&summary.tail);
        writeln!(lines, "{} frames, {tail}", summary.frames).unwrap();
        Ok(lines)
    }
}

fn describe(recovered: &Recovered) -> String {
    let mut text = String::new();
    if let Some((index, term)) = recovered.snapshot {
        writeln!(text, "snapshot {index}@{term}").unwrap();
    }
    if let Some(state) = &recovered.hard_state {
        writeln!(text, "hard state {}", String::from_utf8_lossy(state)).unwrap();
    }
    let entries = recovered
        .entries
        .iter()
        .map(|entry| format!(" {}@{}", entry.index, entry.term));
    writeln!(text, "entries{}", entries.collect::<String>()).unwrap();
    writeln!(text, "{}", describe_tail(&recovered.tail)).unwrap();
    text
}

fn describe_tail(tail: &Tail) -> String {
    match tail {
        Tail::Clean => "clean".to_owned(),
        Tail::Open => "open".to_owned(),
        Tail::Torn(at) => format!("torn at {}+{}", at.file, at.offset),
        Tail::Cut(at) => format!("cut at {}+{}", at.file, at.offset),
    }
}
