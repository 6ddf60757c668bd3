"""What every bench shares: arguments, the machine's line, percentiles, the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from warren._histogram import Histogram


def arguments(doc: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """`--json` and `--quick`, as every bench takes them; `doc` is the module's own text."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="a small run that only shows it works")
    return parser.parse_args(argv)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        model = next(
            (x.split(":", 1)[1].strip() for x in file if x.startswith("model name")), model
        )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def latency(histogram: Histogram) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the maximum, in milliseconds."""
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(histogram.quantile(q) * 1e3, 3) for name, q in points.items()}


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


@dataclass
class Report:
    """Named rows of figures, printed as a table or as one JSON object."""

    name: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, **figures: float) -> None:
        self.rows[name] = {key: round(value, 3) for key, value in figures.items()}

    def note(self, sentence: str) -> None:
        """Something a reader of the figures must know."""
        self.notes.append(sentence)

    def print(self, *, as_json: bool) -> None:
        if as_json:
            json.dump(
                {"bench": self.name, "machine": machine(), "rows": self.rows, "notes": self.notes},
                sys.stdout,
            )
            print()
            return
        facts = machine()
        print(f"{self.name}: {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}")
        width = max(map(len, self.rows), default=0)
        for name, figures in self.rows.items():
            cells = "  ".join(f"{key} {value:g}" for key, value in figures.items())
            print(f"  {name:<{width}}  {cells}")
        for sentence in self.notes:
            print(f"  note: {sentence}")
