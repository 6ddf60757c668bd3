//! See the layer map in `lib.rs`.
