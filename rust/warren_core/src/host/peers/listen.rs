//! What comes in: connections are accepted, frames read and handed on.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::counters::{Counters, Refused};
use super::nodes::Nodes;
use super::reports::{About, Reports};
use super::stream::{Connection, Failure, Transport};
use super::wire::{self, Refusal};
use super::{LANES, fatal};
use crate::control::peer::frame;
use crate::error::Error;
use crate::host::clock;
use crate::raft::Lane;

/// Connections open at a time: more than twice what seven managers need. Beyond it, the one that
/// has been silent for longest is closed; first of those that have not said what they are, so that
/// strangers make room for each other before any member has to.
const CONNECTIONS_MAX: usize = 64;
/// Frames of one connection that the core has not taken; then the sender waits.
const UNTAKEN_FRAMES_MAX: usize = 256;
const UNTAKEN_BYTES_MAX: usize = 8 << 20;
const READ_BUFFER_BYTES: usize = 128 << 10;
/// A connection proves who it is within this, and then says within this again what it is for.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failure to accept that another attempt at once would only repeat: no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes a frame; called from the thread of its connection.
pub type Deliver = Arc<dyn Fn(Lane, Received) + Send + Sync>;

/// A frame, and the room that it takes in its connection's share until this is dropped.
pub struct Received {
    frame: Vec<u8>,
    frame_bytes: usize,
    share: Arc<Share>,
}

impl Received {
    /// The frame; its room is free for another.
    pub fn into_frame(mut self) -> Vec<u8> {
        std::mem::take(&mut self.frame)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.share.give_back(self.frame_bytes);
    }
}

/// How much of one connection waits in the core's queue.
#[derive(Default)]
struct Share {
    untaken: Mutex<Untaken>,
    taken: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct Untaken {
    frames: usize,
    bytes: usize,
    reader_waits: bool,
}

impl Share {
    /// Waits until there is room for a frame; false if the connection is closed meanwhile.
    fn take(&self, bytes: usize) -> bool {
        let mut untaken = self.lock();
        while untaken.frames >= UNTAKEN_FRAMES_MAX
            || (untaken.frames > 0 && untaken.bytes + bytes > UNTAKEN_BYTES_MAX)
        {
            if self.closed.load(Relaxed) {
                return false;
            }
            untaken.reader_waits = true;
            untaken = self
                .taken
                .wait(untaken)
                .unwrap_or_else(PoisonError::into_inner);
        }
        untaken.frames += 1;
        untaken.bytes += bytes;
        true
    }

    fn give_back(&self, bytes: usize) {
        let mut untaken = self.lock();
        untaken.frames -= 1;
        untaken.bytes -= bytes;
        if std::mem::take(&mut untaken.reader_waits) {
            self.taken.notify_one();
        }
    }

    fn close(&self) {
        let _untaken = self.lock();
        self.closed.store(true, Relaxed);
        self.taken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Untaken> {
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all connections have in common.
#[derive(Clone)]
pub struct Common {
    /// How they are made.
    pub transport: Arc<dyn Transport>,
    /// What they do is counted here,
    pub counters: Arc<Counters>,
    /// and what goes wrong with them is told here.
    pub reports: Arc<Reports>,
    /// Who may speak for whom.
    pub nodes: Arc<Nodes>,
    /// Takes what comes in.
    pub deliver: Deliver,
    /// Nanoseconds of a monotonic clock, by which what waits grows old.
    pub now_ns: fn() -> u64,
}

/// The thread that accepts.
pub struct Listener {
    socket: Arc<TcpListener>,
    open: Arc<Open>,
    thread: JoinHandle<()>,
}

/// The connections that are being read.
#[derive(Default)]
struct Open {
    connections: Mutex<Connections>,
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    closing: bool,
    next: u64,
    by_number: BTreeMap<u64, Accepted>,
}

struct Accepted {
    socket: TcpStream,
    share: Arc<Share>,
    heard: Arc<Heard>,
}

/// What is known of a connection.
struct Heard {
    last_ns: AtomicU64,
    /// It has proved who it is and said what it is for.
    greeted: AtomicBool,
}

impl Heard {
    /// Who goes first when there is no more room.
    fn rank(&self) -> (bool, u64) {
        (self.greeted.load(Relaxed), self.last_ns.load(Relaxed))
    }
}

impl Accepted {
    fn close(&self) {
        // It may have broken already.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.share.close();
    }
}

impl Listener {
    pub fn start(socket: TcpListener, common: Common) -> Result<Self, Error> {
        let (socket, open) = (Arc::new(socket), Arc::new(Open::default()));
        let acceptor = Acceptor {
            socket: socket.clone(),
            open: open.clone(),
            common,
        };
        let thread = fatal::spawn("peer-listen", move || acceptor.run())?;
        Ok(Self {
            socket,
            open,
            thread,
        })
    }

    #[cfg(test)]
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Closes everything and waits for the threads.
    pub fn stop(self) {
        let mut connections = self.open.lock();
        connections.closing = true;
        connections.by_number.values().for_each(Accepted::close);
        // Wakes the thread that accepts (Linux).
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        while !connections.by_number.is_empty() {
            let ended = self.open.ended.wait(connections);
            connections = ended.unwrap_or_else(PoisonError::into_inner);
        }
        drop(connections);
        // A panic has ended the process already.
        let _ = self.thread.join();
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Acceptor {
    socket: Arc<TcpListener>,
    open: Arc<Open>,
    common: Common,
}

impl Acceptor {
    fn run(self) {
        loop {
            let accepted = self.socket.accept();
            if self.open.lock().closing {
                return;
            }
            match accepted {
                Ok((socket, from)) => self.admit(socket, from.ip()),
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    fn admit(&self, socket: TcpStream, from: IpAddr) {
        self.common.counters.accepted();
        let Ok(handle) = socket.try_clone() else {
            return;
        };
        let share = Arc::default();
        let heard = Arc::new(Heard {
            last_ns: AtomicU64::new(clock::mono_ns()),
            greeted: AtomicBool::new(false),
        });
        let mut connections = self.open.lock();
        // Asked again: whoever stops this has closed what there was, and would not know of another.
        // A connection left over takes frames that nobody reads, for as long as the process lives.
        if connections.closing {
            return;
        }
        if connections.by_number.len() >= CONNECTIONS_MAX {
            let silent = connections.by_number.values();
            if let Some(silent) = silent.min_by_key(|known| known.heard.rank()) {
                self.common.counters.refused(Refused::TooMany);
                silent.close();
            }
        }
        let number = connections.next;
        connections.next += 1;
        let accepted = Accepted {
            socket: handle,
            share: Arc::clone(&share),
            heard: heard.clone(),
        };
        connections.by_number.insert(number, accepted);
        drop(connections);
        let reader = Reader {
            number,
            from,
            open: self.open.clone(),
            common: self.common.clone(),
            share,
            heard,
        };
        if fatal::spawn("peer-read", move || reader.run(socket)).is_err() {
            // No threads to be had: the peer dials again, and meanwhile some may have ended.
            self.open.lock().by_number.remove(&number);
        }
    }
}

/// One accepted connection.
struct Reader {
    number: u64,
    from: IpAddr,
    open: Arc<Open>,
    common: Common,
    share: Arc<Share>,
    heard: Arc<Heard>,
}

impl Reader {
    fn run(self, socket: TcpStream) {
        match self.read(socket) {
            Refusal::NotOurs => self.refuse(Refused::NotOurs, || {
                "it does not speak as a member does; something else dials this port".to_owned()
            }),
            Refusal::Length => self.refuse(Refused::Length, || {
                "it sent a frame of no length, or too long a one; is its release a newer one?"
                    .into()
            }),
            Refusal::OtherNode(member) => self.refuse(Refused::OtherNode, || {
                let member = member.0;
                format!(
                    "it sent a frame in the name of member {member}, which belongs to another \
                     node than its certificate; see which daemon runs there, and on whose files"
                )
            }),
            Refusal::NotAuthenticated(why) => self.refuse(Refused::NotAuthenticated, || why),
            // Connections end.
            Refusal::Ended => {}
        }
        self.open.lock().by_number.remove(&self.number);
        self.open.ended.notify_all();
    }

    fn refuse(&self, kind: Refused, why: impl FnOnce() -> String) {
        self.common.counters.refused(kind);
        let why = format!("a connection from {} is refused: {}", self.from, why());
        self.common.reports.trouble(About::Accept(self.from), why);
    }

    /// Reads until there is a reason not to.
    fn read(&self, socket: TcpStream) -> Refusal {
        let mut connection = match self.common.transport.accept(socket, PREAMBLE_TIMEOUT) {
            Ok(connection) => connection,
            Err(Failure::Refused(why)) => return Refusal::NotAuthenticated(why),
            Err(Failure::Broken(_)) => return Refusal::Ended,
        };
        let socket = connection.socket();
        if socket.set_read_timeout(Some(PREAMBLE_TIMEOUT)).is_err() {
            return Refusal::Ended;
        }
        let lane = match wire::read_preamble(&mut connection) {
            Ok(lane) => lane,
            Err(refusal) => return refusal,
        };
        self.heard.greeted.store(true, Relaxed);
        let known = About::Accept(self.from);
        let again = || format!("a member connects from {} again", self.from);
        self.common.reports.over(known, again);
        // A lane may be silent for long; keep-alives find out whether the other side is there.
        if connection.socket().set_read_timeout(None).is_err() {
            return Refusal::Ended;
        }
        self.read_frames(lane, connection)
    }

    fn read_frames(&self, lane: Lane, connection: Box<dyn Connection>) -> Refusal {
        let node = connection.node();
        let mut from = BufReader::with_capacity(READ_BUFFER_BYTES, connection);
        loop {
            let frame = match wire::read_frame(&mut from) {
                Ok(frame) => frame,
                Err(refusal) => return refusal,
            };
            if let Some(member) = frame::sender(&frame)
                && self.common.nodes.is_another(member, node)
            {
                return Refusal::OtherNode(member);
            }
            self.heard.last_ns.store(clock::mono_ns(), Relaxed);
            self.common.counters.received(lane, frame.len());
            if !self.share.take(frame.len()) {
                return Refusal::Ended;
            }
            let received = Received {
                frame_bytes: frame.len(),
                frame,
                share: self.share.clone(),
            };
            (self.common.deliver)(lane, received);
        }
    }
}

const _: () = assert!(LANES.len() * 2 * 6 < CONNECTIONS_MAX);
