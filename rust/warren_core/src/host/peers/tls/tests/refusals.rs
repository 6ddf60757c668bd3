//! Who is not let in, and what both sides say of it.

use rcgen::ExtendedKeyUsagePurpose as Purpose;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use super::super::testing::Leaf;
use super::super::verify::Managers;
use super::*;

/// One dials two with what they were given, and is refused by one side or the other.
fn refused(ones: (&str, &Issued), twos: (&str, &Issued)) -> (Member, Member) {
    let two = Member::unchecked(TWO, twos);
    let mut one = Member::unchecked(ONE, ones);
    one.knows(TWO, two.address(), Some(node(TWO)));
    one.peers.send(TWO, Lane::Log, frame_of(ONE, Lane::Log, 1));
    one.logs("member 2 at 127.0.0.1");
    (one, two)
}

fn issued(
    authority: &Authority,
    role: &str,
    id: MemberId,
    change: impl FnOnce(&mut Leaf),
) -> Issued {
    let mut leaf = Leaf {
        uris: vec![authority.uri(role, node(id).0)],
        ..Leaf::default()
    };
    change(&mut leaf);
    authority.issue(&leaf)
}

/// A dialler that the acceptor refuses: what each of them says.
fn bad_dialler(ca: &str, bad: &Issued, good: &Authority, acceptor: &str, dialler: &str) {
    let own = good.manager(node(TWO).0);
    let (one, two) = refused((ca, bad), (&good.pem, &own));
    let line = two.logs(acceptor);
    assert!(
        line.starts_with("a connection from 127.0.0.1 is refused: "),
        "{line}"
    );
    let line = one.logs(dialler);
    assert!(line.starts_with("member 2 at 127.0.0.1:"), "{line}");
    assert!(two.frames.try_recv().is_err());
    until("it is counted", || {
        two.counters.refusals(Refused::NotAuthenticated) > 2
    });
    assert_eq!(two.count(acceptor), 1, "said once, however often it is so");
    assert_eq!(one.count(dialler), 1);
    let lane = one.counters.lane(TWO, Lane::Log);
    assert_eq!(lane.queued.load(Relaxed), 1, "what is queued waits");
}

/// An acceptor that the dialler refuses: what each of them says.
fn bad_acceptor(ca: &str, bad: &Issued, good: &Authority, dialler: &str, acceptor: &str) {
    let own = good.manager(node(ONE).0);
    let (one, two) = refused((&good.pem, &own), (ca, bad));
    one.logs(dialler);
    two.logs(acceptor);
    assert!(two.frames.try_recv().is_err());
}

#[test]
fn another_ca_is_refused_by_either_side() {
    let (ours, theirs) = (Authority::new("c"), Authority::new("c"));
    let bad = theirs.manager(node(ONE).0);
    bad_dialler(
        &ours.pem,
        &bad,
        &ours,
        "comes from another CA",
        "does not know the CA",
    );
    let bad = theirs.manager(node(TWO).0);
    bad_acceptor(
        &ours.pem,
        &bad,
        &ours,
        "comes from another CA",
        "does not know the CA",
    );
}

#[test]
fn an_expired_certificate_is_refused_by_either_side() {
    let ours = Authority::new("c");
    let old = |id| issued(&ours, "manager", id, |leaf| leaf.years = (2020, 2021));
    let (why, told) = (
        "expired at 2021-01-01T00:00:00Z",
        "for expired or not valid yet",
    );
    bad_dialler(&ours.pem, &old(ONE), &ours, why, told);
    bad_acceptor(&ours.pem, &old(TWO), &ours, why, told);
    let early = issued(&ours, "manager", ONE, |leaf| leaf.years = (2090, 2091));
    let why = "not valid before 2090-01-01T00:00:00Z";
    bad_dialler(&ours.pem, &early, &ours, why, told);
}

#[test]
fn a_worker_is_no_manager() {
    let ours = Authority::new("c");
    let worker = |id| issued(&ours, "worker", id, |_| {});
    let (why, told) = ("that of a worker", "cluster, role or identity does not fit");
    bad_dialler(&ours.pem, &worker(ONE), &ours, why, told);
    bad_acceptor(&ours.pem, &worker(TWO), &ours, why, told);
}

#[test]
fn another_trust_domain_under_the_same_ca_is_another_cluster() {
    let ours = Authority::new("c");
    let other = |id: MemberId| {
        issued(&ours, "manager", id, |leaf| {
            leaf.uris[0] = leaf.uris[0].replace("//c/", "//other/");
        })
    };
    let why = "belongs to cluster \"other\" by its certificate, this manager to \"c\"";
    let told = "cluster, role or identity does not fit";
    // The other side says the same of this one.
    let turned = "belongs to cluster \"c\" by its certificate, this manager to \"other\"";
    let (one, two) = refused(
        (&ours.pem, &other(ONE)),
        (&ours.pem, &ours.manager(node(TWO).0)),
    );
    one.logs(turned);
    two.logs(told);
    let own = ours.manager(node(ONE).0);
    let (one, _) = refused((&ours.pem, &own), (&ours.pem, &other(TWO)));
    one.logs(why);
}

#[test]
fn a_certificate_has_one_identity_and_serves_both_sides() {
    let ours = Authority::new("c");
    let told = "cluster, role or identity does not fit";
    let two_uris = issued(&ours, "manager", ONE, |leaf| {
        leaf.uris.push("spiffe://c/client/also".to_owned());
    });
    bad_dialler(&ours.pem, &two_uris, &ours, "carries 2 URIs", told);
    let none = issued(&ours, "manager", ONE, |leaf| {
        leaf.uris.clear();
        leaf.dns_name = Some("one.example".into());
    });
    bad_dialler(&ours.pem, &none, &ours, "carries 0 URIs", told);
    let strange = issued(&ours, "manager", ONE, |leaf| leaf.uris[0].push_str("/x"));
    bad_dialler(&ours.pem, &strange, &ours, "has no identity", told);
    let server = issued(&ours, "manager", ONE, |leaf| {
        leaf.purposes = vec![Purpose::ServerAuth]
    });
    let why = "not made for both sides";
    bad_dialler(&ours.pem, &server, &ours, why, why);
}

/// What the acceptor of a good member answers to these bytes: until it closes.
fn answer_to(two: &Member, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(two.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => answer,
    }
}

#[test]
fn what_is_not_tls_is_refused_and_told() {
    let two = Member::start(TWO, &Authority::new("c"));
    answer_to(&two, &wire::preamble(Lane::Log));
    two.logs("it does not speak TLS");
    answer_to(&two, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(two.counters.refusals(Refused::NotAuthenticated), 2);
}

#[test]
fn an_older_tls_is_refused_and_told() {
    let two = Member::start(TWO, &Authority::new("c"));
    let answer = answer_to(&two, &hello_of_tls12());
    // A fatal alert: protocol version (RFC 8446, section 6).
    assert_eq!(answer.last_chunk(), Some(&[2, 70]), "{answer:?}");
    two.logs("it cannot speak TLS 1.3");
}

/// A client without certificate, and what it offers to speak.
fn stranger(two: &Member, authority: &Authority, protocol: &[u8]) -> Stream {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let managers = Managers::new("c", Arc::new(roots), provider.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(managers))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(two.address()).unwrap();
    Stream::new(session.into(), socket, 512)
}

fn why(failed: io::Result<()>) -> String {
    match explain::failure(failed.unwrap_err(), Side::Dialled) {
        Failure::Refused(why) => why,
        Failure::Broken(error) => panic!("{error}"),
    }
}

#[test]
fn nobody_gets_in_without_a_certificate_or_for_another_purpose() {
    let ours = Authority::new("c");
    let two = Member::start(TWO, &ours);
    let failed = stranger(&two, &ours, PROTOCOL).dialled(None, DEADLINE);
    assert!(why(failed).contains("it saw no certificate of this manager"));
    two.logs("it shows no certificate");
    let failed = stranger(&two, &ours, b"h2").dialled(None, DEADLINE);
    assert!(why(failed).contains("not as a manager does to others"));
    until("both are counted", || {
        two.counters.refusals(Refused::NotAuthenticated) == 2
    });
}

#[test]
fn a_dialler_is_told_that_nobody_or_nothing_like_a_manager_answers() {
    let ours = Authority::new("c");
    let mut one = Member::start(ONE, &ours);
    let plain = {
        let (reports, lines) = reports();
        Member::over(
            Arc::new(super::super::super::Plain),
            TempDir::new(),
            reports,
            lines,
        )
    };
    one.knows(TWO, plain.address(), Some(node(TWO)));
    one.logs("it closed the connection during the handshake");
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    one.knows(TWO, nobody, Some(node(TWO)));
    one.logs("Connection refused (os error 111); see that the daemon there is up");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    one.knows(TWO, silent.local_addr().unwrap(), Some(node(TWO)));
    one.logs("it did not finish the handshake in time");
}
