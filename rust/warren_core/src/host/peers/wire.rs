//! How frames follow each other on a connection.
//!
//! A connection begins with eight bytes: `WRNP`, the version of this layout, the lane, two zeros.
//! Then frame follows frame. Of a frame's own header only the first field matters here: the number
//! of bytes, little-endian, behind the first eight (length and checksum). The checksum and all else
//! are the business of whoever made the frame.

use std::io::{self, Read};

use crate::control::peer::frame::FRAME_BYTES_MAX;
use crate::ids::MemberId;
use crate::raft::Lane;

/// A frame's length and checksum.
pub const PREFIX_BYTES: usize = 8;
pub const PREAMBLE_BYTES: usize = 8;

const MAGIC: [u8; 4] = *b"WRNP";
const VERSION: u8 = 1;
/// Room taken for a frame before any of it has arrived; more follows what does arrive.
const TRUSTED_BYTES: usize = 64 << 10;

/// Why nothing more is read from a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no member of this cluster, for this reason.
    NotAuthenticated(String),
    /// It does not begin as one of ours does.
    NotOurs,
    /// A frame of no length, or longer than [`FRAME_BYTES_MAX`].
    Length,
    /// A frame says it is from this member, and the connection belongs to another node.
    OtherNode(MemberId),
    /// It ended, or broke.
    Ended,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Ended
    }
}

pub fn preamble(lane: Lane) -> [u8; PREAMBLE_BYTES] {
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, VERSION, lane as u8, 0, 0]
}

pub fn read_preamble(from: &mut impl Read) -> Result<Lane, Refusal> {
    let mut bytes = [0; PREAMBLE_BYTES];
    from.read_exact(&mut bytes)?;
    let lane = super::LANES
        .into_iter()
        .find(|lane| bytes == preamble(*lane));
    lane.ok_or(Refusal::NotOurs)
}

/// The next frame, whole, with its length and checksum.
pub fn read_frame(from: &mut impl Read) -> Result<Vec<u8>, Refusal> {
    let mut prefix = [0; PREFIX_BYTES];
    from.read_exact(&mut prefix)?;
    let [a, b, c, d, ..] = prefix;
    let length = u32::from_le_bytes([a, b, c, d]);
    let total = length as usize + PREFIX_BYTES;
    if length == 0 || total > FRAME_BYTES_MAX {
        return Err(Refusal::Length);
    }
    let mut frame = Vec::with_capacity(total.min(TRUSTED_BYTES));
    frame.extend(prefix);
    from.take(u64::from(length)).read_to_end(&mut frame)?;
    if frame.len() < total {
        return Err(Refusal::Ended);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: usize) -> Vec<u8> {
        let mut frame = (body as u32).to_le_bytes().to_vec();
        frame.extend([0xee; 4]);
        frame.resize(PREFIX_BYTES + body, 0x5a);
        frame
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let frames = [frame(1), frame(77), frame(FRAME_BYTES_MAX - PREFIX_BYTES)];
        let bytes = frames.concat();
        let mut whole = bytes.as_slice();
        for sent in &frames {
            assert_eq!(&read_frame(&mut whole).unwrap(), sent);
        }
        for cut in [0, 3, 7, 8, 9, 84, 85, 93] {
            let mut part = &bytes[..cut];
            let ended = loop {
                if let Err(refusal) = read_frame(&mut part) {
                    break refusal;
                }
            };
            assert_eq!(ended, Refusal::Ended, "cut at {cut}");
        }
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_anything_is_read_or_allocated() {
        for length in [0, (FRAME_BYTES_MAX - PREFIX_BYTES + 1) as u32, u32::MAX] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([0; 100]);
            let mut rest = bytes.as_slice();
            assert_eq!(read_frame(&mut rest), Err(Refusal::Length));
            assert_eq!(rest.len(), 96);
        }
    }

    #[test]
    fn only_what_begins_as_we_begin_is_ours() {
        for lane in super::super::LANES {
            let bytes = preamble(lane);
            assert_eq!(read_preamble(&mut bytes.as_slice()).unwrap(), lane);
            for at in 0..PREAMBLE_BYTES {
                let mut other = bytes;
                other[at] ^= 0x80;
                let read = read_preamble(&mut other.as_slice());
                assert_eq!(read, Err(Refusal::NotOurs), "byte {at}");
            }
        }
        assert!(read_preamble(&mut b"GET / HTTP/1.1\r\n".as_slice()).is_err());
    }
}
