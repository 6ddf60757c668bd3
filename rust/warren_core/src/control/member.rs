//! A member of a cluster: consensus, state and orchestration, and who waits for what of them.

mod care;
mod change;
mod entry;
pub mod forwarding;
mod frames;
mod nodes;
mod reading;
mod recovery;
mod removal;
mod role;
mod snapshots;
pub(super) mod usage;

use prost::Message as _;

use super::calls::Calls;
use super::causes::{self, Causes};
use super::entropy::Entropy;
use super::hashes::Hashes;
use super::history::History;
use super::peer::{Myself, Peers};
use super::proposals::Proposals;
use super::sessions::Sessions;
use super::watches::Watches;
use super::{
    CallId, Config, Identity, Input, Level, LogLine, Now, Outputs, Recovered, Standing, Status,
    Stop, Transfers,
};
use crate::error::Error;
use crate::fsm::{Applied, Event, State};
use crate::ids::Term;
use crate::orchestrator::Orchestrator;
use crate::pb;
use crate::raft::{self, Committed, Position, Raft, Role, Severity, Work};
use care::Care;
use change::Changes;
use forwarding::Forwards;
use reading::Reads;
use removal::Removals;
use snapshots::Snapshots;

/// Times round the loop of one step; what is left is done by the next.
const ROUNDS_MAX: usize = 8;
/// Commands applied in one step, by their length: what is committed at once may be what a disk
/// was busy with for long. Three of the slowest ones, which bind, take a good millisecond.
const APPLIED_BYTES_MAX: usize = 12 << 10;
/// What is looked after by the clock is looked at this often.
const UPKEEP_MS: u64 = 100;
/// Entries committed at once are timed in so many groups: reading the clock for each costs a leader
/// under load more than a hundredth of its throughput.
const TIMED_AT_ONCE: usize = 4;

/// Invariants: `state` is what the log says up to `applied`; `leading` implies that the raft is
/// leader and an entry of its term is applied; `sessions` and `watches` are empty unless leading;
/// nothing happens any more once `stopped`.
pub struct Member {
    pub config: Config,
    pub identity: Identity,
    pub raft: Raft,
    pub state: State,
    pub orchestrator: Orchestrator,
    pub sessions: Sessions,
    watches: Watches,
    proposals: Proposals,
    reads: Reads,
    peers: Peers,
    snapshots: Snapshots,
    changes: Changes,
    removals: Removals,
    forwards: Forwards,
    hashes: Hashes,
    care: Care,
    applied: Position,
    leading: bool,
    term_seen: Term,
    has_space: bool,
    founding: Option<(CallId, String)>,
    upkeep_at_ms: u64,
    /// The members changed, or the first step has yet to be made.
    members_changed: bool,
    /// As it was told to people last.
    frozen: bool,
    /// Left to this step by the one before.
    orchestration_owed: bool,
    verbose: bool,
    causes: Causes,
    history: History,
    stopped: bool,
}

impl Member {
    pub fn new(
        config: Config,
        recovered: Recovered,
        [raft_seed, context_seed]: [u64; 2],
    ) -> Result<Self, raft::Damaged> {
        let Recovered {
            identity,
            state,
            snapshot,
            hard_state,
            entries,
            cut,
        } = recovered;
        let log_bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        let applied = snapshot.as_ref().map_or(Position::default(), |(at, _)| *at);
        let snapshots = Snapshots::new(applied, log_bytes);
        let newest = snapshot.clone();
        let recovered = raft::Recovered {
            member: identity.member,
            snapshot,
            hard_state,
            entries,
            cut,
        };
        let mut raft = Raft::new(recovered, raft_seed)?;
        if let Some((at, conf)) = newest {
            raft.set_snapshot(at, conf);
        }
        let myself = Myself {
            identity,
            address: config.address.clone(),
            api_address: config.advertise_addr.clone(),
            feature_level_max: config.feature_level_max,
            out_of_space: false,
        };
        let history = History::begin(&state);
        let mut peers = Peers::new(myself);
        for member in state.members() {
            peers.bind(member.id, member.data_dir);
        }
        Ok(Self {
            config,
            identity,
            raft,
            state,
            orchestrator: Orchestrator::new(raft_seed),
            sessions: Sessions::default(),
            watches: Watches::default(),
            proposals: Proposals::default(),
            reads: Reads::new(context_seed),
            peers,
            snapshots,
            changes: Changes::default(),
            removals: Removals::default(),
            forwards: Forwards::default(),
            hashes: Hashes::default(),
            care: Care::default(),
            applied,
            leading: false,
            term_seen: Term(0),
            has_space: true,
            founding: None,
            upkeep_at_ms: 0,
            members_changed: true,
            frozen: false,
            orchestration_owed: false,
            verbose: false,
            causes: Causes::default(),
            history,
            stopped: false,
        })
    }

    pub fn standing(&self) -> Standing {
        Standing {
            is_leader: self.raft.role() == Role::Leader,
            serving: self.leading,
            term: self.raft.term(),
            commit_index: self.raft.commit_index(),
            applied_index: self.applied.index,
        }
    }

    pub fn status(&self, open_calls: usize) -> Status {
        let role = self.raft.role();
        let conf = self.raft.conf_state();
        Status {
            in_cluster: self.state.cluster().is_some(),
            is_leader: role == Role::Leader,
            serving: self.leading,
            term: self.raft.term(),
            last_index: self.raft.last().index,
            commit_index: self.raft.commit_index(),
            applied_index: self.applied.index,
            voters: conf.voters.len(),
            learners: conf.learners.len(),
            is_joint: conf.is_joint(),
            cut: self.raft.is_cut(),
            leader: self.raft.leader(),
            has_space: self.has_space,
            sessions: self.sessions.len(),
            session_bytes: self.sessions.waiting_bytes(),
            watches: self.watches.len(),
            proposals: self.proposals.len(),
            open_calls,
            feature_level: self.state.feature_level(),
            frozen: self.state.freeze().is_some(),
            crash_looping: self.orchestrator.crash_looping(),
            pending: self.orchestrator.pending_count(),
            peers: self.peers.stats(),
            lags: self.raft.lags(),
            silent_voters: self.raft.silent_voters(),
            transfers: Transfers {
                sending: self.snapshots.sending.len(),
                receiving: self.snapshots.receiving.is_receiving(),
                sent_bytes: self.snapshots.sending.sent_bytes(),
                received_bytes: self.snapshots.receiving.received_bytes(),
            },
            hash_mismatches: self.hashes.mismatches(),
            forwards: self.forwards.stats(),
            retired: self.care.is_retired(role == Role::Leader),
        }
    }

    /// A cluster is to begin here: done when this member leads itself.
    pub fn found(&mut self, _now: Now, call: CallId, advertise_addr: String) {
        self.founding = Some((call, advertise_addr));
    }

    /// Whether lines of level debug are wanted.
    pub fn set_verbose(&mut self, verbose: bool) {
        self.verbose = verbose;
        self.raft.set_verbose(verbose);
    }

    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outputs) {
        if self.stopped {
            return;
        }
        match input {
            Input::Tick => {
                self.raft.tick();
                self.reads.tick();
                self.watches.touch_waiting();
            }
            Input::Pulse => {
                self.care.pulse(now.mono_ms());
                self.orchestrator.pulse(now.mono_ms());
            }
            Input::Taken(id) => {
                self.watches.taken(id);
                self.sessions.taken(now, id, out);
            }
            Input::Cancel(id) => self.cancel(now, id),
            Input::Persisted(number) => {
                self.care.persisted(number, now.mono_ms());
                self.raft.persisted(number);
            }
            Input::Space(has_space) => {
                self.has_space = has_space;
                self.peers.set_space(has_space, out);
            }
            Input::Frame(bytes) => self.frame(now, &bytes, out),
            Input::Snapshotted(result) => self.snapshotted(now, result, out),
            Input::SnapshotRead { token, result } => self.snapshot_read(token, result, out),
            Input::SnapshotWritten { at, result } => self.snapshot_written(at, result, out),
            Input::SnapshotLoaded { at, result } => self.snapshot_loaded(at, result, out),
            Input::Retire => self.care.retire(now.mono_ms()),
            Input::Call(_) | Input::Subscribe(_) | Input::LogCreated(_) | Input::Verbose(_) => {
                unreachable!("the machine takes these itself")
            }
        }
    }

    /// Carries everything on that can go on: persist, commit, apply, answer, orchestrate. The one
    /// place that fixes the order: an entry is applied only out of [`Work::committed`], which
    /// consensus fills only with what is durable; a snapshot replaces the state where
    /// [`Work::installed`] says so.
    pub fn pump(&mut self, now: Now, entropy: &mut Entropy, calls: &mut Calls, out: &mut Outputs) {
        if self.stopped {
            return;
        }
        self.follow_members(now, out);
        self.take_forwards(now, entropy, calls, out);
        // Whoever waits for an answer does not wait for the orchestrator too: it comes in the next
        // step, and in that one whatever else there is.
        let owed = std::mem::take(&mut self.orchestration_owed);
        let mut applied = 0;
        for round in 0.. {
            self.ask_reads(now, calls, out);
            let mut busy = false;
            while applied < APPLIED_BYTES_MAX
                && let Some(work) = self.raft.take_work()
            {
                busy = true;
                let bytes = |committed: &Committed| committed.command.len();
                applied += work.committed.iter().map(bytes).sum::<usize>();
                self.carry_out(now, work, calls, out);
                if self.stopped {
                    return;
                }
                if round + 1 == ROUNDS_MAX {
                    break;
                }
            }
            self.follow_role(now, calls, out);
            self.follow_members(now, out);
            self.begin_cluster(now, entropy, calls, out);
            if owed || out.replies.is_empty() {
                busy |= self.orchestrate(now, entropy, out);
            } else {
                self.orchestration_owed = true;
                out.again = true;
            }
            let enough = applied >= APPLIED_BYTES_MAX;
            if !busy || enough || round + 1 == ROUNDS_MAX {
                out.again |= busy || enough;
                break;
            }
        }
        self.forget_refused_snapshot(out);
        self.settle_removals(calls, out);
        self.upkeep(now, entropy, calls, out);
        self.answer_released(now, entropy, calls, out);
        // What these have proposed is taken up at once and does not wait for the next tick.
        out.again |= self.raft.has_appended();
        self.flush_sessions(out);
        self.watches.flush(&self.state, &self.orchestrator, out);
        self.snapshot_if_due(now, out);
        out.samples
            .scheduling_ms
            .extend(self.orchestrator.take_scheduling_latencies_ms());
        for note in self.raft.take_notes() {
            let level = match note.severity {
                Severity::Debug => Level::Debug,
                Severity::Info => Level::Info,
                Severity::Warning => Level::Warning,
            };
            out.log(level, "raft", note.message);
        }
    }

    /// What is looked after by the clock and not by events.
    fn upkeep(&mut self, now: Now, entropy: &mut Entropy, calls: &mut Calls, out: &mut Outputs) {
        let now_ms = now.mono_ms();
        if now_ms < self.upkeep_at_ms {
            return;
        }
        self.upkeep_at_ms = now_ms + UPKEEP_MS;
        self.peers.tick(now_ms, out);
        self.ask_again(now, calls);
        self.confirm_lead(now);
        self.doubt_forwards(now, calls, out);
        self.tend_transfers(now, out);
        self.tend_changes(now, entropy, calls, out);
        self.tend_lead(now, out);
        self.end_if_gone(now, out);
    }

    fn carry_out(&mut self, now: Now, work: Work, calls: &mut Calls, out: &mut Outputs) {
        if let Some(persist) = &work.persist {
            let bytes = |entry: &raft::LogEntry| entry.payload.len() as u64;
            self.snapshots
                .log_grew(persist.entries.iter().map(bytes).sum());
            self.care.persisting(persist.number, now.mono_ms());
        }
        out.persist.extend(work.persist);
        for message in work.messages {
            self.send_raft(now, message, out);
        }
        if let Some(at) = work.installed {
            self.swap_state(now, at, calls, out);
        }
        self.apply_all(now, work.committed, calls, out);
        if self.stopped {
            return;
        }
        self.raft.applied(self.applied.index);
        for read in work.reads {
            self.read_ready(now, read, out);
        }
        self.snapshots_wanted(now, &work.snapshots_wanted, work.snapshot_due, out);
    }

    /// Timed by groups; each entry counts with the mean of its group, so that none is missed.
    fn apply_all(
        &mut self,
        now: Now,
        committed: Vec<Committed>,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        let size = committed.len().div_ceil(TIMED_AT_ONCE);
        let mut left = committed.into_iter();
        let mut started_ns = (self.config.stopwatch)();
        while left.len() > 0 {
            let count = left.len().min(size);
            for committed in left.by_ref().take(count) {
                self.apply(now, committed, calls, out);
                if self.stopped {
                    return;
                }
            }
            let done_ns = (self.config.stopwatch)();
            if let (Some(started_ns), Some(done_ns)) = (started_ns, done_ns) {
                let took_ns = done_ns.saturating_sub(started_ns);
                let mean_ns = took_ns / count as u64;
                out.samples.apply_ns.push((mean_ns, count as u32));
            }
            started_ns = done_ns;
        }
    }

    fn apply(&mut self, now: Now, committed: Committed, calls: &mut Calls, out: &mut Outputs) {
        let Committed {
            at,
            command,
            change,
        } = committed;
        let mut response = Ok(Vec::new());
        if command.is_empty() {
            self.state.advance(at.index, at.term);
            // The end of a change of voters says nothing else either, nor does what settles a removal.
            if change.is_none() && at.term > self.applied.term {
                self.note_election(now, at);
            }
        } else {
            let level_max = self.config.feature_level_max;
            let applied = self
                .state
                .apply_bytes_as(level_max, at.index, at.term, &command);
            match applied {
                Ok(applied) => {
                    self.history.dated(&self.state);
                    self.note_entry(at, &command, &applied, out);
                    self.observe(now, &applied.events, out);
                    response = applied.response;
                }
                // What this release cannot read must not be skipped: every later state would
                // differ from the other members'.
                Err(error) => {
                    return self.stop(format!("entry {}: {error}", at.index.0), true, out);
                }
            }
        }
        self.applied = at;
        if let Some(change) = change {
            self.raft.apply_change(&change);
            self.removals.reconfigured(now.mono_ms());
            self.members_changed = true;
        }
        if let Some(took_ns) = self.resolve(now, at, &response, calls, out) {
            out.samples.committed(took_ns);
        }
        self.exchange_hash(out);
    }

    /// Remembers who leads, as far as this member knows.
    fn note_election(&mut self, now: Now, at: Position) {
        let leader = self.raft.leader().filter(|_| self.raft.term() == at.term);
        let own = leader == Some(self.identity.member);
        let own_ms = own.then_some(now.wall_ms);
        self.history.elected(&self.state, leader, own_ms);
    }

    /// Remembers what it changed besides containers, and who asked for it; says so where that is
    /// wanted.
    fn note_entry(&mut self, at: Position, command: &[u8], applied: &Applied, out: &mut Outputs) {
        let container = |event: &Event| matches!(event, Event::Container { .. });
        if !self.verbose && applied.events.iter().all(container) {
            return;
        }
        let pb::Command {
            request, identity, ..
        } = pb::Command::decode(command).unwrap_or_default();
        self.causes.applied(request.as_ref(), &applied.events);
        // The cluster's own commands are asked for by nobody.
        let by = request.as_ref().map_or("", |_| identity.as_str());
        self.history.applied(&self.state, &applied.events, by);
        if let Some(request) = request.filter(|_| self.verbose) {
            let (done, code) = match &applied.response {
                Ok(_) => ("applied what a request asked for", None),
                Err(refusal) => ("refused what a request asked for", Some(refusal.code())),
            };
            let mut line = LogLine::new(Level::Debug, "control", done)
                .with("request_id", causes::name_of(&request))
                .with("index", at.index.0.to_string())
                .with("term", at.term.0.to_string());
            line.fields
                .extend(code.map(|code| ("code", code.to_owned())));
            out.log_lines.push(line);
        }
    }

    fn observe(&mut self, now: Now, events: &[Event], out: &mut Outputs) {
        let members = |event: &Event| matches!(event, Event::Member { .. } | Event::Cluster);
        if events.iter().any(members) {
            self.members_changed = true;
            self.sessions.managers_changed();
            for member in self.state.members() {
                self.peers.bind(member.id, member.data_dir);
            }
        }
        self.tell_freeze(out);
        if !self.leading {
            return;
        }
        self.orchestrator.observe(&self.state, events);
        for event in events {
            match *event {
                Event::Service { id, .. } => self.watches.touch(id),
                Event::Container {
                    id, service, node, ..
                } => {
                    self.watches.touch(service);
                    self.sessions.touch(now, node, id);
                }
                Event::Node { id } if self.state.node(id).is_none() => {
                    let node = id.to_string();
                    self.sessions.end(id, &Error::NodeRemoved { node }, out);
                }
                Event::Cluster | Event::Node { .. } | Event::Member { .. } => {}
            }
        }
    }

    /// Nothing more is done: the driver shuts down and says why.
    fn stop(&mut self, why: String, keep_logs: bool, out: &mut Outputs) {
        let removed = false;
        let stop = Stop {
            why,
            keep_logs,
            removed,
        };
        self.end(stop, out);
    }

    /// Nothing more is done, and nothing is wrong: the cluster goes on without this member.
    fn stop_removed(&mut self, why: String, out: &mut Outputs) {
        let (keep_logs, removed) = (false, true);
        let stop = Stop {
            why,
            keep_logs,
            removed,
        };
        self.end(stop, out);
    }

    fn end(&mut self, stop: Stop, out: &mut Outputs) {
        self.stopped = true;
        out.log(Level::Warning, "control", format!("stopping: {}", stop.why));
        out.stop = Some(stop);
    }
}
