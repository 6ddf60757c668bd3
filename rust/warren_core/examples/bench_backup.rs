//! What a backup of a large cluster takes, and a restore until it serves. JSON on standard output;
//! benches/README.md says what it means.
//!
//!     cargo run --release --example bench_backup -- --dir=DIR [--containers=N] [--keep]
//!
//! DIR is where the files go; with `--keep` the last backup stays there, as `backup`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks and works on files"
)]

#[path = "shared/filled.rs"]
mod filled;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use warren_core::control::durable::{Wanted, backup};
use warren_core::control::{BackupJob, CallId};
use warren_core::fsm::snapshot;
use warren_core::host::{Completion, Host, Kind, Options};
use warren_core::ids::NodeId;
use warren_core::pb;
use warren_core::raft::ConfState;
use warren_core::wal::{FileDisk, ReadOnlyDisk};

use filled::Filled;

const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    let (mut containers, mut dir, mut keep) = (1_000_000, None, false);
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--containers", number)) => {
                containers = number.parse().expect("--containers needs a number");
            }
            Some(("--dir", path)) => dir = Some(PathBuf::from(path)),
            None if argument == "--keep" => keep = true,
            _ => panic!("unknown argument {argument}; see the head of this file"),
        }
    }
    let dir = dir.expect("--dir is needed");
    let first = dir.join("first");
    begin(containers, &first);
    let (raft, last) = (dir.join("raft"), dir.join("backup"));
    let (host, restore_s) = restore(&raft, &first);
    let (backup_s, longest_read_ms) = back_up(&host, &last);
    let bytes = std::fs::metadata(&last).expect("it is there").len();
    let disk_s = write_raw(&dir.join("raw"), bytes);
    let started = Instant::now();
    let (header, _) = backup::read(&ReadOnlyDisk, &last).expect("it is whole");
    let inspect_s = started.elapsed().as_secs_f64();
    assert_eq!(header.containers, containers as u64);
    assert!(host.shutdown(TIMEOUT));
    if !keep {
        std::fs::remove_file(&last).expect("it is there");
    }
    println!("{{");
    println!("  \"containers\": {containers},");
    println!("  \"bytes\": {bytes},");
    println!("  \"backup_s\": {backup_s:.3},");
    println!("  \"longest_read_ms\": {longest_read_ms:.1},");
    println!("  \"inspect_s\": {inspect_s:.3},");
    println!("  \"restore_s\": {restore_s:.3},");
    println!("  \"disk_s\": {disk_s:.3}");
    println!("}}");
}

/// A backup of a state that was never anywhere else.
fn begin(containers: usize, file: &Path) {
    let Filled { state, .. } = Filled::new(containers, |_, bind| bind());
    let job = BackupJob {
        id: CallId(1),
        file: file.to_owned(),
        header: backup::header(&state, false),
        snapshot: snapshot::header(&state, ConfState::default().encode()),
        state,
    };
    backup::write(&FileDisk, file, &job).expect("there is room");
}

/// A host out of a backup, and the seconds until it serves.
fn restore(raft: &Path, file: &Path) -> (Host, f64) {
    std::fs::create_dir(raft).expect("it is new");
    let wanted = Wanted {
        file,
        epoch_min: 0,
        cluster: None,
    };
    let started = Instant::now();
    let (host, _) = Host::restore(options(raft), wanted).expect("it is whole");
    let read = pb::GetClusterRequest {}.encode_to_vec();
    let id = host.submit("local", "GetCluster", &read, TIMEOUT);
    let answer = answer(&host, id.expect("it takes calls"));
    assert_eq!(answer.kind, Kind::Response, "it serves");
    let restore_s = started.elapsed().as_secs_f64();
    std::fs::remove_file(file).expect("it is there");
    (host, restore_s)
}

/// Seconds that a backup of a serving host takes, and the longest that a read waited meanwhile.
fn back_up(host: &Host, file: &Path) -> (f64, f64) {
    let read = pb::GetServiceRequest {
        r#ref: "service-0".into(),
    }
    .encode_to_vec();
    let started = Instant::now();
    let backup = host
        .backup("local", file, false, TIMEOUT)
        .expect("one call");
    let mut longest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let id = host.submit("local", "GetService", &read, TIMEOUT);
        let id = id.expect("it takes calls");
        loop {
            let done = next(host);
            if done.id == backup {
                assert_eq!(done.kind, Kind::Response);
                let took = started.elapsed();
                return (took.as_secs_f64(), longest.as_secs_f64() * 1e3);
            }
            if done.id == id {
                longest = longest.max(asked.elapsed());
                break;
            }
        }
    }
}

/// The disk's own time for as many bytes.
fn write_raw(file: &Path, bytes: u64) -> f64 {
    let piece = vec![0x5a; 256 << 10];
    let started = Instant::now();
    let mut out = std::fs::File::create(file).expect("there is room");
    let mut left = bytes as usize;
    while left > 0 {
        let part = left.min(piece.len());
        out.write_all(&piece[..part]).expect("there is room");
        left -= part;
    }
    out.sync_data().expect("the disk works");
    let took_s = started.elapsed().as_secs_f64();
    std::fs::remove_file(file).expect("it is there");
    took_s
}

fn answer(host: &Host, id: u64) -> Completion {
    loop {
        let done = next(host);
        if done.id == id {
            return done;
        }
    }
}

fn next(host: &Host) -> Completion {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(done) = host.drain(1).pop() {
            return done;
        }
        assert!(Instant::now() < deadline, "no answer in a minute");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn options(raft: &Path) -> Options {
    Options {
        raft_dir: raft.to_owned(),
        node: NodeId([1; 16]),
        node_name: "one".into(),
        advertise_addr: "127.0.0.1:2377".into(),
        segment_bytes: 64 << 20,
        peers: None,
    }
}
