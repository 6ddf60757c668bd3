//! The driver of `control` in a daemon: threads, clocks and the disk. The one place where two
//! runs differ.
//!
//! | thread | does | waits for |
//! |---|---|---|
//! | `core` | steps the machine, hands its outputs on; writes the log itself where that delays nobody (see [`log`]) | inputs, the tick |
//! | `wal` | appends, one fdatasync for all that queued meanwhile, then says so | outputs, room on the disk |
//! | `reader` | answers reads that take long, from clones of the state | such reads |
//! | `snapshot` | writes a clone of the state to a file, reads and writes pieces of others | snapshots that are due, asked for, or coming in |
//! | [`peers`] | frames to and from other members | queues, sockets |
//!
//! The Python side submits, and is told through an eventfd that completions wait; it takes them in
//! batches. What is open at a time is bounded ([`CALLS_MAX`], [`streams`]), so every queue in
//! between is: a call that finds no room is refused at once.
//!
//! A panic of any thread, and a log that cannot be written, end the process: a supervisor restarts
//! it, and it goes on where its log ends.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "threads, clocks and files have to be somewhere, and they are here"
)]

mod clock;
mod completions;
mod core;
mod fatal;
mod histogram;
mod log;
mod mailbox;
mod measuring;
mod metrics;
mod peers;
mod recovery;
mod snapshots;
mod streams;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::control::durable::{self, Found};
use crate::control::{self, Call, CallId, Consistency, Identity, Input};
use crate::error::Error;
use crate::ids::NodeId;
use crate::wal::{self, FileDisk};
use completions::Completions;
pub use completions::{Completion, Kind};
pub use histogram::Histogram;
use mailbox::Mailbox;
pub use measuring::measure;
use metrics::Metrics;
pub use peers::TlsFiles;
pub use recovery::inspect_backup;
pub use streams::{STREAMS_MAX, STREAMS_MIN};

/// Calls that are submitted and whose answers have not been taken.
pub const CALLS_MAX: usize = 1024;
/// Longest request; longer ones stream.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Sizes of a segment of the log.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// How long opening waits for this member to lead, so that the first calls are served.
const LEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end waits for another member to take the lead.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a host is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Exists, and is locked by the caller.
    pub raft_dir: PathBuf,
    pub node: NodeId,
    pub node_name: String,
    pub advertise_addr: String,
    /// A multiple of 4,096 from 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// How other members are reached; without it no port is opened, and there are none.
    pub peers: Option<PeerOptions>,
}

/// Where members meet.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Where to listen, as `address:port`.
    pub listen: SocketAddr,
    /// Where the others reach it, as `host:port`.
    pub address: String,
    /// The certificate by which members know each other. `None` is TCP without any proof of who is
    /// there, for tests and benches on one machine: anybody who reaches the port then writes the
    /// cluster's log.
    pub tls: Option<TlsFiles>,
}

impl Options {
    fn wal(&self) -> wal::Options {
        wal::Options {
            segment_bytes: self.segment_bytes,
            ..wal::Options::default()
        }
    }
}

/// What health checks look at; read without waiting on anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// It has a log, and so belongs to a cluster, of which it may not have heard anything yet.
    pub is_member: bool,
    /// It has its cluster's state.
    pub in_cluster: bool,
    pub leader: bool,
    /// This member or another one leads, as far as is known here.
    pub has_leader: bool,
    pub voters: usize,
    pub term: u64,
    pub last_index: u64,
    pub applied_index: u64,
    pub no_space: bool,
    /// The cluster goes on without this member: nothing is answered any more.
    pub removed: bool,
    /// How long the oldest unfinished work has been waiting, of the disk or of the core itself.
    pub stuck_ms: u64,
}

/// A running core.
pub struct Host {
    inputs: Arc<Mailbox<Message>>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    opened_by_pid: u32,
}

/// What the threads and the callers share.
pub(crate) struct Shared {
    pub completions: Completions,
    pub calls: AtomicUsize,
    pub streams: AtomicUsize,
    /// Open at a time.
    pub streams_max: usize,
    pub metrics: Metrics,
    pub peers: Arc<peers::Counters>,
    pub view: Mutex<View>,
    pub log_health: log::Health,
    /// There is a log.
    pub is_member: AtomicBool,
    /// Nothing new is taken up, and nobody waits for a full disk.
    pub closing: AtomicBool,
    /// The cluster has removed this member, and does without it.
    pub removed: AtomicBool,
    /// When the core last finished a step.
    pub core_beat_ns: AtomicU64,
}

/// What the core published after its last step.
#[derive(Default)]
pub(crate) struct View {
    pub status: Option<control::Status>,
    pub gauges: metrics::Gauges,
    pub orchestrator: crate::orchestrator::Stats,
}

/// To the core thread.
pub(crate) enum Message {
    Input(Input),
    /// From a peer.
    Frame(peers::Received),
    /// Finish what is durable, close the log, end.
    Stop,
}

impl Message {
    /// `None` for [`Message::Stop`].
    fn into_input(self) -> Option<Input> {
        match self {
            Self::Input(input) => Some(input),
            Self::Frame(received) => Some(Input::Frame(received.into_frame())),
            Self::Stop => None,
        }
    }
}

impl Host {
    /// Makes this the log of a member that another one has admitted to its cluster, and opens it.
    /// What the cluster knows comes from its leader, who knows this member's address.
    ///
    /// # Errors
    /// `DataDir` if there is a log already, and what [`Host::open`] refuses.
    pub fn join(options: Options, identity: Identity) -> Result<Self, Error> {
        check(&options)?;
        let (disk, dir) = (Arc::new(FileDisk), &options.raft_dir);
        durable::create(disk, dir, &identity, false, options.wal())?;
        Self::open(options)
    }

    /// Recovers what the directory holds and starts the threads. Waits for somebody to lead, but
    /// not longer than 5 s.
    ///
    /// # Errors
    /// `LogDamaged` and `DataDir` name the file; `Invalid` an option.
    pub fn open(options: Options) -> Result<Self, Error> {
        check(&options)?;
        let disk = Arc::new(FileDisk);
        let found = durable::recover(disk, &options.raft_dir, options.wal())?;
        Self::start(options, found)
    }

    fn start(options: Options, found: Option<Found>) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new()?);
        // Bounded by what is open: see the module's prose.
        let inputs = Arc::new(Mailbox::new());
        let core = core::start(options, found, shared.clone(), inputs.clone())?;
        let host = Self {
            inputs,
            shared,
            next_id: AtomicU64::new(1),
            threads: Mutex::new(vec![core]),
            opened_by_pid: std::process::id(),
        };
        host.wait_for_lead();
        Ok(host)
    }

    /// Readable when completions wait.
    pub fn event_fd(&self) -> std::os::fd::RawFd {
        self.shared.completions.event_fd()
    }

    /// Starts a call that sees everything acknowledged before it. Its one completion comes under the id; `Overloaded` and `TooLarge` at once.
    pub fn submit(
        &self,
        identity: &str,
        method: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<u64, Error> {
        self.submit_with(Consistency::Linearizable, identity, method, body, timeout)
    }

    /// As [`submit`](Self::submit), where a read may see something else.
    pub fn submit_with(
        &self,
        consistency: Consistency,
        identity: &str,
        method: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<u64, Error> {
        let mut call = self.admit(identity, method, body, timeout)?;
        call.consistency = consistency;
        take_place(&self.shared.calls, CALLS_MAX, "the core's call queue")
            .inspect_err(|_| self.shared.metrics.count_rejection(metrics::Queue::Calls))?;
        let id = call.id;
        self.send(Input::Call(call))?;
        Ok(id.0)
    }

    /// Opens a stream. Its items come under the id, one at a time, until an end or an error; the
    /// next one follows [`taken`](Self::taken).
    ///
    /// # Errors
    /// `StreamsFull` and `TooLarge` at once.
    pub fn subscribe(&self, identity: &str, method: &str, body: &[u8]) -> Result<u64, Error> {
        let call = self.admit(identity, method, body, Duration::MAX)?;
        let limit = self.shared.streams_max;
        if !has_place(&self.shared.streams, limit) {
            self.shared.metrics.count_rejection(metrics::Queue::Streams);
            return Err(Error::StreamsFull { limit });
        }
        let id = call.id;
        self.shared.completions.open_stream(id.0);
        self.send(Input::Subscribe(call))?;
        Ok(id.0)
    }

    /// The reader of a stream has gone; nothing more comes under its id.
    pub fn cancel(&self, id: u64) {
        if self.shared.completions.close_stream(id) {
            self.shared.streams.fetch_sub(1, Ordering::Relaxed);
            // Shutting down ends every stream anyway.
            let _ = self.send(Input::Cancel(CallId(id)));
        }
    }

    /// The reader of a stream has the item that came last, and is ready for another.
    pub fn taken(&self, id: u64) {
        // Shutting down ends every stream anyway.
        let _ = self.send(Input::Taken(CallId(id)));
    }

    /// Takes up to `max` completions.
    pub fn drain(&self, max: usize) -> Vec<Completion> {
        let batch = self.shared.completions.drain(max);
        for completion in &batch {
            match completion.kind {
                Kind::Response | Kind::Error if !completion.of_stream => {
                    self.shared.calls.fetch_sub(1, Ordering::Relaxed);
                }
                Kind::End | Kind::Error => {
                    self.shared.streams.fetch_sub(1, Ordering::Relaxed);
                }
                Kind::Response | Kind::Item | Kind::Log => {}
            }
        }
        batch
    }

    /// The event loop is alive. Without pulses nobody's silence counts.
    pub fn pulse(&self) {
        let _ = self.send(Input::Pulse);
    }

    /// Whether lines of level debug are made from now on.
    pub fn set_verbose(&self, verbose: bool) {
        let _ = self.send(Input::Verbose(verbose));
    }

    pub fn status(&self) -> Status {
        let view = self
            .shared
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now_ns = clock::mono_ns();
        let core_silence_ns =
            now_ns.saturating_sub(self.shared.core_beat_ns.load(Ordering::Relaxed));
        let stuck_ns = core_silence_ns.max(self.shared.log_health.waiting_ns(now_ns));
        let known = view.status.as_ref();
        Status {
            is_member: self.shared.is_member.load(Ordering::Relaxed),
            in_cluster: known.is_some_and(|status| status.in_cluster),
            leader: known.is_some_and(|status| status.serving),
            has_leader: known.is_some_and(|status| status.leader.is_some()),
            voters: known.map_or(0, |status| status.voters),
            term: known.map_or(0, |status| status.term.0),
            last_index: known.map_or(0, |status| status.last_index.0),
            applied_index: known.map_or(0, |status| status.applied_index.0),
            no_space: self.shared.log_health.is_out_of_space(),
            removed: self.shared.removed.load(Ordering::Relaxed),
            stuck_ms: stuck_ns / 1_000_000,
        }
    }

    /// The core's series, in the Prometheus text format. `fine`: histograms with buckets from 1 µs.
    pub fn metrics(&self, fine: bool) -> Vec<u8> {
        metrics::render(&self.shared, fine)
    }

    /// Ends the threads and marks the log's clean end; false if that took longer than `timeout`.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        self.hand_over_lead(timeout / 2);
        self.shared.closing.store(true, Ordering::Relaxed);
        // An error means that the core thread has ended already.
        let _ = self.inputs.send(Message::Stop);
        let deadline = Instant::now() + timeout;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(thread) = threads.pop() {
            while !thread.is_finished() {
                if Instant::now() >= deadline {
                    threads.push(thread);
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // A panic has ended the process already.
            let _ = thread.join();
        }
        true
    }

    /// Refuses a forked child: the threads stayed behind.
    pub fn check_process(&self) -> Result<(), Error> {
        if std::process::id() == self.opened_by_pid {
            return Ok(());
        }
        let why = "this process is a fork of the one that opened it; open one after the fork";
        Err(Error::Invalid {
            what: "use of the core",
            why: why.to_owned(),
        })
    }

    fn admit(
        &self,
        identity: &str,
        method: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Call, Error> {
        if self.shared.closing.load(Ordering::Relaxed) {
            return Err(Error::ShuttingDown);
        }
        if body.len() > REQUEST_BYTES_MAX {
            let (actual_bytes, limit_bytes) = (body.len(), REQUEST_BYTES_MAX);
            return Err(Error::TooLarge {
                what: "the request",
                actual_bytes,
                limit_bytes,
            });
        }
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Ok(Call {
            id: CallId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            identity: identity.to_owned(),
            method: method.to_owned(),
            body: body.to_vec(),
            deadline_mono_ms: clock::now().mono_ms().saturating_add(timeout_ms),
            consistency: Consistency::Linearizable,
        })
    }

    fn send(&self, input: Input) -> Result<(), Error> {
        self.inputs
            .send(Message::Input(input))
            .map_err(|_| Error::ShuttingDown)
    }

    /// A member that has a cluster leads or hears from a leader within a few ticks. A disk without
    /// room, or the loss of the majority, would keep it from that; then the daemon comes up and
    /// says so.
    fn wait_for_lead(&self) {
        self.wait_for(LEAD_TIMEOUT, |status| {
            status.voters == 0 || status.serving || (status.leader.is_some() && !status.is_leader)
        });
    }

    /// The lead goes to another member while this one can still hand it over: nobody has to wait
    /// for an election.
    fn hand_over_lead(&self, timeout: Duration) {
        if self.send(Input::Retire).is_ok() {
            self.wait_for(timeout.min(RETIRE_TIMEOUT), |status| status.retired);
        }
    }

    fn wait_for(&self, timeout: Duration, holds: impl Fn(&control::Status) -> bool) {
        let deadline = Instant::now() + timeout;
        loop {
            let view = self.shared.view.lock();
            let view = view.unwrap_or_else(PoisonError::into_inner);
            if view.status.as_ref().is_some_and(&holds) || Instant::now() >= deadline {
                return;
            }
            drop(view);
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Readable when completions wait, as [`Host::event_fd`].
impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.completions.as_fd()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let tried = self.shared.closing.load(Ordering::Relaxed);
        if !tried && self.check_process().is_ok() {
            self.shutdown(Duration::from_secs(5));
        }
    }
}

impl Shared {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            completions: Completions::new()?,
            calls: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            streams_max: streams::limit(streams::memory_bytes().unwrap_or(0)),
            metrics: Metrics::default(),
            peers: Arc::default(),
            view: Mutex::default(),
            log_health: log::Health::default(),
            is_member: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            core_beat_ns: AtomicU64::new(clock::mono_ns()),
        })
    }
}

/// A batch lies in one segment, so the largest command must fit into the smallest one.
fn check(options: &Options) -> Result<(), Error> {
    let bytes = options.segment_bytes;
    if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(4096) {
        return Ok(());
    }
    let why = format!("{bytes} is no multiple of 4096 from {SEGMENT_BYTES_MIN} to 1073741824");
    Err(Error::Invalid {
        what: "size of the log's segments",
        why,
    })
}

/// Counts one more, unless there are `limit`.
fn take_place(count: &AtomicUsize, limit: usize, queue: &'static str) -> Result<(), Error> {
    match has_place(count, limit) {
        true => Ok(()),
        false => Err(Error::Overloaded { queue, limit }),
    }
}

/// Counts one more; false, and nothing is counted, if there are `limit`.
fn has_place(count: &AtomicUsize, limit: usize) -> bool {
    let free = count.fetch_add(1, Ordering::Relaxed) < limit;
    if !free {
        count.fetch_sub(1, Ordering::Relaxed);
    }
    free
}
