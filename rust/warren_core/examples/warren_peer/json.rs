//! The little JSON that the answers need, and bytes in hex.

use std::fmt::Write as _;

/// A string (RFC 8259 §7).
pub fn text(value: &str) -> String {
    let mut json = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control < ' ' => {
                // Writing to a string cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

/// Pairs of numbers.
pub fn pairs(values: &[(u64, u64)]) -> String {
    let pairs: Vec<String> = values.iter().map(|(a, b)| format!("[{a}, {b}]")).collect();
    format!("[{}]", pairs.join(", "))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    let bytes = digits.map(|pair| u8::from_str_radix(pair?, 16).ok());
    bytes
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| format!("{text} is no hex"))
}
