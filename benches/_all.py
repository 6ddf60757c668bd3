"""Runs the benches, keeps what they found, and writes the report: what `make bench` does.

    python -m benches._all [--bench NAME] [--quick]

A run goes to `benches/runs` (see `benches._runs`), and its figures and pictures to `benches/report`
as well. Figures of a quick run mean little: they stay below `target/bench`, and push nothing out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benches import _report, _runs
from benches._common import ROOT

BENCHES = ROOT / "benches"
#: What is started like a bench, and measures nothing.
TOOLS = frozenset({"compare"})


def names() -> list[str]:
    """Every bench."""
    stems = (path.stem for path in BENCHES.glob("*.py"))
    return sorted(s for s in stems if not s.startswith(("_", "test_")) and s not in TOOLS)


def bench(name: str, into: Path, *, quick: bool) -> None:
    """One bench, and what it saves."""
    _run(f"benches.{name}", "--save", str(into), *(["--quick"] if quick else []))


def rounds(into: Path, *, quick: bool) -> None:
    """What pytest-benchmark times, into its own file."""
    words = [f"--benchmark-json={into / _runs.ROUNDS}", "--benchmark-only", "-q"]
    if quick:
        # Those that need no optimised members, which take minutes to build.
        short = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=2"]
        words += [*short, "--benchmark-warmup=off", str(BENCHES / "test_micro.py")]
    else:
        words += [str(BENCHES)]
    _run("pytest", *words)


def run(wanted: list[str], runs: Path, *, quick: bool) -> Path:
    """Each of the benches `wanted`, and the rounds unless one was asked for: a complete run."""
    into = _runs.begin(runs)
    for name in wanted:
        bench(name, into, quick=quick)
    if wanted == names():
        rounds(into, quick=quick)
    return _runs.complete(into)


def publish(whole: Path, report: Path) -> Path:
    """Figures and pictures of a run become the report's; the page compares with what was there."""
    report.mkdir(parents=True, exist_ok=True)
    earlier = _report.load(report)
    for path in whole.iterdir():
        if path.suffix in (".json", ".svg") and path.name != _runs.ROUNDS:
            shutil.copyfile(path, report / path.name)
    return _report.write(report, earlier)


def _run(module: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{module} failed: exit code {done.returncode}")


def main() -> None:
    """Run, keep, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bench", choices=names(), help="only this one")
    parser.add_argument("--quick", action="store_true", help="small runs that only show they work")
    options = parser.parse_args()
    target = ROOT / "target" / "bench"
    runs, report = (
        (target / "runs", target / "quick") if options.quick else (_runs.RUNS, BENCHES / "report")
    )
    whole = run([options.bench] if options.bench else names(), runs, quick=options.quick)
    print(f"the report is {publish(whole, report)}; the run is kept as {whole}")


if __name__ == "__main__":
    main()
