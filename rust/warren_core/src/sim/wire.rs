//! What everybody in the world shares: the time, the queue, the network, and the record.

use super::coverage::{Coverage, Kind};
use super::network::{End, Network};
use super::queue::{Asked, Event, Failure, Process, Queue};
use super::random::Random;
use super::world::Pace;
use crate::control::CallId;
use crate::raft::Lane;

/// What the operating system and the runtime cost between two threads.
const HANDOVER_NS_MIN: u64 = 5_000;
const HANDOVER_NS_MEAN: u64 = 20_000;

/// Lanes of the network beside those of consensus.
const LANE_CALLS: u8 = 3;
const LANE_STREAMS: u8 = 4;

/// Takes the lines of a trace.
pub type Trace = Box<dyn FnMut(u64, &str)>;

pub struct Wire {
    pub now_ns: u64,
    pub queue: Queue,
    pub network: Network,
    pub coverage: Coverage,
    /// Machines that clients and workers have been told of.
    pub directory: Vec<End>,
    pub pace: Pace,
    /// A member's disk is lost, and nobody has taken its place yet: no other log may lose its end.
    pub a_disk_is_lost: bool,
    random: Random,
    trace: Option<Trace>,
}

impl Wire {
    pub fn new(seed: u64, pace: Pace, trace: Option<Trace>) -> Self {
        Self {
            now_ns: 0,
            queue: Queue::default(),
            network: Network::new(Random::stream(seed, "network", 0)),
            coverage: Coverage::default(),
            directory: Vec::new(),
            pace,
            a_disk_is_lost: false,
            random: Random::stream(seed, "scheduling", 0),
            trace,
        }
    }

    /// A line of the trace, made only where somebody reads it.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace(self.now_ns, &line());
        }
    }

    pub fn plan_in(&mut self, delay_ns: u64, event: Event) {
        self.queue.plan(self.now_ns + delay_ns, event);
    }

    /// As [`plan_in`](Self::plan_in), after what handing it to another thread takes.
    pub fn hand_over(&mut self, event: Event) {
        let delay_ns = HANDOVER_NS_MIN + self.random.wait(HANDOVER_NS_MEAN);
        self.plan_in(delay_ns, event);
    }

    /// A frame from one machine to another.
    pub fn send_frame(&mut self, from: End, to: End, lane: Lane, bytes: Vec<u8>) {
        let lane = lane as u8;
        let [first, again] = self
            .network
            .send(self.now_ns, (from, to), lane, &mut self.coverage);
        if let Some(at_ns) = again {
            let bytes = bytes.clone();
            self.queue.plan(at_ns, Event::Frame { from, to, bytes });
        }
        if let Some(at_ns) = first {
            self.queue.plan(at_ns, Event::Frame { from, to, bytes });
        }
    }

    /// A request to a machine; false if it gets lost, which only the ends of a connection notice.
    pub fn ask(&mut self, to: End, asked: Asked) -> bool {
        let arrives = self.carries(asked.from, to, LANE_CALLS);
        if let Some(at_ns) = arrives {
            self.queue.plan(at_ns, Event::Asked(to, Box::new(asked)));
        }
        arrives.is_some()
    }

    pub fn answer(&mut self, from: End, to: End, token: u64, result: Result<Vec<u8>, Failure>) {
        if let Some(at_ns) = self.carries(from, to, LANE_CALLS) {
            self.queue
                .plan(at_ns, Event::Answered { to, token, result });
        }
    }

    /// An item of a stream. A connection that loses one breaks, and both ends see that.
    pub fn send_item(
        &mut self,
        process: Process,
        call: CallId,
        (to, token): (End, u64),
        bytes: Vec<u8>,
    ) {
        match self.carries(process.machine, to, LANE_STREAMS) {
            Some(at_ns) => {
                let item = Event::Item {
                    process,
                    call,
                    to,
                    token,
                    bytes,
                };
                self.queue.plan(at_ns, item);
            }
            None => {
                let machine = process.machine;
                self.hand_over(Event::Cancel {
                    machine,
                    from: to,
                    token,
                });
                self.hand_over(Event::Answered {
                    to,
                    token,
                    result: Err(Failure::Broken),
                });
            }
        }
    }

    /// Tells a machine that nobody reads a stream any more; its own keepalive would, in time.
    pub fn cancel(&mut self, machine: End, from: End, token: u64) {
        self.hand_over(Event::Cancel {
            machine,
            from,
            token,
        });
    }

    /// When a message of a connection arrives, if it does.
    fn carries(&mut self, from: End, to: End, lane: u8) -> Option<u64> {
        self.network
            .stream(self.now_ns, (from, to), lane, &mut self.coverage)
    }

    pub fn note(&mut self, kind: Kind) {
        self.coverage.note(kind);
    }
}
