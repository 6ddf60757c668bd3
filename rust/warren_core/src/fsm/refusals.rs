//! Everything that the rules of a service have against a node, where [`State::refusal`] is satisfied
//! with the first.

use crate::fsm::objects::{Node, Service};
use crate::fsm::placement::taints;
use crate::fsm::state::State;
use crate::ids::ContainerId;

/// A filter; in the order in which they are asked. The words are for programs, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// The node takes nothing, whatever it is.
    Node,
    Image,
    Constraint,
    Platform,
    Taint,
    Port,
    Volume,
    Device,
    Distinct,
    AntiAffinity,
    Skew,
    MaxPerNode,
    Cpu,
    Memory,
    Disk,
    Pids,
}

impl Filter {
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Image => "image",
            Self::Constraint => "constraint",
            Self::Platform => "platform",
            Self::Taint => "taint",
            Self::Volume => "volume",
            Self::Port => "port",
            Self::Device => "device",
            Self::Distinct => "distinct",
            Self::AntiAffinity => "anti_affinity",
            Self::Skew => "skew",
            Self::MaxPerNode => "max_per_node",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Pids => "pids",
        }
    }
}

/// One thing against a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub filter: Filter,
    /// The same for all nodes that fail by the same: `node.labels.zone==eu does not hold`.
    pub what: String,
    /// With the node's own value: `label zone is us, asked eu`.
    pub why: String,
}

impl Refusal {
    /// Where there is no value to be told.
    pub fn plain(filter: Filter, what: impl Into<String>) -> Self {
        let what = what.into();
        let why = what.clone();
        Self { filter, what, why }
    }
}

impl State {
    /// Everything of [`State::refusal`]; empty exactly where that has nothing.
    pub fn refusals(&self, service: &Service, node: &Node) -> Vec<Refusal> {
        let rules = &service.rules;
        let failed = rules
            .constraints
            .iter()
            .filter(|term| !term.holds_on(node))
            .map(|term| Refusal {
                filter: Filter::Constraint,
                what: format!("{term} does not hold"),
                why: term.mismatch(term.attribute().value(node).as_deref()),
            });
        let mut refusals: Vec<_> = failed.collect();
        refusals.extend(rules.platform_refusal(node).map(|why| Refusal {
            filter: Filter::Platform,
            what: "another platform".into(),
            why,
        }));
        let taints = taints::refusals(&rules.tolerations, node);
        refusals.extend(taints.map(|why| Refusal::plain(Filter::Taint, why)));
        let volumes = rules.volume_refusals(node);
        refusals.extend(volumes.map(|why| Refusal::plain(Filter::Volume, why)));
        refusals.extend(self.claims_refusals(service, node));
        refusals
    }

    /// A copy in which the container has never been: what it holds is free.
    pub fn without(&self, container: ContainerId) -> State {
        let mut state = self.clone();
        if state.container(container).is_some() {
            state.remove_container(container);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_one_filter() {
        use Filter::*;
        let all = [
            Node,
            Image,
            Constraint,
            Platform,
            Taint,
            Port,
            Volume,
            Device,
            Distinct,
            AntiAffinity,
            Skew,
            MaxPerNode,
            Cpu,
            Memory,
            Disk,
            Pids,
        ];
        let words: std::collections::BTreeSet<_> = all.iter().map(|it| it.word()).collect();
        assert_eq!(words.len(), all.len());
        assert!(all.is_sorted());
    }
}
