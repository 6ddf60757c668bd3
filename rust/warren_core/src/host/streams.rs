//! How many streams a manager carries at a time.
//!
//! A stream is a worker's session or a watch. Each costs memory on both sides of the boundary:
//! buffers of its connection, tasks of the event loop, and what its node has been told. So the
//! bound follows the memory of the host, and a fleet that is too large for its managers is refused
//! in words and not by the kernel. What waits in all of them together has a bound of its own
//! ([`WAITING_BYTES_MAX`](crate::control::WAITING_BYTES_MAX)).

/// Streams of the largest host.
pub const STREAMS_MAX: usize = 65_536;
/// Streams of the smallest one.
pub const STREAMS_MIN: usize = 1_024;
/// What one costs; measured with 10,000 workers (docs/capacity.md), and then some.
const STREAM_BYTES: u64 = 64 << 10;
/// Of the host's memory, that streams may take.
const PART: u64 = 4;

/// The bound on a host with this much memory.
pub fn limit(memory_bytes: u64) -> usize {
    let carried = memory_bytes / PART / STREAM_BYTES;
    usize::try_from(carried)
        .unwrap_or(STREAMS_MAX)
        .clamp(STREAMS_MIN, STREAMS_MAX)
}

/// Memory of this host, in bytes; `None` where that cannot be read.
pub fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    total_bytes(&text)
}

/// `MemTotal` of a text as in proc_meminfo(5).
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_bound_follows_the_memory_within_what_is_fixed() {
        assert_eq!(limit(0), STREAMS_MIN);
        assert_eq!(limit(4 * GIB), 16_384);
        assert_eq!(limit(8 * GIB), 32_768);
        assert_eq!(limit(u64::MAX), STREAMS_MAX);
        let limits: Vec<_> = (0..100).map(|gib| limit(gib * GIB)).collect();
        assert!(limits.is_sorted());
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemFree:  1 kB\nMemTotal:       16384256 kB\nMemAvailable: 3 kB\n";
        assert_eq!(total_bytes(text), Some(16_384_256 * 1024));
        for bad in ["", "MemTotal: x kB\n", "MemTotal: 5\n"] {
            assert_eq!(total_bytes(bad), None, "{bad:?}");
        }
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
