//! When a member that was removed is not needed any more.
//!
//! Its vote may be needed to leave the joint configuration once more: those who restart have forgotten
//! that it was left, unless the commit index on their disks says so. Entries take the commit index to
//! disk with them. Once one is committed that was proposed after the configuration without the member
//! was applied, a quorum knows for good: the removal is *settled*. Only then is whoever asked for it
//! answered, and the member told to stop.

use super::super::calls::Calls;
use super::super::{CallId, Now, Outputs};
use super::Member;
use crate::error::Error;
use crate::ids::{Index, MemberId};

/// Long enough for the others to restart and elect.
const GONE_STAYS_MS: u64 = 30_000;

#[derive(Default)]
pub struct Removals {
    /// Who waits for a member not to be needed any more.
    waiting: Vec<(CallId, MemberId)>,
    known: Known,
    /// Since when the configuration is as it is.
    since_ms: Option<u64>,
    /// Since when this member is none any more.
    gone_since_ms: Option<u64>,
}

/// How much is known of the configuration that is applied.
#[derive(Default, Clone, Copy)]
enum Known {
    #[default]
    Applied,
    /// Once the entry is committed, it is settled.
    FollowUp(Index),
    Settled,
}

impl Removals {
    /// Another configuration is applied.
    pub fn reconfigured(&mut self, now_ms: u64) {
        self.known = Known::Applied;
        self.since_ms = Some(now_ms);
    }

    pub fn stepped_down(&mut self, calls: &mut Calls, out: &mut Outputs) {
        if let Known::FollowUp(_) = self.known {
            self.known = Known::Applied;
        }
        // The next leader carries it through; the request can be repeated.
        for (call, _) in self.waiting.drain(..) {
            calls.reply(call, Err(Error::OutcomeUnknown), out);
        }
    }

    /// This member is none any more.
    pub fn is_gone(&mut self, now_ms: u64) {
        self.gone_since_ms.get_or_insert(now_ms);
    }

    /// Whether members that were removed may be told. The leader settles it; who follows cannot tell
    /// which entries were proposed later, and gives the leader the time to do so.
    pub fn may_tell(&mut self, now_ms: u64, leads: bool) -> bool {
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        match self.known {
            Known::Settled => true,
            _ => !leads && now_ms >= since_ms + GONE_STAYS_MS,
        }
    }
}

impl Member {
    pub(super) fn removed_before(
        &mut self,
        call: CallId,
        member: MemberId,
    ) -> Result<Option<Vec<u8>>, Error> {
        if !self.state.is_removed(member) {
            return Err(Error::NotFound {
                kind: "member",
                reference: member.0.to_string(),
            });
        }
        self.removals.waiting.push((call, member));
        Ok(None)
    }

    /// The command that removes a member is applied. Whoever asked for it is answered only once
    /// nobody needs the member any more: only then may its host be switched off.
    pub(super) fn removed(
        &mut self,
        call: CallId,
        member: MemberId,
        response: Result<Vec<u8>, Error>,
        calls: &mut Calls,
        out: &mut Outputs,
    ) {
        match response {
            Ok(_) => self.removals.waiting.push((call, member)),
            Err(error) => calls.reply(call, Err(error), out),
        }
    }

    /// Settles what somebody waits for: whoever asked for a removal, or a removed member that has
    /// not been told yet.
    pub(super) fn settle_removals(&mut self, calls: &mut Calls, out: &mut Outputs) {
        let knocked = self.peers.take_knock();
        if !self.leading {
            return;
        }
        self.removals
            .waiting
            .retain(|(call, _)| calls.is_open(*call));
        if let Known::FollowUp(index) = self.removals.known
            && index <= self.applied.index
        {
            self.removals.known = Known::Settled;
        }
        let conf = self.raft.conf_state();
        let mut waiting = self.removals.waiting.iter();
        let asked = knocked || waiting.any(|(_, member)| !conf.contains(member.0));
        match self.removals.known {
            // A refusal is one only for now.
            Known::Applied if asked => {
                if let Ok(at) = self.raft.propose(Vec::new()) {
                    self.removals.known = Known::FollowUp(at.index);
                }
            }
            Known::Settled => {
                let waiting = std::mem::take(&mut self.removals.waiting);
                let (still, done) = waiting
                    .into_iter()
                    .partition(|(_, member)| conf.contains(member.0));
                self.removals.waiting = still;
                for (call, _) in done {
                    calls.reply(call, Ok(Vec::new()), out);
                }
            }
            _ => {}
        }
    }

    /// A member that is none any more stays for a while, unless it is told that it is not needed:
    /// others may need its vote once more.
    pub(super) fn end_if_gone(&mut self, now: Now, out: &mut Outputs) {
        let me = self.identity.member.0;
        let since_ms = self.removals.gone_since_ms;
        if since_ms.is_some_and(|since_ms| now.mono_ms() >= since_ms + GONE_STAYS_MS) {
            let why =
                format!("member {me} was removed from the cluster and is not needed any more");
            self.stop_removed(why, out);
        }
    }
}
