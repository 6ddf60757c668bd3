//! TLS against plain TCP, in one run.

use super::*;

/// Round trips of a small frame, many small and some long ones, and new connections. The bounds are
/// wide: what is printed is for whoever measures, on a quiet machine and in release.
#[test]
fn what_encryption_costs() {
    let ours = Authority::new("c");
    let (plain, tls) = (cost(None), cost(Some(&ours)));
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
    Cost {
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
