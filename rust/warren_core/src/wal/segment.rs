//! Segments: their names and their headers. Pure.

use super::Identity;
use super::frame::{u32_at, u64_at};
use super::outline::Position;

/// One page, so that no later write shares a disk sector with the header.
pub(super) const HEADER_BYTES: usize = 4096;
pub(super) const FORMAT_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"WARRNWAL";
const FLAG_RECYCLED: u32 = 1;
const FIELDS_END: usize = 128;
const CHECKSUM_OFFSET: usize = HEADER_BYTES - 4;

/// The first page of a segment. It is durable before the segment gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub identity: Identity,
    /// Place in the log, from 1. Never used twice, so it is the generation of a recycled file too.
    pub sequence: u64,
    pub segment_bytes: u64,
    /// Bytes after the last frame may be old frames, not zeros.
    pub recycled: bool,
    /// Where the segment before this one ended, and the checksum of its last frame; zeros in the
    /// first.
    pub prev_end: u64,
    pub prev_checksum: u32,
    /// The oldest segment that was needed when this one began.
    pub first_sequence: u64,
    /// The batches before this segment.
    pub batch: u64,
    /// The log's last entry before this segment.
    pub last: Position,
}

/// Why a page is not a header.
pub(super) enum BadHeader {
    Version(u32),
    Damaged(&'static str),
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(HEADER_BYTES);
        page.extend_from_slice(MAGIC);
        page.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let flags = if self.recycled { FLAG_RECYCLED } else { 0 };
        page.extend_from_slice(&flags.to_le_bytes());
        page.extend_from_slice(&self.identity.cluster_id);
        page.extend_from_slice(&self.identity.data_dir);
        for field in [
            self.identity.epoch,
            self.identity.member_id,
            self.sequence,
            self.segment_bytes,
            self.prev_end,
            u64::from(self.prev_checksum),
            self.first_sequence,
            self.batch,
            self.last.index,
            self.last.term,
        ] {
            page.extend_from_slice(&field.to_le_bytes());
        }
        debug_assert_eq!(page.len(), FIELDS_END);
        page.resize(CHECKSUM_OFFSET, 0);
        let checksum = crc32c::crc32c(&page);
        page.extend_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads a header; the second value seeds the checksums of the segment's frames.
    pub fn decode(page: &[u8]) -> Result<(Self, u32), BadHeader> {
        if page.len() < HEADER_BYTES {
            return Err(BadHeader::Damaged("the file is shorter than a header"));
        }
        if &page[..8] != MAGIC {
            return Err(BadHeader::Damaged(
                "the header does not begin as a log segment's does",
            ));
        }
        let checksum = header_checksum(page);
        if crc32c::crc32c(&page[..CHECKSUM_OFFSET]) != checksum {
            return Err(BadHeader::Damaged("the header's checksum is wrong"));
        }
        // After the checksum: a flipped bit must not pass for a newer release.
        let version = u32_at(page, 8);
        if version != FORMAT_VERSION {
            return Err(BadHeader::Version(version));
        }
        let header = Self {
            identity: Identity {
                cluster_id: page[16..32].try_into().expect("sixteen bytes"),
                data_dir: page[32..48].try_into().expect("sixteen bytes"),
                epoch: u64_at(page, 48),
                member_id: u64_at(page, 56),
            },
            recycled: u32_at(page, 12) & FLAG_RECYCLED != 0,
            sequence: u64_at(page, 64),
            segment_bytes: u64_at(page, 72),
            prev_end: u64_at(page, 80),
            prev_checksum: u32_at(page, 88),
            first_sequence: u64_at(page, 96),
            batch: u64_at(page, 104),
            last: Position {
                index: u64_at(page, 112),
                term: u64_at(page, 120),
            },
        };
        Ok((header, checksum))
    }
}

/// The checksum of an encoded header, which seeds those of the segment's frames.
pub(super) fn header_checksum(page: &[u8]) -> u32 {
    u32_at(page, CHECKSUM_OFFSET)
}

/// The file name of the segment at `sequence`.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The file name of an allocated file that is not part of the log.
pub(super) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// What the log recognises in its directory; everything else is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    Segment(u64),
    Spare(u64),
}

impl FileName {
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, extension) = name.split_once('.')?;
        let lower = digits
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() != 16 || !lower {
            return None;
        }
        let number = u64::from_str_radix(digits, 16).ok()?;
        match extension {
            "wal" => Some(Self::Segment(number)),
            "spare" => Some(Self::Spare(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            identity: Identity {
                cluster_id: *b"a cluster's name",
                data_dir: *b"a data directory",
                epoch: 2,
                member_id: 3,
            },
            sequence: 4,
            segment_bytes: 5,
            recycled: true,
            prev_end: 6,
            prev_checksum: 7,
            first_sequence: 8,
            batch: 9,
            last: Position {
                index: 10,
                term: 11,
            },
        }
    }

    #[test]
    fn a_header_survives_and_every_flipped_byte_is_noticed() {
        let page = header().encode();
        assert_eq!(page.len(), HEADER_BYTES);
        assert_eq!(
            Header::decode(&page).ok().map(|(header, _)| header),
            Some(header())
        );
        for byte in 0..HEADER_BYTES {
            let mut flipped = page.clone();
            flipped[byte] ^= 0x10;
            assert!(
                matches!(Header::decode(&flipped), Err(BadHeader::Damaged(_))),
                "byte {byte}"
            );
        }
    }

    #[test]
    fn an_unknown_version_is_told_apart_from_damage() {
        for version in [1, FORMAT_VERSION + 1] {
            let mut page = header().encode();
            page[8] = version as u8;
            let checksum = crc32c::crc32c(&page[..CHECKSUM_OFFSET]);
            page[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
            let refused = Header::decode(&page);
            assert!(matches!(refused, Err(BadHeader::Version(found)) if found == version));
        }
    }

    #[test]
    fn names_are_read_back_and_strangers_ignored() {
        assert_eq!(
            FileName::parse(&segment_name(0xab)),
            Some(FileName::Segment(0xab))
        );
        assert_eq!(FileName::parse(&spare_name(1)), Some(FileName::Spare(1)));
        for stranger in [
            "lost+found",
            "1.wal",
            "00000000000000AB.wal",
            "00000000000000ab.old",
        ] {
            assert_eq!(FileName::parse(stranger), None);
        }
    }
}
