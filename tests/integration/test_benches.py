"""Every bench runs, small, and prints figures: what is only run by hand rots."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHES = sorted(
    path.stem for path in (ROOT / "benches").glob("*.py") if not path.stem.startswith(("_", "test"))
)


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
