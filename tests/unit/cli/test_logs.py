"""`warrenctl service logs`: what is read, how it is printed, and what following outlives."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator

import grpc
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import OTHER_NODE_ID, FakeManager, RefusalError, slot
from warren.cli import logs
from warren.pb.v1 import api_pb2, node_pb2, objects_pb2

RUNNING = objects_pb2.CONTAINER_STATE_RUNNING
BROKEN = RefusalError("", "Socket closed", bare=grpc.StatusCode.UNAVAILABLE)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LIST_PAUSE_S", 0.05)


def create(ctl: Run) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1")
    assert done.code == 0, done.err


def log_line(number: int, text: bytes, **fields: object) -> node_pb2.LogLine:
    line = node_pb2.LogLine(container_id=bytes([number] * 16), line=text)
    line.time_ns = 1_767_225_600_123_456_789
    for name, value in fields.items():
        setattr(line, name, value)
    return line


def test_logs_are_labelled_and_joined(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING), slot(2, RUNNING)]
    manager.log_lines = [
        log_line(1, b"half", partial=True),
        log_line(2, b"between"),
        log_line(1, b" and half"),
        log_line(1, b"to stderr", stderr=True),
        log_line(2, b"never ended", partial=True),
    ]
    done = ctl("service", "logs", "web")
    assert done.out == "web.2 | between\nweb.1 | half and half\nweb.2 | never ended\n"
    assert done.err == "web.1 | to stderr\n"
    (request,) = manager.requests("Logs")
    assert (request.follow, request.tail, request.since_ms) == (False, -1, 0)


def test_logs_with_every_flag(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING)]
    manager.log_lines = [log_line(1, b"x")]
    done = ctl("service", "logs", "web", "--tail=5", "--since=2026-01-01T00:00:00Z", "-t")
    assert done.out == "web.1 | 2026-01-01T00:00:00.123456789Z x\n"
    (request,) = manager.requests("Logs")
    assert (request.tail, request.since_ms) == (5, 1_767_225_600_000)
    done = ctl("service", "logs", "web", "--format=json")
    assert json.loads(done.out) == {
        "service": "web",
        "slot": 1,
        "container_id": "01" * 16,
        "time": "2026-01-01T00:00:00.123456789Z",
        "stream": "stdout",
        "line": "x",
    }


def test_logs_of_nothing(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    assert ctl("service", "logs", "web").out == ""
    assert manager.requests("Logs") == []


def test_logs_on_another_node_are_named(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING, node_id=OTHER_NODE_ID)]
    done = ctl("service", "logs", "web")
    assert "web.1 is on node a" in done.err
    assert manager.requests("Logs") == []


def test_following_reads_new_containers_and_ends_with_the_service(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING)]
    manager.log_lines = [log_line(1, b"old"), log_line(2, b"new")]
    calls = 0
    list_slots = manager.ListSlots

    def changing(request: api_pb2.ListSlotsRequest) -> api_pb2.ListSlotsResponse:
        nonlocal calls
        calls += 1
        if calls == 3:
            manager.slots.append(slot(2, RUNNING))
        # Only once both have been asked for can the service go: nothing may be lost on the way.
        if calls > 3 and len(manager.requests("Logs")) == 2:
            manager.services.clear()
        return list_slots(request)

    monkeypatch.setattr(manager, "ListSlots", changing)
    done = ctl("service", "logs", "-f", "web", "--tail=1")
    assert done.code == 0
    assert done.out.splitlines()[0] == "web.1 | old"
    first, second = manager.requests("Logs")
    assert (first.tail, list(first.container_ids)) == (1, [bytes([1] * 16)])
    assert (second.tail, list(second.container_ids)) == (-1, [bytes([2] * 16)])


def ends_after(
    manager: FakeManager, looks: int, last: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lets the service go once its containers have been looked for so often, and the last line
    has been printed."""
    answer, take = manager.ListSlots, logs._Printer.take
    printed = threading.Event()

    def taking(
        printer: logs._Printer, record: objects_pb2.Container, line: node_pb2.LogLine
    ) -> None:
        take(printer, record, line)
        if line.line == last:
            printed.set()

    def going(request: api_pb2.ListSlotsRequest) -> api_pb2.ListSlotsResponse:
        asked = len(manager.requests("ListSlots"))
        if asked > looks and (not last or printed.is_set() or asked > looks + 400):
            manager.services.clear()
        return answer(request)

    monkeypatch.setattr(logs._Printer, "take", taking)
    monkeypatch.setattr(manager, "ListSlots", going)


def test_following_what_has_no_container_yet(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(ctl)
    ends_after(manager, 40, b"", monkeypatch)
    done = ctl("service", "logs", "-f", "web", "--timeout=1s")
    assert (done.code, done.err) == (0, "")
    assert len(manager.requests("ListSlots")) > 40


@pytest.mark.parametrize("code", ["no_quorum", "no_leader", "unavailable", "worker_only"])
def test_following_goes_on_where_no_manager_answers(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING)]
    manager.log_lines = [log_line(1, b"x")]
    ends_after(manager, 6, b"x", monkeypatch)
    answer = manager.GetDaemon
    refusal = RefusalError(code, "b is missing")

    def listed_once(request: node_pb2.GetDaemonRequest) -> node_pb2.GetDaemonResponse:
        if manager.requests("ListSlots") and "ListSlots" not in manager.refuse:
            manager.refuse["ListSlots"] = deque([refusal] * 3)
        return answer(request)

    monkeypatch.setattr(manager, "GetDaemon", listed_once)
    done = ctl("service", "logs", "-f", "web")
    assert (done.code, done.out) == (0, "web.1 | x\n")
    assert done.err == "b is missing; trying on\n"


def test_following_what_cannot_be_listed_at_all(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.refuse["ListSlots"] = deque([RefusalError("no_quorum", "b is missing")])
    assert ctl("service", "logs", "-f", "web").code == 3


def test_a_stream_that_breaks_goes_on_after_its_last_line(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING), slot(2, RUNNING)]
    last_ns = log_line(1, b"").time_ns
    manager.log_lines = [
        log_line(2, b"a", time_ns=last_ns - 5_000_000),
        log_line(1, b"b"),
        log_line(1, b"c"),
        log_line(1, b"d"),
        log_line(1, b"e", time_ns=last_ns + 1),
        log_line(2, b"f", time_ns=last_ns + 2),
    ]
    read = manager.Logs

    def breaking(request: node_pb2.LogsRequest) -> Iterator[node_pb2.LogsChunk]:
        if len(manager.requests("Logs")) == 1:
            yield node_pb2.LogsChunk(lines=manager.log_lines[:3])
            raise BROKEN
        yield from read(request)

    monkeypatch.setattr(manager, "Logs", breaking)
    ends_after(manager, 0, b"f", monkeypatch)
    done = ctl("service", "logs", "-f", "web", "--tail=9")
    assert done.code == 0
    assert [line[-1] for line in done.out.splitlines()] == ["a", "b", "c", "d", "e", "f"]
    first, second = manager.requests("Logs")
    assert (first.tail, first.since_ms) == (9, 0)
    assert (second.tail, second.since_ms) == (-1, (last_ns - 5_000_000) // 1_000_000)
    assert second.container_ids == first.container_ids


def test_a_log_takes_as_long_as_it_is_read(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING)]

    def slow(_: node_pb2.LogsRequest) -> Iterator[node_pb2.LogsChunk]:
        for _ in range(6):
            manager.hold.wait(0.4)
            yield node_pb2.LogsChunk(lines=[log_line(1, b"x")])

    monkeypatch.setattr(manager, "Logs", slow)
    done = ctl("service", "logs", "web", "--timeout=2s")
    assert (done.code, done.out) == (0, "web.1 | x\n" * 6)


def test_a_log_that_does_not_come(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.slots = [slot(1, RUNNING)]
    manager.hangs = {"Logs"}
    done = ctl("service", "logs", "web", "--timeout=1s", "--format=json")
    assert (done.code, json.loads(done.err)["error"]["code"]) == (3, "no_answer")
