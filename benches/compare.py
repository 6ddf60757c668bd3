"""Two runs of the benches beside each other: curves, ratios, and what differs by more than chance.

    python -m benches.compare [A] [B] [--output DIR] [--json]
    python -m benches.compare [RUN] --instrumentation

A and B are runs that `make bench` kept: a directory, `latest`, `previous`, or a commit of which a
run is kept; without them the newest is compared with the one before. `--instrumentation` compares,
within one run, what `benches.instrumentation` measured without and with instrumentation.

For each row that both have: one picture with both latency curves, and B's p50, p90, p99, p99.9 and
rate as multiples of A's. A difference is named if it is larger than what runs on one machine differ
by without any reason, and if it is a latency, larger than what its number of calls can tell.
Nothing is asserted; the exit code is 1 where nothing can be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches import _curves, _report, _runs
from benches._common import ROOT
from benches._runs import PERCENTILES, NoRunError, Row, Run

DEFAULT_OUTPUT = ROOT / "target" / "bench" / "compare"
#: Ends of the names of rows that were measured in turns.
WITHOUT, WITH = ", off", ", on"
#: Standard deviations of a rank within which a percentile may lie by chance.
DEVIATIONS = 3.0
NAMED = (
    f"Ratios are B / A. What differs by no more than {_report.NOISE:.0%}, or by no more than so "
    "few calls can tell, is not named."
)


@dataclass(frozen=True)
class Ratio:
    """A figure of both runs. `differs`: by more than noise."""

    a: float
    b: float
    differs: bool

    @property
    def ratio(self) -> float:
        return self.b / self.a


@dataclass(frozen=True)
class Pair:
    """A row that both runs have."""

    bench: str
    name: str
    a: Row
    b: Row

    @property
    def ratios(self) -> dict[str, Ratio]:
        """By figure, of those that are not zero in either."""
        values = {key: (_value(self.a, key), _value(self.b, key)) for key in self.a.figures}
        return {
            key: Ratio(a, b, self._differs(key, a, b)) for key, (a, b) in values.items() if a and b
        }

    def _differs(self, key: str, a: float, b: float) -> bool:
        if _report.ratio(key, b, a) is None:
            return False
        if key in PERCENTILES and self.a.times is not None and self.b.times is not None:
            a_low, a_high = interval(self.a.times, PERCENTILES[key])
            b_low, b_high = interval(self.b.times, PERCENTILES[key])
            return b_low > a_high or b_high < a_low
        # The longest of all is one call's bad luck.
        return key != "max"

    def sentence(self) -> str | None:
        """What differs of it, if something does."""
        parts = [
            f"{_words(key)} {_number(found.a)} → {_number(found.b)}"
            f"{' ms' if key in PERCENTILES else ''} ({_report.ratio(key, found.b, found.a)})"
            for key, found in self.ratios.items()
            if found.differs
        ]
        return f"{self.bench}: {self.name}: {', '.join(parts)}" if parts else None


def interval(times: _curves.Times, q: float) -> tuple[float, float]:
    """Where the percentile lies, in seconds, as far as so many calls can tell.

    How many of `n` calls are below the true percentile is binomially distributed, so its rank is
    n·q give or take a few times √(n·q·(1 - q)).
    """
    count = max(times.count, 1)
    off = DEVIATIONS * math.sqrt(q * (1 - q) / count)
    return times.quantile(max(q - off, 0.0)), times.quantile(min(q + off, 1.0))


def _value(row: Row, key: str) -> float:
    if key in PERCENTILES and row.times is not None and row.times.count:
        return row.times.quantile(PERCENTILES[key]) * 1e3
    return row.figures.get(key, 0.0)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


@dataclass(frozen=True)
class Comparison:
    """Two runs, and the rows that both have. Raises NoRunError where there is none."""

    a: Run
    b: Run

    def __post_init__(self) -> None:
        if not self.pairs:
            raise NoRunError(
                f"{self.a.name} and {self.b.name} have no row in common: they are runs of "
                "different benches, or of different sizes of one"
            )

    @property
    def pairs(self) -> list[Pair]:
        both = [key for key in self.a.rows if key in self.b.rows]
        return [Pair(*key, self.a.rows[key], self.b.rows[key]) for key in both]

    def differences(self) -> list[str]:
        """Of Warren and of its peers, not of the machine."""
        sentences = [pair.sentence() for pair in self.pairs if not pair.a.limit]
        return [sentence for sentence in sentences if sentence]

    def notes(self) -> list[str]:
        """What a reader must know before believing any of it."""
        notes = []
        if self.a.machine != self.b.machine:
            changed = sorted(
                f"{key} {self.a.machine.get(key)} → {self.b.machine.get(key)}"
                for key in self.a.machine.keys() | self.b.machine.keys()
                if self.a.machine.get(key) != self.b.machine.get(key)
            )
            notes.append(f"These are different machines: {', '.join(changed)}.")
        notes += [f"{run.name}: {_report.QUICK}" for run in (self.a, self.b) if run.quick]
        for pair in self.pairs:
            if pair.a.limit and (sentence := pair.sentence()):
                notes.append(f"The machine itself differed: {sentence}.")
        for mine, other in ((self.a, self.b), (self.b, self.a)):
            if alone := [name for _, name in mine.rows.keys() - other.rows.keys()]:
                notes.append(f"Only {mine.name} has: {', '.join(sorted(alone))}.")
        return notes

    def as_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        sides = {
            side: {"run": run.name, "commit": run.commit, "taken_at": run.taken_at}
            for side, run in (("a", self.a), ("b", self.b))
        }
        rows = [
            {
                "bench": pair.bench,
                "row": pair.name,
                "limit": pair.a.limit,
                "figures": {
                    key: {"a": r.a, "b": r.b, "ratio": round(r.ratio, 4), "differs": r.differs}
                    for key, r in pair.ratios.items()
                },
            }
            for pair in self.pairs
        ]
        return {
            **sides, "notes": self.notes(), "differences": self.differences(), "rows": rows,
        }  # fmt: skip

    def write(self, directory: Path) -> Path:
        """The page, README.md, and its pictures."""
        directory.mkdir(parents=True, exist_ok=True)
        lines = [
            "# Benches compared",
            "",
            *self._sides(),
            "",
            *(f"- {note}" for note in self.notes()),
            "",
            NAMED,
            "",
            "## What differs",
            "",
            *([f"- {sentence}" for sentence in self.differences()] or ["Nothing."]),
        ]
        for bench in dict.fromkeys(pair.bench for pair in self.pairs):
            mine = [pair for pair in self.pairs if pair.bench == bench]
            lines += ["", f"## {bench}", "", *_table(mine), "", *self._pictures(mine, directory)]
        page = directory / "README.md"
        page.write_text("\n".join(lines) + "\n")
        return page

    def _pictures(self, pairs: list[Pair], directory: Path) -> Iterator[str]:
        for number, pair in enumerate(pairs, start=1):
            curves = {f"A: {self.a.label}": pair.a.curve, f"B: {self.b.label}": pair.b.curve}
            if all(any(ms > 0 for _, ms in curve) for curve in curves.values()):
                path = directory / f"{_slug(pair.bench)}-{number}.svg"
                path.write_text(_curves.render(pair.name, curves))
                yield f"![{pair.name}]({path.name})"

    def _sides(self) -> Iterator[str]:
        yield "| | run | commit | taken (UTC) | machine |"
        yield "|---|---|---|---|---|"
        for side, run in (("A", self.a), ("B", self.b)):
            cpu, cores = run.machine.get("cpu"), run.machine.get("cores")
            machine = f"{cpu}, {cores} cores, Linux {run.machine.get('kernel')}"
            yield f"| {side} | {run.name} | {run.commit} | {run.taken_at} | {machine} |"


def _table(pairs: list[Pair]) -> Iterator[str]:
    found = [(pair.name, pair.ratios) for pair in pairs]
    columns = list(dict.fromkeys(key for _, ratios in found for key in ratios))
    yield "| | " + " | ".join(map(_words, columns)) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, ratios in found:
        cells = [_cell(ratios.get(column)) for column in columns]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(found: Ratio | None) -> str:
    if found is None:
        return ""
    ratio = f"× {found.ratio:.2f}"
    ratio = f"**{ratio}**" if found.differs else ratio
    return f"{_number(found.a)} → {_number(found.b)}: {ratio}"


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def within(run: Run) -> Comparison:
    """What a run measured without and with instrumentation. Raises NoRunError."""

    def side(end: str, words: str) -> Run:
        rows = {
            (bench, name.removesuffix(end)): row
            for (bench, name), row in run.rows.items()
            if name.endswith(end)
        }
        return Run(f"{run.name}, {words}", words, run.taken_at, run.machine, run.quick, rows)

    return Comparison(side(WITHOUT, "without"), side(WITH, "with"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", nargs="?", metavar="A", help="a run, `latest`, `previous`, a commit")
    parser.add_argument("b", nargs="?", metavar="B", default="latest")
    parser.add_argument("--instrumentation", action="store_true", help="compare within the run A")
    parser.add_argument("--runs", type=Path, default=_runs.RUNS, help="where runs are kept")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of sentences")
    return parser.parse_args()


def main() -> None:
    """Compare and write."""
    options = arguments()
    try:
        if options.instrumentation:
            run = _runs.load(_runs.find(options.a or "latest", options.runs))
            compared = within(run)
        else:
            words = (options.a or "previous", options.b)
            compared = Comparison(*(_runs.load(_runs.find(w, options.runs)) for w in words))
    except NoRunError as error:
        raise SystemExit(f"cannot compare: {error}") from None
    page = compared.write(options.output)
    if options.json:
        print(json.dumps(compared.as_dict()))
        return
    for sentence in [*compared.notes(), *(compared.differences() or ["Nothing differs."])]:
        print(sentence)
    print(f"the page is {page}")


if __name__ == "__main__":
    main()
