//! What makes a sector that was never written tell itself apart from every sector that was. Pure.
//!
//! Frames are stored XORed with a pad that depends on the segment and on the offset. In a file that
//! was all zeros before, an 8-byte word which reads as zero has then never been written: a written one
//! is zero with a probability of 2⁻⁶⁴, whatever its payload, and after the flip of one byte still of
//! only 2⁻⁵³. Recovery can thus prove that a batch was torn, instead of guessing. The pad hides
//! nothing: its key stands in the header.

/// Frames, and so batches, begin and end at multiples of it.
const WORD_BYTES: usize = 8;

/// The pad of one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask(u64);

impl Mask {
    /// `seed` is the checksum of the segment's header, which differs between generations.
    pub fn new(seed: u32) -> Self {
        Self(u64::from(seed) << 32)
    }

    /// Masks or unmasks `words`, which begin at `offset` of the segment: the same operation.
    pub fn apply(self, words: &mut [u8], offset: u64) {
        debug_assert!(words.len().is_multiple_of(WORD_BYTES));
        for (word, at) in words.chunks_exact_mut(WORD_BYTES).zip(self.first(offset)..) {
            let masked = u64::from_le_bytes((&*word).try_into().expect("eight bytes")) ^ pad(at);
            word.copy_from_slice(&masked.to_le_bytes());
        }
    }

    /// Whether the unmasked `words` from `offset` on were all zeros on the disk.
    pub fn is_unwritten(self, words: &[u8], offset: u64) -> bool {
        self.written_bytes(words, offset) == 0
    }

    /// Up to where `words` are anything but zeros on the disk, in bytes from their start.
    pub fn written_bytes(self, words: &[u8], offset: u64) -> usize {
        let first = self.first(offset);
        let numbers = (first..first + (words.len() / WORD_BYTES) as u64).rev();
        let unwritten = words
            .rchunks_exact(WORD_BYTES)
            .zip(numbers)
            .take_while(|(word, at)| **word == pad(*at).to_le_bytes());
        words.len() - unwritten.count() * WORD_BYTES
    }

    /// The number of the word at `offset`: a segment has at most 2^30 bytes, so it fits below the
    /// seed.
    fn first(self, offset: u64) -> u64 {
        self.0 | (offset / WORD_BYTES as u64)
    }
}

/// The finaliser of SplitMix64: a bijection of words without visible pattern.
fn pad(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_twice_gives_back_the_bytes() {
        let plain: Vec<u8> = (0..=255).collect();
        let mut bytes = plain.clone();
        Mask::new(7).apply(&mut bytes, 4096);
        assert_ne!(bytes, plain);
        // In two parts, as frames of one batch are read.
        let (first, second) = bytes.split_at_mut(64);
        Mask::new(7).apply(first, 4096);
        Mask::new(7).apply(second, 4160);
        assert_eq!(bytes, plain);
    }

    #[test]
    fn what_was_never_written_is_told_from_zeros_that_were() {
        let mask = Mask::new(7);
        let mut disk = vec![0; 64];
        mask.apply(&mut disk[8..24], 4104); // zeros are written at 4104
        assert!(disk[8..24].iter().any(|byte| *byte != 0));
        mask.apply(&mut disk, 4096);
        assert!(mask.is_unwritten(&disk[..8], 4096));
        assert!(!mask.is_unwritten(&disk[8..24], 4104));
        assert_eq!(mask.written_bytes(&disk, 4096), 24);
    }
}
