"""Changes whose answer got lost: whether they took effect is not known, and that is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager, RefusalError
from warren.cli import client

BROKEN = RefusalError("", "Socket closed", bare=grpc.StatusCode.UNAVAILABLE)
UNKNOWN = RefusalError("outcome_unknown", "no answer in time; the request may still take effect")
CREATE = ("service", "create", "web", "--image=tiny:1", "--format=json")

DIES_WHEN_ASKED = """
import os, sys
from pathlib import Path
from tests.unit.cli.fake_manager import FakeManager
fake = FakeManager(Path(sys.argv[1]))
for method in ("CreateService", "RemoveImage", "GetNode"):
    setattr(fake, method, lambda _: os._exit(9))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def mortal(directory: Path) -> Iterator[str]:
    """The address of a daemon that takes a request and is gone before it has answered."""
    path = directory / "m.sock"
    with subprocess.Popen(
        [sys.executable, "-c", DIES_WHEN_ASKED, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield f"unix://{path}"
        finally:
            process.kill()


def error_of(err: str) -> tuple[str, str]:
    error = json.loads(err)["error"]
    return error["code"], error["message"]


@pytest.mark.parametrize(
    "words", [(*CREATE, "--timeout=3s"), ("image", "rm", "tiny:1", "--format=json")]
)
def test_a_daemon_that_dies_over_a_change(
    ctl: Run, manager: FakeManager, words: tuple[str, ...]
) -> None:
    with mortal(manager.path.parent) as host:
        done = ctl("--host", host, *words)
    code, message = error_of(done.err)
    assert (done.code, code) == (1, "outcome_unknown"), message
    assert "may still take effect" in message


def test_a_daemon_that_dies_over_a_read(ctl: Run, manager: FakeManager) -> None:
    with mortal(manager.path.parent) as host:
        words = ("node", "inspect", "a", "--format=json", "--timeout=3s")
        done = ctl("--host", host, *words)
    assert (done.code, error_of(done.err)[0]) == (3, "unavailable")


@pytest.mark.parametrize(
    ("doubt", "code"),
    [
        (UNKNOWN, "no_quorum"),
        (BROKEN, "no_quorum"),
        (UNKNOWN, "no_leader"),
        (UNKNOWN, "worker_only"),
        (BROKEN, "denied"),
    ],
)
def test_a_doubt_stays_whatever_the_repetition_meets(
    ctl: Run,
    manager: FakeManager,
    monkeypatch: pytest.MonkeyPatch,
    doubt: RefusalError,
    code: str,
) -> None:
    monkeypatch.setattr(client, "ELECTION_TIMEOUT_S", 0.2)
    manager.refuse["CreateService"] = deque([doubt, *[RefusalError(code, "b is missing")] * 100])
    done = ctl(*CREATE)
    told, message = error_of(done.err)
    assert (done.code, told) == (1, "outcome_unknown")
    assert "may still take effect" in message
    assert message.endswith("b is missing")
    name = manager.requests("CreateService")[0].request
    assert json.loads(done.err)["error"]["request_id"] == f"{name.client.hex()}-{name.sequence}"


@pytest.mark.parametrize(("code", "exit_code"), [("name_taken", 5), ("invalid", 2)])
def test_a_refusal_by_what_the_state_says_ends_the_doubt(
    ctl: Run, manager: FakeManager, code: str, exit_code: int
) -> None:
    manager.refuse["CreateService"] = deque([UNKNOWN, RefusalError(code, "that; do so")])
    done = ctl(*CREATE)
    assert (done.code, error_of(done.err)) == (exit_code, (code, "that; do so"))


def test_what_was_never_sent_is_in_no_doubt(ctl: Run, manager: FakeManager) -> None:
    unsent = RefusalError(
        "", "failed to connect to all addresses", bare=grpc.StatusCode.UNAVAILABLE
    )
    manager.refuse["CreateService"] = deque([unsent, RefusalError("no_quorum", "b is missing")])
    done = ctl(*CREATE)
    assert (done.code, error_of(done.err)) == (3, ("no_quorum", "b is missing"))


def test_a_read_is_in_no_doubt(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["GetNode"] = deque([BROKEN, RefusalError("no_quorum", "b is missing")])
    done = ctl("node", "inspect", "a", "--format=json")
    assert (done.code, error_of(done.err)) == (3, ("no_quorum", "b is missing"))
