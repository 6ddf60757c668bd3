//! How far the values of a service's spreads are, for those who compare nodes.

use std::collections::BTreeMap;

use crate::fsm::Service;
use crate::ids::NodeId;
use crate::orchestrator::asking::Asking;
use crate::orchestrator::asking::columns::Column;
use crate::orchestrator::asking::weights::{next, weights};
use crate::scheduler::Scheduler;

/// A value of an attribute that a service is spread over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::orchestrator) struct Level {
    /// As expressions name it.
    pub attribute: String,
    /// `None`: of nodes that have none.
    pub value: Option<String>,
    /// Containers of the service, on all nodes with this value.
    pub count: u32,
    /// How far it would be by its share with one more; less is better.
    pub next: u64,
}

pub(in crate::orchestrator) struct Levels<'a> {
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    attribute: String,
    column: &'a Column,
    counts: Vec<u32>,
    weights: Vec<u32>,
}

impl<'a> Levels<'a> {
    /// `have`: containers of the service by node. What the service asks for has been learnt.
    pub fn new(
        asking: &'a Asking,
        scheduler: &Scheduler,
        service: &Service,
        have: &BTreeMap<NodeId, u32>,
    ) -> Self {
        let rows = service.rules.spreads.iter().filter_map(|spread| {
            let column = asking.columns.get(&spread.attribute)?;
            Some(Row {
                attribute: spread.attribute.to_string(),
                column,
                counts: column.counts(have, scheduler),
                weights: weights(spread, column),
            })
        });
        Self {
            rows: rows.collect(),
        }
    }

    /// Those of a node, the spread that counts most first.
    pub fn of(&self, number: u32) -> Vec<Level> {
        let level = |row: &Row| {
            let part = row.column.part_of(number)? as usize;
            Some(Level {
                attribute: row.attribute.clone(),
                value: row.column.parts[part].value.as_deref().map(str::to_owned),
                count: row.counts[part],
                next: next(row.counts[part], row.weights[part]),
            })
        };
        self.rows.iter().filter_map(level).collect()
    }
}
