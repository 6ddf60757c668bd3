//! Warren's control plane.
//!
//! Read from the bottom; each layer knows only those above it in this list.
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`ids`], [`error`] | newtypes for every identifier; one error enum, one stable code a variant | |
//! | [`identity`] | the name that a certificate carries, parsed | `ids error` |
//! | [`mutant`] | planted faults, for the simulator; nothing in a release | |
//! | [`pb`] | the schema `proto/warren/v1`, generated | |
//! | [`fsm`] | the replicated state: objects, commands, a total `apply`, events, snapshots | `ids error pb` |
//! | [`scheduler`] | where a container goes, and why not elsewhere | `fsm` |
//! | [`orchestrator`] | desired against observed, as commands | `scheduler fsm` |
//! | [`raft`] | the consensus library behind our narrow contract; commands are bytes to it | `ids error`, messages of `pb` |
//! | [`wal`] | segmented write-ahead log of opaque frames; files of snapshots | `mutant` |
//! | [`control`] | all of the above as one sans-IO machine: `step(Input) → Outputs` | all of the above |
//! | [`host`] | threads, real clock, real disk, completions through one eventfd | `control wal` |
//! | `sim` | simulated disk, network and clocks; checkers; never in a release | `control wal` |
//! | `py` | the Python bindings, and nothing but bindings | `host` |
//!
//! Everything but `host`, the file backend of `wal` and `py` is deterministic: time, randomness
//! and input come in as arguments, results go out as values. `clippy.toml` bans clocks, files,
//! sockets and randomness elsewhere.

pub mod control;
pub mod error;
pub mod fsm;
pub mod host;
pub mod identity;
pub mod ids;
pub mod mutant;
pub mod orchestrator;
#[cfg(feature = "python")]
mod py;
pub mod raft;
pub mod scheduler;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod wal;
mod words;

/// A command is allocated by whoever submits it and freed by another thread; see
/// docs/dependencies.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The schema, generated from `proto/warren/v1`.
#[allow(clippy::all, missing_docs)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/warren.v1.rs"));
}
