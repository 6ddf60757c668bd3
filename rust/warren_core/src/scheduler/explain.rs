//! Why a container cannot be placed, over all nodes at once.

/// A filter that turned nodes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub nodes: u32,
    pub why: String,
}

/// What keeps an ask from being placed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Explanation {
    pub reasons: Vec<Reason>,
}
