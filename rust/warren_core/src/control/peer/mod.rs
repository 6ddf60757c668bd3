//! The other members, as this one sees them: where they are, what they can do, and which of their
//! frames are listened to.
//!
//! A link begins with a [`pb::PeerHello`] to the other side, repeated until the other's own has been
//! seen; it is written in the oldest format, so that every release reads it. Until then frames go
//! out in the oldest format too: nothing has to wait for a handshake.

pub mod frame;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::{FrameOut, Identity, Outputs, Peer};
use crate::fsm::{DataDirId, MEMBERS_MAX, State};
use crate::ids::{MemberId, NodeId};
use crate::mutant::{self, Mutant};
use crate::pb;
use crate::raft::{ConfState, Lane};
use frame::{Header, Kind, Unreadable};
pub use refusals::{Refusal, Refusals};

/// A hello that has not been answered is repeated after this: the first one to a joiner often meets
/// the daemon in the moment in which it becomes one.
const HELLO_RETRY_MS: u64 = 100;
/// Repetitions to a member that stays silent come further and further apart, up to this.
const HELLO_RETRY_MS_MAX: u64 = 8_000;
/// A removed member is told so once in this time, and so is a hello answered.
const ANSWER_EVERY_MS: u64 = 200;
/// How long a link to somebody who is no member is kept: to tell the removed, and for a joiner that
/// does not know the members yet.
const STRANGER_KEPT_MS: u64 = 60_000;
/// Of whom nothing has come for so long is told to be missing: several heartbeats and elections.
const SILENCE_MS: u64 = 1_500;
/// Members and strangers together.
pub const LINKS_MAX: usize = 2 * MEMBERS_MAX;

/// What a peer said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub format: u8,
    pub feature_level_max: u32,
    pub release: String,
    pub out_of_space: bool,
    pub api_address: String,
    /// Writes may be passed on to it.
    pub takes_forwards: bool,
}

/// Who belongs to the cluster, as far as this member knows.
#[derive(Clone, Copy)]
pub struct Membership<'a> {
    pub state: &'a State,
    pub conf: &'a ConfState,
    /// It is known for good: members that were removed are not needed any more.
    pub settled: bool,
}

struct Link {
    address: String,
    node: Option<NodeId>,
    known: Option<Known>,
    hello_at_ms: Option<u64>,
    retry_ms: u64,
    answered_at_ms: u64,
    /// Not in the state and not in the configuration: kept until then.
    stranger_until_ms: Option<u64>,
    /// When its last frame came, or the link was made.
    heard_ms: u64,
}

/// What this member says of itself.
#[derive(Clone, Debug)]
pub struct Myself {
    pub identity: Identity,
    pub address: String,
    pub api_address: String,
    pub feature_level_max: u32,
    pub out_of_space: bool,
}

/// Invariant: never a link to oneself; at most [`LINKS_MAX`].
pub struct Peers {
    myself: Myself,
    links: BTreeMap<MemberId, Link>,
    /// The data directories of members, of those too that are gone from the state and in the outgoing
    /// configuration still: their votes count until it is left.
    bound: BTreeMap<MemberId, DataDirId>,
    refusals: Refusals,
    /// What the driver was told last.
    announced: Vec<Peer>,
    frames_received: u64,
    frames_sent: u64,
    /// A removed member spoke that may not be told yet.
    knocked: bool,
    /// As of the last tick or frame.
    now_ms: u64,
}

impl Peers {
    pub fn new(myself: Myself) -> Self {
        Self {
            myself,
            links: BTreeMap::new(),
            bound: BTreeMap::new(),
            refusals: Refusals::default(),
            announced: Vec::new(),
            frames_received: 0,
            frames_sent: 0,
            knocked: false,
            now_ms: 0,
        }
    }

    /// Voters of `conf` that have not been heard of lately, if so many are missing that the others
    /// are no majority: in a sentence, for people.
    pub fn missing_majority(&self, state: &State, conf: &ConfState) -> Option<String> {
        let me = self.myself.identity.member.0;
        let absent = |id: &&u64| {
            let link = self.links.get(&MemberId(**id));
            **id != me && link.is_none_or(|link| link.heard_ms + SILENCE_MS <= self.now_ms)
        };
        let voters = [&conf.voters, &conf.voters_outgoing];
        let lost = |list: &&&Vec<u64>| {
            !list.is_empty() && list.iter().filter(absent).count() * 2 >= list.len()
        };
        let list = voters.iter().find(lost)?;
        let missing: Vec<String> = list
            .iter()
            .filter(absent)
            .map(|id| match state.member(MemberId(*id)) {
                Some(member) => format!("{id} at {}", member.address),
                None => id.to_string(),
            })
            .collect();
        let (count, all) = (missing.len(), list.len());
        let names = missing.join(", ");
        Some(format!(
            "{count} of {all} have not been heard of (member {names})"
        ))
    }

    /// The state has this member, in this data directory.
    pub fn bind(&mut self, member: MemberId, data_dir: DataDirId) {
        self.bound.insert(member, data_dir);
    }

    /// Makes the links those of the members in `state` and `conf`.
    pub fn follow(&mut self, state: &State, conf: &ConfState, now_ms: u64) {
        let me = self.myself.identity.member;
        for member in state.members().filter(|member| member.id != me) {
            let link = self
                .links
                .entry(member.id)
                .or_insert_with(|| Link::new(now_ms));
            link.node = Some(member.node);
            if link.known.is_none() || link.address.is_empty() {
                link.address = member.address.to_string();
            }
        }
        for id in ids(conf).filter(|id| *id != me) {
            self.links.entry(id).or_insert_with(|| Link::new(now_ms));
        }
        self.bound
            .retain(|id, _| state.member(*id).is_some() || conf.contains(id.0));
        for (id, link) in &mut self.links {
            let member = state.member(*id).is_some() || conf.contains(id.0);
            link.stranger_until_ms = match (member, link.stranger_until_ms) {
                (true, _) => None,
                (false, None) => Some(now_ms + STRANGER_KEPT_MS),
                (false, until) => until,
            };
        }
        // Whose address is another member's by now is not to be reached there any more: it would
        // only take the connections that the other one needs.
        let taken: BTreeSet<&str> = state.members().map(|member| &*member.address).collect();
        self.links.retain(|_, link| {
            link.stranger_until_ms.is_none() || !taken.contains(link.address.as_str())
        });
    }

    /// The frame, if it is one of this cluster, for this member, from a sender that may be one.
    pub fn accept<'a>(
        &mut self,
        bytes: &'a [u8],
        known: Membership<'_>,
        now_ms: u64,
        out: &mut Outputs,
    ) -> Option<(Header, &'a [u8])> {
        let state = known.state;
        self.frames_received += 1;
        self.now_ms = now_ms;
        let (header, body) = match frame::decode(bytes) {
            Ok(read) => read,
            Err(unreadable) => {
                let (why, sentence) = describe(unreadable);
                self.refusals.count(why, sentence, now_ms, out);
                return None;
            }
        };
        if let Some((why, sentence)) = self.judge(&header, state, known.conf) {
            if why == Refusal::OtherEpoch && self.is_left_out(&header, state) {
                return Some((header, body));
            }
            self.refusals.count(why, sentence, now_ms, out);
            match why {
                Refusal::Removed if known.settled => {
                    self.tell_removed(&header, body, now_ms, out);
                }
                Refusal::Removed => self.knocked = true,
                Refusal::OtherEpoch if self.left(&header, state) => {
                    self.tell_removed(&header, body, now_ms, out);
                }
                _ => {}
            }
            return None;
        }
        if let Some(link) = self.links.get_mut(&header.from) {
            link.heard_ms = now_ms;
            // A joiner knows nobody yet, for as long as its first snapshot takes.
            link.stranger_until_ms = link.stranger_until_ms.map(|_| now_ms + STRANGER_KEPT_MS);
        }
        Some((header, body))
    }

    /// Whether a removed member spoke, since this was last asked, that may not be told yet.
    pub fn take_knock(&mut self) -> bool {
        std::mem::take(&mut self.knocked)
    }

    /// A member that the cluster went on without speaks as if nothing had happened.
    fn left(&self, header: &Header, state: &State) -> bool {
        let us = &self.myself.identity;
        let older = header.epoch < us.epoch && header.to == us.member;
        older && state.is_removed(header.from)
    }

    /// A member that this one knows says from a later epoch that the cluster went on without it.
    fn is_left_out(&self, header: &Header, state: &State) -> bool {
        let us = &self.myself.identity;
        let bound = state.member(header.from).map(|member| member.data_dir);
        header.kind == Kind::Removed
            && header.epoch > us.epoch
            && header.to == us.member
            && bound == Some(header.from_data_dir)
    }

    fn judge(&self, header: &Header, state: &State, conf: &ConfState) -> Option<(Refusal, String)> {
        let us = &self.myself.identity;
        let from = header.from.0;
        if header.cluster != us.cluster {
            let other = header.cluster;
            let sentence = format!(
                "member {from} belongs to cluster {other}, this one to {}; give it another address",
                us.cluster
            );
            return Some((Refusal::OtherCluster, sentence));
        }
        if header.epoch != us.epoch {
            let sentence = format!(
                "member {from} is of epoch {}, this one of {}: one of them was left out of a \
                 recovery; let that one join anew",
                header.epoch, us.epoch
            );
            return Some((Refusal::OtherEpoch, sentence));
        }
        if header.to != us.member || header.from == us.member {
            let sentence = format!(
                "a frame of member {from} is for member {}, and this is {}; its address for that \
                 one is wrong",
                header.to.0, us.member.0
            );
            return Some((Refusal::OtherReceiver, sentence));
        }
        // In a joint configuration its vote is still needed to leave it.
        if state.is_removed(header.from) && !conf.contains(from) {
            let sentence = format!(
                "member {from} was removed from the cluster; stop it, and let its host join anew"
            );
            return Some((Refusal::Removed, sentence));
        }
        let bound = state.member(header.from).map(|member| member.data_dir);
        let bound = bound.or_else(|| self.bound.get(&header.from).copied());
        if bound.is_some_and(|bound| bound != header.from_data_dir)
            && !mutant::is_on(Mutant::AcceptsAnotherDataDir)
        {
            let sentence = format!(
                "member {from} runs on another data directory than the one it is bound to: what it \
                 voted for is lost; remove it, and let its host join anew"
            );
            return Some((Refusal::WrongDataDir, sentence));
        }
        None
    }

    /// What a frame of this peer holds makes no sense.
    pub fn undecodable(&mut self, from: MemberId, why: &str, now_ms: u64, out: &mut Outputs) {
        let sentence = format!("a frame of member {} is refused: {why}", from.0);
        self.refusals
            .count(Refusal::Undecodable, sentence, now_ms, out);
    }

    fn tell_removed(&mut self, header: &Header, body: &[u8], now_ms: u64, out: &mut Outputs) {
        let hello = (header.kind == Kind::Hello)
            .then(|| pb::PeerHello::decode(body).ok())
            .flatten();
        let Some(link) = self.link(header.from, now_ms, out) else {
            return;
        };
        if let Some(hello) = hello {
            link.address = hello.address;
        }
        link.stranger_until_ms = Some(now_ms + STRANGER_KEPT_MS);
        if now_ms >= link.answered_at_ms {
            link.answered_at_ms = now_ms + ANSWER_EVERY_MS;
            let removed = pb::PeerRemoved {};
            self.send(header.from, Lane::Urgent, Kind::Removed, &removed, out);
        }
    }

    /// The other side introduced itself. True if what it can do is news.
    pub fn hello(
        &mut self,
        from: MemberId,
        hello: &pb::PeerHello,
        now_ms: u64,
        out: &mut Outputs,
    ) -> bool {
        let (lowest, highest) = (u32::from(frame::FORMAT_MIN), u32::from(frame::FORMAT_MAX));
        let format = hello.format_max.min(highest);
        if format < hello.format_min.max(lowest) {
            let sentence = format!(
                "member {} reads frame formats {} to {}, this release {lowest} to {highest}: they \
                 cannot work together; upgrade the older one",
                from.0, hello.format_min, hello.format_max
            );
            self.refusals.count(Refusal::Format, sentence, now_ms, out);
            return false;
        }
        let Some(link) = self.link(from, now_ms, out) else {
            return false;
        };
        let known = Known {
            format: format as u8,
            feature_level_max: hello.feature_level_max,
            release: hello.release.clone(),
            out_of_space: hello.out_of_space,
            api_address: hello.api_address.clone(),
            takes_forwards: hello.takes_forwards,
        };
        let news = link.known.as_ref() != Some(&known) || link.address != hello.address;
        (link.known, link.hello_at_ms) = (Some(known), None);
        if !hello.address.is_empty() {
            link.address = hello.address.clone();
        }
        if !hello.answer && now_ms >= link.answered_at_ms {
            link.answered_at_ms = now_ms + ANSWER_EVERY_MS;
            self.say_hello(from, true, out);
        }
        news
    }

    /// The link to `id`, made if there is room for it.
    fn link(&mut self, id: MemberId, now_ms: u64, out: &mut Outputs) -> Option<&mut Link> {
        if !self.links.contains_key(&id) && self.links.len() >= LINKS_MAX {
            let sentence = format!("member {} is one too many to listen to", id.0);
            self.refusals.count(Refusal::TooMany, sentence, now_ms, out);
            return None;
        }
        let link = self.links.entry(id).or_insert_with(|| {
            let stranger_until_ms = Some(now_ms + STRANGER_KEPT_MS);
            Link {
                stranger_until_ms,
                ..Link::new(now_ms)
            }
        });
        Some(link)
    }

    /// Hellos that are due, links that are not needed any more, and whom the driver should reach.
    pub fn tick(&mut self, now_ms: u64, out: &mut Outputs) {
        self.now_ms = now_ms;
        self.links
            .retain(|_, link| link.stranger_until_ms.is_none_or(|until| now_ms < until));
        // One that is silent may have restarted with nothing, and not know whom to answer.
        for link in self.links.values_mut() {
            if link.hello_at_ms.is_none() && link.heard_ms + SILENCE_MS <= now_ms {
                (link.hello_at_ms, link.retry_ms) = (Some(now_ms), HELLO_RETRY_MS);
            }
        }
        let due = |link: &Link| link.hello_at_ms.is_some_and(|at| at <= now_ms);
        let silent: Vec<MemberId> = self
            .links
            .iter_mut()
            .filter(|(_, link)| due(link))
            .map(|(id, link)| {
                link.hello_at_ms = Some(now_ms + link.retry_ms);
                link.retry_ms = (link.retry_ms * 2).min(HELLO_RETRY_MS_MAX);
                *id
            })
            .collect();
        for id in silent {
            self.say_hello(id, false, out);
        }
        self.announce(out);
    }

    fn announce(&mut self, out: &mut Outputs) {
        let peers: Vec<Peer> = self
            .links
            .iter()
            .filter(|(_, link)| !link.address.is_empty())
            .map(|(id, link)| Peer {
                member: *id,
                address: link.address.clone(),
                node: link.node,
            })
            .collect();
        if peers != self.announced {
            self.announced.clone_from(&peers);
            out.peers = Some(peers);
        }
    }

    /// Whether the log can take more, which the others are told.
    pub fn set_space(&mut self, has_space: bool, out: &mut Outputs) {
        if self.myself.out_of_space != has_space {
            return;
        }
        self.myself.out_of_space = !has_space;
        let all: Vec<MemberId> = self.links.keys().copied().collect();
        all.into_iter().for_each(|id| self.say_hello(id, true, out));
    }

    fn say_hello(&mut self, to: MemberId, answer: bool, out: &mut Outputs) {
        let hello = pb::PeerHello {
            format_min: frame::FORMAT_MIN.into(),
            format_max: frame::FORMAT_MAX.into(),
            feature_level_max: self.myself.feature_level_max,
            release: env!("CARGO_PKG_VERSION").into(),
            address: self.myself.address.clone(),
            answer,
            out_of_space: self.myself.out_of_space,
            api_address: self.myself.api_address.clone(),
            takes_forwards: true,
        };
        let identity = &self.myself.identity;
        let header = Header::of(identity, to, frame::FORMAT_MIN, Lane::Urgent, Kind::Hello);
        self.put(&header, &hello, out);
    }

    pub fn send(
        &mut self,
        to: MemberId,
        lane: Lane,
        kind: Kind,
        body: &impl Message,
        out: &mut Outputs,
    ) {
        let known = self.known(to);
        let format = known.map_or(frame::FORMAT_MIN, |known| known.format);
        let header = Header::of(&self.myself.identity, to, format, lane, kind);
        self.put(&header, body, out);
    }

    fn put(&mut self, header: &Header, body: &impl Message, out: &mut Outputs) {
        self.frames_sent += 1;
        out.frames.push(FrameOut {
            to: header.to,
            lane: header.lane,
            bytes: frame::encode(header, body),
        });
    }

    /// What the peer said of itself, if it did.
    pub fn known(&self, id: MemberId) -> Option<&Known> {
        self.links.get(&id).and_then(|link| link.known.as_ref())
    }

    /// Where a peer is reached; empty if that is not known.
    pub fn address(&self, id: MemberId) -> &str {
        self.links.get(&id).map_or("", |link| &link.address)
    }

    pub fn myself(&self) -> &Myself {
        &self.myself
    }

    pub fn stats(&self) -> Stats {
        Stats {
            links: self.links.len(),
            frames_received: self.frames_received,
            frames_sent: self.frames_sent,
            refusals: self.refusals.get(),
        }
    }
}

/// Counters of all frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    pub links: usize,
    pub frames_received: u64,
    pub frames_sent: u64,
    pub refusals: [(Refusal, u64); Refusal::ALL.len()],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            links: 0,
            frames_received: 0,
            frames_sent: 0,
            refusals: Refusals::default().get(),
        }
    }
}

impl Link {
    fn new(now_ms: u64) -> Self {
        Self {
            address: String::new(),
            node: None,
            known: None,
            hello_at_ms: Some(now_ms),
            retry_ms: HELLO_RETRY_MS,
            answered_at_ms: 0,
            stranger_until_ms: None,
            heard_ms: now_ms,
        }
    }
}

fn ids(conf: &ConfState) -> impl Iterator<Item = MemberId> {
    let lists = [&conf.voters, &conf.voters_outgoing, &conf.learners];
    lists.into_iter().flatten().copied().map(MemberId)
}

fn describe(unreadable: Unreadable) -> (Refusal, String) {
    match unreadable {
        Unreadable::Format(format) => (
            Refusal::Format,
            format!(
                "a member sends frame format {format}, and this release reads {} to {}; upgrade \
                 the older one",
                frame::FORMAT_MIN,
                frame::FORMAT_MAX
            ),
        ),
        Unreadable::Kind(kind) => (
            Refusal::Format,
            format!("a member sends frames of kind {kind}, unknown to this release; upgrade it"),
        ),
        Unreadable::Length | Unreadable::Checksum | Unreadable::Header => (
            Refusal::Garbled,
            "what came is no frame of a member; is something else using this port?".into(),
        ),
    }
}

#[cfg(test)]
mod tests;
