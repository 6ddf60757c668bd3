"""Managers that are reached over TLS: who is accepted, and what is said of who is not."""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from tests.support.certificates import DAY, Authority
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager, RefusalError
from warren.tls_files import Files

Start = Callable[..., FakeManager]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def start(authority: Authority) -> Iterator[Start]:
    """`start()`: a manager behind TLS; `start("worker")`, `start(issuer=…)`: somebody else."""
    with tempfile.TemporaryDirectory(prefix="wc") as directory, ExitStack() as opened:

        def started(role: str = "manager", issuer: Authority = authority) -> FakeManager:
            name = secrets.token_hex(16)
            files = issuer.issue(role, name)
            credentials = grpc.ssl_server_credentials(
                [(files.key.read_bytes(), files.cert.read_bytes())],
                authority.file.read_bytes(),
                require_client_auth=True,
            )
            fake = FakeManager(Path(directory) / f"{name}.sock", credentials)
            opened.callback(fake.close)
            return fake

        yield started


def flags(files: Files) -> list[str]:
    return ["--tls-ca", str(files.ca), "--tls-cert", str(files.cert), "--tls-key", str(files.key)]


@pytest.mark.parametrize("role", ["client", "manager"])
def test_a_manager_of_the_same_trust_domain(
    ctl: Run, start: Start, authority: Authority, role: str
) -> None:
    files = authority.issue(role, "a0" * 16)
    done = ctl("node", "ls", "--host", start().address, *flags(files))
    assert done.code == 0, done.err


@pytest.mark.parametrize("prefix", ["WARRENCTL", "WARREN"])
def test_files_from_the_environment(
    ctl: Run, start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    files = authority.client()
    for name, path in (("CA", files.ca), ("CERT", files.cert), ("KEY", files.key)):
        monkeypatch.setenv(f"{prefix}_TLS_{name}", str(path))
        if prefix == "WARRENCTL":
            monkeypatch.setenv(f"WARREN_TLS_{name}", "/a/daemons/file")
    monkeypatch.setenv("WARREN_HOST", start().address)
    assert ctl("node", "ls").code == 0


def test_it_goes_on_with_the_next_when_one_is_gone(
    ctl: Run, start: Start, authority: Authority
) -> None:
    gone, there = start(), start()
    gone.close()
    done = ctl(
        "node", "ls", "--host", f"{gone.address},{there.address}", *flags(authority.client())
    )
    assert done.code == 0, done.err
    assert there.requests("ListNodes")


def test_one_dies_in_the_middle(ctl: Run, start: Start, authority: Authority) -> None:
    dying, there = start(), start()
    gone = RefusalError("", "Socket closed", bare=grpc.StatusCode.UNAVAILABLE)
    dying.refuse["ListMembers"] = deque([gone] * 100)
    done = ctl(
        "node", "ls", "--host", f"{dying.address},{there.address}", *flags(authority.client())
    )
    assert done.code == 0, done.err
    assert dying.requests("ListNodes")
    assert there.requests("ListMembers")


def test_a_worker_is_no_manager(ctl: Run, start: Start, authority: Authority) -> None:
    fake = start("worker")
    done = ctl("node", "ls", "--host", fake.address, *flags(authority.client()))
    assert done.code == 6
    assert "is no manager of test.warren" in done.err
    assert fake.seen == []


def test_a_manager_of_another_authority(
    ctl: Run, start: Start, authority: Authority, tmp_path: Path
) -> None:
    fake = start(issuer=Authority(tmp_path / "other"))
    done = ctl("node", "ls", "--host", fake.address, *flags(authority.client()))
    assert done.code == 6
    assert "--tls-ca" in done.err


def test_a_certificate_that_the_manager_does_not_know(
    ctl: Run, start: Start, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other")
    files = stranger.client()
    both = tmp_path / "both.pem"
    both.write_bytes(authority.file.read_bytes() + stranger.file.read_bytes())
    done = ctl("node", "ls", "--host", start().address, *flags(replace(files, ca=both)))
    assert done.code == 6
    assert "do not accept each other" in done.err


def test_an_expired_certificate(ctl: Run, start: Start, authority: Authority) -> None:
    files = authority.issue("client", "ann", ends=datetime.now(UTC) - DAY / 2)
    done = ctl("node", "ls", "--host", start().address, *flags(files))
    assert done.code == 2
    assert "expired" in done.err


def test_nobody_listens(ctl: Run, authority: Authority) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = ctl("node", "ls", "--host", address, *flags(authority.client()))
    assert done.code == 3
    assert f"no manager at {address}" in done.err


def test_somebody_who_says_nothing(ctl: Run, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        words = ("node", "ls", "--host", address, "--timeout=300ms")
        done = ctl(*words, *flags(authority.client()))
    assert done.code == 3
    assert "no answer in time" in done.err
