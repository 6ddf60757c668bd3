"""What the replay of a GPU trace reports, given what the example found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benches import openb

STOPS = [80, 90, 95, 100, 110, 120, 130]
SUMMARY = """\
workload,policy,alloc_gpu_pct_at_100_mean,alloc_gpu_pct_at_130_mean,sd_at_130,seeds
pods,06-FGD,90.5,91.5,0.1,10
pods,99-Unheard,1,2,0.1,10
others,06-FGD,10,20,0.1,10
"""


def policy(*runs: float) -> dict[str, Any]:
    """One that allocates ever the same, a figure a seed, and a point more at the end."""
    return {
        "allocated_pct": [[pct] * 6 + [pct + 1] for pct in runs],
        "decisions": 100,
        "thread_seconds": 0.5,
        "evaluations": 4000,
        "buckets": [[1000, 99], [5000, 1]],
    }


def reported(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *arguments: str,
) -> dict[str, Any]:
    found = {"stops_pct": STOPS, "policies": {"warren": policy(90, 92), "fgd": policy(80)}}
    monkeypatch.setattr(openb, "_replay", lambda *_: found)
    (tmp_path / openb.PUBLISHED).write_text(SUMMARY)
    monkeypatch.setattr("sys.argv", ["benches/openb.py", "--json", *arguments])
    openb.main()
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_the_published_results_stand_beside_and_are_the_goal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pods = str(tmp_path / "pods.csv")
    printed = reported(capsys, monkeypatch, tmp_path, "--nodes", "nodes.csv", "--pods", pods)
    assert printed["gpu_allocated_pct"] == 92
    assert printed["gpu_allocated_pct_at_100"] == 91
    assert printed["sd"] == 1
    assert printed["decisions_per_second"] == 200
    assert printed["evaluations_per_decision"] == 40
    assert printed["rows"]["pods: fgd"]["published_pct"] == 91.5
    assert "published_pct" not in printed["rows"]["pods: warren"]
    assert printed["rows"]["pods: warren, gpu_allocated_pct by seed"] == {
        "seed_42": 91,
        "seed_43": 93,
    }
    assert [goal["met"] for goal in printed["goals"]] == [True, True]
    assert printed["notes"] == []


def test_of_several_workloads_the_mean_stands_at_the_top(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lists = [str(tmp_path / f"{name}.csv") for name in ("pods", "others", "unpublished")]
    printed = reported(capsys, monkeypatch, tmp_path, "--nodes", "nodes.csv", "--pods", *lists)
    assert printed["gpu_allocated_pct"] == 92
    assert len(printed["goals"]) == 4, "one workload has no published results"
    assert {"others: warren", "unpublished: fgd"} <= set(printed["rows"])


def test_without_a_trace_it_says_that_the_trace_is_invented(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    printed = reported(capsys, monkeypatch, tmp_path)
    assert "invented" in printed["notes"][0]
    with pytest.raises(SystemExit, match="both"):
        reported(capsys, monkeypatch, tmp_path, "--nodes", "nodes.csv")
