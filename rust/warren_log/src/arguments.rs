//! What the logging URI's query says.

use std::path::PathBuf;

const MAX_BYTES_DEFAULT: u64 = 10 << 20;
const MAX_BYTES_MIN: u64 = 4 << 10;
const MAX_FILES_DEFAULT: u32 = 3;
const MAX_FILES_MAX: u32 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Where the files go; absolute.
    pub dir: PathBuf,
    /// A file that would grow beyond this is rotated; at least 4 KiB.
    pub max_bytes: u64,
    /// How many files are kept, the current one included; 1 to 100.
    pub max_files: u32,
}

impl Arguments {
    /// Reads keys and values in any order: containerd does not keep the query's.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut dir, mut max_bytes, mut max_files) = (None, MAX_BYTES_DEFAULT, MAX_FILES_DEFAULT);
        while let Some(key) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("`{key}` has no value"))?;
            match key.as_str() {
                "dir" => dir = Some(PathBuf::from(value)),
                "max_bytes" => max_bytes = number(&key, &value, MAX_BYTES_MIN, u64::MAX)?,
                "max_files" => {
                    max_files = number(&key, &value, 1, u64::from(MAX_FILES_MAX))? as u32;
                }
                _ => {
                    return Err(format!(
                        "unknown key `{key}`: use dir, max_bytes, max_files"
                    ));
                }
            }
        }
        let dir = dir.ok_or("`dir` is missing: give the directory for the log")?;
        if !dir.is_absolute() {
            return Err(format!("`dir` is {}: give an absolute path", dir.display()));
        }
        Ok(Self {
            dir,
            max_bytes,
            max_files,
        })
    }
}

fn number(key: &str, value: &str, min: u64, max: u64) -> Result<u64, String> {
    let number = value
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("`{key}` is `{value}`: give a whole number from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Arguments, String> {
        Arguments::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn keys_come_in_any_order_and_have_defaults() {
        let full = parse("max_files 7 dir /logs max_bytes 4096").unwrap();
        assert_eq!(
            full,
            Arguments {
                dir: "/logs".into(),
                max_bytes: 4096,
                max_files: 7
            }
        );
        let least = parse("dir /logs").unwrap();
        assert_eq!((least.max_bytes, least.max_files), (10 << 20, 3));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, named) in [
            ("", "`dir` is missing"),
            ("dir logs", "absolute"),
            ("dir", "`dir` has no value"),
            ("dir /l max_bytes 4095", "`max_bytes` is `4095`"),
            ("dir /l max_files 0", "from 1 to 100"),
            ("dir /l size 1", "unknown key `size`"),
        ] {
            let why = parse(words).unwrap_err();
            assert!(why.contains(named), "{words}: {why}");
        }
    }
}
