//! What the state costs: `apply` of status reports and binds, the stall a snapshot causes, memory,
//! and reading a snapshot back. JSON on standard output; benches/README.md says what it means.
//!
//!     cargo run --release --example bench_fsm -- [--containers N] [--quick]
//!
//! Each command is timed twice: by the wall clock, and by what the thread itself consumed, which a
//! busy machine disturbs less.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks"
)]

#[path = "shared/filled.rs"]
mod filled;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use warren_core::control::REPORT_ITEMS_MAX;
use warren_core::fsm::{ContainerState, DesiredState, NodeStatus, State, snapshot, tally};
use warren_core::ids::{ContainerId, Index, NodeId, Term};
use warren_core::orchestrator::DESIRED_ITEMS_MAX;
use warren_core::pb::{self, command::Body};

use filled::{Filled, mixed};

/// Rounds of reports about every container.
const ROUNDS: u32 = 3;
/// Nodes that are lost, and whose containers go.
const NODES_LOST: usize = 8;

fn main() {
    let (mut containers, mut quick) = (1_000_000, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (containers, quick) = (20_000, true),
            "--containers" => {
                let number = arguments.next().and_then(|n| n.parse().ok());
                containers = number.expect("--containers needs a number");
            }
            other => panic!("unknown argument {other}; see the head of this file"),
        }
    }
    let mut bench = Bench::default();
    let empty_bytes = resident_bytes();
    let bind = bench.fill(containers);
    let full_bytes = resident_bytes() - empty_bytes;
    let mut apply = Times::default();
    let mut decoded = Times::default();
    for round in 0..ROUNDS {
        bench.report(round, &mut apply, Bench::apply_command);
        bench.report(ROUNDS + round, &mut decoded, Bench::apply_bytes);
    }
    let cloned_bytes = bench.cost_of_a_clone(3 * ROUNDS);
    let (stalls, snapshots, write_ms) = bench.report_during_snapshots(4 * ROUNDS, quick);
    let (snapshot_bytes, [read_ms, read_thread_ms]) = bench.read_back();
    let lost = bench.lose_nodes();
    let tallies = bench.tallies();
    let (desired, gone) = bench.clear_nodes(5 * ROUNDS);
    println!("{{");
    println!("  \"containers\": {containers},");
    println!("  \"bind\": {},", bind.json());
    println!("  \"status_apply\": {},", apply.json());
    println!("  \"status_decode_and_apply\": {},", decoded.json());
    println!("  \"status_apply_during_snapshots\": {},", stalls.json());
    println!("  \"snapshots_written\": {snapshots},");
    println!("  \"snapshot_write_ms\": {write_ms:.1},");
    println!("  \"snapshot_bytes\": {snapshot_bytes},");
    println!("  \"snapshot_read_ms\": {read_ms:.1},");
    println!("  \"snapshot_read_thread_ms\": {read_thread_ms:.1},");
    println!("  \"node_lost_or_back\": {},", lost.json());
    println!("  \"tally\": {},", tallies.json());
    println!("  \"set_desired\": {},", desired.json());
    println!("  \"status_last\": {},", gone.json());
    let each = |bytes: u64| bytes / containers as u64;
    println!("  \"memory_bytes_per_container\": {},", each(full_bytes));
    println!(
        "  \"memory_bytes_per_container_with_a_clone\": {}",
        each(full_bytes + cloned_bytes)
    );
    println!("}}");
}

/// Items and nanoseconds of each command.
#[derive(Default)]
struct Times {
    items: usize,
    wall_ns: Vec<u64>,
    thread_ns: Vec<u64>,
}

impl Times {
    fn add(&mut self, items: usize, work: impl FnOnce()) {
        let (wall, thread) = (Instant::now(), thread_ns());
        work();
        self.thread_ns.push(thread_ns() - thread);
        self.wall_ns.push(wall.elapsed().as_nanos() as u64);
        self.items += items;
    }

    fn json(&self) -> String {
        let of = |times: &[u64]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            let per_second = self.items as f64 * 1e9 / times.iter().sum::<u64>().max(1) as f64;
            let at = |share: f64| {
                let rank = (times.len() as f64 * share).ceil() as usize;
                times[rank.clamp(1, times.len()) - 1] as f64 / 1e3
            };
            format!(
                "{{\"items_per_second\": {per_second:.0}, \"p50_us\": {:.0}, \"p90_us\": {:.0}, \
                 \"p99_us\": {:.0}, \"p999_us\": {:.0}, \"max_us\": {:.0}}}",
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                at(1.0)
            )
        };
        format!(
            "{{\"commands\": {}, \"items\": {}, \"wall\": {}, \"thread\": {}}}",
            self.wall_ns.len(),
            self.items,
            of(&self.wall_ns),
            of(&self.thread_ns)
        )
    }
}

#[derive(Default)]
struct Bench {
    state: State,
    index: u64,
    nodes: Vec<NodeId>,
}

impl Bench {
    fn command(&self, body: Body) -> pb::Command {
        filled::command(self.index, body)
    }

    fn apply_command(&mut self, command: &pb::Command, _: &[u8]) {
        self.index += 1;
        let applied = self.state.apply(Index(self.index), Term(1), command);
        assert!(applied.response.is_ok());
    }

    fn apply_bytes(&mut self, _: &pb::Command, bytes: &[u8]) {
        self.index += 1;
        let applied = self.state.apply_bytes(Index(self.index), Term(1), bytes);
        assert!(applied.expect("it is a command").response.is_ok());
    }

    /// A cluster of full nodes; each service lies on all of them.
    fn fill(&mut self, containers: usize) -> Times {
        let mut times = Times::default();
        let bind = |items: usize, work: &mut dyn FnMut()| times.add(items, work);
        let Filled {
            state,
            index,
            nodes,
        } = Filled::new(containers, bind);
        (self.state, self.index, self.nodes) = (state, index, nodes);
        times
    }

    /// Every node reports each of its containers, in no order; each report is a change.
    fn report(&mut self, round: u32, times: &mut Times, apply: fn(&mut Self, &pb::Command, &[u8])) {
        let status = pb::ContainerStatus {
            attempt: 2 + round,
            state: ContainerState::Running.into(),
            message: "started".to_owned(),
            pid: 10_000 + round,
            started_at_ms: 1_800_000_000_000 + u64::from(round),
            ..Default::default()
        };
        for node in self.nodes.clone() {
            self.report_node(node, &status, times, apply);
        }
    }

    fn report_node(
        &mut self,
        node: NodeId,
        status: &pb::ContainerStatus,
        times: &mut Times,
        apply: fn(&mut Self, &pb::Command, &[u8]),
    ) {
        let mut ids: Vec<ContainerId> = self.state.containers_of_node(node).map(|c| c.id).collect();
        shuffle(&mut ids, u64::from(status.attempt));
        for ids in ids.chunks(REPORT_ITEMS_MAX) {
            let items = ids.iter().map(|id| pb::StatusItem {
                container_id: id.to_vec(),
                status: Some(status.clone()),
            });
            let command = self.command(Body::ReportStatus(pb::ReportStatus {
                node_id: node.to_vec(),
                items: items.collect(),
            }));
            let bytes = command.encode_to_vec();
            let before = self.state.hash();
            times.add(ids.len(), || apply(self, &command, &bytes));
            assert_ne!(self.state.hash(), before);
        }
    }

    /// Nodes are lost and come back.
    fn lose_nodes(&mut self) -> Times {
        let mut times = Times::default();
        let lost: Vec<NodeId> = self.nodes.iter().copied().take(NODES_LOST).collect();
        for status in [NodeStatus::Down, NodeStatus::Ready] {
            for node in &lost {
                let command = self.command(Body::SetNodeStatus(pb::SetNodeStatus {
                    node_id: node.to_vec(),
                    status: status.into(),
                }));
                let count = self.state.container_count_of_node(*node);
                times.add(count, || self.apply_command(&command, &[]));
            }
        }
        times
    }

    /// How far each service is.
    fn tallies(&self) -> Times {
        let (mut times, mut running) = (Times::default(), 0);
        for service in self.state.services() {
            times.add(1, || {
                running += tally(&self.state, service).running as usize
            });
        }
        assert_eq!(running, self.state.container_count());
        times
    }

    /// Containers are to go, and then have gone.
    fn clear_nodes(&mut self, round: u32) -> (Times, Times) {
        let (mut desired, mut gone) = (Times::default(), Times::default());
        let status = pb::ContainerStatus {
            attempt: 2 + round,
            state: ContainerState::Shutdown.into(),
            removed: true,
            ..Default::default()
        };
        let before = self.state.container_count();
        for node in self.nodes.clone().into_iter().take(NODES_LOST) {
            let items = self.state.containers_of_node(node);
            let items: Vec<_> = items
                .map(|container| pb::DesiredItem {
                    container_id: container.id.to_vec(),
                    desired: DesiredState::Remove.into(),
                })
                .collect();
            for items in items.chunks(DESIRED_ITEMS_MAX) {
                let items = items.to_vec();
                let count = items.len();
                let command = self.command(Body::SetDesired(pb::SetDesired { items }));
                desired.add(count, || self.apply_command(&command, &[]));
            }
            self.report_node(node, &status, &mut gone, Self::apply_bytes);
        }
        assert_eq!(self.state.container_count(), before - gone.items);
        (desired, gone)
    }

    /// Memory that a held clone costs when every container has changed since.
    fn cost_of_a_clone(&mut self, round: u32) -> u64 {
        let before = resident_bytes();
        let clone = self.state.clone();
        self.report(round, &mut Times::default(), Self::apply_command);
        let after = resident_bytes();
        assert_ne!(clone.hash(), self.state.hash());
        after.saturating_sub(before)
    }

    /// Reports while another thread writes snapshots, each of a fresh clone, and drops them.
    fn report_during_snapshots(&mut self, round: u32, quick: bool) -> (Times, usize, f64) {
        let (mut times, mut written, mut write_ms) = (Times::default(), 0, 0.0);
        let rounds = if quick { 1 } else { 3 };
        let mut next = round;
        while written < rounds {
            let clone = self.state.clone();
            let done = AtomicBool::new(false);
            let took = std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let started = Instant::now();
                    let bytes = write(&clone);
                    drop(clone);
                    done.store(true, Ordering::Release);
                    assert!(bytes > 0);
                    started.elapsed()
                });
                while !done.load(Ordering::Acquire) {
                    self.report(next, &mut times, Self::apply_command);
                    next += 1;
                }
                writer.join().expect("it writes")
            });
            write_ms += took.as_secs_f64() * 1e3 / f64::from(rounds);
            written += 1;
        }
        (times, written as usize, write_ms)
    }

    /// By the wall clock and by what the thread consumed.
    fn read_back(&self) -> (usize, [f64; 2]) {
        let mut bytes = Vec::new();
        let header = snapshot::header(&self.state, Vec::new());
        let mut sink = |frame: &[u8]| {
            bytes.extend_from_slice(frame);
            Ok::<(), ()>(())
        };
        snapshot::write(&self.state, &header, &mut sink).expect("a vector takes everything");
        let (started, thread) = (Instant::now(), thread_ns());
        let (state, _) = snapshot::read(&bytes[..]).expect("what was written is readable");
        let took_ms = [
            started.elapsed().as_secs_f64() * 1e3,
            (thread_ns() - thread) as f64 / 1e6,
        ];
        assert_eq!(state.hash(), self.state.hash());
        (bytes.len(), took_ms)
    }
}

/// Writes to nowhere; how many bytes.
fn write(state: &State) -> usize {
    let mut bytes = 0;
    let header = snapshot::header(state, Vec::new());
    let mut sink = |frame: &[u8]| {
        bytes += frame.len();
        Ok::<(), ()>(())
    };
    snapshot::write(state, &header, &mut sink).expect("nowhere takes everything");
    bytes
}

/// Fisher and Yates.
fn shuffle<T>(list: &mut [T], seed: u64) {
    for last in (1..list.len()).rev() {
        let other = mixed(seed << 32 | last as u64) % (last as u64 + 1);
        list.swap(last, other as usize);
    }
}

fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("it is a number")
        * 1024
}
