//! The switch of the bench that tells what measuring costs. It holds for the process, so this test
//! has one to itself.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real threads and files"
)]

mod host_support;

use host_support::{Client, TempDir};
use warren_core::host::measure;

const MEASURED: [&str; 7] = [
    "warren_raft_commit_duration_seconds_count",
    "warren_raft_apply_duration_seconds_count",
    "warren_core_step_duration_seconds_count",
    "warren_wal_append_duration_seconds_count",
    "warren_wal_fsync_duration_seconds_count",
    "warren_wal_entries_total",
    "warren_services_total",
];

#[test]
fn while_it_is_off_nothing_is_measured_and_all_works() {
    let dir = TempDir::new();
    let mut client = Client::founded(&dir.0);
    client.create("first").unwrap();
    client.until("the first service is counted", |client| {
        client.metric("warren_services_total") == 1
    });
    measure(false);
    // What was under way when it was turned off comes before this answer.
    client.create("second").unwrap();
    let before = MEASURED.map(|name| client.metric(name));
    assert!(before.iter().all(|count| *count > 0), "{before:?}");
    for number in 0..20 {
        client.create(&format!("off-{number}")).unwrap();
    }
    assert_eq!(MEASURED.map(|name| client.metric(name)), before);
    measure(true);
    client.create("last").unwrap();
    client.until("it is measured again", |client| {
        let now = MEASURED.map(|name| client.metric(name));
        let risen = now.iter().zip(&before).all(|(now, before)| now > before);
        risen && client.metric("warren_services_total") == 23
    });
}
