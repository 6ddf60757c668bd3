//! Dense storage with O(1) clones.
//!
//! Records live in pages behind [`Arc`], the pages in a persistent vector. A clone shares all of
//! it; a write copies the one page it touches, and only if a clone still holds that page. So a
//! reader or a snapshot keeps the state of its moment for the price of a few counters, and
//! `apply` never waits for either.

use std::sync::Arc;

use imbl::Vector;

/// Where a record lies in its [`Table`]. Says nothing about order or age, and never leaves `fsm`:
/// two replicas with equal states may use different handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle(u32);

/// `PAGE` records share a page. A page is what the first write after a clone copies: large enough
/// to keep the directory short, small enough to stay cheap.
///
/// Invariant: `vacant` holds exactly the handles below `length` whose record is `None`.
pub(super) struct Table<T, const PAGE: usize> {
    pages: Vector<Arc<Page<T, PAGE>>>,
    vacant: Vector<u32>,
    length: u32,
}

type Page<T, const PAGE: usize> = [Option<T>; PAGE];

impl<T, const PAGE: usize> Default for Table<T, PAGE> {
    fn default() -> Self {
        Self {
            pages: Vector::new(),
            vacant: Vector::new(),
            length: 0,
        }
    }
}

impl<T, const PAGE: usize> Clone for Table<T, PAGE> {
    fn clone(&self) -> Self {
        Self {
            pages: self.pages.clone(),
            vacant: self.vacant.clone(),
            length: self.length,
        }
    }
}

impl<T: Clone, const PAGE: usize> Table<T, PAGE> {
    pub fn insert(&mut self, record: T) -> Handle {
        let handle = Handle(self.vacant.pop_back().unwrap_or_else(|| {
            if self.length as usize == self.pages.len() * PAGE {
                self.pages.push_back(Arc::new([const { None }; PAGE]));
            }
            self.length += 1;
            self.length - 1
        }));
        *self.cell(handle) = Some(record);
        handle
    }

    /// Handles come from `insert` and die with `remove`; another one is a bug here, not input.
    pub fn get(&self, handle: Handle) -> &T {
        let (page, record) = position::<PAGE>(handle);
        self.pages[page][record]
            .as_ref()
            .expect("a handle names a live record")
    }

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
        self.pages.iter().flat_map(|page| page.iter().flatten())
    }

    fn cell(&mut self, handle: Handle) -> &mut Option<T> {
        let (page, record) = position::<PAGE>(handle);
        &mut Arc::make_mut(&mut self.pages[page])[record]
    }
}

fn position<const PAGE: usize>(Handle(n): Handle) -> (usize, usize) {
    (n as usize / PAGE, n as usize % PAGE)
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
    fn a_write_copies_one_page_and_no_other() {
        let mut table = Table::default();
        let handles: Vec<_> = (0..PAGE * 3).map(|n| table.insert(n)).collect();
        let before = table.clone();
        *table.get_mut(handles[PAGE]) = 0;
        let shared: Vec<_> = before
            .pages
            .iter()
            .zip(&table.pages)
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
        assert_eq!(table.pages.len(), 1);
    }
}
