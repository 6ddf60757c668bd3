//! What waits to be written to one peer on one lane.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::counters::LaneCounters;
use crate::raft::Lane;

/// How long a frame of the log's lane may wait to be written. A request that was passed on is done
/// whenever it arrives: much later, whoever asked has long been told that nobody knows what became of
/// it, and it must not take effect any more. Raft repeats what else is there.
const LOG_AGE_NS_MAX: u64 = 5_000_000_000;

/// What a queue holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub frames: usize,
    pub bytes: usize,
    /// How long a frame may wait to be written; `None`: as long as it takes.
    pub age_ns: Option<u64>,
}

impl Limit {
    /// Urgent frames are a few hundred bytes and stale within a tick; appends are bounded by what
    /// Raft keeps in flight, a few megabytes; of a snapshot four chunks are under way.
    ///
    /// Only what is to be logged grows too old. What is urgent greets a peer that is back, after
    /// however long, and does no harm late: terms and ids tell. Bulk waits behind itself on a slow
    /// connection: without what waited long, it would be sent again for ever.
    pub fn of(lane: Lane) -> Self {
        match lane {
            Lane::Urgent => Self {
                frames: 1024,
                bytes: 1 << 20,
                age_ns: None,
            },
            Lane::Log => Self {
                frames: 4096,
                bytes: 32 << 20,
                age_ns: Some(LOG_AGE_NS_MAX),
            },
            Lane::Bulk => Self {
                frames: 64,
                bytes: 8 << 20,
                age_ns: None,
            },
        }
    }
}

/// Bytes handed to the writer at once.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A frame, and when it was queued.
pub struct Queued {
    pub bytes: Vec<u8>,
    since_ns: u64,
}

/// A queue that never refuses: it drops its oldest instead.
///
/// Invariants: `bytes` is the sum of the lengths in `frames`, and within `limit` unless there is
/// only one frame; nothing is queued once it is closed.
pub struct Outbox {
    limit: Limit,
    pub counters: Arc<LaneCounters>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    frames: VecDeque<Queued>,
    bytes: usize,
    writer_waits: bool,
    closed: bool,
    /// The connection in use, so that closing can interrupt a write.
    connection: Option<TcpStream>,
}

impl Outbox {
    pub fn new(lane: Lane, counters: Arc<LaneCounters>) -> Self {
        Self::with_limit(Limit::of(lane), counters)
    }

    fn with_limit(limit: Limit, counters: Arc<LaneCounters>) -> Self {
        Self {
            limit,
            counters,
            inner: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// `now_ns`: of a monotonic clock, the same as for [`Outbox::drop_expired`].
    pub fn push(&self, now_ns: u64, frame: Vec<u8>) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.bytes += frame.len();
        inner.frames.push_back(Queued {
            bytes: frame,
            since_ns: now_ns,
        });
        while inner.frames.len() > self.limit.frames
            || (inner.bytes > self.limit.bytes && inner.frames.len() > 1)
        {
            let dropped = inner
                .frames
                .pop_front()
                .map_or(0, |oldest| oldest.bytes.len());
            inner.bytes -= dropped;
            self.counters.queue_full.fetch_add(1, Relaxed);
        }
        self.counters.queued.store(inner.frames.len(), Relaxed);
        if std::mem::take(&mut inner.writer_waits) {
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Moves what is queued to `batch`, a megabyte at most. Waits up to `timeout` for something;
    /// false once the queue is closed.
    pub fn take(&self, batch: &mut Vec<Queued>, timeout: Duration) -> bool {
        let mut inner = self.lock();
        if inner.frames.is_empty() && !inner.closed {
            inner = self.wait(inner, timeout);
        }
        let mut taken_bytes = 0;
        while taken_bytes < BATCH_BYTES_MAX
            && let Some(frame) = inner.frames.pop_front()
        {
            taken_bytes += frame.bytes.len();
            batch.push(frame);
        }
        inner.bytes -= taken_bytes;
        self.counters.queued.store(inner.frames.len(), Relaxed);
        !inner.closed
    }

    /// Leaves in `batch` what has not waited for too long, and counts the others.
    pub fn drop_expired(&self, now_ns: u64, batch: &mut Vec<Queued>) {
        let Some(age_ns) = self.limit.age_ns else {
            return;
        };
        let before = batch.len();
        batch.retain(|queued| now_ns.saturating_sub(queued.since_ns) <= age_ns);
        let expired = before - batch.len();
        self.counters.expired.fetch_add(expired as u64, Relaxed);
    }

    /// Waits out `pause`, or until the queue is closed: then false. What is queued stays: a peer
    /// that is back needs the first words as much as the last.
    pub fn pause(&self, pause: Duration) -> bool {
        let inner = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(inner, pause, |inner| !inner.closed);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !inner.closed
    }

    /// The connection that a write may be waiting on; false if it is too late for one.
    pub fn connected(&self, connection: Option<TcpStream>) -> bool {
        let mut inner = self.lock();
        self.counters.connected.store(connection.is_some(), Relaxed);
        inner.connection = connection;
        !inner.closed
    }

    /// Nothing more is taken up, and whoever waits is told.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.frames.clear();
        inner.bytes = 0;
        if let Some(connection) = inner.connection.take() {
            // It may have broken already.
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(inner);
        self.changed.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn wait<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        timeout: Duration,
    ) -> MutexGuard<'a, Inner> {
        inner.writer_waits = true;
        let waited = self.changed.wait_timeout_while(inner, timeout, |inner| {
            inner.frames.is_empty() && !inner.closed
        });
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.writer_waits = false;
        inner
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(frames: usize, bytes: usize) -> Outbox {
        let limit = Limit {
            frames,
            bytes,
            age_ns: None,
        };
        Outbox::with_limit(limit, Arc::default())
    }

    fn taken(outbox: &Outbox) -> Vec<Vec<u8>> {
        let mut batch = Vec::new();
        assert!(outbox.take(&mut batch, Duration::ZERO));
        batch.into_iter().map(|queued| queued.bytes).collect()
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_it() {
        let few = outbox(3, 1000);
        (0..5).for_each(|n| few.push(0, vec![n; 10]));
        assert_eq!(taken(&few), [vec![2; 10], vec![3; 10], vec![4; 10]]);
        assert_eq!(few.counters.queue_full.load(Relaxed), 2);
        let small = outbox(1000, 25);
        (0..5).for_each(|n| small.push(0, vec![n; 10]));
        assert_eq!(taken(&small), [vec![3; 10], vec![4; 10]]);
        small.push(0, vec![9; 100]);
        assert_eq!(taken(&small), [vec![9; 100]], "a long one goes alone");
        assert_eq!(small.counters.queue_full.load(Relaxed), 3);
    }

    #[test]
    fn a_batch_is_bounded_and_order_is_kept() {
        let outbox = outbox(1000, usize::MAX);
        (0..5).for_each(|n| outbox.push(0, vec![n; BATCH_BYTES_MAX / 2]));
        let sizes = [taken(&outbox), taken(&outbox), taken(&outbox)];
        assert_eq!(sizes.each_ref().map(Vec::len), [2, 2, 1]);
        let order: Vec<u8> = sizes.concat().iter().map(|frame| frame[0]).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_queued_waits_for_a_connection() {
        let outbox = outbox(3, 1000);
        (0..4).for_each(|n| outbox.push(0, vec![n]));
        assert!(outbox.pause(Duration::ZERO));
        assert_eq!(taken(&outbox), [[1], [2], [3]]);
    }

    #[test]
    fn what_is_to_be_logged_is_not_written_late_and_the_rest_is() {
        for (lane, kept) in [(Lane::Urgent, 3), (Lane::Log, 2), (Lane::Bulk, 3)] {
            let outbox = Outbox::new(lane, Arc::default());
            for (frame, now_ns) in [(0, 6), (1, 7), (2, 7 + LOG_AGE_NS_MAX)] {
                outbox.push(now_ns, vec![frame]);
            }
            let mut batch = Vec::new();
            outbox.take(&mut batch, Duration::ZERO);
            outbox.drop_expired(7 + LOG_AGE_NS_MAX, &mut batch);
            let left: Vec<u8> = batch.iter().map(|queued| queued.bytes[0]).collect();
            assert_eq!(left, Vec::from_iter(3 - kept..3), "{lane:?}");
            let expired = outbox.counters.expired.load(Relaxed);
            assert_eq!(expired, 3 - u64::from(kept), "{lane:?}");
        }
    }

    #[test]
    fn closing_wakes_whoever_waits() {
        let outbox = Arc::new(outbox(10, 1000));
        let waiting = outbox.clone();
        let thread =
            std::thread::spawn(move || waiting.take(&mut Vec::new(), Duration::from_secs(60)));
        outbox.close();
        assert!(!thread.join().unwrap());
        assert!(!outbox.pause(Duration::from_secs(60)));
        outbox.push(0, vec![1]);
        let mut batch = Vec::new();
        assert!(!outbox.take(&mut batch, Duration::ZERO) && batch.is_empty());
    }
}
