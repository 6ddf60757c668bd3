//! Sentences about what keeps failing, and about room that could be made.

use std::fmt::Write;

use crate::fsm::Service;
use crate::orchestrator::explain::{NodeRow, Subject};
use crate::orchestrator::keeping::{FailingSlot, Keeping, how_often};

/// Slots and nodes that a sentence names.
const NAMED_MAX: usize = 3;

/// Of a slot or a container: "web.1 is crash-looping (4 failures in a row), next try in 12 s; ".
pub(super) fn head(service: &Service, who: &str, subject: Subject, keeping: &Keeping) -> String {
    let (slot, node) = match subject {
        Subject::Service => return String::new(),
        Subject::Slot(slot) => (slot, None),
        Subject::Container(it) => (it.slot, service.is_global().then_some(it.node)),
    };
    let known = keeping.slots.iter();
    let mut known = known.filter(|it| (it.slot, it.node) == (slot, node));
    let known = known.next();
    known.map_or_else(String::new, |it| format!("{who} {}; ", told(it)))
}

fn told(it: &FailingSlot) -> String {
    let often = how_often(it.failures, it.exit_code);
    let state = match it.crash_looping {
        true => format!("is crash-looping ({often})"),
        false => format!("backs off ({often})"),
    };
    match it.retry_in_ms {
        Some(in_ms) => format!("{state}, next try in {}", span(in_ms)),
        None => state,
    }
}

/// Of a service: "; 2 slots keep failing: web.1 is crash-looping (…), …".
pub(super) fn slots(service: &Service, keeping: &Keeping) -> String {
    if keeping.slots.is_empty() {
        return String::new();
    }
    let count = keeping.slots.len();
    let named = keeping.slots.iter().take(NAMED_MAX);
    let named: Vec<_> = named
        .map(|it| match it.slot {
            0 => told(it),
            slot => format!("{}.{slot} {}", service.name, told(it)),
        })
        .collect();
    let (slots, keep) = if count == 1 {
        ("slot", "keeps")
    } else {
        ("slots", "keep")
    };
    let mut text = format!("; {count} {slots} {keep} failing: {}", named.join(", "));
    if count > NAMED_MAX {
        let _ = write!(text, " and {} more", count - NAMED_MAX);
    }
    text
}

/// "; last choice, as the service keeps failing there: n1 (3 failures, for another 8 min)".
pub(super) fn nodes(rows: &[NodeRow], name: &dyn Fn(&NodeRow) -> String) -> String {
    let avoided: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, row.failing.as_ref().filter(|it| it.avoided)?)))
        .collect();
    if avoided.is_empty() {
        return String::new();
    }
    let named = avoided.iter().take(NAMED_MAX).map(|(row, it)| {
        let left = span(it.left_ms);
        format!(
            "{} ({} failures, for another {left})",
            name(row),
            it.failures
        )
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match avoided.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("; last choice, as the service keeps failing there: {named}{more}")
}

/// Where nothing fits: what would make room, and whether that is asked for.
pub(super) fn room(
    service: &Service,
    rows: &[NodeRow],
    name: &dyn Fn(&NodeRow) -> String,
) -> String {
    let found = rows.iter().filter_map(|row| Some((row.victims?, row)));
    let Some((victims, row)) = found.min_by_key(|(it, row)| (it.priority, it.count, row.id)) else {
        return String::new();
    };
    let s = if victims.count == 1 { "" } else { "s" };
    let there = format!(
        "{} container{s} of a lower priority (at most {} < {})",
        victims.count, victims.priority, service.rules.priority
    );
    let node = name(row);
    match service.rules.preempt {
        true => format!("; {there} could make room on {node}"),
        false => format!("; preemption is off: with --preempt, {there} would make room on {node}"),
    }
}

/// Rounded up: nobody is told too little.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..120_000 => format!("{} s", ms.div_ceil(1_000)),
        _ => format!("{} min", ms.div_ceil(60_000)),
    }
}
