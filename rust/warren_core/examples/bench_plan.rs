//! What explanations and plans cost a reader thread: on a cluster with services that ask for zones and
//! spreads, each measured from a copy of the state to the finished answer, encoding apart. JSON on
//! standard output; benches/README.md says what it means.
//!
//!     cargo run --release --example bench_plan -- [--nodes N] [--containers N] [--rounds N] [--case WORDS]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use warren_core::fsm::{Availability, FEATURE_LEVEL_MAX, Service, State};
use warren_core::ids::{Index, NodeId, Term};
use warren_core::orchestrator::{DryRun, Keeping, Subject, explain};
use warren_core::pb::{self, command::Body};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ZONES: usize = 10;
const SERVICES: usize = 100;
/// Binds of one command.
const BATCH: usize = 4_096;

fn main() {
    let (mut nodes, mut containers, mut rounds) = (10_000, 100_000, 20);
    let mut only = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = match argument.as_str() {
            "--nodes" => &mut nodes,
            "--containers" => &mut containers,
            "--rounds" => &mut rounds,
            "--case" => {
                only = arguments.next().expect("it needs words of its name");
                continue;
            }
            other => panic!("unknown argument {other}; see the head of this file"),
        };
        let number = arguments.next().and_then(|n| n.parse().ok());
        *value = number.expect("it needs a number");
    }
    let world = World::new(nodes, containers);
    let state = &world.state;
    let service = |name: &str| state.service_by_name(name).expect("it is there").clone();
    let (plain, zoned, full) = (service("s0"), service("s1"), service("full"));
    let container = state.containers_of_service(plain.id).next();
    let container = container.expect("it has some").clone();
    let mut cases = Vec::new();
    let mut measure = |name: &str, run: &dyn Fn() -> u64| {
        if !name.contains(&only) {
            return;
        }
        let mut times = Times::default();
        let mut found = 0;
        for _ in 0..rounds {
            times.time(|| found = run());
        }
        cases.push(times.json(name, found));
    };
    let fits = |service: &Service, subject| {
        u64::from(explain(state, service, subject, &Keeping::default()).fit)
    };
    measure("explain, a service", &|| fits(&plain, Subject::Service));
    measure("explain, constraint and two spreads", &|| {
        fits(&zoned, Subject::Service)
    });
    measure("explain, no node has room", &|| {
        fits(&full, Subject::Service)
    });
    measure("explain, a container", &|| {
        fits(&plain, Subject::Container(&container))
    });
    measure("plan, create 100", &|| create(state, 100));
    measure("plan, create 1,000", &|| create(state, 1_000));
    measure("plan, update of an image's environment", &|| {
        change(state, &plain, |spec| {
            let container = spec.container.as_mut().expect("it has one");
            container.env = vec!["A=1".into()];
        })
    });
    measure("plan, scale by 100", &|| {
        change(state, &zoned, |spec| spec.replicas += 100)
    });
    measure("plan, drain a node", &|| {
        let mut run = DryRun::new(state, 0);
        let drain = pb::SetNodeAvailability {
            node_id: node_id(7).to_vec(),
            availability: Availability::Drain.into(),
            ..Default::default()
        };
        run.change(Body::SetNodeAvailability(drain))
            .expect("the node is there");
        assert!(run.run());
        let others = run.others(&Default::default());
        others.len() as u64
    });
    println!(
        "{{\"nodes\": {nodes}, \"containers\": {}, \"cases\": [{}]}}",
        state.container_count(),
        cases.join(", ")
    );
}

/// Containers that a plan places.
fn create(state: &State, replicas: u32) -> u64 {
    let mut run = DryRun::new(state, 0);
    let spec = Some(spec("new", replicas, 100, Rules::Spread));
    run.change(Body::CreateService(pb::CreateService { spec }))
        .expect("it makes sense");
    placed(run, "new")
}

fn change(state: &State, service: &Service, change: impl Fn(&mut pb::ServiceSpec)) -> u64 {
    let mut run = DryRun::new(state, 0);
    let mut spec = service.spec.as_ref().clone();
    change(&mut spec);
    let update = pb::UpdateService {
        service_id: service.id.to_vec(),
        expected_version: service.version,
        spec: Some(spec),
    };
    run.change(Body::UpdateService(update))
        .expect("it makes sense");
    placed(run, &service.name)
}

fn placed(mut run: DryRun, name: &str) -> u64 {
    let id = run.state().service_by_name(name).expect("it is there").id;
    run.take_up(id);
    assert!(run.run());
    let outcome = run.outcome(id);
    outcome.placed.values().map(|count| u64::from(*count)).sum()
}

enum Rules {
    None,
    Spread,
    Zoned,
}

fn spec(name: &str, replicas: u32, cpu_milli: u64, rules: Rules) -> pb::ServiceSpec {
    let spread = |attribute: &str| pb::Spread {
        attribute: attribute.into(),
        ..Default::default()
    };
    let placement = match rules {
        Rules::None => None,
        Rules::Spread => Some(pb::Placement {
            spreads: vec![spread("node.labels.zone")],
            ..Default::default()
        }),
        Rules::Zoned => Some(pb::Placement {
            constraints: vec!["node.labels.zone!=z3".into()],
            spreads: vec![spread("node.labels.zone"), spread("node.labels.rack")],
            ..Default::default()
        }),
    };
    pb::ServiceSpec {
        name: name.into(),
        mode: pb::ServiceMode::Replicated.into(),
        replicas,
        container: Some(pb::ContainerSpec {
            image: "docker.io/library/web:1".into(),
            image_digest: DIGEST.into(),
            resources: Some(pb::Resources {
                cpu_milli,
                memory_bytes: 64 << 20,
                ..Default::default()
            }),
            ..Default::default()
        }),
        placement,
        ..Default::default()
    }
}

fn node_id(number: usize) -> NodeId {
    NodeId((number as u128 + 1).to_be_bytes())
}

struct World {
    state: State,
    index: u64,
}

impl World {
    fn new(nodes: usize, containers: usize) -> Self {
        let mut world = Self {
            state: State::new(),
            index: 0,
        };
        let founder = pb::Member {
            id: 1,
            data_dir: vec![1; 16],
            node_id: vec![1; 16],
            address: "n0:1".into(),
            voter: true,
            feature_level_max: FEATURE_LEVEL_MAX,
            ..Default::default()
        };
        world.apply(Body::CreateCluster(pb::CreateCluster {
            cluster_id: vec![1; 16],
            epoch: 1,
            founder: Some(founder),
        }));
        let level = FEATURE_LEVEL_MAX;
        world.apply(Body::RaiseFeatureLevel(pb::RaiseFeatureLevel { level }));
        for number in 0..nodes {
            world.node(number);
        }
        let of_each = containers / SERVICES;
        for number in 0..SERVICES {
            let rules = if number == 1 {
                Rules::Zoned
            } else {
                Rules::None
            };
            world.service(&format!("s{number}"), of_each, 100, rules, nodes, number);
        }
        world.service("full", 1, 1 << 29, Rules::None, 0, 0);
        world
    }

    fn apply(&mut self, body: Body) {
        self.index += 1;
        let mut entropy = [0; 12];
        entropy[..8].copy_from_slice(&self.index.to_le_bytes());
        let command = pb::Command {
            level: self.state.feature_level(),
            time_ms: self.index,
            entropy: entropy.to_vec(),
            body: Some(body),
            ..Default::default()
        };
        let applied = self.state.apply(Index(self.index), Term(1), &command);
        let told = applied.response.expect("it makes sense");
        if let Some(Body::Bind(_)) = command.body {
            let told = pb::BatchResult::decode(&told[..]).expect("it is one");
            assert!(told.items.iter().all(|item| item.applied));
        }
    }

    fn node(&mut self, number: usize) {
        let label = |key: &str, value: String| (key.to_owned(), value);
        let zone = label("zone", format!("z{}", number % ZONES));
        let rack = label("rack", format!("r{}", number % 100));
        let image = pb::NodeImage {
            reference: "docker.io/library/web:1".into(),
            digest: DIGEST.into(),
            size_bytes: 1,
        };
        self.apply(Body::PutNode(pb::PutNode {
            node_id: node_id(number).to_vec(),
            description: Some(pb::NodeDescription {
                name: format!("n{number}"),
                capacity: Some(pb::Resources {
                    cpu_milli: 32_000 + 32_000 * (number as u64 % 3),
                    memory_bytes: 128 << 30,
                    ..Default::default()
                }),
                labels: BTreeMap::from([zone, rack]),
                images: vec![image],
                ..Default::default()
            }),
            manager: false,
            worker: true,
            advertise_addr: String::new(),
        }));
    }

    fn service(
        &mut self,
        name: &str,
        replicas: usize,
        cpu_milli: u64,
        rules: Rules,
        nodes: usize,
        first: usize,
    ) {
        let spec = Some(spec(name, replicas as u32, cpu_milli, rules));
        self.apply(Body::CreateService(pb::CreateService { spec }));
        let service = self.state.service_by_name(name).expect("created").clone();
        // Zone 3 is left out by those that may not go there, and by all for that matter.
        let open: Vec<_> = (0..nodes).filter(|number| number % ZONES != 3).collect();
        let at = |slot: usize| open[(first * replicas + slot) % open.len()];
        let slots = 0..if open.is_empty() { 0 } else { replicas };
        let items = slots.map(|slot| pb::BindItem {
            service_id: service.id.to_vec(),
            service_version: service.version,
            slot: slot as u64 + 1,
            node_id: node_id(at(slot)).to_vec(),
            ..Default::default()
        });
        let items: Vec<_> = items.collect();
        for items in items.chunks(BATCH) {
            let items = items.to_vec();
            self.apply(Body::Bind(pb::Bind { items }));
        }
    }
}

/// Of each round, in microseconds: by the wall clock, and by what the thread consumed.
#[derive(Default)]
struct Times {
    wall_us: Vec<u64>,
    thread_us: Vec<u64>,
}

impl Times {
    fn time(&mut self, run: impl FnOnce()) {
        let (wall, thread) = (Instant::now(), thread_us());
        run();
        self.thread_us.push(thread_us() - thread);
        self.wall_us.push(wall.elapsed().as_micros() as u64);
    }

    fn json(mut self, name: &str, found: u64) -> String {
        self.wall_us.sort_unstable();
        self.thread_us.sort_unstable();
        let middle = self.wall_us.len() / 2;
        let last = self.wall_us.len() - 1;
        format!(
            "{{\"name\": \"{name}\", \"found\": {found}, \"median_us\": {}, \"max_us\": {}, \
             \"thread_median_us\": {}, \"thread_max_us\": {}}}",
            self.wall_us[middle], self.wall_us[last], self.thread_us[middle], self.thread_us[last]
        )
    }
}

fn thread_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}
