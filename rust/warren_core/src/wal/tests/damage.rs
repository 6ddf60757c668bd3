//! Bytes that rot, files that vanish.

use super::super::{Entry, FrameKind, Recovered, Tail, WalError, dump, verify};
use super::{AMPLE_BYTES, contents, create, dir, file_names, open, rot};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::random::Random;

/// Three segments, several batches in each; the last holds two batches.
fn three_segments(clean: bool) -> SimDisk {
    three_segments_of(700, clean)
}

fn three_segments_of(payload_bytes: usize, clean: bool) -> SimDisk {
    let disk = SimDisk::new(AMPLE_BYTES);
    let mut wal = create(&disk).unwrap();
    wal.append_hard_state(b"term 1").unwrap();
    let mut index = 0;
    while wal.stats().segments < 3 {
        for _ in 0..2 {
            index += 1;
            wal.append_entry(index, 1, &vec![index as u8; payload_bytes])
                .unwrap();
        }
        wal.commit().unwrap();
    }
    wal.append_entry(index + 1, 2, b"the last batch").unwrap();
    wal.commit().unwrap();
    if clean {
        wal.close().unwrap();
    }
    disk
}

/// (file, offset) of every byte that carries meaning: headers and frames.
fn meaningful_bytes(disk: &SimDisk) -> Vec<(String, u64)> {
    let mut places = Vec::new();
    for name in file_names(disk) {
        places.extend(
            (0..4096)
                .step_by(37)
                .chain(4088..4096)
                .map(|at| (name.clone(), at)),
        );
    }
    dump(disk, dir(), &mut |frame| {
        let end = frame.offset + (32 + frame.payload.len() as u64).next_multiple_of(8);
        places.extend((frame.offset..end).map(|at| (frame.file.to_owned(), at)));
    })
    .unwrap();
    places
}

fn intact(disk: &SimDisk) -> Recovered {
    open(&disk.fork()).unwrap().1
}

/// Flips every byte in turn: each is refused with its place, or cut as a torn tail that says so.
#[test]
fn a_flipped_byte_is_refused_or_cut_but_never_read() {
    for clean in [true, false] {
        let disk = three_segments(clean);
        let intact = intact(&disk);
        let before_last: Vec<Entry> = intact.entries[..intact.entries.len() - 1].to_vec();
        let (mut refused, mut cut) = (0, 0);
        for (name, offset) in meaningful_bytes(&disk) {
            let flipped = disk.fork();
            rot(&flipped, &name, |bytes| {
                bytes[offset as usize] ^= 1 << (offset % 8)
            });
            match open(&flipped) {
                Err(WalError::Damaged {
                    file, offset: at, ..
                }) => {
                    // Found where it is, or at the frame that holds it, or at the next joint.
                    assert!(
                        file > name || (file == name && at <= offset),
                        "{name} {offset}"
                    );
                    refused += 1;
                }
                Err(error) => panic!("{name} {offset}: {error}"),
                Ok((_, recovered)) => {
                    assert!(
                        recovered.tail.is_cut(),
                        "{name} {offset}: {:?}",
                        recovered.tail
                    );
                    let kept = if clean { &intact.entries } else { &before_last };
                    assert_eq!(&recovered.entries, kept, "{name} {offset}");
                    assert_eq!(recovered.hard_state, intact.hard_state);
                    cut += 1;
                }
            }
        }
        // The last frames are those of one small batch, or of the end mark alone.
        assert_eq!(cut, if clean { 64 } else { 48 + 64 });
        assert!(refused > 20_000, "only {refused}");
    }
}

#[test]
fn a_missing_segment_is_named() {
    let disk = three_segments(false);
    let names = file_names(&disk);
    for lost in &names[..2] {
        let disk = disk.fork();
        disk.lose(&dir().join(lost));
        let error = open(&disk).err().unwrap();
        assert!(
            matches!(&error, WalError::Damaged { file, .. } if file == lost),
            "{error}"
        );
    }
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (disk, other) = (three_segments(false), SimDisk::new(AMPLE_BYTES));
    let mut wal = create(&other).unwrap();
    for index in 1..=30 {
        wal.append_entry(index, 9, &[1; 800]).unwrap();
        wal.commit().unwrap();
    }
    let names = file_names(&disk);
    let refusal = |name: &str, contents: Vec<u8>| {
        let disk = disk.fork();
        rot(&disk, name, |bytes| bytes.copy_from_slice(&contents));
        open(&disk).err().unwrap().to_string()
    };
    let renamed = refusal(&names[1], contents(&disk, &names[2]));
    assert!(
        renamed.contains("the header is that of another segment"),
        "{renamed}"
    );
    let foreign = refusal(&names[1], contents(&other, &names[1]));
    assert!(foreign.contains(&names[0]), "{foreign}");
    // Frames of the same sizes at the same places, in a first segment with the same header.
    let twin = three_segments_of(699, false);
    let lookalike = refusal(&names[0], contents(&twin, &names[0]));
    assert!(
        lookalike.contains("does not follow the one before it"),
        "{lookalike}"
    );
}

#[test]
fn a_shortened_file_is_refused() {
    let disk = three_segments(false);
    let name = file_names(&disk)[1].clone();
    rot(&disk, &name, |bytes| bytes.truncate(10_000));
    let error = open(&disk).err().unwrap().to_string();
    assert!(
        error.contains(&name) && error.contains("offset 10000"),
        "{error}"
    );
}

#[test]
fn random_damage_never_panics() {
    let disk = three_segments(false);
    let names = file_names(&disk);
    let mut random = Random::new(11);
    for _ in 0..500 {
        let disk = disk.fork();
        let name = &names[random.below(3) as usize];
        for _ in 0..1 + random.below(8) {
            let (at, byte) = (random.below(16 << 10) as usize, random.next() as u8);
            rot(&disk, name, |bytes| bytes[at] = byte);
        }
        if let Err(error) = open(&disk) {
            assert!(matches!(error.code(), "wal_damaged"), "{error}");
        }
    }
}

#[test]
fn the_offline_readers_change_nothing_and_show_every_frame() {
    let disk = three_segments(true);
    let operations = disk.operations();
    let mut kinds = Vec::new();
    let summary = dump(&disk, dir(), &mut |frame| kinds.push(frame.kind)).unwrap();
    assert_eq!(disk.operations(), operations);
    assert_eq!(summary, verify(&disk, dir()).unwrap());
    assert_eq!(summary.frames, kinds.len() as u64);
    assert_eq!(
        (kinds[0], *kinds.last().unwrap()),
        (FrameKind::HardState, FrameKind::End)
    );
    assert_eq!(summary.tail, Tail::Clean);
    assert_eq!((summary.segments, summary.last_term), (3, 2));
}

/// Recycled files keep the frames of their former life; none of them may come back.
#[test]
fn old_frames_in_a_recycled_segment_stay_dead() {
    let disk = SimDisk::new(AMPLE_BYTES);
    let mut wal = create(&disk).unwrap();
    for index in 1..=200 {
        wal.append_entry(index, 1, &[7; 700]).unwrap();
        wal.commit().unwrap();
        if index % 10 == 0 {
            wal.compact(index, 1).unwrap();
        }
    }
    assert!(wal.stats().segments <= 2 && wal.stats().spare_segments >= 1);
    drop(wal);
    disk.restart(Fate::Lost, &mut Random::new(0));
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(
        (recovered.snapshot, recovered.entries.len()),
        (Some((200, 1)), 0)
    );
    assert_eq!(recovered.tail, Tail::Open);
}

/// The worst case for telling damage from a tear: a batch over many sectors, full of zeros, whose end
/// is tried at every place in a sector. A changed byte is never taken for a batch that was never
/// written.
#[test]
fn no_changed_byte_of_a_durable_batch_passes_for_a_torn_one() {
    for payload_bytes in (1000..1520).step_by(40) {
        let disk = SimDisk::new(AMPLE_BYTES);
        let mut wal = create(&disk).unwrap();
        wal.append_entry(1, 1, b"the first batch").unwrap();
        wal.commit().unwrap();
        wal.append_entry(2, 1, b"").unwrap();
        wal.append_entry(3, 1, &vec![0; payload_bytes]).unwrap();
        wal.append_hard_state(&[0; 8]).unwrap();
        wal.commit().unwrap();
        let name = file_names(&disk)[0].clone();
        let written = contents(&disk, &name);
        let end = written.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let batch = 4096 + 48 + 64..end.next_multiple_of(8);
        // Each byte near a frame's header, and samples of the payload.
        let near =
            |at: &usize| *at < batch.start + 96 || *at + 160 > batch.end || at.is_multiple_of(61);
        for at in batch.clone().filter(near) {
            for value in [0, !written[at], written[at] ^ 1, written[at] ^ 0x80] {
                if value == written[at] {
                    continue;
                }
                let disk = disk.fork();
                rot(&disk, &name, |bytes| bytes[at] = value);
                let (_, recovered) = open(&disk).unwrap();
                let place = format!("{payload_bytes} bytes, byte {at} := {value:#x}");
                assert!(recovered.tail.is_cut(), "{place}: {:?}", recovered.tail);
                assert_eq!(recovered.entries.len(), 1, "{place}");
            }
        }
    }
}
