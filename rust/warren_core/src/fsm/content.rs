//! What a command says: as a message, or where it lies in the command's bytes.

use prost::Message;

use crate::fsm::batch::BATCH_ITEMS_MAX;
use crate::fsm::parse::{self, Report};
use crate::pb::{self, command::Body};

/// The level at which a command came to be. Below it, to releases that know the command it is what
/// it is to those that do not: nothing.
fn level_of(body: &Body) -> u32 {
    match body {
        Body::SetNodeAvailability(_) => 2,
        Body::AdmitNode(_)
        | Body::RemoveNode(_)
        | Body::UpdateClusterSettings(_)
        | Body::FreezeReplacement(_) => 3,
        Body::UpdateNode(_) => 4,
        Body::Preempt(_) | Body::MoveSlots(_) => 5,
        _ => 1,
    }
}

pub(super) enum Content<'a> {
    Message(&'a Body),
    Report(Report<'a>),
}

impl<'a> Content<'a> {
    pub fn level(&self) -> u32 {
        match self {
            Content::Message(body) => level_of(body),
            Content::Report(_) => 1,
        }
    }

    /// The command without its body, and its body, if that is a report as they usually are:
    /// to make messages of its items would cost more than to apply them. `None` says nothing
    /// about the bytes.
    pub fn in_place(command: &'a [u8]) -> Option<(pb::Command, Self)> {
        let (envelope, report) = parse::split_report(command)?;
        let envelope = pb::Command::decode(envelope).ok()?;
        if envelope.body.is_some() {
            return None;
        }
        let report = parse::report(report, BATCH_ITEMS_MAX)?;
        Some((envelope, Content::Report(report)))
    }
}
