//! Members know each other by certificates: TLS 1.3 over the same sockets, both sides authenticated.
//!
//! A certificate counts if it chains to the cluster's CA, is valid now, is made for what it is used
//! for, and carries one identity ([`crate::identity`]): a manager's, of the same trust domain as this
//! member's own. Names and addresses of hosts play no part. The dialler asks besides that the other
//! side is the node it dials; the acceptor learns the node, and takes in that node's name only.
//!
//! After the handshake the acceptor says one byte, [`WELCOME`]. In TLS 1.3 the dialler is done before
//! the acceptor has seen its certificate: without the byte it would write its queue into a
//! connection that is about to be refused, and never learn why.
//!
//! Sessions are not resumed, since a resumed one checks no certificate. An established connection
//! lasts beyond the end of its certificates; they are judged when it is made. An end without TLS's
//! own good-bye is an end like any other: frames carry their length.

mod explain;
mod files;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod uris;
mod verify;

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection as Session, ServerConnection};

pub use files::TlsFiles;

use super::reports::Reports;
use super::stream::{self, Connection, Failure, Target, Transport};
use crate::error::Error;
use crate::ids::NodeId;
use explain::Side;
use files::Current;

/// What is spoken inside: who wants anything else has the wrong port.
const PROTOCOL: &[u8] = b"warren-peer/1";
/// The acceptor's first byte, once it has seen the dialler's certificate.
const WELCOME: u8 = 1;
/// For the dialler's part of the handshake: three round trips on a slow network, and short enough
/// that a shutdown can wait for it.
const DIAL_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Encrypted bytes taken from the kernel at once; the library by itself asks for 4 KiB.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// The dialler reads next to nothing.
const DIALLER_READ_BUFFER_BYTES: usize = 512;

/// Connections that both sides have proved themselves on.
pub struct Tls {
    current: Current,
}

impl Tls {
    /// Reads the certificate of `node` and its CA. From then on they are read anew when the files
    /// change; what cannot be used is reported, and the old ones stay in use.
    ///
    /// # Errors
    /// `DataDir` names the file, what is wrong with it, and what to do.
    pub fn open(files: TlsFiles, node: NodeId, reports: Arc<Reports>) -> Result<Self, Error> {
        let current = Current::open(files, node, reports)?;
        Ok(Self { current })
    }
}

impl Transport for Tls {
    fn dial(&self, to: &Target<'_>, timeout: Duration) -> Result<Box<dyn Connection>, Failure> {
        let socket = stream::connect(to, timeout)?;
        let loaded = self.current.get();
        let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
        let session = ClientConnection::new(loaded.client.clone(), name);
        let session = session.map_err(|error| io::Error::other(error.to_string()))?;
        let mut stream = Stream::new(session.into(), socket, DIALLER_READ_BUFFER_BYTES);
        let opened = stream.dialled(to.node, DIAL_HANDSHAKE_TIMEOUT);
        opened.map_err(|error| explain::failure(error, Side::Dialled))?;
        Ok(Box::new(stream))
    }

    fn accept(&self, socket: TcpStream, timeout: Duration) -> Result<Box<dyn Connection>, Failure> {
        stream::prepare(&socket)?;
        let session = ServerConnection::new(self.current.get().server.clone());
        let session = session.map_err(|error| io::Error::other(error.to_string()))?;
        let mut stream = Stream::new(session.into(), socket, READ_BUFFER_BYTES);
        let opened = stream.accepted(timeout);
        opened.map_err(|error| explain::failure(error, Side::Accepted))?;
        Ok(Box::new(stream))
    }
}

/// A connection of either side.
struct Stream {
    session: Session,
    from: BufReader<TcpStream>,
    node: Option<NodeId>,
}

impl Stream {
    fn new(session: Session, socket: TcpStream, read_buffer_bytes: usize) -> Self {
        Self {
            session,
            from: BufReader::with_capacity(read_buffer_bytes, socket),
            node: None,
        }
    }

    fn dialled(&mut self, wanted: Option<NodeId>, timeout: Duration) -> io::Result<()> {
        let until = Instant::now() + timeout;
        self.shake_hands(until)?;
        verify::is_node(self.node, wanted)?;
        let mut welcome = [0];
        while self.session.reader().read(&mut welcome).or_else(not_yet)? == 0 {
            self.receive(Some(until))?;
        }
        if welcome != [WELCOME] {
            return Err(explain::wrap(rustls::Error::NoApplicationProtocol));
        }
        self.with_timeouts()
    }

    fn accepted(&mut self, timeout: Duration) -> io::Result<()> {
        let until = Instant::now() + timeout;
        self.shake_hands(until)?;
        self.session.writer().write_all(&[WELCOME])?;
        self.send(Some(until))?;
        self.with_timeouts()
    }

    fn shake_hands(&mut self, until: Instant) -> io::Result<()> {
        while self.session.is_handshaking() {
            self.send(Some(until))?;
            if self.session.is_handshaking() {
                self.receive(Some(until))?;
            }
        }
        self.send(Some(until))?;
        if self.session.alpn_protocol() != Some(PROTOCOL) {
            return Err(explain::wrap(rustls::Error::NoApplicationProtocol));
        }
        // What is shown here has been verified; what is not a manager's was refused.
        let shown = self.session.peer_certificates().and_then(<[_]>::first);
        let shown = shown.ok_or_else(|| explain::wrap(rustls::Error::NoCertificatesPresented))?;
        let id = verify::identity(shown).map_err(|unfit| explain::wrap(unfit.into()))?;
        self.node = id.node();
        Ok(())
    }

    /// Whoever reads or writes from now on is bounded as on any other connection.
    fn with_timeouts(&self) -> io::Result<()> {
        self.socket().set_read_timeout(None)?;
        self.socket().set_write_timeout(Some(stream::WRITE_TIMEOUT))
    }

    /// Sends what the session has ready.
    fn send(&mut self, until: Option<Instant>) -> io::Result<()> {
        while self.session.wants_write() {
            let mut socket = self.from.get_ref();
            if let Some(until) = until {
                socket.set_write_timeout(Some(left(until)?))?;
            }
            self.session.write_tls(&mut socket).map_err(timed_out)?;
        }
        Ok(())
    }

    /// Takes in what has arrived, or waits for it.
    fn receive(&mut self, until: Option<Instant>) -> io::Result<()> {
        if let Some(until) = until {
            self.socket().set_read_timeout(Some(left(until)?))?;
        }
        let bytes = self.session.read_tls(&mut self.from).map_err(timed_out)?;
        if let Err(error) = self.session.process_new_packets() {
            // The other side is told, if it still listens.
            let _ = self.session.write_tls(&mut self.from.get_ref());
            return Err(explain::wrap(error));
        }
        if bytes == 0 && until.is_some() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read_or_ended => return read_or_ended,
            }
            // The other side may have asked to renew keys.
            self.send(None)?;
            self.receive(None)?;
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        // What the session holds is bounded: it takes more only when this has gone.
        self.send(None)?;
        self.session.writer().write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send(None)
    }
}

impl Connection for Stream {
    fn socket(&self) -> &TcpStream {
        self.from.get_ref()
    }

    fn is_closed(&mut self) -> bool {
        // All that the other side may say is its part of a renewal of keys.
        while !self.from.buffer().is_empty() || stream::has_input(self.socket()) {
            match self.session.read_tls(&mut self.from) {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
            match self.session.process_new_packets() {
                Ok(now) if now.plaintext_bytes_to_read() == 0 && !now.peer_has_closed() => {}
                _ => return true,
            }
        }
        false
    }

    fn node(&self) -> Option<NodeId> {
        self.node
    }
}

fn not_yet(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(0),
        _ => Err(error),
    }
}

/// A blocking socket says that it would block when its time is over.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}
