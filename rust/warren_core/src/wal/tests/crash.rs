//! A crash at every I/O boundary, with every fate of what was not synced.
//!
//! A batch is atomic, so the recovered log must equal exactly what was acknowledged, or that plus
//! what the interrupted call was about to make durable.

use super::super::{Entry, Recovered, Tail, Wal, WalError};
use super::{AMPLE_BYTES, contents, create, open};
use crate::sim::disk::{Fate, Faults, SimDisk};
use crate::sim::random::Random;

/// What a log contains: the naive twin.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    snapshot: (u64, u64),
    hard_state: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> (u64, u64) {
        self.entries
            .last()
            .map_or(self.snapshot, |entry| (entry.index, entry.term))
    }

    fn append(&mut self, entry: Entry) {
        self.entries.retain(|old| old.index < entry.index);
        self.entries.push(entry);
    }

    fn compact(&mut self, index: u64, term: u64) {
        let same = |entry: &Entry| (entry.index, entry.term) == (index, term);
        if self.entries.iter().any(same) {
            self.entries.retain(|entry| entry.index > index);
        } else {
            self.entries.clear();
        }
        self.snapshot = (index, term);
    }

    fn of(recovered: &Recovered) -> Self {
        Self {
            snapshot: recovered.snapshot.unwrap_or_default(),
            hard_state: recovered.hard_state.clone(),
            entries: recovered.entries.clone(),
        }
    }
}

/// A caller that knows what it was promised.
struct Caller {
    wal: Option<Wal>,
    acknowledged: Model,
    /// What has been appended, committed or not.
    latest: Model,
    /// How the log ended when it was opened.
    tail: Tail,
    /// Each state that an interrupted call may leave, besides `acknowledged`.
    possible: Vec<Model>,
}

impl Caller {
    fn start(disk: &SimDisk) -> Result<Self, WalError> {
        let model = Model::default();
        let possible = vec![model.clone()];
        let wal = Some(create(disk)?);
        Ok(Self {
            wal,
            acknowledged: model.clone(),
            latest: model,
            tail: Tail::Open,
            possible,
        })
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the log is open")
    }

    fn act(&mut self, disk: &SimDisk, random: &mut Random) -> Result<(), WalError> {
        match random.below(16) {
            0..=6 => self.append(random),
            7 => self.hard_state(random),
            8..=11 => self.commit(),
            12 => self.wal().allocate_ahead(),
            13..=14 => self.compact(random),
            _ => self.reopen(disk, random),
        }
    }

    fn append(&mut self, random: &mut Random) -> Result<(), WalError> {
        let (last, term) = self.latest.last();
        let back = if random.below(5) == 0 {
            random.below(last - self.latest.snapshot.0 + 1)
        } else {
            0
        };
        for step in 1..=1 + random.below(4) {
            let index = last - back + step;
            let term = term + u64::from(back > 0);
            let payload = vec![random.next() as u8; random.below(900) as usize];
            if self.wal().pending_bytes() + 1000 > self.wal().batch_bytes_max() {
                self.commit()?;
            }
            self.wal().append_entry(index, term, &payload)?;
            self.latest.append(Entry {
                index,
                term,
                payload,
            });
        }
        Ok(())
    }

    fn hard_state(&mut self, random: &mut Random) -> Result<(), WalError> {
        let state = random.next().to_le_bytes().to_vec();
        self.wal().append_hard_state(&state)?;
        self.latest.hard_state = Some(state);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), WalError> {
        self.possible = vec![self.latest.clone()];
        self.wal().commit()?;
        self.acknowledged = self.latest.clone();
        Ok(())
    }

    fn compact(&mut self, random: &mut Random) -> Result<(), WalError> {
        let (last, term) = self.latest.last();
        let snapshot = self.latest.snapshot.0;
        let (index, term) = match random.below(8) {
            // A snapshot of another history, or of one that is ahead.
            0 => (snapshot + 1 + random.below(last - snapshot + 3), term + 1),
            _ if last == snapshot => return Ok(()),
            _ => {
                let at = random.below(self.latest.entries.len() as u64) as usize;
                (self.latest.entries[at].index, self.latest.entries[at].term)
            }
        };
        let mut compacted = self.latest.clone();
        compacted.compact(index, term);
        self.possible = vec![self.latest.clone(), compacted.clone()];
        self.wal().compact(index, term)?;
        self.latest = compacted.clone();
        self.acknowledged = compacted;
        Ok(())
    }

    fn reopen(&mut self, disk: &SimDisk, random: &mut Random) -> Result<(), WalError> {
        let wal = self.wal.take().expect("the log is open");
        let clean = random.below(2) == 0;
        let has_written = wal.stats().batches_total > 0 || (clean && wal.pending_bytes() > 0);
        if clean {
            self.possible = vec![self.latest.clone()];
            wal.close()?;
            self.acknowledged = self.latest.clone();
        } else {
            drop(wal);
            self.latest = self.acknowledged.clone();
        }
        let (wal, recovered) = open(disk)?;
        assert_eq!(Model::of(&recovered), self.latest);
        if has_written {
            let marked = recovered.tail == Tail::Clean;
            assert!((clean && marked) || recovered.tail == Tail::Open);
        } else {
            assert!(recovered.tail == self.tail || (clean && recovered.tail == Tail::Clean));
        }
        self.tail = recovered.tail;
        self.wal = Some(wal);
        Ok(())
    }

    /// After a crash: adopts what was recovered, if it is one of the states it may be.
    fn check(&mut self, recovered: &Recovered, context: &str) {
        let found = Model::of(recovered);
        let expected = found == self.acknowledged || self.possible.contains(&found);
        assert!(
            expected,
            "{context}\nrecovered    {found:?}\nacknowledged {:?}\nor any of    {:?}",
            self.acknowledged, self.possible
        );
        self.tail = recovered.tail.clone();
        (self.acknowledged, self.latest) = (found.clone(), found);
    }
}

/// Runs a seeded workload until it is done or the machine dies. None if it died before there was a
/// log.
fn run(disk: &SimDisk, seed: u64, actions: u64) -> Option<Caller> {
    let mut random = Random::new(seed);
    let mut caller = died_or(disk, Caller::start(disk))?;
    for _ in 0..actions {
        if died_or(disk, caller.act(disk, &mut random)).is_none() {
            break;
        }
    }
    caller.wal = None;
    Some(caller)
}

fn died_or<T>(disk: &SimDisk, result: Result<T, WalError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(_) if disk.crashed() => None,
        Err(error) => panic!("without a crash: {error}"),
    }
}

#[test]
fn a_crash_at_any_boundary_loses_nothing_acknowledged() {
    const ACTIONS: u64 = 80;
    let mut recoveries = 0;
    let mut tails = [0; 3];
    for seed in 0..12 {
        let whole = SimDisk::new(AMPLE_BYTES);
        run(&whole, seed, ACTIONS).expect("no crash");
        for crash_at in 1..=whole.operations() {
            for (fate, repeats) in [(Fate::Kept, 1), (Fate::Lost, 1), (Fate::Torn, 3)] {
                for repeat in 0..repeats {
                    let context = format!("seed {seed} crash_at {crash_at} {fate:?} {repeat}");
                    let disk = SimDisk::new(AMPLE_BYTES);
                    disk.set_faults(Faults {
                        crash_at: Some(crash_at),
                        ..Faults::default()
                    });
                    let caller = run(&disk, seed, ACTIONS);
                    let mut random = Random::new(seed ^ crash_at << 8 ^ repeat << 32);
                    disk.restart(fate, &mut random);
                    match recover_and_go_on(&disk, caller, &mut random, &context) {
                        Some(Tail::Torn(_)) => tails[0] += 1,
                        // Whether the file is recycled, its header says.
                        Some(Tail::Cut(at)) => {
                            tails[1 + usize::from(contents(&disk, &at.file)[12])] += 1;
                        }
                        _ => {}
                    }
                    recoveries += 1;
                }
            }
        }
    }
    assert!(recoveries > 5_000, "only {recoveries} recoveries");
    let [torn, cut_fresh, cut_recycled] = tails;
    assert!(torn > 300, "only {torn} torn tails: the disk is too kind");
    assert!(cut_recycled > 30, "only {cut_recycled} in recycled files");
    // A tear in a fresh file is nearly always proven to be one.
    assert!(cut_fresh * 50 < torn, "{cut_fresh} of {torn}");
}

/// Opens, checks, dies again at once, opens, writes, reopens. Returns how the log ended.
fn recover_and_go_on(
    disk: &SimDisk,
    caller: Option<Caller>,
    random: &mut Random,
    context: &str,
) -> Option<Tail> {
    let opened = open(disk);
    let Some(mut caller) = caller else {
        // Creation was interrupted: the log is there, empty, or can be created.
        if let Err(error) = opened {
            assert_eq!(error.code(), "wal_not_found", "{context}");
            create(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        return None;
    };
    let (wal, first) = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
    caller.check(&first, context);
    drop(wal);
    disk.restart(Fate::Lost, random);
    let (wal, second) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(
        Model::of(&second),
        Model::of(&first),
        "{context}: what was read was not durable"
    );
    assert_eq!(
        second.tail, first.tail,
        "{context}: opening the log destroyed the evidence"
    );
    caller.wal = Some(wal);
    for _ in 0..3 {
        caller.append(random).unwrap();
        caller.commit().unwrap();
    }
    caller
        .reopen(disk, random)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    Some(first.tail)
}

/// Crashes one after the other, also while recovering from the last.
#[test]
fn crashes_in_recovery_lose_nothing_either() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(AMPLE_BYTES);
        let mut caller = Caller::start(&disk).unwrap();
        for round in 0..12 {
            let crash_at = Some(disk.operations() + 1 + random.below(25));
            disk.set_faults(Faults {
                crash_at,
                ..Faults::default()
            });
            if caller.wal.is_none()
                && let Some((wal, recovered)) = died_or(&disk, open(&disk))
            {
                caller.check(&recovered, &format!("seed {seed} round {round}"));
                caller.wal = Some(wal);
            }
            while caller.wal.is_some() && died_or(&disk, caller.act(&disk, &mut random)).is_some() {
            }
            caller.wal = None;
            let fate = [Fate::Kept, Fate::Lost, Fate::Torn][random.below(3) as usize];
            disk.restart(fate, &mut random);
        }
        let (_, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        caller.check(&recovered, &format!("seed {seed}, at the end"));
    }
}
