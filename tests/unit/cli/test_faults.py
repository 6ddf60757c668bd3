"""Whatever is typed, and whatever breaks, ends in one sentence and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager

CREATE = ("service", "create", "web", "--image=tiny:1")
NO_TEXT = "a\udcff"  # as Python has bytes of an argument that are no UTF-8


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    "words",
    [
        ("service", "create", NO_TEXT, "--image=tiny:1"),
        (*CREATE, f"--env=A={NO_TEXT}"),
        (*CREATE, f"--label={NO_TEXT}=1"),
        (*CREATE, "--device=gpu=9999999"),
        (*CREATE, "--mount=type=bind,source=/a\n,target=/b"),
        (*CREATE, f"--mount=type=bind,source={NO_TEXT},target=/b"),
        ("service", "inspect", NO_TEXT),
        ("node", "update", "a", f"--label-rm={NO_TEXT}"),
        ("node", "ls", "--host", "a..b:2377"),
        ("node", "ls", "--host", f"{NO_TEXT}:2377"),
        ("node", "ls", "--host", f"unix:///{NO_TEXT}"),
        ("node", "ls", "--timeout", NO_TEXT),
        (NO_TEXT,),
    ],
)
def test_what_cannot_be_meant(
    ctl: Run, manager: FakeManager, words: tuple[str, ...], form: str
) -> None:
    done = ctl(*words, f"--format={form}")
    if "unix:///" in words[-1]:
        assert (done.code, done.out) == (3, "")
    else:
        assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    if form == "json":
        assert json.loads(done.err)["error"]["message"]
    else:
        assert done.err.startswith("warrenctl: ")
        assert manager.requests("CreateService") == []


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("traceback", [False, True])
def test_a_fault_of_our_own(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch, form: str, traceback: bool
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the pen is out of ink")

    if traceback:
        monkeypatch.setenv("WARRENCTL_TRACEBACK", "1")
    monkeypatch.setattr("warren.cli.render.show_list", broken)
    done = ctl("service", "ls", f"--format={form}")
    assert (done.code, done.out) == (1, "")
    assert ("Traceback" in done.err) == traceback
    if form == "json":
        error = json.loads(done.err.splitlines()[-1])["error"]
        assert (error["code"], "out of ink" in error["message"]) == ("internal", True)
    else:
        sentence, hint = done.err.splitlines()[-2:]
        assert sentence.startswith("warrenctl: ")
        assert "out of ink" in sentence
        assert "WARRENCTL_TRACEBACK=1" in hint


@pytest.mark.parametrize("closed", ["1", "2", "0", "012"])
def test_closed_standard_streams(manager: FakeManager, closed: str) -> None:
    script = (
        "import os, sys\n"
        "for fd in sys.argv[1]: os.close(int(fd))\n"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, closed),
            *(sys.executable, "-m", "warren.cli", "service", "ls", "--format=json"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "WARREN_HOST": manager.host,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if "1" in closed else "[]\n")
    assert manager.requests("ListServices")
