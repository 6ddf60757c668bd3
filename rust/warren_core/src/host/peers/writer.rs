//! One lane to one peer: connect, write, connect again.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::nodes::Nodes;
use super::outbox::{Outbox, Queued};
use super::reports::{About, Reports};
use super::stream::{Connection, Failure, Target, Transport};
use super::wire;
use crate::ids::MemberId;
use crate::raft::Lane;

const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts: doubled from the first to the second, less up to a half of it at random.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How often an idle connection is looked after.
const IDLE: Duration = Duration::from_secs(1);
/// Bulk gives way to everything else, also for the processor.
const BULK_NICENESS: i32 = 10;

pub struct Writer {
    pub member: MemberId,
    pub address: String,
    pub lane: Lane,
    pub outbox: Arc<Outbox>,
    pub transport: Arc<dyn Transport>,
    pub nodes: Arc<Nodes>,
    pub reports: Arc<Reports>,
    pub now_ns: fn() -> u64,
    pub seed: u64,
    /// Taken from the queue for a connection that was found to be closed.
    pub unsent: Vec<Queued>,
}

impl Writer {
    pub fn run(mut self) {
        if self.lane == Lane::Bulk {
            // For this thread alone. Without the right to it, bulk is merely less polite.
            let _ = rustix::process::setpriority_process(None, BULK_NICENESS);
        }
        let mut pause = PAUSE_MIN;
        while !self.outbox.is_closed() {
            let carried = match self.dial() {
                Some(mut connection) => self.write_all(connection.as_mut()),
                None => false,
            };
            let counters = &self.outbox.counters;
            counters.connected.store(false, Relaxed);
            if carried {
                pause = PAUSE_MIN;
            } else {
                counters.dial_failures.fetch_add(1, Relaxed);
            }
            let wait = self.jittered(pause);
            if !self.outbox.pause(wait) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn dial(&self) -> Option<Box<dyn Connection>> {
        let to = Target {
            address: &self.address,
            lane: self.lane,
            node: self.nodes.of(self.member),
        };
        let (about, whom) = (
            About::Dial(self.member),
            format!("member {} at {}", self.member.0, self.address),
        );
        let why = match self.transport.dial(&to, DIAL_TIMEOUT) {
            Ok(connection) => {
                self.reports
                    .over(about, || format!("{whom} is reached again"));
                return Some(connection);
            }
            Err(Failure::Refused(why)) => why,
            Err(Failure::Broken(error)) => format!(
                "{error}; see that the daemon there is up and that the network lets it be reached"
            ),
        };
        // It is not a trouble any more when nobody is to be reached.
        if !self.outbox.is_closed() {
            self.reports
                .trouble(about, format!("{whom} is not reached: {why}"));
        }
        None
    }

    /// Writes until the connection breaks or the queue is closed; whether anything got through.
    fn write_all(&mut self, connection: &mut dyn Connection) -> bool {
        let Ok(socket) = connection.socket().try_clone() else {
            return false;
        };
        let mut carried = false;
        let mut batch = std::mem::take(&mut self.unsent);
        let mut usable = self.outbox.connected(Some(socket))
            && connection.write_all(&wire::preamble(self.lane)).is_ok();
        while usable {
            if batch.is_empty() && !self.outbox.take(&mut batch, IDLE) {
                break;
            }
            self.outbox.drop_expired((self.now_ns)(), &mut batch);
            // Asked first: the first write to a peer that has restarted would seem to succeed, and
            // whom the member belongs to may have become known since it was dialled.
            usable =
                !connection.is_closed() && !self.nodes.is_another(self.member, connection.node());
            if !usable {
                break;
            }
            usable = self.write(connection, &batch).is_ok();
            carried |= usable && !batch.is_empty();
            if !usable {
                self.outbox.counters.lost(batch.len());
            }
            batch.clear();
        }
        // Nothing of it was written: the next connection begins with it.
        self.unsent = batch;
        self.outbox.connected(None);
        carried
    }

    fn write(&self, connection: &mut dyn Connection, batch: &[Queued]) -> io::Result<()> {
        let frames = batch.iter().map(|queued| &queued.bytes);
        let bytes: usize = frames.clone().map(Vec::len).sum();
        let mut slices: Vec<IoSlice<'_>> = frames.map(|frame| IoSlice::new(frame)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match connection.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        connection.flush()?;
        let counters = &self.outbox.counters;
        counters.sent_frames.fetch_add(batch.len() as u64, Relaxed);
        counters.sent_bytes.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }

    /// Between a half and the whole of `pause`.
    fn jittered(&mut self, pause: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014): the next of a seeded sequence.
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let half_ns = pause.as_nanos() as u64 / 2;
        Duration::from_nanos(half_ns + mixed % half_ns.max(1))
    }
}
