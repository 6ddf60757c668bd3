//! What operators set for the whole cluster, and whether replacement is frozen.

use std::sync::Arc;

use prost::Message;

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid};
use crate::fsm::objects::{Cluster, Event, Node, Resources};
use crate::fsm::state::State;
use crate::pb;

/// Until an operator says otherwise.
pub const LOST_NODES_FREEZE_PERCENT: u32 = 30;
pub const NODE_GRACE_MS: u32 = 30_000;
/// Less is shorter than a few heartbeats; more, and nobody would notice a lost host.
pub const NODE_GRACE_MS_MIN: u32 = 5_000;
pub const NODE_GRACE_MS_MAX: u32 = 3_600_000;
pub const OVERCOMMIT_PERCENT: u32 = 100;
pub const OVERCOMMIT_PERCENT_MIN: u32 = 10;
pub const OVERCOMMIT_PERCENT_MAX: u32 = 1_000;

/// How much of what nodes have for containers may be reserved on them, in percent: 10 to 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overcommit {
    pub cpu: u32,
    pub memory: u32,
    pub disk: u32,
    pub pids: u32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self::of([0; 4])
    }
}

impl Overcommit {
    /// From a message: CPU, memory, disk, pids; 0 stands for what holds until somebody changes it.
    fn of(percents: [u32; 4]) -> Self {
        let [cpu, memory, disk, pids] = percents.map(|percent| match percent {
            0 => OVERCOMMIT_PERCENT,
            percent => percent,
        });
        Self {
            cpu,
            memory,
            disk,
            pids,
        }
    }

    /// For a message: 0 where nothing was changed, so that a state in which nobody overcommits is
    /// what it was to releases that could not.
    fn stored(self) -> [u32; 4] {
        [self.cpu, self.memory, self.disk, self.pids].map(|percent| match percent {
            OVERCOMMIT_PERCENT => 0,
            percent => percent,
        })
    }

    /// Where `asked` is not 0, that.
    fn changed(self, asked: [u32; 4]) -> Self {
        let mut percents = [self.cpu, self.memory, self.disk, self.pids];
        for (percent, asked) in percents.iter_mut().zip(asked) {
            *percent = if asked == 0 { *percent } else { asked };
        }
        Self::of(percents)
    }

    /// What may be reserved of `amount`.
    pub fn of_amount(self, amount: Resources) -> Resources {
        // Amounts are below 2^61, so that nothing overflows before the division; and mostly there is
        // none, which counts where every bind asks.
        let scale = |amount: u64, percent: u32| match percent {
            OVERCOMMIT_PERCENT => amount,
            percent => {
                (amount / 100).saturating_mul(percent.into())
                    + amount % 100 * u64::from(percent) / 100
            }
        };
        Resources {
            cpu_milli: scale(amount.cpu_milli, self.cpu),
            memory_bytes: scale(amount.memory_bytes, self.memory),
            disk_bytes: scale(amount.disk_bytes, self.disk),
            pids: scale(amount.pids, self.pids),
        }
    }
}

/// See [`pb::ClusterSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub lost_nodes_freeze_percent: u32,
    pub node_grace_ms: u32,
    pub overcommit: Overcommit,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lost_nodes_freeze_percent: LOST_NODES_FREEZE_PERCENT,
            node_grace_ms: NODE_GRACE_MS,
            overcommit: Overcommit::default(),
        }
    }
}

impl From<Settings> for pb::ClusterSettings {
    fn from(settings: Settings) -> Self {
        let [cpu, memory, disk, pids] = settings.overcommit.stored();
        Self {
            lost_nodes_freeze_percent: settings.lost_nodes_freeze_percent,
            node_grace_ms: settings.node_grace_ms,
            overcommit_cpu_percent: cpu,
            overcommit_memory_percent: memory,
            overcommit_disk_percent: disk,
            overcommit_pids_percent: pids,
        }
    }
}

impl From<pb::ClusterSettings> for Settings {
    fn from(settings: pb::ClusterSettings) -> Self {
        Self {
            lost_nodes_freeze_percent: settings.lost_nodes_freeze_percent,
            node_grace_ms: settings.node_grace_ms,
            overcommit: Overcommit::of([
                settings.overcommit_cpu_percent,
                settings.overcommit_memory_percent,
                settings.overcommit_disk_percent,
                settings.overcommit_pids_percent,
            ]),
        }
    }
}

/// See [`pb::Freeze`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Freeze {
    pub since_ms: u64,
    pub lost: u32,
    pub ready_before: u32,
    pub down_before: u32,
}

impl Freeze {
    /// A sentence for whoever wonders why nothing is replaced.
    pub fn why(&self) -> String {
        let (lost, ready) = (self.lost, self.ready_before);
        format!(
            "replacement is frozen: {lost} of {ready} workers were lost at once; it goes on when \
             enough of them are back, or after: warrenctl cluster thaw"
        )
    }
}

impl From<Freeze> for pb::Freeze {
    fn from(freeze: Freeze) -> Self {
        Self {
            since_ms: freeze.since_ms,
            lost: freeze.lost,
            ready_before: freeze.ready_before,
            down_before: freeze.down_before,
        }
    }
}

impl From<pb::Freeze> for Freeze {
    fn from(freeze: pb::Freeze) -> Self {
        Self {
            since_ms: freeze.since_ms,
            lost: freeze.lost,
            ready_before: freeze.ready_before,
            down_before: freeze.down_before,
        }
    }
}

/// Refuses what makes no sense; 0 leaves a setting as it is.
pub fn check_settings(update: &pb::UpdateClusterSettings) -> Result<()> {
    let (percent, node_grace_ms) = (update.lost_nodes_freeze_percent, update.node_grace_ms);
    if percent > 100 {
        let why = "a share is 1 to 100 percent; 100 means that nothing is ever frozen";
        return Err(invalid("lost nodes freeze", why));
    }
    if node_grace_ms != 0 && !(NODE_GRACE_MS_MIN..=NODE_GRACE_MS_MAX).contains(&node_grace_ms) {
        return Err(invalid("node grace", "give 5 s to 1 h"));
    }
    let allowed = OVERCOMMIT_PERCENT_MIN..=OVERCOMMIT_PERCENT_MAX;
    let bad = |percent: &u32| *percent != 0 && !allowed.contains(percent);
    if overcommit(update).iter().any(bad) {
        return Err(invalid("overcommit", "give 10 to 1,000 percent"));
    }
    Ok(())
}

/// CPU, memory, disk, pids.
fn overcommit(update: &pb::UpdateClusterSettings) -> [u32; 4] {
    [
        update.overcommit_cpu_percent,
        update.overcommit_memory_percent,
        update.overcommit_disk_percent,
        update.overcommit_pids_percent,
    ]
}

/// Whether releases below feature level 4 would read the update as it is meant.
pub fn needs_level_4(update: &pb::UpdateClusterSettings) -> bool {
    overcommit(update) != [0; 4]
}

/// Without what releases below feature level 4 do not know.
fn clipped(update: &pb::UpdateClusterSettings) -> pb::UpdateClusterSettings {
    pb::UpdateClusterSettings {
        lost_nodes_freeze_percent: update.lost_nodes_freeze_percent,
        node_grace_ms: update.node_grace_ms,
        thaw: update.thaw,
        ..Default::default()
    }
}

impl State {
    /// As they are, or by default.
    pub fn settings(&self) -> Settings {
        let settings = self.cluster().and_then(|cluster| cluster.settings);
        settings.unwrap_or_default()
    }

    /// What containers may hold of a node, all together: what it has for them, times what may be
    /// given away of that.
    pub fn allocatable(&self, node: &Node) -> Resources {
        self.settings().overcommit.of_amount(node.allocatable())
    }

    /// There while containers of workers that are down are not replaced.
    pub fn freeze(&self) -> Option<Freeze> {
        self.cluster().and_then(|cluster| cluster.freeze)
    }

    pub(super) fn update_cluster_settings(
        &mut self,
        cx: &mut Context,
        update: &pb::UpdateClusterSettings,
    ) -> Result<Vec<u8>> {
        let update = match self.feature_level() {
            ..4 => clipped(update),
            _ => *update,
        };
        check_settings(&update)?;
        let before = self.settings();
        let or = |asked: u32, known: u32| if asked == 0 { known } else { asked };
        let percent = before.lost_nodes_freeze_percent;
        let settings = Settings {
            lost_nodes_freeze_percent: or(update.lost_nodes_freeze_percent, percent),
            node_grace_ms: or(update.node_grace_ms, before.node_grace_ms),
            overcommit: before.overcommit.changed(overcommit(&update)),
        };
        self.change_cluster(cx, |cluster| {
            if settings != before {
                cluster.settings = Some(settings);
            }
            cluster.freeze = cluster.freeze.filter(|_| !update.thaw);
        })?;
        let settings = Some(settings.into());
        Ok(pb::UpdateClusterResponse { settings }.encode_to_vec())
    }

    /// A freeze that is there stays the one it is.
    pub(super) fn freeze_replacement(
        &mut self,
        cx: &mut Context,
        command: &pb::FreezeReplacement,
    ) -> Result<Vec<u8>> {
        let since_ms = self.time_ms;
        let asked = command.freeze.map(|freeze| Freeze {
            since_ms,
            ..freeze.into()
        });
        self.change_cluster(cx, |cluster| {
            cluster.freeze = asked.map(|asked| cluster.freeze.unwrap_or(asked));
        })?;
        Ok(Vec::new())
    }

    fn change_cluster(
        &mut self,
        cx: &mut Context,
        change: impl FnOnce(&mut Cluster),
    ) -> Result<()> {
        let before = self.cluster.as_mut().ok_or(Error::NotInCluster)?;
        let mut cluster = (**before).clone();
        change(&mut cluster);
        if cluster != **before {
            *before = Arc::new(cluster);
            cx.events.push(Event::Cluster);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsm::objects::{CPU_MILLI_MAX, DISK_BYTES_MAX, MEMORY_BYTES_MAX, PIDS_MAX};

    #[test]
    fn what_may_be_reserved_is_a_share_rounded_down() {
        let most = Resources {
            cpu_milli: CPU_MILLI_MAX,
            memory_bytes: MEMORY_BYTES_MAX,
            disk_bytes: DISK_BYTES_MAX,
            pids: PIDS_MAX,
        };
        let odd = Resources {
            cpu_milli: 199,
            memory_bytes: 12_345_678_901,
            disk_bytes: 1,
            pids: 99,
        };
        for percent in [10, 33, 99, 100, 101, 250, 1_000] {
            let overcommit = Overcommit::of([percent; 4]);
            for amount in [most, odd] {
                let told = overcommit.of_amount(amount);
                for (told, of) in [
                    (told.cpu_milli, amount.cpu_milli),
                    (told.memory_bytes, amount.memory_bytes),
                    (told.disk_bytes, amount.disk_bytes),
                    (told.pids, amount.pids),
                ] {
                    let exact = u128::from(of) * u128::from(percent) / 100;
                    assert_eq!(u128::from(told), exact, "{percent} % of {of}");
                }
            }
        }
    }

    #[test]
    fn what_nobody_changed_is_stored_as_before_there_was_overcommit() {
        let settings = Settings::default();
        let stored = pb::ClusterSettings::from(settings);
        assert_eq!(stored.overcommit_cpu_percent, 0);
        assert_eq!(Settings::from(stored), settings);
        let changed = settings.overcommit.changed([200, 0, 0, 0]);
        assert_eq!((changed.cpu, changed.memory), (200, 100));
        assert_eq!(changed.changed([100, 0, 0, 0]), Overcommit::default());
    }
}
