"""Runs of the benches that are kept: a directory each, named by when it began and what it measured.

A run `2026-03-01T093000Z-1a2b3c4d5e6f` holds for each bench NAME.json (figures, curves, commit,
date, machine), NAME.svg and NAME.hdr: by row, the exported histogram in base 64, so that its curve
can be drawn and compared without the run. Beside them pytest-benchmark.json, as pytest-benchmark
writes it. Until a run is complete, its name ends in `.partial`, and nobody finds it.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches import _curves
from benches._common import ROOT
from warren._histogram import Histogram

#: Where `make bench` keeps its runs. git ignores them.
RUNS = ROOT / "benches" / "runs"
KEPT = 20
PARTIAL = ".partial"
ROUNDS = "pytest-benchmark.json"
#: What its rows are called together.
ROUNDS_TITLE = "rounds of pytest-benchmark"
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class NoRunError(Exception):
    """There is no such run, or it cannot be read; the message says which and why."""


class Exact:
    """A few durations, each kept."""

    def __init__(self, seconds: list[float]) -> None:
        self._sorted = sorted(seconds)

    @property
    def count(self) -> int:
        return len(self._sorted)

    def quantile(self, q: float) -> float:
        """By nearest rank, as `Histogram.quantile` has it."""
        return self._sorted[max(math.ceil(q * self.count), 1) - 1]


@dataclass(frozen=True)
class Row:
    """One row of a bench. `limit`: it says what the machine allows."""

    figures: dict[str, float]
    curve: _curves.Curve = ()
    times: _curves.Times | None = None
    limit: bool = False


@dataclass(frozen=True)
class Run:
    """What was measured together; rows by the bench's title and their own name."""

    name: str
    commit: str
    taken_at: str
    machine: dict[str, Any]
    quick: bool
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As a picture names it."""
        return f"{self.commit}, {self.taken_at}"


def begin(runs: Path) -> Path:
    """A directory for a run that begins now; what others left unfinished goes."""
    for left in runs.glob(f"*{PARTIAL}"):
        shutil.rmtree(left)
    name = f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}-{_commit_name()}"
    path = runs / f"{name}{PARTIAL}"
    path.mkdir(parents=True)
    return path


def complete(run: Path, kept: int = KEPT) -> Path:
    """The run can be found from now on; the oldest beyond `kept` go."""
    whole = run.rename(run.with_name(run.name.removesuffix(PARTIAL)))
    for old in names(run.parent)[:-kept]:
        shutil.rmtree(run.parent / old)
    return whole


def names(runs: Path) -> list[str]:
    """Complete runs, the oldest first."""
    if not runs.is_dir():
        return []
    return sorted(p.name for p in runs.iterdir() if p.is_dir() and not p.name.endswith(PARTIAL))


def find(word: str, runs: Path = RUNS) -> Path:
    """The directory of the run that `word` means.

    A path, `latest`, `previous`, or what git knows as a commit: then the newest run of it. Raises
    NoRunError.
    """
    if word and Path(word).is_dir():
        return Path(word)
    kept = names(runs)
    back = {"latest": 1, "previous": 2}.get(word)
    if back is not None:
        if len(kept) < back:
            raise NoRunError(f"there is no {word} run: {_listed(kept)}")
        return runs / kept[-back]
    of_commit = [name for name in kept if _is_of(name, word)]
    if not of_commit:
        raise NoRunError(f"{word} is no directory and no commit of which a run is kept: "
                         f"{_listed(kept)}")  # fmt: skip
    return runs / of_commit[-1]


def load(directory: Path) -> Run:
    """What was saved there. Raises NoRunError that names the file."""
    found: list[dict[str, Any]] = []
    rows: dict[tuple[str, str], Row] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            saved = json.loads(path.read_text())
            if path.name == ROUNDS:
                rows |= _rounds(saved)
            else:
                rows |= _rows(saved, _exported(path.with_suffix(".hdr")))
                found.append(saved)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise NoRunError(f"{path} is not what a bench saved: {error!r}") from None
    if not found:
        raise NoRunError(f"{directory} holds no run: a bench writes one with --save")
    try:
        facts = {key: found[0][key] for key in ("commit", "taken_at", "machine")}
        return Run(name=directory.name, quick=found[0].get("quick", False), rows=rows, **facts)
    except KeyError as error:
        raise NoRunError(f"{directory}: its first bench does not say {error}") from None


def _rows(saved: dict[str, Any], exported: dict[str, str]) -> dict[tuple[str, str], Row]:
    rows = {}
    for name, figures in saved["rows"].items():
        times = None
        if name in exported:
            times = Histogram.from_bytes(base64.b64decode(exported[name], validate=True))
        curve = [(float(q), float(ms)) for q, ms in saved["curves"].get(name, [])]
        numbers = {key: float(value) for key, value in figures.items()}
        rows[saved["bench"], name] = Row(numbers, curve, times, name in saved["limits"])
    return rows


def _exported(path: Path) -> dict[str, str]:
    """Runs that were kept before histograms were have none."""
    if not path.exists():
        return {}
    exported: dict[str, str] = json.loads(path.read_text())
    return exported


def _rounds(saved: dict[str, Any]) -> dict[tuple[str, str], Row]:
    rows = {}
    for one in saved["benchmarks"]:
        times = Exact(one["stats"]["data"])
        figures = {key: times.quantile(q) * 1e3 for key, q in PERCENTILES.items()}
        rows[ROUNDS_TITLE, str(one["name"])] = Row(figures, _curves.curve(times), times)
    return rows


def _is_of(name: str, word: str) -> bool:
    """Whether that is what was measured: a hash, or its beginning, may be unknown to git here."""
    of = name.partition("Z-")[2]
    begins = len(word) >= 4 and of.startswith(word)
    return bool(of) and (begins or _full(word).startswith(of))


def _full(word: str) -> str:
    """The whole hash of what git calls so; the word itself where git knows nothing of it."""
    return _git("rev-parse", "--verify", "--quiet", f"{word}^{{commit}}") or word


def _commit_name() -> str:
    """Of the checkout, as part of a name."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit}-changed" if _git("status", "--porcelain", "-uno") else commit


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _listed(kept: list[str]) -> str:
    return f"kept are {', '.join(kept)}" if kept else "none is kept; `make bench` makes one"
