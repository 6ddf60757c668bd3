//! Sets of nodes, as bits over their dense numbers.

const WORD_BITS: usize = u64::BITS as usize;

/// Nodes by dense number (see [`Scheduler::number`](crate::scheduler::Scheduler::number)): those
/// that carry a label's value, have an image, claim a port. Numbers above the last word are not in
/// it. Two sets with the same nodes are equal.
#[derive(Clone, Debug, Default)]
pub struct NodeSet {
    words: Vec<u64>,
    count: u32,
}

impl NodeSet {
    /// How many nodes.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline]
    pub fn contains(&self, node: u32) -> bool {
        let word = self.words.get(node as usize / WORD_BITS);
        word.is_some_and(|word| word >> (node as usize % WORD_BITS) & 1 == 1)
    }

    /// Puts a node in, or takes it out. True if that changed the set. Takes O(1), but for the
    /// words that a higher number than any before adds.
    pub fn set(&mut self, node: u32, within: bool) -> bool {
        let (word, bit) = (node as usize / WORD_BITS, node as usize % WORD_BITS);
        if self.contains(node) == within {
            return false;
        }
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] ^= 1 << bit;
        self.count = if within {
            self.count + 1
        } else {
            self.count - 1
        };
        true
    }

    /// The numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let next = |rest: &u64| Some(rest & (rest - 1)).filter(|rest| *rest != 0);
            std::iter::successors(Some(*word).filter(|word| *word != 0), next)
                .map(move |rest| (at * WORD_BITS) as u32 + rest.trailing_zeros())
        })
    }

    /// Whether everything that `other` has is in it.
    pub fn includes(&self, other: &Self) -> bool {
        let words = other.words.iter().enumerate();
        words.fold(0, |left, (at, word)| left | word & !self.word(at)) == 0
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or_default()
    }

    /// Takes out everything that `other` does not have.
    pub fn intersect(&mut self, other: &Self) {
        self.merge(other, |own, other| own & other);
    }

    /// Takes out everything that `other` has.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, |own, other| own & !other);
    }

    /// Puts in everything that `other` has.
    pub fn unite(&mut self, other: &Self) {
        let words = self.words.len().max(other.words.len());
        self.words.resize(words, 0);
        self.merge(other, |own, other| own | other);
    }

    fn merge(&mut self, other: &Self, both: fn(u64, u64) -> u64) {
        self.count = 0;
        for (at, word) in self.words.iter_mut().enumerate() {
            *word = both(*word, other.word(at));
            self.count += word.count_ones();
        }
    }
}

impl PartialEq for NodeSet {
    fn eq(&self, other: &Self) -> bool {
        let words = self.words.len().max(other.words.len());
        self.count == other.count && (0..words).all(|at| self.word(at) == other.word(at))
    }
}

impl Eq for NodeSet {}

impl FromIterator<u32> for NodeSet {
    fn from_iter<T: IntoIterator<Item = u32>>(nodes: T) -> Self {
        let mut set = Self::default();
        for node in nodes {
            set.set(node, true);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 27)
    }

    #[test]
    fn they_are_what_ordered_sets_are() {
        for seed in 0..100 {
            let mut state = seed;
            let mut draw = || -> BTreeSet<u32> {
                let size = next(&mut state) % 60;
                (0..size).map(|_| (next(&mut state) % 300) as u32).collect()
            };
            let (left, right) = (draw(), draw());
            let of = |set: &BTreeSet<u32>| set.iter().copied().collect::<NodeSet>();
            let same = |bits: &NodeSet, set: BTreeSet<u32>| {
                assert_eq!(bits.iter().collect::<Vec<_>>(), Vec::from_iter(set.clone()));
                assert_eq!((bits.len(), bits), (set.len(), &of(&set)), "seed {seed}");
            };
            let (of_left, of_right) = (of(&left), of(&right));
            assert_eq!(of_left.includes(&of_right), left.is_superset(&right));
            let (mut and, mut or, mut without) = (of(&left), of(&left), of(&left));
            and.intersect(&of(&right));
            or.unite(&of(&right));
            without.subtract(&of(&right));
            same(&and, &left & &right);
            same(&or, &left | &right);
            assert!(or.includes(&of_right) && of_left.includes(&without));
            same(&without, &left - &right);
            let mut emptied = of(&left);
            for node in &left {
                assert!(emptied.set(*node, false) && !emptied.set(*node, false));
            }
            assert_eq!(emptied, NodeSet::default());
        }
    }
}
