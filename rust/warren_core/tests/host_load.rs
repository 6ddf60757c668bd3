//! Many at once, too many at once, and a disk that is full.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real threads and files"
)]

mod host_support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use host_support::{Client, TempDir};
use prost::Message as _;
use warren_core::control::GENESIS;
use warren_core::host::{CALLS_MAX, REQUEST_BYTES_MAX, STREAMS_MAX, STREAMS_MIN};
use warren_core::pb;

#[test]
fn concurrent_calls_share_their_fsyncs() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    let before = client.metric("warren_wal_batches_total");
    let ids: Vec<u64> = (0..512)
        .map(|number| {
            let request = client.create_request(&format!("s{number}"));
            client.submit("CreateService", &request)
        })
        .collect();
    ids.into_iter()
        .for_each(|id| drop(client.answer(id).unwrap()));
    let batches = client.metric("warren_wal_batches_total") - before;
    assert!(batches <= 512 / 4, "{batches} fsyncs for 512 calls");
}

/// Those that are committed at once are timed in groups.
#[test]
fn every_entry_counts_where_groups_are_timed() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    let committed = client.metric("warren_raft_commit_duration_seconds_count");
    let ids: Vec<u64> = (0..512)
        .map(|number| {
            let request = client.create_request(&format!("s{number}"));
            client.submit("CreateService", &request)
        })
        .collect();
    ids.into_iter()
        .for_each(|id| drop(client.answer(id).unwrap()));
    client.until("all is counted that lies behind the genesis", |client| {
        let applied = client.metric("warren_raft_applied_index") - GENESIS.index.0;
        client.metric("warren_raft_apply_duration_seconds_count") == applied
            && client.metric("warren_raft_commit_duration_seconds_count") >= committed + 512
    });
}

#[test]
fn what_finds_no_room_is_refused_at_once() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    let ping = pb::PingRequest::default().encode_to_vec();
    let submit = |client: &Client| {
        client
            .host
            .submit("local", "Ping", &ping, Duration::from_secs(9))
    };
    let ids: Vec<u64> = (0..CALLS_MAX).map(|_| submit(&client).unwrap()).collect();
    assert_eq!(submit(&client).unwrap_err().code(), "overloaded");
    ids.into_iter()
        .for_each(|id| drop(client.answer(id).unwrap()));
    let id = submit(&client).unwrap();
    client.answer(id).unwrap();
    let large = vec![0; REQUEST_BYTES_MAX + 1];
    let refused = client
        .host
        .submit("local", "CreateService", &large, Duration::from_secs(9));
    assert_eq!(refused.unwrap_err().code(), "too_large");
}

/// As many as the host's memory carries, and what is said then.
#[test]
fn streams_are_as_many_as_the_memory_carries() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    let limit = client.metric("warren_core_queue_limit{queue=\"streams\"}") as usize;
    assert!((STREAMS_MIN..=STREAMS_MAX).contains(&limit), "{limit}");
    let open = client.metric("warren_core_queue_depth{queue=\"streams\"}") as usize;
    // Refused by the core, but its place is taken until that has been read.
    let watch = |client: &Client| client.host.subscribe("local", "WatchService", &[0xff]);
    for _ in open..limit {
        watch(&client).unwrap();
    }
    let refused = watch(&client).unwrap_err();
    assert_eq!(refused.code(), "overloaded");
    let why = refused.to_string();
    assert!(
        why.contains("more memory") && why.contains(&limit.to_string()),
        "{why}"
    );
    client.until("the ends are read", |client| {
        client.host.drain(4096);
        client.metric("warren_core_queue_depth{queue=\"streams\"}") as usize == open
    });
    watch(&client).unwrap();
}

#[test]
fn a_repeated_request_is_applied_once() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    let request = client.create_request("web");
    let ids = [(); 3].map(|()| client.submit("CreateService", &request));
    let answers = ids.map(|id| client.answer(id).unwrap());
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let mut other = request.clone();
    other.spec.as_mut().unwrap().name = "other".into();
    assert_eq!(
        client.call("CreateService", &other).unwrap_err().code,
        "request_reused"
    );
    assert_eq!(client.services().len(), 1);
}

/// A mounted tmpfs of a few megabytes; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = TempDir::new();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&dir.0)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount(6) else {
        eprintln!("skipped: mounting a tmpfs takes root");
        return;
    };
    let mut client = Client::founded(disk.path());
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let padding = format!("PADDING={}", "x".repeat(32 << 10));
    let mut refused = None;
    for number in 0..400 {
        let mut request = client.create_request(&format!("s{number}"));
        let container = request.spec.as_mut().unwrap().container.as_mut().unwrap();
        container.env = vec![padding.clone()];
        // What is under way when the room ends has an unknown outcome; do not wait 20 s for it.
        let body = request.encode_to_vec();
        let id = client
            .host
            .submit("local", "CreateService", &body, Duration::from_secs(1))
            .unwrap();
        match client.answer(id) {
            Err(error) if error.code == "no_space" => {
                refused = Some(error);
                break;
            }
            Err(error) => assert_eq!(error.code, "outcome_unknown", "{error:?}"),
            Ok(_) => {}
        }
    }
    assert!(
        refused
            .expect("the disk is full")
            .message
            .contains("resume by themselves")
    );
    assert!(client.host.status().no_space);
    assert!(client.services().len() > 1, "reads go on");
    std::fs::remove_file(&ballast).unwrap();
    client.until("writes resume", |client| !client.host.status().no_space);
    client.create("after").unwrap();
    let services = client.services().len();
    drop(client);
    assert_eq!(Client::open(disk.path()).services().len(), services);
}

#[test]
fn a_full_disk_does_not_hold_up_the_end() {
    let Some(disk) = SmallDisk::mount(6) else {
        eprintln!("skipped: mounting a tmpfs takes root");
        return;
    };
    let mut client = Client::founded(disk.path());
    std::fs::write(disk.path().join("ballast"), vec![0; 2 << 20]).unwrap();
    let padding = format!("PADDING={}", "x".repeat(32 << 10));
    let mut number = 0;
    client.until("the disk is full", |client| {
        number += 1;
        let mut request = client.create_request(&format!("s{number}"));
        let container = request.spec.as_mut().unwrap().container.as_mut().unwrap();
        container.env = vec![padding.clone()];
        let body = request.encode_to_vec();
        // Not awaited: the one that meets the end of the disk has no answer.
        let call = client
            .host
            .submit("local", "CreateService", &body, Duration::from_millis(50));
        client.host.drain(256);
        drop(call);
        client.host.status().no_space
    });
    assert!(
        client.host.shutdown(Duration::from_secs(5)),
        "it ends while the disk is full"
    );
}

/// Steps are counted, not time: a core that does not wait makes tens of thousands in this while.
#[test]
fn a_core_with_nothing_to_do_waits() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    client.services();
    let count = |client: &Client| client.metric("warren_core_step_duration_seconds_count");
    let before = count(&client);
    std::thread::sleep(Duration::from_millis(500));
    let steps = count(&client) - before;
    assert!((1..=200).contains(&steps), "{steps} steps in half a second");
}
