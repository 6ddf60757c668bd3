//! The index against a naive twin, on random clusters; and rules one by one.

mod devices;
mod preempt;
mod properties;
mod rules;
mod twin;
mod whole;
