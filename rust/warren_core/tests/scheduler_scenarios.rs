//! Runs `testdata/scheduler/*.txt`: nodes, what is asked of them, and where it goes.
//!
//! Besides the words of the state's scenarios: `place web count=3 cpu=1 memory=100MiB image=web`
//! places and keeps holding, `explain …` says what is in the way, `release n1 cpu=1` gives back.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use support::{Replica, Rng, digest, node_id, options, put_node, scenario, words};
use warren_core::fsm::{Resources, State};
use warren_core::ids::{NodeId, ServiceId};
use warren_core::scheduler::{Ask, Rules, Scheduler};

struct World {
    replica: Replica,
    scheduler: Scheduler,
    spread: BTreeMap<NodeId, u32>,
}

impl World {
    fn execute(&mut self, line: &str) -> Vec<String> {
        let line_words: Vec<_> = line.split_whitespace().collect();
        let given = options(&line_words[1..]);
        match line_words[0] {
            "place" => {
                let (image, asked) = ask(&given);
                let ask = Ask {
                    spread: &self.spread,
                    image: &image,
                    ..asked
                };
                let placed = self.scheduler.place(&ask);
                let name = |id: &NodeId| {
                    self.replica
                        .state
                        .node(*id)
                        .expect("known")
                        .name()
                        .to_owned()
                };
                let each = placed
                    .binds
                    .iter()
                    .map(|(id, count)| format!("{} {count}", name(id)));
                let mut lines = vec![each.collect::<Vec<_>>().join(", ")];
                if placed.refused > 0 {
                    lines.push(format!(
                        "refused {}: {}",
                        placed.refused,
                        self.scheduler.explain(&ask)
                    ));
                }
                lines
            }
            "explain" => {
                let (image, asked) = ask(&given);
                let ask = Ask {
                    spread: &self.spread,
                    image: &image,
                    ..asked
                };
                vec![self.scheduler.explain(&ask).to_string()]
            }
            "release" => {
                let resources = ask(&given).1.resources;
                self.scheduler.release(node_id(line_words[1]), resources);
                Vec::new()
            }
            _ => {
                let answer = words::execute(&mut self.replica, line);
                refresh(&mut self.scheduler, &self.replica.state);
                answer
            }
        }
    }
}

fn refresh(scheduler: &mut Scheduler, state: &State) {
    for node in state.nodes() {
        scheduler.node_put(state, node);
    }
}

/// Reference and digest of the image both come from its short name; the reference is the
/// caller's to keep.
fn ask(given: &BTreeMap<&str, &str>) -> (String, Ask<'static>) {
    static NOWHERE: BTreeMap<NodeId, u32> = BTreeMap::new();
    let image = given.get("image").copied().unwrap_or("web");
    let spec = words::resources(given);
    let ask = Ask {
        service: ServiceId([1; 16]),
        resources: Resources::from(spec),
        count: given
            .get("count")
            .map_or(1, |text| text.parse().expect("a count")),
        image: "",
        image_digest: digest(image).leak(),
        spread: &NOWHERE,
        rules: Rules::default(),
    };
    (format!("docker.io/library/{image}:latest"), ask)
}

fn run(name: &str, text: &str) {
    let mut world = World {
        replica: Replica::in_cluster(),
        scheduler: Scheduler::new(1),
        spread: BTreeMap::new(),
    };
    scenario::run(name, text, |line| world.execute(line));
}

#[test]
fn placing() {
    run("placing", include_str!("../testdata/scheduler/placing.txt"));
}

#[test]
fn explaining() {
    run(
        "explaining",
        include_str!("../testdata/scheduler/explaining.txt"),
    );
}

/// On nodes of any size: what is placed fits, nothing is refused while some node would take it,
/// and no node gets a second replica while one that would take it has none more than it.
#[test]
fn replicas_fit_and_never_pile_up() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let mut replica = Replica::in_cluster();
        for n in 0..1 + rng.below(12) {
            let (cpu_milli, memory_mib) = (rng.below(8) * 500, 4 + rng.below(512));
            let body = put_node(&format!("n{n}"), cpu_milli, memory_mib, &["web"]);
            replica.apply(body).response.expect("a node");
        }
        let mut scheduler = Scheduler::new(seed);
        scheduler.rebuild(&replica.state);
        let asked = Resources {
            cpu_milli: rng.below(5) * 100,
            memory_bytes: rng.below(64) << 20,
            ..Default::default()
        };
        let (image_digest, spread) = (digest("web"), BTreeMap::new());
        let ask = Ask {
            service: ServiceId([seed as u8; 16]),
            resources: asked,
            count: rng.below(60) as u32,
            image: "web",
            image_digest: &image_digest,
            spread: &spread,
            rules: Rules::default(),
        };
        let placed = scheduler.place(&ask);
        let counts: BTreeMap<_, _> = placed.binds.iter().copied().collect();
        assert_eq!(counts.values().sum::<u32>() + placed.refused, ask.count);
        let room = |id: &NodeId| {
            let free = replica.state.node(*id).expect("known").allocatable();
            let by = |free: u64, asked: u64| free.checked_div(asked).unwrap_or(u64::MAX);
            by(free.cpu_milli, asked.cpu_milli).min(by(free.memory_bytes, asked.memory_bytes))
        };
        for node in replica.state.nodes() {
            let count = counts.get(&node.id).copied().unwrap_or_default();
            assert!(
                u64::from(count) <= room(&node.id),
                "{} is overfull",
                node.name()
            );
            if u64::from(count) < room(&node.id) {
                assert_eq!(placed.refused, 0, "{} had room", node.name());
                let highest = counts.values().copied().max().unwrap_or_default();
                assert!(
                    highest <= count + 1,
                    "{highest} on one node, {count} on another"
                );
            }
        }
        let mut again = Scheduler::new(seed);
        again.rebuild(&replica.state);
        assert_eq!(again.place(&ask), placed, "the same seed, another answer");
    }
}

/// What is released can be had again, and nothing more.
#[test]
fn released_room_is_room_again() {
    let mut replica = Replica::in_cluster();
    replica
        .apply(put_node("n1", 1000, 64, &["web"]))
        .response
        .expect("a node");
    let mut scheduler = Scheduler::new(0);
    scheduler.rebuild(&replica.state);
    let (image_digest, spread) = (digest("web"), BTreeMap::new());
    let ask = |count| Ask {
        service: ServiceId([1; 16]),
        resources: Resources {
            cpu_milli: 250,
            memory_bytes: 0,
            ..Default::default()
        },
        count,
        image: "web",
        image_digest: &image_digest,
        spread: &spread,
        rules: Rules::default(),
    };
    assert_eq!(scheduler.place(&ask(9)).refused, 5);
    scheduler.release(node_id("n1"), ask(1).resources);
    assert_eq!(scheduler.place(&ask(9)).refused, 8);
    assert!(!scheduler.would_fit(&ask(1), node_id("n1"), Resources::default()));
}
