"""cgroups of both versions, in a directory that looks like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from warren.agent.runtime.containerd import cgroups


@pytest.mark.parametrize(
    ("file", "text", "killed"),
    [
        (
            "memory/warren/a/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            True,
        ),
        (
            "memory/warren/a/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 1\noom_kill 0\n",
            False,
        ),
        ("warren/a/memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n", True),
        ("warren/a/memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\n", False),
    ],
)
def test_oom_killed(tmp_path: Path, file: str, text: str, killed: bool) -> None:
    assert not cgroups.oom_killed("/warren/a", tmp_path)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert cgroups.oom_killed("/warren/a", tmp_path) is killed


def test_remove_takes_every_hierarchy_and_what_is_below(tmp_path: Path) -> None:
    for directory in ("cpu/warren/a/inner", "memory/warren/a", "cpu/warren/b"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "cpuacct").symlink_to("cpu")
    assert cgroups.remove("/warren/a", tmp_path) == []
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/warren/*"))
    assert left == ["cpu/warren/b", "cpuacct/warren/b"]
    assert cgroups.remove("/warren/a", tmp_path) == []


def test_remove_on_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    (tmp_path / "warren/a/inner").mkdir(parents=True)
    assert cgroups.is_v2(tmp_path)
    assert cgroups.remove("/warren/a", tmp_path) == []
    assert not (tmp_path / "warren/a").exists()


def test_what_stays_is_told(tmp_path: Path) -> None:
    busy = tmp_path / "cpu/warren/a"
    busy.mkdir(parents=True)
    (busy / "file").write_text("")
    assert cgroups.remove("/warren/a", tmp_path) == [busy]
