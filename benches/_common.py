"""What every bench shares: arguments, the machine's line, percentiles, the report."""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benches import _curves
from warren._histogram import Histogram

ROOT = Path(__file__).parents[1]


def arguments(
    doc: str,
    argv: Sequence[str] | None = None,
    more: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> argparse.Namespace:
    """What every bench takes; `doc` is the module's own text, `more` adds what only it takes."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="a small run that only shows it works")
    parser.add_argument("--save", metavar="DIR", type=Path, help="also write results and curves")
    more(parser)
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


def commit() -> str:
    """What was measured: the checkout's commit, marked if the files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=, changed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout.strip() or "no checkout"


def latency(histogram: Histogram) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the maximum, in milliseconds."""
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(histogram.quantile(q) * 1e3, 3) for name, q in points.items()}


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def raw_fdatasync(directory: Path, writes: int, into: Histogram | None = None) -> Histogram:
    """The disk's own time: 512-byte appends into a preallocated file, each with its fdatasync."""
    histogram = into or Histogram()
    path = directory / "fdatasync.probe"
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 512 * (writes + 1))
        os.fsync(file.fileno())
        block = b"\xa5" * 512
        for _ in range(writes):
            began = time.perf_counter()
            file.write(block)
            os.fdatasync(file.fileno())
            histogram.observe(time.perf_counter() - began)
    path.unlink()
    return histogram


@dataclass(frozen=True)
class Goal:
    """A figure that was promised, and what came out."""

    what: str
    goal: str
    measured: str
    met: bool
    #: What the machine or a peer did in the same run.
    beside: str = ""


@dataclass
class Report:
    """Named rows of figures, printed as a table or as one JSON object, and saved with curves."""

    name: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    #: What the curves were made of, as `Histogram.to_bytes` exports it.
    histograms: dict[str, bytes] = field(default_factory=dict)
    #: Figures that stand at the top of the JSON, for programs that look for these alone.
    headline: dict[str, float] = field(default_factory=dict)
    #: Curves of what the machine allows.
    limits: list[str] = field(default_factory=list)

    def row(self, name: str, **figures: float) -> None:
        self.rows[name] = {key: round(value, 3) for key, value in figures.items()}

    def latency(
        self, name: str, histogram: Histogram, *, limit: bool = False, **more: float
    ) -> dict[str, float]:
        """A row of percentiles in milliseconds, and a curve; `limit`: of the machine itself."""
        self.row(name, **more, **latency(histogram))
        self.curve(name, histogram)
        if limit:
            self.limits.append(name)
        return self.rows[name]

    def curve(self, name: str, histogram: Histogram) -> None:
        self.curves[name] = _curves.curve(histogram)
        self.histograms[name] = histogram.to_bytes()

    def goal(self, what: str, goal: str, measured: str, met: bool, beside: str = "") -> None:
        self.goals.append(Goal(what, goal, measured, met, beside))

    def note(self, sentence: str) -> None:
        """Something a reader of the figures must know."""
        self.notes.append(sentence)

    def finish(self, options: argparse.Namespace) -> None:
        """Print, and save if that was asked for."""
        if options.json:
            print(json.dumps(self.as_dict()))
        else:
            self._print_table()
        if options.save:
            module = Path(sys.argv[0]).stem
            options.save.mkdir(parents=True, exist_ok=True)
            saved = self.as_dict() | {"quick": options.quick}
            (options.save / f"{module}.json").write_text(json.dumps(saved, indent=1) + "\n")
            if self.curves:
                exported = {k: base64.b64encode(v).decode() for k, v in self.histograms.items()}
                (options.save / f"{module}.hdr").write_text(json.dumps(exported, indent=1) + "\n")
                drawn = _curves.render(self.name, self.curves, self.limits)
                (options.save / f"{module}.svg").write_text(drawn)

    def as_dict(self) -> dict[str, Any]:
        return {
            "bench": self.name,
            **{key: round(value, 3) for key, value in self.headline.items()},
            "machine": machine(),
            "commit": commit(),
            "taken_at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "rows": self.rows,
            "notes": self.notes,
            "goals": [asdict(goal) for goal in self.goals],
            "curves": self.curves,
            "limits": self.limits,
        }

    def _print_table(self) -> None:
        facts = machine()
        print(f"{self.name}: {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}")
        width = max(map(len, self.rows), default=0)
        for name, figures in self.rows.items():
            cells = "  ".join(f"{key} {value:g}" for key, value in figures.items())
            print(f"  {name:<{width}}  {cells}")
        for goal in self.goals:
            word = "met" if goal.met else "MISSED"
            beside = f" ({goal.beside})" if goal.beside else ""
            print(f"  goal {word}: {goal.what}: {goal.measured}, asked {goal.goal}{beside}")
        for sentence in self.notes:
            print(f"  note: {sentence}")
