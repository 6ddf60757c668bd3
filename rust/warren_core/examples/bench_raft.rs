//! What consensus itself costs: three members in one thread, without a disk or a network, but with
//! every message encoded and decoded. Prints one line of JSON.
//!
//!     cargo run --release --example bench_raft -- [--quick]

#![allow(clippy::disallowed_methods, reason = "a figure needs a clock")]

use std::time::Instant;

use prost::Message as _;
use warren_core::ids::{Index, MemberId, Term};
use warren_core::pb;
use warren_core::raft::{ConfState, Position, Raft, Recovered, Role};

const COMMAND_BYTES: usize = 300;
const IN_FLIGHT: usize = 256;

struct Cluster {
    members: Vec<Raft>,
    applied: Vec<u64>,
    wire: Vec<(usize, usize, Vec<u8>)>,
    messages: u64,
    bytes: u64,
}

impl Cluster {
    fn new() -> Self {
        let genesis = Position {
            index: Index(1),
            term: Term(1),
        };
        let conf = ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        };
        let start = |id| {
            let recovered = Recovered {
                member: MemberId(id),
                snapshot: Some((genesis, conf.clone())),
                hard_state: None,
                entries: Vec::new(),
                cut: false,
            };
            Raft::new(recovered, id).expect("nothing is damaged")
        };
        Self {
            members: (1..=3).map(start).collect(),
            applied: vec![1; 3],
            wire: Vec::new(),
            messages: 0,
            bytes: 0,
        }
    }

    fn work(&mut self, at: usize) {
        while let Some(work) = self.members[at].take_work() {
            for message in work.messages {
                let bytes = message.body.encode_to_vec();
                self.messages += 1;
                self.bytes += bytes.len() as u64;
                self.wire.push((at, message.to.0 as usize - 1, bytes));
            }
            if let Some(last) = work.committed.last() {
                self.applied[at] = last.at.index.0;
                self.members[at].applied(last.at.index);
            }
            if let Some(persist) = work.persist {
                self.members[at].persisted(persist.number);
            }
        }
    }

    fn round(&mut self) {
        for (from, to, bytes) in std::mem::take(&mut self.wire) {
            let body = pb::RaftMessage::decode(bytes.as_slice()).expect("just encoded");
            let received = self.members[to].receive(MemberId(from as u64 + 1), body);
            received.expect("from a correct member");
        }
        (0..3).for_each(|at| self.work(at));
    }

    fn compact(&mut self) {
        for (member, applied) in self.members.iter_mut().zip(&self.applied) {
            let at = Position {
                index: Index(*applied),
                term: member.term(),
            };
            let conf = member.conf_state().clone();
            member.set_snapshot(at, conf);
            member.compact(at, 128 << 20);
        }
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let commands: u64 = if quick { 20_000 } else { 1_000_000 };
    let mut cluster = Cluster::new();
    cluster.members[0].campaign();
    cluster.work(0);
    while cluster.members[0].role() != Role::Leader || !cluster.wire.is_empty() {
        cluster.round();
    }
    let (first, mut proposed) = (cluster.applied[0], 0);
    let command = vec![7; COMMAND_BYTES];
    (cluster.messages, cluster.bytes) = (0, 0);
    let started = Instant::now();
    while cluster.applied[0] < first + commands {
        let in_flight = proposed - (cluster.applied[0] - first);
        for _ in in_flight..IN_FLIGHT as u64 {
            cluster.members[0]
                .propose(command.clone())
                .expect("there is room");
            proposed += 1;
        }
        cluster.work(0);
        cluster.round();
        if proposed % 65_536 < IN_FLIGHT as u64 {
            cluster.compact();
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"commands\": {commands}, \"command_bytes\": {COMMAND_BYTES}, \"in_flight\": {IN_FLIGHT}, \
         \"per_second\": {:.0}, \"messages\": {}, \"wire_bytes\": {}}}",
        commands as f64 / seconds,
        cluster.messages,
        cluster.bytes
    );
}
