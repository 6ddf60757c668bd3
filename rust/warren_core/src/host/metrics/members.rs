//! What the members of a cluster say to each other, as series.

use super::Page;
use crate::control::{Status, Transfers, forwarding, peer};

pub fn render(status: &Status, page: &mut Page) {
    if !status.in_cluster && status.peers.links == 0 {
        return;
    }
    let learners = status.learners as u64;
    page.gauge(
        "warren_raft_learners",
        "Members that do not vote.",
        learners,
    );
    page.gauge(
        "warren_raft_joint",
        "1 while a change of voters is under way.",
        u64::from(status.is_joint),
    );
    page.gauge(
        "warren_raft_cut",
        "1 until a member whose log was cut has caught up.",
        u64::from(status.cut),
    );
    let silent = status.silent_voters as u64;
    page.gauge(
        "warren_raft_voters_silent",
        "Voters that the leader has not heard from lately; 0 on other managers.",
        silent,
    );
    let name = "warren_raft_peer_lag_entries";
    let help = "Entries by which each other member is behind the leader; 0 on other managers.";
    page.family(name, "gauge", help);
    for (peer, lag) in &status.lags {
        page.line(&format!("{name}{{peer=\"{}\"}}", peer.0), *lag);
    }
    let level = u64::from(status.feature_level);
    page.gauge(
        "warren_cluster_feature_level",
        "Feature level of the state: what all members' releases know.",
        level,
    );
    page.counter(
        "warren_state_hash_mismatches_total",
        "Contradictions between members' states: zero, always.",
        status.hash_mismatches,
    );
    frames(&status.peers, page);
    transfers(&status.transfers, page);
    forwards(&status.forwards, page);
}

fn frames(stats: &peer::Stats, page: &mut Page) {
    let name = "warren_peer_frames_total";
    page.family(name, "counter", "Frames from and to other members.");
    page.line(
        &format!("{name}{{direction=\"received\"}}"),
        stats.frames_received,
    );
    page.line(&format!("{name}{{direction=\"sent\"}}"), stats.frames_sent);
    let name = "warren_peer_frames_refused_total";
    page.family(
        name,
        "counter",
        "Frames of other members that were refused, by reason.",
    );
    for (why, count) in stats.refusals {
        page.line(&format!("{name}{{reason=\"{}\"}}", why.name()), count);
    }
    let links = stats.links as u64;
    page.gauge("warren_peer_links", "Other members that are known.", links);
}

fn transfers(transfers: &Transfers, page: &mut Page) {
    let sending = transfers.sending as u64;
    page.gauge(
        "warren_snapshot_sending",
        "Snapshots on their way to other members.",
        sending,
    );
    page.gauge(
        "warren_snapshot_receiving",
        "1 while a snapshot comes in.",
        u64::from(transfers.receiving),
    );
    page.counter(
        "warren_snapshot_sent_bytes_total",
        "Bytes of snapshots sent to other members.",
        transfers.sent_bytes,
    );
    page.counter(
        "warren_snapshot_received_bytes_total",
        "Bytes of snapshots received from other members.",
        transfers.received_bytes,
    );
}

fn forwards(stats: &forwarding::Stats, page: &mut Page) {
    let name = "warren_forwards_total";
    page.family(
        name,
        "counter",
        "Writes passed on to the leader, by what came of them.",
    );
    let results = [
        ("answered", stats.answered),
        ("refused", stats.refused),
        ("unknown", stats.unknown),
    ];
    for (result, count) in results {
        page.line(&format!("{name}{{result=\"{result}\"}}"), count);
    }
    page.gauge(
        "warren_forwards_waiting",
        "Writes passed on that wait for the leader's answer.",
        stats.waiting as u64,
    );
    page.gauge(
        "warren_forwards_taken",
        "Other members' writes under way here.",
        stats.taken as u64,
    );
}
