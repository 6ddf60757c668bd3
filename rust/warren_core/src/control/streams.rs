//! What every stream has: one item on its way at most, so that a slow reader costs a bounded
//! amount of memory and sees the newest, not all.

use super::{CallId, Outputs};

/// The right to send one item, spent and given back.
#[derive(Clone, Copy, Debug)]
pub struct Outlet {
    pub id: CallId,
    free: bool,
    /// Length of the item on its way.
    bytes: usize,
}

impl Outlet {
    pub fn new(id: CallId) -> Self {
        Self {
            id,
            free: true,
            bytes: 0,
        }
    }

    pub fn is_free(&self) -> bool {
        self.free
    }

    /// What waits for the reader, in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// The reader has taken the item.
    pub fn taken(&mut self) {
        (self.free, self.bytes) = (true, 0);
    }

    pub fn send(&mut self, item: &impl prost::Message, out: &mut Outputs) {
        debug_assert!(self.free, "the last item has not been taken");
        let bytes = item.encode_to_vec();
        (self.free, self.bytes) = (false, bytes.len());
        out.items.push((self.id, bytes));
    }
}

#[cfg(test)]
mod tests;
