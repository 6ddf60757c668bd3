//! Over the loopback interface, with real sockets and real certificates.

mod cost;
mod refusals;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::counters::{Counters, Refused};
use super::super::{Common, LANES, Peers, Received, Reports, listen, wire};
use super::testing::{Authority, Issued, Leaf, paths, write};
use super::*;
use crate::control::peer::frame::{self, Header, Kind};
use crate::control::{self, Identity, LogLine};
use crate::ids::{ClusterId, MemberId};
use crate::pb;
use crate::raft::Lane;

const ONE: MemberId = MemberId(1);
const TWO: MemberId = MemberId(2);
const DEADLINE: Duration = Duration::from_secs(20);

/// The node of a member.
fn node(member: MemberId) -> NodeId {
    NodeId([member.0 as u8; 16])
}

/// Removed with everything in it when dropped.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("warren-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> TlsFiles {
        let [ca, cert, key] = paths(&self.0);
        TlsFiles { ca, cert, key }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Lines = Arc<Mutex<VecDeque<String>>>;

/// A member's connections, what came in and what it logged.
struct Member {
    peers: Peers,
    counters: Arc<Counters>,
    frames: Receiver<(Lane, Received)>,
    lines: Lines,
    dir: TempDir,
}

impl Member {
    fn start(id: MemberId, authority: &Authority) -> Self {
        Self::with(id, &authority.pem, &authority.manager(node(id).0))
    }

    /// What the files say is not looked at before others do so.
    fn with(id: MemberId, ca: &str, issued: &Issued) -> Self {
        let dir = TempDir::new();
        write(&dir.0, ca, issued);
        let (reports, lines) = reports();
        let transport = Tls::open(dir.files(), node(id), reports.clone()).unwrap();
        Self::over(Arc::new(transport), dir, reports, lines)
    }

    fn over(
        transport: Arc<dyn Transport>,
        dir: TempDir,
        reports: Arc<Reports>,
        lines: Lines,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        let (sender, frames) = mpsc::channel();
        let deliver: listen::Deliver = Arc::new(move |lane, received| {
            let _ = sender.send((lane, received));
        });
        let common = Common {
            transport,
            counters: counters.clone(),
            nodes: Arc::default(),
            reports,
            deliver,
            now_ns: || 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = Peers::start(listener, common, 7).unwrap();
        Self {
            peers,
            counters,
            frames,
            lines,
            dir,
        }
    }

    fn address(&self) -> SocketAddr {
        self.peers.local_addr().unwrap()
    }

    fn knows(&mut self, member: MemberId, address: SocketAddr, node: Option<NodeId>) {
        let address = address.to_string();
        let peer = control::Peer {
            member,
            address,
            node,
        };
        self.peers.set(vec![peer]).unwrap();
    }

    fn next(&self) -> (Lane, Vec<u8>) {
        let (lane, received) = self.frames.recv_timeout(DEADLINE).expect("a frame comes");
        (lane, received.into_frame())
    }

    /// Waits for a line with `part` in it.
    fn logs(&self, part: &str) -> String {
        let mut found = None;
        until(part, || {
            let lines = self.lines.lock().unwrap();
            found = lines.iter().find(|line| line.contains(part)).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    fn count(&self, part: &str) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(part)).count()
    }
}

fn reports() -> (Arc<Reports>, Lines) {
    let lines = Lines::default();
    let taking = lines.clone();
    let sink = move |line: &LogLine| taking.lock().unwrap().push_back(line.message.clone());
    (Arc::new(Reports::new(Arc::new(sink))), lines)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn frame_of(from: MemberId, lane: Lane, context: u64) -> Vec<u8> {
    let identity = Identity {
        cluster: ClusterId([7; 16]),
        epoch: 1,
        member: from,
        data_dir: [9; 16],
    };
    let header = Header::of(&identity, TWO, 1, lane, Kind::ReadAsk);
    frame::encode(
        &header,
        &pb::PeerReadAsk {
            context,
            used_by: vec![],
        },
    )
}

/// One dials two; both know which nodes they are on.
fn pair(authority: &Authority) -> (Member, Member) {
    let mut two = Member::start(TWO, authority);
    let mut one = Member::start(ONE, authority);
    one.knows(TWO, two.address(), Some(node(TWO)));
    two.knows(ONE, one.address(), Some(node(ONE)));
    (one, two)
}

fn is_heard(one: &Member, two: &Member) {
    for lane in LANES {
        let sent = frame_of(ONE, lane, 5);
        one.peers.send(TWO, lane, sent.clone());
        assert_eq!(two.next(), (lane, sent));
    }
}

#[test]
fn frames_flow_on_all_lanes_in_both_directions() {
    let (one, two) = pair(&Authority::new("c"));
    let long = vec![7; 200_000];
    for context in 0..50 {
        for lane in LANES {
            one.peers.send(TWO, lane, frame_of(ONE, lane, context));
        }
    }
    let mut seen = [0; LANES.len()];
    for _ in 0..50 * LANES.len() {
        let (lane, received) = two.next();
        assert_eq!(received, frame_of(ONE, lane, seen[lane as usize]));
        seen[lane as usize] += 1;
    }
    two.peers.send(ONE, Lane::Log, frame_of(TWO, Lane::Log, 1));
    assert_eq!(one.next().1, frame_of(TWO, Lane::Log, 1));
    // Longer than a record, and than what the library holds.
    let mut frame = ((long.len() + 72) as u32).to_le_bytes().to_vec();
    frame.resize(80, 0);
    frame.extend(&long);
    one.peers.send(TWO, Lane::Bulk, frame.clone());
    assert_eq!(two.next().1, frame);
    let nothing_is_wrong = |of: &Member| of.count("refused") + of.count("not reached");
    assert_eq!(nothing_is_wrong(&one) + nothing_is_wrong(&two), 0);
}

impl Member {
    /// A member that a check of its own files would have kept from starting.
    fn unchecked(id: MemberId, (ca, issued): (&str, &Issued)) -> Self {
        let dir = TempDir::new();
        write(&dir.0, ca, issued);
        let (reports, lines) = reports();
        let transport = Tls {
            current: Current::unchecked(dir.files(), node(id), reports.clone()),
        };
        Self::over(Arc::new(transport), dir, reports, lines)
    }
}

#[test]
fn a_member_is_dialled_only_on_its_own_node() {
    let ours = Authority::new("c");
    let three = Member::start(MemberId(3), &ours);
    let mut one = Member::start(ONE, &ours);
    one.knows(TWO, three.address(), Some(node(TWO)));
    one.peers.send(TWO, Lane::Log, frame_of(ONE, Lane::Log, 1));
    let line = one.logs("answers there");
    assert!(
        line.contains(&format!("node {} answers there", node(MemberId(3)))),
        "{line}"
    );
    assert!(
        line.contains(&format!("the member is on node {}", node(TWO))),
        "{line}"
    );
    assert!(three.frames.try_recv().is_err());
    // Corrected, without a word of the old address.
    let two = Member::start(TWO, &ours);
    one.knows(TWO, two.address(), Some(node(TWO)));
    one.logs("is reached again");
    is_heard(&one, &two);
}

#[test]
fn whose_node_it_is_may_become_known_later() {
    let ours = Authority::new("c");
    let two = Member::start(TWO, &ours);
    let mut one = Member::start(ONE, &ours);
    one.knows(TWO, two.address(), None);
    is_heard(&one, &two);
    let accepted = two.counters.accepted_total();
    one.knows(TWO, two.address(), Some(node(TWO)));
    is_heard(&one, &two);
    assert_eq!(
        two.counters.accepted_total(),
        accepted,
        "the connections stay"
    );
    one.knows(TWO, two.address(), Some(node(MemberId(9))));
    one.peers.send(TWO, Lane::Log, frame_of(ONE, Lane::Log, 6));
    one.logs("answers there");
    assert!(two.frames.try_recv().is_err());
}

#[test]
fn a_frame_in_the_name_of_another_node_ends_the_connection() {
    let (one, mut two) = pair(&Authority::new("c"));
    is_heard(&one, &two);
    let bound = [(ONE, node(ONE)), (MemberId(3), node(MemberId(3)))];
    let bound = bound.map(|(member, node)| control::Peer {
        member,
        address: one.address().to_string(),
        node: Some(node),
    });
    two.peers.set(bound.to_vec()).unwrap();
    one.peers
        .send(TWO, Lane::Log, frame_of(MemberId(3), Lane::Log, 1));
    until("it is counted", || {
        two.counters.refusals(Refused::OtherNode) == 1
    });
    two.logs("in the name of member 3, which belongs to another node");
    let lane = one.counters.lane(TWO, Lane::Log);
    until("it is noticed", || lane.connected.load(Relaxed));
    // A member that is not known yet has nothing to be compared with, and its own name is good.
    until("it speaks for itself again", || {
        one.peers.send(TWO, Lane::Log, frame_of(ONE, Lane::Log, 2));
        let next = two.frames.recv_timeout(Duration::from_millis(50));
        next.is_ok_and(|(_, received)| received.into_frame() == frame_of(ONE, Lane::Log, 2))
    });
    let stranger = frame_of(MemberId(4), Lane::Urgent, 3);
    one.peers.send(TWO, Lane::Urgent, stranger.clone());
    until("the stranger is heard", || two.next().1 == stranger);
}

/// A `ClientHello` of TLS 1.2 (RFC 5246, section 7.4.1.2), with what a server would need to go on.
fn hello_of_tls12() -> Vec<u8> {
    let extensions: &[&[u8]] = &[
        &[0, 10, 0, 4, 0, 2, 0, 23],      // groups: secp256r1
        &[0, 11, 0, 2, 1, 0],             // points: uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // signatures: ECDSA, RSA-PSS
    ];
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([0x5a; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session; one cipher suite; no compression
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![1, 0];
    hello.extend((body.len() as u16).to_be_bytes());
    hello.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    record
}

/// All connections of one to two are made anew.
fn reconnect(one: &mut Member, two: &Member) {
    one.peers.set(vec![]).unwrap();
    one.knows(TWO, two.address(), Some(node(TWO)));
    is_heard(one, two);
}

#[test]
fn certificates_and_their_ca_are_replaced_under_way() {
    let (old, new) = (Authority::new("c"), Authority::new("c"));
    let (mut one, two) = pair(&old);
    is_heard(&one, &two);
    let both = format!("{}{}", old.pem, new.pem);
    for (ca, from) in [(&both, &old), (&both, &new), (&new.pem, &new)] {
        write(&one.dir.0, ca, &from.manager(node(ONE).0));
        is_heard(&one, &two);
        write(&two.dir.0, ca, &from.manager(node(TWO).0));
        reconnect(&mut one, &two);
    }
    one.logs("connections made from now on use it");
    two.logs("connections made from now on use it");
    // The old CA has gone from both, and does not help anybody in.
    let mut late = Member::unchecked(ONE, (&both, &old.manager(node(ONE).0)));
    late.knows(TWO, two.address(), Some(node(TWO)));
    late.logs("does not know the CA");
}

#[test]
fn files_that_cannot_be_used_leave_the_old_ones_in_use() {
    let ours = Authority::new("c");
    let (mut one, two) = pair(&ours);
    is_heard(&one, &two);
    let [_, cert, key] = paths(&one.dir.0);
    std::fs::write(&cert, "no certificate").unwrap();
    for _ in 0..3 {
        reconnect(&mut one, &two);
    }
    let line = one.logs("changed certificate files are not used");
    assert!(
        line.contains("cert.pem: there is no certificate in PEM"),
        "{line}"
    );
    assert_eq!(one.count("changed certificate files"), 1);
    // A new certificate whose key comes a moment later.
    let renewed = ours.manager(node(ONE).0);
    std::fs::write(&cert, &renewed.pem).unwrap();
    reconnect(&mut one, &two);
    one.logs("key.pem: it is not the key of the certificate in");
    std::fs::write(&key, &renewed.key_pem).unwrap();
    reconnect(&mut one, &two);
    one.logs("connections made from now on use it");
    std::fs::remove_file(&key).unwrap();
    reconnect(&mut one, &two);
    one.logs("key.pem: No such file");
}

/// As where this host's clock is behind that of whoever issues certificates.
#[test]
fn a_certificate_that_becomes_valid_is_taken_without_a_change_of_the_files() {
    let ours = Authority::new("c");
    let dir = TempDir::new();
    write(&dir.0, &ours.pem, &ours.manager(node(ONE).0));
    let current = Current::open(dir.files(), node(ONE), reports().0).unwrap();
    let first = current.get();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let early = ours.issue(&Leaf {
        uris: vec![ours.uri("manager", node(ONE).0)],
        since: Some(now + Duration::from_secs(3)),
        ..Leaf::default()
    });
    write(&dir.0, &ours.pem, &early);
    let is_first = |at| Arc::ptr_eq(&current.get_at(at), &first);
    let mut at = Instant::now();
    assert!(is_first(at), "it is not valid yet");
    until("it is taken", || {
        at += files::AGAIN;
        !is_first(at)
    });
}

/// The library renews keys after some millions of records, and asks the other side to do the same.
#[test]
fn a_renewal_of_keys_is_no_end() {
    let ours = Authority::new("c");
    let two = Member::start(TWO, &ours);
    let one = Member::start(ONE, &ours);
    let tls = Tls::open(one.dir.files(), node(ONE), reports().0).unwrap();
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let session = ClientConnection::new(tls.current.get().client.clone(), name).unwrap();
    let socket = TcpStream::connect(two.address()).unwrap();
    let mut stream = Stream::new(session.into(), socket, DIALLER_READ_BUFFER_BYTES);
    stream.dialled(Some(node(TWO)), DEADLINE).unwrap();
    stream.write_all(&wire::preamble(Lane::Log)).unwrap();
    for context in 0..3 {
        stream.session.refresh_traffic_keys().unwrap();
        let sent = frame_of(ONE, Lane::Log, context);
        stream.write_all(&sent).unwrap();
        stream.flush().unwrap();
        assert_eq!(two.next(), (Lane::Log, sent));
        assert!(!stream.is_closed());
    }
    drop(two);
    until("its end is noticed", || stream.is_closed());
}

#[test]
fn a_handshake_that_trickles_ends_in_time_and_holds_up_nobody() {
    let ours = Authority::new("c");
    let two = Member::start(TWO, &ours);
    let address = two.address();
    let slow = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        let began = Instant::now();
        // Each byte in time for a reader that waits for the next one only.
        for byte in hello_of_tls12().iter().cycle() {
            let pause = Duration::from_millis(100);
            socket.set_read_timeout(Some(pause)).unwrap();
            if socket.write_all(&[*byte]).is_err() || socket.read(&mut [0]).is_ok() {
                return began.elapsed();
            }
        }
        Duration::MAX
    });
    let began = Instant::now();
    let mut one = Member::start(ONE, &ours);
    one.knows(TWO, address, Some(node(TWO)));
    is_heard(&one, &two);
    assert!(began.elapsed() < Duration::from_secs(3));
    let lasted = slow.join().unwrap();
    assert!((4..9).contains(&lasted.as_secs()), "{lasted:?}");
    two.logs("it did not finish the handshake in time");
}

#[test]
fn strangers_make_room_before_any_member_does() {
    let ours = Authority::new("c");
    let (one, two) = pair(&ours);
    is_heard(&one, &two);
    let strangers: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(two.address()).unwrap())
        .collect();
    until("some were closed", || {
        two.counters.refusals(Refused::TooMany) > 100
    });
    is_heard(&one, &two);
    for lane in LANES {
        assert_eq!(
            one.counters.lane(TWO, lane).connection_lost.load(Relaxed),
            0
        );
    }
    drop(strangers);
}
