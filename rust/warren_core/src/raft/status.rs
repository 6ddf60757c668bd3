//! How a member stands, for people, metrics and whoever decides by it.

use raft::StateRole;

use super::{ConfState, Position, Raft};
use crate::ids::{Index, MemberId, Term};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

/// How a leader sends to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// It does not know yet what the follower has: one append at a time.
    Probe,
    /// As fast as the follower takes it.
    Replicate,
    /// The follower needs a snapshot first.
    Snapshot,
}

/// What a leader knows of another member. Invariant: `match_index` < `next_index`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub member: MemberId,
    pub match_index: Index,
    pub next_index: Index,
    pub state: ProgressState,
    /// Heard from lately: within twice the time after which a leader without a quorum gives up.
    pub recent_active: bool,
    /// Payload bytes after `match_index`.
    pub pending_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub role: Role,
    pub leader: Option<MemberId>,
    pub term: Term,
    pub voted_for: Option<MemberId>,
    pub last: Position,
    pub commit_index: Index,
    /// What of the log is durable here.
    pub persisted_index: Index,
    pub conf: ConfState,
    /// Of the others, ordered; empty unless this member leads.
    pub progress: Vec<Progress>,
    /// The end of the log was cut off and has not been caught up with.
    pub cut: bool,
    /// Payload bytes proposed by this leader and not committed.
    pub uncommitted_bytes: usize,
}

impl Raft {
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        let role = self.role();
        let progress = match role {
            Role::Leader => {
                let others = self.others().into_iter();
                others.filter_map(|id| self.progress(id)).collect()
            }
            _ => Vec::new(),
        };
        Status {
            role,
            leader: self.leader(),
            term: self.term(),
            voted_for: (raft.vote != 0).then_some(MemberId(raft.vote)),
            last: self.last(),
            commit_index: self.commit_index(),
            persisted_index: Index(raft.raft_log.persisted),
            conf: self.conf.clone(),
            progress,
            cut: self.is_cut(),
            uncommitted_bytes: raft.uncommitted_size(),
        }
    }

    /// How many entries each of the others is behind, as far as its answers tell the leader; 0 where
    /// this member does not lead. Ordered.
    pub fn lags(&self) -> Vec<(MemberId, u64)> {
        let leads = self.role() == Role::Leader;
        let last = self.last().index.0;
        let lag = |id: u64| {
            let progress = self.node.raft.prs().get(id).filter(|_| leads);
            progress.map_or(0, |progress| last.saturating_sub(progress.matched))
        };
        let others = self.others().into_iter();
        others.map(|id| (MemberId(id), lag(id))).collect()
    }

    /// How many voters the leader has not heard from lately (see [`Progress::recent_active`]); 0 where
    /// this member does not lead.
    pub fn silent_voters(&self) -> usize {
        let term = self.node.raft.term;
        let silent = |id: &u64| self.conf.is_voter(*id) && !self.heard.is_recent(*id, term);
        match self.role() {
            Role::Leader => self.others().iter().filter(|id| silent(id)).count(),
            _ => 0,
        }
    }

    pub fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<MemberId> {
        let leader = self.node.raft.leader_id;
        (leader != 0).then_some(MemberId(leader))
    }

    /// The end of the log was cut off and has not been caught up with.
    pub fn is_cut(&self) -> bool {
        self.rejoin.is_cut()
    }

    pub fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    pub fn commit_index(&self) -> Index {
        Index(self.node.raft.raft_log.committed)
    }

    pub fn last(&self) -> Position {
        let log = &self.node.raft.raft_log;
        Position {
            index: Index(log.last_index()),
            term: Term(log.last_term()),
        }
    }

    /// The configuration as of the last change applied.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf
    }

    fn progress(&self, id: u64) -> Option<Progress> {
        let progress = self.node.raft.prs().get(id)?;
        Some(Progress {
            member: MemberId(id),
            match_index: Index(progress.matched),
            next_index: Index(progress.next_idx),
            state: match progress.state {
                raft::ProgressState::Probe => ProgressState::Probe,
                raft::ProgressState::Replicate => ProgressState::Replicate,
                raft::ProgressState::Snapshot => ProgressState::Snapshot,
            },
            recent_active: self.heard.is_recent(id, self.node.raft.term),
            pending_bytes: self.node.store().bytes_after(progress.matched),
        })
    }
}
