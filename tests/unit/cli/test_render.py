"""What is printed, to the character."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import CREATED_AT_MS, FakeManager, slot
from warren.cli import render, views
from warren.pb.v1 import api_pb2, objects_pb2

HOUR_LATER_S = CREATED_AT_MS / 1000 + 3600


def test_ps_says_what_runs_and_why_not(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "time", SimpleNamespace(time=lambda: HOUR_LATER_S))
    assert ctl("service", "create", "web", "--image=tiny:1").code == 0
    manager.slots = [
        slot(1, objects_pb2.CONTAINER_STATE_RUNNING, started_at_ms=CREATED_AT_MS + 3_590_000),
        slot(2, objects_pb2.CONTAINER_STATE_PENDING, attempt=4, exited=True, exit_code=7),
        slot(3, objects_pb2.CONTAINER_STATE_FAILED, exited=True, exit_code=137, oom_killed=True),
        slot(4, objects_pb2.CONTAINER_STATE_REJECTED, message="no \x1b[31mcommand\n`x`"),
        api_pb2.Slot(slot=5, pending_reason="1 node: not enough memory (asked 1000 GiB)"),
    ]
    assert ctl("service", "ps", "web").out == (
        "SLOT    CONTAINER      NODE   DESIRED   STATE      ATTEMPT   AGE   WHY\n"
        "web.1   010101010101   a      run       running    1         10s\n"
        "web.2   020202020202   a      run       pending    4         60m   exited with code 7\n"
        "web.3   030303030303   a      run       failed     1         60m   "
        "killed because it used more memory than its limit; exit code 137\n"
        "web.4   040404040404   a      run       rejected   1         60m   "
        "no  [31mcommand `x`\n"
        "web.5   -              -      run       pending    -         -     "
        "1 node: not enough memory (asked 1000 GiB)\n"
    )


def test_ps_says_what_crashes_again_and_again(ctl: Run, manager: FakeManager) -> None:
    assert ctl("service", "create", "web", "--image=tiny:1").code == 0
    looping = slot(1, objects_pb2.CONTAINER_STATE_PENDING, attempt=4, exited=True, exit_code=7)
    looping.crash_loop.failures = 3
    looping.crash_loop.since_ms = CREATED_AT_MS
    looping.crash_loop.exited = True
    looping.crash_loop.exit_code = 7
    manager.slots = [looping, slot(2, objects_pb2.CONTAINER_STATE_RUNNING)]
    since = "2026-01-01T00:00:00.000Z"
    (_, first, second) = ctl("service", "ps", "web").out.splitlines()
    assert first.endswith(f"crash-looping: failed 3 times since {since}; exited with code 7")
    assert "crash" not in second
    shown = json.loads(ctl("service", "ps", "web", "--format=json").out)
    assert [it["crash_loop"] for it in shown] == [
        {"failures": 3, "since": since, "exit_code": 7},
        None,
    ]


def test_nodes(ctl: Run, manager: FakeManager) -> None:
    assert ctl("node", "ls").out == (
        "ID             NAME   STATUS   AVAILABILITY   ROLES            CONTAINERS   "
        "CPUS    MEMORY\n"
        "a0a0a0a0a0a0   a      ready    active         leader, worker   1/2          0.5/3   "
        "64 MiB/4 GiB\n"
    )


def test_inspect_for_people(ctl: Run, manager: FakeManager) -> None:
    command = ("--mount=type=tmpfs,target=/t", "-l", "a=b", "--", "sleep", "9")
    assert ctl("service", "create", "web", "--image=tiny:1", *command).code == 0
    lines = ctl("service", "inspect", "web").out.splitlines()
    assert lines[1:4] == ["name: web", "mode: replicated", "replicas: 1"]
    assert "  command:" in lines
    assert "    - sleep" in lines
    assert "    - type: tmpfs" in lines
    assert "      target: /t" in lines
    assert not any(line.startswith("  user") for line in lines)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (3 << 40, "3 TiB")],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert render.bytes_text(size_bytes) == text


def test_times_and_words() -> None:
    assert views.time_text(CREATED_AT_MS + 7) == "2026-01-01T00:00:00.007Z"
    assert views.time_text(0) is None
    assert views.word(objects_pb2.RestartCondition, 2) == "on-failure"
    assert views.word(objects_pb2.RestartCondition, 99) == "99"
    assert render.age(None) == "-"
