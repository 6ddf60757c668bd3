//! The core's own series, rendered without the interpreter.

mod members;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::histogram::Histogram;
use super::{CALLS_MAX, Shared, View, measuring};
use crate::control::{PROPOSALS_MAX, Samples, WAITING_BYTES_MAX, WATCHES_MAX};
use crate::fsm::{ContainerState, Node, NodeStatus, State};
use crate::wal;

/// Where a call can find no room.
#[derive(Clone, Copy, Debug)]
pub enum Queue {
    Calls,
    Streams,
}

#[derive(Default)]
pub struct Metrics {
    pub append: Histogram,
    fsync: Histogram,
    pub step: Histogram,
    commit: Histogram,
    apply: Histogram,
    reconcile: Histogram,
    scheduling: Histogram,
    assignment: Histogram,
    snapshot: Histogram,
    elections: AtomicU64,
    leader_changes: AtomicU64,
    rejected_calls: AtomicU64,
    rejected_streams: AtomicU64,
    batch_entries: AtomicU64,
    batches: AtomicU64,
    log_queue_depth: AtomicUsize,
    log_written_bytes: AtomicU64,
    log_allocated_bytes: AtomicU64,
    log_segments: AtomicUsize,
    snapshot_bytes: AtomicU64,
    snapshot_failures: AtomicU64,
}

impl Metrics {
    pub fn samples(&self, samples: &Samples) {
        if measuring::is_on() {
            self.durations(samples);
        }
        self.elections.fetch_add(samples.elections, Relaxed);
        self.leader_changes
            .fetch_add(samples.leader_changes, Relaxed);
    }

    fn durations(&self, samples: &Samples) {
        self.commit.observe_all(samples.commit_ns.iter().copied());
        self.apply.observe_all(samples.apply_ns.iter().copied());
        for ns in &samples.reconcile_ns {
            self.reconcile.observe_ns(*ns);
        }
        let told = samples.assignment_ns.iter();
        self.assignment.observe_all(told.map(|ns| (*ns, 1)));
        let scheduled = samples.scheduling_ms.iter();
        self.scheduling
            .observe_all(scheduled.map(|ms| (ms * 1_000_000, 1)));
    }

    pub fn count_rejection(&self, queue: Queue) {
        match queue {
            Queue::Calls => self.rejected_calls.fetch_add(1, Relaxed),
            Queue::Streams => self.rejected_streams.fetch_add(1, Relaxed),
        };
    }

    /// What waits for the log, or is being done.
    pub fn log_queue(&self, jobs: usize) {
        self.log_queue_depth.store(jobs, Relaxed);
    }

    /// One commit of the log, and the entries in it.
    pub fn batch(&self, entries: usize) {
        if !measuring::is_on() {
            return;
        }
        self.batches.fetch_add(1, Relaxed);
        self.batch_entries.fetch_add(entries as u64, Relaxed);
    }

    /// The log's batch is durable, after a write and fdatasync that took so long.
    pub fn durable(&self, took_ns: u64, stats: &wal::Stats) {
        if measuring::is_on() {
            self.fsync.observe_ns(took_ns);
            self.set_log(stats);
        }
    }

    pub fn set_log(&self, stats: &wal::Stats) {
        self.log_written_bytes
            .store(stats.written_bytes_total, Relaxed);
        self.log_allocated_bytes
            .store(stats.allocated_bytes, Relaxed);
        self.log_segments.store(stats.segments, Relaxed);
    }

    pub fn snapshot(&self, took_ns: u64, written: bool) {
        if written {
            self.snapshot.observe_ns(took_ns);
        } else {
            self.snapshot_failures.fetch_add(1, Relaxed);
        }
    }

    pub fn newest_snapshot(&self, bytes: u64) {
        self.snapshot_bytes.store(bytes, Relaxed);
    }
}

/// Counts of what is in the state.
#[derive(Default)]
pub struct Gauges {
    nodes: BTreeMap<(&'static str, &'static str), u64>,
    services: usize,
    volumes: u64,
    containers: Vec<(&'static str, u64)>,
}

const CONTAINER_STATES: [(ContainerState, &str); 10] = [
    (ContainerState::Pending, "pending"),
    (ContainerState::Assigned, "assigned"),
    (ContainerState::Preparing, "preparing"),
    (ContainerState::Starting, "starting"),
    (ContainerState::Running, "running"),
    (ContainerState::Complete, "complete"),
    (ContainerState::Failed, "failed"),
    (ContainerState::Shutdown, "shutdown"),
    (ContainerState::Rejected, "rejected"),
    (ContainerState::Lost, "lost"),
];

impl Gauges {
    /// O(nodes).
    pub fn of(state: &State) -> Self {
        let mut nodes = BTreeMap::new();
        for role in ["manager", "worker", "hybrid"] {
            nodes.extend(["ready", "down"].map(|status| ((role, status), 0)));
        }
        let mut volumes = 0;
        for node in state.nodes() {
            *nodes.entry((role(node), status(node))).or_default() += 1;
            volumes += node.description.volumes.len() as u64;
        }
        let containers = CONTAINER_STATES
            .map(|(kind, name)| (name, state.containers_in(kind)))
            .to_vec();
        Self {
            nodes,
            services: state.service_count(),
            volumes,
            containers,
        }
    }
}

fn role(node: &Node) -> &'static str {
    match (node.manager, node.worker) {
        (true, true) => "hybrid",
        (true, false) => "manager",
        (false, _) => "worker",
    }
}

fn status(node: &Node) -> &'static str {
    if node.status == NodeStatus::Ready {
        "ready"
    } else {
        "down"
    }
}

/// Everything, in the text format 0.0.4. `fine`: histograms with buckets from 1 µs.
pub fn render(shared: &Shared, fine: bool) -> Vec<u8> {
    let mut page = Page(String::with_capacity(16 << 10), fine);
    {
        let view = shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        render_cluster(&view, &mut page);
        render_raft(&view, &shared.metrics, &mut page);
        if let Some(status) = &view.status {
            members::render(status, &mut page);
        }
        render_orchestration(&view, &shared.metrics, &mut page);
        render_queues(&view, shared, &mut page);
    }
    render_disk(shared, &mut page);
    shared.peers.render(fine, &mut page.0);
    page.0.into_bytes()
}

fn render_cluster(view: &View, page: &mut Page) {
    if !view.status.as_ref().is_some_and(|status| status.in_cluster) {
        return;
    }
    let gauges = &view.gauges;
    page.family("warren_nodes_total", "gauge", "Nodes by role and status.");
    for ((role, status), count) in &gauges.nodes {
        page.line(
            &format!("warren_nodes_total{{role=\"{role}\",status=\"{status}\"}}"),
            *count,
        );
    }
    page.gauge(
        "warren_services_total",
        "Services in the cluster.",
        gauges.services as u64,
    );
    page.gauge(
        "warren_volumes_total",
        "Volumes that nodes have, each counted on its node.",
        gauges.volumes,
    );
    page.family("warren_containers_total", "gauge", "Containers by state.");
    for (state, count) in &gauges.containers {
        page.line(
            &format!("warren_containers_total{{state=\"{state}\"}}"),
            *count,
        );
    }
}

fn render_raft(view: &View, metrics: &Metrics, page: &mut Page) {
    let Some(status) = &view.status else { return };
    let leads = u64::from(status.is_leader);
    page.gauge("warren_raft_is_leader", "1 on the leader, else 0.", leads);
    let members = (status.voters + status.learners) as u64;
    page.gauge(
        "warren_raft_peers_total",
        "Members of the current configuration.",
        members,
    );
    page.gauge(
        "warren_raft_log_index",
        "Last index in the log.",
        status.last_index.0,
    );
    page.gauge(
        "warren_raft_applied_index",
        "Last index applied.",
        status.applied_index.0,
    );
    page.gauge("warren_raft_term", "Current term.", status.term.0);
    page.counter(
        "warren_raft_elections_total",
        "Elections: terms begun, as far as this manager saw.",
        metrics.elections.load(Relaxed),
    );
    let changes = metrics.leader_changes.load(Relaxed);
    page.counter(
        "warren_raft_leader_changes_total",
        "How often this manager took the lead or lost it.",
        changes,
    );
    page.histogram(
        "warren_raft_commit_duration_seconds",
        "Proposal accepted to committed, on the leader.",
        &metrics.commit,
    );
    page.histogram(
        "warren_raft_apply_duration_seconds",
        "Apply of one entry to the state; many committed at once are timed in four groups.",
        &metrics.apply,
    );
}

fn render_orchestration(view: &View, metrics: &Metrics, page: &mut Page) {
    let stats = &view.orchestrator;
    page.histogram(
        "warren_scheduling_latency_seconds",
        "Container unplaced to bound, each container.",
        &metrics.scheduling,
    );
    page.counter(
        "warren_containers_scheduled_total",
        "Containers that were given a node.",
        stats.scheduled,
    );
    page.counter(
        "warren_containers_failed_total",
        "Placements that failed: no node suits, or it had changed meanwhile.",
        stats.failed,
    );
    page.counter(
        "warren_containers_preempted_total",
        "Containers that had to make room for others of a higher priority.",
        stats.preempted,
    );
    page.gauge(
        "warren_containers_pending",
        "Slots that wait for a node, as the leader knows; 0 on others.",
        view.status
            .as_ref()
            .map_or(0, |status| status.pending as u64),
    );
    page.gauge(
        "warren_containers_crash_looping",
        "Slots whose containers crash again and again.",
        view.status
            .as_ref()
            .map_or(0, |status| status.crash_looping as u64),
    );
    page.histogram(
        "warren_reconciliation_duration_seconds",
        "One pass of the orchestrator over what has changed.",
        &metrics.reconcile,
    );
    page.counter(
        "warren_reconciliation_cycles_total",
        "Passes of the orchestrator over what has changed.",
        stats.cycles,
    );
    page.counter(
        "warren_reconciler_missed_total",
        "Changes that only the sweep found, and nobody had told of: zero, always.",
        stats.missed,
    );
    page.gauge(
        "warren_reconciler_frozen",
        "1 while nothing is replaced because too many workers were lost at once.",
        u64::from(view.status.as_ref().is_some_and(|status| status.frozen)),
    );
}

fn render_queues(view: &View, shared: &Shared, page: &mut Page) {
    let status = view.status.as_ref();
    let queues = [
        ("calls", shared.calls.load(Relaxed), CALLS_MAX),
        ("streams", shared.streams.load(Relaxed), shared.streams_max),
        (
            "completions",
            shared.completions.waiting(),
            CALLS_MAX + 2 * shared.streams_max,
        ),
        (
            "proposals",
            status.map_or(0, |status| status.proposals),
            PROPOSALS_MAX,
        ),
        (
            "watches",
            status.map_or(0, |status| status.watches),
            WATCHES_MAX,
        ),
        (
            "sessions",
            status.map_or(0, |status| status.sessions),
            shared.streams_max,
        ),
        (
            "log",
            shared.metrics.log_queue_depth.load(Relaxed),
            PROPOSALS_MAX,
        ),
    ];
    page.family(
        "warren_core_queue_depth",
        "gauge",
        "What waits in each queue of the core.",
    );
    for (name, depth, _) in queues {
        page.line(
            &format!("warren_core_queue_depth{{queue=\"{name}\"}}"),
            depth as u64,
        );
    }
    page.family(
        "warren_core_queue_limit",
        "gauge",
        "What each queue of the core holds at most.",
    );
    for (name, _, limit) in queues {
        page.line(
            &format!("warren_core_queue_limit{{queue=\"{name}\"}}"),
            limit as u64,
        );
    }
    let name = "warren_core_queue_rejections_total";
    page.family(
        name,
        "counter",
        "What was refused because a queue was full.",
    );
    page.line(
        &format!("{name}{{queue=\"calls\"}}"),
        shared.metrics.rejected_calls.load(Relaxed),
    );
    let streams = shared.metrics.rejected_streams.load(Relaxed);
    page.line(&format!("{name}{{queue=\"streams\"}}"), streams);
    page.histogram(
        "warren_assignment_lag_seconds",
        "From a change of what a worker is to run to the worker's stream having taken it.",
        &shared.metrics.assignment,
    );
    page.gauge(
        "warren_core_session_bytes",
        "Bytes that wait for workers to take them.",
        status.map_or(0, |status| status.session_bytes) as u64,
    );
    page.gauge(
        "warren_core_session_bytes_limit",
        "Bytes that may wait for workers at most.",
        WAITING_BYTES_MAX as u64,
    );
    let dropped = shared.completions.dropped_log_lines();
    page.counter(
        "warren_core_log_lines_dropped_total",
        "Log lines of the core that found no room on their way to the log.",
        dropped,
    );
    let (name, help) = (
        "warren_core_step_duration_seconds",
        "One step of the core: inputs taken, decided on, and acted upon.",
    );
    page.histogram(name, help, &shared.metrics.step);
}

fn render_disk(shared: &Shared, page: &mut Page) {
    let metrics = &shared.metrics;
    let (name, help) = (
        "warren_wal_append_duration_seconds",
        "Encoding of one batch of entries for the log.",
    );
    page.histogram(name, help, &metrics.append);
    let (name, help) = (
        "warren_wal_fsync_duration_seconds",
        "Write and fdatasync of one batch of entries.",
    );
    page.histogram(name, help, &metrics.fsync);
    let batches = metrics.batches.load(Relaxed);
    page.counter(
        "warren_wal_batches_total",
        "Batches of entries made durable, each with one fdatasync.",
        batches,
    );
    let entries = metrics.batch_entries.load(Relaxed);
    page.counter("warren_wal_entries_total", "Entries made durable.", entries);
    let bytes = metrics.log_written_bytes.load(Relaxed);
    page.counter(
        "warren_wal_written_bytes_total",
        "Bytes written to the log.",
        bytes,
    );
    let bytes = metrics.log_allocated_bytes.load(Relaxed);
    page.gauge(
        "warren_wal_allocated_bytes",
        "Space allocated for the log.",
        bytes,
    );
    let segments = metrics.log_segments.load(Relaxed) as u64;
    page.gauge(
        "warren_wal_segments",
        "Segments of the log in use.",
        segments,
    );
    let full = u64::from(shared.log_health.is_out_of_space());
    page.gauge(
        "warren_wal_out_of_space",
        "1 while writes are refused for want of space.",
        full,
    );
    let (name, help) = (
        "warren_snapshot_duration_seconds",
        "Writing of one snapshot.",
    );
    page.histogram(name, help, &metrics.snapshot);
    let bytes = metrics.snapshot_bytes.load(Relaxed);
    page.gauge(
        "warren_snapshot_bytes",
        "Size of the newest snapshot.",
        bytes,
    );
    let failures = metrics.snapshot_failures.load(Relaxed);
    page.counter(
        "warren_snapshot_failures_total",
        "Snapshots that failed.",
        failures,
    );
    let name = "warren_core_latency_seconds";
    page.family(
        name,
        "gauge",
        "Quantiles of commits, fsyncs and applies since the start, within 1 %.",
    );
    for (of, histogram) in [
        ("commit", &metrics.commit),
        ("fsync", &metrics.fsync),
        ("apply", &metrics.apply),
    ] {
        for q in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let seconds = histogram.quantile_ns(q) as f64 / 1e9;
            let _ = writeln!(
                page.0,
                "{name}{{of=\"{of}\",quantile=\"{q:?}\"}} {seconds:?}"
            );
        }
    }
}

/// The text, and whether histograms have finer buckets in it.
struct Page(String, bool);

/// Writing to a string cannot fail.
impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, series: &str, value: u64) {
        let _ = writeln!(self.0, "{series} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.line(name, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.line(name, value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        histogram.render(name, help, self.1, &mut self.0);
    }
}
