//! Newtypes for every identifier: a [`NodeId`] is no [`ServiceId`].
//!
//! An id is 128 bits: 96 bits of host entropy stamped into a command and a 32-bit ordinal within
//! it, so that neither a replay nor a restore can issue one twice. The first word of the entropy
//! is offset by the ordinal (a bijection), so that the prefixes people read and type differ
//! within a batch.

use std::fmt;

use crate::error::Error;

/// Bytes of host entropy in a command.
pub const ENTROPY_BYTES: usize = 12;

/// 2^32 divided by the golden ratio, odd: spreads consecutive ordinals over all prefixes.
const ORDINAL_SPREAD: u32 = 0x9E37_79B1;

fn compose(entropy: [u8; ENTROPY_BYTES], ordinal: u32) -> [u8; 16] {
    let mut id = [0; 16];
    let first = u32::from_be_bytes([entropy[0], entropy[1], entropy[2], entropy[3]])
        .wrapping_add(ordinal.wrapping_mul(ORDINAL_SPREAD));
    id[..4].copy_from_slice(&first.to_be_bytes());
    id[4..12].copy_from_slice(&entropy[4..]);
    id[12..].copy_from_slice(&ordinal.to_be_bytes());
    id
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        /// By the bytes, compared as one number: maps with many ids spend their time here.
        impl Ord for $name {
            #[inline]
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// What people call the thing this id names.
            pub const KIND: &'static str = $kind;

            /// The id number `ordinal` of the command stamped with `entropy`.
            pub fn compose(entropy: [u8; ENTROPY_BYTES], ordinal: u32) -> Self {
                Self(compose(entropy, ordinal))
            }

            /// From a message's bytes; [`Error::Invalid`] unless there are 16.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
                bytes.try_into().map(Self).map_err(|_| Error::Invalid {
                    what: concat!($kind, " id"),
                    why: format!("it has {} bytes; an id has 16", bytes.len()),
                })
            }

            pub fn to_vec(self) -> Vec<u8> {
                self.0.to_vec()
            }
        }

        impl $name {
            /// Reads what `Display` writes.
            pub fn parse(text: &str) -> Option<Self> {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let digits = text.bytes().map(digit).collect::<Option<Vec<_>>>()?;
                let mut bytes = [0; 16];
                if digits.len() != 2 * bytes.len() {
                    return None;
                }
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
                    *byte = (pair[0] << 4 | pair[1]) as u8;
                }
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id!(
    /// A cluster; stands in every segment, snapshot, hello and peer frame.
    ClusterId,
    "cluster"
);
id!(
    /// A service.
    ServiceId,
    "service"
);
id!(
    /// A container: one slot's occupant on one node, for life.
    ContainerId,
    "container"
);
id!(
    /// A host. Comes from its data directory, not from a command.
    NodeId,
    "node"
);
id!(
    /// One worker's stream to one leader.
    SessionId,
    "session"
);

/// SHA-256 of a container spec's canonical encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecDigest(pub [u8; 32]);

impl fmt::Debug for SpecDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpecDigest(")?;
        self.0[..6]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

/// A Raft member. Never reused, bound to a data directory; not a node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A position in the Raft log; log index is Raft index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

/// A Raft term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ordinals_of_one_command_differ_in_the_prefix_people_type() {
        let ids = (0..4096).map(|n| ContainerId::compose([7; 12], n).to_string());
        assert_eq!(
            ids.map(|id| id[..8].to_owned())
                .collect::<BTreeSet<_>>()
                .len(),
            4096
        );
    }

    #[test]
    fn ids_are_in_the_order_of_their_text() {
        let id = |first: u8, last: u8| {
            let mut bytes = [0x7f; 16];
            (bytes[0], bytes[15]) = (first, last);
            NodeId(bytes)
        };
        let ids = [id(0, 255), id(1, 0), id(1, 128), id(128, 0), id(255, 0)];
        assert!(ids.is_sorted());
        assert!(ids.map(|id| id.to_string()).is_sorted());
    }

    #[test]
    fn an_id_is_sixteen_bytes_and_prints_as_hex() {
        let id = NodeId::from_slice(&[0xab; 16]).unwrap();
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(NodeId::from_slice(&[1; 15]).unwrap_err().code(), "invalid");
    }
}
