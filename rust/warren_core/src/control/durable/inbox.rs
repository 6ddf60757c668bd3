//! Snapshots on their way in from another member.

use super::super::{Identity, Input, SnapshotStep, SnapshotWrite};
use super::Snapshots;
use super::snapshots::Incoming;
use crate::error::Error;
use crate::raft::Position;

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
                let result = self.chunk(at, offset, &bytes);
                Some(Input::SnapshotWritten { at, result })
            }
            SnapshotStep::Finish => {
                let finished = self.finish(at);
                let loaded = finished.and_then(|()| snapshots.load(at, identity));
                let result = loaded.map(Box::new);
                if result.is_err() {
                    // What came over is not a snapshot: the next transfer begins anew.
                    let _ = snapshots.remove(at);
                }
                Some(Input::SnapshotLoaded { at, result })
            }
            SnapshotStep::Abandon => {
                self.current = None;
                let _ = snapshots.abandon(at);
                None
            }
        }
    }

    fn begin(&mut self, snapshots: &Snapshots, at: Position, total: u64) -> Result<u64, Error> {
        self.current = None;
        let incoming = snapshots.incoming(at, total)?;
        let held = incoming.held_bytes();
        self.current = Some((at, incoming));
        Ok(held)
    }

    fn chunk(&mut self, at: Position, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
        self.of(at)?.write_at(offset, bytes)
    }

    fn finish(&mut self, at: Position) -> Result<(), Error> {
        self.of(at)?;
        match self.current.take() {
            Some((_, incoming)) => incoming.finish(),
            None => Ok(()),
        }
    }

    fn of(&mut self, at: Position) -> Result<&mut Incoming, Error> {
        let current = self.current.as_mut().filter(|(of, _)| *of == at);
        current.map(|(_, incoming)| incoming).ok_or(Error::Invalid {
            what: "snapshot",
            why: "it was not begun".into(),
        })
    }
}
