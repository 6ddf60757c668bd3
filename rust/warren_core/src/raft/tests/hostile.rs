//! What no correct member sends makes no member panic.

use super::super::*;
use super::cluster::{Cluster, Letter};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 8
    }

    /// Mostly near what is real, sometimes far off.
    fn number(&mut self) -> u64 {
        match self.next() % 12 {
            0 => u64::MAX,
            1 => 1 << 62,
            2 => self.next(),
            _ => self.next() % 12,
        }
    }

    fn message(&mut self) -> pb::RaftMessage {
        let entries = (0..self.next() % 4).map(|_| pb::RaftEntry {
            term: 0,
            payload: Bytes::new(),
        });
        let mut message = pb::RaftMessage {
            r#type: (self.next() % 14) as i32,
            term: self.number(),
            index: self.number(),
            log_term: self.number(),
            entries: entries.collect(),
            commit: self.number(),
            commit_term: self.number(),
            reject: self.next().is_multiple_of(3),
            reject_hint: self.number(),
            context: self.next().is_multiple_of(3).then(|| self.number()),
            transfer: self.next().is_multiple_of(5),
            cut_voter: self.next().is_multiple_of(5),
            generation: self.number(),
            nonce: self.number(),
            sent_ns: self.number(),
        };
        for entry in &mut message.entries {
            entry.term = message.log_term.saturating_add(self.0 % 2);
            entry.payload = vec![(self.0 % 3) as u8; (self.0 % 9) as usize].into();
        }
        message
    }
}

#[test]
fn arbitrary_messages_never_panic_a_member() {
    let mut random = Random(0x5EED);
    let mut accepted = 0;
    for round in 0..300 {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        cluster.elect(Some(1 + round % 3));
        let target = 1 + random.next() % 3;
        let raft = cluster.raft(target);
        for _ in 0..60 {
            let from = MemberId(random.next() % 5);
            accepted += usize::from(raft.receive(from, random.message()).is_ok());
            if random.next().is_multiple_of(4) {
                raft.tick();
            }
            while let Some(work) = raft.take_work() {
                if let Some(persist) = work.persist {
                    raft.persisted(persist.number);
                }
                if let Some(last) = work.committed.last() {
                    raft.applied(last.at.index);
                }
            }
        }
    }
    assert!(accepted > 1_000, "only {accepted} came through the checks");
}

/// Also not while writes are still on their way, or nothing has been taken yet.
#[test]
fn nor_one_whose_disk_is_slow() {
    let mut random = Random(0xD15C);
    for _ in 0..300 {
        let mut cluster = Cluster::founded_by(&[1, 2, 3]);
        let raft = cluster.raft(1 + random.next() % 3);
        for _ in 0..60 {
            let _ = raft.receive(MemberId(1 + random.next() % 3), random.message());
            match random.next() % 6 {
                0 => raft.tick(),
                1 => raft.campaign(),
                2 => drop(raft.take_work()),
                _ => {}
            }
        }
    }
}

#[test]
fn a_joiner_survives_them_too() {
    let mut random = Random(0x101E);
    for _ in 0..100 {
        let mut cluster = Cluster::default();
        cluster.add(9, super::cluster::Disk::default());
        let raft = cluster.raft(9);
        for _ in 0..40 {
            let _ = raft.receive(MemberId(1 + random.next() % 3), random.message());
            raft.tick();
            while raft.take_work().is_some() {}
        }
        assert_ne!(raft.role(), Role::Leader);
    }
}

#[test]
fn what_is_refused_says_why() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    let refusal = |cluster: &mut Cluster, message| {
        let refused = cluster.raft(1).receive(MemberId(2), message);
        refused.unwrap_err().why
    };
    let append = |index, log_term, term| pb::RaftMessage {
        r#type: Type::Append.into(),
        term,
        index,
        log_term,
        ..pb::RaftMessage::default()
    };
    let unknown = pb::RaftMessage {
        r#type: 99,
        term: 1,
        ..pb::RaftMessage::default()
    };
    assert!(refusal(&mut cluster, unknown).contains("type 99"));
    assert!(refusal(&mut cluster, append(0, 0, 1)).contains("before its first snapshot"));
    assert!(refusal(&mut cluster, append(1, 2, 1)).contains("terms"));
    assert!(refusal(&mut cluster, append(1, 1, 0)).contains("out of range"));
}

/// A leader that counted what it never sent would commit what nobody has.
#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let mut cluster = Cluster::founded_by(&[1, 2, 3]);
    cluster.elect(Some(1));
    let answer = pb::RaftMessage {
        r#type: Type::AppendResponse.into(),
        term: cluster.raft(1).term().0,
        index: 99,
        ..pb::RaftMessage::default()
    };
    assert!(cluster.raft(1).receive(MemberId(2), answer).is_err());
    cluster.propose(1, "one").unwrap();
    let only_messages = |e: &super::cluster::Envelope| matches!(e.letter, Letter::Message(_));
    assert!(cluster.wire.iter().all(only_messages));
}
