//! What the library logs, as values: the caller decides where it goes.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// Notes kept between two calls of `take`; more are dropped, the first matter most.
const NOTES_MAX: usize = 256;

/// One thing the library had to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub severity: Severity,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Debug,
    Info,
    Warning,
}

#[derive(Clone, Default)]
pub struct Journal {
    notes: Arc<Mutex<Vec<Note>>>,
    verbose: Arc<AtomicBool>,
}

impl Journal {
    pub fn logger(&self) -> Logger {
        Logger::root(self.clone().fuse(), slog::o!())
    }

    pub fn take(&self) -> Vec<Note> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether what matters to nobody but those who look for a fault is noted too.
    pub fn set_verbose(&self, verbose: bool) {
        self.verbose.store(verbose, Relaxed);
    }
}

impl Drain for Journal {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), Never> {
        let severity = match record.level() {
            Level::Critical | Level::Error | Level::Warning => Severity::Warning,
            Level::Info => Severity::Info,
            Level::Debug if self.verbose.load(Relaxed) => Severity::Debug,
            Level::Debug | Level::Trace => return Ok(()),
        };
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX {
            let mut message = Fields(record.msg().to_string());
            // Rendering into a string cannot fail.
            let _ = record.kv().serialize(record, &mut message);
            let _ = context.serialize(record, &mut message);
            notes.push(Note {
                severity,
                message: message.0,
            });
        }
        Ok(())
    }
}

struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}
