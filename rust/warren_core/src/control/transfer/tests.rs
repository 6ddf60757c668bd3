//! Both halves, joined by a channel that loses what it is told to, over a disk that is a vector.

use super::super::{SnapshotBytes, SnapshotRead, SnapshotStep, SnapshotWrite};
use super::receive::Receiving;
use super::send::{End, Say, Sending};
use super::{CHUNK_BYTES, IN_FLIGHT_MAX};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::{Index, MemberId, Term};
use crate::mutant::{self, Mutant};
use crate::pb;
use crate::raft::{ConfState, Position};
use crate::sim::random::Random;

const LEADER: MemberId = MemberId(1);
const FOLLOWER: MemberId = MemberId(2);

fn at(index: u64) -> Position {
    Position {
        index: Index(index),
        term: Term(1),
    }
}

struct Pair {
    sending: Sending,
    receiving: Receiving,
    file: Vec<u8>,
    disk: Vec<u8>,
    reads: Vec<SnapshotRead>,
    writes: Vec<SnapshotWrite>,
    to_follower: Vec<Say>,
    to_leader: Vec<pb::PeerSnapshotAck>,
    now_ms: u64,
    lost_percent: u64,
    random: Random,
    chunks_sent: u64,
    installs: Vec<Position>,
    end: Option<End>,
}

impl Pair {
    fn new(bytes: usize) -> Self {
        Self {
            sending: Sending::default(),
            receiving: Receiving::default(),
            file: (0..bytes).map(|n| (n * 31 + n / 251) as u8).collect(),
            disk: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            to_follower: Vec::new(),
            to_leader: Vec::new(),
            now_ms: 0,
            lost_percent: 0,
            random: Random::new(7),
            chunks_sent: 0,
            installs: Vec::new(),
            end: None,
        }
    }

    fn begin(&mut self, index: u64) {
        let began = self
            .sending
            .begin(FOLLOWER, at(index), self.now_ms, &mut self.reads);
        assert!(began);
    }

    fn arrives(&mut self) -> bool {
        self.random.below(100) >= self.lost_percent
    }

    /// One round of everything; false if nothing happened.
    fn round(&mut self) -> bool {
        let mut busy = false;
        for read in std::mem::take(&mut self.reads) {
            busy = true;
            let from = (read.offset as usize).min(self.file.len());
            let to = (from + read.max_bytes as usize).min(self.file.len());
            let part = SnapshotBytes {
                bytes: self.file[from..to].to_vec(),
                total_bytes: self.file.len() as u64,
            };
            if let Some((to, say)) = self.sending.was_read(read.token, Ok(part)) {
                assert_eq!(to, FOLLOWER);
                self.to_follower.push(say.unwrap());
            }
        }
        for say in std::mem::take(&mut self.to_follower) {
            busy = true;
            self.chunks_sent += u64::from(matches!(say, Say::Chunk(_)));
            if self.arrives() {
                self.hear(say);
            }
        }
        for write in std::mem::take(&mut self.writes) {
            busy = true;
            self.write(write);
        }
        for ack in std::mem::take(&mut self.to_leader) {
            busy = true;
            if self.arrives() {
                let ended = self
                    .sending
                    .acknowledged(FOLLOWER, &ack, self.now_ms, &mut self.reads);
                self.end = self.end.or(ended);
            }
        }
        busy
    }

    fn hear(&mut self, say: Say) {
        match say {
            Say::Offer(offer) => {
                let applied = self.installs.last().map_or(Index(0), |at| at.index);
                let (now_ms, writes) = (self.now_ms, &mut self.writes);
                let told = self
                    .receiving
                    .offered(LEADER, &offer, applied, now_ms, writes);
                self.to_leader.extend(told.map(|(_, ack)| ack));
            }
            Say::Chunk(chunk) => {
                self.receiving
                    .chunk(LEADER, chunk, self.now_ms, &mut self.writes);
            }
        }
    }

    fn write(&mut self, write: SnapshotWrite) {
        let SnapshotWrite { at, step } = write;
        let written = match step {
            SnapshotStep::Begin { .. } => self.disk.len() as u64,
            SnapshotStep::Chunk { offset, bytes } => {
                assert_eq!(offset, self.disk.len() as u64, "in order, without gaps");
                self.disk.extend(bytes);
                self.disk.len() as u64
            }
            SnapshotStep::Abandon => return self.disk.clear(),
            SnapshotStep::Finish => {
                assert_eq!(self.disk, self.file, "whole");
                return self.load(at);
            }
        };
        let told = self.receiving.written(at, Ok(written), &mut self.writes);
        self.to_leader.extend(told.map(|(_, ack, _)| ack));
    }

    fn load(&mut self, at: Position) {
        let loaded = Ok(Box::new((State::default(), ConfState::default())));
        let install = self.receiving.loaded(at, loaded, &mut self.writes);
        let install = install.unwrap_or(None).expect("it was asked for");
        self.installs.push(install.at);
        let told = self.receiving.installed(install.at);
        self.to_leader.extend(told.map(|(_, ack)| ack));
    }

    /// Until the sender knows how it ended; the rounds it took.
    fn run(&mut self) -> End {
        for _ in 0..100_000 {
            while self.round() {}
            if let Some(end) = self.end {
                return end;
            }
            self.now_ms += 100;
            let (say, failed) = self.sending.tick(self.now_ms);
            self.to_follower.extend(say.into_iter().map(|(_, say)| say));
            if !failed.is_empty() {
                return End::Failed;
            }
            self.receiving.tick(self.now_ms);
        }
        panic!("it never ends");
    }
}

const FIVE_AND_A_BIT: usize = 5 * CHUNK_BYTES as usize + 77;

#[test]
fn a_snapshot_comes_over_whole() {
    for bytes in [1, CHUNK_BYTES as usize, FIVE_AND_A_BIT] {
        let mut pair = Pair::new(bytes);
        pair.begin(9);
        assert_eq!(pair.sending.in_use(), [at(9)]);
        assert_eq!(pair.run(), End::Installed);
        assert_eq!(pair.installs, [at(9)]);
        assert_eq!(
            pair.chunks_sent,
            bytes.div_ceil(CHUNK_BYTES as usize) as u64
        );
        assert_eq!(pair.now_ms, 0, "nothing waited for a clock");
        assert!(pair.sending.in_use().is_empty());
    }
}

#[test]
fn whatever_is_lost_is_sent_again() {
    for seed in 0..50 {
        let mut pair = Pair::new(FIVE_AND_A_BIT);
        (pair.lost_percent, pair.random) = (seed % 40, Random::new(seed));
        pair.begin(9);
        assert_eq!(pair.run(), End::Installed, "seed {seed}");
        assert_eq!(pair.installs, [at(9)]);
    }
}

#[test]
fn it_goes_on_where_an_earlier_attempt_stopped() {
    let mut pair = Pair::new(FIVE_AND_A_BIT);
    pair.disk = pair.file[..3 * CHUNK_BYTES as usize].to_vec();
    pair.begin(9);
    assert_eq!(pair.run(), End::Installed);
    assert_eq!(pair.chunks_sent, 3, "two whole ones and the rest");
}

#[test]
fn no_more_than_four_pieces_are_under_way() {
    let mut pair = Pair::new(20 * CHUNK_BYTES as usize);
    pair.begin(9);
    while pair.round() {
        assert!(pair.reads.len() as u64 <= IN_FLIGHT_MAX);
    }
    assert_eq!(pair.end, Some(End::Installed));
}

#[test]
fn who_introduces_itself_is_offered_at_once_what_it_has_not_answered() {
    let mut pair = Pair::new(1000);
    pair.lost_percent = 100;
    pair.begin(5);
    pair.round();
    pair.now_ms = 10;
    assert!(pair.sending.tick(10).0.is_empty(), "not yet");
    pair.sending.introduced(MemberId(3), 10);
    assert!(pair.sending.tick(10).0.is_empty(), "somebody else");
    pair.sending.introduced(FOLLOWER, 10);
    assert!(matches!(
        pair.sending.tick(10).0[..],
        [(FOLLOWER, Say::Offer(_))]
    ));
    assert!(pair.sending.tick(10).0.is_empty(), "once");
}

#[test]
fn a_follower_that_says_nothing_is_given_up() {
    let mut pair = Pair::new(FIVE_AND_A_BIT);
    pair.lost_percent = 100;
    pair.begin(9);
    assert_eq!(pair.run(), End::Failed);
    assert_eq!(pair.sending.len(), 0);
}

#[test]
fn what_the_follower_has_already_is_not_sent() {
    let mut pair = Pair::new(FIVE_AND_A_BIT);
    pair.installs.push(at(9));
    pair.begin(9);
    assert_eq!(pair.run(), End::Installed);
    assert_eq!((pair.chunks_sent, pair.disk.len()), (0, 0));
}

fn offer(index: u64, total_bytes: u64) -> pb::PeerSnapshotOffer {
    pb::PeerSnapshotOffer {
        index,
        term: 1,
        total_bytes,
    }
}

#[test]
fn the_newest_wins() {
    let (mut receiving, mut writes) = (Receiving::default(), Vec::new());
    let none = receiving.offered(LEADER, &offer(9, 100), Index(0), 0, &mut writes);
    assert!(none.is_none());
    let older = receiving.offered(LEADER, &offer(8, 100), Index(0), 1, &mut writes);
    assert!(older.unwrap().1.refused);
    receiving.offered(LEADER, &offer(10, 100), Index(0), 2, &mut writes);
    let steps: Vec<_> = writes.iter().map(|write| (write.at, &write.step)).collect();
    let begin = &SnapshotStep::Begin { total_bytes: 100 };
    let abandoned = (at(9), &SnapshotStep::Abandon);
    assert_eq!(steps, [(at(9), begin), abandoned, (at(10), begin)]);
}

/// A second offer while the first is being made durable waits; what is installed is the first.
fn two_in_quick_succession() -> (Vec<SnapshotWrite>, Option<Position>) {
    let (mut receiving, mut writes) = (Receiving::default(), Vec::new());
    receiving.offered(LEADER, &offer(9, 4), Index(0), 0, &mut writes);
    receiving.written(at(9), Ok(4), &mut writes);
    assert_eq!(writes.pop().unwrap().step, SnapshotStep::Finish);
    writes.clear();
    receiving.offered(LEADER, &offer(10, 4), Index(0), 1, &mut writes);
    let loaded = Ok(Box::new((State::default(), ConfState::default())));
    let install = receiving.loaded(at(9), loaded, &mut Vec::new());
    (writes, install.unwrap_or(None).map(|install| install.at))
}

#[test]
fn two_in_quick_succession_are_taken_one_after_the_other() {
    let (writes, installed) = two_in_quick_succession();
    assert!(writes.is_empty());
    assert_eq!(installed, Some(at(9)));
    mutant::set(Some(Mutant::InstallsWhatWasReplaced));
    let (writes, installed) = two_in_quick_succession();
    mutant::set(None);
    assert!(
        !writes.is_empty() && installed == Some(at(10)),
        "what it guards against"
    );
}

#[test]
fn pieces_that_do_not_fit_are_dropped() {
    let (mut receiving, mut writes) = (Receiving::default(), Vec::new());
    receiving.offered(LEADER, &offer(9, 1_000), Index(0), 0, &mut writes);
    receiving.written(at(9), Ok(0), &mut writes);
    writes.clear();
    let chunk = |index, offset, bytes: usize| pb::PeerSnapshotChunk {
        index,
        term: 1,
        offset,
        bytes: vec![1; bytes],
    };
    let late = (LEADER, chunk(8, 0, 10));
    let gap = (LEADER, chunk(9, 10, 10));
    let beyond = (LEADER, chunk(9, 0, 1_001));
    let empty = (LEADER, chunk(9, 0, 0));
    let stranger = (MemberId(7), chunk(9, 0, 10));
    let overflow = (LEADER, chunk(9, u64::MAX, 10));
    for (from, chunk) in [late, gap, beyond, empty, stranger, overflow] {
        receiving.chunk(from, chunk, 0, &mut writes);
        assert!(writes.is_empty());
    }
    receiving.chunk(LEADER, chunk(9, 0, 10), 0, &mut writes);
    assert_eq!(writes.len(), 1);
}

#[test]
fn a_disk_that_refuses_ends_it() {
    let (mut receiving, mut writes) = (Receiving::default(), Vec::new());
    receiving.offered(LEADER, &offer(9, 1_000), Index(0), 0, &mut writes);
    let full = Err(Error::NoSpace { dir: "d".into() });
    let (to, ack, error) = receiving.written(at(9), full, &mut writes).unwrap();
    assert!(to == LEADER && ack.refused && error.is_some());
    assert!(!receiving.is_receiving());
}
