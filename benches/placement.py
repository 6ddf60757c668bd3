"""Deciding where containers go: the scheduler alone, on a cluster that is nine tenths full.

The example `bench_scheduler` places containers of forty shapes on nodes of four types; the oldest
go before others come. Nothing is proposed, applied or stored. `per_second` counts containers by
what the thread itself consumed; percentiles are of single calls by the wall clock, reading the
clock included. What reading the thread's own clock takes is left out: it is read once for many
calls, or, for `preempt`, taken off. Shapes: `one-off`, each container for itself; `replicas`,
`--group` alike at once, packed, and `replicas-spread`, spread; `constrained`, one-off, kept to one
of ten zones and away from one node in twenty; `spread`, ten of a service one by one, one of each of
256 services and then the next of each, even over ten zones, at most one on a node; `preempt`,
one-off and urgent, on a cluster that is full of what is less urgent.
Without `--nodes` or `--shape`: a table of all, among them shapes of swarmkit's bench, and what the
index takes of memory for each node (with a division over ten zones and a pool of half of the nodes)
and for each container: blocks that are allocated, as large as the allocator made them, and beside
that what the process holds more of.

    python -m benches.placement [--nodes N] [--containers N] [--shape SHAPE] [--group N]
                                [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches._common import Report, arguments
from benches._peer import built
from warren._histogram import Histogram

SHAPES = ("one-off", "replicas", "replicas-spread", "constrained", "spread", "preempt")
#: Containers a second, and nanoseconds that 99 of 100 calls may take.
GOALS = {
    "one-off": (3_000_000, 1_000),
    "constrained": (1_000_000, 5_000),
    "spread": (1_000_000, 5_000),
    "replicas": (50_000_000, None),
    "preempt": (200_000, None),
}
#: Bytes in the index for each node, and for each container.
MEMORY_GOALS = {"node_bytes": 576.0, "container_bytes": 24.0}
POINTS = ("p50", "p90", "p99", "p99.9", "p99.99", "max")


@dataclass(frozen=True)
class Case:
    """What is placed, and on how many nodes."""

    shape: str
    nodes: int
    containers: int
    group: int = 1_000

    @property
    def name(self) -> str:
        group = f" of {self.group:,}" if self.shape.startswith("replicas") else ""
        return f"{self.shape}{group}, {self.containers:,} on {self.nodes:,} nodes"

    def run(self, program: Path) -> dict[str, Any]:
        """What the program found."""
        options = ("shape", "nodes", "containers", "group")
        words = [word for name in options for word in (f"--{name}", str(getattr(self, name)))]
        done = subprocess.run(
            [str(program), "placement", *words],
            check=True,
            capture_output=True,
            text=True,
            timeout=900,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


TABLE = (
    *(Case("one-off", nodes, 2_000_000) for nodes in (1_000, 10_000, 100_000)),
    *(Case("constrained", nodes, 1_000_000) for nodes in (1_000, 10_000, 100_000)),
    *(Case("spread", nodes, 500_000) for nodes in (1_000, 10_000, 100_000)),
    *(Case("preempt", nodes, 200_000) for nodes in (1_000, 10_000, 100_000)),
    *(Case("replicas", nodes, 4_000_000) for nodes in (1_000, 10_000, 100_000)),
    # As swarmkit's own benchmark has them: every task's service has so many.
    Case("one-off", 1_000, 1_000),
    Case("one-off", 1_000, 10_000),
    Case("one-off", 100_000, 1_000),
    Case("replicas-spread", 10_000, 100_000, group=100),
    Case("replicas-spread", 10_000, 100_000, group=1_000),
)
QUICK = tuple(Case(shape, 200, 4_000, group=50) for shape in SHAPES)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, metavar="N")
    parser.add_argument("--containers", type=int, metavar="N")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--group", type=int, metavar="N", help="containers that are alike")


def cases(options: argparse.Namespace) -> tuple[Case, ...]:
    """The one that was asked for, or all."""
    given = (options.nodes, options.containers, options.shape, options.group)
    if all(value is None for value in given):
        return QUICK if options.quick else TABLE
    return (
        Case(
            options.shape or "one-off",
            options.nodes or (200 if options.quick else 10_000),
            options.containers or (4_000 if options.quick else 1_000_000),
            options.group or 1_000,
        ),
    )


def _add(report: Report, case: Case, found: dict[str, Any]) -> None:
    report.row(
        case.name,
        per_second=found["per_second"],
        **{f"{point}_ns": found[f"{point}_ns"] for point in POINTS},
        refused=found["refused"],
    )
    histogram = Histogram()
    for nanoseconds, count in found["buckets"]:
        for _ in range(count):
            histogram.observe_ns(nanoseconds)
    report.curve(case.name, histogram)
    per_second, p99_ns = GOALS.get(case.shape, (None, None))
    if per_second is not None and case.containers >= 100_000:
        asked = f"≥ {per_second:,}/s" + (f", p99 < {p99_ns:,} ns" if p99_ns else "")
        met = found["per_second"] >= per_second and (p99_ns is None or found["p99_ns"] < p99_ns)
        measured = f"{found['per_second']:,.0f}/s, p99 {found['p99_ns']:,} ns"
        report.goal(case.name, asked, measured, met, f"longest {found['max_ns'] / 1e3:,.0f} µs")


def _add_memory(report: Report, program: Path, nodes: int, containers: int) -> None:
    words = [str(program), "memory", "--nodes", str(nodes), "--containers", str(containers)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=900)
    found: dict[str, Any] = json.loads(done.stdout)
    name = f"memory, {found['containers']:,} containers on {nodes:,} nodes"
    process = tuple(f"process_{key}" for key in MEMORY_GOALS)
    keys = ("node_bytes_plain", *MEMORY_GOALS, *process, "bytes")
    report.row(name, **{key: found[key] for key in keys})
    if nodes >= 10_000:
        for key, most in MEMORY_GOALS.items():
            words_of = f"{name}: {key.replace('_', ' ')}"
            measured = f"{found[key]:,.1f}"
            report.goal(words_of, f"≤ {most:,.0f}", measured, found[key] <= most, "in the index")


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=_options)
    program = built("bench_scheduler", quick=options.quick)
    chosen = cases(options)
    report = Report("where containers go: decisions")
    for case in chosen:
        found = case.run(program)
        _add(report, case, found)
        if case is chosen[0]:
            report.headline = {
                "per_second": found["per_second"],
                **{f"{point}_ns": found[f"{point}_ns"] for point in POINTS},
            }
    if chosen in (TABLE, QUICK):
        for nodes in (200,) if options.quick else (10_000, 100_000):
            _add_memory(report, program, nodes, 100 * nodes)
    report.note("decided only: nothing is proposed, applied or stored")
    report.finish(options)


if __name__ == "__main__":
    main()
