//! A log on a real file system, whose disk can be made full.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::bytes::Bytes;

use super::super::clock;
use super::*;
use crate::control::Input;
use crate::raft::LogEntry;
use crate::wal::{Disk, File, FileDisk, Identity, Options};

const OPTIONS: Options = Options {
    segment_bytes: 1 << 20,
    spare_segments_max: 2,
};

/// Files as they are, except that writes find no room while `full`, and that none is made while `stuck`.
struct Filling {
    full: Arc<AtomicBool>,
    stuck: Arc<Stuck>,
}

#[derive(Default)]
struct Stuck {
    is: AtomicBool,
    /// Somebody waits for it to be over.
    hit: AtomicBool,
}

struct FillingFile {
    file: Box<dyn File>,
    full: Arc<AtomicBool>,
}

impl Filling {
    fn wrap(&self, file: io::Result<Box<dyn File>>) -> io::Result<Box<dyn File>> {
        let (file, full) = (file?, self.full.clone());
        Ok(Box::new(FillingFile { file, full }))
    }
}

impl Disk for Filling {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        FileDisk.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        FileDisk.list(dir)
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn File>> {
        while self.stuck.is.load(Ordering::Acquire) {
            self.stuck.hit.store(true, Ordering::Release);
            std::thread::yield_now();
        }
        self.wrap(FileDisk.create(path, bytes))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.wrap(FileDisk.open(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        FileDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        FileDisk.sync_dir(dir)
    }
}

impl File for FillingFile {
    fn size_bytes(&self) -> io::Result<u64> {
        self.file.size_bytes()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(buf, offset)
    }
    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

struct Bench {
    dir: PathBuf,
    full: Arc<AtomicBool>,
    stuck: Arc<Stuck>,
    core: Arc<Mailbox<Message>>,
    log: Log,
    thread: JoinHandle<()>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("warren-log-{}-{name}", std::process::id()));
        let full = Arc::new(AtomicBool::new(false));
        let owner = Identity {
            cluster_id: [1; 16],
            data_dir: [2; 16],
            epoch: 1,
            member_id: 3,
        };
        let stuck = Arc::new(Stuck::default());
        let disk = Arc::new(Filling {
            full: full.clone(),
            stuck: stuck.clone(),
        });
        let wal = Wal::create(disk, &dir, owner, OPTIONS).unwrap();
        let core = Arc::new(Mailbox::new());
        let shared = Arc::new(Shared::new().unwrap());
        let (log, thread) = Log::start(wal, core.clone(), shared).unwrap();
        Self {
            dir,
            full,
            stuck,
            core,
            log,
            thread,
        }
    }

    /// What the thread has told the core next: durable up to there, or whether there is room.
    fn told(&self) -> Vec<Result<u64, bool>> {
        let (mut urgent, mut told) = (VecDeque::new(), VecDeque::new());
        while told.is_empty() {
            self.core
                .take(&mut urgent, &mut told, Duration::from_secs(60));
        }
        let inputs = told.into_iter().filter_map(Message::into_input);
        inputs
            .map(|input| match input {
                Input::Persisted(number) => Ok(number),
                Input::Space(has_space) => Err(has_space),
                _ => panic!("the log says nothing else"),
            })
            .collect()
    }

    /// The indexes in the log, read back after its end.
    fn indexes(self) -> Vec<u64> {
        self.log.close();
        self.thread.join().unwrap();
        let (_, recovered) = Wal::open(Arc::new(FileDisk), &self.dir, OPTIONS).unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
        recovered.entries.iter().map(|entry| entry.index).collect()
    }
}

fn entry(index: u64) -> Persist {
    let entry = LogEntry {
        index,
        term: 1,
        payload: Bytes::from_static(b"payload"),
    };
    Persist {
        number: index,
        install: None,
        hard_state: None,
        entries: vec![entry],
    }
}

/// Whoever writes, and in whatever turns, the log has it all, in order.
#[test]
fn core_and_thread_write_one_log_in_turns() {
    let bench = Bench::new("turns");
    let mut durable = 0;
    for index in (1..300).step_by(2) {
        // The thread has this one, or is just done with it.
        bench.log.persist([entry(index)]);
        durable = bench
            .log
            .persist_here(vec![entry(index + 1)])
            .unwrap_or(durable);
        assert!(durable == index + 1 || durable < index);
        if index % 3 == 0 {
            while durable < index + 1 {
                let told = bench.told().into_iter().filter_map(Result::ok).max();
                durable = durable.max(told.unwrap_or(0));
            }
        }
    }
    assert_eq!(bench.indexes(), (1..=300).collect::<Vec<_>>());
}

#[test]
fn what_finds_no_room_is_left_to_the_thread() {
    let bench = Bench::new("full");
    assert_eq!(bench.log.persist_here(vec![entry(1), entry(2)]), Some(2));
    bench.full.store(true, Ordering::Relaxed);
    assert_eq!(bench.log.persist_here(vec![entry(3), entry(4)]), None);
    assert_eq!(bench.told(), [Err(false)]);
    assert_eq!(bench.log.persist_here(vec![entry(5)]), None, "in its turn");
    bench.full.store(false, Ordering::Relaxed);
    let mut told = Vec::new();
    while !told.contains(&Ok(5)) || !told.contains(&Err(true)) {
        told.extend(bench.told());
    }
    assert_eq!(told.iter().filter(|told| told.is_err()).count(), 1);
    assert_eq!(bench.indexes(), [1, 2, 3, 4, 5]);
}

/// What is durable waits for nothing, but what comes next would.
#[test]
fn a_disk_that_hangs_over_a_new_segment_is_told() {
    let bench = Bench::new("segment");
    let health = &bench.log.shared.log_health;
    bench.stuck.is.store(true, Ordering::Release);
    let is_hit = || bench.stuck.hit.load(Ordering::Acquire);
    let rests = || bench.log.unfinished.load(Ordering::Acquire) == 0;
    let mut last = 0;
    while !is_hit() {
        last += 1;
        let mut persist = entry(last);
        persist.entries[0].payload = Bytes::from(vec![0; 64 << 10]);
        bench.log.persist([persist]);
        assert_eq!(
            bench.told(),
            [Ok(last)],
            "the next segment was there already"
        );
        while !is_hit() && !rests() {
            std::thread::yield_now();
        }
    }
    let since_ns = clock::mono_ns();
    assert!(health.waiting_ns(since_ns + 1_000_000_000) >= 1_000_000_000);
    bench.stuck.is.store(false, Ordering::Release);
    while !rests() {
        std::thread::yield_now();
    }
    assert_eq!(health.waiting_ns(clock::mono_ns()), 0);
    assert_eq!(bench.indexes(), (1..=last).collect::<Vec<_>>());
}

#[test]
fn only_a_few_entries_are_for_the_core() {
    let bench = Bench::new("small");
    let many = ENTRIES_HERE_MAX as u64 + 1;
    assert!(bench.log.is_small(&[entry(1), entry(2)]));
    assert!(!bench.log.is_small(&[]));
    assert!(
        !bench
            .log
            .is_small(&(0..many).map(entry).collect::<Vec<_>>())
    );
    let install = Some(Position::default());
    assert!(!bench.log.is_small(&[Persist {
        install,
        ..entry(1)
    }]));
    assert_eq!(bench.indexes(), []);
}

/// What everybody sees at the moment in which the core is told.
fn seen_when_told(health: &Health, has_space: bool) -> Option<bool> {
    let mut seen = None;
    let changed = health.set_space(has_space, || seen = Some(!health.is_out_of_space()));
    assert_eq!(changed, seen.is_some());
    assert_eq!(health.is_out_of_space(), !has_space);
    seen
}

#[test]
fn nobody_sees_room_before_the_core_knows_of_it() {
    let health = Health::default();
    assert_eq!(seen_when_told(&health, true), None, "nothing changed");
    assert_eq!(seen_when_told(&health, false), Some(false), "lost");
    assert_eq!(seen_when_told(&health, false), None, "nothing changed");
    assert_eq!(seen_when_told(&health, true), Some(false), "back");
}
