//! Why a container cannot be placed, over all nodes at once: each node counts under the first
//! filter that turned it away.

use std::collections::BTreeMap;
use std::fmt;

use crate::fsm::Resources;
use crate::ids::NodeId;
use crate::scheduler::{Ask, NodeSet, Scheduler};

/// Nodes that a filter turned away, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub nodes: u32,
    pub why: String,
}

/// Every reason against an ask, the one that most nodes have first. Reads like "3 nodes: not
/// enough memory (asked 512 MiB, most free 300 MiB); 2: no image docker.io/library/web:latest".
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Explanation {
    pub reasons: Vec<Reason>,
}

/// A filter that turns a node away; in the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Filter {
    Refusal(&'static str),
    Image,
    Rule(String),
    MaxPerNode,
    Capacity {
        cpu: bool,
        memory: bool,
    },
    /// Disk or processes.
    Rest,
}

impl Scheduler {
    /// What keeps one of these from being placed now. Nodes that would take it do not count.
    pub fn explain(&self, ask: &Ask) -> Explanation {
        let is_worker = |node: &u32| self.refusals[*node as usize] != Some(NO_WORKER);
        self.explain_nodes(self.numbers.iter().filter(is_worker), ask)
    }

    /// The first reason against one node; `None` if it would take one of these.
    pub fn explain_node(&self, id: NodeId, ask: &Ask) -> Option<Reason> {
        match self.number(id) {
            Some(node) => {
                let mut explanation = self.explain_nodes(std::iter::once(node), ask);
                explanation.reasons.pop()
            }
            None => Some(gone()),
        }
    }

    pub(super) fn why_not(&self, id: NodeId, ask: &Ask) -> Reason {
        self.explain_node(id, ask).unwrap_or_else(gone)
    }

    fn explain_nodes(&self, nodes: impl Iterator<Item = u32>, ask: &Ask) -> Explanation {
        let image = self.images.nodes(ask.image_digest);
        let mut groups: BTreeMap<Filter, (u32, Resources)> = BTreeMap::new();
        for node in nodes {
            let Some(filter) = self.first_filter(node, ask, image) else {
                continue;
            };
            let (count, most_free) = groups.entry(filter).or_default();
            let free = self.index.free(node);
            *count += 1;
            most_free.cpu_milli = most_free.cpu_milli.max(free.cpu_milli);
            most_free.memory_bytes = most_free.memory_bytes.max(free.memory_bytes);
        }
        let mut reasons: Vec<_> = groups
            .into_iter()
            .map(|(filter, (nodes, free))| Reason {
                nodes,
                why: filter.why(ask, free),
            })
            .collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.nodes));
        Explanation { reasons }
    }

    fn first_filter(&self, node: u32, ask: &Ask, image: Option<&NodeSet>) -> Option<Filter> {
        if let Some(why) = self.refusals[node as usize] {
            return Some(Filter::Refusal(why));
        }
        if !image.is_some_and(|nodes| nodes.contains(node)) {
            return Some(Filter::Image);
        }
        let rules = &ask.rules;
        let id = self.ids[node as usize];
        if let Some(why) = rules.why.and_then(|why| why.0(id)) {
            return Some(Filter::Rule(why));
        }
        let outside = rules.within.iter().any(|set| !set.contains(node));
        if outside || rules.without.iter().any(|set| set.contains(node)) {
            return Some(Filter::Rule(NOT_ASKED.to_owned()));
        }
        // What binds on their way hold of devices is not known to the rules yet.
        if self.devices.is_held(node)
            && let Err(why) = self.devices.choose(node, rules.devices)
        {
            return Some(Filter::Rule(why));
        }
        let count = ask.spread.get(&id);
        if rules
            .max_per_node
            .is_some_and(|max| count.copied().unwrap_or_default() >= max)
        {
            return Some(Filter::MaxPerNode);
        }
        let (asked, free) = (ask.resources, self.index.free(node));
        let cpu = asked.cpu_milli > free.cpu_milli && asked.cpu_milli > 0;
        let memory = asked.memory_bytes > free.memory_bytes && asked.memory_bytes > 0;
        if cpu || memory {
            return Some(Filter::Capacity { cpu, memory });
        }
        (!asked.fits(free)).then_some(Filter::Rest)
    }
}

/// Of a node that a set excludes for no reason that is known.
const NOT_ASKED: &str = "is none of those that are asked for";

/// As `Node::refusal` says it; managers that run nothing are no reason worth telling.
const NO_WORKER: &str = "it is no worker";

fn gone() -> Reason {
    Reason {
        nodes: 1,
        why: "the node is gone".to_owned(),
    }
}

impl Filter {
    fn why(self, ask: &Ask, most_free: Resources) -> String {
        let cpus = || {
            let (asked, free) = (Cpus(ask.resources.cpu_milli), Cpus(most_free.cpu_milli));
            format!("not enough CPU (asked {asked}, most free {free})")
        };
        let memory = || {
            let asked = Bytes(ask.resources.memory_bytes);
            let free = Bytes(most_free.memory_bytes);
            format!("not enough memory (asked {asked}, most free {free})")
        };
        match self {
            Filter::Refusal(why) => why.trim_start_matches("it is ").to_owned(),
            Filter::Image => format!("no image {}", ask.image),
            Filter::Capacity {
                cpu: true,
                memory: true,
            } => format!("{} and {}", cpus(), memory()),
            Filter::Rule(why) => why,
            Filter::MaxPerNode => {
                "has as many containers of the service as one node may".to_owned()
            }
            Filter::Rest => "not enough disk or processes".to_owned(),
            Filter::Capacity { cpu: true, .. } => cpus(),
            Filter::Capacity { memory: true, .. } => memory(),
            Filter::Capacity { .. } => "not enough CPU and memory".to_owned(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reasons.is_empty() {
            return f.write_str("the cluster has no worker that takes it; join one, or wait");
        }
        for (position, Reason { nodes, why }) in self.reasons.iter().enumerate() {
            match (position, nodes) {
                (0, 1) => write!(f, "1 node: {why}")?,
                (0, _) => write!(f, "{nodes} nodes: {why}")?,
                _ => write!(f, "; {nodes}: {why}")?,
            }
        }
        Ok(())
    }
}

/// Thousandths of a CPU, shown as CPUs.
pub struct Cpus(pub u64);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        let fraction = format!("{milli:03}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            digits => write!(f, "{whole}.{digits}"),
        }
    }
}

/// Bytes in the largest binary unit that is not below 1, rounded down: what is shown as free is
/// never more than there is.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let exponent = (self.0.max(1).ilog2() / 10).min(5);
        let unit = UNITS[exponent as usize];
        let tenths = (u128::from(self.0) * 10) >> (10 * exponent);
        match (tenths / 10, tenths % 10) {
            (whole, 0) => write!(f, "{whole} {unit}"),
            (whole, tenth) => write!(f, "{whole}.{tenth} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        let shown = [
            0,
            1,
            1023,
            1024,
            300 << 20,
            (3 << 30) / 2,
            (1 << 30) - 1,
            1 << 50,
        ];
        assert_eq!(
            shown.map(|n| Bytes(n).to_string()),
            [
                "0 bytes",
                "1 bytes",
                "1023 bytes",
                "1 KiB",
                "300 MiB",
                "1.5 GiB",
                "1023.9 MiB",
                "1 PiB"
            ]
        );
        assert_eq!(
            [0, 250, 1000, 2500].map(|n| Cpus(n).to_string()),
            ["0", "0.25", "1", "2.5"]
        );
    }
}
