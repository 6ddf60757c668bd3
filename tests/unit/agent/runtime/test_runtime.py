"""What the containerd runtime decides without containerd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf import any_pb2, timestamp_pb2
from google.protobuf.message import Message

from warren.agent.runtime.base import Exited, Oom, RuntimeEvent, RuntimeUnavailable
from warren.agent.runtime.containerd.runtime import ContainerdRuntime, warren_log_path
from warren.pb.containerd import events_pb2, task_events_pb2

CONTAINER = "0a" * 16


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ContainerdRuntime]:
    """Of a containerd that is not there."""
    made = ContainerdRuntime(
        address=str(tmp_path / "none.sock"), namespace="n", node_id="0b" * 16, spool_dir=tmp_path
    )
    yield made
    await made.close()


def translated(runtime: ContainerdRuntime, name: str, event: Message) -> RuntimeEvent | None:
    """As containerd wraps it: its type URL has no slash."""
    wrapped = any_pb2.Any(type_url=f"containerd.events.{name}", value=event.SerializeToString())
    return runtime._translate(events_pb2.Envelope(event=wrapped))


def exit_of(pid: int, process: str = CONTAINER) -> task_events_pb2.TaskExit:
    return task_events_pb2.TaskExit(
        container_id=CONTAINER,
        id=process,
        pid=pid,
        exit_status=3,
        exited_at=timestamp_pb2.Timestamp(seconds=7),
    )


async def test_an_exit(runtime: ContainerdRuntime) -> None:
    expected = Exited(CONTAINER, 3, 7000, False, pid=10)
    assert translated(runtime, "TaskExit", exit_of(10)) == expected
    runtime._pids[CONTAINER] = 10
    assert translated(runtime, "TaskExit", exit_of(10)) == expected


async def test_the_exit_of_an_earlier_attempt_is_not_this_one_s(runtime: ContainerdRuntime) -> None:
    runtime._pids[CONTAINER] = 11
    assert translated(runtime, "TaskExit", exit_of(10)) is None


async def test_the_exit_of_another_process_in_the_container_is_none(
    runtime: ContainerdRuntime,
) -> None:
    assert translated(runtime, "TaskExit", exit_of(10, process="exec-1")) is None


async def test_an_exit_after_a_kill_for_memory_says_so(runtime: ContainerdRuntime) -> None:
    oom = task_events_pb2.TaskOOM(container_id=CONTAINER)
    assert translated(runtime, "TaskOOM", oom) == Oom(CONTAINER)
    assert translated(runtime, "TaskExit", exit_of(10)) == Exited(CONTAINER, 3, 7000, True, pid=10)


async def test_other_events_are_passed_over(runtime: ContainerdRuntime) -> None:
    assert translated(runtime, "TaskStart", exit_of(10)) is None


async def test_a_containerd_that_is_not_there_is_a_sentence(runtime: ContainerdRuntime) -> None:
    for call in (runtime.version(), runtime.list(), runtime.stop("a", 0), runtime.delete("a")):
        with pytest.raises(RuntimeUnavailable, match=r"none\.sock cannot be reached"):
            await call


async def test_closing_is_idempotent(runtime: ContainerdRuntime) -> None:
    await runtime.open()
    await runtime.open()
    await runtime.close()
    await runtime.close()


def test_where_the_logger_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_LOG_BINARY", "/elsewhere/warren-log")
    assert warren_log_path() == Path("/elsewhere/warren-log")
    monkeypatch.delenv("WARREN_LOG_BINARY")
    assert warren_log_path().parts[-2:] == ("bin", "warren-log")
