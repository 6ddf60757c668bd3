//! Snapshots on their way in from another member.

use super::super::{Identity, Input, SnapshotStep, SnapshotWrite};
use super::Snapshots;
use crate::error::Error;
use crate::fsm::State;
use crate::mutant::{self, Mutant};
use crate::raft::{ConfState, Position};
use crate::wal::snapshots::Incoming;

/// The one snapshot that is coming in. Steps are performed in the order in which they came out.
#[derive(Default)]
pub struct Inbox {
    current: Option<(Position, Incoming)>,
}

impl Inbox {
    /// Performs a step; the answer that it calls for.
    pub fn perform(
        &mut self,
        snapshots: &Snapshots,
        identity: &Identity,
        write: SnapshotWrite,
    ) -> Option<Input> {
        let SnapshotWrite { at, step } = write;
        match step {
            SnapshotStep::Begin { total_bytes } => {
                let result = self.begin(snapshots, at, total_bytes);
                Some(Input::SnapshotWritten { at, result })
            }
            SnapshotStep::Chunk { offset, bytes } => {
                let result = self.chunk(snapshots, at, offset, &bytes);
                Some(Input::SnapshotWritten { at, result })
            }
            SnapshotStep::Finish => {
                let result = self.finish(snapshots, at, identity).map(Box::new);
                Some(Input::SnapshotLoaded { at, result })
            }
            SnapshotStep::Abandon => {
                self.current = None;
                // What cannot be removed is removed when the next one begins.
                let _ = snapshots.abandon(at);
                None
            }
        }
    }

    fn begin(&mut self, snapshots: &Snapshots, at: Position, total: u64) -> Result<u64, Error> {
        self.current = None;
        let mut incoming = snapshots.incoming(at)?;
        if incoming.held_bytes() > total {
            // What an earlier attempt left is not a part of this one.
            drop(incoming);
            snapshots.abandon(at)?;
            incoming = snapshots.incoming(at)?;
        }
        let held = incoming.held_bytes();
        self.current = Some((at, incoming));
        Ok(held)
    }

    fn chunk(
        &mut self,
        snapshots: &Snapshots,
        at: Position,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, Error> {
        let written = self.of(at)?.write_at(offset, bytes);
        written.map_err(|error| snapshots.refused(error))
    }

    /// Checked, then durable under its name: what is not a snapshot never gets one.
    fn finish(
        &mut self,
        snapshots: &Snapshots,
        at: Position,
        identity: &Identity,
    ) -> Result<(State, ConfState), Error> {
        let reader = self.of(at)?.reader();
        let reader = reader.map_err(|error| snapshots.refused(error))?;
        let loaded = snapshots.check(reader, at, identity)?;
        let bound = loaded.0.member(identity.member);
        if bound.is_some_and(|bound| bound.data_dir != identity.data_dir)
            && !mutant::is_on(Mutant::AcceptsAnotherDataDir)
        {
            // What it had voted for is lost with the other one: it must not begin with this, alone if
            // the configuration is an old one.
            let member = identity.member.0;
            return Err(Error::WrongDataDir { member });
        }
        if let Some((_, incoming)) = self.current.take()
            && !mutant::is_on(Mutant::InstallsBeforeDurable)
        {
            let finished = incoming.finish();
            finished.map_err(|error| snapshots.refused(error))?;
            // Only leaders send, and this one has just received.
            snapshots.prune(&[])?;
        }
        Ok(loaded)
    }

    fn of(&mut self, at: Position) -> Result<&mut Incoming, Error> {
        let current = self.current.as_mut().filter(|(of, _)| *of == at);
        current.map(|(_, incoming)| incoming).ok_or(Error::Invalid {
            what: "snapshot",
            why: "it was not begun".into(),
        })
    }
}
