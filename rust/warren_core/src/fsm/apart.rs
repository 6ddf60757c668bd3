//! What is kept apart: values of attributes where a service's containers may not go, because some of
//! its own or of another service are there.

use std::collections::BTreeSet;

use crate::fsm::objects::{Node, Service};
use crate::fsm::placement::Attribute;
use crate::fsm::state::State;
use crate::ids::NodeId;

/// Values of an attribute at which no container may be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Avoided {
    pub attribute: Attribute,
    pub values: BTreeSet<String>,
    /// Whose containers are there; `None`: the service's own, one for each value. Then a node that has
    /// no such attribute takes none either.
    pub because_of: Option<String>,
}

impl Avoided {
    /// Why the node is out, if it is: `label zone is eu, and there db is`.
    pub fn refusal(&self, node: &Node) -> Option<String> {
        let said = self.attribute.said();
        match (self.attribute.value(node), &self.because_of) {
            (Some(value), _) if !self.values.contains(&*value) => None,
            // Alike for all nodes, so that reasons are few.
            (Some(_), None) if self.attribute == Attribute::Id => {
                Some("has a container of the service already".to_owned())
            }
            (Some(_), Some(other)) if self.attribute == Attribute::Id => {
                Some(format!("{other} runs there"))
            }
            (None, Some(_)) => None,
            (None, None) => Some(format!("{said} is not there, asked one container for each")),
            (Some(value), None) => Some(format!("{said} is {value}, and has a container already")),
            (Some(value), Some(other)) => Some(format!(
                "{said} is {value}, and so it is where {other} runs"
            )),
        }
    }

    /// A container of the service itself goes to the node.
    pub fn add_own(&mut self, node: &Node) {
        if self.because_of.is_none() {
            let value = self.attribute.value(node);
            self.values.extend(value.map(|value| value.into_owned()));
        }
    }
}

impl State {
    /// What a service has to keep away from: its own containers, which are on the nodes `own`, for
    /// `distinct`; those of others that are meant to run, or may still. O(containers of those others).
    pub fn avoided(
        &self,
        service: &Service,
        own: impl Iterator<Item = NodeId> + Clone,
    ) -> Vec<Avoided> {
        let rules = &service.rules;
        let value_on = |attribute: &Attribute, id: NodeId| {
            let value = attribute.value(self.node(id)?)?;
            Some(value.into_owned())
        };
        let distinct = rules.distinct.iter().map(|attribute| Avoided {
            attribute: attribute.clone(),
            values: own
                .clone()
                .filter_map(|id| value_on(attribute, id))
                .collect(),
            because_of: None,
        });
        let others = rules.anti_affinities.iter().filter_map(|asked| {
            let other = self.service_by_name(&asked.service)?.id;
            let containers = self.containers_of_service(other);
            let there: BTreeSet<NodeId> = containers
                .filter(|container| !container.is_terminal())
                .map(|container| container.node)
                .collect();
            let values = there
                .iter()
                .filter_map(|id| value_on(&asked.attribute, *id));
            Some(Avoided {
                attribute: asked.attribute.clone(),
                values: values.collect(),
                because_of: Some(asked.service.clone()),
            })
        });
        distinct.chain(others).collect()
    }
}
