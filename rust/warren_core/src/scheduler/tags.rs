//! Which nodes have which image.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::scheduler::sets::NodeSet;

/// Words, and the nodes that each is said of; kept as nodes change.
///
/// Invariant: node `n` is in the set of word `w` if `of_node[n]` has `w`, and a word that is said
/// of no node is forgotten.
#[derive(Debug, Default)]
pub(super) struct Tags {
    numbers: BTreeMap<Arc<str>, u32>,
    words: Vec<Option<Arc<str>>>,
    sets: Vec<NodeSet>,
    /// Numbers of words that are forgotten.
    spare: Vec<u32>,
    /// Sorted.
    of_node: Vec<Box<[u32]>>,
}

impl Tags {
    /// The nodes that it is said of; `None` if there are none.
    pub fn nodes(&self, word: &str) -> Option<&NodeSet> {
        let number = self.numbers.get(word)?;
        Some(&self.sets[*number as usize])
    }

    /// Takes over what is said of a node. True if that is news.
    pub fn put<'a>(&mut self, node: u32, words: impl Iterator<Item = &'a str>) -> bool {
        if self.of_node.len() <= node as usize {
            self.of_node.resize_with(node as usize + 1, Box::default);
        }
        let mut now: Vec<u32> = words.map(|word| self.number(word)).collect();
        now.sort_unstable();
        now.dedup();
        let before = std::mem::take(&mut self.of_node[node as usize]);
        let news = *before != *now;
        for word in now
            .iter()
            .filter(|word| before.binary_search(word).is_err())
        {
            self.sets[*word as usize].set(node, true);
        }
        for word in before
            .iter()
            .filter(|word| now.binary_search(word).is_err())
        {
            self.sets[*word as usize].set(node, false);
            self.forget_if_nowhere(*word);
        }
        self.of_node[node as usize] = now.into();
        news
    }

    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let word: Arc<str> = word.into();
        let number = self.spare.pop().unwrap_or_else(|| {
            self.words.push(None);
            self.sets.push(NodeSet::default());
            self.sets.len() as u32 - 1
        });
        self.words[number as usize] = Some(Arc::clone(&word));
        self.numbers.insert(word, number);
        number
    }

    fn forget_if_nowhere(&mut self, number: u32) {
        if self.sets[number as usize].is_empty()
            && let Some(word) = self.words[number as usize].take()
        {
            self.numbers.remove(&word);
            self.spare.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_while_a_node_has_it() {
        let mut images = Tags::default();
        assert!(images.put(3, ["a", "b", "a"].into_iter()));
        assert!(!images.put(3, ["b", "a"].into_iter()));
        assert!(images.put(70, ["b"].into_iter()));
        let nodes = |images: &Tags, word| images.nodes(word).map(|set| set.iter().collect());
        assert_eq!(nodes(&images, "b"), Some(vec![3, 70]));
        images.put(3, ["c"].into_iter());
        assert_eq!(nodes(&images, "a"), None);
        assert_eq!(nodes(&images, "b"), Some(vec![70]));
        assert_eq!(nodes(&images, "c"), Some(vec![3]));
        images.put(3, [].into_iter());
        images.put(70, [].into_iter());
        assert!(images.numbers.is_empty());
    }
}
