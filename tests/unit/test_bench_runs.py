"""Runs of the benches are kept, found again, and compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benches import _all, _common, _runs, compare
from benches._common import Report, arguments
from benches._runs import NoRunError
from warren._histogram import Histogram

MACHINE = {"cpu": "C", "cores": 2, "memory_gib": 4, "kernel": "6.1", "python": "3.11"}
NAMES = [
    "2026-03-01T090000Z-aaaaaaaaaaaa",
    "2026-03-02T090000Z-bbbbbbbbbbbb",
    "2026-03-02T100000Z-aaaaaaaaaaaa",
    "2026-03-03T090000Z-aaaaaaaaaaaa-changed",
]


def of(milliseconds: float, calls: int = 1000) -> Histogram:
    """Calls that all took as long."""
    found = Histogram()
    for _ in range(calls):
        found.observe(milliseconds / 1e3)
    return found


def save(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    milliseconds: float = 1.0,
    per_second: float = 100.0,
    disk: float = 0.1,
    calls: int = 1000,
    machine: dict[str, Any] | None = None,
    title: str = "commits",
) -> Path:
    """A run of one bench, saved as benches do it."""
    monkeypatch.setattr("sys.argv", ["benches/commits.py"])
    monkeypatch.setattr(_common, "machine", lambda: machine or MACHINE)
    report = Report(title)
    report.latency("one member", of(milliseconds, calls), per_second=per_second)
    report.latency("raw disk", of(disk), limit=True)
    report.row("sizes", mib=10.0)
    report.finish(arguments("", ["--json", "--save", str(directory)]))
    return directory


def compared(a: Path, b: Path) -> compare.Comparison:
    return compare.Comparison(_runs.load(a), _runs.load(b))


def make_runs(runs: Path) -> Path:
    for name in NAMES:
        (runs / name).mkdir(parents=True)
    (runs / f"2026-03-04T090000Z-cccccccccccc{_runs.PARTIAL}").mkdir()
    return runs


def test_a_kept_run_has_every_call_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _runs.load(save(tmp_path / "run", monkeypatch))
    assert run.machine == MACHINE
    assert not run.quick
    row = run.rows["commits", "one member"]
    assert isinstance(row.times, Histogram)
    assert row.times.to_bytes() == of(1.0).to_bytes()
    assert run.rows["commits", "raw disk"].limit
    assert run.rows["commits", "sizes"].times is None


def test_only_complete_runs_are_found_and_the_newest_stay(tmp_path: Path) -> None:
    make_runs(tmp_path)
    assert _runs.names(tmp_path) == NAMES
    begun = _runs.begin(tmp_path)
    assert _runs.names(tmp_path) == NAMES
    assert [path.name for path in tmp_path.glob(f"*{_runs.PARTIAL}")] == [begun.name]
    whole = _runs.complete(begun, kept=3)
    assert _runs.names(tmp_path) == [*NAMES[2:], whole.name]
    assert whole.name.partition("Z-")[2] not in ("", "unknown")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("latest", NAMES[3]),
        ("previous", NAMES[2]),
        ("aaaaaaa", NAMES[3]),
        ("aaaaaaaaaaaa0123456789", NAMES[2]),
        ("bbbb", NAMES[1]),
    ],
)
def test_a_run_is_found_by_its_age_or_its_commit(tmp_path: Path, word: str, found: str) -> None:
    assert _runs.find(word, make_runs(tmp_path)).name == found


@pytest.mark.parametrize("word", ["cccccccccccc", "b", "nonsense", ""])
def test_a_run_that_is_not_kept_is_refused_by_name(tmp_path: Path, word: str) -> None:
    runs = make_runs(tmp_path / "runs")
    with pytest.raises(NoRunError, match="kept are 2026-03-01T090000Z-aaaaaaaaaaaa"):
        _runs.find(word, runs)
    with pytest.raises(NoRunError, match="none is kept"):
        _runs.find(word or "latest", tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("commits.json", "{"),
        ("commits.json", "[]"),
        ("commits.json", '{"rows": {"one": {"p50": "fast"}}, "bench": "b"}'),
        ("commits.hdr", '{"one member": "bm9uc2Vuc2U="}'),
        ("commits.hdr", '{"one member": "?"}'),
        ("commits.hdr", '["one member"]'),
        (_runs.ROUNDS, '{"benchmarks": [{"name": "x", "stats": {}}]}'),
        (_runs.ROUNDS, '{"benchmarks": [{"name": "x", "stats": {"data": []}}]}'),
    ],
)
def test_a_file_that_no_bench_wrote_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    run = save(tmp_path / "run", monkeypatch)
    (run / name).write_text(text)
    with pytest.raises(NoRunError, match=str(run / name).removesuffix(".hdr")):
        _runs.load(run)


def test_a_directory_without_benches_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoRunError, match="holds no run"):
        _runs.load(tmp_path)
    run = save(tmp_path / "run", monkeypatch)
    saved = json.loads((run / "commits.json").read_text())
    del saved["machine"]
    (run / "commits.json").write_text(json.dumps(saved))
    with pytest.raises(NoRunError, match="machine"):
        _runs.load(run)


def test_rounds_of_pytest_benchmark_are_rows_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save(tmp_path / "run", monkeypatch)
    rounds = {"name": "test_observe", "stats": {"data": [40e-9, 30e-9, 50e-9]}}
    (run / _runs.ROUNDS).write_text(json.dumps({"benchmarks": [rounds]}))
    row = _runs.load(run).rows[_runs.ROUNDS_TITLE, "test_observe"]
    assert row.figures["p50"] == pytest.approx(40e-6), "in milliseconds, below what a slot tells"
    assert row.curve[-1][1] == pytest.approx(50e-6)


def test_what_differs_is_named_and_what_does_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = save(tmp_path / "a", monkeypatch)
    b = save(tmp_path / "b", monkeypatch, milliseconds=2.0, per_second=110)
    found = compared(a, b)
    words = ", ".join(f"{name} 1 → 2 ms (× 2.00, worse)" for name in ("p50", "p90", "p99", "p99.9"))
    assert found.differences() == [f"commits: one member: {words}"]
    assert found.notes() == []
    assert compared(a, a).differences() == []
    slower = compared(a, save(tmp_path / "c", monkeypatch, per_second=50))
    assert slower.differences() == ["commits: one member: per second 100 → 50 (× 0.50, worse)"]


def test_what_few_calls_say_is_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of twenty calls knows little of its p99: that of one with a long call differs not."""
    few = [Histogram(), Histogram()]
    for number in range(20):
        few[0].observe(1e-3)
        few[1].observe(5e-3 if number > 18 else 1e-3)
    rows = [_runs.Row({"p50": 1.0, "p99": ms}, (), h) for ms, h in zip((1, 5), few, strict=True)]
    pair = compare.Pair("commits", "one member", *rows)
    assert pair.ratios["p99"].ratio == pytest.approx(5, rel=0.02)
    assert pair.sentence() is None
    assert compare.interval(_runs.Exact([float(n) for n in range(1, 101)]), 0.5) == (35.0, 65.0)


def test_another_machine_and_a_moved_limit_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = save(tmp_path / "a", monkeypatch)
    b = save(tmp_path / "b", monkeypatch, disk=1.0, machine={**MACHINE, "cores": 64})
    different, moved = compared(a, b).notes()
    assert different == "These are different machines: cores 2 → 64."
    begins = "The machine itself differed: commits: raw disk: p50 0.1 → 1 ms (× 10.00, worse), p90"
    assert moved.startswith(begins)
    assert not compared(a, b).differences(), "the disk's figures are not Warren's"


def test_the_page_has_a_picture_of_both_for_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = save(tmp_path / "a", monkeypatch), save(tmp_path / "b", monkeypatch, milliseconds=3.0)
    page = compared(a, b).write(tmp_path / "out")
    text = page.read_text()
    assert "**× 3.00**" in text
    assert "| sizes |" in text
    assert "![one member](commits-1.svg)" in text
    assert {path.name for path in page.parent.iterdir()} == {
        "README.md",
        "commits-1.svg",
        "commits-2.svg",
    }
    svg = ElementTree.fromstring((page.parent / "commits-1.svg").read_text())
    lines = svg.findall("{http://www.w3.org/2000/svg}polyline")
    heights = [float((x.get("points") or "").split()[0].split(",")[1]) for x in lines]
    assert len(lines) == 2
    assert heights[1] < heights[0], "three milliseconds lie above one"


def test_runs_without_a_common_row_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = save(tmp_path / "a", monkeypatch), save(tmp_path / "b", monkeypatch, title="reads")
    with pytest.raises(NoRunError, match="no row in common"):
        compared(a, b)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benches.compare", *words],
        cwd=_common.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_prints_json_or_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = str(save(tmp_path / "a", monkeypatch))
    b = str(save(tmp_path / "b", monkeypatch, per_second=200))
    done = command(a, b, "--json", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rates = {row["row"]: row["figures"].get("per_second") for row in found["rows"]}
    assert rates["one member"] == {"a": 100.0, "b": 200.0, "ratio": 2.0, "differs": True}
    assert (tmp_path / "out" / "README.md").exists()
    refused = command(a, "never-measured", f"--runs={tmp_path}")
    assert refused.returncode == 1
    assert refused.stderr.startswith("cannot compare: never-measured is no directory")
    assert command(a, "--instrumentation").stderr.startswith("cannot compare: ")


def test_a_run_becomes_the_report_but_for_its_histograms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save(tmp_path / "run", monkeypatch)
    (run / _runs.ROUNDS).write_text('{"benchmarks": []}')
    page = _all.publish(run, tmp_path / "report")
    assert {path.name for path in page.parent.iterdir()} == {
        "README.md",
        "commits.json",
        "commits.svg",
    }
    faster = save(tmp_path / "faster", monkeypatch, per_second=200)
    assert "(× 2.00, better)" in _all.publish(faster, page.parent).read_text()


def test_every_bench_is_run_and_no_tool() -> None:
    assert {"api", "consensus", "histogram"} <= set(_all.names())
    assert not {"compare", "test_micro", "_runs"} & set(_all.names())
