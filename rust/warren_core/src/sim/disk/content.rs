//! What is in a file: pages that are shared until they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

pub const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// The bytes of a file. A clone shares its pages; pages that were never written take no memory and
/// read as zeros.
#[derive(Clone, Default)]
pub struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    pub size_bytes: u64,
}

impl Content {
    pub fn of_zeros(size_bytes: u64) -> Self {
        Self {
            pages: BTreeMap::new(),
            size_bytes,
        }
    }

    /// False if the file ends before that.
    #[must_use]
    pub fn read(&self, mut buf: &mut [u8], mut offset: u64) -> bool {
        if offset + buf.len() as u64 > self.size_bytes {
            return false;
        }
        while !buf.is_empty() {
            let (page, within, bytes) = split(offset, buf.len());
            let (part, rest) = buf.split_at_mut(bytes);
            match self.pages.get(&page) {
                Some(page) => part.copy_from_slice(&page[within..within + bytes]),
                None => part.fill(0),
            }
            (buf, offset) = (rest, offset + bytes as u64);
        }
        true
    }

    /// Grows the file where needed.
    pub fn write(&mut self, mut buf: &[u8], mut offset: u64) {
        self.size_bytes = self.size_bytes.max(offset + buf.len() as u64);
        while !buf.is_empty() {
            let (page, within, bytes) = split(offset, buf.len());
            let (part, rest) = buf.split_at(bytes);
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + bytes].copy_from_slice(part);
            (buf, offset) = (rest, offset + bytes as u64);
        }
    }

    /// Cuts the file; what it grows by again reads as zeros.
    pub fn truncate(&mut self, size_bytes: u64) {
        self.size_bytes = self.size_bytes.min(size_bytes);
        let (page, within, _) = split(self.size_bytes, PAGE_BYTES);
        let behind = page + u64::from(within > 0);
        self.pages.split_off(&behind);
        if within > 0
            && let Some(last) = self.pages.get_mut(&page)
        {
            Arc::make_mut(last)[within..].fill(0);
        }
    }

    /// Takes over the pages of `from` that hold the `bytes` at `offset`, and its size.
    pub fn adopt_pages(&mut self, from: &Self, offset: u64, bytes: usize) {
        let last = (offset + bytes as u64).div_ceil(PAGE_BYTES as u64);
        for (number, page) in from.pages.range(offset / PAGE_BYTES as u64..last) {
            self.pages.insert(*number, page.clone());
        }
    }

    /// Writes `bytes` from the start, and leaves pages that are zeros already unwritten.
    pub fn overwrite(&mut self, bytes: &[u8]) {
        for (number, part) in (0..).zip(bytes.chunks(PAGE_BYTES)) {
            if self.pages.contains_key(&number) || part.iter().any(|byte| *byte != 0) {
                self.write(part, number * PAGE_BYTES as u64);
            }
        }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size_bytes as usize];
        let whole = self.read(&mut bytes, 0);
        debug_assert!(whole);
        bytes
    }

    /// The pages that were ever written, by their offset.
    pub fn written_pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().map(|page| page * PAGE_BYTES as u64)
    }
}

/// The page of `offset`, the place in it, and how many of `bytes` are in it.
fn split(offset: u64, bytes: usize) -> (u64, usize, usize) {
    let within = (offset % PAGE_BYTES as u64) as usize;
    let page = offset / PAGE_BYTES as u64;
    (page, within, bytes.min(PAGE_BYTES - within))
}

#[cfg(test)]
mod tests {
    use super::super::super::random::Random;
    use super::*;

    /// Every operation agrees with a plain list of bytes.
    #[test]
    fn agrees_with_a_naive_twin() {
        let mut random = Random::new(5);
        let (mut content, mut twin) = (Content::default(), Vec::new());
        for _ in 0..3_000 {
            let offset = random.below(20_000);
            let bytes = vec![random.next() as u8; random.below(9_000) as usize];
            match random.below(10) {
                0 => {
                    content.truncate(offset);
                    twin.truncate(offset as usize);
                }
                1..=6 => {
                    content.write(&bytes, offset);
                    let end = offset as usize + bytes.len();
                    twin.resize(twin.len().max(end), 0);
                    twin[offset as usize..end].copy_from_slice(&bytes);
                }
                _ => {
                    let mut buf = bytes;
                    let end = offset as usize + buf.len();
                    let read = content.read(&mut buf, offset);
                    let expected = twin.get(offset as usize..end);
                    assert_eq!(read.then_some(&buf[..]), expected);
                }
            }
            assert_eq!(content.size_bytes, twin.len() as u64);
        }
        assert_eq!(content.to_vec(), twin);
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let mut content = Content::of_zeros(3 * PAGE_BYTES as u64);
        content.write(&[1; PAGE_BYTES], 0);
        let copy = content.clone();
        content.write(&[2], 5);
        assert_eq!((content.to_vec()[5], copy.to_vec()[5]), (2, 1));
        assert_eq!(content.written_pages().collect::<Vec<_>>(), [0]);
    }
}
