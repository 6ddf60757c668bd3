//! Over the loopback interface, with real sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::counters::Refused;
use super::wire::{self, PREFIX_BYTES};
use super::*;

const ONE: MemberId = MemberId(1);
const TWO: MemberId = MemberId(2);
const DEADLINE: Duration = Duration::from_secs(20);

type Frames = Receiver<(Lane, Received)>;

/// A member's connections, and the frames that came in.
struct Member {
    peers: Peers,
    counters: Arc<Counters>,
    frames: Frames,
}

impl Member {
    fn start() -> Self {
        Self::listen_on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn listen_on(listener: TcpListener) -> Self {
        Self::with_clock(listener, || 0)
    }

    fn with_clock(listener: TcpListener, now_ns: fn() -> u64) -> Self {
        let counters = Arc::new(Counters::default());
        let (sender, frames) = mpsc::channel();
        let deliver: listen::Deliver = Arc::new(move |lane, received| {
            let _ = sender.send((lane, received));
        });
        let common = Common {
            transport: Arc::new(Plain),
            counters: counters.clone(),
            nodes: Arc::default(),
            reports: Arc::new(Reports::new(Arc::new(|_| {}))),
            deliver,
            now_ns,
        };
        let peers = Peers::start(listener, common, 7).unwrap();
        Self {
            peers,
            counters,
            frames,
        }
    }

    fn address(&self) -> SocketAddr {
        self.peers.local_addr().unwrap()
    }

    fn knows(mut self, id: MemberId, address: SocketAddr) -> Self {
        self.peers.set(vec![peer(id, address)]).unwrap();
        self
    }

    fn next(&self) -> (Lane, Vec<u8>) {
        let (lane, received) = self.frames.recv_timeout(DEADLINE).expect("a frame comes");
        (lane, received.into_frame())
    }
}

fn peer(member: MemberId, address: SocketAddr) -> control::Peer {
    control::Peer {
        member,
        address: address.to_string(),
        node: None,
    }
}

fn frame(number: u32, body_bytes: usize) -> Vec<u8> {
    let mut frame = ((body_bytes + 4) as u32).to_le_bytes().to_vec();
    frame.extend([0; 4]);
    frame.extend(number.to_le_bytes());
    frame.resize(PREFIX_BYTES + 4 + body_bytes, 0xab);
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[PREFIX_BYTES..PREFIX_BYTES + 4].try_into().unwrap())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn frames_of_a_lane_arrive_whole_and_in_order() {
    let two = Member::start();
    let one = Member::start().knows(TWO, two.address());
    for sent in 0..300 {
        for lane in LANES {
            one.peers.send(TWO, lane, frame(sent, sent as usize * 37));
        }
        // No lane's queue is to be full: this is about order.
        if sent % 50 == 49 {
            let queued = |lane| one.counters.lane(TWO, lane).queued.load(Relaxed);
            until("the queues are empty", || {
                LANES.into_iter().all(|lane| queued(lane) == 0)
            });
        }
    }
    let mut seen = [0; LANES.len()];
    for _ in 0..300 * LANES.len() {
        let (lane, received) = two.next();
        let expected = &mut seen[lane as usize];
        assert_eq!(received, frame(*expected, *expected as usize * 37));
        *expected += 1;
    }
}

#[test]
fn a_peer_that_comes_back_is_reached_again() {
    let two = Member::start();
    let address = two.address();
    let one = Member::start().knows(TWO, address);
    one.peers.send(TWO, Lane::Log, frame(1, 10));
    assert_eq!(number(&two.next().1), 1);
    drop(two);
    let lane = one.counters.lane(TWO, Lane::Log);
    until("it is known to be gone", || !lane.connected.load(Relaxed));
    one.peers.send(TWO, Lane::Log, frame(2, 10));
    let two = Member::listen_on(TcpListener::bind(address).unwrap());
    until("it is connected", || lane.connected.load(Relaxed));
    one.peers.send(TWO, Lane::Log, frame(3, 10));
    // What was said while it was away is not lost.
    assert_eq!(
        [two.next(), two.next()].map(|(_, frame)| number(&frame)),
        [2, 3]
    );
}

#[test]
fn a_peer_that_comes_back_late_is_told_no_more_what_was_to_be_logged() {
    static NOW_NS: AtomicU64 = AtomicU64::new(0);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = Member::with_clock(own, || NOW_NS.load(Relaxed)).knows(TWO, address);
    let send = |number| LANES.map(|lane| one.peers.send(TWO, lane, frame(number, 1)));
    send(1);
    NOW_NS.store(60_000_000_000, Relaxed);
    send(2);
    let two = Member::listen_on(TcpListener::bind(address).unwrap());
    let mut seen = LANES.map(|_| Vec::new());
    while seen.iter().any(|numbers| !numbers.contains(&2)) {
        let (lane, frame) = two.next();
        seen[lane as usize].push(number(&frame));
    }
    assert_eq!(seen, [vec![1, 2], vec![2], vec![1, 2]]);
    let expired = |lane| one.counters.lane(TWO, lane).expired.load(Relaxed);
    assert_eq!(LANES.map(expired), [0, 1, 0]);
}

#[test]
fn the_first_frame_to_a_peer_that_restarted_unnoticed_is_not_written_into_the_void() {
    let address = {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap()
    };
    let mut raw = TcpListener::bind(address).unwrap();
    let one = Member::start().knows(TWO, address);
    // One lane is read here; the others only have to be there.
    let mut log = None;
    let accept = |listener: &TcpListener| {
        let (mut socket, _) = listener.accept().unwrap();
        (wire::read_preamble(&mut socket).unwrap(), socket)
    };
    let mut others = Vec::new();
    while log.is_none() {
        match accept(&raw) {
            (Lane::Log, socket) => log = Some(socket),
            (_, socket) => others.push(socket),
        }
    }
    // It ends and listens anew, before the other side has written anything.
    drop((log, others, raw));
    raw = TcpListener::bind(address).unwrap();
    let counters = one.counters.lane(TWO, Lane::Log);
    one.peers.send(TWO, Lane::Log, frame(5, 10));
    until("it is lost and counted, or written", || {
        counters.connection_lost.load(Relaxed) + counters.sent_frames.load(Relaxed) == 1
    });
    // It was reconnected in time, or knows that it was not; the dead got nothing.
    while counters.sent_frames.load(Relaxed) == 1 {
        if let (Lane::Log, mut socket) = accept(&raw) {
            let arrived = wire::read_frame(&mut socket);
            // The connection that died unnoticed is the only one that may end without a frame.
            assert!(arrived.is_ok(), "{arrived:?}");
            break;
        }
    }
}

#[test]
fn a_reader_that_takes_nothing_costs_bounded_memory_and_delays_nobody_else() {
    let (slow, quick) = (Member::start(), Member::start());
    let mut one = Member::start();
    let addresses = [(TWO, slow.address()), (MemberId(3), quick.address())];
    one.peers
        .set(addresses.map(|(id, address)| peer(id, address)).to_vec())
        .unwrap();
    let limit = outbox::Limit::of(Lane::Log);
    for sent in 0..20_000 {
        one.peers.send(TWO, Lane::Log, frame(sent, 8 << 10));
    }
    let lane = one.counters.lane(TWO, Lane::Log);
    until("the queue is full", || lane.queue_full.load(Relaxed) > 0);
    assert!(lane.queued.load(Relaxed) <= limit.frames);
    one.peers.send(MemberId(3), Lane::Log, frame(9, 10));
    assert_eq!(number(&quick.next().1), 9);
    // The slow one takes up again: what it gets is still in order, and ends with the newest. Had it
    // been disconnected for its slowness, the last words of the old connection could come later.
    let mut last = None;
    while last != Some(19_999) {
        let next = number(&slow.next().1);
        let reconnected = slow.counters.accepted_total() > LANES.len() as u64;
        assert!(reconnected || last.is_none_or(|last| last < next));
        last = Some(next);
    }
}

#[test]
fn garbage_and_oversized_frames_end_their_connection_and_no_other() {
    let two = Member::start();
    let one = Member::start().knows(TWO, two.address());
    let refused = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(two.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.write_all(bytes).unwrap();
        // An end or a reset; a timeout would be neither.
        let ended = socket.read(&mut [0]).map_or_else(
            |error| error.kind() == std::io::ErrorKind::ConnectionReset,
            |bytes| bytes == 0,
        );
        assert!(ended, "{bytes:?}");
    };
    refused(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(two.counters.refusals(Refused::NotOurs), 1);
    for length in [
        0u32,
        u32::MAX,
        crate::control::peer::frame::FRAME_BYTES_MAX as u32,
    ] {
        refused(
            &[
                &wire::preamble(Lane::Log)[..],
                &length.to_le_bytes(),
                &[0; 12],
            ]
            .concat(),
        );
    }
    assert_eq!(two.counters.refusals(Refused::Length), 3);
    one.peers.send(TWO, Lane::Urgent, frame(4, 10));
    assert_eq!(number(&two.next().1), 4);
}

#[test]
fn connections_that_stay_silent_make_room_for_others() {
    let two = Member::start();
    // Half open for all that this side can tell: nothing follows the preamble.
    let silent: Vec<_> = (0..80)
        .map(|_| {
            let mut socket = TcpStream::connect(two.address()).unwrap();
            socket.write_all(&wire::preamble(Lane::Urgent)).unwrap();
            socket
        })
        .collect();
    until("some were closed", || {
        two.counters.refusals(Refused::TooMany) >= 16
    });
    let one = Member::start().knows(TWO, two.address());
    let (deadline, mut sent) = (Instant::now() + DEADLINE, 0);
    // The connection may be among those that are closed: repeat it as Raft does.
    while two.frames.try_recv().is_err() {
        assert!(Instant::now() < deadline);
        one.peers.send(TWO, Lane::Log, frame(sent, 1));
        sent += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(silent);
}

#[test]
fn a_removed_peer_is_disconnected_and_its_series_go() {
    let two = Member::start();
    let mut one = Member::start().knows(TWO, two.address());
    one.peers.send(TWO, Lane::Log, frame(1, 1));
    two.next();
    let mut page = String::new();
    one.counters.render(false, &mut page);
    let series = "warren_peer_sent_frames_total{peer=\"2\",lane=\"log\"} 1\n";
    assert!(page.contains(series), "{page}");
    one.peers.set(vec![]).unwrap();
    one.peers.send(TWO, Lane::Log, frame(2, 1));
    page.clear();
    one.counters.render(false, &mut page);
    assert!(!page.contains("peer=\""), "{page}");
    assert!(page.contains("warren_peer_unaddressed_frames_total 1\n"));
    assert!(two.frames.recv_timeout(Duration::from_millis(50)).is_err());
}

/// Round trips on the urgent lane, alone and while bulk is sent as fast as it goes.
#[test]
fn a_flood_of_bulk_does_not_hold_up_what_is_urgent() {
    const FLOOD_FRAMES: u64 = 100;
    let (one, two) = (Member::start(), Member::start());
    let (first, second) = (one.address(), two.address());
    let one = one.knows(TWO, second);
    let two = two.knows(ONE, first);
    let echo = std::thread::spawn(move || {
        for (lane, received) in &two.frames {
            let frame = received.into_frame();
            match lane {
                Lane::Urgent if frame.len() == PREFIX_BYTES + 4 => break,
                Lane::Urgent => two.peers.send(ONE, Lane::Urgent, frame),
                Lane::Log | Lane::Bulk => {}
            }
        }
    });
    let bulk = one.counters.lane(TWO, Lane::Bulk);
    let mut round = 0;
    let mut round_trip = || {
        round += 1;
        let began = Instant::now();
        one.peers.send(TWO, Lane::Urgent, frame(round, 100));
        assert_eq!(number(&one.next().1), round);
        began.elapsed()
    };
    for _ in 0..100 {
        round_trip();
    }
    let quiet = median((0..200).map(|_| round_trip()).collect());
    let (before, mut times) = (bulk.sent_frames.load(Relaxed), Vec::new());
    while times.len() < 200 || bulk.sent_frames.load(Relaxed) < before + FLOOD_FRAMES {
        while bulk.queued.load(Relaxed) < 8 {
            one.peers.send(TWO, Lane::Bulk, frame(0, 256 << 10));
        }
        times.push(round_trip());
    }
    let rounds = times.len();
    let flooded = median(times);
    one.peers.send(TWO, Lane::Urgent, frame(0, 0));
    echo.join().unwrap();
    eprintln!("urgent round trip: p50 {quiet:?}, in {rounds} under bulk {flooded:?}");
    // Two megabytes are always queued: behind them it would take as long as they do.
    let tick = Duration::from_millis(crate::raft::TICK_MS);
    assert!(
        flooded < 10 * quiet + tick / 2,
        "p50 {flooded:?}, without bulk {quiet:?}"
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
