//! Messages between members: ours on the wire, the library's inside, converted field by field.
//!
//! The library panics on messages that no correct member sends; nothing that comes in here makes it
//! do so. What is out of any order is [`Damaged`]; what is merely late is left to the library.

use prost::bytes::Bytes;
use raft::eraftpb::{self, MessageType};

use super::codec::{self, Damaged, damaged};
use super::{Lane, LogEntry, Message};
use crate::ids::MemberId;
use crate::pb::{RaftEntry, RaftMessage, RaftMessageType as Type};

/// Beyond it no honest term or index lies; arithmetic on them cannot overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// A vote by order of the leader, as the library marks it.
const TRANSFER: &[u8] = raft::CAMPAIGN_TRANSFER;

pub fn lane(message_type: Type) -> Lane {
    match message_type {
        Type::Append | Type::AppendResponse => Lane::Log,
        _ => Lane::Urgent,
    }
}

/// # Errors
/// [`Damaged`] if no correct member could have sent it.
pub fn check(message: &RaftMessage) -> Result<Type, Damaged> {
    let message_type = message.r#type();
    if message_type == Type::Unspecified {
        return Err(damaged(format!(
            "message type {} is unknown",
            message.r#type
        )));
    }
    let numbers = [
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.generation,
    ];
    if message.term == 0 || numbers.iter().any(|number| *number > NUMBER_MAX) {
        return Err(damaged("a number in the message is out of range"));
    }
    if message_type == Type::Append {
        check_append(message)?;
    } else if !message.entries.is_empty() {
        return Err(damaged("only an append carries entries"));
    }
    Ok(message_type)
}

fn check_append(message: &RaftMessage) -> Result<(), Damaged> {
    if message.index == 0 {
        return Err(damaged("an append to the log before its first snapshot"));
    }
    let terms = message.entries.iter().map(|entry| entry.term);
    let terms: Vec<u64> = std::iter::once(message.log_term)
        .chain(terms)
        .chain([message.term])
        .collect();
    if message.log_term == 0 || !terms.is_sorted() {
        return Err(damaged("the terms of appended entries fall"));
    }
    Ok(())
}

/// # Errors
/// [`Damaged`] if an entry is of a kind that this release does not know.
pub fn to_library(
    from: MemberId,
    to: MemberId,
    message_type: Type,
    message: RaftMessage,
) -> Result<eraftpb::Message, Damaged> {
    let context: Bytes = match (message_type, message.context, message.transfer) {
        (Type::Vote, _, true) => Bytes::from_static(TRANSFER),
        (_, Some(context), _) => Bytes::copy_from_slice(&context.to_le_bytes()),
        _ => Bytes::new(),
    };
    let entries = message.entries.into_iter().zip(message.index + 1..);
    let entries = entries
        .map(|(RaftEntry { term, payload }, index)| {
            codec::library_entry(LogEntry {
                index,
                term,
                payload,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(eraftpb::Message {
        msg_type: library_type(message_type)?,
        to: to.0,
        from: from.0,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.into(),
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context,
        ..Default::default()
    })
}

fn library_type(message_type: Type) -> Result<MessageType, Damaged> {
    Ok(match message_type {
        Type::Append => MessageType::MsgAppend,
        Type::AppendResponse => MessageType::MsgAppendResponse,
        Type::Vote => MessageType::MsgRequestVote,
        Type::VoteResponse => MessageType::MsgRequestVoteResponse,
        Type::PreVote => MessageType::MsgRequestPreVote,
        Type::PreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        Type::Heartbeat => MessageType::MsgHeartbeat,
        Type::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        Type::TimeoutNow => MessageType::MsgTimeoutNow,
        Type::Unspecified | Type::Rejoin | Type::RejoinAck => {
            return Err(damaged("the message is not the library's"));
        }
    })
}

/// The answer to a heartbeat tells when that was sent. The library has no field for it; this one
/// means nothing in such an answer.
pub fn echo(answer: &mut eraftpb::Message, sent_ns: u64) {
    if answer.get_msg_type() == MessageType::MsgHeartbeatResponse {
        answer.reject_hint = sent_ns;
    }
}

/// `None` for what is not sent: snapshots travel another way, and nothing is forwarded.
pub fn from_library(message: eraftpb::Message) -> Option<Message> {
    let message_type = match message.get_msg_type() {
        MessageType::MsgAppend => Type::Append,
        MessageType::MsgAppendResponse => Type::AppendResponse,
        MessageType::MsgRequestVote => Type::Vote,
        MessageType::MsgRequestVoteResponse => Type::VoteResponse,
        MessageType::MsgRequestPreVote => Type::PreVote,
        MessageType::MsgRequestPreVoteResponse => Type::PreVoteResponse,
        MessageType::MsgHeartbeat => Type::Heartbeat,
        MessageType::MsgHeartbeatResponse => Type::HeartbeatResponse,
        MessageType::MsgTimeoutNow => Type::TimeoutNow,
        _ => return None,
    };
    let transfer = message_type == Type::Vote && message.context == TRANSFER;
    let context = message.context.as_ref().try_into().ok();
    let (reject_hint, sent_ns) = match message_type {
        Type::HeartbeatResponse => (0, message.reject_hint),
        _ => (message.reject_hint, 0),
    };
    let entries = message.entries.iter().map(|entry| RaftEntry {
        term: entry.term,
        payload: codec::payload(entry),
    });
    let body = RaftMessage {
        r#type: message_type.into(),
        term: message.term,
        index: message.index,
        log_term: message.log_term,
        entries: entries.collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint,
        context: context.map(u64::from_le_bytes),
        transfer,
        sent_ns,
        ..RaftMessage::default()
    };
    Some(Message {
        to: MemberId(message.to),
        lane: lane(message_type),
        body,
    })
}
