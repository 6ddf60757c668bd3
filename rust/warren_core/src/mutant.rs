//! Planted faults, to show that the checkers bite.
//!
//! A mutant is one line of the real code done wrong, behind a run-time switch, so that one build
//! holds all of them and a simulation can be run with each. In a release build [`is_on`] is the
//! constant `false` and the compiler drops the branch.

/// One planted fault. The number is the bug class that it stands for, by `docs/simulation.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// 1: a snapshot says that it ends one entry before the one it holds.
    SnapshotIndexBehindState,
    /// 2: a lone voter counts its entries for durable when it hands them to the log.
    AcknowledgesBeforeFsync,
    /// 3: a leader answers a read without asking whether it still leads.
    ReadsWithoutQuorum,
    /// 3: a leader refuses a request by its state without asking whether it still leads.
    RefusesUnconfirmed,
    /// 3: every question for a read index has the same context.
    ReusesReadContext,
    /// 4: a leader that was confirmed answers reads for a while, by the wall clock.
    LeaseByWallClock,
    /// 5: a request's id does not go with its command.
    DropsRequestIds,
    /// 5: a write whose outcome is unknown is answered as one that did not happen.
    RefusesWhatMayHappen,
    /// 5: `apply` does not look a request's id up, though the leader did before it proposed.
    AppliesRetriesAgain,
    /// 6: a leader changes the membership before it has committed an entry of its own term, and
    /// before the change under way is applied.
    ChangesMembersBeforeFirstCommit,
    /// 6: a change of membership takes effect at the leader when it is proposed.
    AppliesMembersWhenProposed,
    /// 6: nobody proposes to leave a joint configuration.
    StaysJoint,
    /// 6: a snapshot does not name the learners.
    SnapshotsWithoutTheJoiner,
    /// 6: a leader removes itself, and does not hand the lead over before.
    RemovesItselfWhileLeading,
    /// 6: a learner votes before it has caught up.
    PromotesTheUnready,
    /// 7: candidates do not ask first whether they could win.
    NoPreVote,
    /// 8: what follows an installed snapshot in the log stays, though it conflicts.
    InstallKeepsEntries,
    /// 8: a snapshot that comes while another is being installed takes its place.
    InstallsWhatWasReplaced,
    /// 8: a received snapshot is taken before its file is durable.
    InstallsBeforeDurable,
    /// 9: the newest snapshot is dropped instead of the oldest.
    PrunesNewestSnapshot,
    /// 10: what was uncommitted when the lead was lost counts again with the next one.
    UncommittedLeaks,
    /// 11: damage before a later batch is taken for a tail torn by a crash.
    TakesDamageForTorn,
    /// 11: a tail torn by a crash prevents the start.
    RefusesTornTail,
    /// 12: a batch that found no room is forgotten, and the log goes on behind the hole.
    DropsBatchWhenFull,
    /// 12: writes are taken up while the log has no room.
    WritesWithoutSpace,
    /// 13: a failed fsync is tried again.
    RetriesFailedSync,
    /// 14: a read that cannot be answered waits for ever.
    ReadsNeverExpire,
    /// 15: a member is listened to, and takes the state, on whatever data directory it runs.
    AcceptsAnotherDataDir,
    /// 15: members do not compare their states.
    ExchangesNoHashes,
    /// 16: votes and acknowledgements go out before what they promise is durable.
    SendsBeforeDurable,
    /// 19: a singleton is replaced as soon as its node is down, whether or not it was stopped.
    ReplacesSingletonsAtOnce,
    /// 25: a member that starts from a snapshot forgets the state's clock, which may then go back.
    RestoreForgetsClock,
}

impl Mutant {
    /// All of them, by class.
    pub const ALL: &'static [(u8, Mutant)] = &[
        (1, Mutant::SnapshotIndexBehindState),
        (2, Mutant::AcknowledgesBeforeFsync),
        (3, Mutant::ReadsWithoutQuorum),
        (3, Mutant::RefusesUnconfirmed),
        (3, Mutant::ReusesReadContext),
        (4, Mutant::LeaseByWallClock),
        (5, Mutant::DropsRequestIds),
        (5, Mutant::RefusesWhatMayHappen),
        (5, Mutant::AppliesRetriesAgain),
        (6, Mutant::ChangesMembersBeforeFirstCommit),
        (6, Mutant::AppliesMembersWhenProposed),
        (6, Mutant::StaysJoint),
        (6, Mutant::SnapshotsWithoutTheJoiner),
        (6, Mutant::RemovesItselfWhileLeading),
        (6, Mutant::PromotesTheUnready),
        (7, Mutant::NoPreVote),
        (8, Mutant::InstallKeepsEntries),
        (8, Mutant::InstallsWhatWasReplaced),
        (8, Mutant::InstallsBeforeDurable),
        (9, Mutant::PrunesNewestSnapshot),
        (10, Mutant::UncommittedLeaks),
        (11, Mutant::TakesDamageForTorn),
        (11, Mutant::RefusesTornTail),
        (12, Mutant::DropsBatchWhenFull),
        (12, Mutant::WritesWithoutSpace),
        (13, Mutant::RetriesFailedSync),
        (14, Mutant::ReadsNeverExpire),
        (15, Mutant::AcceptsAnotherDataDir),
        (15, Mutant::ExchangesNoHashes),
        (16, Mutant::SendsBeforeDurable),
        (19, Mutant::ReplacesSingletonsAtOnce),
        (25, Mutant::RestoreForgetsClock),
    ];
}

#[cfg(any(test, feature = "sim"))]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Switches one mutant on for this thread, or all off.
    pub fn set(mutant: Option<Mutant>) {
        ON.set(mutant);
    }

    /// Whether the fault is to happen.
    pub fn is_on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }
}

#[cfg(any(test, feature = "sim"))]
pub use switch::{is_on, set};

/// Never, in a release.
#[cfg(not(any(test, feature = "sim")))]
#[must_use]
pub const fn is_on(_: Mutant) -> bool {
    false
}
