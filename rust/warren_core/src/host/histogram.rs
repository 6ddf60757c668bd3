//! Latency histograms that every thread may write to without waiting.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::measuring;
use crate::ids::MemberId;

/// Upper bounds in nanoseconds, and as Prometheus' Go client writes them: three to a decade from 1 µs
/// for what takes microseconds, then the classic ones.
const BOUNDS: [(u64, &str); 22] = [
    (1_000, "1e-06"),
    (2_500, "2.5e-06"),
    (5_000, "5e-06"),
    (10_000, "1e-05"),
    (25_000, "2.5e-05"),
    (50_000, "5e-05"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
];
/// Where the classic default bounds begin: 5 ms to 10 s.
const CLASSIC: usize = 11;

/// Linear steps within a power of two: the relative error stays below 1/128, under 1 %.
const STEP_BITS: u32 = 7;
const STEPS: usize = 1 << STEP_BITS;
/// Up to 2^42 ns, over an hour.
const OCTAVES: usize = 36;

/// Counts by the buckets of `BOUNDS` exactly, and by many more for quantiles.
pub struct Histogram {
    exact: [AtomicU64; BOUNDS.len() + 1],
    /// 36 KiB. With half of that a slot would begin anew after 2^32 values, a busy day's, and
    /// quantiles be wrong from then on.
    fine: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            exact: Default::default(),
            fine: (0..OCTAVES * STEPS).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub fn observe_ns(&self, value_ns: u64) {
        self.exact[exact_bucket(value_ns)].fetch_add(1, Relaxed);
        self.fine[fine_bucket(value_ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(value_ns, Relaxed);
    }

    /// Values, each with how often it was seen. All but the buckets for quantiles is added up first
    /// and written once: every write to what threads share is a locked instruction.
    pub fn observe_all(&self, values: impl IntoIterator<Item = (u64, u32)>) {
        let mut exact = [0; BOUNDS.len() + 1];
        let mut sum_ns = 0;
        for (value_ns, count) in values {
            exact[exact_bucket(value_ns)] += u64::from(count);
            self.fine[fine_bucket(value_ns)].fetch_add(count.into(), Relaxed);
            sum_ns += value_ns * u64::from(count);
        }
        for (all, more) in self.exact.iter().zip(exact).filter(|(_, more)| *more > 0) {
            all.fetch_add(more, Relaxed);
        }
        self.sum_ns.fetch_add(sum_ns, Relaxed);
    }

    /// Records the time since the monotonic clock showed this, if the process measures itself.
    pub fn observe_since(&self, started_ns: Option<u64>) {
        if let (Some(started_ns), Some(now_ns)) = (started_ns, measuring::stopwatch()) {
            self.observe_ns(now_ns.saturating_sub(started_ns));
        }
    }

    /// The value below which the share `q` (0 to 1) of all lies; 0 when there is none.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        let counts: Vec<u64> = self.fine.iter().map(|slot| slot.load(Relaxed)).collect();
        let rank = (counts.iter().sum::<u64>() as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.map_or(0, fine_bound_ns)
    }

    /// Appends the series of one family, HELP and TYPE before. `fine`: with the buckets below the
    /// classic ones.
    pub fn render(&self, name: &str, help: &str, fine: bool, out: &mut String) {
        head(name, help, out);
        self.render_series(name, None, fine, out);
    }

    /// Appends the series of one set of labels, such as `peer="1"`.
    fn render_series(&self, name: &str, labels: Option<&str>, fine: bool, out: &mut String) {
        let (of, before) = match labels {
            Some(labels) => (format!("{{{labels}}}"), format!("{labels},")),
            None => Default::default(),
        };
        let mut cumulative = 0;
        for (at, (_, bound)) in BOUNDS.iter().enumerate() {
            cumulative += self.exact[at].load(Relaxed);
            if fine || at >= CLASSIC {
                let _ = writeln!(out, "{name}_bucket{{{before}le=\"{bound}\"}} {cumulative}");
            }
        }
        cumulative += self.exact[BOUNDS.len()].load(Relaxed);
        let sum = self.sum_ns.load(Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_bucket{{{before}le=\"+Inf\"}} {cumulative}");
        let _ = writeln!(out, "{name}_sum{of} {sum:?}\n{name}_count{of} {cumulative}");
    }
}

/// One for each other member.
#[derive(Default)]
pub struct ByPeer(Mutex<BTreeMap<MemberId, Histogram>>);

impl ByPeer {
    pub fn add(&self, peer: MemberId) {
        self.lock().entry(peer).or_default();
    }

    pub fn forget(&self, peer: MemberId) {
        self.lock().remove(&peer);
    }

    /// Nothing is kept of one that is no peer.
    pub fn observe_ns(&self, peer: MemberId, value_ns: u64) {
        if let Some(histogram) = self.lock().get(&peer) {
            histogram.observe_ns(value_ns);
        }
    }

    pub fn render(&self, name: &str, help: &str, fine: bool, out: &mut String) {
        head(name, help, out);
        for (peer, histogram) in &*self.lock() {
            let labels = format!("peer=\"{}\"", peer.0);
            histogram.render_series(name, Some(&labels), fine, out);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Histogram>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Writing to a string cannot fail.
fn head(name: &str, help: &str, out: &mut String) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n");
}

/// The first whose bound is not below the value; behind the bounds the one of all others.
fn exact_bucket(value_ns: u64) -> usize {
    BOUNDS.partition_point(|(bound_ns, _)| *bound_ns < value_ns)
}

fn fine_bucket(value_ns: u64) -> usize {
    if value_ns < STEPS as u64 {
        return value_ns as usize;
    }
    let shift = value_ns.ilog2() - STEP_BITS;
    let step = (value_ns >> shift) as usize - STEPS;
    ((shift as usize + 1) * STEPS + step).min(OCTAVES * STEPS - 1)
}

/// The largest value that falls into the bucket.
fn fine_bound_ns(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    ((STEPS + bucket % STEPS + 1) as u64 * (1 << shift)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_within_one_percent_of_the_bound_of_its_bucket() {
        for value in (0..200_000).chain((1..40).map(|bit| (1u64 << bit) + 12_345)) {
            let bound = fine_bound_ns(fine_bucket(value));
            assert!(
                bound >= value && (bound - value) as f64 <= value as f64 / 100.0,
                "{value}"
            );
        }
    }

    #[test]
    fn classic_buckets_are_exact_and_cumulative() {
        let histogram = Histogram::default();
        for value_ns in [4_999_999, 5_000_000, 5_000_001, 11_000_000_000] {
            histogram.observe_ns(value_ns);
        }
        let mut text = String::new();
        histogram.render("x", "Help.", false, &mut text);
        assert!(text.contains("x_bucket{le=\"0.005\"} 2\n"), "{text}");
        assert_eq!(text.matches("le=").count(), 12);
        assert!(text.contains("x_bucket{le=\"0.01\"} 3\n"));
        assert!(text.contains("x_bucket{le=\"10\"} 3\n"));
        assert!(text.ends_with("x_count 4\n"));
    }

    #[test]
    fn each_peer_has_its_own_until_it_is_forgotten() {
        let trips = ByPeer::default();
        trips.add(MemberId(10));
        trips.add(MemberId(11));
        trips.observe_ns(MemberId(10), 7_000_000);
        trips.observe_ns(MemberId(12), 7_000_000);
        let render = || {
            let mut text = String::new();
            trips.render("x", "Help.", false, &mut text);
            text
        };
        let (ten, eleven) = ("peer=\"10\"", "peer=\"11\"");
        let text = render();
        for line in [
            format!("x_bucket{{{ten},le=\"0.005\"}} 0\n"),
            format!("x_bucket{{{ten},le=\"0.01\"}} 1\n"),
            format!("x_sum{{{ten}}} 0.007\nx_count{{{ten}}} 1\n"),
            format!("x_count{{{eleven}}} 0\n"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert_eq!(
            (
                text.matches("# TYPE").count(),
                text.matches("_count").count()
            ),
            (1, 2)
        );
        trips.forget(MemberId(10));
        assert!(!render().contains(ten));
    }

    #[test]
    fn finer_buckets_come_in_addition() {
        let histogram = Histogram::default();
        for value_ns in [900, 1_000, 3_000, 6_000_000] {
            histogram.observe_ns(value_ns);
        }
        let mut text = String::new();
        histogram.render("x", "Help.", true, &mut text);
        for line in ["1e-06\"} 2", "5e-06\"} 3", "0.005\"} 3", "0.01\"} 4"] {
            assert!(text.contains(&format!("x_bucket{{le=\"{line}\n")), "{text}");
        }
        assert_eq!(text.matches("le=").count(), BOUNDS.len() + 1);
        for (bound_ns, label) in BOUNDS {
            let ns = label.parse::<f64>().unwrap() * 1e9;
            assert_eq!(ns.round() as u64, bound_ns, "{label}");
        }
    }

    #[test]
    fn values_seen_at_once_are_counted_like_one_after_the_other() {
        let (each, at_once) = (Histogram::default(), Histogram::default());
        let values = [
            (999, 3),
            (1_000, 1),
            (1_001, 2),
            (7_000_000, 5),
            (u64::MAX >> 8, 1),
        ];
        for (value_ns, count) in values {
            (0..count).for_each(|_| each.observe_ns(value_ns));
        }
        at_once.observe_all(values);
        let [each_text, at_once_text] = [&each, &at_once].map(|histogram| {
            let mut text = String::new();
            histogram.render("x", "Help.", true, &mut text);
            text
        });
        assert!(at_once_text.ends_with("x_count 12\n"), "{at_once_text}");
        assert_eq!(at_once_text, each_text);
        for q in [0.0, 0.3, 0.5, 0.9, 1.0] {
            assert_eq!(at_once.quantile_ns(q), each.quantile_ns(q), "{q}");
        }
    }

    #[test]
    fn a_slot_holds_more_than_32_bits_count() {
        let histogram = Histogram::default();
        histogram.observe_all([(1_000, u32::MAX), (1_000, 2), (9_000, 5)]);
        assert_eq!(
            histogram.quantile_ns(0.99),
            fine_bound_ns(fine_bucket(1_000))
        );
    }

    #[test]
    fn quantiles_agree_with_a_sorted_list() {
        let histogram = Histogram::default();
        let mut values: Vec<u64> = (1..5000u64).map(|n| n * n * 37 % 9_000_000).collect();
        values.iter().for_each(|value| histogram.observe_ns(*value));
        values.sort_unstable();
        for q in [0.5, 0.9, 0.99] {
            let exact = values[(values.len() as f64 * q).ceil() as usize - 1];
            let found = histogram.quantile_ns(q);
            assert!(
                found >= exact && (found - exact) * 100 <= exact,
                "{q}: {found} ≉ {exact}"
            );
        }
        assert_eq!(Histogram::default().quantile_ns(0.5), 0);
    }
}
