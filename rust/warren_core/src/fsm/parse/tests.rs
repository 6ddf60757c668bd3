//! Held against `prost`: what is understood here is what it understands, and what it writes is
//! understood here.

use prost::Message;

use super::*;
use crate::fsm::convert::StatusFields;
use crate::pb;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Of any magnitude, zero among them.
    fn number(&mut self) -> u64 {
        let shift = self.below(65) as u32;
        self.next().checked_shr(shift).unwrap_or(0)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 15, 16, 16, 16, 32, 32, 130][self.below(9)];
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        ["", "started", "ä€😀", &"x".repeat(200)][self.below(4)].to_owned()
    }

    fn status(&mut self) -> Option<pb::ContainerStatus> {
        (self.below(5) > 0).then(|| pb::ContainerStatus {
            attempt: self.number() as u32,
            state: self.number() as i32,
            message: self.text(),
            exit_code: self.number() as i32,
            exited: self.below(2) == 0,
            oom_killed: self.below(2) == 0,
            pid: self.number() as u32,
            started_at_ms: self.number(),
            finished_at_ms: self.number(),
            retry_at_ms: self.number(),
            removed: self.below(2) == 0,
        })
    }

    fn report(&mut self) -> pb::ReportStatus {
        let items = (0..self.below(4)).map(|_| pb::StatusItem {
            container_id: self.bytes(),
            status: self.status(),
        });
        let items = items.collect();
        pb::ReportStatus {
            node_id: self.bytes(),
            items,
        }
    }

    fn container(&mut self) -> pb::Container {
        pb::Container {
            id: self.bytes(),
            service_id: self.bytes(),
            service_name: self.text(),
            slot: self.number(),
            spec_digest: self.bytes(),
            service_version: self.number(),
            node_id: self.bytes(),
            desired: self.number() as i32,
            status: self.status(),
            created_at_ms: self.number(),
            resources: (self.below(4) > 0).then(|| pb::Resources {
                cpu_milli: self.number(),
                memory_bytes: self.number(),
                disk_bytes: self.number(),
                pids: self.number(),
            }),
            devices: Vec::new(),
        }
    }

    /// Bytes changed, taken out, put in, doubled or cut off.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(20)).min(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                _ => bytes.insert(at, self.next() as u8),
            }
        }
    }
}

fn report_of(message: &pb::ReportStatus) -> Report<'_> {
    let items = message.items.iter().map(|item| ReportItem {
        container_id: &item.container_id,
        status: item.status.as_ref().map(StatusFields::from),
    });
    Report {
        node_id: &message.node_id,
        items: items.collect(),
    }
}

const ROUNDS: u64 = 20_000;

#[test]
fn what_prost_writes_is_understood() {
    for seed in 0..ROUNDS {
        let mut random = Random(seed);
        let message = random.report();
        let bytes = message.encode_to_vec();
        assert_eq!(report(&bytes, 3), Some(report_of(&message)), "seed {seed}");
        let message = random.container();
        let bytes = message.encode_to_vec();
        assert_eq!(container(&bytes), Some((&message).into()), "{seed}");
    }
}

#[test]
fn of_spoilt_bytes_nothing_is_understood_that_prost_takes_otherwise() {
    let (mut reports, mut containers, mut refused) = (0, 0, 0);
    for seed in 0..ROUNDS {
        let mut random = Random(seed);
        let mut bytes = random.report().encode_to_vec();
        random.spoil(&mut bytes);
        if let Some(understood) = report(&bytes, usize::MAX) {
            let message = pb::ReportStatus::decode(&bytes[..]).expect("prost understands it too");
            assert_eq!(understood, report_of(&message), "seed {seed}");
            reports += 1;
        }
        let mut bytes = random.container().encode_to_vec();
        random.spoil(&mut bytes);
        if let Some(understood) = container(&bytes) {
            let message = pb::Container::decode(&bytes[..]).expect("prost understands it too");
            assert_eq!(understood, (&message).into(), "seed {seed}");
            containers += 1;
        } else {
            refused += 1;
        }
    }
    assert!(
        reports > 1000 && containers > 1000 && refused > 1000,
        "{reports} {containers} {refused}"
    );
}

#[test]
fn a_report_is_found_at_the_end_of_its_command_only() {
    for seed in 0..ROUNDS / 4 {
        let mut random = Random(seed);
        let message = random.report();
        let mut command = pb::Command {
            level: random.number() as u32,
            time_ms: random.number(),
            entropy: random.bytes(),
            identity: random.text(),
            ..Default::default()
        };
        let envelope = command.encode_to_vec();
        command.body = Some(pb::command::Body::ReportStatus(message.clone()));
        let mut bytes = command.encode_to_vec();
        let report = message.encode_to_vec();
        assert_eq!(split_report(&bytes), Some((&envelope[..], &report[..])));
        bytes.push(8);
        assert_eq!(split_report(&bytes), None);
        bytes.push(1);
        assert_eq!(split_report(&bytes), None);
    }
}

#[test]
fn more_items_than_allowed_are_for_others_to_refuse() {
    let item = pb::StatusItem::default();
    let message = pb::ReportStatus {
        node_id: vec![1; 16],
        items: vec![item; 4],
    };
    let bytes = message.encode_to_vec();
    assert!(report(&bytes, 4).is_some());
    assert_eq!(report(&bytes, 3), None);
}
