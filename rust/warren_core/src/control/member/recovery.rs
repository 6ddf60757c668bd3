//! What a cluster is saved by: backups of a running one, and the way out of a lost quorum.

use prost::Message as _;

use super::super::calls::Calls;
use super::super::durable::backup;
use super::super::peer::frame::Header;
use super::super::requests::decode;
use super::super::{BackupJob, Call, Outputs};
use super::Member;
use crate::error::Error;
use crate::fsm::snapshot;
use crate::pb;

impl Member {
    /// The state as it is now goes to whoever writes it down, and answers the call.
    pub(super) fn hand_over_backup(
        &self,
        call: Call,
        stale: bool,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        if self.state.cluster().is_none() {
            return calls.reply(call.id, Err(Error::NotInCluster), out);
        }
        let Ok(file) = String::from_utf8(call.body) else {
            let (what, why) = ("backup", "the name of its file is no text".into());
            return calls.reply(call.id, Err(Error::Invalid { what, why }), out);
        };
        if calls.close(call.id) {
            out.backups.push(BackupJob {
                id: call.id,
                file: file.into(),
                header: backup::header(&self.state, stale),
                snapshot: snapshot::header(&self.state, self.raft.conf_state().encode()),
                state: self.state.clone(),
            });
        }
    }

    /// Whether this member should go on alone: what it would go on from, or why it should not.
    pub(super) fn judge_recovery(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let request: pb::RecoverQuorumRequest = decode(body)?;
        let cluster = self.state.cluster().ok_or(Error::NotInCluster)?;
        if !request.force {
            self.check_lost()?;
        }
        let last = self.raft.last();
        let others = self.state.members();
        let others = others.filter(|member| member.id != self.identity.member);
        let report = pb::RecoverQuorumResponse {
            cluster_id: cluster.id.to_vec(),
            epoch: self.identity.epoch,
            member_id: self.identity.member.0,
            last_index: last.index.0,
            last_term: last.term.0,
            commit_index: self.raft.commit_index().0,
            removed: others.map(pb::Member::from).collect(),
        };
        Ok(report.encode_to_vec())
    }

    fn check_lost(&self) -> Result<(), Error> {
        let refused = |why: String| {
            let what = "recovery";
            Err(Error::Invalid { what, why })
        };
        let me = self.identity.member;
        let conf = self.raft.conf_state();
        if let Some(leader) = self.leader() {
            return refused(format!(
                "member {} leads, so nothing is lost; take dead members out with warrenctl cluster \
                 remove-member",
                leader.0
            ));
        }
        if self.peers.missing_majority(&self.state, conf).is_none() {
            return refused(
                "a majority of the managers has been heard of just now; give it some seconds to \
                 elect a leader"
                    .into(),
            );
        }
        if !conf.is_voter(me.0) {
            return refused(
                "this member does not vote and may lack what was acknowledged; recover on one that \
                 does, or take this one with --force if there is none"
                    .into(),
            );
        }
        if self.raft.is_cut() {
            return refused(
                "the end of this member's log was cut off and it may lack what was acknowledged; \
                 recover on another one, or take this one with --force if there is none"
                    .into(),
            );
        }
        Ok(())
    }

    /// A member of a later epoch says that the cluster went on without this one.
    pub(super) fn left_out(&mut self, header: &Header, out: &mut Outputs) {
        let why = format!(
            "the cluster went on without this manager: member {} is of epoch {}, this one of epoch \
             {}, and what it alone knows is lost. Its host goes on as a worker; to let it manage \
             again: warrenctl node promote",
            header.from.0, header.epoch, self.identity.epoch
        );
        self.stop(why, true, out);
        if let Some(stop) = &mut out.stop {
            stop.removed = true;
        }
    }
}
