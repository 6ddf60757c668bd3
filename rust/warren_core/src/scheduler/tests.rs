//! The index against a naive twin, on random clusters.

mod properties;
mod twin;
mod whole;
