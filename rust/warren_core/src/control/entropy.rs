//! Every random number of the machine, from one seed of the host.

use sha2::{Digest as _, Sha256};

use crate::ids::ENTROPY_BYTES;

/// SHA-256 in counter mode: nobody who sees ids can tell the next one.
pub struct Entropy {
    seed: [u8; 32],
    drawn: u64,
}

impl Entropy {
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// What one command is stamped with.
    pub fn draw(&mut self) -> [u8; ENTROPY_BYTES] {
        let block = self.block();
        std::array::from_fn(|at| block[at])
    }

    pub fn draw_u64(&mut self) -> u64 {
        let block = self.block();
        u64::from_le_bytes(std::array::from_fn(|at| block[at]))
    }

    /// A random UUID (RFC 9562, section 5.4).
    pub fn draw_uuid(&mut self) -> [u8; 16] {
        let block = self.block();
        let mut uuid: [u8; 16] = std::array::from_fn(|at| block[at]);
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    fn block(&mut self) -> [u8; 32] {
        self.drawn += 1;
        Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.drawn.to_le_bytes())
            .finalize()
            .into()
    }
}
