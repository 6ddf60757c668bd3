"""How full a cluster gets before the first container is refused, and beside it by others' policies.

The example `bench_scheduler` places containers of forty shapes one by one: through the scheduler
with each of its strategies, and by the policies of others, emulated as far as CPU and memory decide
them, each with a look at every node. `utilisation_pct` is that of the scarcer resource when the
first container finds no node; each policy meets the same containers.

    python -m benches.density [--nodes N] [--mix equal|four] [--seeds N]
                              [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from benches._common import Report, arguments
from benches._peer import built

MIXES = {"equal": "equal nodes", "four": "four node types"}
OURS = "stranding, grid (pack)"
GOALS_PCT = {"equal": 97.5, "four": 98.0}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, metavar="N")
    parser.add_argument("--mix", choices=MIXES)
    parser.add_argument("--seeds", type=int, metavar="N")


def run(program: Path, mix: str, nodes: int, seeds: int) -> dict[str, Any]:
    """By policy: mean, least and most of all seeds."""
    done = subprocess.run(
        [str(program), "density", "--mix", mix, "--nodes", str(nodes), "--seeds", str(seeds)],
        check=True,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    policies: dict[str, Any] = json.loads(done.stdout)["policies"]
    return policies


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=_options)
    program = built("bench_scheduler", quick=options.quick)
    nodes = options.nodes or (20 if options.quick else 1_000)
    seeds = options.seeds or (1 if options.quick else 5)
    report = Report(f"how full {nodes:,} nodes get, {seeds} seeds")
    for mix in (options.mix,) if options.mix else tuple(MIXES):
        for policy, found in run(program, mix, nodes, seeds).items():
            report.row(
                f"{MIXES[mix]}: {policy}",
                utilisation_pct=found["mean"],
                least_pct=found["min"],
                most_pct=found["max"],
            )
            if policy != OURS:
                continue
            report.headline.setdefault("utilisation_pct", found["mean"])
            report.headline[f"utilisation_pct_{mix}"] = found["mean"]
            goal = GOALS_PCT[mix]
            report.goal(
                f"{MIXES[mix]}, full at the first refusal", f"≥ {goal} %", f"{found['mean']:.2f} %",
                found["mean"] >= goal, f"least {found['min']:.2f} %",
            )  # fmt: skip
    report.finish(options)


if __name__ == "__main__":
    main()
