"""What three records say together."""

from __future__ import annotations

import itertools

import pytest
from google.protobuf import timestamp_pb2

from warren.agent.runtime.base import Phase
from warren.agent.runtime.containerd.observed import milliseconds, observed
from warren.pb.containerd import containers_pb2, task_pb2

LABELS = {"warren.attempt": "3", "warren.spec": "cd"}
RECORD = containers_pb2.Container(
    id="a", labels=LABELS, created_at=timestamp_pb2.Timestamp(seconds=10, nanos=5_000_000)
)


def process(status: task_pb2.Status) -> task_pb2.Process:
    return task_pb2.Process(
        id="a",
        pid=77,
        status=status,
        exit_status=9,
        exited_at=timestamp_pb2.Timestamp(seconds=20),
    )


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        (task_pb2.CREATED, Phase.CREATED),
        (task_pb2.RUNNING, Phase.RUNNING),
        (task_pb2.PAUSED, Phase.RUNNING),
        (task_pb2.STOPPED, Phase.STOPPED),
        (task_pb2.UNKNOWN, Phase.UNKNOWN),
    ],
)
def test_with_all_three_the_task_decides(status: task_pb2.Status, phase: Phase) -> None:
    found = observed("a", LABELS, RECORD, process(status), oom_killed=True)
    assert (found.phase, found.attempt, found.spec_digest) == (phase, 3, "cd")
    assert found.started_at_ms == 10_005
    assert found.oom_killed
    stopped = phase is Phase.STOPPED
    assert found.exit_code == (9 if stopped else None)
    assert found.exited_at_ms == (20_000 if stopped else 0)
    assert found.pid == (77 if phase in (Phase.CREATED, Phase.RUNNING) else 0)


def test_anything_less_is_a_remnant() -> None:
    task = process(task_pb2.RUNNING)
    for snapshot, record, one in itertools.product((LABELS, None), (RECORD, None), (task, None)):
        if snapshot and record and one:
            continue
        found = observed("a", snapshot, record, one, oom_killed=False)
        assert found.phase is Phase.REMNANT
        assert (found.pid, found.exit_code, found.exited_at_ms) == (0, None, 0)
        assert found.attempt == (3 if snapshot or record else 0)


def test_a_label_that_is_no_number_is_no_attempt() -> None:
    assert observed("a", {"warren.attempt": "x"}, None, None, oom_killed=False).attempt == 0


def test_a_time_that_was_not_set_is_zero() -> None:
    assert milliseconds(timestamp_pb2.Timestamp()) == 0
    assert milliseconds(timestamp_pb2.Timestamp(seconds=-62135596800)) == 0
