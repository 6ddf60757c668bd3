//! What a killed or stopped host knows when it is opened again.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real processes and files"
)]

mod host_support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use host_support::{Client, TempDir, options};
use warren_core::host::Host;
use warren_core::pb;

const CHILD_DIR: &str = "WARREN_TEST_CHILD_DIR";

#[test]
fn a_thousand_services_survive_a_clean_stop_with_snapshots_between() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    let ids: Vec<u64> = (0..1000)
        .map(|number| {
            let mut request = client.create_request(&format!("s{number}"));
            // 4 KiB each: two segments of log, and so a snapshot, on the way.
            let container = request.spec.as_mut().unwrap().container.as_mut().unwrap();
            container.env = vec![format!("PADDING={}", "x".repeat(4096))];
            let id = client.submit("CreateService", &request);
            if number % 100 == 99 {
                client.services();
            }
            id
        })
        .collect();
    ids.into_iter()
        .for_each(|id| drop(client.answer(id).unwrap()));
    client.until("a snapshot is there", |client| {
        client.metric("warren_snapshot_bytes") > 0
    });
    let before = client.services();
    assert_eq!(before.len(), 1000);
    drop(client);
    let files = std::fs::read_dir(dir.0.join("snap")).unwrap().count();
    assert!((1..=3).contains(&files), "{files} snapshots");
    let mut again = Client::open(&dir.0);
    assert_eq!(again.services(), before);
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_that_creates_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_DIR, &dir.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let created = lines.filter_map(|line| line.strip_prefix("created ").map(str::to_owned));
        let mut created = created.peekable();
        let mut acknowledged: Vec<String> = created.by_ref().take(50 + 37 * round).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(created);
        assert!(
            acknowledged.len() >= 50 + 37 * round,
            "the child ended by itself"
        );
        let mut again = Client::open(&dir.0);
        let names: Vec<_> = again
            .services()
            .into_iter()
            .map(|s| s.spec.unwrap().name)
            .collect();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|name| !names.contains(name))
            .collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        again.host.shutdown(host_support::DEADLINE);
    }
}

#[test]
#[ignore = "the other process of what_was_acknowledged_survives_kill_9"]
fn child_that_creates_until_it_is_killed() {
    let dir = std::path::PathBuf::from(std::env::var_os(CHILD_DIR).unwrap());
    let mut client = Client::open(&dir);
    if !client.host.status().in_cluster {
        client
            .call("InitCluster", &pb::InitClusterRequest::default())
            .unwrap();
    }
    client.open_session();
    let mut out = std::io::stdout();
    for number in 0..100_000 {
        let name = format!("p{}-{number}", std::process::id());
        client.create(&name).unwrap();
        writeln!(out, "created {name}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_log_damaged_in_the_middle_refuses_with_file_and_offset() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    (0..20).for_each(|number| drop(client.create(&format!("s{number}")).unwrap()));
    drop(client);
    let segment = std::fs::read_dir(dir.0.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            std::fs::read(path)
                .unwrap()
                .iter()
                .skip(4096)
                .any(|byte| *byte != 0)
        })
        .min()
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 300] ^= 0x40;
    std::fs::write(&segment, bytes).unwrap();
    let error = Host::open(options(&dir.0)).err().expect("it is damaged");
    assert_eq!(error.code(), "log_damaged");
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(
        error.to_string().contains(name) && error.to_string().contains(" at byte "),
        "{error}"
    );
}

#[test]
fn a_missing_snapshot_that_the_log_needs_is_damage() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    for number in 0..600 {
        let mut request = client.create_request(&format!("s{number}"));
        let container = request.spec.as_mut().unwrap().container.as_mut().unwrap();
        container.env = vec![format!("PADDING={}", "x".repeat(8192))];
        client.call("CreateService", &request).unwrap();
    }
    client.until("a snapshot is there", |client| {
        client.metric("warren_snapshot_bytes") > 0
    });
    drop(client);
    std::fs::remove_dir_all(dir.0.join("snap")).unwrap();
    let error = Host::open(options(&dir.0))
        .err()
        .expect("the log begins after the snapshot");
    assert_eq!(error.code(), "log_damaged", "{error}");
}

#[test]
fn an_identity_is_founded_once() {
    let dir = TempDir::new();
    let mut client = Client::open(&dir.0);
    let refused = client
        .call("ListServices", &pb::ListServicesRequest::default())
        .unwrap_err();
    assert_eq!(refused.code, "not_in_cluster");
    let init = pb::InitClusterRequest::default();
    client.call("InitCluster", &init).unwrap();
    assert_eq!(
        client.call("InitCluster", &init).unwrap_err().code,
        "already_in_cluster"
    );
    drop(client);
    let mut again = Client::open(&dir.0);
    assert!(again.host.status().leader);
    assert_eq!(
        again.call("InitCluster", &init).unwrap_err().code,
        "already_in_cluster"
    );
}
