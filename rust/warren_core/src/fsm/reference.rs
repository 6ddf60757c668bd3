//! Image references, by the grammar that docker and containerd share:
//! `[domain/]path[:tag][@digest]`.

use crate::error::{Error, Result};

const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// The reference in full: `busybox` becomes `docker.io/library/busybox:latest`. A tag is added
/// only where neither tag nor digest is given.
pub fn normalise_reference(reference: &str) -> Result<String> {
    let fail = |why: &str| Error::Invalid {
        what: "image reference",
        why: format!("`{reference}`: {why}; it looks like name:tag or registry.host/name:tag"),
    };
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    // A colon after the last slash begins a tag; before it, a port.
    let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path_start..].split_once(':') {
        Some((last, tag)) => (&rest[..path_start + last.len()], Some(tag)),
        None => (rest, None),
    };
    if name.len() == 64 && name.bytes().all(is_lower_hex) {
        return Err(fail("64 hex digits could also be an id"));
    }
    let (domain, path) = split_domain(name);
    if !is_domain(domain) {
        return Err(fail("the registry's host is not valid"));
    }
    if !path.split('/').all(is_component) {
        return Err(fail(
            "a name has lower-case letters and digits, joined by single . _ - or /",
        ));
    }
    let library = if domain == "docker.io" && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let mut full = format!("{domain}/{library}{path}");
    if full.len() > NAME_BYTES_MAX {
        return Err(fail("the name is longer than 255 bytes"));
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(fail("a tag has up to 128 letters, digits and _ . -"));
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(fail("a digest is sha256: and 64 hex digits"));
    }
    if let Some(tag) = tag.or(digest.is_none().then_some("latest")) {
        full = format!("{full}:{tag}");
    }
    if let Some(digest) = digest {
        full = format!("{full}@{digest}");
    }
    Ok(full)
}

/// Whether it is `sha256:` and 64 lower-case hex digits.
pub fn is_digest(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_lower_hex))
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The first component is a host if it could not be part of a plain name.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => ("docker.io", path),
        Some((first, path)) if first == "localhost" || first.contains(['.', ':']) => (first, path),
        _ => ("docker.io", name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Runs of [a-z0-9] joined by one dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_in_words = |bytes: &[u8]| word(bytes[0]) && word(bytes[bytes.len() - 1]);
    if bytes.is_empty() || !ends_in_words(bytes) {
        return false;
    }
    bytes
        .split(|b| word(*b))
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (given, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            ("localhost/app", "localhost/app:latest".to_owned()),
            (
                "localhost:5000/a/b__c:v1",
                "localhost:5000/a/b__c:v1".to_owned(),
            ),
            ("ghcr.io/a/b-c.d", "ghcr.io/a/b-c.d:latest".to_owned()),
            (
                &format!("app@{digest}"),
                format!("docker.io/library/app@{digest}"),
            ),
            (
                &format!("app:v1@{digest}"),
                format!("docker.io/library/app:v1@{digest}"),
            ),
        ] {
            assert_eq!(normalise_reference(given).as_ref(), Ok(&full), "{given}");
            assert_eq!(
                normalise_reference(&full),
                Ok(full.clone()),
                "normal forms stay: {full}"
            );
        }
    }

    #[test]
    fn malformed_references_are_refused_with_a_reason() {
        let id = "a".repeat(64);
        let long = "a".repeat(256);
        for given in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "A",
            "a//b",
            "a:b:c",
            "a b",
            "a@sha256:12",
            "a@",
            "a:",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "host:x/a",
            "-h.x/a",
            &id,
            &long,
            "a:.tag",
            "ä",
        ] {
            let refused = normalise_reference(given).expect_err(given);
            assert_eq!(refused.code(), "invalid", "{given}");
        }
    }
}
