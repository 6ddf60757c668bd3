"""Memory and CPU of an idle daemon with 30 running containers.

Rows: resident memory (VmRSS) and proportional share (Pss) of `warrend`; its CPU time over a quiet
minute as a percentage of one core; beside them containerd's own, and one container logger's.

    python -m benches.idle [--json] [--quick]
"""

from __future__ import annotations

import time
from pathlib import Path

from benches._common import Report, arguments
from benches._stack import IMAGE, containerd, memory_mib, one_node
from warren.agent.fleet.cost import cpu_seconds


def loggers() -> list[int]:
    """Process ids of the container loggers."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _command(entry) == "warren-log"
    ]


def _command(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip()
    except OSError:
        return ""


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    replicas, quiet_s = (5, 5) if options.quick else (30, 60)
    report = Report(f"an idle daemon with {replicas} containers")
    with containerd() as runtime, one_node(runtime) as node:
        node.ctl(
            "service", "create", "web", f"--image={IMAGE}", f"--replicas={replicas}",
            "--stop-timeout=1s", "--", "sleep", "1000000",
        )  # fmt: skip
        processes = {"warrend": node.pid, "containerd": runtime.pid}
        before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        time.sleep(quiet_s)
        for name, pid in processes.items():
            percent = (cpu_seconds(pid) - before[name]) / quiet_s * 100
            report.row(name, cpu_percent=percent, **memory_mib(pid))
        if found := loggers():
            report.row("one container logger", **memory_mib(found[0]))
    report.finish(options)


if __name__ == "__main__":
    main()
