//! Why a node takes no container of a service, room and image apart.

use std::collections::BTreeMap;

use crate::fsm::placement::Spread;
use crate::fsm::{Avoided, Container, Filter, Node, Refusal, Service, State};
use crate::ids::NodeId;
use crate::orchestrator::asking::Asking;
use crate::orchestrator::asking::columns::{Column, MISSING};
use crate::orchestrator::asking::weights::least;
use crate::scheduler::Scheduler;

/// What is against nodes, as things are. The same as what [`place`](super::place) goes by: a node it
/// may choose is one that nothing is said against.
pub(in crate::orchestrator) struct Reasons<'a> {
    state: &'a State,
    service: &'a Service,
    avoided: Vec<Avoided>,
    skews: Vec<Skew<'a>>,
    numbers: BTreeMap<NodeId, u32>,
}

struct Skew<'a> {
    spread: &'a Spread,
    column: &'a Column,
    counts: Vec<u32>,
    least: u32,
}

impl<'a> Reasons<'a> {
    /// For a service that is not spread.
    pub fn on_one_node(state: &'a State, service: &'a Service) -> Self {
        Self {
            state,
            service,
            avoided: state.avoided(service, std::iter::empty()),
            skews: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// `spread`: containers of the service by node. What the service asks for has been learnt.
    pub fn new(
        asking: &'a Asking,
        scheduler: &Scheduler,
        state: &'a State,
        service: &'a Service,
        spread: &BTreeMap<NodeId, u32>,
    ) -> Self {
        let own = spread.iter().filter(|(_, count)| **count > 0);
        let avoided = state.avoided(service, own.map(|(id, _)| *id));
        let hard = service.rules.spreads.iter();
        let hard = hard.filter(|spread| spread.max_skew.is_some());
        let skews = hard.filter_map(|asked| {
            let column = asking.columns.get(&asked.attribute)?;
            let counts = column.counts(spread, scheduler);
            let ever = asking.ever_open(service);
            let least = least(column, &counts, service, scheduler, ever);
            Some(Skew {
                spread: asked,
                column,
                counts,
                least,
            })
        });
        let skews: Vec<_> = skews.collect();
        let nodes = (!skews.is_empty()).then(|| state.nodes());
        let numbers = nodes.into_iter().flatten();
        let numbers = numbers.filter_map(|node| Some((node.id, scheduler.number(node.id)?)));
        Self {
            state,
            service,
            avoided,
            numbers: numbers.collect(),
            skews,
        }
    }

    /// The first of them, `None` if nothing is against the node.
    pub fn against(&self, id: NodeId) -> Option<String> {
        let node = self.state.node(id)?;
        let apart = || self.avoided.iter().find_map(|it| it.refusal(node));
        let skewed = || {
            let number = *self.numbers.get(&id)?;
            self.skews.iter().find_map(|skew| skew.against(number))
        };
        let refusal = self.state.refusal(self.service, node);
        refusal.or_else(apart).or_else(skewed)
    }

    /// Everything of [`Reasons::against`]; empty exactly where that has nothing.
    pub fn all_against(&self, node: &Node) -> Vec<Refusal> {
        let mut all = self.state.refusals(self.service, node);
        all.extend(self.avoided.iter().filter_map(|it| {
            let why = it.refusal(node)?;
            let said = it.attribute.said();
            let (filter, what) = match &it.because_of {
                None => (Filter::Distinct, format!("one container for each {said}")),
                Some(other) => (Filter::AntiAffinity, format!("{other} runs there")),
            };
            Some(Refusal { filter, what, why })
        }));
        let number = self.numbers.get(&node.id);
        all.extend(self.skews.iter().filter_map(|skew| {
            let why = skew.against(*number?)?;
            let what = format!("{} would be too far ahead", skew.spread.attribute.said());
            let filter = Filter::Skew;
            Some(Refusal { filter, what, why })
        }));
        all
    }

    /// [`Reasons::against`], but what a container of the service itself holds on the node does not
    /// count against its successor.
    pub fn against_successor(&self, id: NodeId, held: &Container) -> Option<String> {
        let node = self.state.node(id)?;
        let others = self.avoided.iter().filter(|it| it.because_of.is_some());
        let apart = || others.clone().find_map(|it| it.refusal(node));
        let refusal = self.state.refusal_of_successor(self.service, node, held);
        refusal.or_else(apart)
    }
}

impl Skew<'_> {
    fn against(&self, number: u32) -> Option<String> {
        let (part, most) = (self.column.part_of(number)?, self.spread.max_skew?);
        let said = self.spread.attribute.said();
        if part == MISSING {
            return Some(format!("{said} is not there, asked to spread over it"));
        }
        let ahead = (self.counts[part as usize] + 1).saturating_sub(self.least);
        let value = self.column.parts[part as usize].value.as_deref()?;
        (ahead > most).then(|| {
            format!(
                "{said} is {value}, which would be {ahead} ahead of the fewest, asked at most {most}"
            )
        })
    }
}
