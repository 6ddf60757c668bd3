//! The fleet against a naive twin, and what it promises.

mod promises;
mod twin;

use std::collections::BTreeMap;

use super::{
    DEVICE_MILLI, DeviceAsk, DeviceFleet, DeviceGrant, DeviceNode, Scarcity, Tuning, Want,
};
use crate::ids::NodeId;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn node_id(number: u64) -> NodeId {
    NodeId(u128::from(number).to_be_bytes())
}

fn gpus(model: &str, count: usize) -> Vec<(String, String)> {
    vec![("gpu".to_owned(), model.to_owned()); count]
}

fn node(cpu_milli: u64, memory_bytes: u64, devices: Vec<(String, String)>) -> DeviceNode {
    DeviceNode {
        cpu_milli,
        memory_bytes,
        devices,
    }
}

fn ask(cpu_milli: u64, memory_bytes: u64, want: Want, models: &[&str]) -> DeviceAsk {
    DeviceAsk {
        cpu_milli,
        memory_bytes,
        want,
        kind: "gpu".to_owned(),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        beside: Vec::new(),
    }
}

/// Nodes of several sizes; one in three has devices of two models, or of another kind.
fn random_node(random: &mut Random) -> DeviceNode {
    let count = random.of(&[1, 2, 4, 8]);
    let mut devices = gpus(random.of(&["A", "B", "C"]), count);
    match random.below(6) {
        0 => devices.extend(gpus("B", 2)),
        1 => devices.push(("fpga".to_owned(), "A".to_owned())),
        _ => {}
    }
    let cpu_milli = random.of(&[4, 8, 16, 64]) * 1000;
    node(cpu_milli, random.of(&[16, 64, 128]), devices)
}

fn random_asks(random: &mut Random, count: usize) -> Vec<DeviceAsk> {
    let mut asks = Vec::new();
    for _ in 0..count {
        let want = match random.below(8) {
            0 => Want::Nothing,
            1..4 => Want::Whole(random.of(&[1, 1, 2, 4])),
            _ => Want::Share(random.of(&[50, 190, 333, 470, 500, 810, 999])),
        };
        let models: &[&str] = random.of(&[&[][..], &[], &[], &["A"], &["B", "C"], &["none"]]);
        let cpu_milli = random.of(&[0, 500, 2000, 3500, 8000]);
        asks.push(ask(cpu_milli, random.of(&[0, 1, 4, 16]), want, models));
    }
    asks.push(DeviceAsk {
        kind: "fpga".to_owned(),
        ..ask(100, 1, Want::Whole(1), &[])
    });
    asks
}

/// What is held on each node and device, from the grants alone.
fn held(grants: &[DeviceGrant]) -> BTreeMap<(NodeId, u16), Vec<u16>> {
    let mut held: BTreeMap<_, Vec<u16>> = BTreeMap::new();
    for grant in grants {
        for share in &grant.devices {
            let device = held.entry((grant.node, share.device)).or_default();
            device.push(share.milli);
        }
    }
    held
}
