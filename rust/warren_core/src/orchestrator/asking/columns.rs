//! An attribute's values over all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{NodeId, ServiceId};
use crate::scheduler::{Division, NodeSet, Scheduler};

/// Parts that a division may have: each takes some memory, and is looked at for each container.
const PARTS_MAX: usize = 256;

/// The part of nodes that have no value.
pub(super) const MISSING: u32 = 0;
/// Of a number that no node has.
const NOWHERE: u32 = u32::MAX;

/// Invariants: part [`MISSING`] is there; `of_node[n] = p` if `parts[p].nodes` has `n`; a part that
/// has a value is the one that `values` names by it; the division, where there is one, has the same
/// nodes in the same parts.
#[derive(Debug)]
pub(super) struct Column {
    values: BTreeMap<Arc<str>, u32>,
    pub parts: Vec<Part>,
    of_node: Vec<u32>,
    spare: Vec<u32>,
    pub division: Option<Division>,
    /// Who is spread over it or kept apart by it.
    pub users: BTreeSet<ServiceId>,
}

#[derive(Debug, Default)]
pub(super) struct Part {
    /// `None` of those without one, and of a number that is spare.
    pub value: Option<Arc<str>>,
    pub nodes: BTreeSet<u32>,
}

impl Default for Column {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            parts: vec![Part::default()],
            of_node: Vec::new(),
            spare: Vec::new(),
            division: None,
            users: BTreeSet::new(),
        }
    }
}

impl Column {
    /// Takes a node over with its value. True if that is news.
    pub fn put(
        &mut self,
        scheduler: &mut Scheduler,
        id: NodeId,
        number: u32,
        value: Option<&str>,
    ) -> bool {
        let known = self.part_of(number);
        if known.is_some_and(|part| self.parts[part as usize].value.as_deref() == value) {
            return false;
        }
        self.remove(number);
        let part = value.map_or(MISSING, |value| self.part_or_new(value));
        if self.of_node.len() <= number as usize {
            self.of_node.resize(number as usize + 1, NOWHERE);
        }
        self.of_node[number as usize] = part;
        self.parts[part as usize].nodes.insert(number);
        if let Some(division) = self.division {
            scheduler.division_set(division, id, Some(part));
        }
        true
    }

    fn part_or_new(&mut self, value: &str) -> u32 {
        if let Some(part) = self.values.get(value) {
            return *part;
        }
        let part = self.spare.pop().unwrap_or_else(|| {
            self.parts.push(Part::default());
            self.parts.len() as u32 - 1
        });
        let value: Arc<str> = value.into();
        self.values.insert(value.clone(), part);
        self.parts[part as usize].value = Some(value);
        part
    }

    /// The scheduler takes a node that is removed out of its divisions itself.
    pub fn remove(&mut self, number: u32) {
        let Some(part) = self.part_of(number) else {
            return;
        };
        self.of_node[number as usize] = NOWHERE;
        let row = &mut self.parts[part as usize];
        row.nodes.remove(&number);
        if row.nodes.is_empty()
            && let Some(value) = row.value.take()
        {
            self.values.remove(&value);
            self.spare.push(part);
        }
    }

    pub fn part(&self, value: &str) -> Option<u32> {
        self.values.get(value).copied()
    }

    pub fn part_of(&self, number: u32) -> Option<u32> {
        let part = self.of_node.get(number as usize).copied();
        part.filter(|part| *part != NOWHERE)
    }

    /// Containers by part, from those by node.
    pub fn counts(&self, spread: &BTreeMap<NodeId, u32>, scheduler: &Scheduler) -> Vec<u32> {
        let mut counts = vec![0; self.parts.len()];
        for (id, count) in spread {
            let part = scheduler
                .number(*id)
                .and_then(|number| self.part_of(number));
            if let Some(part) = part {
                counts[part as usize] += count;
            }
        }
        counts
    }

    /// Adds the nodes of a part to a set.
    pub fn add_part(&self, part: u32, set: &mut NodeSet) {
        self.put_part(part, set, true);
    }

    /// Puts the nodes of a part into a set, or takes them out.
    pub fn put_part(&self, part: u32, set: &mut NodeSet, within: bool) {
        for number in &self.parts[part as usize].nodes {
            set.set(*number, within);
        }
    }

    pub fn is_divisible(&self) -> bool {
        self.parts.len() <= PARTS_MAX
    }

    /// Makes the scheduler's division, or gives it back.
    pub fn divide(&mut self, scheduler: &mut Scheduler, wanted: bool) {
        match self.division {
            Some(division) if !wanted => {
                scheduler.division_remove(division);
                self.division = None;
            }
            None if wanted => {
                let division = scheduler.division_add();
                for (part, row) in self.parts.iter().enumerate() {
                    for number in &row.nodes {
                        if let Some(id) = scheduler.node(*number) {
                            scheduler.division_set(division, id, Some(part as u32));
                        }
                    }
                }
                self.division = Some(division);
            }
            _ => {}
        }
    }
}
