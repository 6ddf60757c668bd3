//! Versions as kernels, containerd and numbers have them, compared part by part.

use std::cmp::Ordering;

/// Numbers that are compared; what follows them is looked at for a pre-release only.
const PARTS_MAX: usize = 8;

/// A version: numbers, missing ones being 0, and whether it comes before the release of that number.
/// `6.1.0-13-amd64` is no earlier than `6.1`; `2.0.0-rc.1` is earlier than `2.0`, and later than
/// `2.0.0-beta.2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    numbers: [u64; PARTS_MAX],
    /// How far before the release: the stage, and its number.
    stage: (Stage, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Development,
    Alpha,
    Beta,
    Candidate,
    Release,
}

const STAGES: [(&str, Stage); 6] = [
    ("dev", Stage::Development),
    ("alpha", Stage::Alpha),
    ("beta", Stage::Beta),
    ("preview", Stage::Candidate),
    ("pre", Stage::Candidate),
    ("rc", Stage::Candidate),
];

impl Version {
    /// `None` if it does not begin with a number (after a `v`), or one has more than 64 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = [0; PARTS_MAX];
        for number in &mut numbers {
            *number = take_number(&mut rest)?;
            match rest.strip_prefix('.') {
                Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) => rest = next,
                _ => break,
            }
        }
        let stage = stage(rest);
        Some(Self { numbers, stage })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.numbers, self.stage).cmp(&(other.numbers, other.stage))
    }
}

fn take_number(rest: &mut &str) -> Option<u64> {
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits.parse().ok()
}

fn stage(suffix: &str) -> (Stage, u64) {
    let suffix = suffix.trim_start_matches(['-', '~', '.', '_']);
    let named = STAGES
        .iter()
        .find_map(|(name, stage)| suffix.strip_prefix(name).map(|rest| (*stage, rest)));
    match named {
        // A word that only begins like one: `device`, `premium`.
        Some((_, rest)) if rest.starts_with(|c: char| c.is_alphabetic()) => (Stage::Release, 0),
        Some((stage, rest)) => {
            let mut rest = rest.trim_start_matches(['-', '.']);
            (stage, take_number(&mut rest).unwrap_or_default())
        }
        None => (Stage::Release, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("{text} is a version"))
    }

    #[test]
    fn versions_stand_in_their_order() {
        let ascending = [
            "0.9",
            "1",
            "1.6.20",
            "1.6.21+ds1",
            "1.7.0-dev",
            "1.7.0-alpha.2",
            "1.7.0-beta.1",
            "1.7.0-rc.1",
            "1.7.0-rc.10",
            "1.7.0",
            "2.0.0~rc1",
            "2",
            "5.10.0-26-amd64",
            "6.1.0-13-amd64",
            "6.1.0.1",
            "10",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_nothing() {
        for (one, other) in [
            ("1.6", "v1.6.0"),
            ("6.1.0-13-amd64", "6.1"),
            ("5.15.0-device", "5.15"),
            ("16", "16.0.0.0"),
        ] {
            assert_eq!(version(one), version(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "v", "next", "-1", ".5", "99999999999999999999"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
