//! The thread that touches snapshot files: writes those of this member, reads pieces of them for
//! others, and takes in those that come from others. And backups, which are the same but for whom
//! they are.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::mailbox::Mailbox;
use super::{Message, Shared, clock};
use prost::Message as _;

use crate::control::durable::{Inbox, Snapshots, backup};
use crate::control::{BackupJob, Identity, Input, SnapshotJob, SnapshotRead, SnapshotWrite};
use crate::raft::Position;
use crate::wal::FileDisk;

/// To the thread, in the order in which it is to be done.
pub enum Job {
    /// Whose snapshots these are; comes first.
    Belong(Identity),
    Take(Box<SnapshotJob>),
    Send(SnapshotRead),
    Receive(SnapshotWrite),
    /// These must stay.
    InUse(Vec<Position>),
    Backup(Box<BackupJob>),
}

/// What the thread works on.
pub struct Files {
    pub snapshots: Snapshots,
    pub jobs: Receiver<Job>,
    pub core: Arc<Mailbox<Message>>,
    pub shared: Arc<Shared>,
}

impl Files {
    pub fn run(self) {
        let mut inbox = Inbox::default();
        let (mut owner, mut in_use) = (None, Vec::new());
        for job in &self.jobs {
            match job {
                Job::Belong(identity) => {
                    owner = Some(identity);
                    self.measure();
                }
                Job::InUse(now) => in_use = now,
                Job::Take(job) => self.take(&job, &in_use),
                Job::Backup(job) => self.back_up(*job),
                Job::Send(read) => {
                    let (token, result) = (read.token, self.snapshots.read(&read));
                    self.tell(Input::SnapshotRead { token, result });
                }
                Job::Receive(write) => {
                    let identity = owner.as_ref().expect("a member knows who it is");
                    let answer = inbox.perform(&self.snapshots, identity, write);
                    if matches!(answer, Some(Input::SnapshotLoaded { result: Ok(_), .. })) {
                        self.measure();
                    }
                    answer.into_iter().for_each(|answer| self.tell(answer));
                }
            }
        }
    }

    fn take(&self, job: &SnapshotJob, in_use: &[Position]) {
        let started_ns = clock::mono_ns();
        let written = self.snapshots.write(job, in_use);
        let took_ns = clock::mono_ns() - started_ns;
        self.shared.metrics.snapshot(took_ns, written.is_ok());
        self.measure();
        self.tell(Input::Snapshotted(written.map(|_| job.at)));
    }

    /// Whoever made the newest, and in whatever run of the daemon.
    fn measure(&self) {
        if let Ok(bytes) = self.snapshots.newest_bytes() {
            self.shared.metrics.newest_snapshot(bytes);
        }
    }

    /// The call is answered with the header.
    fn back_up(&self, mut job: BackupJob) {
        job.header.time_ms = clock::now().wall_ms;
        let written = backup::write(&FileDisk, &job.file, &job);
        let answer = written.map(|_| job.header.encode_to_vec());
        self.shared.completions.reply(job.id, answer);
    }

    fn tell(&self, input: Input) {
        // A core that has gone needs no answer.
        let _ = self.core.send(Message::Input(input));
    }
}
