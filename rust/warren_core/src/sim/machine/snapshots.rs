//! The thread that writes, reads and takes in snapshots.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::coverage::Kind;
use super::super::queue::Event;
use super::super::wire::Wire;
use super::{Machine, raft_dir};
use crate::control::durable::{Inbox, Snapshots};
use crate::control::{Identity, Input, SnapshotJob, SnapshotRead, SnapshotWrite};
use crate::raft::Position;

pub enum Job {
    Write(Box<SnapshotJob>),
    Read(SnapshotRead),
    TakeIn(SnapshotWrite),
}

#[derive(Default)]
pub struct SnapshotThread {
    jobs: VecDeque<Job>,
    busy: bool,
    in_use: Vec<Position>,
    inbox: Inbox,
}

impl SnapshotThread {
    /// What is being sent and must not go.
    pub fn keep(&mut self, in_use: Option<Vec<Position>>) {
        self.in_use = in_use.unwrap_or(std::mem::take(&mut self.in_use));
    }

    fn perform(&mut self, snapshots: &Snapshots, identity: &Identity, job: Job) -> Option<Input> {
        match job {
            Job::Write(job) => {
                let written = snapshots.write(&job, &self.in_use);
                Some(Input::Snapshotted(written.map(|_| job.at)))
            }
            Job::Read(read) => Some(Input::SnapshotRead {
                token: read.token,
                result: snapshots.read(&read),
            }),
            Job::TakeIn(write) => self.inbox.perform(snapshots, identity, write),
        }
    }
}

impl Machine {
    pub fn to_snapshots(
        &mut self,
        wire: &mut Wire,
        write: Option<SnapshotJob>,
        reads: Vec<SnapshotRead>,
        writes: Vec<SnapshotWrite>,
    ) {
        let name = self.name();
        let Some(process) = &mut self.process else {
            return;
        };
        let thread = &mut process.snapshots;
        thread
            .jobs
            .extend(write.map(|job| Job::Write(Box::new(job))));
        thread.jobs.extend(reads.into_iter().map(Job::Read));
        thread.jobs.extend(writes.into_iter().map(Job::TakeIn));
        if !thread.jobs.is_empty() && !std::mem::replace(&mut thread.busy, true) {
            wire.hand_over(Event::SnapshotRuns(name));
        }
    }

    /// One job; its answer comes when the disk has done it.
    pub fn snapshot_runs(&mut self, wire: &mut Wire) {
        let name = self.name();
        let snapshots = Snapshots::new(Arc::new(self.disk.clone()), raft_dir());
        let Some(identity) = self.control().and_then(|control| control.identity()) else {
            return;
        };
        let Some(process) = &mut self.process else {
            return;
        };
        let thread = &mut process.snapshots;
        thread.busy = false;
        let Some(job) = thread.jobs.pop_front() else {
            return;
        };
        let answer = thread.perform(&snapshots, &identity, job);
        let took_ns = self.disk.take_latency_ns();
        if self.disk.crashed() {
            return self.died_in_disk(wire);
        }
        match answer {
            Some(Input::Snapshotted(Ok(_))) => wire.note(Kind::Snapshot),
            Some(Input::SnapshotLoaded { result: Ok(_), .. }) => wire.note(Kind::Installed),
            _ => {}
        }
        if let Some(input) = answer {
            wire.plan_in(took_ns, Event::Done(name, Box::new(input)));
        }
        if let Some(process) = &mut self.process
            && !process.snapshots.jobs.is_empty()
        {
            process.snapshots.busy = true;
            wire.plan_in(took_ns + 1, Event::SnapshotRuns(name));
        }
    }
}
