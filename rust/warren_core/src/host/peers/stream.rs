//! What a connection is made of. TCP as it is; a transport that encrypts wraps the same socket.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::raft::Lane;

/// A peer that takes nothing for so long is disconnected: a write, or the kernel's own resends.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
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
}

/// How connections are made.
pub trait Transport: Send + Sync {
    /// Connects to `host:port` within `timeout`, a name's lookup aside.
    fn dial(&self, address: &str, lane: Lane, timeout: Duration)
    -> io::Result<Box<dyn Connection>>;

    /// Takes an accepted socket; may take several round trips, each bounded by the socket's timeout.
    fn accept(&self, socket: TcpStream) -> io::Result<Box<dyn Connection>>;
}

/// TCP without encryption.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Transport for Plain {
    fn dial(
        &self,
        address: &str,
        lane: Lane,
        timeout: Duration,
    ) -> io::Result<Box<dyn Connection>> {
        let socket = dial(address, timeout)?;
        prepare(&socket)?;
        prioritise(&socket, lane)?;
        Ok(Box::new(socket))
    }

    fn accept(&self, socket: TcpStream) -> io::Result<Box<dyn Connection>> {
        prepare(&socket)?;
        Ok(Box::new(socket))
    }
}

impl Connection for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn is_closed(&mut self) -> bool {
        let mut socket = [PollFd::new(self, PollFlags::IN | PollFlags::RDHUP)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Nothing is ever written to this side, so whatever there is to read is an end.
        poll(&mut socket, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }
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

fn prepare(socket: &TcpStream) -> io::Result<()> {
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
