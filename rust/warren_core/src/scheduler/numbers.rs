//! Nodes' dense numbers by id. Looked up for each node that has some of a service, so that they stand
//! in a hash table beside the ordered map that walks go by.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound::{Excluded, Unbounded};

use crate::ids::NodeId;
use crate::scheduler::search::mixed;

/// Ids are random already: what they are mixed with need not be. The table is never iterated.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.0 = mixed(self.0 ^ u64::from_le_bytes(padded));
        }
    }

    /// Of the length that comes before the bytes: all ids have the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Invariant: both maps have the same entries.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    ordered: BTreeMap<NodeId, u32>,
    hashed: HashMap<NodeId, u32, BuildHasherDefault<IdHasher>>,
}

impl Numbers {
    #[inline]
    pub fn get(&self, id: NodeId) -> Option<u32> {
        self.hashed.get(&id).copied()
    }

    pub fn insert(&mut self, id: NodeId, number: u32) {
        self.ordered.insert(id, number);
        self.hashed.insert(id, number);
    }

    pub fn remove(&mut self, id: NodeId) -> Option<u32> {
        self.hashed.remove(&id);
        self.ordered.remove(&id)
    }

    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// By id.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ordered.values().copied()
    }

    /// Those after an id, by id.
    pub fn after(&self, id: Option<NodeId>) -> impl Iterator<Item = (NodeId, u32)> {
        let from = id.map_or(Unbounded, Excluded);
        let range = self.ordered.range((from, Unbounded));
        range.map(|(id, number)| (*id, *number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_maps_say_the_same() {
        let mut numbers = Numbers::default();
        let id = |n: u64| NodeId(u128::from(mixed(n) % 50).to_be_bytes());
        for step in 0..2_000 {
            match mixed(step + 7) % 3 {
                0 => {
                    let known = numbers.get(id(step));
                    assert_eq!(numbers.remove(id(step)), known);
                }
                _ => numbers.insert(id(step), step as u32),
            }
            assert_eq!(numbers.hashed.len(), numbers.len());
            for (id, number) in numbers.after(None) {
                assert_eq!(numbers.get(id), Some(number));
            }
        }
        let behind = numbers.after(numbers.after(None).next().map(|it| it.0));
        assert_eq!(behind.count() + 1, numbers.iter().count());
    }
}
