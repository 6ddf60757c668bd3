//! The thread that owns the log, as `host/` runs it.
//!
//! A batch takes what the disk says it takes. The disk does the work at some moment of that time:
//! a crash before finds nothing of it, one after finds it durable and never acknowledged, and one
//! inside (`Faults::crash_at`) whatever the disk makes of it.

use std::collections::VecDeque;

use super::super::check::{Checks, Handed};
use super::super::coverage::Kind;
use super::super::disk::Fate;
use super::super::queue::Event;
use super::super::wire::Wire;
use super::Machine;
use crate::control::{Input, durable};
use crate::ids::MemberId;
use crate::raft::{Persist, Position};
use crate::wal::{Wal, WalError};

/// How often a full disk is tried again, as in a daemon.
const SPACE_RETRY_NS: u64 = 200_000_000;
/// A process that died of its disk is started again by its supervisor.
const RESTART_NS: u64 = 1_000_000_000;

pub enum Job {
    Persist(Persist, Handed),
    Compact(Position),
}

pub struct LogThread {
    wal: Wal,
    jobs: VecDeque<Job>,
    /// Work is planned, or under way.
    busy: bool,
    /// Appended and not durable yet.
    pending: Vec<Handed>,
    compact: Option<Position>,
    has_space: bool,
    /// To be told when the disk has answered.
    told: Vec<Input>,
}

impl LogThread {
    pub fn new(wal: Wal) -> Self {
        Self {
            wal,
            jobs: VecDeque::new(),
            busy: false,
            pending: Vec::new(),
            compact: None,
            has_space: true,
            told: Vec::new(),
        }
    }

    /// Everything at hand, as one batch. Without space it stays at hand.
    fn work(&mut self, member: MemberId, checks: &mut Checks) -> Result<(), WalError> {
        let worked = self
            .write(member, checks)
            .and_then(|()| self.wal.allocate_ahead());
        match worked {
            Ok(()) => self.set_space(true),
            Err(WalError::NoSpace { .. }) => self.set_space(false),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self, member: MemberId, checks: &mut Checks) -> Result<(), WalError> {
        while let Some(job) = self.jobs.pop_front() {
            match job {
                Job::Persist(mut persist, handed) => {
                    if let Err(error) = durable::append(&mut self.wal, &mut persist) {
                        // What is left of it goes on where it stopped.
                        self.jobs.push_front(Job::Persist(persist, handed));
                        return Err(error);
                    }
                    self.pending.push(handed);
                }
                Job::Compact(at) => self.compact = Some(at),
            }
        }
        if !self.pending.is_empty() {
            self.wal.commit()?;
            self.committed(member, checks);
        }
        if let Some(at) = self.compact {
            self.wal.compact(at.index.0, at.term.0)?;
            checks.compacted(member, at);
            self.compact = None;
        }
        Ok(())
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.pending.is_empty()
    }

    /// The end mark; without room for it the next start looks unclean, and loses nothing.
    pub fn close(self) {
        let _ = self.wal.close();
    }

    fn committed(&mut self, member: MemberId, checks: &mut Checks) {
        let pending = std::mem::take(&mut self.pending);
        pending
            .iter()
            .for_each(|handed| checks.durable(member, handed));
        let last = pending.last().map(|handed| Input::Persisted(handed.number));
        self.told.extend(last);
    }

    fn set_space(&mut self, has_space: bool) {
        if std::mem::replace(&mut self.has_space, has_space) != has_space {
            self.told.push(Input::Space(has_space));
        }
    }
}

impl Machine {
    pub fn to_log(&mut self, wire: &mut Wire, jobs: Vec<Job>) {
        let name = self.name();
        let Some(log) = self
            .process
            .as_mut()
            .and_then(|process| process.log.as_mut())
        else {
            return;
        };
        log.jobs.extend(jobs);
        if !log.jobs.is_empty() && !std::mem::replace(&mut log.busy, true) {
            wire.hand_over(Event::LogRuns(name));
        }
    }

    pub fn log_runs(&mut self, wire: &mut Wire, checks: &mut Checks) {
        let name = self.name();
        let Some(member) = self.member else { return };
        let Some(log) = self
            .process
            .as_mut()
            .and_then(|process| process.log.as_mut())
        else {
            return;
        };
        let worked = log.work(member, checks);
        let took_ns = self.disk.take_latency_ns();
        if let Err(error) = worked {
            return self.log_broke(wire, &error);
        }
        wire.plan_in(took_ns, Event::LogDone(name));
    }

    /// What is on the disk is unknown: the process ends, and another reads it.
    fn log_broke(&mut self, wire: &mut Wire, error: &WalError) {
        wire.say(|| format!("machine {}: {error}", self.end.0));
        if self.disk.crashed() {
            return self.died_in_disk(wire);
        }
        wire.note(Kind::SyncFailed);
        self.crash(wire, Fate::Kept, RESTART_NS);
    }

    /// The machine died inside a disk operation.
    pub fn died_in_disk(&mut self, wire: &mut Wire) {
        wire.note(Kind::CrashInWrite);
        let fate = match Fate::ALL[self.random.below(4) as usize] {
            // The half that was written would be there.
            Fate::Kept if wire.a_disk_is_lost => Fate::Lost,
            fate => fate,
        };
        self.crash(wire, fate, RESTART_NS);
    }

    pub fn log_done(&mut self, wire: &mut Wire) {
        let name = self.name();
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(log) = &mut process.log else { return };
        process.inbox.extend(log.told.drain(..));
        log.busy = false;
        if !log.has_space {
            wire.note(Kind::DiskFull);
            log.busy = true;
            wire.plan_in(SPACE_RETRY_NS, Event::LogRuns(name));
        }
        self.wake(wire);
        self.to_log(wire, Vec::new());
    }
}
