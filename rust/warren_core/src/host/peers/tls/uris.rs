//! The URIs among a certificate's subject alternative names (RFC 5280, sections 4.1 and 4.2.1.6).
//!
//! The TLS library checks certificates and does not say which URIs they carry. This reads as much of
//! DER (X.690, section 10) as leads there: lengths in their shortest form, nothing beyond the ends.
//! It is given certificates that the library has parsed and verified, and does not rely on it.

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
/// `[3] EXPLICIT Extensions`, of the part that is signed.
const EXTENSIONS: u8 = 0xa3;
/// `[6] IA5String`, of a general name.
const URI: u8 = 0x86;
/// 2.5.29.17, `subjectAltName`.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// All of them, in their order. `None` if this is no certificate or a URI is not ASCII.
pub fn uris(certificate: &[u8]) -> Option<Vec<&str>> {
    let (outer, rest) = Element::read(certificate)?;
    let signed = Elements(outer.of(SEQUENCE)?).next()??.of(SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    for field in Elements(signed) {
        let field = field?;
        if field.tag != EXTENSIONS {
            continue;
        }
        let (extensions, _) = Element::read(field.content)?;
        for extension in Elements(extensions.of(SEQUENCE)?) {
            let Some(names) = alt_names(extension?.of(SEQUENCE)?)? else {
                continue;
            };
            for name in Elements(names) {
                let name = name?;
                if name.tag == URI {
                    found.push(ascii(name.content)?);
                }
            }
        }
    }
    Some(found)
}

/// The general names of an extension, if it is the one that has them.
fn alt_names(extension: &[u8]) -> Option<Option<&[u8]>> {
    let mut parts = Elements(extension);
    if parts.next()??.of(OBJECT_IDENTIFIER)? != SUBJECT_ALT_NAME {
        return Some(None);
    }
    let mut value = parts.next()??;
    if value.tag == BOOLEAN {
        // Whether it is critical.
        value = parts.next()??;
    }
    let (names, _) = Element::read(value.of(OCTET_STRING)?)?;
    Some(Some(names.of(SEQUENCE)?))
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.is_ascii())
}

/// One tag with what it holds.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

impl<'a> Element<'a> {
    /// The first one in `bytes`, and what follows it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&tag, bytes) = bytes.split_first()?;
        let (&first, mut bytes) = bytes.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) {
                return None;
            }
            let (digits, rest) = bytes.split_at_checked(count)?;
            length = digits
                .iter()
                .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            if length < 0x80 || digits[0] == 0 {
                return None;
            }
            bytes = rest;
        }
        let (content, rest) = bytes.split_at_checked(length)?;
        Some((Self { tag, content }, rest))
    }

    /// What it holds, if it is a `tag`.
    fn of(&self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.content)
    }
}

/// Elements one behind the other; `None` in place of what is none, and then the end.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Option<Element<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = Element::read(self.0);
        self.0 = read.as_ref().map_or(&[], |(_, rest)| rest);
        Some(read.map(|(element, _)| element))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Leaf};
    use super::*;

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let leaf = Leaf {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            dns_name: Some("host.example".into()),
            ..Leaf::default()
        };
        Authority::new("c").issue(&leaf).der
    }

    #[test]
    fn every_uri_is_found_and_nothing_else() {
        let long = format!("spiffe://c/client/{}", "x".repeat(300));
        for uris_of in [&[][..], &["spiffe://c/client/x"], &["a:b", &long, "c:d"]] {
            assert_eq!(uris(&certificate(uris_of)).unwrap(), uris_of);
        }
    }

    #[test]
    fn a_part_of_a_certificate_is_none() {
        let whole = certificate(&["spiffe://c/client/x"]);
        for length in 0..whole.len() {
            assert_eq!(uris(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(uris(&[&whole[..], &[0]].concat()), None);
    }

    /// Nothing panics, and nothing is read that is not there.
    #[test]
    fn any_byte_may_be_anything() {
        let whole = certificate(&["spiffe://c/client/x"]);
        for at in 0..whole.len() {
            for value in [0, 1, 0x30, 0x7f, 0x80, 0x81, 0x84, 0x86, 0xa3, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                for uri in uris(&bytes).unwrap_or_default() {
                    assert!(uri.is_ascii());
                }
            }
        }
    }
}
