//! Reads: one question to consensus for all that wait, then each on its way to a reader thread.
//!
//! A linearizable read needs an index that was committed when it was asked, confirmed by a quorum
//! (Ongaro's thesis, §6.4). The leader asks its consensus; a follower asks the leader, with one
//! frame for all reads that wait. Every question has a context of its own, never used twice, not
//! even by an earlier life of this member: an answer that was long on its way answers nothing else.

use std::collections::BTreeMap;

use prost::Message as _;

use super::super::access::Method;
use super::super::calls::Calls;
use super::super::entropy::Entropy;
use super::super::events::{Sources, Told};
use super::super::explaining;
use super::super::peer::frame::Kind;
use super::super::reads::{self, LeaderView, MemberProgress, ReadJob};
use super::super::requests::decode;
use super::super::{Call, Consistency, Now, Outputs};
use super::Member;
use super::usage::{self, Remote};
use crate::error::Error;
use crate::ids::{Index, MemberId, NodeId};
use crate::mutant::{self, Mutant};
use crate::orchestrator::KnownFailing;
use crate::pb;
use crate::raft::{Lane, ReadReady, Role};

/// A question without an answer is asked anew after this.
const ASK_AGAIN_MS: u64 = 400;
/// A quorum that confirmed this leader so long ago may have another one by now. Less than what a
/// singleton's successor waits for beside the time that its worker is given.
const CONFIRMED_MS_MAX: u64 = 3_000;
/// While workers have sessions, the leader asks whether it still leads at least this often.
const CONFIRM_EVERY_MS: u64 = 1_000;
/// Questions under way; beyond it reads wait for the next one, which then serves more of them.
const QUESTIONS_MAX: usize = 4;
/// Where a step has so many answers, reader threads find the others.
const REPLIES_PER_STEP_MAX: usize = 256;
/// Questions of other members that wait for this one's consensus.
const REMOTE_MAX: usize = 1024;

/// A read on its way, or a change that the state here refuses: the call and its method.
pub struct Read {
    pub method: Method,
    pub call: Call,
    /// What the nodes use that are read of, where the leader has told with its answer.
    pub used: BTreeMap<NodeId, pb::NodeUsage>,
}

impl Read {
    pub fn new(method: Method, call: Call) -> Self {
        let used = BTreeMap::new();
        Self { method, call, used }
    }
}

/// Invariant: each read is in one of `waiting`, `refused`, `asked` and `released`.
pub struct Reads {
    /// To be asked for.
    waiting: Vec<Read>,
    /// To be asked for with the next tick.
    refused: Vec<Read>,
    /// Other members' questions to be asked for.
    remote: Vec<Remote>,
    /// Asked for, by the context of the question.
    asked: BTreeMap<u64, Question>,
    /// May be answered once the index is applied.
    released: BTreeMap<Index, Vec<Read>>,
    context: u64,
    /// When the newest question that a quorum has answered was asked of this leader's consensus.
    confirmed_at_ms: Option<u64>,
    /// Only for the planted lease.
    leased_until_wall_ms: u64,
}

#[derive(Default)]
struct Question {
    reads: Vec<Read>,
    remote: Vec<Remote>,
    /// Who was asked, if not this member's own consensus.
    leader: Option<MemberId>,
    asked_at_ms: u64,
}

impl Reads {
    /// `seed` makes the contexts of this life differ from those of every other.
    pub fn new(seed: u64) -> Self {
        Self {
            waiting: Vec::new(),
            refused: Vec::new(),
            remote: Vec::new(),
            asked: BTreeMap::new(),
            released: BTreeMap::new(),
            context: seed,
            confirmed_at_ms: None,
            leased_until_wall_ms: 0,
        }
    }

    /// Time has passed: what was refused is asked for anew.
    pub fn tick(&mut self) {
        self.waiting.append(&mut self.refused);
    }

    pub fn add(&mut self, read: Read) {
        self.waiting.push(read);
    }

    fn fresh_context(&mut self) -> u64 {
        if !mutant::is_on(Mutant::ReusesReadContext) {
            self.context = self.context.wrapping_add(1);
        }
        self.context
    }

    /// Nobody may be answered by what this member's consensus was asked as leader.
    pub fn stepped_down(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        let reads = asked.into_values().flat_map(|question| question.reads);
        self.waiting.extend(reads);
        self.remote.clear();
        self.confirmed_at_ms = None;
    }

    /// Whether this leader led a moment ago, counted from when it asked, so that no answer makes it
    /// younger by having been long on its way.
    pub fn is_confirmed(&self, now: Now) -> bool {
        let at_ms = self.confirmed_at_ms;
        at_ms.is_some_and(|at_ms| now.mono_ms() <= at_ms + CONFIRMED_MS_MAX)
    }
}

impl Member {
    /// Answered at once from what this member has, or put in line.
    pub(super) fn read(
        &mut self,
        now: Now,
        method: Method,
        call: Call,
        calls: &mut Calls,
        out: &mut Outputs,
    ) -> Result<(), Error> {
        if method == Method::ListEvents {
            // In the leader's memory only.
            self.check_serving()?;
        }
        if method == Method::ListNodes {
            usage::check(&decode(&call.body)?)?;
        }
        if call.consistency == Consistency::Linearizable {
            self.reads.add(Read::new(method, call));
            return Ok(());
        }
        if self.state.cluster().is_none() {
            return Err(Error::NotInCluster);
        }
        self.hand_over(now, Read::new(method, call), true, out, calls);
        Ok(())
    }

    /// One question for all reads that wait: what it finds holds for each of them.
    pub(super) fn ask_reads(&mut self, now: Now, calls: &mut Calls, out: &mut Outputs) {
        if self.reads.waiting.is_empty() && self.reads.remote.is_empty() {
            return;
        }
        if self.raft.role() == Role::Leader {
            if self.leading && self.reads.asked.len() < QUESTIONS_MAX {
                self.ask_own(now);
            }
            return;
        }
        for remote in std::mem::take(&mut self.reads.remote) {
            self.answer_remote(remote, None, out);
        }
        let Some(leader) = self.leader() else {
            // Nobody knows what was acknowledged last.
            return self.fail_reads(calls, out);
        };
        if self.reads.waiting.is_empty() || self.reads.asked.len() >= QUESTIONS_MAX {
            return;
        }
        let mut waiting = std::mem::take(&mut self.reads.waiting);
        let (reads, nodes) = usage::divide(&mut waiting, |read| self.nodes_shown(read));
        self.reads.waiting = waiting;
        let context = self.reads.fresh_context();
        let question = self.reads.asked.entry(context).or_default();
        question.reads = reads;
        (question.leader, question.asked_at_ms) = (Some(leader), now.mono_ms());
        let ask = pb::PeerReadAsk {
            context,
            used_by: nodes.into_iter().map(NodeId::to_vec).collect(),
        };
        self.peers
            .send(leader, Lane::Urgent, Kind::ReadAsk, &ask, out);
    }

    /// Asks whether this leader still leads, if there are workers who rely on it.
    pub(super) fn confirm_lead(&mut self, now: Now) {
        let at_ms = self.reads.confirmed_at_ms;
        let due = at_ms.is_none_or(|at_ms| now.mono_ms() >= at_ms + CONFIRM_EVERY_MS);
        let asked = self
            .reads
            .asked
            .values()
            .any(|question| question.leader.is_none());
        let room = self.reads.asked.len() < QUESTIONS_MAX;
        if self.leading && self.sessions.len() > 0 && due && !asked && room {
            self.ask_own(now);
        }
    }

    fn ask_own(&mut self, now: Now) {
        let context = self.reads.fresh_context();
        let question = self.reads.asked.entry(context).or_default();
        question.reads.append(&mut self.reads.waiting);
        question.remote.append(&mut self.reads.remote);
        (question.leader, question.asked_at_ms) = (None, now.mono_ms());
        let leased = mutant::is_on(Mutant::LeaseByWallClock)
            && now.wall_ms < self.reads.leased_until_wall_ms;
        if leased {
            let index = self.raft.commit_index();
            let ready = self.reads.asked.remove(&context).unwrap_or_default();
            let released = self.reads.released.entry(index).or_default();
            return released.extend(ready.reads);
        }
        self.raft.read_index(context);
    }

    /// Another member asks.
    pub(super) fn read_asked(&mut self, from: MemberId, ask: &pb::PeerReadAsk, out: &mut Outputs) {
        let remote = Remote {
            from,
            context: ask.context,
            nodes: usage::asked(ask),
        };
        if self.reads.remote.len() < REMOTE_MAX && self.leading {
            self.reads.remote.push(remote);
        } else {
            self.answer_remote(remote, None, out);
        }
    }

    fn answer_remote(&mut self, remote: Remote, at: Option<Index>, out: &mut Outputs) {
        let usages = at.map(|_| self.usages_of(&remote.nodes));
        let answer = pb::PeerReadAnswer {
            context: remote.context,
            index: at.map_or(0, |index| index.0),
            refused: at.is_none(),
            usages: usages.unwrap_or_default(),
        };
        self.peers
            .send(remote.from, Lane::Urgent, Kind::ReadAnswer, &answer, out);
    }

    /// The leader answers.
    pub(super) fn read_answered(&mut self, from: MemberId, answer: &pb::PeerReadAnswer) {
        let asked = self.reads.asked.get(&answer.context);
        if asked.is_none_or(|question| question.leader != Some(from)) {
            return;
        }
        let Some(mut question) = self.reads.asked.remove(&answer.context) else {
            return;
        };
        if answer.refused {
            // It does not lead (any more, or yet): asked anew, but not as fast as it refuses.
            self.reads.refused.extend(question.reads);
            return;
        }
        self.take_usages(&mut question.reads, &answer.usages);
        let released = self.reads.released.entry(Index(answer.index)).or_default();
        released.extend(question.reads);
    }

    /// This member's consensus answers.
    pub(super) fn read_ready(&mut self, now: Now, ready: ReadReady, out: &mut Outputs) {
        let own = self.reads.asked.get(&ready.context);
        if own.is_none_or(|question| question.leader.is_some()) {
            return;
        }
        let Some(question) = self.reads.asked.remove(&ready.context) else {
            return;
        };
        self.reads.leased_until_wall_ms = now.wall_ms + 10_000;
        let confirmed_at_ms = self.reads.confirmed_at_ms.max(Some(question.asked_at_ms));
        self.reads.confirmed_at_ms = confirmed_at_ms;
        for remote in question.remote {
            self.answer_remote(remote, Some(ready.index), out);
        }
        let released = self.reads.released.entry(ready.index).or_default();
        released.extend(question.reads);
    }

    /// Questions that were lost on the way are asked anew, under a context of their own.
    pub(super) fn ask_again(&mut self, now: Now, calls: &Calls) {
        let reads = &mut self.reads;
        let late = |question: &Question| now.mono_ms() >= question.asked_at_ms + ASK_AGAIN_MS;
        let contexts: Vec<u64> = reads
            .asked
            .iter()
            .filter(|(_, question)| late(question))
            .map(|(context, _)| *context)
            .collect();
        for context in contexts {
            let question = reads.asked.remove(&context).unwrap_or_default();
            // Who asked from elsewhere asks again by itself.
            reads.waiting.extend(question.reads);
        }
        // Given up meanwhile.
        reads.waiting.retain(|read| calls.is_open(read.call.id));
        for released in reads.released.values_mut() {
            released.retain(|read| calls.is_open(read.call.id));
        }
        reads.released.retain(|_, reads| !reads.is_empty());
    }

    fn fail_reads(&mut self, calls: &mut Calls, out: &mut Outputs) {
        let asked = std::mem::take(&mut self.reads.asked).into_values();
        self.reads.tick();
        let waiting = std::mem::take(&mut self.reads.waiting);
        let all = asked.flat_map(|question| question.reads).chain(waiting);
        for Read { call, .. } in all {
            let missing = self
                .peers
                .missing_majority(&self.state, self.raft.conf_state());
            // Nobody is known to be missing: most likely the others elect.
            let error = missing.map_or(Error::NoLeader, |missing| Error::QuorumLost { missing });
            calls.reply(call.id, Err(error), out);
        }
    }

    pub(super) fn answer_released(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        while let Some(entry) = self.reads.released.first_entry() {
            if *entry.key() > self.applied.index {
                return;
            }
            for read in entry.remove() {
                if read.method.is_read() {
                    self.hand_over(now, read, false, out, calls);
                } else {
                    self.judge_again(now, read, entropy, calls, out);
                }
            }
        }
    }

    /// A small read is answered; of any other a reader thread has to, deadline or not.
    fn hand_over(
        &mut self,
        now: Now,
        read: Read,
        stale: bool,
        out: &mut Outputs,
        calls: &mut Calls,
    ) {
        let used = self.used_by_nodes_of(&read);
        let Read { method, call, .. } = read;
        if method == Method::BackupCluster {
            return self.hand_over_backup(call, stale, calls, out);
        }
        if calls.close(call.id) {
            let mut view = self.view(now, method, &call.body, stale);
            view.used = used;
            let few = !stale && out.replies.len() < REPLIES_PER_STEP_MAX;
            let small = few
                .then(|| reads::answer_small(&self.state, &view, method, &call.body))
                .flatten();
            if let Some(answer) = small {
                return out.replies.push((call.id, Ok(answer)));
            }
            let (id, body, state) = (call.id, call.body, self.state.clone());
            out.reads.push(ReadJob {
                id,
                stale,
                method,
                body,
                state,
                view,
            });
        }
    }

    fn view(&self, now: Now, method: Method, body: &[u8], stale: bool) -> LeaderView {
        let named = |reference: Result<String, _>| {
            let reference: String = reference.ok().filter(|it: &String| !it.is_empty())?;
            self.state.resolve_service(&reference).ok()
        };
        let asked = match method {
            Method::ListSlots => named(pb::ListSlotsRequest::decode(body).map(|it| it.r#ref)),
            Method::GetService => named(pb::GetServiceRequest::decode(body).map(|it| it.r#ref)),
            Method::Explain => pb::ExplainRequest::decode(body)
                .ok()
                .and_then(|request| explaining::service_of(&self.state, &request.r#ref)),
            _ => None,
        };
        let orchestrator = &self.orchestrator;
        let pending = asked
            .filter(|_| method != Method::GetService)
            .map(|id| orchestrator.pending(id).to_vec());
        let loops = asked.map(|id| orchestrator.crash_loops(id));
        let explains = asked.filter(|_| method == Method::Explain);
        let keeping = explains.and_then(|id| self.state.service(id));
        let leader = self.leader().and_then(|leader| self.state.member(leader));
        LeaderView {
            node: self.config.node,
            leader: leader.map(|member| member.node),
            term: self.raft.term(),
            last_index: self.raft.last().index,
            applied_index: self.applied.index,
            pending: pending.unwrap_or_default(),
            loops: loops.unwrap_or_default(),
            looping: match method {
                Method::ListServices => orchestrator.crash_looping_by_service(),
                _ => BTreeMap::new(),
            },
            keeping: keeping.map_or_else(Default::default, |it| orchestrator.keeping(it)),
            failing: match method {
                Method::Plan => orchestrator.known_failing(),
                _ => KnownFailing::default(),
            },
            stale,
            told: match method {
                Method::ListEvents => self.told(now, body),
                _ => Ok(Told::default()),
            },
            joint: self.raft.conf_state().is_joint(),
            used: BTreeMap::new(),
            members: match method {
                Method::ListMembers => self.member_progress(),
                _ => Vec::new(),
            },
        }
    }

    fn told(&self, now: Now, body: &[u8]) -> Result<Told, Error> {
        let sources = Sources {
            orchestrator: &self.orchestrator,
            history: &self.history,
            state: &self.state,
            term: self.raft.term().0,
            // The state's may be ahead, by that of a leader before.
            now_ms: now.wall_ms.max(self.state.time_ms()),
        };
        Told::of(&sources, &decode(body)?)
    }

    /// Who leads, as far as this member knows.
    pub(super) fn leader(&self) -> Option<MemberId> {
        match self.raft.role() {
            Role::Leader => Some(self.identity.member),
            _ => self.raft.leader(),
        }
    }

    fn member_progress(&self) -> Vec<MemberProgress> {
        let raft = self.raft.status();
        let me = self.identity.member;
        let of = |member: &crate::fsm::Member| {
            let progress = raft.progress.iter().find(|p| p.member == member.id);
            let known = self.peers.known(member.id);
            let release = known.map_or_else(String::new, |known| known.release.clone());
            MemberProgress {
                member: member.id,
                leader: raft.leader == Some(member.id),
                voter: raft.conf.is_voter(member.id.0),
                recent_active: member.id == me || progress.is_some_and(|known| known.recent_active),
                match_index: progress.map_or(Index(0), |known| known.match_index),
                release: if member.id == me {
                    env!("CARGO_PKG_VERSION").into()
                } else {
                    release
                },
            }
        };
        self.state.members().map(of).collect()
    }
}
