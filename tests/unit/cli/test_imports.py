"""Help and completion import nothing heavy: that is where their speed comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("grpc", "google.protobuf", "rich", "yaml", "msgspec", "asyncio", "shutil", "uvloop")
SCRIPT = """
import atexit, json, sys
heavy = {heavy!r}
atexit.register(lambda: print(json.dumps([m for m in heavy if m in sys.modules]), file=sys.stderr))
from warren.cli.main import main
main()
"""


def imported(*arguments: str, **more_env: str) -> tuple[str, list[str]]:
    """What a process with these arguments prints, and what it imported that is heavy."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more_env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("service", "--help"),
        ("service", "create", "--help"),
        ("service", "logs", "--help"),
        ("cluster", "init", "--help"),
        ("image", "load", "--help"),
        ("node", "ls", "--help"),
        ("container", "inspect", "--help"),
        ("debug", "wal", "verify", "--help"),
        ("debug", "bundle", "--help"),
        ("dashboard", "export", "--help"),
        ("doctor", "--help"),
        ("completion", "fish"),
    ],
)
def test_help_is_light(arguments: tuple[str, ...]) -> None:
    printed, heavy = imported(*arguments)
    assert "warrenctl" in printed
    assert heavy == []


def test_completion_is_light() -> None:
    printed, heavy = imported(
        _WARRENCTL_COMPLETE="bash_complete",
        COMP_WORDS="warrenctl service create --re",
        COMP_CWORD="3",
    )
    assert "plain,--replicas" in printed.splitlines()
    assert heavy == []


def test_the_probe_itself_sees_what_is_heavy() -> None:
    _, heavy = imported("node", "ls", "--host=unix:///nowhere/at.all")
    assert "grpc" in heavy
