//! Clusters under random faults, seeded: whatever happens, what must hold holds; and when the
//! faults end, the cluster goes on.

use super::super::*;
use super::cluster::{Cluster, Disk, Envelope, Letter};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % limit
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }
}

/// Which faults a run has.
#[derive(Clone, Copy)]
struct Faults {
    cuts: bool,
    membership: bool,
}

const STEPS: usize = 3_000;
const MEMBERS_MAX: u64 = 6;

struct Run {
    cluster: Cluster,
    random: Random,
    faults: Faults,
    /// Who cannot be reached, from whom.
    blocked: Vec<(u64, u64)>,
    proposed: usize,
    contexts: u64,
}

fn run(seed: u64, faults: Faults) -> Run {
    let mut run = Run {
        cluster: Cluster::founded_by(&[1, 2, 3]),
        random: Random(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) | 1),
        faults,
        blocked: Vec::new(),
        proposed: 0,
        contexts: 0,
    };
    for _ in 0..STEPS {
        run.step();
    }
    run.cluster.check_logs();
    run
}

impl Run {
    fn step(&mut self) {
        let ids: Vec<u64> = self.cluster.nodes.keys().copied().collect();
        let id = self.random.pick(&ids).expect("there are members");
        match self.random.below(100) {
            0..46 => self.deliver(),
            46..58 => self.cluster.tick(id),
            58..76 => self.cluster.sync(id),
            76..88 => self.propose(),
            88..90 => self.read(),
            90..92 => self.crash_or_start(id),
            92..94 => self.partition(&ids),
            94..96 => self.cluster.snapshot(id),
            96 => self.transfer(id),
            97 => self.burst(),
            _ if self.faults.membership => self.change_members(),
            _ => self.cluster.tick(id),
        }
    }

    /// Any message on its way, or none, or one of them twice: order, loss and repetition.
    fn deliver(&mut self) {
        if self.cluster.wire.is_empty() {
            return;
        }
        let at = self.random.below(self.cluster.wire.len().min(30));
        let envelope = match self.random.below(20) {
            0 => {
                let lost = self.cluster.wire.remove(at);
                return self.cluster.lose(&lost);
            }
            1 => copy(&self.cluster.wire[at]),
            _ => self.cluster.wire.remove(at),
        };
        if self.blocked.contains(&(envelope.from, envelope.to)) {
            self.cluster.lose(&envelope);
        } else {
            self.cluster.deliver(envelope);
        }
    }

    /// A while without faults, so that something gets committed.
    fn burst(&mut self) {
        let blocked = std::mem::take(&mut self.blocked);
        self.cluster
            .settle(|from, to| !blocked.contains(&(from, to)));
        self.blocked = blocked;
    }

    fn leaders(&self) -> Vec<u64> {
        let leads = |raft: &Raft| raft.role() == Role::Leader;
        let nodes = self.cluster.nodes.iter();
        nodes
            .filter(|(_, node)| node.raft.as_ref().is_some_and(leads))
            .map(|(id, _)| *id)
            .collect()
    }

    fn propose(&mut self) {
        if let Some(leader) = self.random.pick(&self.leaders()) {
            self.proposed += 1;
            let _ = self
                .cluster
                .propose(leader, &format!("command {}", self.proposed));
        }
    }

    fn read(&mut self) {
        if let Some(leader) = self.random.pick(&self.leaders()) {
            self.contexts += 1;
            self.cluster.read(leader, self.contexts);
        }
    }

    fn crash_or_start(&mut self, id: u64) {
        if self.cluster.nodes[&id].raft.is_some() {
            if self.random.below(4) > 0 {
                return;
            }
            let writes = self.cluster.nodes[&id].unsynced.len();
            let synced = self.random.below(writes + 1);
            // One cut at a time: what two members lose together nobody can bring back.
            let mut nodes = self.cluster.nodes.values();
            let all_whole =
                nodes.all(|node| node.raft.as_ref().is_some_and(|raft| !raft.status().cut));
            let cut = self.faults.cuts && all_whole && self.random.below(3) == 0;
            self.cluster.crash(id, synced, cut);
            if cut {
                self.cluster.start(id, true);
            }
        } else {
            self.cluster.start(id, false);
        }
    }

    fn partition(&mut self, ids: &[u64]) {
        if self.random.below(4) > 0 {
            self.blocked.clear();
            return;
        }
        let id = self.random.pick(ids).expect("there are members");
        let one_way = self.random.below(3);
        for other in ids {
            if one_way != 1 {
                self.blocked.push((id, *other));
            }
            if one_way != 2 {
                self.blocked.push((*other, id));
            }
        }
    }

    fn transfer(&mut self, to: u64) {
        if let Some(leader) = self.random.pick(&self.leaders()) {
            let _ = self.cluster.raft(leader).transfer_leadership(MemberId(to));
            self.cluster.work(leader);
        }
    }

    fn change_members(&mut self) {
        let Some(leader) = self.random.pick(&self.leaders()) else {
            return;
        };
        let raft = self.cluster.raft(leader);
        let conf = raft.conf_state().clone();
        let mut change = ConfChange::default();
        let learner = self.random.pick(&conf.learners);
        let newest = *self
            .cluster
            .nodes
            .keys()
            .next_back()
            .expect("there are members");
        match (conf.is_joint(), learner, self.random.below(3)) {
            (true, _, _) => change.leave = true,
            (_, Some(learner), 0 | 1) => change.promote.push(MemberId(learner)),
            (_, _, 0) if conf.voters.len() > 2 => {
                let others: Vec<_> = conf.voters.iter().filter(|id| **id != leader).collect();
                change
                    .remove
                    .extend(self.random.pick(&others).map(|id| MemberId(*id)));
            }
            _ if newest < MEMBERS_MAX => {
                let joiner = newest + 1;
                change.add_learners.push(MemberId(joiner));
                if self.cluster.change(leader, change).is_ok() {
                    self.cluster.add(joiner, Disk::default());
                }
                return;
            }
            _ => return,
        }
        let _ = self.cluster.change(leader, change);
    }

    /// The faults end: a leader, a command committed, and every member of the configuration with
    /// the same state.
    fn heal(&mut self) {
        self.blocked.clear();
        let ids: Vec<u64> = self.cluster.nodes.keys().copied().collect();
        for id in &ids {
            if self.cluster.nodes[id].raft.is_none() {
                self.cluster.start(*id, false);
            }
        }
        for _ in 0..600 {
            self.cluster.tick_all();
            if let Some(leader) = self.cluster.leader() {
                if self.cluster.raft(leader).needs_leave() {
                    let leave = ConfChange {
                        leave: true,
                        ..ConfChange::default()
                    };
                    let _ = self.cluster.change(leader, leave);
                }
                if self.has_converged(leader) {
                    return;
                }
            }
        }
        let stuck = self
            .cluster
            .nodes
            .values()
            .filter_map(|node| node.raft.as_ref());
        let stuck: Vec<_> = stuck.map(Raft::status).collect();
        panic!("healed, and still not one: {stuck:#?}");
    }

    fn has_converged(&self, leader: u64) -> bool {
        let leader = &self.cluster.nodes[&leader];
        let raft = leader.raft.as_ref().expect("it leads");
        let conf = raft.conf_state();
        let members = self
            .cluster
            .nodes
            .iter()
            .filter(|(id, _)| conf.contains(**id));
        let equal = members.map(|(_, node)| node).all(|node| {
            let whole = node.raft.as_ref().is_some_and(|raft| !raft.status().cut);
            whole && node.applied == leader.applied && node.conf == leader.conf
        });
        equal && !conf.is_joint() && leader.applied_at.term == raft.term()
    }
}

fn copy(envelope: &Envelope) -> Envelope {
    Envelope {
        from: envelope.from,
        to: envelope.to,
        letter: match &envelope.letter {
            Letter::Message(message) => Letter::Message(message.clone()),
            Letter::Snapshot(snapshot) => Letter::Snapshot(snapshot.clone()),
        },
    }
}

fn runs() -> u64 {
    option_env!("WARREN_RAFT_RUNS").map_or(40, |runs| runs.parse().expect("a number of runs"))
}

fn sweep(faults: Faults) -> (usize, usize, usize) {
    let (mut committed, mut reads, mut installs) = (0, 0, 0);
    for seed in 1..=runs() {
        println!("seed {seed}");
        let mut run = run(seed, faults);
        run.heal();
        committed += run.cluster.committed.len();
        reads += run.cluster.reads_answered;
        installs += run.cluster.installs;
    }
    println!("{committed} entries committed, {reads} reads answered, {installs} installs");
    (committed, reads, installs)
}

#[test]
fn crashes_partitions_and_a_bad_network_lose_nothing() {
    let (committed, reads, _) = sweep(Faults {
        cuts: false,
        membership: false,
    });
    assert!(committed > 1_000 && reads > 50);
}

#[test]
fn nor_do_members_that_come_and_go() {
    let (committed, _, installs) = sweep(Faults {
        cuts: false,
        membership: true,
    });
    assert!(committed > 1_000 && installs > 20);
}

#[test]
fn nor_do_logs_that_lose_their_end() {
    sweep(Faults {
        cuts: true,
        membership: false,
    });
}

/// The same seed is the same run, jitter and all.
#[test]
fn a_run_can_be_repeated() {
    let faults = Faults {
        cuts: true,
        membership: true,
    };
    let [first, second] = [run(7, faults), run(7, faults)];
    assert_eq!(first.cluster.committed, second.cluster.committed);
    assert_eq!(first.cluster.wire.len(), second.cluster.wire.len());
}

/// A checker that never says no proves nothing.
#[test]
fn planted_faults_are_found() {
    let faults = Faults {
        cuts: false,
        membership: false,
    };
    for planted in [
        Mutant::AcknowledgesBeforeFsync,
        Mutant::ReadsWithoutQuorum,
        Mutant::SendsBeforeDurable,
    ] {
        let caught = (1..=200).find(|seed| {
            std::panic::catch_unwind(|| {
                mutant::set(Some(planted));
                run(*seed, faults).heal();
            })
            .is_err()
        });
        mutant::set(None);
        println!("{planted:?}: caught by seed {caught:?}");
        assert!(caught.is_some(), "{planted:?} goes unnoticed");
    }
}
