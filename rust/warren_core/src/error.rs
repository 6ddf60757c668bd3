//! One error enum. A refusal is a value and says what to do next; a broken promise of the machine
//! (a failed fsync, a contradiction in the state) is not here: it stops the process.

use thiserror::Error as ThisError;

/// Why a request was refused. `code` is stable: clients and the Python side go by it.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Error {
    #[error("invalid {what}: {why}")]
    Invalid { what: &'static str, why: String },
    #[error(
        "no {kind} `{reference}`; `warrenctl {}` shows what there is",
        listed_by(kind)
    )]
    NotFound {
        kind: &'static str,
        reference: String,
    },
    #[error("`{reference}` is the beginning of {count} {kind} ids; give more of it")]
    Ambiguous {
        kind: &'static str,
        reference: String,
        count: usize,
    },
    #[error("a {kind} named `{name}` exists; choose another name, or update or remove that one")]
    NameTaken { kind: &'static str, name: String },
    #[error(
        "the service is at version {actual}, not {expected}: someone changed it meanwhile; \
         look at it again and repeat the change"
    )]
    VersionConflict { expected: u64, actual: u64 },
    #[error("service `{name}` is being removed; wait until it is gone")]
    Removing { name: String },
    #[error(
        "no node that could run it has image `{image}`; load it there first: \
         warrenctl image load ARCHIVE"
    )]
    ImageNotLoaded { image: String },
    #[error("this node belongs to no cluster; create one: warrenctl cluster init")]
    NotInCluster,
    #[error(
        "this node already belongs to cluster {cluster}; for another one, let it leave first: \
         warrenctl cluster leave"
    )]
    AlreadyInCluster { cluster: String },
    #[error(
        "`{identity}` may not call {method}; call it on a manager's host, or with a client's \
         certificate: that of a host is for what concerns this host alone"
    )]
    Denied { identity: String, method: String },
    #[error("{queue} is full ({limit} waiting); try again in a moment")]
    Overloaded { queue: &'static str, limit: usize },
    #[error(
        "this manager has {limit} streams open, of workers and of those who watch, and its memory \
         carries no more; give managers more memory, or split the cluster"
    )]
    StreamsFull { limit: usize },
    #[error(
        "no answer in time; the request may still take effect: repeat it with the same request id, \
         or look at the result before trying anew"
    )]
    OutcomeUnknown,
    #[error("request id is older than what the cluster remembers; make a new request")]
    RequestTooOld,
    #[error("request id was used for a different request; make a new request id")]
    RequestReused,
    /// A refusal given before and now repeated; `code` is that of the first time.
    #[error("{message}")]
    RefusedBefore { code: &'static str, message: String },
    #[error("{what} has {actual_bytes} bytes, the limit is {limit_bytes}; make it smaller")]
    TooLarge {
        what: &'static str,
        actual_bytes: usize,
        limit_bytes: usize,
    },
    #[error("no space left for the log in {dir}; free some: writes resume by themselves")]
    NoSpace { dir: String },
    #[error("the cluster has no leader at the moment; try again in a few seconds")]
    NoLeader,
    #[error(
        "this manager does not lead; member {leader}{} does: ask that one",
        at(address)
    )]
    NotLeader { leader: u64, address: String },
    #[error(
        "not enough managers can be reached to know the newest state; try again when a majority is \
         up, or take this manager's own, which may be old, with --stale"
    )]
    NoQuorum,
    #[error(
        "no majority of the managers: {missing}. Writes and default reads wait for them: start \
         them, or read this manager's own state, which may be old, with --stale"
    )]
    QuorumLost { missing: String },
    #[error("this manager leads, and is handing the lead over first; repeat the request")]
    HandingOver,
    #[error("the daemon is shutting down; try again when it is back")]
    ShuttingDown,
    #[error("cannot use {path}: {why}")]
    DataDir { path: String, why: String },
    #[error(
        "the log is damaged: {file} at byte {offset}: {why}; refusing to start, because \
         acknowledged changes could be lost. Restore the data directory from a backup, or move it \
         away to begin with an empty node"
    )]
    LogDamaged {
        file: String,
        offset: u64,
        why: String,
    },
    #[error("the backup cannot be used: {why}; take another copy of it, or another backup")]
    BackupUnusable { why: String },
    #[error("this session has been replaced by a newer one; open a new one")]
    StaleSession,
    #[error("unknown method `{method}`; is the client newer than the daemon?")]
    UnknownMethod { method: String },
    #[error("the state is at feature level {level}, which this release does not know; upgrade it")]
    UnknownLevel { level: u32 },
    #[error(
        "it needs feature level {level} and the cluster is at {current}; upgrade all managers, then \
         try again"
    )]
    LevelNotReached { level: u32, current: u32 },
    #[error(
        "member {member} was removed from the cluster, for good; move its data directory away and \
         let the host join anew"
    )]
    MemberRemoved { member: u64 },
    #[error(
        "member {member} is bound to another data directory; give it that one back, or remove the \
         member and let the host join anew"
    )]
    WrongDataDir { member: u64 },

    #[error(
        "node {node} was removed from the cluster; let it in again with warrenctl cluster join"
    )]
    NodeRemoved { node: String },

    // Refusals of single items at apply; the orchestrator and the workers see them, not people.
    #[error("slot {slot} is taken")]
    SlotTaken { slot: u64 },
    #[error("the node is not eligible: {why}")]
    NodeNotEligible { why: &'static str },
    #[error("the node has not enough free capacity")]
    NoCapacity,
    #[error("a state only moves forward")]
    StateWentBack,
}

/// An address behind what is there; nothing where it is not known.
fn at(address: &str) -> String {
    match address {
        "" => String::new(),
        known => format!(" at {known}"),
    }
}

/// The command that lists things of a kind.
fn listed_by(kind: &str) -> String {
    match kind {
        "member" => "cluster members".to_owned(),
        _ => format!("{kind} ls"),
    }
}

impl Error {
    /// The stable name of the variant.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Invalid { .. } => "invalid",
            Error::NotFound { .. } => "not_found",
            Error::Ambiguous { .. } => "ambiguous",
            Error::NameTaken { .. } => "name_taken",
            Error::VersionConflict { .. } => "version_conflict",
            Error::Removing { .. } => "removing",
            Error::ImageNotLoaded { .. } => "image_not_loaded",
            Error::NotInCluster => "not_in_cluster",
            Error::AlreadyInCluster { .. } => "already_in_cluster",
            Error::Denied { .. } => "denied",
            Error::Overloaded { .. } | Error::StreamsFull { .. } => "overloaded",
            Error::OutcomeUnknown => "outcome_unknown",
            Error::RequestTooOld => "request_too_old",
            Error::RequestReused => "request_reused",
            Error::RefusedBefore { code, .. } => code,
            Error::TooLarge { .. } => "too_large",
            Error::NoSpace { .. } => "no_space",
            Error::NoLeader => "no_leader",
            Error::NotLeader { .. } => "not_leader",
            Error::NoQuorum | Error::QuorumLost { .. } => "no_quorum",
            Error::HandingOver => "handing_over",
            Error::ShuttingDown => "shutting_down",
            Error::DataDir { .. } => "data_dir",
            Error::LogDamaged { .. } => "log_damaged",
            Error::BackupUnusable { .. } => "backup_unusable",
            Error::StaleSession => "stale_session",
            Error::UnknownMethod { .. } => "unknown_method",
            Error::UnknownLevel { .. } => "unknown_level",
            Error::LevelNotReached { .. } => "level_not_reached",
            Error::MemberRemoved { .. } => "member_removed",
            Error::WrongDataDir { .. } => "wrong_data_dir",
            Error::NodeRemoved { .. } => "node_removed",
            Error::SlotTaken { .. } => "slot_taken",
            Error::NodeNotEligible { .. } => "node_not_eligible",
            Error::NoCapacity => "no_capacity",
            Error::StateWentBack => "state_went_back",
        }
    }

    /// Every code there is, for the other side of the boundary to check itself against.
    pub const CODES: &'static [&'static str] = &[
        "invalid",
        "not_found",
        "ambiguous",
        "name_taken",
        "version_conflict",
        "removing",
        "image_not_loaded",
        "not_in_cluster",
        "already_in_cluster",
        "denied",
        "overloaded",
        "outcome_unknown",
        "request_too_old",
        "request_reused",
        "too_large",
        "no_space",
        "no_leader",
        "not_leader",
        "no_quorum",
        "handing_over",
        "shutting_down",
        "data_dir",
        "log_damaged",
        "backup_unusable",
        "stale_session",
        "unknown_method",
        "unknown_level",
        "level_not_reached",
        "member_removed",
        "wrong_data_dir",
        "node_removed",
        "slot_taken",
        "node_not_eligible",
        "no_capacity",
        "state_went_back",
    ];

    /// What another member says of a request that was passed on to it. That it does not lead becomes
    /// [`Error::NoLeader`]: who does, the receiver may know better.
    pub fn given_elsewhere(error: crate::pb::Error) -> Self {
        let code = Self::CODES.iter().find(|code| **code == error.code);
        match code {
            Some(&("not_leader" | "no_leader")) => Error::NoLeader,
            Some(code) => Error::RefusedBefore {
                code,
                message: error.message,
            },
            // Of a release that knows more ways to refuse.
            None => Error::Invalid {
                what: "request",
                why: error.message,
            },
        }
    }

    /// As the message that crosses to clients.
    pub fn to_pb(&self) -> crate::pb::Error {
        let (leader_member_id, leader_address) = match self {
            Error::NotLeader { leader, address } => (*leader, address.clone()),
            _ => (0, String::new()),
        };
        crate::pb::Error {
            code: self.code().to_owned(),
            message: self.to_string(),
            leader_member_id,
            leader_address,
        }
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let word = String::new;
        for refusal in [
            Error::AlreadyInCluster { cluster: word() },
            Error::Denied {
                identity: word(),
                method: word(),
            },
            Error::TooLarge {
                what: "it",
                actual_bytes: 2,
                limit_bytes: 1,
            },
        ] {
            let told = refusal.to_string();
            let next = told.split_once("; ").map(|(_, next)| next);
            assert!(next.is_some_and(|next| !next.is_empty()), "{told}");
        }
    }
}
