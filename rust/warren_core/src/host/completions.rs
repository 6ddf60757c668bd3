//! What waits to be taken by the Python side, and the eventfd that says so.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use rustix::event::{EventfdFlags, eventfd};

use crate::control::{CallId, Level, LogLine};
use crate::error::Error;

/// Log lines kept for the daemon's log; more are dropped and counted.
const LOG_LINES_MAX: usize = 1024;

/// What a completion is; the numbers are Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Response = 0,
    /// An encoded `pb::Error`; ends a stream too.
    Error = 1,
    Item = 2,
    End = 3,
    /// A JSON object: level, `time_ms` since the epoch, component, message.
    Log = 4,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub id: u64,
    pub kind: Kind,
    pub of_stream: bool,
    pub payload: Vec<u8>,
}

impl Completion {
    fn reply(id: u64, result: Result<Vec<u8>, Error>) -> Self {
        let (kind, payload) = match result {
            Ok(payload) => (Kind::Response, payload),
            Err(error) => (Kind::Error, error.to_pb().encode_to_vec()),
        };
        Self {
            id,
            kind,
            of_stream: false,
            payload,
        }
    }

    fn item(id: u64, payload: Vec<u8>) -> Self {
        Self {
            id,
            kind: Kind::Item,
            of_stream: true,
            payload,
        }
    }

    fn end(id: u64, error: Option<Error>) -> Self {
        let kind = match error {
            Some(_) => Kind::Error,
            None => Kind::End,
        };
        let payload = error.map(|error| error.to_pb().encode_to_vec());
        Self {
            id,
            kind,
            of_stream: true,
            payload: payload.unwrap_or_default(),
        }
    }
}

/// The queue is bounded by what is open: one completion a call, one item and one end a stream.
pub struct Completions {
    event_fd: OwnedFd,
    queue: Mutex<Queue>,
}

/// Invariants: the eventfd is readable if `waiting` is not empty; `streams` holds those that are
/// open, and true where an item of it is among `waiting`.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Completion>,
    streams: BTreeMap<u64, bool>,
    log_lines: usize,
    dropped_log_lines: u64,
}

impl Completions {
    pub fn new() -> Result<Self, Error> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let event_fd = eventfd(0, flags).map_err(|error| Error::DataDir {
            path: "an eventfd".into(),
            why: format!("{error}; raise the limit on open files"),
        })?;
        Ok(Self {
            event_fd,
            queue: Mutex::default(),
        })
    }

    pub fn event_fd(&self) -> RawFd {
        self.event_fd.as_raw_fd()
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_fd.as_fd()
    }

    pub fn open_stream(&self, id: u64) {
        self.lock().streams.insert(id, false);
    }

    /// False if the stream has ended: then its end has been or will be taken.
    pub fn close_stream(&self, id: u64) -> bool {
        let mut queue = self.lock();
        let open = queue.streams.remove(&id);
        // Mostly nothing waits, and others' items need not be looked through: ten thousand
        // sessions may end at once.
        if open == Some(true) {
            queue.waiting.retain(|completion| completion.id != id);
        }
        open.is_some()
    }

    /// What a step answered, in one go: replies to calls, items and ends of streams. Nothing goes
    /// to a stream whose reader has gone.
    pub fn extend(
        &self,
        replies: impl IntoIterator<Item = (CallId, Result<Vec<u8>, Error>)>,
        items: impl IntoIterator<Item = (CallId, Vec<u8>)>,
        ended: impl IntoIterator<Item = (CallId, Option<Error>)>,
    ) {
        let mut queue = self.lock();
        let was_empty = queue.waiting.is_empty();
        for (id, result) in replies {
            queue.waiting.push_back(Completion::reply(id.0, result));
        }
        for (id, payload) in items {
            if let Some(waits) = queue.streams.get_mut(&id.0) {
                *waits = true;
                queue.waiting.push_back(Completion::item(id.0, payload));
            }
        }
        for (id, error) in ended {
            if queue.streams.remove(&id.0).is_some() {
                queue.waiting.push_back(Completion::end(id.0, error));
            }
        }
        let wake = was_empty && !queue.waiting.is_empty();
        drop(queue);
        if wake {
            self.wake();
        }
    }

    pub fn reply(&self, id: CallId, result: Result<Vec<u8>, Error>) {
        self.extend([(id, result)], [], []);
    }

    /// `time_ms`: when it happened, since the epoch; it may be taken much later.
    pub fn log(&self, time_ms: u64, line: &LogLine) {
        let level = match line.level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
        };
        let (component, message) = (json_string(line.component), json_string(&line.message));
        let fields: String = line
            .fields
            .iter()
            .map(|(name, value)| format!(",\"{name}\":{}", json_string(value)))
            .collect();
        let json = format!(
            "{{\"level\":\"{level}\",\"time_ms\":{time_ms},\"component\":{component},\
             \"message\":{message}{fields}}}"
        );
        let mut queue = self.lock();
        if queue.log_lines >= LOG_LINES_MAX {
            queue.dropped_log_lines += 1;
            return;
        }
        queue.log_lines += 1;
        drop(queue);
        let payload = json.into_bytes();
        self.push([Completion {
            id: 0,
            kind: Kind::Log,
            of_stream: false,
            payload,
        }]);
    }

    pub fn drain(&self, max: usize) -> Vec<Completion> {
        let mut count = [0; 8];
        // Nothing to read means that nobody wrote since the last time.
        let _ = rustix::io::read(&self.event_fd, &mut count);
        let mut queue = self.lock();
        let taken = max.min(queue.waiting.len());
        let batch: Vec<_> = queue.waiting.drain(..taken).collect();
        for taken in &batch {
            match taken.kind {
                Kind::Log => queue.log_lines -= 1,
                Kind::Item => {
                    if let Some(waits) = queue.streams.get_mut(&taken.id) {
                        *waits = false;
                    }
                }
                Kind::Response | Kind::Error | Kind::End => {}
            }
        }
        if !queue.waiting.is_empty() {
            self.wake();
        }
        batch
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub fn dropped_log_lines(&self) -> u64 {
        self.lock().dropped_log_lines
    }

    fn push(&self, completions: impl IntoIterator<Item = Completion>) {
        let mut queue = self.lock();
        let was_empty = queue.waiting.is_empty();
        queue.waiting.extend(completions);
        drop(queue);
        if was_empty {
            self.wake();
        }
    }

    fn wake(&self) {
        // It fails only when the counter is full: then it is readable already.
        let _ = rustix::io::write(&self.event_fd, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A JSON string (RFC 8259 §7).
pub fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            control if control < ' ' => {
                // Writing to a string cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn is_readable(completions: &Completions) -> bool {
        let mut fds = [PollFd::new(&completions.event_fd, PollFlags::IN)];
        poll(
            &mut fds,
            Some(&rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            == 1
    }

    #[test]
    fn the_eventfd_is_readable_exactly_while_something_waits() {
        let completions = Completions::new().unwrap();
        assert!(!is_readable(&completions));
        for id in 0..3 {
            completions.reply(CallId(id), Ok(vec![]));
        }
        assert!(is_readable(&completions));
        assert_eq!(completions.drain(2).len(), 2);
        assert!(is_readable(&completions));
        assert_eq!(completions.drain(2).len(), 1);
        assert!(!is_readable(&completions));
    }

    #[test]
    fn a_closed_stream_is_silent() {
        let completions = Completions::new().unwrap();
        completions.open_stream(5);
        completions.extend([], [(CallId(5), vec![1])], []);
        assert!(completions.close_stream(5));
        completions.extend([], [(CallId(5), vec![2])], [(CallId(5), None)]);
        assert!(completions.drain(9).is_empty());
        assert!(!completions.close_stream(5));
    }

    #[test]
    fn what_waits_of_a_closed_stream_is_dropped_and_nothing_else() {
        let completions = Completions::new().unwrap();
        (1..4).for_each(|id| completions.open_stream(id));
        let items = || [1, 2, 3].map(|id| (CallId(id), vec![id as u8]));
        completions.extend([], items(), []);
        assert!(completions.close_stream(2));
        let of = |batch: Vec<Completion>| batch.iter().map(|c| c.id).collect::<Vec<_>>();
        assert_eq!(of(completions.drain(1)), [1]);
        // Of the first nothing waits any more, of the third something does.
        assert!(completions.close_stream(1));
        assert!(completions.close_stream(3));
        completions.extend([(CallId(7), Ok(vec![]))], items(), []);
        assert_eq!(of(completions.drain(9)), [7]);
    }

    #[test]
    fn log_lines_are_bounded_and_what_is_dropped_is_counted() {
        let completions = Completions::new().unwrap();
        let line = LogLine::new(Level::Info, "raft", "a \"b\"\n").with("node_id", "c\\");
        (0..LOG_LINES_MAX + 7).for_each(|_| completions.log(7, &line));
        assert_eq!(completions.dropped_log_lines(), 7);
        let json = concat!(
            r#"{"level":"info","time_ms":7,"component":"raft","message":"a \"b\"\n","#,
            r#""node_id":"c\\"}"#
        );
        assert_eq!(completions.drain(1)[0].payload, json.as_bytes());
        completions.log(8, &line);
        assert_eq!(completions.dropped_log_lines(), 7);
    }
}
