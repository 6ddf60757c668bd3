//! What waits for the core thread: two lanes, one lock, and a system call only for a sleeper.
//!
//! A thread that is woken costs the waker a system call and the sleeper some 50 µs on a virtual
//! machine, more than a small step takes. So whoever puts something in wakes the core only if it
//! has said that it sleeps, and after it has let go of the lock that the core takes first.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Unbounded: what may be in it is bounded by who puts it there.
pub struct Mailbox<T> {
    lanes: Mutex<Lanes<T>>,
    arrived: Condvar,
}

/// Invariant: nothing is in it once it is closed.
struct Lanes<T> {
    urgent: VecDeque<T>,
    ordinary: VecDeque<T>,
    receiver_sleeps: bool,
    closed: bool,
}

/// Nobody will take anything any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl<T> Mailbox<T> {
    pub fn new() -> Self {
        let lanes = Lanes {
            urgent: VecDeque::new(),
            ordinary: VecDeque::new(),
            receiver_sleeps: false,
            closed: false,
        };
        Self {
            lanes: Mutex::new(lanes),
            arrived: Condvar::new(),
        }
    }

    /// Puts something at the end of the ordinary lane.
    ///
    /// # Errors
    /// [`Closed`] once the receiver has gone; what was to be sent is dropped.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        self.put(item, |lanes| &mut lanes.ordinary)
    }

    /// The same, on the lane that overtakes.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_urgent(&self, item: T) -> Result<(), Closed> {
        self.put(item, |lanes| &mut lanes.urgent)
    }

    /// Moves what is there to the ends of `urgent` and `ordinary`. If there is nothing, it waits up
    /// to `timeout` for something, and may come back early without.
    pub fn take(&self, urgent: &mut VecDeque<T>, ordinary: &mut VecDeque<T>, timeout: Duration) {
        let mut lanes = self.lock();
        if lanes.urgent.is_empty() && lanes.ordinary.is_empty() && !timeout.is_zero() {
            lanes.receiver_sleeps = true;
            let woken = self.arrived.wait_timeout(lanes, timeout);
            (lanes, _) = woken.unwrap_or_else(PoisonError::into_inner);
            lanes.receiver_sleeps = false;
        }
        move_all(&mut lanes.urgent, urgent);
        move_all(&mut lanes.ordinary, ordinary);
    }

    pub fn is_empty(&self) -> bool {
        let lanes = self.lock();
        lanes.urgent.is_empty() && lanes.ordinary.is_empty()
    }

    /// The receiver goes; what nobody has taken is dropped.
    pub fn close(&self) {
        let mut lanes = self.lock();
        lanes.closed = true;
        let left = (
            std::mem::take(&mut lanes.urgent),
            std::mem::take(&mut lanes.ordinary),
        );
        drop(lanes);
        // Whatever that sets off may send.
        drop(left);
    }

    fn put(
        &self,
        item: T,
        lane: impl FnOnce(&mut Lanes<T>) -> &mut VecDeque<T>,
    ) -> Result<(), Closed> {
        let mut lanes = self.lock();
        if lanes.closed {
            return Err(Closed);
        }
        lane(&mut lanes).push_back(item);
        let wake = std::mem::take(&mut lanes.receiver_sleeps);
        drop(lanes);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Lanes<T>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// O(1) where nothing is left from before.
fn move_all<T>(from: &mut VecDeque<T>, to: &mut VecDeque<T>) {
    if to.is_empty() {
        std::mem::swap(from, to);
    } else {
        to.append(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn taken(mailbox: &Mailbox<u32>, timeout: Duration) -> (Vec<u32>, Vec<u32>) {
        let (mut urgent, mut ordinary) = (VecDeque::new(), VecDeque::new());
        mailbox.take(&mut urgent, &mut ordinary, timeout);
        (urgent.into(), ordinary.into())
    }

    #[test]
    fn each_lane_keeps_its_order_and_its_rest() {
        let mailbox = Mailbox::new();
        for item in 0..3 {
            mailbox.send(item).unwrap();
            mailbox.send_urgent(10 + item).unwrap();
        }
        let (mut urgent, mut ordinary) = ([9].into(), [8].into());
        mailbox.take(&mut urgent, &mut ordinary, Duration::ZERO);
        assert_eq!(urgent, [9, 10, 11, 12]);
        assert_eq!(ordinary, [8, 0, 1, 2]);
        assert!(mailbox.is_empty());
        assert_eq!(taken(&mailbox, Duration::from_micros(1)), (vec![], vec![]));
    }

    /// Every item of several senders arrives, however sender and sleeper meet.
    #[test]
    fn nobody_sleeps_on_what_has_arrived() {
        const EACH: usize = 20_000;
        let mailbox = Arc::new(Mailbox::new());
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || (0..EACH).for_each(|_| mailbox.send(1).unwrap()))
            })
            .collect();
        let mut got = 0;
        while got < 3 * EACH {
            let (_, more) = taken(&mailbox, Duration::from_secs(60));
            assert!(!more.is_empty(), "woken by nothing, or not woken at all");
            got += more.len();
        }
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn what_nobody_takes_is_dropped_and_nothing_follows() {
        let mailbox = Mailbox::new();
        let item = Arc::new(());
        mailbox.send(item.clone()).unwrap();
        mailbox.close();
        assert_eq!(Arc::strong_count(&item), 1);
        assert_eq!(mailbox.send(item.clone()), Err(Closed));
        assert_eq!(mailbox.send_urgent(item.clone()), Err(Closed));
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
