//! Who somebody is: the one name that a certificate of the cluster carries.
//!
//! It has the shape of a SPIFFE ID, `spiffe://<trust domain>/<role>/<name>`, after "The SPIFFE
//! Identity and Verifiable Identity Document" (SPIFFE-ID.md, sections 2.1 to 2.3): a trust domain of
//! lower-case letters, digits, dots, dashes and underscores, at most 255 bytes; no user, port, query,
//! fragment or percent-encoding; no empty and no dot segments in the path; at most 2,048 bytes. What
//! Warren asks beyond it: the path has two segments, a [`Role`] and a name in lower case. So an
//! identity has one spelling, and two are the same exactly if their bytes are.
//!
//! What is parsed here was sent by anybody.

use std::fmt;

use crate::error::Error;
use crate::ids::NodeId;

/// Of the trust domain, and of a client's name.
const PART_BYTES_MAX: usize = 255;
/// Of the whole.
const URI_BYTES_MAX: usize = 2048;
const SCHEME: &str = "spiffe://";
const NODE_HEX_DIGITS: usize = 32;

/// What the bearer of a certificate is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes part in consensus.
    Manager,
    /// Runs containers.
    Worker,
    /// A person or a program that calls the API.
    Client,
}

impl Role {
    const ALL: [Self; 3] = [Self::Manager, Self::Worker, Self::Client];

    /// As it stands in an identity.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
            Self::Client => "client",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A parsed identity; its `Display` is the URI it was parsed from.
///
/// Invariants: `trust_domain` and `name` have 1 to 255 bytes of `[a-z0-9._-]`, and `name` is neither
/// `.` nor `..`; of a manager or a worker it is a node id, 32 digits of `[0-9a-f]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: String,
    role: Role,
    name: String,
}

impl SpiffeId {
    /// From a certificate's URI.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong; the text of the URI is quoted only in part.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        parse(uri).map_err(|why| Error::Invalid {
            what: "identity",
            why,
        })
    }

    /// The cluster's name, as its CA gave it.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// What it is to the cluster.
    pub fn role(&self) -> Role {
        self.role
    }

    /// A node id in hex, or a client's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node of a manager or a worker; clients have none.
    pub fn node(&self) -> Option<NodeId> {
        match self.role {
            Role::Manager | Role::Worker => node_of(&self.name),
            Role::Client => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, role, name) = (&self.trust_domain, self.role, &self.name);
        write!(f, "{SCHEME}{domain}/{role}/{name}")
    }
}

fn parse(uri: &str) -> Result<SpiffeId, String> {
    if uri.len() > URI_BYTES_MAX {
        return Err(format!(
            "it has {} bytes; at most {URI_BYTES_MAX} are allowed",
            uri.len()
        ));
    }
    let rest = uri.strip_prefix(SCHEME).ok_or_else(|| {
        let start: String = uri.chars().take(SCHEME.len()).collect();
        format!("it begins with {start:?} instead of {SCHEME:?}")
    })?;
    let mut parts = rest.split('/');
    let (domain, role, name) = (parts.next(), parts.next(), parts.next());
    let (Some(domain), Some(role), Some(name), None) = (domain, role, name, parts.next()) else {
        return Err(format!(
            "it has {} parts; there are three: {SCHEME}TRUST-DOMAIN/ROLE/NAME",
            rest.split('/').count()
        ));
    };
    check_part("trust domain", domain)?;
    check_part("name", name)?;
    let found = Role::ALL.into_iter().find(|known| known.as_str() == role);
    let role = found.ok_or_else(|| {
        let start: String = role.chars().take(16).collect();
        format!("its role begins {start:?}; the roles are manager, worker and client")
    })?;
    if name == "." || name == ".." {
        return Err("its name is a dot segment; give it a letter or a digit".to_owned());
    }
    if role != Role::Client && node_of(name).is_none() {
        return Err(format!(
            "its name has {} bytes; that of a {role} is its node id, {NODE_HEX_DIGITS} lower-case \
             hex digits",
            name.len()
        ));
    }
    Ok(SpiffeId {
        trust_domain: domain.to_owned(),
        role,
        name: name.to_owned(),
    })
}

fn check_part(what: &str, part: &str) -> Result<(), String> {
    if part.is_empty() || part.len() > PART_BYTES_MAX {
        let bytes = part.len();
        return Err(format!(
            "its {what} has {bytes} bytes; it has 1 to {PART_BYTES_MAX}"
        ));
    }
    let allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match part.chars().find(|character| !allowed(character)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "its {what} has {other:?} in it; allowed are a-z, 0-9 and `.-_`"
        )),
    }
}

fn node_of(name: &str) -> Option<NodeId> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits: &[u8; NODE_HEX_DIGITS] = name.as_bytes().try_into().ok()?;
    let mut id = [0; NODE_HEX_DIGITS / 2];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(NodeId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "00112233445566778899aabbccddeeff";

    fn why(uri: &str) -> String {
        match SpiffeId::parse(uri) {
            Err(error) => {
                assert_eq!(error.code(), "invalid");
                error.to_string()
            }
            Ok(id) => panic!("{uri} is {id}"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for role in Role::ALL {
            let uri = format!("spiffe://prod-1.example_x/{role}/{NODE}");
            let id = SpiffeId::parse(&uri).unwrap();
            assert_eq!((id.trust_domain(), id.role()), ("prod-1.example_x", role));
            assert_eq!((id.name(), id.to_string()), (NODE, uri));
        }
        let client = SpiffeId::parse("spiffe://c/client/ci.deploy_2-x").unwrap();
        assert_eq!((client.name(), client.node()), ("ci.deploy_2-x", None));
    }

    #[test]
    fn a_node_id_is_read_as_the_ids_print_it() {
        let id = SpiffeId::parse(&format!("spiffe://c/worker/{NODE}")).unwrap();
        assert_eq!(id.node().unwrap().to_string(), NODE);
        // A client may have a name that looks like one, and is no node for that.
        let client = SpiffeId::parse(&format!("spiffe://c/client/{NODE}")).unwrap();
        assert_eq!(client.node(), None);
    }

    #[test]
    fn each_part_is_named_when_it_is_wrong() {
        for (uri, part) in [
            ("", "begins with \"\""),
            ("https://c/manager/x", "begins with \"https://c\""),
            ("SPIFFE://c/client/x", "begins with \"SPIFFE://\""),
            ("spiffe:/c/client/x", "begins with"),
            ("spiffe://", "1 parts"),
            ("spiffe://c", "1 parts"),
            ("spiffe://c/client", "2 parts"),
            ("spiffe://c/client/x/", "4 parts"),
            ("spiffe://c/client/x/y", "4 parts"),
            ("spiffe:///client/x", "trust domain has 0 bytes"),
            ("spiffe://c/client/", "name has 0 bytes"),
            ("spiffe://c//x", "role begins \"\""),
            ("spiffe://c/root/x", "role begins \"root\""),
            ("spiffe://c/Manager/x", "role begins \"Manager\""),
            ("spiffe://C/client/x", "trust domain has 'C'"),
            ("spiffe://user@c/client/x", "trust domain has '@'"),
            ("spiffe://c:443/client/x", "trust domain has ':'"),
            ("spiffe://c%41/client/x", "trust domain has '%'"),
            ("spiffe://c/client/x?y=z", "name has '?'"),
            ("spiffe://c/client/x#y", "name has '#'"),
            ("spiffe://c/client/%2e%2e", "name has '%'"),
            ("spiffe://c/client/X", "name has 'X'"),
            ("spiffe://c/client/ü", "name has 'ü'"),
            ("spiffe://c/client/a\0b", "name has '\\0'"),
            ("spiffe://c/client/a\nb", "name has '\\n'"),
            ("spiffe://c/client/.", "dot segment"),
            ("spiffe://c/client/..", "dot segment"),
            ("spiffe://c/manager/x", "lower-case hex digits"),
            (
                "spiffe://c/worker/00112233445566778899aabbccddeef",
                "31 bytes",
            ),
            ("spiffe://c/manager/00112233445566778899aabbccddeefg", "hex"),
            (
                "spiffe://c/manager/00112233445566778899AABBCCDDEEFF",
                "name has 'A'",
            ),
        ] {
            assert!(why(uri).contains(part), "{uri:?}: {}", why(uri));
        }
    }

    #[test]
    fn lengths_end_where_they_are_said_to() {
        let at_most = "d".repeat(PART_BYTES_MAX);
        let uri = |domain: &str, name: &str| format!("spiffe://{domain}/client/{name}");
        assert!(SpiffeId::parse(&uri(&at_most, &at_most)).is_ok());
        let longer = format!("{at_most}d");
        assert!(why(&uri(&longer, "x")).contains("trust domain has 256 bytes"));
        assert!(why(&uri("c", &longer)).contains("name has 256 bytes"));
        let endless = why(&uri("c", &"/".repeat(1 << 20)));
        assert!(endless.contains("bytes; at most 2048") && endless.len() < 200);
    }

    /// An error is shown to people and logged: however hostile, it stays a short line.
    #[test]
    fn no_input_makes_a_long_or_broken_line() {
        let hostile = ["\u{1b}[2J", "\n", "\0", "\u{202e}", "é", "/", "%", "a"];
        for one in hostile {
            for count in [1, 3, 40, 2000] {
                for prefix in ["", "spiffe://", "spiffe://c/", "spiffe://c/client/"] {
                    let uri = format!("{prefix}{}", one.repeat(count));
                    let Err(error) = SpiffeId::parse(&uri) else {
                        continue;
                    };
                    let line = error.to_string();
                    assert!(line.len() < 300, "{line}");
                    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                    assert!(!line.contains('\u{202e}'), "{line:?}");
                }
            }
        }
    }

    /// Whatever parses is printed as what it was parsed from: one spelling for one identity.
    #[test]
    fn a_flip_of_any_bit_gives_another_identity_or_none() {
        let uri = format!("spiffe://c.example/manager/{NODE}");
        let id = SpiffeId::parse(&uri).unwrap();
        for bit in 0..uri.len() * 8 {
            let mut bytes = uri.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            if let Ok(other) = SpiffeId::parse(&text) {
                assert_ne!(other, id);
                assert_eq!(other.to_string(), text);
            }
        }
    }
}
