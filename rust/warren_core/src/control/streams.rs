//! What every stream has: one item on its way at most, so that a slow reader costs a bounded
//! amount of memory and sees the newest, not all.

use super::{CallId, Outputs};

/// The right to send one item, spent and given back.
#[derive(Clone, Copy, Debug)]
pub struct Outlet {
    pub id: CallId,
    free: bool,
}

impl Outlet {
    pub fn new(id: CallId) -> Self {
        Self { id, free: true }
    }

    pub fn is_free(&self) -> bool {
        self.free
    }

    /// The reader has taken the item.
    pub fn taken(&mut self) {
        self.free = true;
    }

    pub fn send(&mut self, item: &impl prost::Message, out: &mut Outputs) {
        debug_assert!(self.free, "the last item has not been taken");
        self.free = false;
        out.items.push((self.id, item.encode_to_vec()));
    }
}

#[cfg(test)]
mod tests;
