//! What the connections have done, for the metrics page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::histogram::ByPeer;
use super::LANES;
use crate::ids::MemberId;
use crate::raft::Lane;

/// Of one lane to one peer.
#[derive(Default)]
pub struct LaneCounters {
    pub sent_frames: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub queued: AtomicUsize,
    /// Dropped because the queue was full.
    pub queue_full: AtomicU64,
    /// Dropped because they had waited for too long.
    pub expired: AtomicU64,
    /// Being written when the connection broke.
    pub connection_lost: AtomicU64,
    pub connected: AtomicBool,
    pub dial_failures: AtomicU64,
}

impl LaneCounters {
    pub fn lost(&self, frames: usize) {
        self.connection_lost.fetch_add(frames as u64, Relaxed);
    }
}

/// Why an accepted connection was closed by this side.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    NotOurs,
    Length,
    TooMany,
    /// No manager of this cluster, by its certificate.
    NotAuthenticated,
    /// A frame in the name of a member that belongs to another node.
    OtherNode,
}

const REASONS: [&str; 5] = [
    "not_a_member",
    "frame_length",
    "too_many",
    "not_authenticated",
    "other_node",
];

#[derive(Default)]
pub struct Counters {
    lanes: Mutex<BTreeMap<(MemberId, usize), Arc<LaneCounters>>>,
    received_frames: [AtomicU64; LANES.len()],
    received_bytes: [AtomicU64; LANES.len()],
    accepted: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    no_such_peer: AtomicU64,
    /// From a heartbeat of the leader to the peer's answer.
    pub round_trips: ByPeer,
}

impl Counters {
    pub fn lane(&self, member: MemberId, lane: Lane) -> Arc<LaneCounters> {
        self.round_trips.add(member);
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.entry((member, lane as usize)).or_default().clone()
    }

    /// The peer has gone; so do its series.
    pub fn forget(&self, member: MemberId) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|(of, _), _| *of != member);
        self.round_trips.forget(member);
    }

    pub fn received(&self, lane: Lane, bytes: usize) {
        self.received_frames[lane as usize].fetch_add(1, Relaxed);
        self.received_bytes[lane as usize].fetch_add(bytes as u64, Relaxed);
    }

    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub fn refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    pub fn no_such_peer(&self) {
        self.no_such_peer.fetch_add(1, Relaxed);
    }

    #[cfg(test)]
    pub fn accepted_total(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    #[cfg(test)]
    pub fn refusals(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }

    /// Appends everything, in the text format 0.0.4. `fine`: histograms with buckets from 1 µs.
    pub fn render(&self, fine: bool, page: &mut String) {
        self.round_trips.render(
            "warren_peer_round_trip_seconds",
            "From a heartbeat of the leader to the peer's answer; nothing on other managers.",
            fine,
            page,
        );
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family =
            |name: &str, kind: &str, help: &str, read: &dyn Fn(&LaneCounters) -> u64| {
                head(page, name, kind, help);
                for ((member, lane), counters) in &*lanes {
                    let (peer, lane) = (member.0, name_of(LANES[*lane]));
                    line(
                        page,
                        &format!("{name}{{peer=\"{peer}\",lane=\"{lane}\"}}"),
                        read(counters),
                    );
                }
            };
        family(
            "warren_peer_connected",
            "gauge",
            "1 while there is a connection to the peer.",
            &|of| u64::from(of.connected.load(Relaxed)),
        );
        family(
            "warren_peer_queue_depth",
            "gauge",
            "Frames that wait to be written.",
            &|of| of.queued.load(Relaxed) as u64,
        );
        family(
            "warren_peer_sent_frames_total",
            "counter",
            "Frames written to the peer.",
            &|of| of.sent_frames.load(Relaxed),
        );
        family(
            "warren_peer_sent_bytes_total",
            "counter",
            "Bytes written to the peer.",
            &|of| of.sent_bytes.load(Relaxed),
        );
        family(
            "warren_peer_queue_full_total",
            "counter",
            "Frames dropped because newer ones found the queue full.",
            &|of| of.queue_full.load(Relaxed),
        );
        family(
            "warren_peer_expired_frames_total",
            "counter",
            "Frames dropped because they had waited for too long to be written.",
            &|of| of.expired.load(Relaxed),
        );
        family(
            "warren_peer_lost_frames_total",
            "counter",
            "Frames that were being written when the connection broke.",
            &|of| of.connection_lost.load(Relaxed),
        );
        family(
            "warren_peer_dial_failures_total",
            "counter",
            "Attempts to connect to the peer, or connections to it, that failed.",
            &|of| of.dial_failures.load(Relaxed),
        );
        drop(lanes);
        self.render_received(page);
    }

    fn render_received(&self, page: &mut String) {
        for (name, help, values) in [
            (
                "warren_peer_received_frames_total",
                "Frames read from all peers.",
                &self.received_frames,
            ),
            (
                "warren_peer_received_bytes_total",
                "Bytes read from all peers.",
                &self.received_bytes,
            ),
        ] {
            head(page, name, "counter", help);
            for (lane, value) in LANES.into_iter().zip(values) {
                let series = format!("{name}{{lane=\"{}\"}}", name_of(lane));
                line(page, &series, value.load(Relaxed));
            }
        }
        let name = "warren_peer_connections_accepted_total";
        head(page, name, "counter", "Connections taken from peers.");
        line(page, name, self.accepted.load(Relaxed));
        let name = "warren_peer_connections_refused_total";
        head(
            page,
            name,
            "counter",
            "Accepted connections that were closed, by reason.",
        );
        for (reason, value) in REASONS.iter().zip(&self.refused) {
            line(
                page,
                &format!("{name}{{reason=\"{reason}\"}}"),
                value.load(Relaxed),
            );
        }
        let name = "warren_peer_unaddressed_frames_total";
        head(
            page,
            name,
            "counter",
            "Frames to members that are no peers.",
        );
        line(page, name, self.no_such_peer.load(Relaxed));
    }
}

fn name_of(lane: Lane) -> &'static str {
    match lane {
        Lane::Urgent => "urgent",
        Lane::Log => "log",
        Lane::Bulk => "bulk",
    }
}

// Writing to a string cannot fail.
fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn line(page: &mut String, series: &str, value: u64) {
    let _ = writeln!(page, "{series} {value}");
}
