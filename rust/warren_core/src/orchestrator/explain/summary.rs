//! What the rows of all nodes come to: filters with their counts, and one sentence.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use crate::fsm::{Filter, Refusal, Resources, Service, State};
use crate::orchestrator::explain::room::{self, Kept};
use crate::orchestrator::explain::{Explanation, NodeRow, Subject, failing};
use crate::orchestrator::keeping::Keeping;
use crate::scheduler::{Bytes, Cpus};

/// Names in a sentence, and filters in it; of more, the number is told.
const NAMES_MAX: usize = 3;
const FILTERS_MAX: usize = 5;

/// A filter, and the nodes that it turns away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub filter: Filter,
    pub what: String,
    /// That have it among their reasons.
    pub nodes: u32,
    /// That have no other.
    pub nodes_only: u32,
    /// That have it first: these add up to the nodes that do not fit.
    nodes_first: u32,
}

/// What is asked and not there.
pub(super) fn lacking(asked: Resources, free: Resources) -> Vec<Refusal> {
    let one = |filter, asked: u64, free: u64| {
        (asked > 0 && asked > free).then(|| Refusal {
            filter,
            what: format!("not enough {}", named(filter)),
            why: format!(
                "{} asked, {} free",
                amount(filter, asked),
                amount(filter, free)
            ),
        })
    };
    let all = [
        one(Filter::Cpu, asked.cpu_milli, free.cpu_milli),
        one(Filter::Memory, asked.memory_bytes, free.memory_bytes),
        one(Filter::Disk, asked.disk_bytes, free.disk_bytes),
        one(Filter::Pids, asked.pids, free.pids),
    ];
    all.into_iter().flatten().collect()
}

fn named(filter: Filter) -> &'static str {
    match filter {
        Filter::Cpu => "CPU",
        Filter::Pids => "processes",
        other => other.word(),
    }
}

fn of(filter: Filter, amounts: Resources) -> u64 {
    match filter {
        Filter::Cpu => amounts.cpu_milli,
        Filter::Memory => amounts.memory_bytes,
        Filter::Disk => amounts.disk_bytes,
        _ => amounts.pids,
    }
}

fn amount(filter: Filter, amount: u64) -> String {
    let shown: &dyn Display = match filter {
        Filter::Cpu => &Cpus(amount),
        Filter::Memory | Filter::Disk => &Bytes(amount),
        _ => &amount,
    };
    shown.to_string()
}

pub(super) fn conclude(
    state: &State,
    service: &Service,
    subject: Subject,
    (nodes, keeping): (Vec<NodeRow>, &Keeping),
) -> Explanation {
    let asked = service.resources();
    let fit = nodes.iter().filter(|row| row.against.is_empty()).count() as u32;
    let groups = groups(&nodes, asked);
    let of = match subject {
        Subject::Service => None,
        Subject::Slot(slot) => Some((slot, None)),
        Subject::Container(it) => Some((it.slot, service.is_global().then_some(it.node))),
    };
    let kept = room::kept(state, service, of);
    let summary = sentence(state, service, subject, (&nodes, &groups), (keeping, &kept));
    let slots = keeping.slots.iter();
    let failing = slots.filter(|it| of.is_none_or(|of| of == (it.slot, it.node)));
    Explanation {
        failing: failing.cloned().collect(),
        kept,
        asked,
        nodes,
        fit,
        groups,
        summary,
    }
}

fn groups(nodes: &[NodeRow], asked: Resources) -> Vec<Group> {
    let mut known: BTreeMap<(Filter, &str), (Group, u64)> = BTreeMap::new();
    for row in nodes {
        for (position, refusal) in row.against.iter().enumerate() {
            let new = || {
                let group = Group {
                    filter: refusal.filter,
                    what: refusal.what.clone(),
                    nodes: 0,
                    nodes_only: 0,
                    nodes_first: 0,
                };
                (group, 0)
            };
            let key = (refusal.filter, &refusal.what[..]);
            let (group, most) = known.entry(key).or_insert_with(new);
            group.nodes += 1;
            group.nodes_only += u32::from(row.against.len() == 1);
            group.nodes_first += u32::from(position == 0);
            *most = (*most).max(of(refusal.filter, row.free));
        }
    }
    let mut groups: Vec<_> = known
        .into_values()
        .map(|(mut group, most)| {
            let filter = group.filter;
            if filter >= Filter::Cpu {
                let asked = amount(filter, of(filter, asked));
                let most = amount(filter, most);
                let _ = write!(group.what, " (asked {asked}, most free {most})");
            }
            group
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.nodes));
    groups
}

fn sentence(
    state: &State,
    service: &Service,
    subject: Subject,
    (nodes, groups): (&[NodeRow], &[Group]),
    (keeping, kept): (&Keeping, &[Kept]),
) -> String {
    if nodes.is_empty() {
        return "the cluster has no worker: join one, with warrenctl cluster join".into();
    }
    let name = |row: &NodeRow| {
        let node = state.node(row.id);
        node.map(|node| node.name().to_owned()).unwrap_or_default()
    };
    let mut fit: Vec<&NodeRow> = nodes.iter().filter(|row| row.against.is_empty()).collect();
    fit.sort_by_key(|row| row.rank);
    let (count, total) = (fit.len(), nodes.len());
    let plural = if total == 1 { "" } else { "s" };
    let (head, taken) = match subject {
        Subject::Service => (String::new(), "another"),
        Subject::Slot(slot) => {
            let who = format!("{}.{slot}", service.name);
            let failing = failing::head(service, &who, subject, keeping);
            let waits = kept.first().map(|it| format!("it {}; ", it.why));
            let waits = waits.unwrap_or_default();
            (format!("{failing}{who} has no node: {waits}"), "it")
        }
        Subject::Container(container) => {
            let who = who(service, container);
            let failing = failing::head(service, &who, subject, keeping);
            let waits = kept.first().map(|it| format!("its successor {}; ", it.why));
            let waits = waits.unwrap_or_default();
            let there = where_it_is(&who, nodes, &name);
            (format!("{failing}{there}{waits}"), "it")
        }
    };
    let mut text = format!("{head}{count} of {total} node{plural} could take {taken}");
    if !fit.is_empty() {
        let names: Vec<_> = fit.iter().take(NAMES_MAX).map(|row| name(row)).collect();
        let _ = write!(text, ": {}", names.join(", "));
        if fit.len() > NAMES_MAX {
            let _ = write!(text, " and {} more", fit.len() - NAMES_MAX);
        }
    }
    let mut first: Vec<_> = groups.iter().filter(|it| it.nodes_first > 0).collect();
    first.sort_by_key(|group| std::cmp::Reverse(group.nodes_first));
    for group in first.iter().take(FILTERS_MAX) {
        let _ = write!(text, "; {}: {}", group.nodes_first, group.what);
    }
    if first.len() > FILTERS_MAX {
        let others = first[FILTERS_MAX..].iter().map(|it| it.nodes_first);
        let _ = write!(text, "; {}: other reasons", others.sum::<u32>());
    }
    text += &failing::nodes(nodes, &name);
    if fit.is_empty() && kept.is_empty() {
        text += &failing::room(service, nodes, &name);
    }
    if let Subject::Service = subject {
        text += &failing::slots(service, keeping);
        text += &waiting(service, kept);
    }
    text
}

/// "; room is kept for 1 slot: web.1 waits on node n1 for batch.2 (priority 10 < 80) to stop".
fn waiting(service: &Service, kept: &[Kept]) -> String {
    let named = kept.iter().take(NAMES_MAX).map(|it| match it.slot {
        0 => it.why.clone(),
        slot => format!("{}.{slot} {}", service.name, it.why),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    match kept.len() {
        0 => String::new(),
        1 => format!("; room is kept for 1 slot: {named}"),
        count => format!("; room is kept for {count} slots: {named}"),
    }
}

fn who(service: &Service, container: &crate::fsm::Container) -> String {
    match service.is_global() {
        true => format!("a container of {}", service.name),
        false => format!("{}.{}", service.name, container.slot),
    }
}

/// Reads like "web.2 runs on n3, the best of those that could take it; ".
fn where_it_is(who: &str, nodes: &[NodeRow], name: &dyn Fn(&NodeRow) -> String) -> String {
    let Some(row) = nodes.iter().find(|row| row.current) else {
        return format!("{who} has ended and holds nothing; ");
    };
    let node = name(row);
    match (row.against.first(), row.rank) {
        (Some(refusal), _) => {
            format!(
                "{who} is on {node}, which would not take it today: {}; ",
                refusal.why
            )
        }
        (None, 1) => format!("{who} is on {node}, and no other node would be better; "),
        (None, rank) => {
            let best = nodes.iter().find(|row| row.rank == 1).map(name);
            let best = best.unwrap_or_default();
            format!("{who} is on {node}, which today would be choice {rank} after {best}; ")
        }
    }
}
