"""A trace of pods that ask for GPUs, replayed: how much of the GPUs is allocated in the end.

The example `bench_openb` replays the trace by Warren's policy and by others', emulated: random, dot
product, GPU clustering, GPU packing, best fit, and the fragmentation gradient as published (Weng et
al., USENIX ATC 2023, whose protocol this is). Pods are shuffled, then random ones arrive again
until they demand 130 % of the GPUs; none leaves. What is allocated is noted when 100 % have
arrived, and at the end. Several lists of pods are replayed one after the other; the figures at the
top are then their means. Without `--nodes` and `--pods` it is a small invented trace, which only
shows that the bench works.

    python -m benches.openb --nodes FILE --pods FILE [FILE …] [--seeds 10] [--known]
        [--published FILE] [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from benches._common import ROOT, Report, arguments
from benches._peer import built
from warren._histogram import Histogram

INVENTED = ROOT / "rust" / "warren_core" / "testdata" / "devices"
PUBLISHED = "fgd_published_summary.csv"
SEED_FIRST = 42
OURS, PAPER = "warren", "fgd"
#: As the published summary names them.
PUBLISHED_NAMES = {
    "random": "01-Random",
    "dot_product": "02-DotProd",
    "gpu_clustering": "03-GpuClustering",
    "gpu_packing": "04-GpuPacking",
    "best_fit": "05-BestFit",
    PAPER: "06-FGD",
}


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=_more)
    if (options.nodes is None) != (options.pods is None):
        raise SystemExit("openb: give both --nodes and --pods, or neither")
    invented = options.nodes is None
    nodes = options.nodes or INVENTED / "nodes.csv"
    lists = options.pods or [INVENTED / "pods.csv"]
    seeds = options.seeds or (2 if options.quick else 10)
    report = Report("GPUs allocated, a trace replayed")
    headlines = []
    for pods in lists:
        published = _published(options.published or pods.parent / PUBLISHED, pods.stem)
        found = _replay(nodes, pods, seeds, options)
        headlines.append(_rows(report, pods.stem, found, published))
    for key in headlines[0]:
        report.headline[key] = statistics.fmean(headline[key] for headline in headlines)
    if invented:
        report.note("the trace is an invented one; --nodes and --pods name others")
    report.finish(options)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", metavar="FILE", type=Path, help="list of nodes (CSV)")
    parser.add_argument("--pods", metavar="FILE", type=Path, nargs="+", help="lists of pods (CSV)")
    parser.add_argument("--seeds", metavar="N", type=int, help="runs of each policy (10)")
    parser.add_argument(
        "--known", action="store_true", help="Warren knows the workload's shapes beforehand"
    )
    parser.add_argument(
        "--published", metavar="FILE", type=Path,
        help=f"published results to put beside ({PUBLISHED} beside the pods)",
    )  # fmt: skip


def _replay(nodes: Path, pods: Path, seeds: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the example found."""
    program = str(built("bench_openb", quick=options.quick))
    command = [program, "--nodes", str(nodes), "--pods", str(pods), "--seeds", str(seeds)]
    command += ["--known"] if options.known else []
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=3600)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _published(path: Path, workload: str) -> dict[str, dict[str, str]]:
    """The published results for a workload by policy; none if there is no file or they are not
    in it."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["workload"] == workload]
    names = {published: ours for ours, published in PUBLISHED_NAMES.items()}
    return {names[row["policy"]]: row for row in rows if row["policy"] in names}


def _rows(
    report: Report,
    workload: str,
    found: dict[str, Any],
    published: dict[str, dict[str, str]],
) -> dict[str, float]:
    """Adds a workload's rows and goals; Warren's own figures by their names at the top."""
    stops = found["stops_pct"]
    at_100, at_130 = stops.index(100), stops.index(130)
    for name, policy in found["policies"].items():
        ends = [run[at_130] for run in policy["allocated_pct"]]
        halfway = [run[at_100] for run in policy["allocated_pct"]]
        figures = {
            "gpu_allocated_pct": statistics.fmean(ends),
            "sd": statistics.pstdev(ends),
            "gpu_allocated_pct_at_100": statistics.fmean(halfway),
            "sd_at_100": statistics.pstdev(halfway),
        }
        if beside := published.get(name):
            figures["published_pct"] = float(beside["alloc_gpu_pct_at_130_mean"])
            figures["published_pct_at_100"] = float(beside["alloc_gpu_pct_at_100_mean"])
        if name == OURS:
            ours = _speed(report, workload, policy) | figures
        report.row(f"{workload}: {name}", **figures)
    runs = found["policies"][OURS]["allocated_pct"]
    for key, stop in (("gpu_allocated_pct", at_130), ("gpu_allocated_pct_at_100", at_100)):
        seeds = {f"seed_{SEED_FIRST + n}": run[stop] for n, run in enumerate(runs)}
        report.row(f"{workload}: {OURS}, {key} by seed", **seeds)
    _goals(report, workload, ours, published)
    return ours


def _speed(report: Report, workload: str, policy: dict[str, Any]) -> dict[str, float]:
    """Decisions a second by the thread's own time, and their latencies by the wall clock."""
    histogram = Histogram()
    for bound_ns, count in policy["buckets"]:
        for _ in range(count):
            histogram.observe_ns(bound_ns)
    speed = {
        "decisions_per_second": policy["decisions"] / policy["thread_seconds"],
        "evaluations_per_decision": policy["evaluations"] / policy["decisions"],
    }
    report.latency(f"{workload}: {OURS}, decisions", histogram, **speed)
    return speed


def _goals(
    report: Report,
    workload: str,
    ours: dict[str, float],
    published: dict[str, dict[str, str]],
) -> None:
    if PAPER not in published:
        return
    for arrived, key in ((100, "gpu_allocated_pct_at_100"), (130, "gpu_allocated_pct")):
        wanted = float(published[PAPER][f"alloc_gpu_pct_at_{arrived}_mean"])
        report.goal(
            f"{workload}, {arrived} % arrived", f"≥ {wanted:g} %, as published for FGD",
            f"{ours[key]:.2f} %", ours[key] >= wanted,
        )  # fmt: skip


if __name__ == "__main__":
    main()
