//! What happened in a simulation, counted: a fault that never fires tests nothing.

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// What may happen. Counted when it takes effect, not when it is planned.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name),* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            pub fn label(self) -> &'static str {
                match self { $(Kind::$name => $label),* }
            }
        }
    };
}

kinds! {
    Lost => "message lost",
    Duplicated => "message duplicated",
    Reordered => "message reordered",
    Delayed => "message delayed",
    /// Stopped by a partition.
    CutOff => "message cut off by a partition",
    PartitionFull => "partition, full",
    PartitionOneWay => "partition, one way",
    PartitionBridge => "partition, bridge",
    CrashKept => "crash, page cache kept",
    CrashLost => "crash, unsynced lost",
    CrashTorn => "crash, unsynced torn",
    CrashReordered => "crash, unsynced reordered",
    /// In the middle of a disk operation.
    CrashInWrite => "crash in a disk operation",
    SyncFailed => "fsync failed",
    DiskFull => "disk full",
    /// A tail that may have been acknowledged: the member is not counted before it caught up.
    Cut => "log cut",
    BitFlip => "bit flipped at rest",
    SlowDisk => "slow disk",
    ClockJump => "wall clock set",
    ClockDrift => "clock drifts",
    Pause => "process paused",
    LoopBlocked => "event loop blocked",
    Restarted => "orderly restart",
    MemberAdded => "member added",
    MemberRemoved => "member removed",
    MemberReplaced => "member replaced",
    LeaderRemoved => "leader removed",
    Transferred => "leadership transferred",
    EmptyDisk => "identity on an empty disk",
    Upgraded => "release upgraded",
    Downgraded => "release taken back",
    LevelRaised => "feature level raised",
    Snapshot => "snapshot written",
    Installed => "snapshot installed",
    Election => "leader elected",
    Retried => "request repeated",
    Unknown => "outcome unknown",
    WorkerCut => "worker cut off",
    WorkerRestarted => "worker restarted",
    NodeRemoved => "node removed",
    NodeAdmitted => "node admitted",
    /// So many workers were lost at once that nothing was replaced.
    Frozen => "replacement frozen",
    /// Its node was down, and it was not replaced yet.
    SingletonDelayed => "singleton delayed",
}

/// How often each kind happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage([u64; Kind::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Kind::ALL.len()])
    }
}

impl Coverage {
    pub fn note(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub fn add_many(&mut self, kind: Kind, times: u64) {
        self.0[kind as usize] += times;
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// Kinds that never happened.
    pub fn missing(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(|kind| self.of(*kind) == 0)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Kind::ALL
            .iter()
            .try_for_each(|kind| writeln!(f, "  {:<32}{:>14}", kind.label(), self.of(*kind)))
    }
}
