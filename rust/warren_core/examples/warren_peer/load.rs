//! A closed loop: each call that is answered is followed by another.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Instant;

use prost::Message as _;
use warren_core::host::{Completion, Kind};
use warren_core::pb;

use crate::Failure;
use crate::cluster::{self, CALL_TIMEOUT, Cluster, refusal, spec};
use crate::json::{pairs, text};

/// Fills a report up to a command of about 300 bytes.
const REPORT_PADDING: usize = 200;
const UPDATE_PADDING: usize = 150;

#[derive(Clone, Copy, PartialEq)]
pub enum What {
    Report,
    Update,
    Read,
}

impl What {
    fn padding(self) -> String {
        "x".repeat(match self {
            Self::Report => REPORT_PADDING,
            Self::Update => UPDATE_PADDING,
            Self::Read => 0,
        })
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "report" => Ok(Self::Report),
            "update" => Ok(Self::Update),
            "read" => Ok(Self::Read),
            _ => Err(format!("{word} is no load: report, update, read")),
        }
    }
}

/// One of the calls in flight: what it acts on, and how far that has come.
struct Slot {
    target: Vec<u8>,
    /// Of the service, where the target is one.
    name: String,
    version: u64,
}

struct Load<'a> {
    cluster: &'a mut Cluster,
    what: What,
    slots: Vec<Slot>,
    /// Call → slot and start.
    open: BTreeMap<u64, (usize, Instant)>,
    latencies_ns: Vec<u64>,
    padding: String,
    refused: BTreeMap<String, u64>,
}

pub fn run(
    cluster: &mut Cluster,
    what: What,
    count: usize,
    in_flight: usize,
) -> Result<String, Failure> {
    let slots = slots(cluster, what, in_flight)?;
    let mut load = Load {
        cluster,
        what,
        slots,
        open: BTreeMap::new(),
        latencies_ns: Vec::with_capacity(count),
        padding: what.padding(),
        refused: BTreeMap::new(),
    };
    let began = Instant::now();
    let mut left = count;
    for slot in 0..in_flight.min(count) {
        load.start(slot)?;
        left -= 1;
    }
    while !load.open.is_empty() {
        for completion in load.cluster.completed(Instant::now() + CALL_TIMEOUT)? {
            if let Some(slot) = load.finish(&completion)
                && left > 0
            {
                load.start(slot)?;
                left -= 1;
            }
        }
    }
    Ok(report(began, &load))
}

fn slots(cluster: &mut Cluster, what: What, in_flight: usize) -> Result<Vec<Slot>, Failure> {
    let slot = |target| Slot {
        target,
        name: String::new(),
        version: 1,
    };
    if what == What::Read {
        return Ok((0..in_flight).map(|_| slot(Vec::new())).collect());
    }
    if what == What::Report {
        let worker = cluster.worker.as_ref().ok_or("open a worker first")?;
        if worker.containers.len() < in_flight {
            return Err("the worker has fewer containers than calls in flight".into());
        }
        return Ok(worker.containers.iter().cloned().map(slot).collect());
    }
    let run = cluster.next_run();
    let names = (0..in_flight).map(|number| format!("load-{run}-{number}"));
    let created = names.map(|name| {
        let target = cluster
            .create_service(&name, 0, &what.padding())?
            .service_id;
        Ok(Slot {
            name,
            ..slot(target)
        })
    });
    created.collect()
}

impl Load<'_> {
    fn start(&mut self, slot: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let id = match self.what {
            What::Report => self.report(slot)?,
            What::Update => self.update(slot)?,
            What::Read => {
                let r#ref = cluster::READ_SERVICE.into();
                let request = pb::GetServiceRequest { r#ref };
                self.cluster.submit("GetService", &request)?
            }
        };
        self.open.insert(id, (slot, began));
        Ok(())
    }

    /// The slot whose call this was; `None` for what is none of the load.
    fn finish(&mut self, completion: &Completion) -> Option<usize> {
        let (slot, began) = self.open.remove(&completion.id)?;
        if completion.kind == Kind::Response {
            self.latencies_ns.push(began.elapsed().as_nanos() as u64);
            self.slots[slot].version += 1;
        } else {
            *self.refused.entry(refusal(completion)).or_default() += 1;
        }
        Some(slot)
    }

    /// A report that changes the container's record each time.
    fn report(&self, slot: usize) -> Result<u64, Failure> {
        let worker = self.cluster.worker.as_ref().ok_or("open a worker first")?;
        let Slot {
            target, version, ..
        } = &self.slots[slot];
        let mut message = version.to_string();
        message.push_str(&self.padding);
        let status = pb::ContainerStatus {
            attempt: 1,
            state: pb::ContainerState::Running.into(),
            message,
            pid: *version as u32,
            started_at_ms: 1_700_000_000_000,
            ..Default::default()
        };
        let item = pb::StatusItem {
            container_id: target.clone(),
            status: Some(status),
        };
        let report = pb::StatusReport { items: vec![item] };
        let message = pb::WorkerMessage {
            body: Some(pb::worker_message::Body::Report(report)),
        };
        let body = [worker.session.clone(), message.encode_to_vec()].concat();
        let host = &self.cluster.host;
        Ok(host.submit("local", "SessionMessage", &body, CALL_TIMEOUT)?)
    }

    fn update(&mut self, slot: usize) -> Result<u64, Failure> {
        let request = Some(self.cluster.request_id());
        let Slot {
            target,
            name,
            version,
        } = &self.slots[slot];
        let padding = format!("{version}{}", self.padding);
        let request = pb::UpdateServiceRequest {
            request,
            service_id: target.clone(),
            expected_version: *version,
            spec: Some(spec(name, 0, &padding)),
        };
        self.cluster.submit("UpdateService", &request)
    }
}

fn report(began: Instant, load: &Load<'_>) -> String {
    let seconds = began.elapsed().as_secs_f64();
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for latency_ns in &load.latencies_ns {
        *buckets.entry(upper_bound(*latency_ns)).or_default() += 1;
    }
    let buckets: Vec<_> = buckets.into_iter().collect();
    let refused: Vec<String> = load
        .refused
        .iter()
        .map(|(why, count)| format!("{}: {count}", text(why)))
        .collect();
    format!(
        "{{\"done\": {}, \"seconds\": {seconds:.6}, \"refused\": {{{}}}, \"buckets\": {}}}",
        load.latencies_ns.len(),
        refused.join(", "),
        pairs(&buckets)
    )
}

/// The largest value that shares the eight leading bits: within one percent.
fn upper_bound(value_ns: u64) -> u64 {
    let shift = value_ns.max(1).ilog2().saturating_sub(7);
    (((value_ns >> shift) + 1) << shift) - 1
}
