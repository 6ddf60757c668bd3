"""Whole fleets, placed: services by the hundred thousand, nodes by the ten thousand.

Three ways, reported apart:

- decision: the scheduler alone
- records: orchestrator, scheduler and the state's records in one thread, without a disk; as in a
  member, what is proposed is judged again as it is applied, in commands of bounded size
- raft: a member that leads itself, with its log on a disk, written by a thread of its own; no
  worker has a session, and no snapshot is due

and cases of a cluster that lives (with the state's records): containers that come and go while it
is kept 80, 90, 95 % full, the loss of 1 % and 10 % of the nodes, and 100,000 containers that fit
nowhere beside others that do. Latencies are by the wall clock: in a fill from its beginning until
a container is bound, in the others from asking for it; `cpu_seconds` is what the thread that
decides has had of the processor.

    python -m benches.fleet [--shape NAME …] [--through WAY …] [--nodes N] [--json] [--quick]
                            [--save DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benches._common import Report, arguments, raw_fdatasync
from benches._peer import built, workspace
from warren._histogram import Histogram

WAYS = ("decision", "records", "raft")
RAW_WRITES = 500
TIMEOUT_S = 1_800
#: No step of the core takes longer.
STEP_NS_MAX = 2_000_000


@dataclass(frozen=True)
class Fill:
    """So many services of so many containers, from nothing."""

    nodes: int
    services: int
    replicas: int
    #: Each service is kept to one of so many.
    zones: int = 0

    @property
    def containers(self) -> int:
        return self.services * self.replicas


@dataclass(frozen=True)
class Living:
    """A case of a cluster that is there already, and its numbers."""

    case: str
    nodes: int
    numbers: tuple[tuple[str, int], ...]


SHAPES: dict[str, Fill | Living] = {
    # As swarmkit's own benchmark has them.
    "one-off-1000-1000": Fill(nodes=1_000, services=1_000, replicas=1),
    "one-off-1000-10000": Fill(nodes=10_000, services=1_000, replicas=1),
    "one-off-100000-1000": Fill(nodes=1_000, services=100_000, replicas=1),
    "groups-100": Fill(nodes=10_000, services=1_000, replicas=100),
    "groups-1000": Fill(nodes=10_000, services=100, replicas=1_000),
    # As Nomad's challenges.
    "c1m": Fill(nodes=5_000, services=1_000, replicas=1_000, zones=10),
    "c2m": Fill(nodes=6_100, services=2_000, replicas=1_000),
    "million": Fill(nodes=10_000, services=1_000, replicas=1_000),
    **{
        f"churn-{full}": Living("churn", 10_000, (("full", full), ("arrivals", 20_000)))
        for full in (80, 90, 95)
    },
    **{f"loss-{part}": Living("loss", 10_000, (("lost", part),)) for part in (1, 10)},
    "flood": Living("flood", 10_000, (("flood", 100_000), ("arrivals", 20_000))),
}
#: Divides what a small run has.
QUICK_PART = 50
GOALS = {("million", "records"): 1.0, ("million", "raft"): 3.0}


def small(shape: Fill | Living) -> Fill | Living:
    """The same, with little of everything."""
    nodes = max(20, shape.nodes // QUICK_PART)
    if isinstance(shape, Fill):
        services = max(20, shape.services // QUICK_PART)
        return replace(shape, nodes=nodes, services=services, replicas=min(shape.replicas, 20))
    counts = {"flood": 400, "arrivals": 100}
    numbers = tuple((name, counts.get(name, number)) for name, number in shape.numbers)
    return replace(shape, nodes=max(100, nodes), numbers=numbers)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        action="append",
        choices=tuple(SHAPES),
        metavar="NAME",
        help=f"one of {', '.join(SHAPES)}; all of them",
    )
    parser.add_argument("--through", action="append", choices=WAYS, help="all of these")
    parser.add_argument("--nodes", type=int, metavar="N", help="instead of what the shape has")


def run(program: Path, *words: object) -> dict[str, Any]:
    """What the program found."""
    done = subprocess.run(
        [str(program), *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def histogram(of: dict[str, Any]) -> Histogram:
    """From the buckets of a program."""
    merged = Histogram()
    for nanoseconds, count in of["buckets"]:
        for _ in range(count):
            merged.observe_ns(nanoseconds)
    return merged


def points(of: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Percentiles as the program counted them, in milliseconds."""
    names = ("p50", "p90", "p99", "p99.9", "max")
    return {f"{prefix}{name}": of[f"{name}_ns"] / 1e6 for name in names}


class Bench:
    """One run of the table."""

    def __init__(self, report: Report, program: Path) -> None:
        self._report, self._program = report, program

    def fill(self, name: str, shape: Fill, way: str, directory: Path) -> None:
        numbers = ("nodes", "services", "replicas", "zones")
        words = [word for one in numbers for word in (f"--{one}", getattr(shape, one))]
        if way == "raft":
            words += ["--dir", directory / name]
        found = run(self._program, "fill", *words, "--through", way)
        seconds = found["seconds"]
        figures = {"per_second": found["containers"] / seconds, "seconds": seconds}
        if way == "decision":
            # By service: what one call takes.
            figures |= points(found["bound"], "service_")
        else:
            figures |= {"cpu_seconds": found["thread_seconds"], **points(found["bound"])}
            figures |= self._steps(found)
        if way == "raft":
            figures["written_mib"] = found["written_bytes"] / 2**20
            figures |= points(found["fdatasync"], "fdatasync_")
        title = f"{name}, {way}"
        self._report.row(title, containers=found["containers"], **figures)
        self._report.curve(title, histogram(found["bound"]))
        if (goal_s := GOALS.get((name, way))) is not None and shape == SHAPES[name]:
            spent = f"{found['thread_seconds']:.2f} s of processor"
            self._report.goal(title, f"< {goal_s:g} s", f"{seconds:.2f} s", seconds < goal_s, spent)

    def living(self, name: str, shape: Living) -> None:
        words = [word for one, number in shape.numbers for word in (f"--{one}", number)]
        found = run(self._program, shape.case, "--nodes", shape.nodes, *words)
        if shape.case == "flood":
            self._flood(name, found)
            return
        figures: dict[str, float] = {"containers": found["containers"]}
        if shape.case == "churn":
            arrivals = found["arrivals"]
            figures |= {"pending_percent": 100 * found["pending"] / arrivals}
        else:
            same = ("lost_nodes", "lost_containers", "called_down_seconds", "seconds")
            spread = (f"{what}_{when}" for what in ("node_most", "zone_skew")
                      for when in ("before", "after"))  # fmt: skip
            figures |= {key: found[key] for key in (*same, *spread)}
        figures |= points(found["bound"]) | self._steps(found)
        self._report.row(name, **figures)
        self._report.curve(name, histogram(found["bound"]))

    def _flood(self, name: str, found: dict[str, Any]) -> None:
        for when in ("alone", "beside"):
            steps = {"step_max": found[f"step_{when}"]["max_ns"] / 1e6}
            self._report.row(f"{name}: {when}", **points(found[when]), **steps)
            self._report.curve(f"{name}: {when}", histogram(found[when]))
        settling = found["step_settling"]["max_ns"] / 1e6
        self._report.row(
            f"{name}: {found['flood']:,} that fit nowhere",
            seconds=found["settled_seconds"], step_max=settling,
        )  # fmt: skip
        alone, beside = (found[when]["p99_ns"] / 1e6 for when in ("alone", "beside"))
        self._report.goal(
            f"{name}: what has room is placed as fast", "p99 within twice",
            f"{beside:.3f} ms", beside <= 2 * alone, f"{alone:.3f} ms alone",
        )  # fmt: skip

    @staticmethod
    def _steps(found: dict[str, Any]) -> dict[str, float]:
        step, apply = found["step"], found["apply"]
        return {
            "step_p99": step["p99_ns"] / 1e6,
            "step_max": step["max_ns"] / 1e6,
            "apply_p99": apply["p99_ns"] / 1e6,
            "apply_max": apply["max_ns"] / 1e6,
        }


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Fill | Living]]:
    """Name and shape of what was asked for."""
    for name in options.shape or SHAPES:
        shape = small(SHAPES[name]) if options.quick else SHAPES[name]
        yield name, replace(shape, nodes=options.nodes) if options.nodes else shape


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=_options)
    report = Report("whole fleets")
    bench = Bench(report, built("bench_fleet", quick=options.quick))
    ways = options.through or WAYS
    with workspace() as directory:
        if "raft" in ways:
            writes = RAW_WRITES // 10 if options.quick else RAW_WRITES
            raw = raw_fdatasync(directory, writes)
            report.latency("fdatasync of 512 bytes, bare", raw, limit=True)
        for name, shape in cases(options):
            if isinstance(shape, Living):
                bench.living(name, shape)
                continue
            for way in ways:
                bench.fill(name, shape, way, directory)
    for name, figures in report.rows.items():
        if name.startswith(("million", "c1m")) and "per_second" in figures:
            report.headline[f"{name.replace(', ', '_')}_per_second"] = figures["per_second"]
    report.note("times in milliseconds unless they say otherwise")
    report.finish(options)


if __name__ == "__main__":
    main()
