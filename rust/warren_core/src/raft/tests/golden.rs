//! Runs `testdata/raft/*.txt`: lines that begin with `>` are done, what follows each is how the
//! members then stand; only those that changed are shown.
//!
//! | words | done |
//! |---|---|
//! | `found 1 2 3` | a cluster of these voters, nobody elected |
//! | `campaign 1` | a member stands for election |
//! | `tick 1 20` | so many ticks of one member; `tick all 20` of all, delivering in between |
//! | `sync 1` | all its writes become durable |
//! | `deliver` | all messages on their way arrive, once; `deliver 1 2` from the first to the second |
//! | `drop` | all messages on their way are lost; `drop 1 2` as above |
//! | `settle` | everything is delivered and durable, until nothing is left |
//! | `propose 1 text`, `snapshot 1`, `transfer 1 3` | as they say |
//! | `learner 1 4`, `promote 1 4`, `remove 1 4`, `leave 1` | a change, proposed by the first |
//! | `join 4` | a new member with an empty disk |
//! | `crash 1`, `start 1`, `start-cut 1` | what was not durable is lost; `-cut`: and the log's end |

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::*;
use super::cluster::{Cluster, Disk};

struct Stage {
    cluster: Cluster,
    shown: BTreeMap<u64, String>,
}

impl Stage {
    fn execute(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let id = |at: usize| words[at].parse::<u64>().expect("a member's number");
        let cluster = &mut self.cluster;
        let mut refusal = None;
        match words[0] {
            "found" => {
                *cluster = Cluster::founded_by(&(1..words.len()).map(id).collect::<Vec<_>>())
            }
            "campaign" => {
                cluster.raft(id(1)).campaign();
                cluster.work(id(1));
            }
            "tick" if words[1] == "all" => (0..id(2)).for_each(|_| cluster.tick_all()),
            "tick" => (0..id(2)).for_each(|_| cluster.tick(id(1))),
            "sync" => {
                while !cluster.nodes[&id(1)].unsynced.is_empty() {
                    cluster.sync(id(1));
                }
            }
            "deliver" | "drop" => {
                let chosen = |from: u64, to: u64| words.len() == 1 || (from, to) == (id(1), id(2));
                let wire = std::mem::take(&mut cluster.wire).into_iter();
                let (now, later): (Vec<_>, Vec<_>) = wire.partition(|e| chosen(e.from, e.to));
                cluster.wire = later;
                for envelope in now {
                    match words[0] {
                        "deliver" => cluster.deliver(envelope),
                        _ => cluster.lose(&envelope),
                    }
                }
            }
            "settle" => cluster.settle_all(),
            "propose" => refusal = cluster.propose(id(1), words[2]).err(),
            "snapshot" => cluster.snapshot(id(1)),
            "transfer" => {
                refusal = cluster
                    .raft(id(1))
                    .transfer_leadership(MemberId(id(2)))
                    .err();
                cluster.work(id(1));
            }
            "learner" | "promote" | "remove" | "leave" => {
                let mut change = ConfChange::default();
                match words[0] {
                    "learner" => change.add_learners.push(MemberId(id(2))),
                    "promote" => change.promote.push(MemberId(id(2))),
                    "remove" => change.remove.push(MemberId(id(2))),
                    _ => change.leave = true,
                }
                refusal = cluster.change(id(1), change).err();
            }
            "join" => cluster.add(id(1), Disk::default()),
            "crash" => cluster.crash(id(1), 0, false),
            "start" => cluster.start(id(1), false),
            "start-cut" => {
                cluster.crash(id(1), 0, true);
                cluster.start(id(1), true);
            }
            other => panic!("no word `{other}`"),
        }
        let refusal = refusal.map_or(String::new(), |error| format!("refused {}\n", error.code()));
        refusal + &self.changes()
    }

    fn changes(&mut self) -> String {
        let mut out = String::new();
        for (id, node) in &self.cluster.nodes {
            let now = match &node.raft {
                Some(raft) => describe(raft, node.applied_at.index.0),
                None => "down".into(),
            };
            if self.shown.get(id) != Some(&now) {
                let _ = writeln!(out, "  {id} {now}");
                self.shown.insert(*id, now);
            }
        }
        out
    }
}

fn describe(raft: &Raft, applied: u64) -> String {
    let status = raft.status();
    let role = format!("{:?}", status.role).to_lowercase();
    let conf = &status.conf;
    let mut out = format!(
        "{role} term={} last={}.{} commit={} applied={applied} voters={:?}",
        status.term.0, status.last.index.0, status.last.term.0, status.commit_index.0, conf.voters
    );
    if conf.is_joint() {
        let _ = write!(out, " outgoing={:?}", conf.voters_outgoing);
    }
    if !conf.learners.is_empty() {
        let _ = write!(out, " learners={:?}", conf.learners);
    }
    if status.cut {
        out += " cut";
    }
    out
}

fn run(name: &str, text: &str) {
    let mut stage = Stage {
        cluster: Cluster::default(),
        shown: BTreeMap::new(),
    };
    let mut actual = String::new();
    for line in text.lines() {
        if let Some(input) = line.strip_prefix("> ") {
            let _ = write!(actual, "{line}\n{}", stage.execute(input));
        } else if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(actual, "{line}");
        }
    }
    assert!(actual == text, "{name} differs. What came of it:\n{actual}");
}

macro_rules! scenarios {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name), include_str!(concat!("../../../testdata/raft/", stringify!($name), ".txt")));
        }
    )*};
}

scenarios!(
    conflicting_suffix,
    membership,
    cut_tail,
    lagging_follower,
    pre_vote
);
