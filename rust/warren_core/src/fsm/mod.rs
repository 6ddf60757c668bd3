//! The replicated state: objects, a total `apply`, events, snapshots.
//!
//! A command comes out of the log, [`State::apply`] judges it against the state and answers with
//! the response of the request behind it and the events that it caused. Every replica does so
//! with the same commands in the same order and arrives at the same state: nothing in here reads
//! a clock, rolls dice, iterates an unordered collection or touches a file. A refusal is an
//! answer like any other, and is as deterministic.
//!
//! | file | idea |
//! |---|---|
//! | `objects` | the nouns, and the rules of one object alone |
//! | `description` | what a node may say of itself |
//! | `convert` | nouns ⇄ messages |
//! | `table`, `id_map` | records and what finds them, which clone in O(1) |
//! | `state`, `changes` | all objects, with their indexes and totals; how they change |
//! | `requests` | who asked what already, and the answer |
//! | `apply`, `batch`, `members` | what each command does |
//! | `validate`, `reference` | what a spec may say, before and at `apply` |
//! | `partition` | what becomes of a container whose worker hears from no manager |
//! | `asked` | amounts, limits, ports and devices that a container asks for |
//! | `placement` | which nodes a service may go to, and which are the better ones |
//! | `labels` | labels and taints that operators give to nodes |
//! | `settings` | what operators set for all of it; whether replacement is frozen |
//! | `epoch` | how a state goes on with one member alone |
//! | `resolve` | what people type → ids and digests |
//! | `apart` | where a service may not go because of what is there |
//! | `holds` | room that is kept for a container which preempts others |
//! | `slots` | containers that change their slots |
//! | `volumes` | directories of nodes that containers mount by name |
//! | `claims` | ports, volumes and devices that containers hold on a node |
//! | `tally` | how far a service is from what is wanted |
//! | `hash` | one number for the whole state |
//! | `wire`, `parse` | encoding and decoding of what there is much of |
//! | `refusals` | everything that rules have against a node |
//! | `snapshot` | the state as bytes, and back |

mod apart;
mod apply;
pub mod asked;
mod batch;
mod changes;
mod claims;
mod content;
mod convert;
mod description;
mod drain;
mod epoch;
mod hash;
mod holds;
mod id_map;
mod labels;
mod members;
mod nodes;
mod objects;
mod parse;
pub mod partition;
pub mod placement;
mod reference;
mod refusals;
mod requests;
mod resolve;
pub mod settings;
mod slots;
pub mod snapshot;
mod state;
mod table;
mod tally;
pub mod validate;
mod volumes;
mod wire;

pub use apart::Avoided;
pub use apply::{Applied, FEATURE_LEVEL_MAX};
pub use batch::BATCH_ITEMS_MAX;
pub use claims::{claims, devices_missing};
pub use description::clip as clip_description;
pub use drain::{DRAIN_LEVEL, check_drain};
pub use epoch::Survivor;
pub use hash::StateHash;
pub use holds::{HOLD_VICTIMS_MAX, HOLDS_PER_NODE_MAX, Hold};
pub use labels::{NODE_LABELS_MAX, check_node_update};
pub use members::{MEMBERS_MAX, REMOVED_MEMBERS_MAX};
pub use nodes::REMOVED_NODES_MAX;
pub use objects::*;
pub use parse::applied_items;
pub use placement::Rules;
pub use reference::normalise_reference;
pub use refusals::{Filter, Refusal};
pub use requests::{Remembered, RequestKey, request_digest};
pub use settings::{Freeze, NODE_GRACE_MS, Overcommit, Settings, check_settings};
pub use state::{State, Workers};
pub use tally::{Tally, ailing, is_wanted, rests, tally};
