"""Makes one page of what the benches saved, and compares it with an earlier run.

python -m benches._report DIR [EARLIER]    # writes DIR/README.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Figures that are better when larger; all others are times, bytes or ratios of them.
LARGER_IS_BETTER = ("per_second",)
UNITS = (
    "Times are milliseconds unless their name says otherwise. What stands beside a figure was "
    "taken in the same run."
)
QUICK = "A quick run: it shows that the bench works, and its figures mean little."
#: Two runs on one machine differ by this much without any reason in the code.
NOISE = 0.15


def load(directory: Path) -> dict[str, dict[str, Any]]:
    """What each bench saved, by its module's name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}


def write(directory: Path, earlier: dict[str, dict[str, Any]]) -> Path:
    """The page of what was saved there."""
    target = directory / "README.md"
    target.write_text(page(load(directory), earlier))
    return target


def page(results: dict[str, dict[str, Any]], earlier: dict[str, dict[str, Any]]) -> str:
    """The page as Markdown."""
    if not results:
        raise SystemExit("nothing was saved there: run the benches with --save DIR first")
    first = next(iter(results.values()))
    facts = first["machine"]
    machine = f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB"
    software = f"Linux {facts['kernel']}, Python {facts['python']}"
    lines = [
        "# Benchmark report",
        "",
        f"{machine}, {software}; commit {first['commit']}, {first['taken_at']} UTC.",
        "",
        UNITS,
        "",
        *_goals(results),
    ]
    for name, result in results.items():
        lines += ["", f"## {result['bench']}", ""]
        if result.get("quick"):
            lines += [
                QUICK,
                "",
            ]
        lines += _table(result["rows"], earlier.get(name, {}).get("rows", {}))
        lines += ["", *(f"- {note}" for note in result["notes"])] if result["notes"] else []
        if result["curves"]:
            lines += ["", f"![Latency by percentile]({name}.svg)"]
    return "\n".join(lines) + "\n"


def _goals(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    goals = [goal for result in results.values() for goal in result.get("goals", [])]
    if goals:
        yield "| figure | goal | measured | | beside it |"
        yield "|---|---|---|---|---|"
    for goal in goals:
        met = "met" if goal["met"] else "**missed**"
        yield f"| {goal['what']} | {goal['goal']} | {goal['measured']} | {met} | {goal['beside']} |"


def _table(rows: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for figures in rows.values() for key in figures))
    yield "| | " + " | ".join(column.replace("_", " ") for column in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, figures in rows.items():
        cells = [_cell(figures, before.get(name, {}), column) for column in columns]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(figures: dict[str, float], before: dict[str, float], column: str) -> str:
    if column not in figures:
        return ""
    text = f"{figures[column]:,.6g}" if figures[column] < 1e6 else f"{figures[column]:,.0f}"
    change = ratio(column, figures[column], before.get(column))
    return text if change is None else f"{text} ({change})"


def ratio(column: str, now: float, before: float | None) -> str | None:
    """How a figure compares with the earlier one, or nothing if it differs no more than runs do."""
    if not before or not now or abs(now / before - 1) <= NOISE:
        return None
    better = (now > before) == (column in LARGER_IS_BETTER)
    return f"× {now / before:.2f}, {'better' if better else 'worse'}"


def main() -> None:
    """Write the page."""
    words = sys.argv[1:]
    if not 1 <= len(words) <= 2:
        raise SystemExit((__doc__ or "").strip())
    directory = Path(words[0])
    earlier = load(Path(words[1])) if len(words) == 2 else {}
    print(f"the report is {write(directory, earlier)}")


if __name__ == "__main__":
    main()
