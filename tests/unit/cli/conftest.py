"""A fake manager per test, and `warrenctl` run in this process."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.cli.fake_manager import FakeManager
from warren.cli import main


@dataclass
class Done:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What it wrote to stderr, without the line by which support finds the call."""
        return re.sub(r"^request id: [0-9a-f]{32}-r?[0-9]+\n", "", self.err, flags=re.MULTILINE)


Run = Callable[..., Done]


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    # A path under pytest's own directories may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wc") as directory:
        fake = FakeManager(Path(directory) / "w.sock")
        try:
            yield fake
        finally:
            fake.close()


@pytest.fixture
def others() -> Iterator[list[FakeManager]]:
    """Two more managers, for tests of several hosts."""
    with tempfile.TemporaryDirectory(prefix="wc") as directory, ExitStack() as opened:
        fakes = [FakeManager(Path(directory) / f"{number}.sock") for number in range(2)]
        for fake in fakes:
            opened.callback(fake.close)
        yield fakes


@pytest.fixture
def ctl(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Run:
    """`ctl("service", "ls")`: against the fake manager where the test has one."""
    if "manager" in request.fixturenames:
        monkeypatch.setenv("WARREN_HOST", request.getfixturevalue("manager").host)
    monkeypatch.setenv("COLUMNS", "80")
    for file in ("CA", "CERT", "KEY"):
        monkeypatch.delenv(f"WARREN_TLS_{file}", raising=False)
        monkeypatch.delenv(f"WARRENCTL_TLS_{file}", raising=False)

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        code = main.run(list(arguments))
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run
