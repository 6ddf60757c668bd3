"""Every bench runs, small, and prints figures: what is only run by hand rots."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benches import _all, _runs

ROOT = Path(__file__).parents[2]
BENCHES = _all.names()


def run_quick(name: str, *more: str) -> dict[str, dict[str, float]]:
    """The rows that a small run prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"benches.{name}", "--json", "--quick", *more],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows: dict[str, dict[str, float]] = json.loads(done.stdout)["rows"]
    return rows


def test_they_are_found() -> None:
    ours = {"api", "cli_help", "consensus", "deploy", "histogram", "idle", "restart", "state"}
    assert ours <= set(BENCHES)


@pytest.mark.parametrize("name", [name for name in BENCHES if name != "restart"])
def test_it_prints_figures(name: str) -> None:
    rows = run_quick(name)
    assert rows
    assert all(value >= 0 for figures in rows.values() for value in figures.values())
    assert all(any(figures.values()) for figures in rows.values()), rows


def test_a_killed_daemon_keeps_every_container() -> None:
    rows = run_quick("restart")
    assert rows["start to /ready"]["p50"] > 0
    assert rows["containers"]["restarted"] == 0
    assert rows["containers"]["lost"] == 0


def test_creates_through_a_follower_stand_beside_a_swarm_s() -> None:
    rows = run_quick("failover", "--faults=forward")
    systems = ["", "swarm: "] if shutil.which("dockerd") else [""]
    assert [name for name in rows if name.endswith("follower against leader")] == [
        f"{whose}follower against leader" for whose in systems
    ]
    for whose in systems:
        leader, follower = (
            rows[f"{whose}service create through {kind}"]["p50"] for kind in ("leader", "follower")
        )
        ratio = rows[f"{whose}follower against leader"]["p50_ratio"]
        assert ratio == pytest.approx(follower / leader, rel=0.01)


def test_the_small_ones_run_under_pytest() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benches", "-q", "--benchmark-disable"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_is_kept_whole_and_compared(tmp_path: Path) -> None:
    into = _runs.begin(tmp_path / "runs")
    _all.bench("histogram", into, quick=True)
    _all.rounds(into, quick=True)
    whole = _runs.complete(into)
    run = _runs.load(_runs.find("latest", tmp_path / "runs"))
    assert run.name == whole.name
    assert run.quick
    render = run.rows[_runs.ROUNDS_TITLE, "test_render"]
    assert render.times is not None
    assert render.times.count > 1
    assert {("one observation in a histogram", "observe")} <= run.rows.keys()
    compared = subprocess.run(
        [sys.executable, "-m", "benches.compare", str(whole), str(whole), f"--output={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    assert "Nothing differs." in compared.stdout
    assert "![test_render](" in (tmp_path / "README.md").read_text()
