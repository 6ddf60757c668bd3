//! Durations, and what is printed of them.

use std::fmt::Write as _;

use rustix::time::{ClockId, clock_gettime};

/// Durations in nanoseconds, each of so many things.
#[derive(Default)]
pub struct Times {
    each: Vec<(u64, u64)>,
}

impl Times {
    pub fn add(&mut self, ns: u64) {
        self.add_many(ns, 1);
    }

    pub fn add_many(&mut self, ns: u64, count: u64) {
        if count > 0 {
            self.each.push((ns, count));
        }
    }

    /// The longest.
    pub fn max_ns(&self) -> u64 {
        self.each.iter().map(|(ns, _)| *ns).max().unwrap_or(0)
    }

    pub fn sum_ns(&self) -> u64 {
        self.each.iter().map(|(ns, count)| ns * count).sum()
    }

    /// Percentiles, and buckets a thirty-second wide for whoever draws a curve.
    pub fn field(&self) -> Field {
        let mut each = self.each.clone();
        each.sort_unstable();
        let total: u64 = each.iter().map(|(_, count)| count).sum();
        let at = |share: f64| {
            let rank = ((total as f64 * share).ceil() as u64).max(1);
            let mut before = 0;
            let found = each.iter().find(|(_, count)| {
                before += count;
                before >= rank
            });
            found.map_or(0, |(ns, _)| *ns)
        };
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for (ns, count) in &each {
            let shift = ns.max(&1).ilog2().saturating_sub(5);
            let floor = ns >> shift << shift;
            match buckets.last_mut() {
                Some(last) if last.0 == floor => last.1 += count,
                _ => buckets.push((floor, *count)),
            }
        }
        let buckets = buckets.iter().map(|(ns, count)| format!("[{ns}, {count}]"));
        let buckets: Vec<_> = buckets.collect();
        let points = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
        let mut fields: Vec<(&str, Field)> = vec![
            ("count", Field::of(total)),
            ("seconds", Field::seconds(self.sum_ns())),
            ("max_ns", Field::of(self.max_ns())),
            ("buckets", Field(format!("[{}]", buckets.join(", ")))),
        ];
        let names = points.map(|(name, _)| format!("{name}_ns"));
        for (name, (_, share)) in names.iter().zip(points) {
            fields.push((name, Field::of(at(share))));
        }
        Field(Field::object(&fields))
    }
}

/// What this thread has had of the processor.
pub fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A value in JSON.
pub struct Field(pub String);

pub type Fields = Vec<(&'static str, Field)>;

impl Field {
    pub fn of(number: impl Into<u64>) -> Self {
        Self(number.into().to_string())
    }

    pub fn float(number: f64) -> Self {
        Self(format!("{number:.6}"))
    }

    pub fn seconds(ns: u64) -> Self {
        Self::float(ns as f64 / 1e9)
    }

    pub fn object<N: AsRef<str>>(fields: &[(N, Self)]) -> String {
        let mut json = String::from("{");
        for (number, (name, Self(value))) in fields.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            let _ = write!(json, "{comma}\"{}\": {value}", name.as_ref());
        }
        json + "}"
    }
}
