//! Backups of a running host, and hosts that begin with one.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real threads and files"
)]

mod host_support;

use std::path::Path;

use host_support::{Client, DEADLINE, TempDir, options};
use prost::Message;
use warren_core::control::durable::{Wanted, backup};
use warren_core::host::{Host, inspect_backup};
use warren_core::pb;
use warren_core::wal::ReadOnlyDisk;

fn back_up(client: &mut Client, file: &Path) -> pb::BackupHeader {
    let id = client.host.backup("local", file, false, DEADLINE).unwrap();
    let header = client.answer(id).unwrap();
    pb::BackupHeader::decode(header.as_slice()).unwrap()
}

fn wanted(file: &Path) -> Wanted<'_> {
    Wanted {
        file,
        epoch_min: 0,
        cluster: None,
    }
}

/// Under an id that no client of an earlier epoch used: the window of requests is still known.
fn create_anew(client: &mut Client, name: &str) {
    let mut request = client.create_request(name);
    request.request.as_mut().unwrap().client = vec![0xee; 16];
    client.call("CreateService", &request).unwrap();
}

/// What of the state people see, as it was read from a backup.
fn objects(file: &Path) -> (Vec<pb::Service>, usize) {
    let (_, state) = backup::read(&ReadOnlyDisk, file).unwrap();
    (
        state.services().map(Into::into).collect(),
        state.container_count(),
    )
}

#[test]
fn a_backup_taken_under_load_is_restored_with_all_that_was_acknowledged() {
    let (dir, files) = (TempDir::new(), TempDir::new());
    let mut client = Client::founded(&dir.0);
    for number in 0..50 {
        client.create(&format!("before{number}")).unwrap();
    }
    let under_way: Vec<u64> = (0..200)
        .map(|number| {
            let request = client.create_request(&format!("during{number}"));
            client.submit("CreateService", &request)
        })
        .collect();
    let file = files.0.join("one");
    let header = back_up(&mut client, &file);
    under_way
        .into_iter()
        .for_each(|id| drop(client.answer(id).unwrap()));
    assert!(header.services >= 50, "{header:?}");
    assert_eq!(inspect_backup(&file).unwrap(), header);
    drop(client);
    // The disk is lost.
    std::fs::remove_dir_all(&dir.0).unwrap();
    std::fs::create_dir(&dir.0).unwrap();
    let (host, report) = Host::restore(options(&dir.0), wanted(&file)).unwrap();
    assert_eq!((report.epoch, report.backup.as_ref()), (2, Some(&header)));
    let mut again = Client::of(host);
    assert!(again.host.status().leader);
    let services = again.services();
    assert_eq!(services.len() as u64, header.services);
    assert_eq!((services, 0), objects(&file));
    again.open_session();
    let reused = again.create("before7").unwrap_err();
    assert_eq!(reused.code, "request_reused");
    create_anew(&mut again, "after");
    // A second backup is of the new epoch, and holds the same and more.
    let second = files.0.join("two");
    let header = back_up(&mut again, &second);
    assert_eq!(header.epoch, 2);
    assert_eq!(header.services, report.backup.unwrap().services + 1);
    // What it went on with is what is on its disk.
    drop(again);
    let mut again = Client::open(&dir.0);
    assert_eq!(again.services().len() as u64, header.services);
}

#[test]
fn a_host_that_has_a_cluster_keeps_it() {
    let (dir, files) = (TempDir::new(), TempDir::new());
    let mut client = Client::founded(&dir.0);
    client.create("web").unwrap();
    let file = files.0.join("one");
    back_up(&mut client, &file);
    drop(client);
    let refused = Host::restore(options(&dir.0), wanted(&file)).err();
    assert_eq!(
        refused.map(|error| error.code()),
        Some("already_in_cluster")
    );
    assert_eq!(Client::open(&dir.0).services().len(), 1);
}

#[test]
fn a_host_that_is_alone_can_begin_an_epoch() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    client.create("web").unwrap();
    let refused = client
        .call("JudgeRecovery", &pb::RecoverQuorumRequest::default())
        .unwrap_err();
    assert!(refused.message.contains("leads"), "{}", refused.message);
    drop(client);
    let (host, report) = Host::recover_quorum(options(&dir.0)).unwrap();
    assert_eq!(report.epoch, 2);
    let mut again = Client::of(host);
    assert_eq!(again.services().len(), 1);
    again.open_session();
    create_anew(&mut again, "more");
}

#[test]
fn nobody_but_people_backs_up() {
    let (dir, files) = (TempDir::new(), TempDir::new());
    let mut client = Client::founded(&dir.0);
    for (number, identity) in ["stranger", "worker/11111111111111111111111111111111"]
        .into_iter()
        .enumerate()
    {
        let file = files.0.join(number.to_string());
        let id = client.host.backup(identity, &file, true, DEADLINE).unwrap();
        assert_eq!(client.answer(id).unwrap_err().code, "denied");
        assert!(!file.exists());
    }
}
