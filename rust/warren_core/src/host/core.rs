//! The thread that owns the machine, and the threads that it feeds.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};

use super::log::Log;
use super::mailbox::Mailbox;
use super::metrics::Gauges;
use super::peers::{self, Peers, Plain, Reports, Tls, Transport};
use super::snapshots::{self, Job as FileJob};
use super::{Message, Options, PeerOptions, Shared, clock, fatal, measuring};
use crate::control::durable::{self, Found, Snapshots, log_dir};
use crate::control::{
    Config, Control, FrameOut, Identity, Input, Level, LogLine, Outputs, ReadJob,
};
use crate::error::Error;
use crate::fsm::FEATURE_LEVEL_MAX;
use crate::ids::{Index, NodeId};
use crate::raft::{Lane, Persist, TICK_MS};
use crate::wal::{FileDisk, Wal};

/// Inputs of one step: few enough that it stays short, enough that they share a commit.
const INPUTS_PER_STEP: usize = 128;
/// Segments of log behind a snapshot that make the next one due.
const SNAPSHOT_AFTER_SEGMENTS: u64 = 2;

/// A member alone has no heartbeat to send and none to miss: what is left to its clock is upkeep.
const LONE_TICK_MS: u64 = 4 * TICK_MS;

/// Between two counts of what is in the state.
const GAUGES_EVERY_MS: u64 = 100;

struct Core {
    control: Control,
    options: Options,
    mailbox: Arc<Mailbox<Message>>,
    /// Taken from the mailbox, to be given to the next steps. What keeps the cluster together
    /// overtakes all other inputs.
    urgent: VecDeque<Message>,
    inputs: VecDeque<Message>,
    peers: Option<Peers>,
    log: Option<Log>,
    reads: Sender<ReadJob>,
    files: Sender<FileJob>,
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    next_tick_ns: u64,
    /// The index that the published gauges describe, and when the next ones may follow.
    gauges_of: Index,
    gauges_due_ns: u64,
}

/// Starts all threads; the one returned ends the others before itself.
pub fn start(
    options: Options,
    found: Option<Found>,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<Message>>,
) -> Result<JoinHandle<()>, Error> {
    let mut entropy = [0; 40];
    getrandom::fill(&mut entropy).map_err(|error| Error::DataDir {
        path: "the kernel's random source".into(),
        why: error.to_string(),
    })?;
    let (seed, jitter) = entropy.split_first_chunk().expect("it is 40 bytes long");
    let config = config(&options, *seed);
    let peers = options.peers.as_ref().map(|wanted| {
        let jitter = jitter.try_into().map_or(0, u64::from_le_bytes);
        start_peers(wanted, options.node, jitter, &shared, mailbox.clone())
    });
    let mut identity = None;
    let (control, wal) = match found {
        None => (Control::outside(config), None),
        Some(Found {
            wal,
            recovered,
            warnings,
        }) => {
            identity = Some(recovered.identity);
            for line in &warnings {
                shared.completions.log(clock::now().wall_ms, line);
            }
            let control = Control::recover(config, recovered)
                .map_err(|damaged| durable::damaged(&log_dir(&options.raft_dir), damaged.why))?;
            (control, Some(wal))
        }
    };
    let (reads, read_jobs) = unbounded::<ReadJob>();
    let (files, file_jobs) = unbounded();
    let answering = shared.clone();
    let reader = fatal::spawn("reader", move || {
        read_jobs
            .iter()
            .for_each(|job| answering.completions.reply(job.id, job.answer()));
    })?;
    let writer = snapshots::Files {
        snapshots: Snapshots::new(Arc::new(FileDisk), &options.raft_dir),
        jobs: file_jobs,
        core: mailbox.clone(),
        shared: shared.clone(),
    };
    let snapshotter = fatal::spawn("snapshot", move || writer.run())?;
    let mut core = Core {
        control,
        options,
        mailbox,
        urgent: VecDeque::new(),
        inputs: VecDeque::new(),
        peers: peers.transpose()?,
        log: None,
        reads,
        files,
        shared,
        helpers: vec![reader, snapshotter],
        next_tick_ns: clock::mono_ns(),
        gauges_of: Index(0),
        gauges_due_ns: 0,
    };
    if let Some(identity) = identity {
        let _ = core.files.send(FileJob::Belong(identity));
    }
    if let Some(wal) = wal {
        core.start_log(wal)?;
    }
    fatal::spawn("core", move || core.run())
}

/// Frames that came in wait in the core's queues, each connection's within its share.
fn start_peers(
    wanted: &PeerOptions,
    node: NodeId,
    jitter: u64,
    shared: &Arc<Shared>,
    core: Arc<Mailbox<Message>>,
) -> Result<Peers, Error> {
    let logging = shared.clone();
    let sink = move |line: &LogLine| logging.completions.log(clock::now().wall_ms, line);
    let reports = Arc::new(Reports::new(Arc::new(sink)));
    let transport: Arc<dyn Transport> = match &wanted.tls {
        Some(files) => Arc::new(Tls::open(files.clone(), node, reports.clone())?),
        None => Arc::new(Plain),
    };
    let listener = TcpListener::bind(wanted.listen).map_err(|error| Error::Invalid {
        what: "the address that other members are to reach",
        why: format!("{}: {error}", wanted.listen),
    })?;
    let deliver = move |lane, received| {
        // A core that has gone needs no frames.
        let _ = match lane {
            Lane::Urgent => core.send_urgent(Message::Frame(received)),
            Lane::Log | Lane::Bulk => core.send(Message::Frame(received)),
        };
    };
    let common = peers::Common {
        transport,
        counters: shared.peers.clone(),
        nodes: Arc::default(),
        reports,
        deliver: Arc::new(deliver),
        now_ns: clock::mono_ns,
    };
    Peers::start(listener, common, jitter)
}

pub fn config(options: &Options, seed: [u8; 32]) -> Config {
    let peers = options.peers.as_ref();
    let address = peers.map_or(&options.advertise_addr, |peers| &peers.address);
    Config {
        node: options.node,
        node_name: options.node_name.clone(),
        advertise_addr: options.advertise_addr.clone(),
        address: address.clone(),
        feature_level_max: FEATURE_LEVEL_MAX,
        log_dir: log_dir(&options.raft_dir).to_string_lossy().into_owned(),
        seed,
        snapshot_bytes: options.segment_bytes * SNAPSHOT_AFTER_SEGMENTS,
        stopwatch: measuring::stopwatch,
    }
}

impl Core {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(INPUTS_PER_STEP);
        let mut again = true;
        while self.gather(&mut batch, again) {
            let now = clock::now();
            let mut outputs = self.control.step(now, batch.drain(..));
            again = outputs.again;
            let held = match self.may_write_here(&outputs) {
                true => std::mem::take(&mut outputs.persist),
                false => Vec::new(),
            };
            self.carry_out(outputs);
            self.shared.metrics.step.observe_since(Some(now.mono_ns));
            let durable = self.write_here(held);
            batch.extend(durable.map(Input::Persisted));
            if batch.is_empty() {
                self.publish();
            }
        }
        self.stop();
    }

    /// Waits for something to do and takes what there is; false when it is time to stop. A tick
    /// comes after what was heard before it: a member that had to wait for the processor does not
    /// take its own silence for the leader's.
    fn gather(&mut self, batch: &mut Vec<Input>, at_once: bool) -> bool {
        let at_once = at_once || !batch.is_empty() || !self.inputs.is_empty();
        let wait_ns = self.next_tick_ns.saturating_sub(clock::mono_ns());
        let timeout = Duration::from_nanos(if at_once { 0 } else { wait_ns });
        self.mailbox
            .take(&mut self.urgent, &mut self.inputs, timeout);
        let urgent = self.urgent.len().min(INPUTS_PER_STEP);
        let urgent = self.urgent.drain(..urgent);
        batch.extend(urgent.filter_map(Message::into_input));
        if clock::mono_ns() >= self.next_tick_ns {
            let tick_ms = if self.is_alone() {
                LONE_TICK_MS
            } else {
                TICK_MS
            };
            self.next_tick_ns = clock::mono_ns() + tick_ms * 1_000_000;
            batch.push(Input::Tick);
        }
        while batch.len() < INPUTS_PER_STEP
            && let Some(message) = self.inputs.pop_front()
        {
            match message.into_input() {
                Some(input) => batch.push(input),
                None => return false,
            }
        }
        true
    }

    /// No other member hears of what this one does, or misses it.
    fn is_alone(&self) -> bool {
        self.control.conf_state().is_none_or(|conf| {
            conf.voters.len() == 1 && conf.learners.is_empty() && !conf.is_joint()
        })
    }

    /// Nobody but this core needs what it has to say: no other member hears of it, and the log has
    /// little to do.
    fn may_write_here(&self, outputs: &Outputs) -> bool {
        let small = |log: &Log| log.is_small(&outputs.persist);
        self.log.as_ref().is_some_and(small)
            && self.is_alone()
            && outputs.frames.is_empty()
            && outputs.compact.is_none()
    }

    /// Writes what was held back, unless somebody has come who would wait for it. The number that
    /// is durable then; `None` if the log's thread will say so.
    fn write_here(&mut self, held: Vec<Persist>) -> Option<u64> {
        let log = self.log.as_ref().filter(|_| !held.is_empty())?;
        if self.inputs.is_empty() && self.mailbox.is_empty() {
            return log.persist_here(held);
        }
        log.persist(held);
        None
    }

    fn carry_out(&mut self, outputs: Outputs) {
        if let Some(log) = &self.log {
            log.persist(outputs.persist);
            if let Some(at) = outputs.compact {
                log.compact(at);
            }
        }
        if let Some(peers) = &mut self.peers {
            if let Some(now) = outputs.peers
                && let Err(error) = peers.set(now)
            {
                let line = LogLine::new(Level::Warning, "peers", error.to_string());
                self.shared.completions.log(clock::now().wall_ms, &line);
            }
            for FrameOut { to, lane, bytes } in outputs.frames {
                peers.send(to, lane, bytes);
            }
        }
        // Whoever has an answer finds in the status what it says.
        if !outputs.replies.is_empty() {
            self.publish();
        }
        let completions = &self.shared.completions;
        completions.extend(outputs.replies, outputs.items, outputs.ended);
        for line in &outputs.log_lines {
            completions.log(clock::now().wall_ms, line);
        }
        for job in outputs.reads {
            let _ = self.reads.send(job);
        }
        // What must stay is said before the next snapshot makes others go.
        let in_use = outputs.snapshots_in_use.map(FileJob::InUse).into_iter();
        let taken = outputs.snapshot.map(Box::new).map(FileJob::Take);
        let received = outputs.snapshot_writes.into_iter().map(FileJob::Receive);
        let sent = outputs.snapshot_reads.into_iter().map(FileJob::Send);
        let kept = outputs.backups.into_iter().map(Box::new);
        let kept = kept.map(FileJob::Backup);
        for job in in_use.chain(taken).chain(received).chain(sent).chain(kept) {
            // The thread ends before this one only together with the process.
            let _ = self.files.send(job);
        }
        if let Some(stop) = outputs.stop {
            if !stop.removed {
                fatal::die("control", &stop.why);
            }
            // The daemon closes this core, and goes on as what its node still is.
            self.shared.removed.store(true, Ordering::Relaxed);
        }
        self.shared.metrics.samples(&outputs.samples);
        if measuring::is_on() {
            for (peer, took_ns) in outputs.samples.round_trip_ns {
                self.shared.peers.round_trips.observe_ns(peer, took_ns);
            }
        }
        if let Some(identity) = outputs.create_log {
            let created = self.create_log(identity);
            let _ = self
                .mailbox
                .send(Message::Input(Input::LogCreated(created)));
        }
    }

    /// Once in a cluster's life, and nothing else is going on then.
    fn create_log(&mut self, identity: Identity) -> Result<(), Error> {
        let wal = durable::create(
            Arc::new(FileDisk),
            &self.options.raft_dir,
            &identity,
            true,
            self.options.wal(),
        )?;
        let _ = self.files.send(FileJob::Belong(identity));
        self.start_log(wal)
    }

    fn start_log(&mut self, wal: Wal) -> Result<(), Error> {
        let (log, thread) = Log::start(wal, self.mailbox.clone(), self.shared.clone())?;
        self.helpers.push(thread);
        self.log = Some(log);
        self.shared.is_member.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Says how things stand, for whoever looks. The gauges take O(nodes), so they are behind by up
    /// to [`GAUGES_EVERY_MS`] and a tick, which is a step too.
    fn publish(&mut self) {
        let now_ns = clock::mono_ns();
        self.shared.core_beat_ns.store(now_ns, Ordering::Relaxed);
        let status = self.control.status();
        let mut view = self
            .shared
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.gauges_of != status.applied_index
            && now_ns >= self.gauges_due_ns
            && measuring::is_on()
            && let Some(state) = self.control.state()
        {
            view.gauges = Gauges::of(state);
            self.gauges_of = status.applied_index;
            self.gauges_due_ns = now_ns + GAUGES_EVERY_MS * 1_000_000;
        }
        if let Some(orchestrator) = self.control.orchestrator() {
            view.orchestrator = orchestrator.stats();
        }
        view.status = Some(status);
    }

    /// What has been handed to the log becomes durable; what has not was never acknowledged.
    fn stop(mut self) {
        // The others learn at once that this one is gone.
        drop(self.peers.take());
        self.mailbox.close();
        if let Some(log) = self.log.take() {
            log.close();
        }
        let helpers = std::mem::take(&mut self.helpers);
        drop(self);
        for helper in helpers {
            // A panic has ended the process already.
            let _ = helper.join();
        }
    }
}
