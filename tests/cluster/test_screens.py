"""`cluster status` and `top` on real daemons: whole, with a manager lost, without a majority."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import Any

import pytest

from tests.cluster import network
from tests.cluster.cluster import Cluster
from tests.cluster.host import BIN
from tests.cluster.test_quorum import lose_quorum

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTENTION = 8
SCREEN_TIMEOUT_S = 30.0


async def status(cluster: Cluster, host: str) -> tuple[int, Any]:
    code, out, err = await cluster.ctl(host, "cluster", "status", "--format=json")
    assert out, err
    return code, json.loads(out)


async def status_until(cluster: Cluster, host: str, kind: str, deadline_s: float = 45) -> Any:
    """The status once a finding of this kind is in it."""

    async def found() -> Any:
        _, view = await status(cluster, host)
        return view if kind in {each["kind"] for each in view["findings"]} else None

    return await cluster.wait_until(found, f"{kind} is found", deadline_s)


async def test_a_whole_cluster_needs_no_attention(cluster: Cluster) -> None:
    leader = await cluster.one_leads()
    code, view = await status(cluster, leader)
    assert (code, view["healthy"], view["findings"]) == (0, True, [])
    assert (view["leader"], view["answered_by"]) == (leader, leader)
    quorum = {"held": True, "voters": 3, "needed": 2, "answering": 3, "spare": 1, "why": None}
    assert view["quorum"] == quorum
    assert (view["nodes"]["ready"], view["nodes"]["total"]) == (6, 6)
    code, out, _ = await cluster.ctl(leader, "cluster", "status")
    assert code == 0
    assert "Nothing needs attention." in out
    assert "3 of 3 answer, 1 more may be lost" in out


async def test_what_does_not_run_is_named_with_its_reason(cluster: Cluster) -> None:
    leader = await cluster.one_leads()
    for name, flags, command in (
        ("web", ("--replicas=2",), ("sleep", "1")),
        ("huge", ("--reserve-memory=900g",), ("sleep", "1")),
        ("crash", (), ("exit", "3")),
    ):
        words = ("service", "create", name, "--image=tiny:1", "--detach", *flags, "--", *command)
        code, _, err = await cluster.ctl(leader, *words)
        assert code == 0, err

    async def all_found() -> Any:
        _, view = await status(cluster, leader)
        found = {each["name"]: each for each in view["service_troubles"]}
        looping = found.get("crash", {}).get("crash_looping")
        return view if {"crash", "huge"} == found.keys() and looping else None

    view = await cluster.wait_until(all_found, "both troubles are found, and a crash loop", 45)
    found = {each["name"]: each for each in view["service_troubles"]}
    assert found["huge"]["pending"] == 1
    assert "not enough memory" in found["huge"]["reason"]
    assert "exit code 3" in found["crash"]["reason"]
    commands = {each["subject"]: each["command"] for each in view["findings"]}
    assert commands["huge"] == "warrenctl explain huge"
    assert {each["kind"] for each in view["events"]} >= {"placed", "pending"}
    # A manager that does not lead says the same of services.
    follower = (await cluster.followers())[0]
    code, view = await status(cluster, follower)
    assert code == ATTENTION
    assert {each["name"] for each in view["service_troubles"]} == {"crash", "huge"}
    assert view["quorum"]["held"]
    # And the history is in `inspect`, the newest ten at most.
    _, out, _ = await cluster.ctl(leader, "service", "inspect", "crash", "--format=json")
    events = json.loads(out)["events"]
    assert [each["kind"] for each in events[:2]] == ["service_created", "placed"]
    assert "crash_looping" in {each["kind"] for each in events}
    assert len(events) <= 10


async def test_a_silent_manager_and_a_node_that_is_down_are_found(cluster: Cluster) -> None:
    lost = (await cluster.followers())[0]
    leader = await cluster.one_leads()
    cluster.kill(lost)
    view = await status_until(cluster, leader, "manager_silent")
    assert (view["quorum"]["answering"], view["quorum"]["spare"]) == (2, 0)
    first = view["findings"][0]
    assert (first["severity"], first["subject"]) == ("critical", lost)
    view = await status_until(cluster, leader, "node_down")
    assert [(each["name"], each["status"]) for each in view["node_troubles"]] == [(lost, "down")]


async def test_without_a_majority_it_shows_what_one_manager_has(cluster: Cluster) -> None:
    left = await lose_quorum(cluster)
    code, view = await status(cluster, left)
    assert code == ATTENTION
    assert (view["stale"], view["quorum"]["held"], view["leader"]) == (True, False, None)
    assert view["findings"][0]["kind"] == "no_quorum"
    assert view["answered_by"] == left
    assert view["nodes"]["total"] == 6
    code, out, _ = await cluster.ctl(left, "cluster", "status")
    assert code == ATTENTION
    assert f"as {left} has it, which may be old" in out
    code, out, _ = await cluster.ctl(left, "top", "--once")
    assert code == 0
    assert "no majority" in out


async def test_top_once_has_rates_of_the_leader(cluster: Cluster) -> None:
    leader = await cluster.one_leads()
    code, out, err = await cluster.ctl(leader, "top", "--once", "--format=json")
    assert code == 0, err
    view = json.loads(out)
    assert view["rates"] is not None, view["rates_why"]
    assert view["rates"]["leads"]
    # The second look counts the requests of the first.
    assert view["rates"]["api_per_s"] > 0
    assert view["rates"]["commit_p50_s"] > 0
    assert {each["name"] for each in view["nodes"]} == {*cluster.hosts}
    follower = (await cluster.followers())[0]
    _, out, _ = await cluster.ctl(follower, "top", "--once", "--format=json")
    assert json.loads(out)["rates"]["leads"] is False


@pytest.mark.parametrize("ending", ["q", "Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("columns", [80, 200])
async def test_top_lives_on_a_terminal_and_leaves_it_as_it_was(
    cluster: Cluster, ending: str, columns: int
) -> None:
    leader = await cluster.one_leads()
    words = [
        *network.inside(cluster.hosts[leader].place.namespace), str(BIN / "warrenctl"),
        f"--host=unix://{cluster.hosts[leader].socket}", "top", "--interval=300ms",
    ]  # fmt: skip
    code, written, modes = await asyncio.to_thread(_on_terminal, words, columns, ending)
    assert code == 0, written
    frames = written.split("\x1b[H")
    assert frames[0].startswith("\x1b[?1049h\x1b[?25l")
    assert written.rstrip().endswith("\x1b[?25h\x1b[?1049l")
    assert modes[0] == modes[1], "the terminal's modes are as they were"
    shown = [frame for frame in frames[1:-1] if "p99" in frame]
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown[-1]).splitlines()
    assert last[0].startswith("warren top")
    assert max(map(len, last)) <= columns
    assert any(line.startswith("commits") and "p99" in line for line in last)


def _on_terminal(words: list[str], columns: int, ending: str) -> tuple[int, str, list[Any]]:
    """Runs a command on a terminal of its own until it has shown latencies, then ends it."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    before = termios.tcgetattr(theirs)
    # Who leads a session and opens a terminal has its Ctrl-C.
    opening = 'exec 0<>"$0" 1>&0 2>&0; exec "$@"'
    process = subprocess.Popen(
        # Whoever runs the tests in the background has Ctrl-C ignored.
        ["env", "--default-signal=INT", "sh", "-c", opening, os.ttyname(theirs), *words],
        env={**_plain_env(), "TERM": "xterm"},
        start_new_session=True,
    )
    written = b""
    ended = False
    until_s = time.monotonic() + SCREEN_TIMEOUT_S
    while process.poll() is None and time.monotonic() < until_s:
        written += _read(own)
        # A whole one: what Ctrl-C finds unwritten the terminal drops.
        if not ended and any(b"p99" in frame for frame in written.split(b"\x1b[H")[1:-1]):
            ended = True
            if ending == "SIGTERM":
                process.terminate()
            else:
                os.write(own, b"q" if ending == "q" else b"\x03")
    process.kill()
    code = process.wait()
    while rest := _read(own):  # a terminal hands out 4 KiB at a time
        written += rest
    after = termios.tcgetattr(theirs)
    os.close(own)
    os.close(theirs)
    # A signal may come in the middle of a character.
    return code, written.decode(errors="replace"), [before, after]


def _read(terminal: int) -> bytes:
    """What is there; empty after a moment without anything."""
    ready, _, _ = select.select([terminal], [], [], 0.05)
    return os.read(terminal, 1 << 20) if ready else b""


def _plain_env() -> dict[str, str]:
    unwanted = ("NO_COLOR", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if name not in unwanted}
