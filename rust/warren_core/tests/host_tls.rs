//! Three hosts in one process that know each other by certificates.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real threads, files and sockets"
)]

mod host_support;
#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "../src/host/peers/tls/testing.rs"]
mod testing;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use host_support::{Client, DEADLINE, TempDir, options};
use prost::Message as _;
use testing::{Authority, Issued, paths, write};
use warren_core::control::Identity;
use warren_core::host::{Host, Kind, Options, PeerOptions, TlsFiles};
use warren_core::ids::{ClusterId, MemberId, NodeId};
use warren_core::pb;

/// What one host is started with.
struct Place {
    dir: TempDir,
    node: NodeId,
    address: SocketAddr,
}

impl Place {
    fn new(number: u8, ca: &str, issued: &Issued) -> Self {
        let dir = TempDir::new();
        write(&dir.0, ca, issued);
        // Free again at once, and taken by the host a moment later.
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            dir,
            node: NodeId([number; 16]),
            address: probe.local_addr().unwrap(),
        }
    }

    fn options(&self) -> Options {
        let raft_dir = self.dir.0.join("raft");
        std::fs::create_dir_all(&raft_dir).unwrap();
        let [ca, cert, key] = paths(&self.dir.0);
        Options {
            node: self.node,
            peers: Some(PeerOptions {
                listen: self.address,
                address: self.address.to_string(),
                tls: Some(TlsFiles { ca, cert, key }),
            }),
            ..options(&raft_dir)
        }
    }

    fn found(&self) -> Client {
        let mut client = Client::of(Host::open(self.options()).unwrap());
        let request = pb::InitClusterRequest::default();
        client.call("InitCluster", &request).unwrap();
        client
    }

    /// Admitted by `leader`, and started.
    fn join(&self, leader: &mut Client, number: u64) -> Client {
        let mut request = pb::AddMemberRequest {
            data_dir: vec![number as u8; 16],
            node_id: self.node.to_vec(),
            address: self.address.to_string(),
            ..Default::default()
        };
        // Refused while the change before is under way, or the feature level is being raised.
        let started = Instant::now();
        let mut sequence = number << 32;
        let admitted = loop {
            leader.host.pulse();
            sequence += 1;
            request.request = Some(pb::RequestId {
                client: vec![7; 16],
                sequence,
                digest: Vec::new(),
            });
            match leader.call("AddMember", &request) {
                Ok(answer) => break pb::AddMemberResponse::decode(&answer[..]).unwrap(),
                Err(error) => assert!(started.elapsed() < DEADLINE, "{error:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let identity = Identity {
            cluster: ClusterId::from_slice(&admitted.cluster_id).unwrap(),
            epoch: admitted.epoch,
            member: MemberId(admitted.member_id),
            data_dir: [number as u8; 16],
        };
        Client::of(Host::join(self.options(), identity).unwrap())
    }
}

/// As the daemons' loops do it, until `holds`.
fn until(what: &str, clients: &[&Client], mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > DEADLINE {
            let logs: Vec<String> = clients.iter().map(|client| log_of(client)).collect();
            panic!("never: {what}\n{}", logs.join("---\n"));
        }
        clients.iter().for_each(|client| client.host.pulse());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn page(client: &Client) -> String {
    String::from_utf8(client.host.metrics(false)).unwrap()
}

/// Everything that the host logged until now; other completions are not waited for here.
fn log_of(client: &Client) -> String {
    let lines = client.host.drain(1024).into_iter();
    let lines = lines.filter(|completion| completion.kind == Kind::Log);
    lines
        .map(|line| String::from_utf8(line.payload).unwrap() + "\n")
        .collect()
}

#[test]
fn three_members_replicate_elect_and_renew_certificates_over_tls() {
    let ours = Authority::new("c");
    let place = |number: u8| Place::new(number, &ours.pem, &ours.manager([number; 16]));
    let places = [place(1), place(2), place(3)];
    let mut one = places[0].found();
    let two = places[1].join(&mut one, 2);
    until("the second votes", &[&one, &two], || {
        one.host.status().voters == 2
    });
    let mut three = places[2].join(&mut one, 3);
    // Until the joint configuration is left everywhere, the first one's vote is needed too.
    let voters = |client: &Client| {
        let joint = !page(client).contains("\nwarren_raft_joint 0\n");
        (client.host.status().voters, joint)
    };
    until("all three vote", &[&one, &two, &three], || {
        [&one, &two, &three].map(voters) == [(3, false); 3]
    });
    let applied = |client: &Client| client.host.status().applied_index;
    until("all know as much", &[&one, &two, &three], || {
        applied(&one) == applied(&two) && applied(&one) == applied(&three)
    });
    // The last one leaves and is back with a new certificate, while the others keep theirs.
    assert!(three.host.shutdown(DEADLINE));
    drop(three);
    write(&places[2].dir.0, &ours.pem, &ours.manager([3; 16]));
    three = Client::of(Host::open(places[2].options()).unwrap());
    until("it is back", &[&one, &two, &three], || {
        voters(&three) == (3, false) && applied(&one) == applied(&three)
    });
    // The first one leaves, and the two others go on: each of them is connected to the other.
    assert!(one.host.shutdown(DEADLINE));
    let leads = |client: &Client| client.host.status().leader;
    until("one of them leads", &[&two, &three], || {
        leads(&two) || leads(&three)
    });
    let log = log_of(&two) + &log_of(&three);
    assert!(!log.contains("a connection from"), "{log}");
    assert!(log.contains("is reached again"), "{log}");
}

#[test]
fn a_member_with_the_certificate_of_another_cluster_is_kept_out_and_both_say_why() {
    let (ours, theirs) = (Authority::new("c"), Authority::new("c"));
    let first = Place::new(1, &ours.pem, &ours.manager([1; 16]));
    let stranger = Place::new(2, &theirs.pem, &theirs.manager([2; 16]));
    let mut one = first.found();
    let two = stranger.join(&mut one, 2);
    let (mut ones, mut twos) = (String::new(), String::new());
    until("both say why", &[&one, &two], || {
        ones += &log_of(&one);
        twos += &log_of(&two);
        // Only the first one dials: the other does not know yet where anybody is.
        ones.contains("its certificate comes from another CA than this manager's")
            && twos.contains("it does not know the CA of this manager's certificate")
    });
    assert_eq!(ones.matches("another CA").count(), 1, "{ones}");
    assert_eq!(two.host.status().last_index, 0);
    assert_eq!(one.host.status().voters, 1);
}

#[test]
fn a_host_does_not_start_on_the_certificate_of_another_node() {
    let ours = Authority::new("c");
    let place = Place::new(1, &ours.pem, &ours.manager([2; 16]));
    let Err(error) = Host::open(place.options()) else {
        panic!("it starts");
    };
    assert_eq!(error.code(), "data_dir");
    let node = "02".repeat(16);
    assert!(
        error
            .to_string()
            .contains(&format!("the certificate of node {node}"))
    );
    // Nothing listens, and nothing is left that would keep it from a start with its own.
    write(&place.dir.0, &ours.pem, &ours.manager([1; 16]));
    assert!(Host::open(place.options()).is_ok());
}
