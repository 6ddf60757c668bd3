//! Dense storage with O(1) clones.
//!
//! Records live in pages behind [`Arc`], the pages in blocks of [`BLOCK`]. A clone shares all of it; a
//! write copies the one page it touches, and only if a clone still holds that page. So a reader or a
//! snapshot keeps the state of its moment for the price of a few counters, and `apply` never waits
//! for either.

use std::sync::Arc;

use imbl::Vector;

/// Pages that share a block. The first write after a clone copies the list of blocks and one block:
/// a hundred thousand pages make the former 1,600 long.
const BLOCK: usize = 64;

/// Where a record lies in its [`Table`]. Says nothing about order or age, and never leaves `fsm`:
/// two replicas with equal states may use different handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle(u32);

/// `PAGE` records share a page. A page is what the first write after a clone copies: large enough
/// to keep the directory short, small enough to stay cheap.
///
/// Invariants: `vacant` holds exactly the handles below `length` whose record is `None`; there are
/// the blocks and pages for `length` records, and no more.
pub(super) struct Table<T, const PAGE: usize> {
    blocks: Arc<[Arc<Block<T, PAGE>>]>,
    vacant: Vector<u32>,
    length: u32,
}

type Block<T, const PAGE: usize> = [Option<Arc<Page<T, PAGE>>>; BLOCK];
type Page<T, const PAGE: usize> = [Option<T>; PAGE];

impl<T, const PAGE: usize> Default for Table<T, PAGE> {
    fn default() -> Self {
        Self {
            blocks: Arc::default(),
            vacant: Vector::new(),
            length: 0,
        }
    }
}

impl<T, const PAGE: usize> Clone for Table<T, PAGE> {
    fn clone(&self) -> Self {
        Self {
            blocks: self.blocks.clone(),
            vacant: self.vacant.clone(),
            length: self.length,
        }
    }
}

impl<T: Clone, const PAGE: usize> Table<T, PAGE> {
    pub fn insert(&mut self, record: T) -> Handle {
        let handle = match self.vacant.pop_back() {
            Some(handle) => Handle(handle),
            None => self.extend(),
        };
        *self.cell(handle) = Some(record);
        handle
    }

    /// Handles come from `insert` and die with `remove`; another one is a bug here, not input.
    #[inline]
    pub fn get(&self, handle: Handle) -> &T {
        let [block, page, record] = position::<PAGE>(handle);
        self.blocks[block][page]
            .as_ref()
            .and_then(|page| page[record].as_ref())
            .expect("a handle names a live record")
    }

    #[inline]
    pub fn get_mut(&mut self, handle: Handle) -> &mut T {
        self.cell(handle)
            .as_mut()
            .expect("a handle names a live record")
    }

    pub fn remove(&mut self, handle: Handle) -> T {
        self.vacant.push_back(handle.0);
        self.cell(handle)
            .take()
            .expect("a handle names a live record")
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages().flat_map(|page| page.iter().flatten())
    }

    fn pages(&self) -> impl Iterator<Item = &Arc<Page<T, PAGE>>> {
        self.blocks.iter().flat_map(|block| block.iter().flatten())
    }

    /// Makes room for one more.
    fn extend(&mut self) -> Handle {
        let handle = Handle(self.length);
        let [block, page, record] = position::<PAGE>(handle);
        if (page, record) == (0, 0) {
            let new = Arc::new([const { None }; BLOCK]);
            self.blocks = self.blocks.iter().cloned().chain([new]).collect();
        }
        if record == 0 {
            let block = Arc::make_mut(&mut Arc::make_mut(&mut self.blocks)[block]);
            block[page] = Some(Arc::new([const { None }; PAGE]));
        }
        self.length += 1;
        handle
    }

    #[inline]
    fn cell(&mut self, handle: Handle) -> &mut Option<T> {
        let [block, page, record] = position::<PAGE>(handle);
        let block = Arc::make_mut(&mut Arc::make_mut(&mut self.blocks)[block]);
        let page = block[page].as_mut().expect("a handle names a live record");
        &mut Arc::make_mut(page)[record]
    }
}

/// The block, the page in it, the record in that.
#[inline]
fn position<const PAGE: usize>(Handle(n): Handle) -> [usize; 3] {
    let page = n as usize / PAGE;
    [page / BLOCK, page % BLOCK, n as usize % PAGE]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 32;
    type Table<T> = super::Table<T, PAGE>;

    #[test]
    fn a_clone_keeps_the_state_of_its_moment() {
        let mut table = Table::default();
        let handles: Vec<_> = (0..100).map(|n| table.insert(n)).collect();
        let before = table.clone();
        *table.get_mut(handles[40]) = 1000;
        table.remove(handles[41]);
        assert_eq!(
            (*before.get(handles[40]), *before.get(handles[41])),
            (40, 41)
        );
        assert_eq!(*table.get(handles[40]), 1000);
    }

    #[test]
    fn records_beyond_a_block_are_where_they_were_put() {
        let mut table = Table::default();
        let count = PAGE * BLOCK * 2 + 1;
        let handles: Vec<_> = (0..count).map(|n| table.insert(n)).collect();
        let before = table.clone();
        *table.get_mut(handles[PAGE * BLOCK]) = 0;
        assert!((0..count).all(|n| *before.get(handles[n]) == n));
        assert!(before.iter().copied().eq(0..count));
        assert_eq!(*table.get(handles[PAGE * BLOCK]), 0);
        assert_eq!(table.pages().count(), BLOCK * 2 + 1);
    }

    #[test]
    fn a_write_copies_one_page_and_no_other() {
        let mut table = Table::default();
        let handles: Vec<_> = (0..PAGE * 3).map(|n| table.insert(n)).collect();
        let before = table.clone();
        *table.get_mut(handles[PAGE]) = 0;
        let shared: Vec<_> = before
            .pages()
            .zip(table.pages())
            .map(|(a, b)| Arc::ptr_eq(a, b))
            .collect();
        assert_eq!(shared, [true, false, true]);
    }

    #[test]
    fn vacant_records_are_used_again() {
        let mut table = Table::default();
        let handles: Vec<_> = (0..PAGE).map(|n| table.insert(n)).collect();
        table.remove(handles[3]);
        table.remove(handles[7]);
        table.insert(0);
        table.insert(0);
        assert_eq!(table.pages().count(), 1);
    }
}
