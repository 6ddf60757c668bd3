//! Replays a trace of pods that ask for GPUs, by Warren's policy and by those of others. JSON on
//! standard output; benches/openb.py gives the figures names.
//!
//!     cargo run --release --example bench_openb -- --nodes FILE --pods FILE [--seeds N]
//!         [--policies a,b,…] [--known] [--step-milli N] [--run-percent N]
//!         [--scarcity ignored|root|full] [--relearn-percent N] [--reweigh-percent N]
//!
//! Pods are shuffled, then random ones arrive again until they demand 130 % of the GPUs; none
//! leaves, and one that does not fit when it arrives is turned away (Weng et al., USENIX ATC 2023,
//! section 6). `--known` tells the fleet the workload's shapes beforehand, as the paper's policy
//! knows its typical pods; without it Warren knows only what has arrived.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads files and clocks"
)]

mod peers;
mod trace;

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use warren_core::ids::NodeId;
use warren_core::scheduler::{DeviceAsk, DeviceFleet, DeviceNode, Scarcity, Tuning, Want};

use peers::{Cluster, Policy};
use trace::{Node, Pod, Random};

/// Arrived demand in percent of capacity, where what is allocated is noted.
const STOPS_PCT: [u64; 7] = [80, 90, 95, 100, 110, 120, 130];
const SEED_FIRST: u64 = 42;
const WARREN: &str = "warren";

struct Options {
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    seeds: u64,
    policies: Vec<String>,
    known: bool,
    tuning: Tuning,
}

/// Of one policy over all seeds.
#[derive(Default)]
struct Found {
    /// For each seed, what was allocated at each stop, in percent of capacity.
    allocated_pct: Vec<[f64; STOPS_PCT.len()]>,
    latencies_ns: Vec<u64>,
    /// That the thread consumed, the bench's own bookkeeping with it.
    thread_ns: u64,
    evaluations: u64,
}

fn main() {
    let options = options().unwrap_or_else(|why| {
        eprintln!("bench_openb: {why}; see the head of its source");
        std::process::exit(2);
    });
    let mut policies = Vec::new();
    for name in &options.policies {
        let mut found = Found::default();
        for seed in SEED_FIRST..SEED_FIRST + options.seeds {
            replay(name, &options, seed, &mut found);
        }
        policies.push(format!("\"{name}\": {}", found.json()));
    }
    let gpus: u64 = options.nodes.iter().map(|n| u64::from(n.gpus)).sum();
    println!(
        "{{\"nodes\": {}, \"gpus\": {gpus}, \"pods\": {}, \"stops_pct\": {STOPS_PCT:?}, \
         \"policies\": {{{}}}}}",
        options.nodes.len(),
        options.pods.len(),
        policies.join(", ")
    );
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        nodes: Vec::new(),
        pods: Vec::new(),
        seeds: 10,
        policies: vec![WARREN.to_owned()],
        known: false,
        tuning: Tuning::default(),
    };
    options
        .policies
        .extend(Policy::ALL.map(|(name, _)| name.to_owned()));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--known" {
            options.known = true;
            continue;
        }
        let value = arguments.next();
        let value = value.ok_or_else(|| format!("{argument} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{value} is no number"))
        };
        let tuning = &mut options.tuning;
        match argument.as_str() {
            "--nodes" => options.nodes = trace::nodes(&read(&value)?)?,
            "--pods" => options.pods = trace::pods(&read(&value)?)?,
            "--seeds" => options.seeds = number()?,
            "--policies" => options.policies = value.split(',').map(str::to_owned).collect(),
            "--step-milli" => tuning.step_milli = number()? as u32,
            "--run-percent" => tuning.run_percent = number()?.min(100) as u32,
            "--relearn-percent" => tuning.relearn_percent = number()?,
            "--reweigh-percent" => tuning.reweigh_percent = number()?,
            "--scarcity" => {
                tuning.scarcity = match value.as_str() {
                    "ignored" => Scarcity::Ignored,
                    "root" => Scarcity::Root,
                    "full" => Scarcity::Full,
                    _ => return Err(format!("no scarcity {value}")),
                };
            }
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    if options.nodes.iter().all(|node| node.gpus == 0) || options.pods.is_empty() {
        return Err("there must be nodes with GPUs, and pods".to_owned());
    }
    for name in &options.policies {
        if name != WARREN && peer(name).is_none() {
            return Err(format!("no policy {name}"));
        }
    }
    Ok(options)
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|why| format!("{path}: {why}"))
}

fn peer(name: &str) -> Option<Policy> {
    let mut all = Policy::ALL.iter();
    all.find(|(other, _)| *other == name)
        .map(|(_, policy)| *policy)
}

fn replay(name: &str, options: &Options, seed: u64, found: &mut Found) {
    let gpus: u64 = options.nodes.iter().map(|node| u64::from(node.gpus)).sum();
    let capacity_milli = gpus * 1000;
    let last_pct = STOPS_PCT[STOPS_PCT.len() - 1];
    let mut random = Random(seed);
    let order = trace::arrivals(&options.pods, capacity_milli * last_pct / 100, &mut random);
    let mut contender = match peer(name) {
        Some(policy) => {
            let seed = random.next();
            Contender::Peer(Cluster::new(policy, &options.nodes, &options.pods, seed))
        }
        None => Contender::Warren(Box::new(Warren::new(options, random.next()))),
    };
    let thread_began_ns = thread_ns();
    let (mut arrived, mut allocated) = (0, 0);
    let mut at_stops = [0.0; STOPS_PCT.len()];
    for pod in order {
        let demand = options.pods[pod].demand_milli();
        arrived += demand;
        if arrived * 100 > capacity_milli * last_pct {
            break;
        }
        let began = Instant::now();
        let placed = contender.place(&options.pods, pod);
        found.latencies_ns.push(began.elapsed().as_nanos() as u64);
        if placed {
            allocated += demand;
        }
        for (stop, pct) in at_stops.iter_mut().zip(STOPS_PCT) {
            if arrived * 100 <= capacity_milli * pct {
                *stop = allocated as f64 * 100.0 / capacity_milli as f64;
            }
        }
    }
    found.thread_ns += thread_ns() - thread_began_ns;
    found.allocated_pct.push(at_stops);
    if let Contender::Warren(warren) = contender {
        found.evaluations += warren.fleet.evaluations();
    }
}

enum Contender {
    Warren(Box<Warren>),
    Peer(Cluster),
}

impl Contender {
    fn place(&mut self, pods: &[Pod], pod: usize) -> bool {
        match self {
            Self::Warren(warren) => warren.place(pod),
            Self::Peer(cluster) => cluster.place(&pods[pod]),
        }
    }
}

/// The fleet, and the pods as it takes them.
struct Warren {
    fleet: DeviceFleet,
    asks: Vec<DeviceAsk>,
    known: bool,
}

impl Warren {
    fn new(options: &Options, seed: u64) -> Self {
        let mut fleet = DeviceFleet::new(seed, options.tuning);
        for (number, node) in options.nodes.iter().enumerate() {
            let id = NodeId((number as u128 + 1).to_be_bytes());
            let gpu = ("gpu".to_owned(), node.model.clone());
            let node = DeviceNode {
                cpu_milli: node.cpu_milli,
                memory_bytes: node.memory_mib << 20,
                devices: vec![gpu; usize::from(node.gpus)],
            };
            fleet.node_put(id, &node).expect("a node within the limits");
        }
        let asks: Vec<_> = options.pods.iter().map(ask).collect();
        if options.known {
            for ask in &asks {
                fleet.arrived(ask).expect("a pod within the limits");
            }
        }
        let known = options.known;
        Self { fleet, asks, known }
    }

    fn place(&mut self, pod: usize) -> bool {
        let ask = &self.asks[pod];
        if !self.known {
            self.fleet.arrived(ask).expect("a pod within the limits");
        }
        let placed = self.fleet.place(ask).expect("a pod within the limits");
        placed.is_some()
    }
}

fn ask(pod: &Pod) -> DeviceAsk {
    DeviceAsk {
        cpu_milli: pod.cpu_milli,
        memory_bytes: pod.memory_mib << 20,
        want: match (pod.gpus, pod.gpu_milli) {
            (0, _) => Want::Nothing,
            (1, share) if share < 1000 => Want::Share(share),
            (count, _) => Want::Whole(count),
        },
        kind: "gpu".to_owned(),
        models: pod.models.clone(),
        beside: Vec::new(),
    }
}

impl Found {
    fn json(&self) -> String {
        let seeds = self.allocated_pct.iter().map(|stops| {
            let stops: Vec<_> = stops.iter().map(|pct| format!("{pct:.4}")).collect();
            format!("[{}]", stops.join(", "))
        });
        let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
        for latency in &self.latencies_ns {
            *buckets.entry(bucket(*latency)).or_default() += 1;
        }
        let buckets = buckets.iter().map(|(ns, count)| format!("[{ns}, {count}]"));
        let thread_s = self.thread_ns as f64 / 1e9;
        format!(
            "{{\"allocated_pct\": [{}], \"decisions\": {}, \"thread_seconds\": {thread_s:.6}, \
             \"evaluations\": {}, \"buckets\": [{}]}}",
            seeds.collect::<Vec<_>>().join(", "),
            self.latencies_ns.len(),
            self.evaluations,
            buckets.collect::<Vec<_>>().join(", ")
        )
    }
}

fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Within a thirty-second of the value.
fn bucket(ns: u64) -> u64 {
    let shift = ns.max(1).ilog2().saturating_sub(5);
    ns >> shift << shift
}
