//! The thread that owns the machine, and the threads that it feeds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::log_thread::{Job, LogThread};
use super::metrics::Gauges;
use super::snapshots::{self, Job as FileJob};
use super::{Message, Options, Shared, clock, fatal};
use crate::control::durable::{self, Found, Snapshots, log_dir};
use crate::control::{Config, Control, Identity, Input, Outputs, ReadJob};
use crate::error::Error;
use crate::fsm::FEATURE_LEVEL_MAX;
use crate::raft::TICK_MS;
use crate::wal::{FileDisk, Wal};

/// Inputs of one step: few enough that it stays short, enough that they share a commit.
const INPUTS_PER_STEP: usize = 128;
/// Segments of log behind a snapshot that make the next one due.
const SNAPSHOT_AFTER_SEGMENTS: u64 = 2;

struct Core {
    control: Control,
    options: Options,
    inputs: Receiver<Message>,
    own: Sender<Message>,
    log: Option<Sender<Job>>,
    reads: Sender<ReadJob>,
    files: Sender<FileJob>,
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    next_tick_ns: u64,
}

/// Starts all threads; the one returned ends the others before itself.
pub fn start(
    options: Options,
    found: Option<Found>,
    shared: Arc<Shared>,
) -> Result<(Sender<Message>, Vec<JoinHandle<()>>), Error> {
    // Bounded by what is open: see the module's prose.
    let (own, inputs) = unbounded();
    let config = config(&options)?;
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
                shared.completions.log(line);
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
            .for_each(|job| answering.completions.reply(job.id.0, job.answer()));
    })?;
    let writer = snapshots::Files {
        snapshots: Snapshots::new(Arc::new(FileDisk), &options.raft_dir),
        jobs: file_jobs,
        core: own.clone(),
        shared: shared.clone(),
    };
    let snapshotter = fatal::spawn("snapshot", move || writer.run())?;
    let mut core = Core {
        control,
        options,
        inputs,
        own: own.clone(),
        log: None,
        reads,
        files,
        shared,
        helpers: vec![reader, snapshotter],
        next_tick_ns: clock::mono_ns(),
    };
    if let Some(identity) = identity {
        let _ = core.files.send(FileJob::Belong(identity));
    }
    if let Some(wal) = wal {
        core.start_log(wal)?;
    }
    Ok((own, vec![fatal::spawn("core", move || core.run())?]))
}

fn config(options: &Options) -> Result<Config, Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::DataDir {
        path: "the kernel's random source".into(),
        why: error.to_string(),
    })?;
    Ok(Config {
        node: options.node,
        node_name: options.node_name.clone(),
        advertise_addr: options.advertise_addr.clone(),
        address: options.advertise_addr.clone(),
        feature_level_max: FEATURE_LEVEL_MAX,
        log_dir: log_dir(&options.raft_dir).to_string_lossy().into_owned(),
        seed,
        snapshot_bytes: options.segment_bytes * SNAPSHOT_AFTER_SEGMENTS,
        stopwatch: clock::mono_ns,
    })
}

impl Core {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(INPUTS_PER_STEP);
        let mut again = true;
        while self.gather(&mut batch, again) {
            let now = clock::now();
            let outputs = self.control.step(now, batch.drain(..));
            again = outputs.again;
            self.carry_out(outputs);
            self.publish(now.mono_ns);
        }
        self.stop();
    }

    /// Waits for something to do and takes what there is; false when it is time to stop.
    fn gather(&mut self, batch: &mut Vec<Input>, at_once: bool) -> bool {
        let now_ns = clock::mono_ns();
        let wait_ns = if at_once {
            0
        } else {
            self.next_tick_ns.saturating_sub(now_ns)
        };
        let mut next = match self.inputs.recv_timeout(Duration::from_nanos(wait_ns)) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        if clock::mono_ns() >= self.next_tick_ns {
            self.next_tick_ns = clock::mono_ns() + TICK_MS * 1_000_000;
            batch.push(Input::Tick);
        }
        while let Some(message) = next {
            match message {
                Message::Stop => return false,
                Message::Input(input) => batch.push(input),
            }
            next = (batch.len() < INPUTS_PER_STEP)
                .then(|| self.inputs.try_recv().ok())
                .flatten();
        }
        true
    }

    fn carry_out(&mut self, outputs: Outputs) {
        let completions = &self.shared.completions;
        if let Some(log) = &self.log {
            // The log thread ends before this one only together with the process.
            outputs.persist.into_iter().for_each(|persist| {
                let _ = log.send(Job::Persist(persist));
            });
            if let Some(at) = outputs.compact {
                let _ = log.send(Job::Compact(at));
            }
        }
        for (id, result) in outputs.replies {
            completions.reply(id.0, result);
        }
        for (id, item) in outputs.items {
            completions.item(id.0, item);
        }
        for (id, error) in outputs.ended {
            completions.end(id.0, error);
        }
        for line in &outputs.log_lines {
            completions.log(line);
        }
        for job in outputs.reads {
            let _ = self.reads.send(job);
        }
        self.carry_out_files(
            outputs
                .snapshot
                .map(Box::new)
                .map(FileJob::Take)
                .into_iter()
                .chain(
                    outputs
                        .snapshots_in_use
                        .map(FileJob::InUse)
                        .into_iter()
                        .chain(outputs.snapshot_writes.into_iter().map(FileJob::Receive))
                        .chain(outputs.snapshot_reads.into_iter().map(FileJob::Send)),
                ),
        );
        if let Some(stop) = outputs.stop {
            fatal::die("control", &stop.why);
        }
        self.shared.metrics.samples(&outputs.samples);
        if let Some(identity) = outputs.create_log {
            let created = self.create_log(identity);
            let _ = self.own.send(Message::Input(Input::LogCreated(created)));
        }
    }

    fn carry_out_files(&self, jobs: impl Iterator<Item = FileJob>) {
        // The thread ends before this one only together with the process.
        jobs.for_each(|job| {
            let _ = self.files.send(job);
        });
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
        let (log, jobs) = unbounded();
        let (core, shared) = (self.own.clone(), self.shared.clone());
        let thread = LogThread {
            wal,
            jobs,
            core,
            shared,
        };
        self.helpers
            .push(fatal::spawn("wal", move || thread.run())?);
        self.log = Some(log);
        Ok(())
    }

    fn publish(&self, started_ns: u64) {
        let now_ns = clock::mono_ns();
        self.shared.metrics.step.observe_ns(now_ns - started_ns);
        self.shared.core_beat_ns.store(now_ns, Ordering::Relaxed);
        let status = self.control.status();
        let mut view = self
            .shared
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = view.status.as_ref().map(|known| known.applied_index);
        if changed != Some(status.applied_index)
            && let Some(state) = self.control.state()
        {
            view.gauges = Gauges::of(state);
        }
        if let Some(orchestrator) = self.control.orchestrator() {
            view.orchestrator = orchestrator.stats();
        }
        view.status = Some(status);
    }

    /// What has been handed to the log becomes durable; what has not was never acknowledged.
    fn stop(mut self) {
        if let Some(log) = self.log.take() {
            let _ = log.send(Job::Close);
        }
        let helpers = std::mem::take(&mut self.helpers);
        drop(self);
        for helper in helpers {
            // A panic has ended the process already.
            let _ = helper.join();
        }
    }
}
