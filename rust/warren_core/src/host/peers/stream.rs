//! What a connection is made of. TCP as it is; a transport that encrypts wraps the same socket.
//! What goes wrong is told in words: a connection that cannot be made is for a person to mend.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::ids::NodeId;
use crate::raft::Lane;

/// A peer that takes nothing for so long is disconnected: a write, or the kernel's own resends.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked after this, and given up after three more seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_PROBES: u32 = 3;
/// Kernel buffers of the bulk lane: as little as a fast network needs, so that what is urgent finds
/// the wire nearly free.
const BULK_BUFFER_BYTES: usize = 256 << 10;

/// One direction of one lane: the dialler writes, the acceptor reads.
pub trait Connection: Read + Write + Send {
    /// The socket underneath, to be shut down from another thread.
    fn socket(&self) -> &TcpStream;

    /// Whether the other side has closed: asked by the dialler, to whom nobody writes.
    fn is_closed(&mut self) -> bool;

    /// Whose the other side is, where the transport has found that out.
    fn node(&self) -> Option<NodeId>;
}

/// Whom to dial.
pub struct Target<'a> {
    /// `host:port`.
    pub address: &'a str,
    pub lane: Lane,
    /// The node that has to answer there, where that is known.
    pub node: Option<NodeId>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Failure {
    /// The other side is not who it should be, or takes this one for such: a clause whose `it` is
    /// the other side, for the log.
    Refused(String),
    /// It did not get so far.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// How connections are made.
pub trait Transport: Send + Sync {
    /// Connects, each of the network's and the transport's own greeting within `timeout`; a name's
    /// lookup comes on top.
    fn dial(&self, to: &Target<'_>, timeout: Duration) -> Result<Box<dyn Connection>, Failure>;

    /// Takes an accepted socket; all that the transport has to say to the other side is said within
    /// `timeout`, however slowly it answers.
    fn accept(&self, socket: TcpStream, timeout: Duration) -> Result<Box<dyn Connection>, Failure>;
}

/// TCP without encryption, and without any proof of who is there: for tests and benches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Transport for Plain {
    fn dial(&self, to: &Target<'_>, timeout: Duration) -> Result<Box<dyn Connection>, Failure> {
        Ok(Box::new(connect(to, timeout)?))
    }

    fn accept(&self, socket: TcpStream, _: Duration) -> Result<Box<dyn Connection>, Failure> {
        prepare(&socket)?;
        Ok(Box::new(socket))
    }
}

impl Connection for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn is_closed(&mut self) -> bool {
        // Nothing is ever written to this side, so whatever there is to read is an end.
        has_input(self)
    }

    fn node(&self) -> Option<NodeId> {
        None
    }
}

/// Whether a read would return at once, if only to say that the other side has closed.
pub fn has_input(socket: &TcpStream) -> bool {
    let mut socket = [PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut socket, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// A socket to `to`, set up for its lane.
pub fn connect(to: &Target<'_>, timeout: Duration) -> io::Result<TcpStream> {
    let socket = dial(to.address, timeout)?;
    prepare(&socket)?;
    prioritise(&socket, to.lane)?;
    Ok(socket)
}

fn dial(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            // TCP lets a socket meet itself when nobody listens and the kernel picks the very port
            // that it dials as its own.
            Ok(socket) if socket.local_addr()? == address => {
                failure = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Every connection's timeouts.
pub fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(socket, WRITE_TIMEOUT.as_millis() as u32)?;
    Ok(())
}

/// Type of service as in RFC 1349: Linux's queues send low delay first and throughput last.
fn prioritise(socket: &TcpStream, lane: Lane) -> io::Result<()> {
    const LOW_DELAY: u8 = 0x10;
    const THROUGHPUT: u8 = 0x08;
    let service = match lane {
        Lane::Urgent => LOW_DELAY,
        Lane::Log => 0,
        Lane::Bulk => THROUGHPUT,
    };
    if socket.peer_addr()?.is_ipv4() {
        sockopt::set_ip_tos(socket, service)?;
    } else {
        sockopt::set_ipv6_tclass(socket, u32::from(service))?;
    }
    if lane == Lane::Bulk {
        sockopt::set_socket_send_buffer_size(socket, BULK_BUFFER_BYTES)?;
    }
    Ok(())
}
