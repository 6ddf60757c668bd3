//! What becomes of a container while its worker hears from no manager.
//!
//! The worker counts from when it sent the last heartbeat that a manager acknowledged, and begins
//! to stop the container a time T after it. The manager counts from when it last heard the worker,
//! which is later, and lets T, the time that stopping may take, and a margin pass before it fills
//! the slot of a singleton anew. The margin pays for what neither of them can see: clocks that run
//! at different speeds, a leader that does not know yet that it was deposed, and the worker's own
//! slowness.

use crate::error::{Error, Result};
use crate::pb::{self, PartitionPolicy};

pub const STOP_AFTER_MS_MIN: u32 = 5_000;
pub const STOP_AFTER_MS_MAX: u32 = 24 * 3_600_000;
/// See the module.
pub const SINGLETON_MARGIN_MS: u64 = 10_000;

/// One form for what was left out and for what was said to be nothing: a spec that says nothing
/// keeps the digest that it had before there were policies.
pub(super) fn complete(spec: &mut pb::ContainerSpec) {
    if spec.partition == PartitionPolicy::Keep as i32 {
        spec.partition = PartitionPolicy::Unspecified.into();
    }
}

pub(super) fn check(spec: &pb::ContainerSpec) -> Result<()> {
    let refuse = |why: String| {
        let what = "partition";
        Err(Error::Invalid { what, why })
    };
    let after_ms = spec.partition_stop_after_ms;
    match PartitionPolicy::try_from(spec.partition) {
        Ok(PartitionPolicy::Unspecified | PartitionPolicy::Keep) if after_ms != 0 => refuse(
            "what is kept is never stopped; leave the time out, or stop it after that".into(),
        ),
        Ok(PartitionPolicy::Unspecified | PartitionPolicy::Keep) => Ok(()),
        Ok(_) if (STOP_AFTER_MS_MIN..=STOP_AFTER_MS_MAX).contains(&after_ms) => Ok(()),
        Ok(_) => refuse(format!("it must have 5 s to 24 h, and has {after_ms} ms")),
        Err(_) => refuse(format!("{} is no known policy", spec.partition)),
    }
}

/// Whether releases below feature level 3 would read the spec as it is meant.
pub fn needs_level_3(spec: &pb::ServiceSpec) -> bool {
    let container = spec.container.as_ref();
    container.is_some_and(|c| c.partition > PartitionPolicy::Keep as i32)
}

/// How long the manager must not have heard of the worker before the container may have a
/// successor; `None` if it may have one as soon as the worker is down.
pub fn replaced_after_ms(spec: &pb::ContainerSpec) -> Option<u64> {
    let singleton = spec.partition() == PartitionPolicy::Singleton;
    let stopped_ms = u64::from(spec.partition_stop_after_ms) + u64::from(spec.stop_timeout_ms);
    singleton.then_some(stopped_ms + SINGLETON_MARGIN_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(policy: PartitionPolicy, partition_stop_after_ms: u32) -> pb::ContainerSpec {
        pb::ContainerSpec {
            partition: policy.into(),
            partition_stop_after_ms,
            stop_timeout_ms: 2_000,
            ..Default::default()
        }
    }

    #[test]
    fn a_time_belongs_to_what_is_stopped() {
        use PartitionPolicy::{Keep, Singleton, StopAfter, Unspecified};
        for (policy, after_ms, allowed) in [
            (Unspecified, 0, true),
            (Keep, 0, true),
            (Keep, 5_000, false),
            (StopAfter, 0, false),
            (StopAfter, 4_999, false),
            (StopAfter, 5_000, true),
            (Singleton, 86_400_000, true),
            (Singleton, 86_400_001, false),
        ] {
            let judged = check(&spec(policy, after_ms));
            assert_eq!(judged.is_ok(), allowed, "{policy:?} {after_ms}");
        }
        let unknown = pb::ContainerSpec {
            partition: 9,
            ..Default::default()
        };
        assert!(check(&unknown).is_err());
    }

    #[test]
    fn keeping_is_stored_as_nothing_said() {
        let mut kept = spec(PartitionPolicy::Keep, 0);
        complete(&mut kept);
        assert_eq!(kept.partition, 0);
    }

    #[test]
    fn a_singleton_waits_until_it_has_surely_stopped() {
        let of = |policy| replaced_after_ms(&spec(policy, 30_000));
        assert_eq!(of(PartitionPolicy::StopAfter), None);
        assert_eq!(of(PartitionPolicy::Singleton), Some(42_000));
    }
}
