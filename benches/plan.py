"""Explaining and planning on a large cluster: what one answer costs the thread that makes it.

The example `bench_plan` fills a state with nodes in ten zones and a hundred racks, and services of
a thousand containers each; then it explains and plans, each answer from a copy of the state, as
reader threads do. Encoding, and the way to the client, are not in it. The core's own thread only
makes the copy, which is O(1).

    python -m benches.plan [--nodes N] [--containers N] [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess

from benches._common import Report, arguments
from benches._peer import built

GOAL_MS = 50
GOAL_NODES = 10_000


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, metavar="N")
    parser.add_argument("--containers", type=int, metavar="N")


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=_options)
    program = built("bench_plan", quick=options.quick)
    nodes = options.nodes or (200 if options.quick else GOAL_NODES)
    containers = options.containers or (2_000 if options.quick else 100_000)
    rounds = 2 if options.quick else 20
    words = [f"--nodes={nodes}", f"--containers={containers}", f"--rounds={rounds}"]
    done = subprocess.run(
        [str(program), *(part for word in words for part in word.split("="))],
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    found = json.loads(done.stdout)
    report = Report(f"explain and plan: {nodes:,} nodes, {found['containers']:,} containers")
    for case in found["cases"]:
        ms = {key: case[f"{key}_us"] / 1e3 for key in ("median", "max", "thread_median")}
        report.row(case["name"], **{f"{key}_ms": value for key, value in ms.items()})
        if nodes >= GOAL_NODES:
            met = ms["max"] <= GOAL_MS
            report.goal(case["name"], f"≤ {GOAL_MS} ms", f"{ms['max']:.1f} ms at most", met, "")
    report.note("on a reader's thread: the core's own only copies the state, which is O(1)")
    report.finish(options)


if __name__ == "__main__":
    main()
