//! One member, and the log that its driver keeps for it.

use super::super::*;
use super::{conf, genesis};

fn founder() -> Recovered {
    Recovered {
        member: MemberId(7),
        snapshot: Some((genesis(), conf(&[7], &[]))),
        hard_state: None,
        entries: Vec::new(),
        cut: false,
    }
}

/// A member and the log its driver keeps for it.
struct Member {
    raft: Raft,
    durable: Recovered,
    unsynced: Vec<Persist>,
    applied: Vec<Committed>,
    reads: Vec<ReadReady>,
}

impl Member {
    fn start(durable: Recovered) -> Self {
        let raft = Raft::new(durable.clone(), 1).unwrap();
        Self {
            raft,
            durable,
            unsynced: Vec::new(),
            applied: Vec::new(),
            reads: Vec::new(),
        }
    }

    fn work(&mut self) {
        while let Some(work) = self.raft.take_work() {
            self.unsynced.extend(work.persist);
            self.reads.extend(work.reads);
            if let Some(last) = work.committed.last() {
                self.raft.applied(last.at.index);
            }
            self.applied.extend(work.committed);
        }
    }

    fn sync(&mut self) {
        self.work();
        for persist in std::mem::take(&mut self.unsynced) {
            if persist.hard_state.is_some() {
                self.durable.hard_state = persist.hard_state;
            }
            self.durable.entries.extend(persist.entries);
            self.raft.persisted(persist.number);
        }
        self.work();
    }

    fn settle(&mut self) {
        self.sync();
        while !self.unsynced.is_empty() {
            self.sync();
        }
    }

    fn commands(&self) -> Vec<&[u8]> {
        let commands = self.applied.iter().map(|entry| entry.command.as_ref());
        commands.filter(|command| !command.is_empty()).collect()
    }
}

#[test]
fn a_founder_leads_at_once_and_applies_what_it_is_given() {
    let mut member = Member::start(founder());
    member.settle();
    assert_eq!(member.raft.status().role, Role::Leader);
    let at = member.raft.propose(b"one".to_vec()).unwrap();
    member.settle();
    assert_eq!(member.commands(), [b"one"]);
    assert_eq!(member.applied.last().unwrap().at, at);
}

/// Thesis §10.2.1: the leader's own write counts only once it is durable.
#[test]
fn nothing_is_committed_before_it_is_durable() {
    let mut member = Member::start(founder());
    member.settle();
    member.raft.propose(b"one".to_vec()).unwrap();
    member.work();
    assert_eq!(member.unsynced.len(), 1);
    assert!(member.commands().is_empty());
    member.sync();
    assert_eq!(member.commands(), [b"one"]);
}

/// What the library is told of a ready holds for all before it.
#[test]
fn a_read_in_between_makes_nothing_durable() {
    let mut member = Member::start(founder());
    member.settle();
    member.raft.propose(b"one".to_vec()).unwrap();
    member.work();
    member.raft.read_index(1);
    member.work();
    assert_eq!(member.reads.len(), 1);
    assert!(member.commands().is_empty());
    member.sync();
    assert_eq!(member.commands(), [b"one"]);
}

#[test]
fn one_write_covers_what_was_proposed_together() {
    let mut member = Member::start(founder());
    member.settle();
    for number in 0..100u8 {
        member.raft.propose(vec![number]).unwrap();
    }
    member.work();
    assert_eq!(member.unsynced.len(), 1);
    assert_eq!(member.unsynced[0].entries.len(), 100);
}

#[test]
fn a_restarted_member_applies_its_log_again_in_a_new_term() {
    let mut member = Member::start(founder());
    member.settle();
    member.raft.propose(b"one".to_vec()).unwrap();
    member.settle();
    let term = member.raft.status().term;
    let mut again = Member::start(member.durable);
    again.settle();
    assert_eq!(again.commands(), [b"one"]);
    assert!(again.raft.status().term > term);
}

#[test]
fn a_restarted_member_starts_after_its_snapshot() {
    let mut member = Member::start(founder());
    member.settle();
    let at = member.raft.propose(b"one".to_vec()).unwrap();
    member.settle();
    member.raft.propose(b"two".to_vec()).unwrap();
    member.settle();
    let conf = member.raft.conf_state().clone();
    member.raft.set_snapshot(at, conf.clone());
    member.raft.compact(at, 128 << 20);
    let mut durable = member.durable;
    durable.snapshot = Some((at, conf));
    durable.entries.retain(|entry| entry.index > at.index.0);
    let mut again = Member::start(durable);
    again.settle();
    assert_eq!(again.commands(), [b"two"]);
}

#[test]
fn a_snapshot_newer_than_the_durable_commit_index_is_no_damage() {
    let mut durable = founder();
    durable.snapshot = Some((
        Position {
            index: Index(50),
            term: Term(3),
        },
        conf(&[7], &[]),
    ));
    let mut member = Member::start(durable);
    member.settle();
    assert_eq!(member.raft.status().role, Role::Leader);
    assert_eq!(member.raft.status().term, Term(4));
    assert!(member.raft.status().commit_index > Index(50));
}

#[test]
fn a_read_is_released_at_the_commit_index() {
    let mut member = Member::start(founder());
    member.settle();
    let at = member.raft.propose(b"one".to_vec()).unwrap();
    member.settle();
    member.raft.read_index(42);
    member.work();
    assert_eq!(
        member.reads,
        [ReadReady {
            context: 42,
            index: at.index
        }]
    );
}

#[test]
fn a_gap_in_the_log_is_refused() {
    let mut durable = founder();
    durable.entries = vec![LogEntry {
        index: 3,
        term: 1,
        payload: vec![0].into(),
    }];
    assert!(
        Raft::new(durable, 1)
            .err()
            .unwrap()
            .why
            .contains("jumps to entry 3")
    );
}

#[test]
fn what_fills_the_log_faster_than_it_commits_is_refused() {
    let mut member = Member::start(founder());
    member.settle();
    let megabyte = vec![0; 1 << 20];
    let refused = (0..100).find_map(|_| member.raft.propose(megabyte.clone()).err());
    assert_eq!(refused.unwrap().code(), "overloaded");
    member.settle();
    member.raft.propose(b"room again".to_vec()).unwrap();
}

#[test]
fn a_configuration_survives_its_encoding() {
    let conf = ConfState {
        voters: vec![1, u64::MAX],
        learners: vec![9],
        voters_outgoing: vec![1, 2],
        learners_next: vec![2],
    };
    assert_eq!(ConfState::decode(&conf.encode()), Ok(conf.clone()));
    let bytes = conf.encode();
    assert!(ConfState::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(ConfState::decode(&[0xff; 8]).is_err());
    let learner_that_votes = ConfState {
        learners: vec![1],
        ..conf
    };
    assert!(ConfState::decode(&learner_that_votes.encode()).is_err());
}

#[test]
fn the_library_speaks_through_notes() {
    let mut member = Member::start(founder());
    member.settle();
    let notes = member.raft.take_notes();
    assert!(
        notes
            .iter()
            .any(|note| note.message.contains("became leader")),
        "{notes:?}"
    );
    assert!(member.raft.take_notes().is_empty());
}
