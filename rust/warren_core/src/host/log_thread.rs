//! The thread that owns the log: everything that queued while the last fdatasync ran goes into the
//! next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{Message, Shared, clock, fatal};
use crate::control::{Input, Level, LogLine, durable};
use crate::raft::{Persist, Position};
use crate::wal::{Wal, WalError};

/// How often a full disk is tried again.
const SPACE_RETRY: Duration = Duration::from_millis(200);

/// To the log thread, in the order in which it must become durable.
pub enum Job {
    Persist(Persist),
    Compact(Position),
    /// Commit, mark the clean end, end the thread.
    Close,
}

/// How the log is doing, for whoever looks.
#[derive(Default)]
pub struct Health {
    out_of_space: AtomicBool,
    /// When the oldest work at hand was taken up; 0 while there is none.
    busy_since_ns: AtomicU64,
}

impl Health {
    pub fn is_out_of_space(&self) -> bool {
        self.out_of_space.load(Ordering::Acquire)
    }

    /// Shows whether there is room, and has `tell` say so to the core. False if nothing changed.
    ///
    /// Room that is lost shows before the core hears of it, room that is back only after: whoever
    /// sees that there is room, and then writes, stands in the core's queue behind the news.
    fn set_space(&self, has_space: bool, tell: impl FnOnce()) -> bool {
        if self.is_out_of_space() != has_space {
            return false;
        }
        if has_space {
            tell();
            self.out_of_space.store(false, Ordering::Release);
        } else {
            self.out_of_space.store(true, Ordering::Release);
            tell();
        }
        true
    }

    /// How long the disk has not answered.
    pub fn waiting_ns(&self, now_ns: u64) -> u64 {
        match self.busy_since_ns.load(Ordering::Relaxed) {
            0 => 0,
            since_ns => now_ns.saturating_sub(since_ns),
        }
    }
}

pub struct LogThread {
    pub wal: Wal,
    pub jobs: Receiver<Job>,
    pub core: Sender<Message>,
    pub shared: Arc<Shared>,
}

impl LogThread {
    pub fn run(mut self) {
        self.allocate_ahead();
        loop {
            let Some(job) = self.next_job() else { continue };
            let health = &self.shared.log_health;
            health
                .busy_since_ns
                .store(clock::mono_ns().max(1), Ordering::Relaxed);
            let closing = self.work(job);
            self.shared
                .log_health
                .busy_since_ns
                .store(0, Ordering::Relaxed);
            if closing {
                return self.close();
            }
            self.allocate_ahead();
        }
    }

    /// `None` when it is time to look for room again. A core that has gone is a shutdown.
    fn next_job(&mut self) -> Option<Job> {
        if !self.shared.log_health.is_out_of_space() {
            return Some(self.jobs.recv().unwrap_or(Job::Close));
        }
        match self.jobs.recv_timeout(SPACE_RETRY) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => {
                self.allocate_ahead();
                None
            }
            Err(RecvTimeoutError::Disconnected) => Some(Job::Close),
        }
    }

    /// One batch: the job, and all that queued behind it. True if the log is to be closed.
    fn work(&mut self, first: Job) -> bool {
        let (mut closing, mut done, mut compact, mut entries) = (false, None, None, 0);
        let queued: Vec<Job> = self.jobs.try_iter().collect();
        let depth = queued.len() + 1;
        for job in std::iter::once(first).chain(queued) {
            match job {
                Job::Persist(persist) => {
                    entries += persist.entries.len();
                    done = Some(persist.number);
                    if !self.append(persist) {
                        return true;
                    }
                }
                Job::Compact(at) => compact = Some(at),
                Job::Close => closing = true,
            }
        }
        if let Some(number) = done {
            if !self.commit() {
                return true;
            }
            self.shared.metrics.batch(entries, depth);
            self.tell(Input::Persisted(number));
        }
        if let Some(at) = compact {
            self.compact(at);
        }
        closing
    }

    /// False as `commit` is.
    fn append(&mut self, mut persist: Persist) -> bool {
        let started_ns = clock::mono_ns();
        let appended = loop {
            match durable::append(&mut self.wal, &mut persist) {
                Ok(()) => break true,
                // A full batch has to be committed first, and finds no room.
                Err(WalError::NoSpace { .. }) if self.commit() => {}
                Err(WalError::NoSpace { .. }) => break false,
                Err(error) => broken(&error),
            }
        };
        self.shared
            .metrics
            .append
            .observe_ns(clock::mono_ns() - started_ns);
        appended
    }

    /// Makes what is pending durable, however long the disk is full: the entries may be committed
    /// by then on other members, so they cannot be taken back.
    ///
    /// False if the daemon is to end meanwhile: what is pending was never acknowledged.
    fn commit(&mut self) -> bool {
        let started_ns = clock::mono_ns();
        loop {
            match self.wal.commit() {
                Ok(_) => break,
                Err(error @ WalError::NoSpace { .. }) => {
                    self.set_space(false, &error.to_string());
                    if self.shared.closing.load(Ordering::Relaxed) {
                        return false;
                    }
                    std::thread::sleep(SPACE_RETRY);
                }
                Err(error) => broken(&error),
            }
        }
        self.shared
            .metrics
            .fsync
            .observe_ns(clock::mono_ns() - started_ns);
        self.shared.metrics.set_log(&self.wal.stats());
        true
    }

    fn compact(&mut self, at: Position) {
        match self.wal.compact(at.index.0, at.term.0) {
            Ok(_) => self.shared.metrics.set_log(&self.wal.stats()),
            // The marker comes with the next snapshot; until then the log is only longer.
            Err(error @ WalError::NoSpace { .. }) => self.set_space(false, &error.to_string()),
            Err(error) => broken(&error),
        }
    }

    /// Room for the next segment, before it is needed: without it writes are refused early, while
    /// there is still room to finish what has begun.
    fn allocate_ahead(&mut self) {
        match self.wal.allocate_ahead() {
            Ok(()) => self.set_space(true, "there is room for the log again"),
            Err(error @ WalError::NoSpace { .. }) => self.set_space(false, &error.to_string()),
            Err(error) => broken(&error),
        }
    }

    fn set_space(&mut self, has_space: bool, why: &str) {
        let tell = || self.tell(Input::Space(has_space));
        if self.shared.log_health.set_space(has_space, tell) {
            let level = if has_space {
                Level::Info
            } else {
                Level::Warning
            };
            let line = LogLine {
                level,
                component: "wal",
                message: why.to_owned(),
            };
            self.shared.completions.log(&line);
        }
    }

    fn tell(&self, input: Input) {
        // A core that has gone waits for nothing.
        let _ = self.core.send(Message::Input(input));
    }

    fn close(self) {
        match self.wal.close() {
            // Without room for the end mark the next start looks unclean, and loses nothing.
            Ok(()) | Err(WalError::NoSpace { .. }) => {}
            Err(error) => broken(&error),
        }
    }
}

/// What is on the disk is unknown: only a restart, which reads it, may go on.
fn broken(error: &WalError) -> ! {
    fatal::die("wal", &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What everybody sees at the moment in which the core is told.
    fn seen_when_told(health: &Health, has_space: bool) -> Option<bool> {
        let mut seen = None;
        let changed = health.set_space(has_space, || seen = Some(!health.is_out_of_space()));
        assert_eq!(changed, seen.is_some());
        assert_eq!(health.is_out_of_space(), !has_space);
        seen
    }

    #[test]
    fn nobody_sees_room_before_the_core_knows_of_it() {
        let health = Health::default();
        assert_eq!(seen_when_told(&health, true), None, "nothing changed");
        assert_eq!(seen_when_told(&health, false), Some(false), "lost");
        assert_eq!(seen_when_told(&health, false), None, "nothing changed");
        assert_eq!(seen_when_told(&health, true), Some(false), "back");
    }
}
