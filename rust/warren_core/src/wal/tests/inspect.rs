//! Reading a log while somebody writes to it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Disk, File, Summary, Tail, WalError, dump, follow};
use super::{AMPLE_BYTES, SimDisk, create, dir};

const FIRST: &str = "0000000000000001.wal";
const READS_MAX: usize = 16;

/// What each reading of the log sees: the names of one moment, the contents of another.
struct Moving {
    moments: Vec<(SimDisk, SimDisk)>,
    reads: AtomicUsize,
}

impl Moving {
    fn new(moments: Vec<(SimDisk, SimDisk)>) -> Self {
        let reads = AtomicUsize::new(0);
        Self { moments, reads }
    }

    /// Names and contents of the same moment.
    fn through(moments: &[&SimDisk]) -> Self {
        let twice = |disk: &&SimDisk| (disk.fork(), disk.fork());
        Self::new(moments.iter().map(twice).collect())
    }

    fn moment(&self, read: usize) -> &(SimDisk, SimDisk) {
        &self.moments[read.min(self.moments.len() - 1)]
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Disk for Moving {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        self.moment(read).0.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.moment(self.reads() - 1).1.open(path)
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn create(&self, _path: &Path, _bytes: u64) -> io::Result<Box<dyn File>> {
        unreachable!("a reader writes nothing")
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }
}

type Places = Vec<(String, u64)>;

/// Five batches of some kilobytes in one segment, without an end mark.
fn five_batches() -> SimDisk {
    let disk = SimDisk::new(AMPLE_BYTES);
    let mut wal = create(&disk).unwrap();
    for index in 1..=5 {
        wal.append_entry(index, 1, &vec![index as u8; 1500])
            .unwrap();
        wal.commit().unwrap();
    }
    disk
}

fn frames(disk: &SimDisk) -> Places {
    let mut places = Vec::new();
    dump(disk, dir(), &mut |frame| {
        places.push((frame.file.to_owned(), frame.offset));
    })
    .unwrap();
    places
}

fn followed(disk: &Moving) -> (Result<Summary, WalError>, Places) {
    let mut places = Vec::new();
    let found = follow(disk, dir(), &mut |frame| {
        places.push((frame.file.to_owned(), frame.offset));
        Ok(())
    });
    (found, places)
}

/// As a reader sees it to which the last batch's later sectors have not been written yet.
fn half_written(disk: &SimDisk) -> SimDisk {
    let all = frames(disk);
    let sector = (all[8].1 + 1).next_multiple_of(512);
    unwritten(disk, sector, all[9].1 + 64)
}

/// As a reader sees it to which `from..to` of the only segment has not been written yet.
fn unwritten(disk: &SimDisk, from: u64, to: u64) -> SimDisk {
    let seen = disk.fork();
    seen.damage(&dir().join(FIRST), |bytes| {
        bytes[from as usize..to as usize].fill(0)
    });
    seen
}

#[test]
fn a_batch_seen_half_written_is_read_again() {
    let whole = five_batches();
    let all = frames(&whole);
    let moving = Moving::through(&[&half_written(&whole), &whole]);
    let (found, places) = followed(&moving);
    assert_eq!(found.unwrap().tail, Tail::Open);
    assert_eq!((places, moving.reads()), (all, 2));
}

#[test]
fn a_batch_seen_before_the_one_it_follows_is_no_damage() {
    let whole = five_batches();
    let all = frames(&whole);
    let overtaken = unwritten(&whole, all[6].1, all[8].1);
    assert!(matches!(
        dump(&overtaken, dir(), &mut |_| {}),
        Err(WalError::Damaged { .. })
    ));
    let moving = Moving::through(&[&overtaken, &whole]);
    let (found, places) = followed(&moving);
    assert_eq!(found.unwrap().tail, Tail::Open);
    assert_eq!((places, moving.reads()), (all, 2));
}

#[test]
fn what_is_bad_at_rest_is_believed_the_second_time() {
    let whole = five_batches();
    let all = frames(&whole);
    let moving = Moving::through(&[&half_written(&whole)]);
    let (found, places) = followed(&moving);
    assert!(matches!(found.unwrap().tail, Tail::Torn(at) if at.offset == all[8].1));
    assert_eq!((places.as_slice(), moving.reads()), (&all[..8], 2));

    let damaged = unwritten(&whole, all[6].1, all[8].1);
    let moving = Moving::through(&[&damaged]);
    let (found, places) = followed(&moving);
    assert!(matches!(found, Err(WalError::Damaged { offset, .. }) if offset == all[6].1));
    assert_eq!((places.as_slice(), moving.reads()), (&all[..6], 2));
}

#[test]
fn a_segment_dropped_under_the_reader_is_not_missed() {
    let disk = SimDisk::new(AMPLE_BYTES);
    let mut wal = create(&disk).unwrap();
    let mut index = 0;
    while wal.stats().segments < 3 {
        index += 1;
        wal.append_entry(index, 1, &[7; 1500]).unwrap();
        wal.commit().unwrap();
    }
    let before = disk.fork();
    wal.compact(index - 1, 1).unwrap();
    let now = frames(&disk);
    assert_ne!(now[0].0, FIRST, "the first segment was to go");
    let moving = Moving::new(vec![(before, disk.fork()), (disk.fork(), disk.fork())]);
    let (found, places) = followed(&moving);
    let summary = found.unwrap();
    assert_eq!(
        (summary.first_index, summary.last_index),
        (Some(index), index)
    );
    assert_eq!((places, moving.reads()), (now, 2));
}

#[test]
fn a_log_that_never_rests_is_given_up_on() {
    let whole = five_batches();
    let end = 16 << 10;
    // Each reader finds the first bad frame elsewhere than the one before.
    let all = frames(&whole);
    let seen: Vec<SimDisk> = (0..2 * READS_MAX)
        .map(|read| unwritten(&whole, all[if read % 2 == 0 { 1 } else { 3 }].1, end))
        .collect();
    let moving = Moving::through(&seen.iter().collect::<Vec<_>>());
    let (found, places) = followed(&moving);
    assert!(!matches!(found.unwrap().tail, Tail::Clean | Tail::Open));
    assert_eq!((places.as_slice(), moving.reads()), (&all[..3], READS_MAX));
}

#[test]
fn who_wants_no_more_gets_no_more() {
    let moving = Moving::through(&[&five_batches()]);
    let mut seen = 0;
    let found = follow(&moving, dir(), &mut |_| {
        seen += 1;
        if seen < 3 {
            Ok(())
        } else {
            Err(WalError::Stopped)
        }
    });
    assert!(matches!(found, Err(WalError::Stopped)));
    assert_eq!((seen, moving.reads()), (3, 1));
}
