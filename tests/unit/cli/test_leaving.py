"""How commands end whose caller or reader leaves: Ctrl-C, and a pipe that nobody reads any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager, slot
from warren.pb.v1 import api_pb2, explain_pb2, node_pb2, objects_pb2

RUNNING = objects_pb2.CONTAINER_STATE_RUNNING


def process(manager: FakeManager, *arguments: str) -> subprocess.Popen[str]:
    # Unbuffered, Python takes a write that a vanished reader cut short for a whole one.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    # A shell starts what runs in its background with SIGINT ignored, and everything inherits that.
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "warren.cli", *arguments],
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "WARREN_HOST": manager.host,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_leaves_the_service_and_says_so(manager: FakeManager) -> None:
    manager.progress.append([api_pb2.ServiceProgress(version=1, desired=1, pending=1)])
    with process(manager, "service", "create", "web", "--image=tiny:1") as waiting:
        assert manager.watching.wait(30)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "web: 0/1 running, 1 pending\n"
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "the service stays" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("form", "told"),
    [("json", {"error": {"code": "interrupted", "message": "interrupted"}}), ("table", None)],
)
def test_ctrl_c_while_a_manager_is_asked(
    manager: FakeManager, form: str, told: dict[str, object] | None
) -> None:
    def hang(_: api_pb2.GetClusterRequest) -> api_pb2.GetClusterResponse:
        manager.watching.set()
        manager.hold.wait(30)
        return api_pb2.GetClusterResponse()

    manager.GetCluster = hang  # type: ignore[method-assign]
    with process(manager, "cluster", "status", f"--format={form}") as asking:
        assert manager.watching.wait(30)
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=30)
    assert (asking.returncode, out) == (130, "")
    (line,) = err.splitlines()
    assert (json.loads(line) if line else None) == told


@pytest.mark.parametrize("command", ["events --watch", "service logs web --follow"])
def test_ctrl_c_is_how_following_ends(ctl: Run, manager: FakeManager, command: str) -> None:
    assert ctl("service", "create", "web", "--image=tiny:1", "--detach").code == 0
    manager.slots = [slot(1, RUNNING)]
    line = node_pb2.LogLine(container_id=bytes([1] * 16), line=b"hello", time_ns=1)
    manager.log_lines = [line]
    place = explain_pb2.EventRevision(term=1, sequence=7)
    manager.ListEvents = lambda _: explain_pb2.ListEventsResponse(  # type: ignore[method-assign]
        events=manager.events, revision=place, filtered=True
    )
    with process(manager, *command.split(), "--format=json") as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=30)
    assert (following.returncode, err) == (130, "")


def test_a_reader_that_goes_away_is_no_drama(manager: FakeManager) -> None:
    manager.slots = [slot(number, RUNNING) for number in range(1, 250)] * 20
    with process(manager, "container", "ls", "--format=json") as writing:
        assert writing.stdout is not None
        assert writing.stderr is not None
        writing.stdout.read(10)
        writing.stdout.close()
        assert writing.wait(30) == 1
        assert writing.stderr.read() == ""
