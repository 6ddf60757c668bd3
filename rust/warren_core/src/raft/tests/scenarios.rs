//! What the paper and the thesis ask for, step by step; and the planted faults, each caught.

use super::super::*;
use super::cluster::{Cluster, Disk, Envelope, Letter};
use super::conf;

/// Raft §5.2: a candidate that a majority elects leads, and commits an entry of its own term.
#[test]
fn a_majority_elects_a_leader() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    assert_eq!(cluster.elect(Some(2)), 2);
    let at = cluster.propose(2, "one").unwrap();
    cluster.settle_all();
    cluster.tick_all();
    cluster.tick_all();
    assert!((1..=3).all(|id| cluster.nodes[&id].applied_at == at));
}

/// Thesis §10.2.1: a follower acknowledges only what it has on disk.
#[test]
fn an_acknowledgement_waits_for_the_disk() {
    let committed_early = || {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1));
        let before = cluster.committed.len();
        cluster.propose(1, "one").unwrap();
        cluster.sync(1);
        for envelope in std::mem::take(&mut cluster.wire) {
            cluster.deliver(envelope);
        }
        for envelope in std::mem::take(&mut cluster.wire) {
            cluster.deliver(envelope);
        }
        cluster.committed.len() > before
    };
    assert!(!committed_early());
    mutant::set(Some(Mutant::SendsBeforeDurable));
    assert!(committed_early());
    mutant::set(None);
}

/// A lone voter leads before its term is durable; a learner must not hear of that term.
#[test]
fn a_lone_leader_is_silent_until_its_term_is_durable() {
    let mut cluster = Cluster::default();
    let mut disk = Cluster::founded_by(&[1]).node(1).disk.clone();
    disk.snapshot.as_mut().unwrap().conf = conf(&[1], &[2]);
    cluster.add(1, disk);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    assert!(cluster.wire.is_empty());
    cluster.sync(1);
    assert!(!cluster.wire.is_empty());
}

/// Thesis §9.6: a member that was cut off does not disturb the leader when it comes back.
#[test]
fn a_member_that_comes_back_disturbs_nobody() {
    let disturbed = || {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1));
        let term = cluster.raft(1).term();
        for _ in 0..100 {
            for id in 1..=3 {
                cluster.tick(id);
            }
            cluster.settle(|from, to| from != 3 && to != 3);
        }
        for _ in 0..20 {
            cluster.tick_all();
        }
        cluster.raft(1).term() != term
    };
    assert!(!disturbed());
    mutant::set(Some(Mutant::NoPreVote));
    assert!(disturbed());
    mutant::set(None);
}

/// Thesis §6.2: a leader that hears from no quorum steps down within an election timeout.
#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.elect(Some(1));
    for _ in 0..2 * election::LEASE_TICKS {
        cluster.tick(1);
        cluster.wire.clear();
    }
    assert_eq!(cluster.raft(1).role(), Role::Follower);
}

/// Thesis §6.4: a deposed leader that does not know it answers no read.
#[test]
fn a_deposed_leader_answers_no_read() {
    let answered = || {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1));
        for _ in 0..100 {
            cluster.tick(2);
            cluster.tick(3);
            cluster.settle(|from, to| from != 1 && to != 1);
        }
        let leader = (2..=3).find(|id| cluster.raft(*id).role() == Role::Leader);
        cluster.propose(leader.unwrap(), "unseen").unwrap();
        cluster.settle(|from, to| from != 1 && to != 1);
        assert_eq!(cluster.raft(1).role(), Role::Leader);
        cluster.raft(1).read_index(77);
        let work = cluster.raft(1).take_work();
        work.is_some_and(|work| !work.reads.is_empty())
    };
    assert!(!answered());
    mutant::set(Some(Mutant::ReadsWithoutQuorum));
    assert!(answered());
    mutant::set(None);
}

#[test]
fn a_read_is_answered_once_a_quorum_confirms_it() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.elect(Some(1));
    let at = cluster.propose(1, "one").unwrap();
    cluster.settle_all();
    cluster.read(1, 5);
    assert!(cluster.node(1).reads.is_empty());
    cluster.settle(|from, to| from != 3 && to != 3);
    let read = ReadReady {
        context: 5,
        index: at.index,
    };
    assert_eq!(cluster.node(1).reads, [read]);
}

fn joins(cluster: &mut Cluster, leader: u64, joiner: u64) {
    let add = ConfChange {
        add_learners: vec![MemberId(joiner)],
        ..ConfChange::default()
    };
    cluster.change(leader, add).unwrap();
    cluster.add(joiner, Disk::default());
    for _ in 0..20 {
        cluster.tick_all();
    }
}

/// Raft §6, thesis §4.2.1: a new member learns first, and starts from a snapshot that names it.
#[test]
fn a_joiner_gets_a_snapshot_and_is_promoted_through_a_joint_configuration() {
    let mut cluster = Cluster::founded_by(&[1]);
    cluster.settle_all();
    cluster.propose(1, "one").unwrap();
    cluster.settle_all();
    joins(&mut cluster, 1, 2);
    assert_eq!(cluster.installs, 1);
    assert_eq!(cluster.node(2).conf, conf(&[1], &[2]));
    let promote = ConfChange {
        promote: vec![MemberId(2)],
        ..ConfChange::default()
    };
    cluster.change(1, promote).unwrap();
    cluster.settle_all();
    assert!(cluster.raft(1).conf_state().is_joint());
    assert!(cluster.raft(1).needs_leave());
    mutant::set(Some(Mutant::StaysJoint));
    assert!(!cluster.raft(1).needs_leave());
    mutant::set(None);
    let leave = ConfChange {
        leave: true,
        ..ConfChange::default()
    };
    cluster.change(1, leave).unwrap();
    for _ in 0..4 {
        cluster.tick_all();
    }
    assert_eq!(cluster.node(1).conf, conf(&[1, 2], &[]));
    assert_eq!(cluster.node(2).conf, conf(&[1, 2], &[]));
}

/// Ongaro 2015, a bug in single-server changes: none before an entry of the leader's own term.
#[test]
fn no_change_before_the_terms_first_commit() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.raft(1).campaign();
    cluster.work(1);
    let leads = |cluster: &mut Cluster| cluster.raft(1).role() == Role::Leader;
    while !leads(&mut cluster) {
        (1..=3).for_each(|id| cluster.sync(id));
        for envelope in std::mem::take(&mut cluster.wire) {
            cluster.deliver(envelope);
        }
    }
    let add = || ConfChange {
        add_learners: vec![MemberId(4)],
        ..ConfChange::default()
    };
    assert_eq!(cluster.change(1, add()), Err(Error::NoLeader));
    mutant::set(Some(Mutant::ChangesMembersBeforeFirstCommit));
    assert!(cluster.change(1, add()).is_ok());
    mutant::set(None);
}

#[test]
fn one_change_at_a_time_and_only_what_makes_sense() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.elect(Some(1));
    cluster.settle_all();
    let code = |result: Result<Position, Error>| result.unwrap_err().code();
    let promote = |id| ConfChange {
        promote: vec![MemberId(id)],
        ..ConfChange::default()
    };
    let all = ConfChange {
        remove: vec![MemberId(1), MemberId(2), MemberId(3)],
        ..ConfChange::default()
    };
    let leave = ConfChange {
        leave: true,
        ..ConfChange::default()
    };
    assert_eq!(code(cluster.change(1, promote(9))), "invalid");
    assert_eq!(code(cluster.change(1, all)), "invalid");
    assert_eq!(code(cluster.change(1, leave)), "invalid");
    assert_eq!(code(cluster.change(2, promote(9))), "no_leader");
    let remove = |id| ConfChange {
        remove: vec![MemberId(id)],
        ..ConfChange::default()
    };
    cluster.change(1, remove(3)).unwrap();
    assert_eq!(
        cluster.raft(1).conf_state(),
        &conf(&[1, 2, 3], &[]),
        "not before it is applied"
    );
    assert_eq!(code(cluster.change(1, remove(2))), "overloaded");
    mutant::set(Some(Mutant::AppliesMembersWhenProposed));
    let mut other = Cluster::founded_by(&[1, 2, 3]);
    other.elect(Some(1));
    other.settle_all();
    other.change(1, remove(3)).unwrap();
    assert_ne!(other.raft(1).conf_state(), &conf(&[1, 2, 3], &[]));
    mutant::set(None);
}

/// Thesis §3.10.
#[test]
fn the_lead_is_handed_over_at_once() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.elect(Some(1));
    cluster.raft(1).transfer_leadership(MemberId(3)).unwrap();
    assert_eq!(cluster.raft(1).transfer_target(), Some(MemberId(3)));
    assert_eq!(cluster.propose(1, "late"), Err(Error::NoLeader));
    cluster.settle_all();
    assert_eq!(cluster.leader(), Some(3));
    let refused = cluster.raft(3).transfer_leadership(MemberId(9));
    assert_eq!(refused.unwrap_err().code(), "invalid");
}

/// Raft §7: a snapshot replaces a log that conflicts with it, all of it.
#[test]
fn an_installed_snapshot_leaves_nothing_that_conflicts() {
    let kept = || {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1));
        // Entries that only the first has.
        for number in 0..20 {
            cluster.propose(1, &format!("lost {number}")).unwrap();
        }
        while !cluster.nodes[&1].unsynced.is_empty() {
            cluster.sync(1);
        }
        cluster.wire.clear();
        for _ in 0..100 {
            cluster.tick(2);
            cluster.tick(3);
            cluster.settle(|from, to| from != 1 && to != 1);
        }
        let leader = (2..=3)
            .find(|id| cluster.raft(*id).role() == Role::Leader)
            .unwrap();
        let at = cluster.propose(leader, "kept").unwrap();
        cluster.settle(|from, to| from != 1 && to != 1);
        let snapshot = super::cluster::Snapshot {
            at,
            conf: conf(&[1, 2, 3], &[]),
            applied: cluster.nodes[&leader].applied.clone(),
        };
        let first = cluster.node(1);
        let raft = first.raft.as_mut().unwrap();
        raft.receive(MemberId(leader), heartbeat(at.term)).unwrap();
        raft.receive_snapshot(at, snapshot.conf.clone());
        first.received.push(snapshot);
        cluster.work(1);
        cluster
            .raft(1)
            .node
            .store()
            .entries_after(at.index.0)
            .count()
    };
    assert_eq!(kept(), 0);
    mutant::set(Some(Mutant::InstallKeepsEntries));
    assert!(std::panic::catch_unwind(kept).map_or(true, |kept| kept > 0));
    mutant::set(None);
}

fn heartbeat(term: Term) -> pb::RaftMessage {
    pb::RaftMessage {
        r#type: Type::Heartbeat.into(),
        term: term.0,
        ..pb::RaftMessage::default()
    }
}

/// What was uncommitted in an earlier term says nothing about this one.
#[test]
fn the_bound_on_uncommitted_bytes_starts_anew_with_a_term() {
    let leaks = || {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1));
        let megabyte = "x".repeat(1 << 20);
        while cluster.propose(1, &megabyte).is_ok() {}
        cluster.settle(|_, _| false);
        for _ in 0..2 * election::LEASE_TICKS {
            cluster.tick(1);
            cluster.wire.clear();
        }
        cluster.elect(Some(1));
        for _ in 0..200 {
            cluster.tick_all();
        }
        cluster.propose(1, &megabyte).is_err()
    };
    assert!(!leaks());
    mutant::set(Some(Mutant::UncommittedLeaks));
    assert!(leaks());
    mutant::set(None);
}

/// A restart finds the membership that the member acted by: see `changes`.
#[test]
fn entries_take_the_commit_index_to_the_disk_with_them() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.elect(Some(1));
    cluster.propose(1, "one").unwrap();
    cluster.settle_all();
    // The commit index comes by heartbeat, alone, and is worth no write.
    cluster.tick_all();
    cluster.tick_all();
    let commit = cluster.raft(2).status().commit_index.0;
    cluster.propose(1, "two").unwrap();
    cluster.settle_all();
    let state = cluster.nodes[&2].disk.hard_state.clone().unwrap();
    assert!(HardState::decode(&state).unwrap().commit >= commit);
}

mod cut {
    use super::*;

    /// A cluster of three in which the second acknowledged an entry and lost it.
    fn lost_by_second() -> Cluster {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1));
        cluster.tick_all();
        cluster.tick_all();
        cluster.propose(1, "precious").unwrap();
        cluster.settle(|from, to| from != 3 && to != 3);
        cluster.crash(2, 0, true);
        cluster
    }

    #[test]
    fn a_cut_member_elects_nobody_who_may_lack_what_it_lost() {
        let mut cluster = lost_by_second();
        cluster.crash(1, 0, false);
        cluster.start(2, true);
        for _ in 0..200 {
            cluster.tick_all();
            assert_eq!(cluster.leader(), None);
        }
        // The first has it, and wins with everyone's vote.
        cluster.start(1, false);
        assert_eq!(cluster.elect(None), 1);
        for _ in 0..20 {
            cluster.tick_all();
        }
        assert!(!cluster.raft(2).status().cut);
        assert_eq!(cluster.nodes[&2].applied, cluster.nodes[&1].applied);
    }

    #[test]
    fn a_cut_member_catches_up_with_the_leader_it_forgot_the_log_of() {
        let mut cluster = lost_by_second();
        let before = cluster.raft(1).status().progress[0].match_index;
        cluster.start(2, true);
        assert!(cluster.raft(2).status().cut);
        assert!(cluster.raft(2).status().last.index < before);
        for _ in 0..10 {
            cluster.tick_all();
        }
        assert!(!cluster.raft(2).status().cut);
        assert_eq!(cluster.raft(2).last(), cluster.raft(1).last());
    }

    /// The flag outlives the process until the member has caught up.
    #[test]
    fn a_cut_is_remembered_across_restarts() {
        let mut cluster = lost_by_second();
        cluster.start(2, true);
        assert!(cluster.wire.is_empty(), "silent until the flag is durable");
        cluster.sync(2);
        cluster.crash(2, 0, false);
        cluster.start(2, false);
        assert!(cluster.raft(2).status().cut);
    }

    /// Power loss under load: every log is cut, nobody is whole, and the longest log leads.
    #[test]
    fn a_cluster_of_cut_members_comes_up_with_all_of_them() {
        let mut cluster = lost_by_second();
        cluster.crash(1, 9, false);
        cluster.crash(3, 9, false);
        cluster.start(1, true);
        cluster.start(2, true);
        for _ in 0..100 {
            cluster.tick_all();
            assert_eq!(cluster.leader(), None);
        }
        cluster.start(3, true);
        assert_eq!(cluster.elect(None), 1);
        let whole = |cluster: &mut Cluster| (1..=3).all(|id| !cluster.raft(id).status().cut);
        for _ in 0..20 {
            cluster.tick_all();
        }
        assert!(whole(&mut cluster));
    }

    /// Not answered yet, it refuses the leader's appends: if it said so, each answer would bring
    /// the next append.
    #[test]
    fn a_cut_member_that_waits_makes_no_traffic() {
        let mut cluster = lost_by_second();
        cluster.start(2, true);
        for _ in 0..4 {
            cluster.tick(1);
            for _ in 0..50 {
                (1..=3).for_each(|id| cluster.sync(id));
                let is_ack = |letter: &Letter| matches!(letter, Letter::Message(m) if m.r#type() == Type::RejoinAck);
                cluster.wire.retain(|envelope| !is_ack(&envelope.letter));
                for envelope in std::mem::take(&mut cluster.wire) {
                    cluster.deliver(envelope);
                }
            }
            assert!(cluster.wire.is_empty());
        }
        assert!(cluster.raft(2).status().cut);
    }

    /// An acknowledgement from before the cut does not count for what was lost.
    #[test]
    fn a_late_acknowledgement_of_what_was_lost_does_not_count() {
        let mut cluster = Cluster::founded_by(&[1, 2, 3, 4, 5]);
        cluster.elect(Some(1));
        cluster.tick_all();
        let committed = cluster.committed.len();
        cluster.propose(1, "precious").unwrap();
        cluster.wire.retain(|envelope| envelope.to == 2);
        while !cluster.nodes[&1].unsynced.is_empty() {
            cluster.sync(1);
        }
        for envelope in std::mem::take(&mut cluster.wire) {
            cluster.deliver(envelope);
        }
        while !cluster.nodes[&2].unsynced.is_empty() {
            cluster.sync(2);
        }
        let late = std::mem::take(&mut cluster.wire);
        assert!(!late.is_empty());
        cluster.crash(2, 0, true);
        cluster.start(2, true);
        for _ in 0..8 {
            (1..=2).for_each(|id| cluster.tick(id));
            cluster.settle(|from, to| from + to == 3);
        }
        let first = |cluster: &mut Cluster| cluster.raft(1).status().progress[0].clone();
        let matched = first(&mut cluster).match_index;
        for envelope in late {
            cluster.deliver(envelope);
        }
        assert_eq!(first(&mut cluster).match_index, matched);
        assert_eq!(cluster.committed.len(), committed);
    }

    /// It may hold entries of another history below the commit index that a heartbeat tells, and one
    /// may arrive twice.
    #[test]
    fn a_cut_member_takes_no_commit_index_from_a_heartbeat() {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(2));
        let alone = |from: u64, to: u64| from != 2 && to != 2;
        for text in ["a", "b", "c"] {
            cluster.propose(2, text).unwrap();
        }
        cluster.settle(alone);
        while cluster.leader() == Some(2) {
            [1, 3].into_iter().for_each(|id| cluster.tick(id));
            cluster.settle(alone);
        }
        let leader = cluster.leader().unwrap();
        for text in ["d", "e", "f", "g"] {
            cluster.propose(leader, text).unwrap();
        }
        cluster.settle(alone);
        let before = cluster.nodes[&2].disk.entries.clone();
        for _ in 0..4 {
            cluster.tick(leader);
            cluster.settle_all();
        }
        assert_ne!(cluster.nodes[&2].disk.entries, before);
        cluster.crash(2, 0, true);
        assert_eq!(cluster.nodes[&2].disk.entries, before);
        cluster.start(2, true);
        cluster.sync(2);
        let mut beats = Vec::new();
        let kinds = [Type::Heartbeat, Type::Rejoin, Type::RejoinAck];
        for _ in 0..4 {
            cluster.tick(leader);
            while !cluster.wire.is_empty() {
                for envelope in std::mem::take(&mut cluster.wire) {
                    let Letter::Message(body) = &envelope.letter else {
                        continue;
                    };
                    if envelope.to == 2 && body.r#type() == Type::Heartbeat {
                        beats.push(body.clone());
                    }
                    if kinds.contains(&body.r#type()) {
                        cluster.deliver(envelope);
                    }
                }
                cluster.sync(2);
            }
        }
        for body in beats {
            let letter = Letter::Message(body);
            let (from, to) = (leader, 2);
            cluster.deliver(Envelope { from, to, letter });
        }
        for _ in 0..20 {
            cluster.tick_all();
        }
        assert!(!cluster.raft(2).status().cut);
        assert_eq!(cluster.nodes[&2].applied, cluster.nodes[&leader].applied);
    }

    /// What it was about to change about others is no reason to stand back: nobody else decides.
    #[test]
    fn a_lone_cut_member_leads_with_a_learner_in_its_log() {
        let mut cluster = Cluster::founded_by(&[1]);
        cluster.settle_all();
        let learner = ConfChange {
            add_learners: vec![MemberId(2)],
            ..ConfChange::default()
        };
        cluster.change(1, learner).unwrap();
        cluster.sync(1);
        cluster.propose(1, "lost with the end of the log").unwrap();
        cluster.crash(1, 1, true);
        cluster.start(1, true);
        for _ in 0..50 {
            cluster.tick(1);
            cluster.settle_all();
        }
        assert_eq!(cluster.leader(), Some(1));
        assert!(!cluster.raft(1).status().cut);
        assert_eq!(cluster.raft(1).conf_state().learners, [2]);
    }
}
