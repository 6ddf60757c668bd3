//! The simulator: whole clusters of the real control plane and the real log in one thread, from
//! one seed.
//!
//! A [world](world::World) is a queue of events and everybody they happen to. One event is one step
//! of one thread of one machine, one message that arrives, one person who loses patience. Time is
//! the queue's: nothing waits, and a cluster's hour passes in about a second. All randomness comes
//! from the seed, a stream for each purpose, so that a seed replays identically.
//!
//! | module | what it is |
//! |---|---|
//! | [`random`], [`queue`], [`wire`] | streams of chance; what will happen; what all share |
//! | [`clock`], [`disk`], [`network`] | clocks that are wrong, disks that lose, networks that split |
//! | [`machine`] | a manager as a daemon runs it: core, log thread, snapshot thread |
//! | [`clients`], [`workers`], [`operator`] | those who use it, those it uses, the one who runs it |
//! | [`nemesis`] | what goes wrong |
//! | [`check`], [`linear`] | what must hold; whether histories are linearizable |
//! | [`world`], [`run`] | one world; many |
//! | [`coverage`] | how often each fault happened |
//!
//! Honest limits: threads of one machine interleave at their hand-overs only, so data races are
//! none of its business; the disk keeps what fsync acknowledged unless it is damaged on purpose;
//! the bytes on the wire are the real ones, TCP and TLS are not there.

pub mod check;
pub mod clients;
pub mod clock;
pub mod coverage;
pub mod disk;
pub mod linear;
pub mod machine;
pub mod nemesis;
pub mod network;
pub mod operator;
pub mod queue;
pub mod random;
pub mod run;
pub mod wire;
pub mod workers;
pub mod world;
