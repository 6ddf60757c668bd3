//! TLS against plain TCP, in one run.

use super::*;

/// Round trips of a small frame, many small and some long ones, and new connections. The bounds are
/// wide: what is printed is for whoever measures, on a quiet machine and in release.
#[test]
fn what_encryption_costs() {
    let ours = Authority::new("c");
    let (mut plain, mut tls) = (Cost::MAX, Cost::MAX);
    // Who comes first pays for what both need, and who comes last for whatever else the machine
    // does by then: each kind is in each place, and what counts is its best.
    for tls_first in [false, true, true, false] {
        for is_tls in [tls_first, !tls_first] {
            let (of, authority) = match is_tls {
                true => (&mut tls, Some(&ours)),
                false => (&mut plain, None),
            };
            of.improve(&cost(authority));
        }
    }
    let ratio = |tls: Duration, plain: Duration| tls.as_secs_f64() / plain.as_secs_f64();
    for (what, tls, plain) in [
        (
            "a connection and the first frame",
            tls.connect,
            plain.connect,
        ),
        (
            "a round trip of 300 bytes, p50",
            tls.round_trip,
            plain.round_trip,
        ),
        ("20,000 frames of 300 bytes", tls.flood, plain.flood),
        ("64 frames of 1 MiB", tls.bulk, plain.bulk),
        (
            "the processor's time for all of it",
            tls.processor,
            plain.processor,
        ),
    ] {
        eprintln!(
            "{what}: TLS {tls:?}, plain {plain:?}, ratio {:.2}",
            ratio(tls, plain)
        );
    }
    assert!(tls.connect < Duration::from_secs(1));
    assert!(tls.round_trip < 20 * plain.round_trip + Duration::from_millis(50));
}

struct Cost {
    connect: Duration,
    round_trip: Duration,
    flood: Duration,
    bulk: Duration,
    processor: Duration,
}

impl Cost {
    const MAX: Self = Self {
        connect: Duration::MAX,
        round_trip: Duration::MAX,
        flood: Duration::MAX,
        bulk: Duration::MAX,
        processor: Duration::MAX,
    };

    fn improve(&mut self, by: &Self) {
        self.connect = self.connect.min(by.connect);
        self.round_trip = self.round_trip.min(by.round_trip);
        self.flood = self.flood.min(by.flood);
        self.bulk = self.bulk.min(by.bulk);
        self.processor = self.processor.min(by.processor);
    }
}

/// Of all threads: to be read only where no other test runs beside this one.
fn processor() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn cost(authority: Option<&Authority>) -> Cost {
    let start = |id| match authority {
        Some(authority) => Member::start(id, authority),
        None => {
            let (reports, lines) = reports();
            Member::over(
                Arc::new(super::super::super::Plain),
                TempDir::new(),
                reports,
                lines,
            )
        }
    };
    let began = processor();
    let (mut one, mut two) = (start(ONE), start(TWO));
    let connects = (0..30).map(|_| {
        one.peers.set(vec![]).unwrap();
        let began = Instant::now();
        one.knows(TWO, two.address(), Some(node(TWO)));
        one.peers.send(TWO, Lane::Log, frame_of(ONE, Lane::Log, 1));
        two.next();
        began.elapsed()
    });
    let connect = median(connects.collect());
    two.knows(ONE, one.address(), Some(node(ONE)));
    let frame = padded(300);
    let round_trips = (0..600).map(|_| {
        let began = Instant::now();
        one.peers.send(TWO, Lane::Urgent, frame.clone());
        two.peers.send(ONE, Lane::Urgent, two.next().1);
        one.next();
        began.elapsed()
    });
    let round_trip = median(round_trips.skip(100).collect());
    let send_all = |lane, frame: Vec<u8>, count: usize, ahead: usize| {
        let began = Instant::now();
        for sent in 0..count + ahead {
            if sent < count {
                one.peers.send(TWO, lane, frame.clone());
            }
            if sent >= ahead {
                two.next();
            }
        }
        began.elapsed()
    };
    let flood = send_all(Lane::Log, frame, 20_000, 2000);
    let bulk = send_all(Lane::Bulk, padded(1 << 20), 64, 4);
    let processor = processor() - began;
    Cost {
        processor,
        connect,
        round_trip,
        flood,
        bulk,
    }
}

/// A frame of so many bytes, from nobody that anybody knows.
fn padded(bytes: usize) -> Vec<u8> {
    let mut frame = ((bytes - 8) as u32).to_le_bytes().to_vec();
    frame.resize(bytes, 0);
    frame
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
