"""kill -9 and restart of a daemon with 30 running containers.

Rows: time from starting the daemon again until /ready answers 200, over the rounds; how many
containers were restarted (their process id changed) or lost, which must be 0; beside them the
time an interpreter takes to import what the daemon imports, which no restart can undercut.

    python -m benches.restart [--json] [--quick]
"""

from __future__ import annotations

import subprocess
import sys
import time

from benches._common import Report, arguments
from benches._stack import IMAGE, containerd, one_node
from tests.support.containerd import runtime_tasks
from tests.support.node import eventually
from warren._histogram import Histogram

IMPORTS = "import warren.daemon, warren.daemon_parts, warren.core"


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    replicas, rounds = (5, 2) if options.quick else (30, 20)
    report = Report(f"kill -9 and restart with {replicas} containers")
    ready, imports = Histogram(), Histogram()
    restarted = lost = 0
    with containerd() as runtime, one_node(runtime) as node:
        node.ctl(
            "service", "create", "web", f"--image={IMAGE}", f"--replicas={replicas}",
            "--stop-timeout=1s", "--", "sleep", "1000000",
        )  # fmt: skip
        before = runtime_tasks(runtime.address, node.namespace)
        for _ in range(rounds):
            node.kill()
            began = time.perf_counter()
            node.spawn()
            eventually(lambda: node.http("/ready")[0] == 200, "ready again", 30, pause_s=0.002)
            ready.observe(time.perf_counter() - began)
            after = runtime_tasks(runtime.address, node.namespace)
            lost += len(before.keys() - after.keys())
            restarted += sum(pid != after[key] for key, pid in before.items() if key in after)
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", IMPORTS], check=True)
            imports.observe(time.perf_counter() - began)
    report.latency("start to /ready", ready)
    report.latency("importing what it consists of", imports, limit=True)
    report.row("containers", restarted=restarted, lost=lost, rounds=rounds)
    report.finish(options)


if __name__ == "__main__":
    main()
