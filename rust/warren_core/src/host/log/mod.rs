//! The log as the core sees it.
//!
//! A thread of its own writes it, so that a disk which takes its time keeps nobody waiting: what
//! queued while the last fdatasync ran goes into the next. Handing a batch to that thread and its
//! end back takes two wake-ups, though, which can take as long as the fdatasync. So a core that
//! nobody waits for writes a small batch by itself, as long as the disk is quick.

mod thread;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};

use super::mailbox::Mailbox;
use super::{Message, Shared, fatal};
use crate::error::Error;
use crate::raft::{Persist, Position};
use crate::wal::Wal;
use thread::{Job, LogThread};
use writer::Writer;

/// Entries that the core writes by itself at most: for more than a few, going on meanwhile with
/// what comes next is worth the wake-ups.
const ENTRIES_HERE_MAX: usize = 4;
/// The core writes by itself only while the last commit took no longer than this: half of what a
/// step may take.
const COMMIT_HERE_NS_MAX: u64 = 1_000_000;

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

    fn set_busy(&self, since_ns: u64) {
        self.busy_since_ns.store(since_ns, Ordering::Relaxed);
    }
}

/// Hands work to the log. Invariant: while `unfinished` is 0 the thread holds nothing that is to be
/// written, so what the core writes then is in order.
pub struct Log {
    jobs: Sender<Job>,
    /// Jobs handed to the thread that it has not done with; only the core adds to it.
    unfinished: Arc<AtomicUsize>,
    /// `None` once the log is closed.
    writer: Arc<Mutex<Option<Writer>>>,
    shared: Arc<Shared>,
}

impl Log {
    /// Starts the thread. It tells the core what is durable, and whether there is room.
    pub fn start(
        wal: Wal,
        core: Arc<Mailbox<Message>>,
        shared: Arc<Shared>,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let (jobs, queue) = unbounded();
        let log = Self {
            jobs,
            unfinished: Arc::default(),
            writer: Arc::new(Mutex::new(Some(Writer::new(wal, shared.clone())))),
            shared: shared.clone(),
        };
        let thread = LogThread {
            writer: log.writer.clone(),
            jobs: queue,
            unfinished: log.unfinished.clone(),
            core,
            shared,
        };
        let thread = fatal::spawn("wal", move || thread.run())?;
        Ok((log, thread))
    }

    /// Has it made durable in this order; the thread says when it is.
    pub fn persist(&self, persist: impl IntoIterator<Item = Persist>) {
        persist
            .into_iter()
            .for_each(|persist| self.hand_over(Job::Persist(persist)));
    }

    pub fn compact(&self, at: Position) {
        self.hand_over(Job::Compact(at));
    }

    pub fn close(&self) {
        self.hand_over(Job::Close);
    }

    /// Whether this is a batch that the core had better write by itself, if nobody waits for it.
    pub fn is_small(&self, persist: &[Persist]) -> bool {
        let entries: usize = persist.iter().map(|persist| persist.entries.len()).sum();
        let installs = persist.iter().any(|persist| persist.install.is_some());
        (1..=ENTRIES_HERE_MAX).contains(&entries) && !installs
    }

    /// Makes it durable before it returns the last number; `None` if the thread has to do that,
    /// because it has other work before this, or the disk is slow or full.
    pub fn persist_here(&self, persist: Vec<Persist>) -> Option<u64> {
        if self.unfinished.load(Ordering::Acquire) > 0 || self.shared.log_health.is_out_of_space() {
            self.persist(persist);
            return None;
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writer.as_mut()?;
        if writer.last_commit_ns() > COMMIT_HERE_NS_MAX {
            self.persist(persist);
            return None;
        }
        match writer.write(persist) {
            Ok(number) => {
                if writer.wants_room() {
                    self.hand_over(Job::MakeRoom);
                }
                Some(number)
            }
            Err(left) => {
                self.persist(left);
                None
            }
        }
    }

    fn hand_over(&self, job: Job) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        // The thread ends before the core only together with the process.
        let _ = self.jobs.send(job);
    }
}

#[cfg(test)]
mod tests;
