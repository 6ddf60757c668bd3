//! The simulator: whole clusters of the real control plane and the real log in one thread, from
//! one seed.

pub mod clock;
pub mod coverage;
pub mod disk;
pub mod linear;
pub mod network;
pub mod random;
