//! What operators set for the whole cluster, and whether replacement is frozen.

use std::sync::Arc;

use prost::Message;

use crate::error::{Error, Result};
use crate::fsm::apply::{Context, invalid};
use crate::fsm::objects::{Cluster, Event};
use crate::fsm::state::State;
use crate::pb;

/// Until an operator says otherwise.
pub const LOST_NODES_FREEZE_PERCENT: u32 = 30;
pub const NODE_GRACE_MS: u32 = 30_000;
/// Less is shorter than a few heartbeats; more, and nobody would notice a lost host.
pub const NODE_GRACE_MS_MIN: u32 = 5_000;
pub const NODE_GRACE_MS_MAX: u32 = 3_600_000;

/// See [`pb::ClusterSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub lost_nodes_freeze_percent: u32,
    pub node_grace_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lost_nodes_freeze_percent: LOST_NODES_FREEZE_PERCENT,
            node_grace_ms: NODE_GRACE_MS,
        }
    }
}

impl From<Settings> for pb::ClusterSettings {
    fn from(settings: Settings) -> Self {
        Self {
            lost_nodes_freeze_percent: settings.lost_nodes_freeze_percent,
            node_grace_ms: settings.node_grace_ms,
        }
    }
}

impl From<pb::ClusterSettings> for Settings {
    fn from(settings: pb::ClusterSettings) -> Self {
        Self {
            lost_nodes_freeze_percent: settings.lost_nodes_freeze_percent,
            node_grace_ms: settings.node_grace_ms,
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
pub fn check_settings(percent: u32, node_grace_ms: u32) -> Result<()> {
    if percent > 100 {
        let why = "a share is 1 to 100 percent; 100 means that nothing is ever frozen";
        return Err(invalid("lost nodes freeze", why));
    }
    if node_grace_ms != 0 && !(NODE_GRACE_MS_MIN..=NODE_GRACE_MS_MAX).contains(&node_grace_ms) {
        return Err(invalid("node grace", "give 5 s to 1 h"));
    }
    Ok(())
}

impl State {
    /// As they are, or by default.
    pub fn settings(&self) -> Settings {
        let settings = self.cluster().and_then(|cluster| cluster.settings);
        settings.unwrap_or_default()
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
        check_settings(update.lost_nodes_freeze_percent, update.node_grace_ms)?;
        let before = self.settings();
        let or = |asked: u32, known: u32| if asked == 0 { known } else { asked };
        let percent = before.lost_nodes_freeze_percent;
        let settings = Settings {
            lost_nodes_freeze_percent: or(update.lost_nodes_freeze_percent, percent),
            node_grace_ms: or(update.node_grace_ms, before.node_grace_ms),
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
