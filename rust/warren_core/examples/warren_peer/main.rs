//! One member of a cluster as a process of its own, for benches: no Python, no gRPC, no
//! containers, but the daemon's core as it is, with its threads, its log and its sockets.
//!
//! Commands come on stdin, a line each, and each is answered by one line of JSON on stdout; an
//! error is `{"error": …}`. The end of stdin ends the process cleanly. Log lines go to stderr.
//! Members talk over TCP as it is, or with `--tls DIR` over TLS, by the files ca.pem, cert.pem and
//! key.pem in that directory.
//!
//! | command | does |
//! |---|---|
//! | `found` | makes a cluster with this member alone |
//! | `add DATA_DIR NUMBER ADDRESS` | admits a member; its `join` is what to start it with |
//! | `worker N` | opens the session of a worker with `N` containers, for `load report` |
//! | `load WHAT COUNT INFLIGHT` | makes `COUNT` calls, `INFLIGHT` of them at a time, from one thread |
//! | `trickle` | writes now and then, and says so in a line each, until the next command |
//! | `status` | term, role, indexes |
//! | `metrics` | the metrics page, as one JSON string |
//! | `measure on`, `measure off` | whether the member measures itself, as it does until told otherwise |
//!
//! `WHAT` is `report`, a worker's report on one container, a command of about 300 bytes; `update`,
//! an update of a service under a request id, of about 400 bytes; or `read`, a linearizable read
//! of one service. The answer holds the calls' latencies as `[upper bound in ns, calls]`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real threads, clocks and files"
)]

mod cluster;
mod json;
mod load;
mod trickle;

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use json::{text, unhex};
use warren_core::control::{Identity, durable};
use warren_core::host::{Host, Options, PeerOptions, TlsFiles, measure};
use warren_core::ids::{ClusterId, MemberId, NodeId};

const SEGMENT_BYTES: u64 = 64 << 20;
const PULSE: Duration = Duration::from_millis(500);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let host = Arc::new(open()?);
    let pulsing = host.clone();
    // As the daemon's event loop does: a leader without it gives up the lead.
    std::thread::spawn(move || {
        loop {
            pulsing.pulse();
            std::thread::sleep(PULSE);
        }
    });
    let mut cluster = Cluster::new(host);
    for line in std::io::stdin().lock().lines() {
        let answer = obey(&mut cluster, &line?).unwrap_or_else(|failure| {
            let why = text(&failure.to_string());
            format!("{{\"error\": {why}}}")
        });
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    cluster.host.shutdown(SHUTDOWN_TIMEOUT);
    Ok(())
}

/// Goes on with the log that is there; without one it joins if it was told whom, or waits for
/// `found`.
fn open() -> Result<Host, Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(String::as_str)
    };
    let needed = |name: &str| value(name).ok_or_else(|| format!("say {name} VALUE"));
    let raft_dir = PathBuf::from(needed("--dir")?);
    std::fs::create_dir_all(&raft_dir)?;
    let number: u8 = needed("--number")?.parse()?;
    let address = needed("--address")?.to_owned();
    let has_log = durable::log_dir(&raft_dir).exists();
    let options = Options {
        raft_dir,
        node: NodeId([number; 16]),
        node_name: format!("member-{number}"),
        advertise_addr: address.clone(),
        segment_bytes: SEGMENT_BYTES,
        peers: Some(PeerOptions {
            listen: address.parse()?,
            address,
            tls: value("--tls").map(tls_files),
        }),
    };
    match value("--join").filter(|_| !has_log) {
        Some(identity) => Ok(Host::join(options, parsed(identity)?)?),
        None => Ok(Host::open(options)?),
    }
}

/// A manager's certificate in `dir`, of the node whose id is `NUMBER`, 16 times.
fn tls_files(dir: &str) -> TlsFiles {
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| Path::new(dir).join(name));
    TlsFiles { ca, cert, key }
}

/// `CLUSTER:EPOCH:MEMBER:DATA_DIR`, as `add` answers it.
fn parsed(identity: &str) -> Result<Identity, Failure> {
    let parts: Vec<&str> = identity.split(':').collect();
    let [cluster, epoch, member, data_dir] = parts[..] else {
        return Err("say --join CLUSTER:EPOCH:MEMBER:DATA_DIR".into());
    };
    Ok(Identity {
        cluster: ClusterId::from_slice(&unhex(cluster)?)?,
        epoch: epoch.parse()?,
        member: MemberId(member.parse()?),
        data_dir: unhex(data_dir)?[..].try_into()?,
    })
}

fn obey(cluster: &mut Cluster, line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["found"] => cluster.found(),
        ["add", data_dir, number, address] => cluster.add(data_dir, number.parse()?, address),
        ["worker", containers] => cluster.open_worker(containers.parse()?),
        ["load", what, count, in_flight] => {
            load::run(cluster, what.parse()?, count.parse()?, in_flight.parse()?)
        }
        ["trickle"] => trickle::run(cluster),
        ["status"] => Ok(cluster.status()),
        ["metrics"] => Ok(text(&String::from_utf8(cluster.host.metrics(false))?)),
        ["measure", word @ ("on" | "off")] => {
            measure(word == "on");
            Ok("{}".into())
        }
        _ => Err(format!("no such command: {line}").into()),
    }
}
