"""Certificate files: what is taken, what is refused with which sentence, and that they rotate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificates import TRUST_DOMAIN, Authority, node_id
from warren import core
from warren.errors import StartupError, WarrenError
from warren.tls import (
    RETRY_S,
    Credentials,
    SpiffeId,
    TlsError,
    credentials_of,
    load,
    manager_host_name,
)
from warren.tls_files import Files

NODE = node_id(7)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def why(files: Files) -> str:
    with pytest.raises(TlsError) as caught:
        load(files)
    return str(caught.value)


@pytest.mark.parametrize(("role", "name"), [("manager", NODE), ("worker", NODE), ("client", "a.b")])
def test_each_role_is_read(authority: Authority, role: str, name: str) -> None:
    material = load(authority.issue(role, name))
    assert material.identity == SpiffeId(TRUST_DOMAIN, role, name)
    assert material.identity.identity == f"{role}/{name}"
    assert SpiffeId.parse(str(material.identity)) == material.identity
    assert "PRIVATE" not in repr(material)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://c/client/x",
        "SPIFFE://c/client/x",
        "spiffe://c/client",
        "spiffe://c/client/x/y",
        "spiffe:///client/x",
        "spiffe://C/client/x",
        "spiffe://c:1/client/x",
        "spiffe://c/root/x",
        "spiffe://c/client/",
        "spiffe://c/client/..",
        "spiffe://c/client/a%20b",
        "spiffe://c/client/x\n",
        "spiffe://c/manager/x",
        f"spiffe://c/worker/{NODE.upper().replace('0', 'A')}",
        f"spiffe://{'d' * 246}/client/x",
    ],
)
def test_what_is_no_identity_is_refused(uri: str) -> None:
    with pytest.raises(ValueError):
        SpiffeId.parse(uri)


PARTS = ["", "a", "A", "a.b-c_d", "..", "%", "é", "/", ":", "@", "x" * 255]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "form", ["spiffe://{}/client/x", "spiffe://c/client/{}", "spiffe://c/{}/x"]
)
def test_both_languages_read_the_same(form: str, part: str) -> None:
    uri = form.format(part)
    try:
        expected = SpiffeId.parse(uri)
    except ValueError:
        if part == "x" * 255 and "//{}" in form:
            return  # gRPC needs a DNS name of it, and the managers' own connections do not
        with pytest.raises(WarrenError):
            core.parse_identity(uri)
    else:
        told = core.parse_identity(uri)
        assert (told.trust_domain, told.role, told.name) == (
            expected.trust_domain,
            expected.role,
            expected.name,
        )


def test_what_is_wrong_with_a_certificate_is_said(authority: Authority, tmp_path: Path) -> None:
    past, future = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    issue = authority.issue
    name = manager_host_name(TRUST_DOMAIN)
    assert "has expired" in why(issue("worker", NODE, ends=past))
    assert "clock" in why(issue("worker", NODE, begins=future))
    assert "0 URI names" in why(issue("worker", NODE, uris=[]))
    assert "2 URI names" in why(issue("worker", NODE, uris=["spiffe://a/client/x", "https://b"]))
    assert "no node id" in why(issue("worker", "me"))
    assert f"lacks the DNS name {name}" in why(issue("manager", NODE, dns=[]))
    assert "by which managers are known" in why(issue("worker", NODE, dns=[name]))
    lacking = issue("manager", NODE, uses=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert "lacks serverAuth" in why(lacking)
    stranger = Authority(tmp_path / "other").worker(NODE)
    assert "was not issued by a CA" in why(Files(authority.file, stranger.cert, stranger.key))


def test_what_is_wrong_with_a_file_is_said(authority: Authority, tmp_path: Path) -> None:
    good = authority.worker(NODE)
    other = authority.worker(node_id(8))
    missing, text = tmp_path / "missing", tmp_path / "text"
    text.write_text("hello\n")
    assert "cannot read tls_ca" in why(Files(missing, good.cert, good.key))
    assert "tls_ca" in why(Files(text, good.cert, good.key))
    assert "no certificate in PEM form" in why(Files(good.ca, text, good.key))
    assert "no private key" in why(Files(good.ca, good.cert, text))
    assert "no private key" in why(Files(good.ca, good.cert, good.cert))
    assert "is not the key of" in why(Files(good.ca, good.cert, other.key))


def test_what_may_mend_itself_is_tried_again_at_the_start(
    authority: Authority, tmp_path: Path
) -> None:
    def exit_code(files: Files) -> int:
        with pytest.raises(StartupError) as caught:
            credentials_of(files)
        return caught.value.exit_code

    past, future = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    good = authority.worker(node_id(8))
    # The clock is set, an agent renews (one file after the other), a file system is mounted.
    assert exit_code(authority.issue("worker", NODE, begins=future)) == 1
    assert exit_code(authority.issue("worker", NODE, ends=past)) == 1
    assert exit_code(Files(good.ca, tmp_path / "missing", good.key)) == 1
    assert exit_code(Files(good.ca, good.cert, tmp_path)) == 1
    assert exit_code(Files(good.ca, good.cert, authority.worker(NODE).key)) == 1
    # These stay wrong.
    text = tmp_path / "text"
    text.write_text("hello\n")
    assert exit_code(Files(good.ca, text, good.key)) == 2
    stranger = Authority(tmp_path / "other").worker(NODE)
    assert exit_code(Files(good.ca, stranger.cert, stranger.key)) == 2
    assert exit_code(authority.issue("worker", "me")) == 2


def test_new_files_are_taken_and_bad_ones_are_not(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(authority.worker(NODE))
    first = credentials.material()
    assert credentials.material() is first

    authority.worker(NODE)
    second = credentials.material()
    assert second.cert_pem != first.cert_pem
    assert credentials.generation == 1

    for spoil in spoilers(authority):
        spoil(credentials.files)
        assert credentials.material() is second
        assert credentials.generation == 1
    assert "cannot be used" in caplog.text
    assert "is for spiffe://" in caplog.text

    authority.worker(NODE)
    assert credentials.material().cert_pem != second.cert_pem


class Clock:
    """A wall clock and one that only goes on, both as the test says."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.elapsed_s = 0.0

    def credentials(self, files: Files) -> Credentials:
        return Credentials(files, now=lambda: self.now, elapsed_s=lambda: self.elapsed_s)


def test_a_certificate_that_begins_later_is_taken_then(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    soon = clock.now + timedelta(minutes=1)
    credentials = clock.credentials(authority.issue("worker", NODE, ends=soon))
    first = credentials.material()
    caplog.clear()

    authority.issue("worker", NODE, begins=soon)
    for _ in range(5):
        assert credentials.material() is first
        clock.elapsed_s += RETRY_S
    [refusal] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "is valid only from" in refusal.getMessage()

    clock.now = soon + timedelta(seconds=1)
    clock.elapsed_s += RETRY_S
    assert credentials.material().not_after > soon
    assert credentials.generation == 1


def test_a_file_that_keeps_its_times_is_read_again(authority: Authority) -> None:
    clock = Clock()
    files = authority.worker(NODE)
    credentials = clock.credentials(files)
    right, times = files.key.read_bytes(), files.key.stat()

    def put(content: bytes) -> None:
        before = files.key.stat().st_ctime_ns
        files.key.write_bytes(content)
        while files.key.stat().st_ctime_ns == before:  # its clock goes in steps
            os.utime(files.key, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.utime(files.key, ns=(times.st_atime_ns, times.st_mtime_ns))

    put(b"-" * len(right))
    credentials.material()
    assert credentials.generation == 0
    put(right)
    credentials.material()
    assert credentials.generation == 1


def test_who_is_told_of_the_end_is_told_what_is_wrong_with_the_new_one(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    credentials = clock.credentials(authority.worker(NODE))
    credentials.material()
    credentials.files.key.write_text("")
    credentials.material()
    clock.now += timedelta(days=29)
    credentials.material()
    assert "put a new one" in caplog.messages[-1]
    assert "no private key" in caplog.messages[-1]


def spoilers(authority: Authority) -> list[Callable[[Files], object]]:
    def somebody_else(files: Files) -> None:
        other = authority.worker(node_id(9))
        shutil.copy(other.key, files.key)
        shutil.copy(other.cert, files.cert)

    def only_half(files: Files) -> None:
        shutil.copy(authority.worker(node_id(9)).cert, files.cert)
        files.key.write_text("")

    return [somebody_else, only_half, lambda files: files.cert.unlink()]
