//! Changes of membership: by joint consensus (Raft §6), entered by one entry and left by another.
//!
//! A configuration takes effect where its entry is *applied*, not where it is appended. That is as
//! safe as the paper's rule, and stays so across crashes, because of two things besides the joint
//! transition: a leader proposes a change only after it has applied an entry of its own term and
//! every change before (the fix to the single-server algorithm, Ongaro 2015), and whatever makes
//! entries durable makes the newest commit index durable with them. So whoever holds a change in
//! its log knows for good that the change before it is committed, and does not campaign before it
//! has applied that one.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType,
};
use raft::{Changer, StateRole};

use super::codec::{self, ConfState, Reader, put_ids};
use super::{Position, Raft};
use crate::error::Error;
use crate::ids::{Index, MemberId, Term};
use crate::mutant::{self, Mutant};

const FLAG_LEAVE: u8 = 1;

/// One change of membership. What changes a voter, or more than one member, goes through a joint
/// configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    pub add_learners: Vec<MemberId>,
    /// Learners that are to vote.
    pub promote: Vec<MemberId>,
    pub remove: Vec<MemberId>,
    /// Leaves the joint configuration; stands alone.
    pub leave: bool,
}

impl ConfChange {
    /// A flag byte, then the three lists.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.leave { FLAG_LEAVE } else { 0 }];
        for members in [&self.add_learners, &self.promote, &self.remove] {
            let ids: Vec<u64> = members.iter().map(|member| member.0).collect();
            put_ids(&mut out, &ids);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let leave = match reader.u8()? {
            0 => false,
            FLAG_LEAVE => true,
            _ => return None,
        };
        let mut list = || Some(reader.ids()?.into_iter().map(MemberId).collect());
        let change = Self {
            add_learners: list()?,
            promote: list()?,
            remove: list()?,
            leave,
        };
        reader.is_empty().then_some(change)
    }

    /// What it is to the library, on top of `conf`.
    fn to_library(&self, conf: &ConfState) -> ConfChangeV2 {
        let single = |kind| {
            move |member: &MemberId| ConfChangeSingle {
                node_id: member.0,
                change_type: kind,
                ..Default::default()
            }
        };
        let mut changes: Vec<_> = self
            .add_learners
            .iter()
            .map(single(ConfChangeType::AddLearnerNode))
            .collect();
        changes.extend(self.promote.iter().map(single(ConfChangeType::AddNode)));
        changes.extend(self.remove.iter().map(single(ConfChangeType::RemoveNode)));
        let votes_change =
            !self.promote.is_empty() || self.remove.iter().any(|member| conf.is_voter(member.0));
        let transition = if votes_change || changes.len() > 1 {
            ConfChangeTransition::Explicit
        } else {
            ConfChangeTransition::Auto
        };
        ConfChangeV2 {
            transition,
            changes: changes.into(),
            ..Default::default()
        }
    }

    /// Why it cannot follow `conf`.
    fn check(&self, conf: &ConfState) -> Result<(), String> {
        let (adds, promotes) = (&self.add_learners, &self.promote);
        let mut all: Vec<_> = adds.iter().chain(promotes).chain(&self.remove).collect();
        all.sort_unstable();
        let named = all.len();
        all.dedup();
        if all.len() != named || all.contains(&&MemberId(0)) {
            return Err("it names a member twice, or member 0".into());
        }
        if self.leave != (named == 0) {
            return Err("it must either leave a joint configuration or name members".into());
        }
        if let Some(member) = adds.iter().find(|member| conf.contains(member.0)) {
            return Err(format!("{} is a member already", member.0));
        }
        if let Some(member) = promotes.iter().find(|m| !conf.learners.contains(&m.0)) {
            return Err(format!("{} is no learner", member.0));
        }
        if let Some(member) = self.remove.iter().find(|m| !conf.contains(m.0)) {
            return Err(format!(
                "{} is no member; warrenctl cluster members shows who is",
                member.0
            ));
        }
        Ok(())
    }
}

impl Raft {
    /// Appends a change of membership on the leader, with a command that is applied at the same
    /// place. It resolves by the position returned; the caller then calls
    /// [`apply_change`](Self::apply_change).
    ///
    /// # Errors
    /// `NoLeader` if this member does not lead, hands the lead over, or has applied nothing of its
    /// term yet; `Overloaded` while another change is under way, or the log is full; `Invalid` if
    /// it makes no sense on top of the present configuration.
    pub fn propose_change(
        &mut self,
        change: ConfChange,
        command: Vec<u8>,
    ) -> Result<Position, Error> {
        let raft = &self.node.raft;
        let of_this_term =
            raft.apply_to_current_term() || mutant::is_on(Mutant::ChangesMembersBeforeFirstCommit);
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() || !of_this_term {
            return Err(Error::NoLeader);
        }
        let pending =
            raft.has_pending_conf() && !mutant::is_on(Mutant::ChangesMembersBeforeFirstCommit);
        if pending || (self.conf.is_joint() && !change.leave) {
            return Err(Error::Overloaded {
                queue: "changes of membership",
                limit: 1,
            });
        }
        self.check_change(&change)?;
        let at = self.append(Entry {
            entry_type: EntryType::EntryConfChangeV2,
            data: codec::change_payload(&change, &command),
            ..Default::default()
        })?;
        self.node.raft.pending_conf_index = at.index.0;
        if mutant::is_on(Mutant::AppliesMembersWhenProposed) {
            self.apply_change(&change);
        }
        Ok(at)
    }

    fn check_change(&self, change: &ConfChange) -> Result<(), Error> {
        let invalid = |why| Error::Invalid {
            what: "change of membership",
            why,
        };
        change.check(&self.conf).map_err(invalid)?;
        if change.leave != self.conf.is_joint() {
            let why = "the configuration is not joint: no change is under way that could be ended; \
                       warrenctl cluster members shows who is a member";
            return Err(invalid(why.into()));
        }
        if !change.leave {
            let library = change.to_library(&self.conf);
            let mut changer = Changer::new(self.node.raft.prs());
            let dry_run = match library.enter_joint() {
                Some(auto_leave) => changer.enter_joint(auto_leave, &library.changes),
                None => changer.simple(&library.changes),
            };
            dry_run.map_err(|error| invalid(error.to_string()))?;
        }
        Ok(())
    }

    /// Makes the configuration what the change says. To be called exactly where its entry is
    /// applied, by every member. A change that makes no sense there changes nothing, for anyone.
    pub fn apply_change(&mut self, change: &ConfChange) -> ConfState {
        if change.check(&self.conf).is_ok() && change.leave == self.conf.is_joint() {
            let library = change.to_library(&self.conf);
            if let Ok(conf) = self.node.apply_conf_change(&library) {
                self.conf = ConfState::from_library(&conf);
                self.step_down_if_removed();
            }
        }
        self.follow_resets();
        self.conf.clone()
    }

    /// A leader that is no member cannot count itself any more. The caller hands the lead over
    /// before it removes the leader, so that this is only the last resort.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !self.conf.is_voter(self.member.0) {
            let term = raft.term;
            raft.become_follower(term, 0);
        }
    }

    /// Whether this member leads, all changes are applied and the configuration is joint: the
    /// caller then proposes to leave it.
    pub fn needs_leave(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader
            && self.conf.is_joint()
            && raft.apply_to_current_term()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
            && !mutant::is_on(Mutant::StaysJoint)
    }

    /// Appends an entry of the leader; it is sent by the next [`take_work`](Self::take_work), in
    /// one message with all others appended till then.
    pub(super) fn append(&mut self, entry: Entry) -> Result<Position, Error> {
        if !self.node.raft.append_entry(&mut [entry]) {
            return Err(Error::Overloaded {
                queue: "the log",
                limit: super::UNCOMMITTED_BYTES_MAX as usize,
            });
        }
        self.unsent = true;
        Ok(Position {
            index: Index(self.node.raft.raft_log.last_index()),
            term: Term(self.node.raft.term),
        })
    }
}
