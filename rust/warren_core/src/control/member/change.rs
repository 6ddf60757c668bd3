//! Who belongs to the cluster: asked for by people, carried through by whoever leads.
//!
//! The state says what is wanted, the configuration of consensus what is. A request changes both with
//! one entry. The rest is derived from the difference, again and again, so that a new leader goes on
//! where the last one stopped: learners that have caught up are promoted, joint configurations left,
//! what members say of themselves is written down, and the feature level follows.

use prost::Message as _;

use super::super::calls::Calls;
use super::super::entropy::Entropy;
use super::super::proposals::{Origin, Proposal};
use super::super::requests::{decode, identify};
use super::super::{Call, CallId, Level, Now, Outputs};
use super::Member;
use super::nodes::check_own;
use crate::error::Error;
use crate::fsm::{self, MEMBERS_MAX};
use crate::ids::{MemberId, NodeId};
use crate::mutant::{self, Mutant};
use crate::pb;
use crate::pb::command::Body;
use crate::raft::{ConfChange, Progress, ProgressState};

/// A learner that lacks no more entries than this is promoted: the rest is a round trip or two.
const PROMOTE_GAP: u64 = 256;
/// What the cluster wrote down for itself and was refused is not tried again before this.
const UPKEEP_RETRY_MS: u64 = 5_000;

#[derive(Default)]
pub struct Changes {
    /// A command of the cluster's own upkeep is on its way.
    upkeep: bool,
    upkeep_not_before_ms: u64,
    /// Who waits for the lead to be handed over.
    transfer: Option<CallId>,
}

impl Changes {
    pub fn upkeep_resolved(&mut self) {
        self.upkeep = false;
    }

    /// The lead is lost: that is what a transfer was to do.
    pub fn stepped_down(&mut self, calls: &mut Calls, now: Option<MemberId>, out: &mut Outputs) {
        self.upkeep = false;
        if let Some(call) = self.transfer.take() {
            let transferred = pb::TransferLeadershipResponse {
                leader_member_id: now.map_or(0, |leader| leader.0),
            };
            calls.reply(call, Ok(transferred.encode_to_vec()), out);
        }
    }
}

/// A copy of a request that was answered long ago must not bring back what was removed meanwhile.
pub(super) fn removed_since(anew: &str) -> Error {
    Error::Invalid {
        what: "member",
        why: format!(
            "this very request was answered before, and the member has been removed since; {anew}"
        ),
    }
}

impl Member {
    pub(super) fn add_member(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let mut request: pb::AddMemberRequest = decode(&call.body)?;
        check_own(call, "AddMember", NodeId::from_slice(&request.node_id)?)?;
        let (id, repeated) =
            match identify(&self.state, "AddMember", request.request.take(), &request)? {
                Ok(id) => (id, false),
                Err(Err(refusal)) => return Err(refusal),
                // What was remembered is that of the log's command, which names no member.
                Err(Ok(_)) => (None, true),
            };
        // Asked for before, under this id or another: one data directory is one member.
        let known = self
            .state
            .members()
            .find(|m| m.data_dir[..] == request.data_dir);
        if let Some(known) = known {
            return Ok(Some(self.added(known.id).encode_to_vec()));
        }
        if repeated {
            return Err(removed_since("let its host join anew"));
        }
        if request.address.is_empty() {
            return Err(Error::Invalid {
                what: "member",
                why: "it has no address; say where the others reach it, as host:port".into(),
            });
        }
        let member = MemberId(entropy.draw_u64() | 1);
        let wanted = pb::Member {
            id: member.0,
            data_dir: request.data_dir,
            node_id: request.node_id,
            address: request.address,
            voter: !request.learner_only,
            feature_level_max: self.level_of_joiners(),
            added_at_ms: 0,
            // Its hello says it again, once the level allows it to be written down.
            api_address: String::new(),
        };
        let origin = Origin::AddMember(call.id, member);
        self.propose_member(now, call, entropy, id, wanted, origin)?;
        Ok(None)
    }

    /// What a new member knows at least; its hello says more. If the level is about to be raised, the
    /// command that raises it may be applied before the one that adds the member.
    pub(super) fn level_of_joiners(&self) -> u32 {
        let raised = self.state.raisable_level(self.config.feature_level_max);
        raised.unwrap_or_else(|| self.state.feature_level())
    }

    /// A learner, and the record that says what it is to become.
    pub(super) fn propose_member(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
        id: Option<pb::RequestId>,
        wanted: pb::Member,
        origin: Origin,
    ) -> Result<(), Error> {
        if self.state.members().count() >= MEMBERS_MAX {
            return Err(Error::Invalid {
                what: "member",
                why: format!("the cluster has {MEMBERS_MAX}, which is the limit; remove one first"),
            });
        }
        self.check_space()?;
        // What `apply` would refuse must not change the configuration either.
        let member = fsm::Member::try_from(&wanted)?.id;
        let put = pb::PutMember {
            member: Some(wanted),
        };
        let change = ConfChange {
            add_learners: vec![member],
            ..ConfChange::default()
        };
        let command = self.command(now, entropy, &call.identity, id, Body::PutMember(put))?;
        self.propose_change(now, &change, command, origin)
    }

    /// What whoever asked for a member is told.
    pub(super) fn added(&self, member: MemberId) -> pb::AddMemberResponse {
        pb::AddMemberResponse {
            member_id: member.0,
            cluster_id: self.identity.cluster.to_vec(),
            epoch: self.identity.epoch,
            api_addresses: self.api_addresses(),
        }
    }

    pub(super) fn remove_member(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let mut request: pb::RemoveMemberRequest = decode(&call.body)?;
        let id = identify(
            &self.state,
            "RemoveMember",
            request.request.take(),
            &request,
        )?;
        let id = match id {
            Ok(id) => id,
            Err(Err(refusal)) => return Err(refusal),
            Err(Ok(_)) => None,
        };
        let member = MemberId(request.member_id);
        if self.state.member(member).is_none() {
            return self.removed_before(call.id, member);
        }
        self.propose_removal(now, call, entropy, id, member)
    }

    /// Takes a member out, unless too few would remain.
    pub(super) fn propose_removal(
        &mut self,
        now: Now,
        call: &Call,
        entropy: &mut Entropy,
        id: Option<pb::RequestId>,
        member: MemberId,
    ) -> Result<Option<Vec<u8>>, Error> {
        if self.raft.conf_state().voters == [member.0] {
            return Err(Error::Invalid {
                what: "member",
                why: "it is the only one that votes; add another voter first".into(),
            });
        }
        if member == self.identity.member && !mutant::is_on(Mutant::RemovesItselfWhileLeading) {
            return Err(self.hand_over_first());
        }
        self.check_quorum_without(member)?;
        self.check_space()?;
        let change = ConfChange {
            remove: vec![member],
            ..ConfChange::default()
        };
        let remove = Body::RemoveMember(pb::RemoveMember {
            member_id: member.0,
        });
        let origin = Origin::RemoveMember(call.id, member);
        let command = self.command(now, entropy, &call.identity, id, remove)?;
        self.propose_change(now, &change, command, origin)?;
        Ok(None)
    }

    /// Whoever would remain must be able to decide: a change that leaves too few voters that answer
    /// could never be left again.
    fn check_quorum_without(&self, member: MemberId) -> Result<(), Error> {
        let status = self.raft.status();
        if !status.conf.is_voter(member.0) {
            return Ok(());
        }
        let voters = status.conf.voters.iter();
        let remaining: Vec<u64> = voters.copied().filter(|id| *id != member.0).collect();
        let answers = |id: &&u64| {
            let mut progress = status.progress.iter();
            **id == self.identity.member.0
                || progress.any(|known| known.member.0 == **id && known.recent_active)
        };
        let (left, answering) = (remaining.len(), remaining.iter().filter(answers).count());
        if answering > left / 2 {
            return Ok(());
        }
        let why = format!(
            "of the {left} voters that would remain only {answering} answer; bring the others \
             back, or remove them first"
        );
        Err(Error::Invalid {
            what: "member",
            why,
        })
    }

    /// Starts to hand the lead to another member; the request is to be repeated to that one.
    fn hand_over_first(&mut self) -> Error {
        let Some(to) = self.successor() else {
            return Error::Invalid {
                what: "member",
                why:
                    "it leads, and no other voter is near enough to take over; wait until one has \
                      caught up"
                        .into(),
            };
        };
        self.raft
            .transfer_leadership(to)
            .err()
            .unwrap_or(Error::HandingOver)
    }

    pub(super) fn transfer(&mut self, _now: Now, call: &Call) -> Result<Option<Vec<u8>>, Error> {
        self.check_serving()?;
        let request: pb::TransferLeadershipRequest = decode(&call.body)?;
        let me = self.identity.member;
        if request.member_id == me.0 {
            let done = pb::TransferLeadershipResponse {
                leader_member_id: me.0,
            };
            return Ok(Some(done.encode_to_vec()));
        }
        if self.changes.transfer.is_some() {
            return Err(Error::HandingOver);
        }
        let named = (request.member_id != 0).then_some(MemberId(request.member_id));
        let nobody = || Error::Invalid {
            what: "member",
            why: "no other voter is near enough to take the lead over; wait until one has caught \
                  up: warrenctl cluster members shows how far each is"
                .into(),
        };
        let to = named.or_else(|| self.successor()).ok_or_else(nobody)?;
        self.check_heard(to)?;
        self.raft.transfer_leadership(to)?;
        self.changes.transfer = Some(call.id);
        Ok(None)
    }

    /// Who is told to take over stands for election at once, without asking whether it could win: one
    /// that nobody hears would stay in a term of its own, and depose the leader when it is heard again.
    fn check_heard(&self, to: MemberId) -> Result<(), Error> {
        let status = self.raft.status();
        let mut voters = status
            .progress
            .iter()
            .filter(|p| status.conf.is_voter(p.member.0));
        if voters.any(|p| p.member == to && !p.recent_active) {
            let why = format!(
                "member {} has not been heard of lately, so it cannot take the lead over; bring it \
                 back, or name another",
                to.0
            );
            let what = "member";
            return Err(Error::Invalid { what, why });
        }
        Ok(())
    }

    /// The voter that can take the lead over the soonest.
    pub(super) fn successor(&self) -> Option<MemberId> {
        let status = self.raft.status();
        let able = |progress: &&Progress| {
            let known = self.peers.known(progress.member);
            status.conf.voters.contains(&progress.member.0)
                && progress.recent_active
                && progress.state == ProgressState::Replicate
                && known.is_some_and(|known| !known.out_of_space)
        };
        let candidates = status.progress.iter().filter(able);
        candidates
            .max_by_key(|progress| (progress.match_index, std::cmp::Reverse(progress.member)))
            .map(|progress| progress.member)
    }

    fn propose_change(
        &mut self,
        now: Now,
        change: &ConfChange,
        command: Vec<u8>,
        origin: Origin,
    ) -> Result<(), Error> {
        self.check_room()?;
        let at = self.raft.propose_change(change.clone(), command)?;
        let proposal = Proposal {
            origin,
            proposed_ns: now.mono_ns,
            again: None,
        };
        self.proposals.add(at, proposal);
        Ok(())
    }

    /// Members came, went or said something of themselves.
    pub(super) fn follow_members(&mut self, now: Now, out: &mut Outputs) {
        if !std::mem::take(&mut self.members_changed) {
            return;
        }
        let conf = self.raft.conf_state();
        self.peers.follow(&self.state, conf, now.mono_ms());
        self.hashes.retain(|member| conf.contains(member.0));
        let me = self.identity.member;
        let gone = self.state.is_removed(me) && !conf.contains(me.0);
        self.peers.tick(now.mono_ms(), out);
        let (level, known) = (self.state.feature_level(), self.config.feature_level_max);
        if level > known {
            let why = format!(
                "the cluster is at feature level {level}, and this release knows levels up to \
                 {known}; install a newer one"
            );
            self.stop(why, true, out);
        } else if gone {
            self.removals.is_gone(now.mono_ms());
        }
    }

    /// What follows from the difference between what is and what is wanted; on the leader.
    pub(super) fn tend_changes(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        if !self.leading || self.state.cluster().is_none() {
            return;
        }
        if self.raft.transfer_target().is_none()
            && let Some(call) = self.changes.transfer.take()
        {
            let why = "the other member did not take over in time; is it up?".into();
            let what = "transfer of leadership";
            calls.reply(call, Err(Error::Invalid { what, why }), out);
        }
        if !self.has_space {
            return;
        }
        if let Some(change) = self.next_change() {
            self.carry_through(now, &change, out);
        }
        self.write_down(now, entropy, out);
    }

    /// The next step of the configuration towards what the state wants.
    fn next_change(&self) -> Option<ConfChange> {
        let conf = self.raft.conf_state();
        if conf.is_joint() {
            let leave = ConfChange {
                leave: true,
                ..ConfChange::default()
            };
            return self.raft.needs_leave().then_some(leave);
        }
        let mut members = conf.voters.iter().chain(&conf.learners);
        let unwanted = |id: &&u64| self.state.member(MemberId(**id)).is_none();
        let known = self.state.members().next().is_some();
        let gone = known.then(|| members.find(unwanted)).flatten();
        if let Some(gone) = gone.copied().map(MemberId) {
            let remove = vec![gone];
            return Some(ConfChange {
                remove,
                ..ConfChange::default()
            });
        }
        let status = self.raft.status();
        let caught_up = |progress: &&Progress| {
            let near = progress.match_index.0 + PROMOTE_GAP >= status.last.index.0;
            // One whose snapshot ended the log is probed until there is an entry to probe with.
            let follows = progress.state == ProgressState::Replicate
                || progress.match_index == status.last.index;
            (progress.recent_active && follows && near) || mutant::is_on(Mutant::PromotesTheUnready)
        };
        let wanted = |progress: &&Progress| {
            let member = self.state.member(progress.member);
            conf.learners.contains(&progress.member.0) && member.is_some_and(|m| m.voter)
        };
        let mut learners = status.progress.iter().filter(wanted);
        let ready = learners.find(caught_up)?.member;
        Some(ConfChange {
            promote: vec![ready],
            ..ConfChange::default()
        })
    }

    fn carry_through(&mut self, now: Now, change: &ConfChange, out: &mut Outputs) {
        // A leader that will not be a voter any more hands the lead over while it still is one.
        let me = self.identity.member;
        let leaves = change.leave && !self.raft.conf_state().voters.contains(&me.0);
        if (leaves || change.remove.contains(&me))
            && !mutant::is_on(Mutant::RemovesItselfWhileLeading)
        {
            if self.raft.transfer_target().is_none()
                && let Some(to) = self.successor()
            {
                // Refused only if it does not lead any more.
                let _ = self.raft.transfer_leadership(to);
            }
            return;
        }
        match self.propose_change(now, change, Vec::new(), Origin::Silent) {
            Ok(()) => out.log(Level::Info, "control", format!("members: {}", say(change))),
            // A change is under way, or the lead is being handed over: looked at again.
            Err(Error::Overloaded { .. } | Error::NoLeader) => {}
            Err(error) => out.log(Level::Warning, "control", format!("members: {error}")),
        }
    }

    /// What members said of themselves, into the state; one command at a time.
    fn write_down(&mut self, now: Now, entropy: &mut Entropy, out: &mut Outputs) {
        if self.changes.upkeep || now.mono_ms() < self.changes.upkeep_not_before_ms {
            return;
        }
        let Some(body) = self.news() else { return };
        self.changes.upkeep_not_before_ms = now.mono_ms() + UPKEEP_RETRY_MS;
        match self.propose_own(now, entropy, body, Some(Origin::Upkeep)) {
            Ok(()) => {
                self.changes.upkeep = true;
                self.changes.upkeep_not_before_ms = 0;
            }
            Err(error) => out.log(Level::Warning, "control", format!("upkeep: {error}")),
        }
    }

    fn news(&self) -> Option<Body> {
        let level = self.state.feature_level();
        let changed = self.state.members().find_map(|member| {
            let (level_max, address, api_address) = self.said(member.id)?;
            let api_address = if level < 3 { "" } else { api_address };
            let same = member.feature_level_max == level_max
                && *member.address == *address
                && *member.api_address == *api_address;
            // One that knows less than the state is at stops by itself.
            (!same && level_max >= level && !address.is_empty()).then(|| {
                let mut member = pb::Member::from(member);
                (member.feature_level_max, member.address) = (level_max, address.to_owned());
                member.api_address = api_address.to_owned();
                Body::PutMember(pb::PutMember {
                    member: Some(member),
                })
            })
        });
        let raise = |level| Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level });
        let raised = || self.state.raisable_level(self.config.feature_level_max);
        changed.or_else(|| raised().map(raise))
    }

    /// The newest level that a member says it knows, and where it says it and its API are.
    fn said(&self, member: MemberId) -> Option<(u32, &str, &str)> {
        let config = &self.config;
        if member == self.identity.member {
            let (address, api_address) = (&config.address, &config.advertise_addr);
            return Some((config.feature_level_max, address, api_address));
        }
        let known = self.peers.known(member)?;
        let address = self.peers.address(member);
        Some((known.feature_level_max, address, &known.api_address))
    }
}

fn say(change: &ConfChange) -> String {
    let list = |members: &[MemberId]| {
        let ids: Vec<String> = members.iter().map(|member| member.0.to_string()).collect();
        ids.join(", ")
    };
    if change.leave {
        "the change of voters is complete".into()
    } else if change.promote.is_empty() {
        format!("removing {}", list(&change.remove))
    } else {
        format!("{} has caught up and is to vote", list(&change.promote))
    }
}
