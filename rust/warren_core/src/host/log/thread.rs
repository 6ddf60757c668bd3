//! The thread that writes the log: everything that queued while the last fdatasync ran goes into
//! the next one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::super::mailbox::Mailbox;
use super::super::{Message, Shared, clock};
use super::writer::{NoRoom, Writer};
use crate::control::{Input, Level, LogLine};
use crate::raft::{Persist, Position};

/// How often a full disk is tried again.
const SPACE_RETRY: Duration = Duration::from_millis(200);

/// To the log thread, in the order in which it must become durable.
pub enum Job {
    Persist(Persist),
    Compact(Position),
    /// A segment has to be allocated, as after every other job.
    MakeRoom,
    /// Commit, mark the clean end, end the thread.
    Close,
}

pub struct LogThread {
    pub writer: Arc<Mutex<Option<Writer>>>,
    pub jobs: Receiver<Job>,
    /// Jobs that it has not done with.
    pub unfinished: Arc<AtomicUsize>,
    pub core: Arc<Mailbox<Message>>,
    pub shared: Arc<Shared>,
}

impl LogThread {
    pub fn run(self) {
        self.with_writer(|writer| self.make_room(writer));
        loop {
            let Some(job) = self.next_job() else { continue };
            let queued: Vec<Job> = std::iter::once(job).chain(self.jobs.try_iter()).collect();
            let count = queued.len();
            let health = &self.shared.log_health;
            health.set_busy(clock::mono_ns().max(1));
            let closing = self.with_writer(|writer| {
                let closing = self.work(writer, queued);
                health.set_busy(0);
                if !closing {
                    self.make_room(writer);
                }
                closing
            });
            self.unfinished.fetch_sub(count, Ordering::Release);
            self.shared.metrics.log_queue(self.jobs.len());
            if closing {
                return self.close();
            }
        }
    }

    /// `None` when it is time to look for room again. A core that has gone is a shutdown.
    fn next_job(&self) -> Option<Job> {
        if !self.shared.log_health.is_out_of_space() {
            return Some(self.jobs.recv().unwrap_or(Job::Close));
        }
        match self.jobs.recv_timeout(SPACE_RETRY) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => {
                self.with_writer(|writer| self.make_room(writer));
                None
            }
            Err(RecvTimeoutError::Disconnected) => Some(Job::Close),
        }
    }

    fn with_writer<R>(&self, with: impl FnOnce(&mut Writer) -> R) -> R {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        with(writer.as_mut().expect("only this thread closes it"))
    }

    /// One batch of all that queued. True if the log is to be closed.
    fn work(&self, writer: &mut Writer, jobs: Vec<Job>) -> bool {
        self.shared.metrics.log_queue(jobs.len());
        let (mut closing, mut done, mut compact, mut entries) = (false, None, None, 0);
        for job in jobs {
            match job {
                Job::Persist(persist) => {
                    entries += persist.entries.len();
                    done = Some(persist.number);
                    if !self.append(writer, persist) {
                        return true;
                    }
                }
                Job::Compact(at) => compact = Some(at),
                Job::MakeRoom => {}
                Job::Close => closing = true,
            }
        }
        if let Some(number) = done {
            if !self.commit(writer) {
                return true;
            }
            self.shared.metrics.batch(entries);
            self.tell(Input::Persisted(number));
        }
        if let Some(at) = compact
            && let Err(NoRoom(why)) = writer.compact(at)
        {
            // The marker comes with the next snapshot; until then the log is only longer.
            self.set_space(false, &why);
        }
        closing
    }

    /// False as `commit` is.
    fn append(&self, writer: &mut Writer, mut persist: Persist) -> bool {
        while writer.append(&mut persist).is_err() {
            // A full batch has to be committed first, and finds no room.
            if !self.commit(writer) {
                return false;
            }
        }
        true
    }

    /// Makes what is pending durable, however long the disk is full: the entries may be committed
    /// by then on other members, so they cannot be taken back.
    ///
    /// False if the daemon is to end meanwhile: what is pending was never acknowledged.
    fn commit(&self, writer: &mut Writer) -> bool {
        while let Err(NoRoom(why)) = writer.commit() {
            self.set_space(false, &why);
            if self.shared.closing.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(SPACE_RETRY);
        }
        true
    }

    fn make_room(&self, writer: &mut Writer) {
        // What is handed over meanwhile waits for the disk just as well.
        let health = &self.shared.log_health;
        health.set_busy(clock::mono_ns().max(1));
        let made = writer.make_room();
        health.set_busy(0);
        match made {
            Ok(()) => self.set_space(true, "there is room for the log again"),
            Err(NoRoom(why)) => self.set_space(false, &why),
        }
    }

    fn set_space(&self, has_space: bool, why: &str) {
        let tell = || self.tell(Input::Space(has_space));
        if self.shared.log_health.set_space(has_space, tell) {
            let level = if has_space {
                Level::Info
            } else {
                Level::Warning
            };
            let line = LogLine::new(level, "wal", why);
            self.shared.completions.log(clock::now().wall_ms, &line);
        }
    }

    fn tell(&self, input: Input) {
        // A core that has gone waits for nothing.
        let _ = self.core.send(Message::Input(input));
    }

    fn close(self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.take().into_iter().for_each(Writer::close);
    }
}
