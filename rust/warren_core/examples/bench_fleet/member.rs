//! The same through Raft: a member that leads itself, and whose log is on a disk.
//!
//! The machine steps in this thread; another one writes the log, one fdatasync for all that has
//! queued meanwhile, as in a daemon. No workers have sessions, and no snapshot is due.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use warren_core::control::durable::{self, log_dir};
use warren_core::control::{Config, Control, Identity, Input, Now, Recovered};
use warren_core::fsm::FEATURE_LEVEL_MAX;
use warren_core::ids::{ClusterId, Index, MemberId, NodeId, Term};
use warren_core::raft::{ConfState, Persist, Position, TICK_MS};
use warren_core::wal::{self, FileDisk, Wal};

use crate::cluster::Cluster;
use crate::times::{Field, Fields, Times, thread_ns};

const MEMBER: MemberId = MemberId(1);
const SEGMENT_BYTES: u64 = 64 << 20;
/// Nothing has been placed for so long: something is wrong.
const STUCK: Duration = Duration::from_secs(60);

/// The log's thread: batches in, and the number that is durable out.
struct Log {
    batches: Sender<Vec<Persist>>,
    durable: Receiver<u64>,
    thread: JoinHandle<(Times, Wal)>,
}

impl Log {
    fn start(mut wal: Wal) -> Self {
        let (batches, queued) = channel::<Vec<Persist>>();
        let (done, durable) = channel();
        let thread = std::thread::spawn(move || {
            let mut commits = Times::default();
            while let Ok(first) = queued.recv() {
                let mut number = 0;
                for mut persist in first.into_iter().chain(queued.try_iter().flatten()) {
                    number = persist.number;
                    durable::append(&mut wal, &mut persist).expect("there is room");
                }
                let began = Instant::now();
                wal.commit().expect("there is room");
                commits.add(began.elapsed().as_nanos() as u64);
                if done.send(number).is_err() {
                    break;
                }
                if wal.wants_room() {
                    wal.allocate_ahead().expect("there is room");
                }
            }
            (commits, wal)
        });
        Self {
            batches,
            durable,
            thread,
        }
    }
}

/// Places all that is wanted; the clock runs from taking the lead.
pub fn fill(cluster: Cluster, dir: &Path) -> Fields {
    let Cluster {
        state,
        index,
        wanted,
    } = cluster;
    let identity = Identity {
        cluster: ClusterId([7; 16]),
        epoch: 1,
        member: MEMBER,
        data_dir: [1; 16],
    };
    let at = Position {
        index: Index(index),
        term: Term(1),
    };
    let options = wal::Options {
        segment_bytes: SEGMENT_BYTES,
        ..wal::Options::default()
    };
    std::fs::create_dir_all(dir).expect("the directory can be made");
    let disk = Arc::new(FileDisk);
    let mut wal = durable::create(disk, dir, &identity, false, options).expect("a new log");
    wal.compact(at.index.0, at.term.0).expect("there is room");
    let recovered = Recovered {
        identity,
        state,
        snapshot: Some((at, conf())),
        hard_state: None,
        entries: Vec::new(),
        cut: false,
    };
    let control = Control::recover(config(dir), recovered).expect("nothing is damaged");
    run(control, Log::start(wal), wanted)
}

fn run(mut control: Control, log: Log, wanted: u64) -> Fields {
    let (mut steps, mut bound, mut applies) =
        (Times::default(), Times::default(), Times::default());
    let placed = |control: &Control| control.state().map_or(0, |state| state.container_count());
    let (mut began, mut before, mut tick_at_ns) = (None, 0, 0);
    let (mut last, mut began_thread_ns) = (Instant::now(), 0);
    let mut inputs = Vec::new();
    while before < wanted {
        let now = Now {
            mono_ns: mono_ns(),
            wall_ms: 1_800_000_000_000 + mono_ns() / 1_000_000,
        };
        if now.mono_ns >= tick_at_ns {
            tick_at_ns = now.mono_ns + TICK_MS * 1_000_000;
            inputs.push(Input::Tick);
        }
        let started = Instant::now();
        let outputs = control.step(now, inputs.drain(..));
        steps.add(started.elapsed().as_nanos() as u64);
        assert!(outputs.stop.is_none(), "{:?}", outputs.stop);
        outputs
            .samples
            .apply_ns
            .iter()
            .for_each(|(ns, count)| applies.add_many(*ns, u64::from(*count)));
        if began.is_none() && control.standing().serving {
            began = Some(Instant::now());
            began_thread_ns = thread_ns();
        }
        let now = placed(&control) as u64;
        if let Some(began) = began.filter(|_| now > before) {
            bound.add_many(began.elapsed().as_nanos() as u64, now - before);
            (before, last) = (now, Instant::now());
        }
        assert!(
            last.elapsed() < STUCK,
            "{now} of {wanted} are placed, and no more"
        );
        if !outputs.persist.is_empty() {
            log.batches
                .send(outputs.persist)
                .expect("the log's thread is there");
        }
        inputs.extend(log.durable.try_iter().map(Input::Persisted));
        if inputs.is_empty() && !outputs.again {
            let wait = Duration::from_nanos(tick_at_ns.saturating_sub(mono_ns()));
            inputs.extend(log.durable.recv_timeout(wait).ok().map(Input::Persisted));
        }
    }
    let thread_took_ns = thread_ns() - began_thread_ns;
    let took_ns = began.map_or(0, |began| began.elapsed().as_nanos() as u64);
    let Log {
        batches,
        durable,
        thread,
    } = log;
    drop((batches, durable));
    let (commits, wal) = thread.join().expect("it ends");
    let written_bytes = wal.stats().written_bytes_total;
    wal.close().expect("there is room");
    vec![
        ("containers", Field::of(wanted)),
        ("seconds", Field::seconds(took_ns)),
        ("thread_seconds", Field::seconds(thread_took_ns)),
        ("written_bytes", Field::of(written_bytes)),
        ("bound", bound.field()),
        ("step", steps.field()),
        ("apply", applies.field()),
        ("fdatasync", commits.field()),
    ]
}

fn conf() -> ConfState {
    ConfState {
        voters: vec![MEMBER.0],
        ..ConfState::default()
    }
}

fn config(dir: &Path) -> Config {
    Config {
        node: NodeId([0xfe; 16]),
        node_name: "bench".to_owned(),
        advertise_addr: String::new(),
        address: String::new(),
        feature_level_max: FEATURE_LEVEL_MAX,
        log_dir: log_dir(dir).to_string_lossy().into_owned(),
        seed: [1; 32],
        snapshot_bytes: u64::MAX,
        stopwatch: || Some(mono_ns()),
    }
}

fn mono_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
