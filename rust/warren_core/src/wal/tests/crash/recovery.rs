//! Restarting from a crash point, and what must then be there.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;

use super::super::super::snapshots::{SNAPSHOTS_MAX, Store};
use super::super::super::{Recovered, Tail, Wal, WalError};
use super::super::{contents, create, dir, file_names, open, rot};
use super::member::{CAPACITY_BYTES, store};
use super::model::{Listed, Model, Promise, content};
use crate::sim::disk::{Fate, Faults, SimDisk};
use crate::sim::random::Random;

/// What was done, and what was seen in it.
#[derive(Default)]
pub struct Report {
    pub points: u64,
    recoveries: BTreeMap<Fate, u64>,
    /// Crashes during a recovery.
    second_crashes: u64,
    /// By verdict; the incomplete ones also by whether the file was fresh.
    tails: BTreeMap<&'static str, u64>,
    /// A byte rotted before a recovery: it was refused, cut, or in nothing that counts.
    rot: BTreeMap<&'static str, u64>,
}

impl Report {
    pub fn recoveries(&self) -> u64 {
        self.recoveries.values().sum()
    }

    /// Everything that can be seen was.
    pub fn assert_covered(&self) {
        let tail = |verdict| self.tails.get(verdict).copied().unwrap_or(0);
        assert!(tail("clean") > 0 && tail("open") > 0, "{self}");
        assert!(tail("torn") > 50 && tail("cut, recycled") > 10, "{self}");
        // A tear in a fresh file is proven to be one.
        assert!(tail("cut, fresh") * 50 <= tail("torn"), "{self}");
        assert!(self.second_crashes > 100, "{self}");
        assert_eq!(self.rot.len(), 3, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} crash points, {} recoveries",
            self.points,
            self.recoveries()
        )?;
        writeln!(f, "  by fate {:?}", self.recoveries)?;
        writeln!(
            f,
            "  second crashes, during recovery: {}",
            self.second_crashes
        )?;
        writeln!(f, "  the log's end {:?}", self.tails)?;
        write!(f, "  with a rotten byte {:?}", self.rot)
    }
}

/// Restarts `disk`, recovers, and holds the outcome against what was promised.
pub fn check(
    disk: &SimDisk,
    fate: Fate,
    promise: &Promise,
    random: &mut Random,
    report: &mut Report,
) -> Result<(), String> {
    disk.restart(fate, random);
    *report.recoveries.entry(fate).or_default() += 1;
    if random.below(4) == 0 {
        crash_in_recovery(disk, random, report);
    }
    let Some((wal, first)) = recover(disk, promise)? else {
        return Ok(());
    };
    let verdict = verdict(disk, &first.tail);
    *report.tails.entry(verdict).or_default() += 1;
    check_snapshots(disk, &first, promise)?;
    drop(wal);
    if fate != Fate::Kept {
        check_rot(&disk.fork(), &first, random, report)?;
    }
    // Again at once, without power: what was read was durable, and the evidence is still there.
    disk.restart(Fate::Lost, random);
    let Some((mut wal, second)) = recover(disk, promise)? else {
        return Err("the log has gone".into());
    };
    if (Model::of(&second), &second.tail) != (Model::of(&first), &first.tail) {
        return Err(format!("read {:?}, then {:?}", first.tail, second.tail));
    }
    disk.set_free_bytes(CAPACITY_BYTES);
    go_on(disk, &mut wal, &second).map_err(|error| error.to_string())
}

/// The machine dies again while it recovers.
fn crash_in_recovery(disk: &SimDisk, random: &mut Random, report: &mut Report) {
    disk.set_faults(Faults {
        crash_at: Some(disk.operations() + 1 + random.below(5)),
        ..Faults::default()
    });
    // Whether it got through or not shows in the recovery that follows.
    let _ = open(disk);
    let _ = store(disk).prune(&[]);
    report.second_crashes += u64::from(disk.crashed());
    let fate = Fate::ALL[random.below(4) as usize];
    disk.restart(fate, random);
}

/// `None` if the log had not yet been created; then it can be.
fn recover(disk: &SimDisk, promise: &Promise) -> Result<Option<(Wal, Recovered)>, String> {
    let (wal, recovered) = match open(disk) {
        Err(WalError::NotFound { .. }) if !promise.founded => {
            create(disk).map_err(|error| error.to_string())?;
            return Ok(None);
        }
        opened => opened.map_err(|error| error.to_string())?,
    };
    let found = Model::of(&recovered);
    if found.hard_state < promise.acknowledged.hard_state {
        return Err(format!(
            "the hard state went back to {:?}",
            found.hard_state
        ));
    }
    if found != promise.acknowledged && !promise.possible.contains(&found) {
        let Promise {
            acknowledged,
            possible,
            ..
        } = promise;
        return Err(format!(
            "recovered {found:?}\nacknowledged {acknowledged:?}\nor any of {possible:?}"
        ));
    }
    Ok(Some((wal, recovered)))
}

/// Each snapshot is whole, the newest one is there, and the one that the log needs.
fn check_snapshots(disk: &SimDisk, log: &Recovered, promise: &Promise) -> Result<(), String> {
    let store = store(disk);
    let listed: Listed = store.list().map_err(text)?.into_iter().collect();
    for covered in &listed {
        if read(&store, *covered)? != content(*covered) {
            return Err(format!("snapshot {covered:?} is not what was written"));
        }
    }
    if listed.last() < promise.newest_snapshot.as_ref() {
        return Err(format!(
            "of {:?} only {listed:?} is left",
            promise.newest_snapshot
        ));
    }
    let needed = log.snapshot.map_or(0, |(index, _)| index);
    if needed > 0 && listed.iter().all(|(index, _)| *index < needed) {
        return Err(format!(
            "the log needs a snapshot up to {needed}, there are {listed:?}"
        ));
    }
    // One more between its finish and the pruning.
    if listed.len() > SNAPSHOTS_MAX + 1 {
        return Err(format!("{listed:?} is not bounded"));
    }
    let Some((index, term)) = promise.incoming else {
        return Ok(());
    };
    let incoming = store.incoming(index, term).map_err(text)?;
    let mut held = Vec::new();
    let mut reader = incoming.reader().map_err(text)?;
    reader.read_to_end(&mut held).map_err(text)?;
    if content((index, term)).starts_with(&held) {
        Ok(())
    } else {
        Err(format!("the {} bytes held were never sent", held.len()))
    }
}

fn read(store: &Store, (index, term): (u64, u64)) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut reader = store.open(index, term).map_err(text)?;
    reader.read_to_end(&mut bytes).map_err(text)?;
    Ok(bytes)
}

/// One byte of the log changes: it is refused, or cut, or was in nothing that counts.
fn check_rot(
    disk: &SimDisk,
    before: &Recovered,
    random: &mut Random,
    report: &mut Report,
) -> Result<(), String> {
    let files = file_names(disk);
    let name = random.pick(&files).expect("a log has a segment");
    let written = contents(disk, name);
    let Some(end) = written.iter().rposition(|byte| *byte != 0) else {
        return Ok(());
    };
    let (at, by) = (random.below(end as u64 + 1) as usize, 1 << random.below(8));
    rot(disk, name, |bytes| bytes[at] ^= by);
    disk.restart(Fate::Lost, random);
    let outcome = match open(disk) {
        Err(WalError::Damaged { .. }) => "refused",
        Err(other) => return Err(other.to_string()),
        Ok((_, after)) if Model::of(&after) == Model::of(before) => "not in use",
        Ok((_, after)) if after.tail.is_cut() => "cut",
        Ok((_, after)) => {
            let tail = after.tail;
            return Err(format!(
                "{name} byte {at} rotted, and batches vanished: {tail:?}"
            ));
        }
    };
    *report.rot.entry(outcome).or_default() += 1;
    Ok(())
}

/// Writes, closes and reads again.
fn go_on(disk: &SimDisk, wal: &mut Wal, recovered: &Recovered) -> Result<(), WalError> {
    let mut model = Model::of(recovered);
    let (last, term) = model.last();
    for index in last + 1..last + 4 {
        wal.append_entry(index, term + 1, &[7; 600])?;
        wal.commit()?;
        model.append(super::super::super::Entry {
            index,
            term: term + 1,
            payload: vec![7; 600],
        });
    }
    let (_, found) = open(disk)?;
    assert_eq!(
        Model::of(&found),
        model,
        "what was written after a recovery"
    );
    assert_eq!(found.tail, Tail::Open);
    Ok(())
}

fn verdict(disk: &SimDisk, tail: &Tail) -> &'static str {
    match tail {
        Tail::Clean => "clean",
        Tail::Open => "open",
        Tail::Torn(_) => "torn",
        // Its header says whether the file is recycled.
        Tail::Cut(at) if disk.contents(&dir().join(&at.file))[12] == 0 => "cut, fresh",
        Tail::Cut(_) => "cut, recycled",
    }
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}
