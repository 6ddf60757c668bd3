//! Snapshots: taken here, sent to who lags too far, taken over from the leader.
//!
//! A received one replaces the state in this order: its file is durable, consensus takes it, the
//! log's marker says so ([`Persist::install`]), and what the log held before is dropped. The state in
//! memory changes where consensus says `installed`, before anything that follows is applied.
//!
//! [`Persist::install`]: crate::raft::Persist::install

use super::super::calls::Calls;
use super::super::history::History;
use super::super::peer::frame::Kind;
use super::super::transfer::receive::{Install, Receiving, Told};
use super::super::transfer::send::{End, Say, Sending};
use super::super::{Level, Now, Outputs, SnapshotBytes, SnapshotJob};
use super::Member;
use crate::error::Error;
use crate::fsm::{State, snapshot};
use crate::ids::MemberId;
use crate::mutant::{self, Mutant};
use crate::pb;
use crate::raft::{ConfState, Lane, Position};

/// A snapshot that failed is not tried again before this.
const RETRY_MS: u64 = 60_000;

/// What is under way.
pub struct Snapshots {
    pub sending: Sending,
    pub receiving: Receiving,
    /// The newest durable one of this member.
    newest: Position,
    /// Received and durable, on its way through consensus.
    installing: Option<Install>,
    /// Bytes of log since the newest.
    log_bytes: u64,
    /// One is being written, with the configuration it holds.
    running: Option<ConfState>,
    /// A follower needs one that is newer.
    wanted: bool,
    not_before_ms: u64,
    in_use: Vec<Position>,
}

impl Snapshots {
    pub fn new(newest: Position, log_bytes: u64) -> Self {
        Self {
            sending: Sending::default(),
            receiving: Receiving::default(),
            newest,
            installing: None,
            log_bytes,
            running: None,
            wanted: false,
            not_before_ms: 0,
            in_use: Vec::new(),
        }
    }

    pub fn log_grew(&mut self, bytes: u64) {
        self.log_bytes += bytes;
    }
}

impl Member {
    pub(super) fn snapshot_if_due(&mut self, now: Now, out: &mut Outputs) {
        let snapshots = &mut self.snapshots;
        let grown = snapshots.log_bytes >= self.config.snapshot_bytes
            && now.mono_ms() >= snapshots.not_before_ms;
        let due = (grown || snapshots.wanted) && snapshots.running.is_none();
        if !due || self.applied.index <= snapshots.newest.index {
            return;
        }
        let conf = self.raft.conf_state().clone();
        if conf.is_joint() {
            // Whoever starts from it would not know which data directory a member has that is gone
            // from the state, and votes.
            return;
        }
        let mut written = conf.clone();
        if mutant::is_on(Mutant::SnapshotsWithoutTheJoiner) {
            written.learners.clear();
        }
        let mut header = snapshot::header(&self.state, written.encode());
        // Also before the first command has said so to the state.
        header.cluster_id = self.identity.cluster.to_vec();
        header.epoch = self.identity.epoch;
        (snapshots.running, snapshots.wanted, snapshots.log_bytes) = (Some(conf), false, 0);
        out.snapshot = Some(SnapshotJob {
            state: self.state.clone(),
            header,
            at: self.applied,
        });
    }

    pub(super) fn snapshotted(
        &mut self,
        now: Now,
        result: Result<Position, Error>,
        out: &mut Outputs,
    ) {
        let conf = self.snapshots.running.take();
        match (result, conf) {
            (Ok(at), Some(conf)) if at.index > self.snapshots.newest.index => {
                self.snapshots.newest = at;
                self.raft.set_snapshot(at, conf);
                self.raft.compact(at, self.config.snapshot_bytes);
                out.compact = Some(at);
            }
            // One that was received meanwhile is newer.
            (Ok(_), _) => {}
            (Err(error), _) => {
                self.snapshots.log_bytes = self.config.snapshot_bytes;
                self.snapshots.not_before_ms = now.mono_ms() + RETRY_MS;
                let message = format!("{error}; trying again in a minute");
                out.log(Level::Warning, "snapshot", message);
            }
        }
    }

    /// Consensus found followers that its log does not reach.
    pub(super) fn snapshots_wanted(
        &mut self,
        now: Now,
        followers: &[MemberId],
        newer: bool,
        out: &mut Outputs,
    ) {
        self.snapshots.wanted |= newer;
        let at = self.snapshots.newest;
        for to in followers {
            let sending = &mut self.snapshots.sending;
            if !sending.begin(*to, at, now.mono_ms(), &mut out.snapshot_reads) {
                self.raft.snapshot_sent(*to, false);
            }
        }
        self.pin(out);
    }

    /// What is being sent stays on the disk.
    fn pin(&mut self, out: &mut Outputs) {
        let in_use = self.snapshots.sending.in_use();
        if in_use != self.snapshots.in_use {
            self.snapshots.in_use.clone_from(&in_use);
            out.snapshots_in_use = Some(in_use);
        }
    }

    pub(super) fn snapshot_read(
        &mut self,
        token: u64,
        result: Result<SnapshotBytes, Error>,
        out: &mut Outputs,
    ) {
        match self.snapshots.sending.was_read(token, result) {
            Some((to, Ok(say))) => self.say(to, &say, out),
            Some((to, Err(error))) => {
                let message = format!("not sent to member {}: {error}", to.0);
                out.log(Level::Warning, "snapshot", message);
                self.raft.snapshot_sent(to, false);
            }
            None => {}
        }
        self.pin(out);
    }

    fn say(&mut self, to: MemberId, say: &Say, out: &mut Outputs) {
        let lane = Lane::Bulk;
        match say {
            Say::Offer(offer) => self.peers.send(to, lane, Kind::SnapshotOffer, offer, out),
            Say::Chunk(chunk) => self.peers.send(to, lane, Kind::SnapshotChunk, chunk, out),
        }
    }

    pub(super) fn snapshot_acknowledged(
        &mut self,
        now_ms: u64,
        from: MemberId,
        ack: &pb::PeerSnapshotAck,
        out: &mut Outputs,
    ) {
        let reads = &mut out.snapshot_reads;
        let end = self
            .snapshots
            .sending
            .acknowledged(from, ack, now_ms, reads);
        if let Some(end) = end {
            self.raft.snapshot_sent(from, end == End::Installed);
        }
        self.pin(out);
    }

    /// The lead is lost, and with it the right to send.
    pub(super) fn stop_sending(&mut self, out: &mut Outputs) {
        self.snapshots.sending.stop();
        self.pin(out);
    }

    pub(super) fn tend_transfers(&mut self, now: Now, out: &mut Outputs) {
        let (say, failed) = self.snapshots.sending.tick(now.mono_ms());
        for (to, say) in say {
            self.say(to, &say, out);
        }
        for to in failed {
            let message = format!("member {} takes no snapshot; trying again later", to.0);
            out.log(Level::Warning, "snapshot", message);
            self.raft.snapshot_sent(to, false);
        }
        self.snapshots.receiving.tick(now.mono_ms());
        self.pin(out);
    }

    pub(super) fn snapshot_offered(
        &mut self,
        now_ms: u64,
        from: MemberId,
        offer: pb::PeerSnapshotOffer,
        out: &mut Outputs,
    ) {
        let (applied, writes) = (self.applied.index, &mut out.snapshot_writes);
        let receiving = &mut self.snapshots.receiving;
        if let Some((to, ack)) = receiving.offered(from, &offer, applied, now_ms, writes) {
            self.acknowledge(to, &ack, out);
        }
    }

    pub(super) fn snapshot_chunk(
        &mut self,
        now_ms: u64,
        from: MemberId,
        chunk: pb::PeerSnapshotChunk,
        out: &mut Outputs,
    ) {
        let writes = &mut out.snapshot_writes;
        self.snapshots.receiving.chunk(from, chunk, now_ms, writes);
    }

    pub(super) fn snapshot_written(
        &mut self,
        at: Position,
        result: Result<u64, Error>,
        out: &mut Outputs,
    ) {
        let writes = &mut out.snapshot_writes;
        if let Some(told) = self.snapshots.receiving.written(at, result, writes) {
            self.tell_sender(told, out);
        }
    }

    pub(super) fn snapshot_loaded(
        &mut self,
        at: Position,
        result: Result<Box<(State, ConfState)>, Error>,
        out: &mut Outputs,
    ) {
        let writes = &mut out.snapshot_writes;
        match self.snapshots.receiving.loaded(at, result, writes) {
            Ok(Some(install)) => {
                self.raft.receive_snapshot(install.at, install.conf.clone());
                self.snapshots.installing = Some(install);
            }
            Ok(None) => {}
            Err(Some(told)) => self.tell_sender(told, out),
            Err(None) => {}
        }
    }

    fn tell_sender(&mut self, (to, ack, error): Told, out: &mut Outputs) {
        if let Some(error) = error {
            let message = format!("the snapshot of member {} is not kept: {error}", to.0);
            out.log(Level::Warning, "snapshot", message);
        }
        self.acknowledge(to, &ack, out);
    }

    fn acknowledge(&mut self, to: MemberId, ack: &pb::PeerSnapshotAck, out: &mut Outputs) {
        self.peers.send(to, Lane::Bulk, Kind::SnapshotAck, ack, out);
    }

    /// Consensus took the snapshot: from here on the state is that one.
    pub(super) fn swap_state(
        &mut self,
        now: Now,
        at: Position,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        let Some(install) = self.snapshots.installing.take() else {
            return self.stop(
                "consensus took a snapshot that nobody gave it".into(),
                true,
                out,
            );
        };
        self.state = install.state;
        for member in self.state.members() {
            self.peers.bind(member.id, member.data_dir);
        }
        self.causes.retain(|id| self.state.service(id).is_some());
        self.history = History::begin(&self.state);
        self.applied = at;
        self.snapshots.newest = at;
        self.snapshots.log_bytes = 0;
        self.raft.set_snapshot(at, install.conf);
        self.removals.reconfigured(now.mono_ms());
        self.members_changed = true;
        self.tell_freeze(out);
        // Whatever was proposed up to there is in it, or is not: nobody can tell any more.
        for (_, proposal) in self.proposals.take(at) {
            self.answer(now, proposal.origin, Err(Error::OutcomeUnknown), calls, out);
        }
        out.log(
            Level::Info,
            "snapshot",
            format!(
                "the state is that of member {} at index {}",
                install.from.0, at.index.0
            ),
        );
        if let Some((to, ack)) = self.snapshots.receiving.installed(at) {
            self.acknowledge(to, &ack, out);
        }
    }

    /// Consensus needed it no more: it has as much by now, or it leads.
    pub(super) fn forget_refused_snapshot(&mut self, out: &mut Outputs) {
        let Some(install) = self
            .snapshots
            .installing
            .take_if(|install| install.at.index <= self.applied.index)
        else {
            return;
        };
        if let Some((to, ack)) = self.snapshots.receiving.installed(install.at) {
            self.acknowledge(to, &ack, out);
        }
    }
}
