//! Golden scenarios: lines that begin with `>` are done, what follows each is what must come of
//! it, up to the next `>` or an empty line. `#` begins a comment.

/// Runs `text` through `execute`, which answers each line with lines; panics with the whole of
/// what came instead if anything differs.
pub fn run(name: &str, text: &str, mut execute: impl FnMut(&str) -> Vec<String>) {
    let mut actual = String::new();
    for line in text.lines() {
        if let Some(input) = line.strip_prefix("> ") {
            actual.push_str(line);
            actual.push('\n');
            for answer in execute(input) {
                actual.push_str(answer.trim_end());
                actual.push('\n');
            }
        } else if line.is_empty() || line.starts_with('#') {
            actual.push_str(line);
            actual.push('\n');
        }
    }
    if actual != text {
        let differing = actual.lines().zip(text.lines()).position(|(a, t)| a != t);
        let line = differing.map_or(text.lines().count().min(actual.lines().count()), |n| n) + 1;
        panic!("{name} differs from line {line} on. What came of it:\n{actual}");
    }
}
