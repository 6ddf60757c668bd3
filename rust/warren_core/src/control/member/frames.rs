//! Frames of other members: each to where it belongs.

use prost::Message;

use super::super::hashes::{Hashes, Verdict};
use super::super::peer::Membership;
use super::super::peer::frame::Kind;
use super::super::{Level, Now, Outputs};
use super::Member;
use crate::fsm::StateHash;
use crate::ids::{Index, MemberId};
use crate::pb;
use crate::raft::{self, Lane, Role};

impl Member {
    pub(super) fn frame(&mut self, now: Now, bytes: &[u8], out: &mut Outputs) {
        let now_ms = now.mono_ms();
        let known = Membership {
            state: &self.state,
            conf: self.raft.conf_state(),
            settled: self.removals.may_tell(now_ms, self.leading),
        };
        let Some((header, body)) = self.peers.accept(bytes, known, now_ms, out) else {
            return;
        };
        if header.epoch > self.identity.epoch {
            return self.left_out(&header, out);
        }
        if let Err(why) = self.take_body(now, header.from, header.kind, body, out) {
            self.peers.undecodable(header.from, &why, now_ms, out);
        }
    }

    /// A body that is not what its kind says has changed nothing.
    fn take_body(
        &mut self,
        now: Now,
        from: MemberId,
        kind: Kind,
        body: &[u8],
        out: &mut Outputs,
    ) -> Result<(), String> {
        let now_ms = now.mono_ms();
        match kind {
            Kind::Raft => {
                let message: pb::RaftMessage = decode(body)?;
                let (kind, term, sent_ns) = (message.r#type(), message.term, message.sent_ns);
                let received = self.raft.receive(from, message);
                received.map_err(|damaged| damaged.why)?;
                // A clock of this life: no other one leads in this term.
                let ours = self.raft.role() == Role::Leader && self.raft.term().0 == term;
                if kind == pb::RaftMessageType::HeartbeatResponse && ours && sent_ns > 0 {
                    let took_ns = now.mono_ns.saturating_sub(sent_ns);
                    out.samples.round_trip_ns.push((from, took_ns));
                }
            }
            Kind::Hello => {
                let news = self.peers.hello(from, &decode(body)?, now_ms, out);
                self.members_changed |= news;
                self.snapshots.sending.introduced(from, now_ms);
            }
            Kind::ReadAsk => {
                let ask: pb::PeerReadAsk = decode(body)?;
                self.read_asked(from, &ask, out);
            }
            Kind::ReadAnswer => self.read_answered(from, &decode(body)?),
            Kind::SnapshotOffer => self.snapshot_offered(now_ms, from, decode(body)?, out),
            Kind::SnapshotChunk => self.snapshot_chunk(now_ms, from, decode(body)?, out),
            Kind::SnapshotAck => self.snapshot_acknowledged(now_ms, from, &decode(body)?, out),
            Kind::StateHash => self.hash_told(from, &decode(body)?, out)?,
            Kind::Forward => self.forwards.arrived(from, decode(body)?),
            Kind::ForwardAnswer => self.forwards.answered(from, decode(body)?),
            Kind::Removed => {
                let (me, from) = (self.identity.member.0, from.0);
                let why =
                    format!("member {me} was removed from the cluster: member {from} says so");
                self.stop_removed(why, out);
            }
        }
        Ok(())
    }

    pub(super) fn send_raft(&mut self, now: Now, message: raft::Message, out: &mut Outputs) {
        let raft::Message { to, lane, mut body } = message;
        if body.r#type() == pb::RaftMessageType::Heartbeat {
            body.sent_ns = now.mono_ns;
        }
        self.peers.send(to, lane, Kind::Raft, &body, out);
    }

    /// At each multiple of some index: what this member's state is, for the others to compare.
    pub(super) fn exchange_hash(&mut self, out: &mut Outputs) {
        let index = self.applied.index;
        if !Hashes::is_due(index) {
            return;
        }
        let hash = self.state.hash();
        let me = self.identity.member;
        self.hashes.record(me, index, hash);
        let told = pb::PeerStateHash {
            index: index.0,
            hash: hash.to_bytes().to_vec(),
        };
        let conf = self.raft.conf_state();
        let members = [&conf.voters, &conf.voters_outgoing, &conf.learners];
        let mut others: Vec<u64> = members.into_iter().flatten().copied().collect();
        others.sort_unstable();
        others.dedup();
        for other in others.into_iter().map(MemberId).filter(|id| *id != me) {
            self.peers
                .send(other, Lane::Bulk, Kind::StateHash, &told, out);
        }
        self.judge_hash(index, out);
    }

    fn hash_told(
        &mut self,
        from: MemberId,
        told: &pb::PeerStateHash,
        out: &mut Outputs,
    ) -> Result<(), String> {
        let bytes = told.hash[..].try_into();
        let hash = bytes.map_err(|_| "a hash has not 16 bytes".to_owned())?;
        if !Hashes::is_due(Index(told.index)) || !self.raft.conf_state().contains(from.0) {
            return Ok(());
        }
        let index = Index(told.index);
        self.hashes.record(from, index, StateHash::from_bytes(hash));
        self.judge_hash(index, out);
        Ok(())
    }

    fn judge_hash(&mut self, index: Index, out: &mut Outputs) {
        let voters = &self.raft.conf_state().voters;
        match self.hashes.judge(self.identity.member, voters, index) {
            None => {}
            Some(Verdict::Others { index, member }) => out.log(
                Level::Warning,
                "control",
                format!(
                    "the state of member {} differs from that of most at index {}, this one's is \
                     right: the other stops when it learns of it, and its log says so",
                    member.0, index.0
                ),
            ),
            Some(Verdict::NoMajority { index }) => out.log(
                Level::Warning,
                "control",
                format!(
                    "the members' states differ at index {}, and none has a majority; keep all \
                     logs, and compare backups",
                    index.0
                ),
            ),
            Some(Verdict::Minority {
                index,
                own,
                majority,
            }) => {
                let why = format!(
                    "the state of this member differs from that of most voters at index {} (hash \
                     {own}, theirs {majority}): its memory or disk is broken, or its release; keep \
                     its logs, and let the host join anew",
                    index.0
                );
                self.stop(why, true, out);
            }
        }
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| format!("it cannot be decoded: {error}"))
}
