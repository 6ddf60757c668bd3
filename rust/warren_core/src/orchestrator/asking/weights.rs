//! Shares of the values of a spread, and how far one may be ahead of another.

use crate::fsm::Service;
use crate::fsm::placement::Spread;
use crate::orchestrator::asking::columns::{Column, MISSING};
use crate::orchestrator::asking::known::Known;
use crate::scheduler::Scheduler;

/// Weight by part. A target is the percentage of a value; what is missing from 100 the other values
/// share evenly. Nodes without a value are a value of their own, but have no weight where the skew
/// is bounded.
pub(super) fn weights(spread: &Spread, column: &Column) -> Vec<u32> {
    let hard = spread.max_skew.is_some();
    let named = |part: u32| {
        let value = column.parts[part as usize].value.as_deref()?;
        let targets = &mut spread.targets.iter();
        targets.find(|(name, _)| name == value).map(|(_, pct)| *pct)
    };
    let parts = 0..column.parts.len() as u32;
    let counts = |part: &u32| {
        let row = &column.parts[*part as usize];
        let out = row.nodes.is_empty() || hard && *part == MISSING;
        !out
    };
    let others = parts.clone().filter(counts);
    let others = others.filter(|part| named(*part).is_none()).count().max(1) as u32;
    let given: u32 = spread.targets.iter().map(|(_, pct)| pct).sum();
    let rest = 100_u32.saturating_sub(given);
    let weight = |part: u32| match counts(&part) {
        false => 0,
        true if spread.targets.is_empty() => 1,
        true => named(part).map_or(rest, |pct| pct * others),
    };
    parts.map(weight).collect()
}

/// How far a value would be with one more, by its share; less is better.
pub(super) fn next(count: u32, weight: u32) -> u64 {
    let share = (u64::from(count) + 1) << 24;
    share.checked_div(weight.into()).unwrap_or(u64::MAX)
}

/// The fewest that a value has, of those that containers of the service may go to, `ever`, whatever
/// runs there now: that a node is taken, by one of the service or of another, makes no room elsewhere.
pub(super) fn least(
    column: &Column,
    counts: &[u32],
    service: &Service,
    scheduler: &Scheduler,
    ever: Option<&Known>,
) -> u32 {
    let digest = &service.container_spec().image_digest;
    let may_go = |number: &u32| {
        ever.is_none_or(|known| known.set.contains(*number)) && scheduler.is_open(*number, digest)
    };
    let parts = column.parts.iter().zip(counts).skip(1);
    let possible = parts.filter(|(part, _)| part.nodes.iter().any(may_go));
    possible.map(|(_, count)| *count).min().unwrap_or_default()
}
