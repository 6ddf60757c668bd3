//! Which nodes have which image.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::scheduler::sets::NodeSet;

/// Invariant: node `n` is in the set of image `i` if `of_node[n]` has `i`, and an image without
/// nodes has no digest.
#[derive(Debug, Default)]
pub(super) struct Images {
    numbers: BTreeMap<Arc<str>, u32>,
    digests: Vec<Option<Arc<str>>>,
    sets: Vec<NodeSet>,
    /// Numbers of images that are forgotten.
    spare: Vec<u32>,
    /// Sorted.
    of_node: Vec<Box<[u32]>>,
}

impl Images {
    /// The nodes that have it; `None` if there are none.
    pub fn nodes(&self, digest: &str) -> Option<&NodeSet> {
        let number = self.numbers.get(digest)?;
        Some(&self.sets[*number as usize])
    }

    /// Takes over what a node has. True if that is news.
    pub fn put<'a>(&mut self, node: u32, digests: impl Iterator<Item = &'a str>) -> bool {
        if self.of_node.len() <= node as usize {
            self.of_node.resize_with(node as usize + 1, Box::default);
        }
        let mut now: Vec<u32> = digests.map(|digest| self.number(digest)).collect();
        now.sort_unstable();
        now.dedup();
        let before = std::mem::take(&mut self.of_node[node as usize]);
        let news = *before != *now;
        for image in now.iter().filter(|image| before.binary_search(image).is_err()) {
            self.sets[*image as usize].set(node, true);
        }
        for image in before.iter().filter(|image| now.binary_search(image).is_err()) {
            self.sets[*image as usize].set(node, false);
            self.forget_if_nowhere(*image);
        }
        self.of_node[node as usize] = now.into();
        news
    }

    fn number(&mut self, digest: &str) -> u32 {
        if let Some(number) = self.numbers.get(digest) {
            return *number;
        }
        let digest: Arc<str> = digest.into();
        let number = self.spare.pop().unwrap_or_else(|| {
            self.digests.push(None);
            self.sets.push(NodeSet::default());
            self.sets.len() as u32 - 1
        });
        self.digests[number as usize] = Some(Arc::clone(&digest));
        self.numbers.insert(digest, number);
        number
    }

    fn forget_if_nowhere(&mut self, image: u32) {
        if self.sets[image as usize].is_empty()
            && let Some(digest) = self.digests[image as usize].take()
        {
            self.numbers.remove(&digest);
            self.spare.push(image);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_while_a_node_has_it() {
        let mut images = Images::default();
        assert!(images.put(3, ["a", "b", "a"].into_iter()));
        assert!(!images.put(3, ["b", "a"].into_iter()));
        assert!(images.put(70, ["b"].into_iter()));
        let nodes = |images: &Images, digest| images.nodes(digest).map(|set| set.iter().collect());
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
