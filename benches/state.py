"""The replicated state in memory: applying commands, snapshots beside them, memory, reading back.

The example `bench_fsm` fills a state and measures it; this gives its figures names. Applying is
timed by what the thread itself consumed, which a busy machine disturbs less than the wall clock;
the longest stall of `apply` while snapshots are written is by the wall clock, since that is what
somebody waits for.

    python -m benches.state [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import json
import subprocess

from benches._common import Report, arguments
from benches._peer import built

COMMANDS = (
    "bind",
    "set_desired",
    "status_apply",
    "status_decode_and_apply",
    "status_apply_during_snapshots",
    "status_last",
    "node_lost_or_back",
    "tally",
)
#: What no command of the daemon may exceed, a snapshot being written or not.
COMMAND_MS_MAX = 2


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    command = [str(built("bench_fsm", quick=options.quick))]
    done = subprocess.run(
        [*command, *(["--quick"] if options.quick else [])],
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    found = json.loads(done.stdout)
    report = Report(f"a state of {found['containers']:,} containers")
    for name in COMMANDS:
        thread, wall = found[name]["thread"], found[name]["wall"]
        report.row(
            name.replace("_", " "),
            per_second=thread["items_per_second"],
            p50_ms=thread["p50_us"] / 1e3,
            p99_ms=thread["p99_us"] / 1e3,
            max_ms=thread["max_us"] / 1e3,
            wall_per_second=wall["items_per_second"],
            wall_max_ms=wall["max_us"] / 1e3,
        )
    restart_s = found["snapshot_read_ms"] / 1e3
    report.row(
        "snapshots",
        written=found["snapshots_written"],
        write_s=found["snapshot_write_ms"] / 1e3,
        read_s=restart_s,
        read_thread_s=found["snapshot_read_thread_ms"] / 1e3,
        mib=found["snapshot_bytes"] / 2**20,
    )
    each, cloned = (
        found["memory_bytes_per_container"],
        found["memory_bytes_per_container_with_a_clone"],
    )
    report.row("memory of a container", bytes=each, bytes_with_a_clone=cloned)
    decoded = found["status_decode_and_apply"]["thread"]["items_per_second"]
    applied = found["status_apply"]["thread"]["items_per_second"]
    stall_ms = found["status_apply_during_snapshots"]["wall"]["max_us"] / 1e3
    own_ms = found["status_apply_during_snapshots"]["thread"]["max_us"] / 1e3
    bind = found["bind"]["thread"]
    report.goal(
        "`apply` of container status changes, with decoding", "≥ 1,000,000/s", f"{decoded:,.0f}/s",
        decoded >= 1e6, f"decoded before: {applied:,.0f}/s",
    )  # fmt: skip
    report.goal(
        "longest command while snapshots are written", "≤ 10 ms", f"{stall_ms:.1f} ms",
        stall_ms <= 10, f"of its own time {own_ms:.1f} ms",
    )  # fmt: skip
    report.goal(
        "99 of 100 bind commands", f"≤ {COMMAND_MS_MAX} ms", f"{bind['p99_us'] / 1e3:.2f} ms",
        bind["p99_us"] / 1e3 <= COMMAND_MS_MAX, f"longest {bind['max_us'] / 1e3:.2f} ms",
    )  # fmt: skip
    report.goal("reading a snapshot back", "≤ 5 s", f"{restart_s:.2f} s", restart_s <= 5)
    report.goal("memory of a container", "≤ 1 KiB", f"{each} bytes", each <= 1024)
    report.finish(options)


if __name__ == "__main__":
    main()
