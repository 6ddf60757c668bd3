//! Values by id, in the order of the ids.
//!
//! A trie over the half-bytes of ids: 16 ways at each level, and leaves of at most
//! [`LEAF_MAX`] entries in order. Ids are random, so that all leaves are about as full and the trie
//! is as shallow as it can be; were they not, it would be deeper and as right. What finds an id
//! touches one leaf, of two or three cache lines, where a tree ordered by comparison searches a
//! large node on every level.
//!
//! A clone shares all of it. A write copies what a clone still holds of the way to the entry.

use std::ops::{Bound, Index, RangeBounds};
use std::sync::Arc;

use crate::ids::{ContainerId, NodeId, ServiceId, SpecDigest};

const WAYS: usize = 16;
/// Entries of a leaf; one more, and it becomes a branch.
const LEAF_MAX: usize = 32;
/// A branch with fewer entries becomes a leaf.
const BRANCH_MIN: usize = 16;

/// What is an id: its half-bytes, the most significant first, say all of it and order it.
pub(super) trait Id: Copy + Ord {
    /// The half-byte at `level`; there are as many as the type has.
    fn digit(&self, level: usize) -> usize;
}

macro_rules! ids {
    ($($name:ident)*) => {
        $(impl Id for $name {
            #[inline]
            fn digit(&self, level: usize) -> usize {
                let byte = self.0[level / 2];
                usize::from(if level % 2 == 0 { byte >> 4 } else { byte & 0xf })
            }
        })*
    };
}

ids!(ContainerId NodeId ServiceId SpecDigest);

#[derive(Clone)]
pub(super) struct IdMap<I, V> {
    root: Node<I, V>,
    len: usize,
}

/// Invariants: the entries of a leaf ascend; those in way `w` of a branch at level `l` have `w` as
/// their digit `l` and the same digits before it; a branch has at least [`BRANCH_MIN`] entries.
#[derive(Clone)]
enum Node<I, V> {
    Leaf(Arc<[(I, V)]>),
    Branch(Arc<Branch<I, V>>),
}

#[derive(Clone)]
struct Branch<I, V> {
    /// Entries below it.
    len: usize,
    ways: [Node<I, V>; WAYS],
}

impl<I, V> Default for IdMap<I, V> {
    fn default() -> Self {
        Self {
            root: Node::empty(),
            len: 0,
        }
    }
}

impl<I: Id, V: Clone> IdMap<I, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, id: &I) -> Option<&V> {
        let (mut node, mut level) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = position(entries, id).ok()?;
                    return Some(&entries[at].1);
                }
                Node::Branch(branch) => {
                    node = &branch.ways[id.digit(level)];
                    level += 1;
                }
            }
        }
    }

    /// Copies what a clone still holds of the way there, also for what is not there.
    pub fn get_mut(&mut self, id: &I) -> Option<&mut V> {
        let (mut node, mut level) = (&mut self.root, 0);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = position(entries, id).ok()?;
                    return Some(&mut Arc::make_mut(entries)[at].1);
                }
                Node::Branch(branch) => {
                    node = &mut Arc::make_mut(branch).ways[id.digit(level)];
                    level += 1;
                }
            }
        }
    }

    pub fn contains_key(&self, id: &I) -> bool {
        self.get(id).is_some()
    }

    /// The value that was there before.
    pub fn insert(&mut self, id: I, value: V) -> Option<V> {
        let before = self.root.insert(id, value, 0);
        self.len += usize::from(before.is_none());
        before
    }

    pub fn remove(&mut self, id: &I) -> Option<V> {
        // Nothing is copied for what is not there.
        self.get(id)?;
        self.len -= 1;
        Some(self.root.remove(id, 0))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&I, &V)> {
        self.range(..)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Of the ids in `range`, in order.
    pub fn range(&self, range: impl RangeBounds<I>) -> impl Iterator<Item = (&I, &V)> {
        let end = range.end_bound().cloned();
        let within = move |id: &I| match end {
            Bound::Included(end) => *id <= end,
            Bound::Excluded(end) => *id < end,
            Bound::Unbounded => true,
        };
        Iter::from(&self.root, range.start_bound()).take_while(move |(id, _)| within(id))
    }
}

impl<I: Id, V: Clone> Index<&I> for IdMap<I, V> {
    type Output = V;

    /// The id is there.
    fn index(&self, id: &I) -> &V {
        self.get(id).expect("what is named exists")
    }
}

impl<I: Id, V: Clone> Extend<(I, V)> for IdMap<I, V> {
    fn extend<T: IntoIterator<Item = (I, V)>>(&mut self, entries: T) {
        for (id, value) in entries {
            self.insert(id, value);
        }
    }
}

impl<I, V> Node<I, V> {
    fn empty() -> Self {
        Self::Leaf(Arc::default())
    }
}

impl<I: Id, V: Clone> Node<I, V> {
    /// Of a node at `level`.
    fn insert(&mut self, id: I, value: V, level: usize) -> Option<V> {
        match self {
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let before = branch.ways[id.digit(level)].insert(id, value, level + 1);
                branch.len += usize::from(before.is_none());
                before
            }
            Self::Leaf(entries) => match position(entries, &id) {
                Ok(at) => {
                    let known = &mut Arc::make_mut(entries)[at].1;
                    Some(std::mem::replace(known, value))
                }
                Err(at) => {
                    // By way of a vector: slices are copied at once, what an iterator gives is not.
                    let mut grown = Vec::with_capacity(entries.len() + 1);
                    grown.extend_from_slice(&entries[..at]);
                    grown.push((id, value));
                    grown.extend_from_slice(&entries[at..]);
                    *self = Self::of(grown, level);
                    None
                }
            },
        }
    }

    /// Of entries that ascend and are alike before `level`.
    fn of(entries: Vec<(I, V)>, level: usize) -> Self {
        let len = entries.len();
        if len <= LEAF_MAX {
            return Self::Leaf(entries.into());
        }
        let mut ways: [Vec<(I, V)>; WAYS] = Default::default();
        for (id, value) in entries {
            ways[id.digit(level)].push((id, value));
        }
        let ways = ways.map(|entries| Self::of(entries, level + 1));
        Self::Branch(Arc::new(Branch { len, ways }))
    }

    /// The id is there.
    fn remove(&mut self, id: &I, level: usize) -> V {
        match self {
            Self::Leaf(entries) => {
                let at = position(entries, id).expect("it has been found");
                let value = entries[at].1.clone();
                let others = entries[..at].iter().chain(&entries[at + 1..]);
                *entries = others.cloned().collect();
                value
            }
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let value = branch.ways[id.digit(level)].remove(id, level + 1);
                branch.len -= 1;
                if branch.len < BRANCH_MIN {
                    let entries = Iter::from(self, Bound::Unbounded);
                    let entries = entries.map(|(id, value)| (*id, value.clone()));
                    *self = Self::Leaf(entries.collect());
                }
                value
            }
        }
    }
}

fn position<I: Ord, V>(entries: &[(I, V)], id: &I) -> Result<usize, usize> {
    entries.binary_search_by(|(known, _)| known.cmp(id))
}

struct Iter<'a, I, V> {
    /// What is left of the present leaf.
    leaf: std::slice::Iter<'a, (I, V)>,
    /// What is left of the branches above it, the lowest last.
    above: Vec<std::slice::Iter<'a, Node<I, V>>>,
}

impl<'a, I: Id, V> Iter<'a, I, V> {
    fn from(root: &'a Node<I, V>, start: Bound<&I>) -> Self {
        let mut above = Vec::new();
        let (mut node, mut level) = (root, 0);
        loop {
            match node {
                Node::Branch(branch) => {
                    let way = match start {
                        Bound::Included(id) | Bound::Excluded(id) => id.digit(level),
                        Bound::Unbounded => 0,
                    };
                    above.push(branch.ways[way + 1..].iter());
                    node = &branch.ways[way];
                    level += 1;
                }
                Node::Leaf(entries) => {
                    let before = match start {
                        Bound::Included(id) => entries.partition_point(|(it, _)| it < id),
                        Bound::Excluded(id) => entries.partition_point(|(it, _)| it <= id),
                        Bound::Unbounded => 0,
                    };
                    let leaf = entries[before..].iter();
                    return Self { leaf, above };
                }
            }
        }
    }
}

impl<'a, I, V> Iterator for Iter<'a, I, V> {
    type Item = (&'a I, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((id, value)) = self.leaf.next() {
                return Some((id, value));
            }
            match self.above.last_mut()?.next() {
                Some(Node::Leaf(entries)) => self.leaf = entries.iter(),
                Some(Node::Branch(branch)) => self.above.push(branch.ways.iter()),
                None => drop(self.above.pop()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
    fn mixed(number: u64) -> u64 {
        let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Random ones, and such as differ at the end only.
    fn id(number: u64) -> NodeId {
        let mut id = [0; 16];
        match number % 3 {
            0 => id[15] = (number % 200) as u8,
            _ => id[..8].copy_from_slice(&mixed(number % 1_500).to_be_bytes()),
        }
        NodeId(id)
    }

    fn check(map: &IdMap<NodeId, u64>, model: &BTreeMap<NodeId, u64>, step: u64) {
        assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        assert!(map.iter().eq(model.iter()));
        let (low, high) = (id(mixed(step)), id(mixed(step + 1)));
        if low <= high {
            assert!(map.range(low..=high).eq(model.range(low..=high)));
            assert!(map.range(low..high).eq(model.range(low..high)));
        }
        let behind = (Bound::Excluded(low), Bound::Unbounded);
        assert!(map.range(behind).eq(model.range(behind)));
    }

    #[test]
    fn it_is_an_ordered_map() {
        let (mut map, mut model) = (IdMap::default(), BTreeMap::new());
        let mut before = None;
        for step in 0..12_000 {
            let of = id(mixed(step) >> 8);
            // It grows, then shrinks to nothing.
            match mixed(step + 1_000_000) % 12_000 < step {
                true => assert_eq!(map.remove(&of), model.remove(&of)),
                false => assert_eq!(map.insert(of, step), model.insert(of, step)),
            }
            let other = id(mixed(step + 2_000_000));
            let (known, of_model) = (map.get_mut(&other), model.get_mut(&other));
            assert_eq!(known, of_model);
            known.into_iter().chain(of_model).for_each(|it| *it += 1);
            assert_eq!(map.get(&of), model.get(&of));
            if step % 1_000 == 0 {
                check(&map, &model, step);
                if let Some((map, model)) = before.replace((map.clone(), model.clone())) {
                    check(&map, &model, step);
                }
            }
        }
        for of in model.keys() {
            map.remove(of);
        }
        check(&map, &BTreeMap::new(), 0);
        assert!(matches!(map.root, Node::Leaf(_)));
    }
}
