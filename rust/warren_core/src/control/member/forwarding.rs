//! Writes that come to a member that does not lead: passed on to the one that does, and its answer
//! handed back.
//!
//! A leader whose release takes none is named instead, as [`Error::NotLeader`], and so is it for what
//! has been passed on once. Frames may get lost or arrive twice: each request has a random token, the
//! leader takes up none a second time, and what stays unanswered has an unknown outcome: at its
//! deadline, or soon after the lead has moved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::access::{self, Method};
use super::super::calls::Calls;
use super::super::entropy::Entropy;
use super::super::peer::frame::Kind;
use super::super::{Call, CallId, Now, Outputs};
use super::Member;
use crate::error::Error;
use crate::ids::{MemberId, Term};
use crate::pb;
use crate::raft::Lane;

/// Requests of one member that wait for the leader, and requests of all others that a leader has.
pub const FORWARDS_MAX: usize = 1024;
/// Tokens that are remembered: what was taken up some seconds ago is not sent again.
const TOKENS_MAX: usize = 8 * FORWARDS_MAX;
/// A leader that has just lost the lead may still answer.
const DOUBT_MS: u64 = 500;
/// Longest that a request waits at the leader, whatever it says.
const WAIT_MS_MAX: u64 = 600_000;

/// Counters of what was passed on from here, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Waiting for the leader now.
    pub waiting: usize,
    /// Others' requests that are under way here.
    pub taken: usize,
    pub answered: u64,
    pub refused: u64,
    pub unknown: u64,
}

/// Passed on from here.
struct Sent {
    call: CallId,
    to: MemberId,
    term: Term,
    /// When it is given up, once the lead has moved.
    doubted_at_ms: Option<u64>,
}

#[derive(Default)]
pub struct Forwards {
    sent: BTreeMap<u64, Sent>,
    /// Frames of others that wait for the end of what is being done.
    arrived: Vec<(MemberId, pb::PeerForward)>,
    answers: Vec<(MemberId, pb::PeerForwardAnswer)>,
    /// Taken up here: whose they are.
    taken: BTreeMap<CallId, (MemberId, u64)>,
    tokens: BTreeSet<(MemberId, u64)>,
    tokens_by_age: VecDeque<(MemberId, u64)>,
    next_id: u64,
    stats: Stats,
}

impl Forwards {
    pub fn stats(&self) -> Stats {
        Stats {
            waiting: self.sent.len(),
            taken: self.taken.len(),
            ..self.stats
        }
    }

    pub fn arrived(&mut self, from: MemberId, request: pb::PeerForward) {
        self.arrived.push((from, request));
    }

    pub fn answered(&mut self, from: MemberId, answer: pb::PeerForwardAnswer) {
        self.answers.push((from, answer));
    }

    /// False if it was taken up before.
    fn is_new(&mut self, from: MemberId, token: u64) -> bool {
        if !self.tokens.insert((from, token)) {
            return false;
        }
        self.tokens_by_age.push_back((from, token));
        if self.tokens_by_age.len() > TOKENS_MAX
            && let Some(oldest) = self.tokens_by_age.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        true
    }
}

impl Member {
    /// Whom to pass a call on to.
    pub(super) fn forwards_to(&self, method: Method, call: &Call) -> Option<MemberId> {
        let leader = self.leader()?;
        let elsewhere = leader != self.identity.member && !call.id.is_of_another_member();
        let takes = |known: &super::super::peer::Known| known.takes_forwards;
        (elsewhere && method.is_forwarded() && self.peers.known(leader).is_some_and(takes))
            .then_some(leader)
    }

    /// Passes a call on; it stays open here.
    pub(super) fn forward(
        &mut self,
        now: Now,
        to: MemberId,
        call: &Call,
        entropy: &mut Entropy,
        out: &mut Outputs,
    ) -> Result<(), Error> {
        if self.forwards.sent.len() >= FORWARDS_MAX {
            return Err(Error::Overloaded {
                queue: "the list of requests that wait for the leader",
                limit: FORWARDS_MAX,
            });
        }
        let token = entropy.draw_u64();
        let request = pb::PeerForward {
            token,
            identity: call.identity.clone(),
            method: call.method.clone(),
            body: call.body.clone(),
            left_ms: call.deadline_mono_ms.saturating_sub(now.mono_ms()),
        };
        self.peers.send(to, Lane::Log, Kind::Forward, &request, out);
        let sent = Sent {
            call: call.id,
            to,
            term: self.raft.term(),
            doubted_at_ms: None,
        };
        self.forwards.sent.insert(token, sent);
        Ok(())
    }

    /// Takes up what others passed on, and hands back what the leader answered.
    pub(super) fn take_forwards(
        &mut self,
        now: Now,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        for (from, answer) in std::mem::take(&mut self.forwards.answers) {
            self.hand_back(from, answer, calls, out);
        }
        for (from, request) in std::mem::take(&mut self.forwards.arrived) {
            if self.forwards.is_new(from, request.token) {
                self.take_up(now, from, request, entropy, calls, out);
            }
        }
    }

    fn take_up(
        &mut self,
        now: Now,
        from: MemberId,
        request: pb::PeerForward,
        entropy: &mut Entropy,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        let id = CallId::of_another_member(self.forwards.next_id);
        self.forwards.next_id += 1;
        let full = self.forwards.taken.len() >= FORWARDS_MAX;
        self.forwards.taken.insert(id, (from, request.token));
        let allowed = access::check(
            &request.identity,
            &request.method,
            access::Kind::Call,
            &request.body,
        );
        let method = match allowed {
            Ok(method) if method.is_forwarded() && !full => method,
            Ok(method) if method.is_forwarded() => {
                let (queue, limit) = ("the list of forwarded requests", FORWARDS_MAX);
                return out
                    .replies
                    .push((id, Err(Error::Overloaded { queue, limit })));
            }
            Ok(_) => {
                let method = request.method;
                return out.replies.push((id, Err(Error::UnknownMethod { method })));
            }
            Err(error) => return out.replies.push((id, Err(error))),
        };
        let deadline_mono_ms = now.mono_ms() + request.left_ms.min(WAIT_MS_MAX);
        calls.open_call(id, deadline_mono_ms, method.is_read());
        let call = Call {
            id,
            identity: request.identity,
            method: request.method,
            body: request.body,
            deadline_mono_ms,
            consistency: Default::default(),
        };
        if let Some(result) = self.call(now, method, call, entropy, calls, out) {
            calls.reply(id, result, out);
        }
    }

    fn hand_back(
        &mut self,
        from: MemberId,
        answer: pb::PeerForwardAnswer,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        let sent = &mut self.forwards.sent;
        if sent.get(&answer.token).is_none_or(|sent| sent.to != from) {
            return;
        }
        let Some(Sent { call, .. }) = sent.remove(&answer.token) else {
            return;
        };
        let stats = &mut self.forwards.stats;
        let result = match answer.error {
            None => {
                stats.answered += 1;
                Ok(answer.response)
            }
            Some(error) => {
                stats.refused += 1;
                // Nothing happened there; who leads, this member knows by itself, or not yet.
                Err(match Error::given_elsewhere(error) {
                    Error::NoLeader => self.not_leading(),
                    other => other,
                })
            }
        };
        calls.reply(call, result, out);
    }

    /// What waits for a leader that leads no more is given up, a little later.
    pub(super) fn doubt_forwards(&mut self, now: Now, calls: &mut Calls, out: &mut Outputs) {
        let (term, now_ms) = (self.raft.term(), now.mono_ms());
        let Forwards { sent, stats, .. } = &mut self.forwards;
        sent.retain(|_, sent| {
            if sent.term < term {
                sent.doubted_at_ms.get_or_insert(now_ms + DOUBT_MS);
            }
            let over = sent.doubted_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
            if over {
                calls.reply(sent.call, Err(Error::OutcomeUnknown), out);
            }
            // The deadline may have answered it before.
            let kept = !over && calls.is_open(sent.call);
            stats.unknown += u64::from(!kept);
            kept
        });
    }

    /// Sends answers to requests of others to where they came from, instead of to people here.
    pub fn answer_forwards(&mut self, out: &mut Outputs) {
        if self.forwards.taken.is_empty() {
            return;
        }
        let mut answers = Vec::new();
        out.replies.retain_mut(|(id, result)| {
            let Some((to, token)) = self.forwards.taken.remove(id) else {
                return true;
            };
            let result = std::mem::replace(result, Ok(Vec::new()));
            answers.push((to, token, result));
            false
        });
        for (to, token, result) in answers {
            let (response, error) = match result {
                Ok(response) => (response, None),
                Err(error) => (Vec::new(), Some(error.to_pb())),
            };
            let answer = pb::PeerForwardAnswer {
                token,
                response,
                error,
            };
            self.peers
                .send(to, Lane::Log, Kind::ForwardAnswer, &answer, out);
        }
    }
}
