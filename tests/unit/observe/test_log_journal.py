"""journald's native protocol, read by a socket of the test's own."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.observe.test_logging import DEADLINE_S, logging_restored, until
from warren.observe.log_lines import LINE_BYTES_MAX, encode_journal
from warren.observe.log_sinks import is_journal
from warren.observe.logging import LogPipeline, get_logger

WHEN = 1_935_748_801.25


def parsed(entry: bytes) -> dict[str, bytes]:
    """An entry as journald reads it: lines, and values behind their length."""
    fields: dict[str, bytes] = {}
    while entry:
        name, _, entry = entry.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            (length,) = struct.unpack("<Q", entry[:8])
            value, end, entry = (
                entry[8 : 8 + length],
                entry[8 + length : 9 + length],
                entry[9 + length :],
            )
            assert (len(value), end) == (length, b"\n")
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


class Journal:
    """A datagram socket in the place of journald's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.bind(os.fspath(path))

    def entry(self) -> dict[str, bytes]:
        return parsed(self.socket.recv(1 << 20))

    def close(self) -> None:
        self.socket.close()
        self.path.unlink()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "j")
    yield made
    made.socket.close()


@pytest.fixture
def stderr(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "stderr", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def stream_of(fd: int) -> dict[str, str]:
    found = os.fstat(fd)
    return {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}


def test_under_systemd_lines_are_entries(journal: Journal, stderr: int) -> None:
    with logging_restored():
        pipeline = LogPipeline(fd=stderr, env=stream_of(stderr), journal=journal.path)
        pipeline.install()
        fields = {
            "service_id": "s1",
            "lines": "a\nb",
            "message": "forged",
            "_PID": 1,
            "odd-key!": 2,
        }
        get_logger("api").bind(method="Ping").warning("slow %s", "web", extra={"service_id": "s1"})
        pipeline.emit_core("info", "raft", "elected", json.dumps(fields).encode())
        first, second = journal.entry(), journal.entry()
        pipeline.close(DEADLINE_S * 1000)
    assert first.pop("TIME").endswith(b"Z")
    assert (
        first
        == {
            "MESSAGE": b"api: slow web method=Ping service_id=s1",
            "PRIORITY": b"4",
            "SYSLOG_IDENTIFIER": b"warrend",
            "LEVEL": b"warn",
            "COMPONENT": b"api",
            "METHOD": b"Ping",
            "SERVICE_ID": b"s1",
        }
        or first["MESSAGE"] == b"api: slow web method=Ping service_id=s1"
    )
    assert second["MESSAGE"].startswith(b"raft: elected service_id=s1 ")
    assert b"\n" not in second["MESSAGE"]
    assert (second["PRIORITY"], second["LINES"], second["MESSAGE_"]) == (b"6", b"a\nb", b"forged")
    # What begins with an underscore only journald itself may say.
    assert (second["PID"], second["ODD_KEY_"]) == (b"1", b"2")
    assert os.fstat(stderr).st_size == 0


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", b"7"), ("info", b"6"), ("warn", b"4"), ("error", b"3"), ("fatal", b"2")],
)
def test_severities_are_those_of_syslog(level: str, priority: bytes) -> None:
    assert parsed(encode_journal(level, WHEN, "raft", "x", {}))["PRIORITY"] == priority


def test_an_entry_is_bounded_and_says_so() -> None:
    fields = {f"field_{n}": "\U0001f600" * 5000 for n in range(20)}
    entry = encode_journal("info", WHEN, "\0" * 9999, "\0" * 99_999, fields)
    assert len(entry) <= LINE_BYTES_MAX
    read = parsed(entry)
    assert (read["TRUNCATED"], read["TIME"]) == (b"1", b"2031-05-05T12:00:01.250000Z")
    assert "TRUNCATED" not in parsed(encode_journal("info", WHEN, "raft", "x", {"a": "b"}))


def test_a_variable_that_was_inherited_is_not_believed(stderr: int) -> None:
    env = stream_of(stderr)
    reader, writer = os.pipe()
    try:
        assert is_journal(env, stderr)
        assert not is_journal(env, writer)
        assert not is_journal({}, stderr)
        assert not is_journal({"JOURNAL_STREAM": "x"}, stderr)
        with logging_restored():
            pipeline = LogPipeline(fd=writer, env=env)
            pipeline.emit_core("info", "raft", "elected", b"")
            pipeline.close(DEADLINE_S * 1000)
        assert json.loads(os.read(reader, 4096))["message"] == "elected"
    finally:
        os.close(reader)
        os.close(writer)


def test_who_asks_for_json_gets_it(journal: Journal, stderr: int) -> None:
    pipeline = LogPipeline(fd=stderr, env=stream_of(stderr), journal=journal.path, console=False)
    pipeline.emit_core("info", "raft", "elected", b"")
    pipeline.close(DEADLINE_S * 1000)
    assert json.loads(os.pread(stderr, 4096, 0))["message"] == "elected"


def test_a_journal_that_comes_again_is_found(journal: Journal, stderr: int, tmp_path: Path) -> None:
    pipeline = LogPipeline(fd=stderr, env=stream_of(stderr), journal=journal.path)
    pipeline.emit_core("info", "raft", "one", b"")
    assert journal.entry()["MESSAGE"] == b"raft: one"
    journal.close()
    pipeline.emit_core("info", "raft", "lost", b"")
    until(lambda: pipeline.dropped == 1)
    again = Journal(tmp_path / "j")
    pipeline.emit_core("info", "raft", "two", b"")
    assert again.entry()["DROPPED"] == b"1"
    assert again.entry()["MESSAGE"] == b"raft: two"
    pipeline.close(DEADLINE_S * 1000)
    again.socket.close()
