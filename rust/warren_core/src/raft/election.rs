//! When a member that hears from no leader stands for election.
//!
//! The library draws its timeouts from a thread-local source, so its own timer is set never to
//! fire, and this one asks it to campaign. Drawn afresh from a seeded stream after every reset, so
//! that members that tied once do not tie again (Raft §5.2), and a run can be repeated.

use raft::StateRole;

use super::{Raft, codec};
use crate::mutant::{self, Mutant};

/// Without a heartbeat for so many ticks a follower no longer holds to its leader, and a leader
/// that heard from no quorum within them steps down.
pub const LEASE_TICKS: usize = 6;
/// Ticks without a leader before an election. Above [`LEASE_TICKS`] by what members' ticks and
/// heartbeats lie apart: else the first to campaign finds the others still holding to the leader.
const TIMEOUT_TICKS_MIN: usize = 8;
const TIMEOUT_TICKS_MAX: usize = 16;

/// xorshift64* (Vigna 2016): a stream of its own, so that nothing else shifts the elections.
pub struct ElectionTimer {
    stream: u64,
    pub timeout_ticks: usize,
    /// The (term, role, vote, leader) it was last drawn for.
    drawn_for: (u64, StateRole, u64, u64),
}

impl ElectionTimer {
    pub fn new(seed: u64) -> Self {
        let mut timer = Self {
            stream: seed | 1,
            timeout_ticks: 0,
            drawn_for: (0, StateRole::Follower, 0, 0),
        };
        timer.draw();
        timer
    }

    pub fn draw(&mut self) {
        let spread = (TIMEOUT_TICKS_MAX - TIMEOUT_TICKS_MIN) as u64;
        self.timeout_ticks = TIMEOUT_TICKS_MIN + (self.next() % spread) as usize;
    }

    /// The next of the stream, for other draws of this member.
    pub fn next(&mut self) -> u64 {
        self.stream ^= self.stream >> 12;
        self.stream ^= self.stream << 25;
        self.stream ^= self.stream >> 27;
        self.stream.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 1
    }
}

impl Raft {
    /// Stands for election now instead of after the timeout, if it may.
    pub fn campaign(&mut self) {
        if self.node.raft.promotable() && self.may_campaign() {
            self.node.raft.election_elapsed = 0;
            self.election.draw();
            // It may find a membership change to apply first; then the next timeout tries again.
            let _ = self.node.campaign();
            self.follow_resets();
        }
    }

    pub(super) fn election_is_due(&self) -> bool {
        let raft = &self.node.raft;
        raft.state != StateRole::Leader
            && raft.promotable()
            && raft.election_elapsed + 1 >= self.election.timeout_ticks
    }

    /// Not while something is on its way to the disk: the library takes the log of a candidate for
    /// durable. And not with a cut log that makes others voters by a change yet to be applied: what was
    /// cut off may have committed it, and then they decide, too.
    pub(super) fn may_campaign(&self) -> bool {
        let raft = &self.node.raft;
        let all_durable =
            self.is_all_durable() && raft.raft_log.persisted == raft.raft_log.last_index();
        all_durable && !(self.rejoin.is_cut() && self.may_have_other_voters())
    }

    /// Whether a change in the log that is not applied here makes others voters.
    pub(super) fn may_have_other_voters(&self) -> bool {
        let applied = self.node.raft.raft_log.applied;
        let mut entries = self.node.store().entries_after(applied);
        entries.any(codec::adds_voters)
    }

    /// After whatever may have reset the library's timer.
    pub(super) fn follow_resets(&mut self) {
        let raft = &self.node.raft;
        let now = (raft.term, raft.state, raft.vote, raft.leader_id);
        if now != self.election.drawn_for {
            self.election.drawn_for = now;
            self.election.draw();
            if mutant::is_on(Mutant::UncommittedLeaks) && raft.state == StateRole::Leader {
                self.leak_uncommitted();
            }
        }
        if self.node.raft.state == StateRole::Leader {
            self.rejoin.leads();
            self.uncommitted_bytes_seen = self.node.raft.uncommitted_size();
        }
    }

    fn leak_uncommitted(&mut self) {
        let leaked = raft::eraftpb::Entry {
            data: vec![0; self.uncommitted_bytes_seen].into(),
            ..Default::default()
        };
        self.node.raft.maybe_increase_uncommitted_size(&[leaked]);
    }
}
