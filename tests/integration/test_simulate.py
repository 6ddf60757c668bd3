"""`warrend simulate`: a fleet on the real manager, whole at the end whatever failed on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WARREND = Path(sys.executable).parent / "warrend"
TIMEOUT_S = 150


def simulate(*options: str) -> tuple[int, Any, str]:
    """Exit code, what it found, what it said meanwhile."""
    done = subprocess.run(
        [str(WARREND), "simulate", "--format=json", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def test_everything_runs_again_after_hosts_and_containers_have_failed() -> None:
    code, found, said = simulate(
        "--nodes=40", "--services=8", "--replicas=25", "--seconds=8", "--seed=5",
        "--node-mtbf-h=0.02", "--node-down-s=2", "--container-mtbf-h=0.05",
        "--scalings-per-minute=60",
    )  # fmt: skip
    assert code == 0, said
    assert found["containers_running"] == found["containers_wanted"] > 0
    assert found["containers_astray"] == 0
    assert found["nodes_connected"] == 40
    assert found["nodes_lost"]
    assert found["container_failures"]
    assert found["scalings"]
    assert found["placed_ms"]["count"] >= 200
    assert found["assigned_ms"]["count"] >= 200
    for process in ("manager", "fleet"):
        assert found[process]["memory_mib"] > 10
        assert found[process]["cpu_percent"] > 0
    assert found["why_not"] == ""
    assert "seed 5" in said
    assert "of 40 nodes" in said


def test_what_finds_no_room_is_said_and_why() -> None:
    code, found, _ = simulate(
        "--nodes=2", "--node-memory=1g", "--container-memory=600m", "--services=1",
        "--replicas=3", "--seconds=0",
    )  # fmt: skip
    assert code == 1
    assert found["containers_running"] == 2
    assert "not enough memory" in found["why_not"]


@pytest.mark.parametrize(
    "option", ["--nodes=0", "--nodes=x", "--node-down-s=-1", "--node-memory=y"]
)
def test_bad_options_are_refused(option: str) -> None:
    code, found, said = simulate(option)
    assert (code, found) == (2, None)
    assert option.partition("=")[0].removeprefix("--") in said
