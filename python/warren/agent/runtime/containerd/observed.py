"""What containerd's three records of an attempt say together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf import timestamp_pb2

from warren.agent.runtime.base import Observed, Phase
from warren.agent.runtime.containerd import labels
from warren.pb.containerd import containers_pb2, task_pb2

_PHASES: Final = {
    task_pb2.CREATED: Phase.CREATED,
    task_pb2.RUNNING: Phase.RUNNING,
    task_pb2.PAUSED: Phase.RUNNING,
    task_pb2.PAUSING: Phase.RUNNING,
    task_pb2.STOPPED: Phase.STOPPED,
}


def observed(
    container_id: str,
    snapshot: Mapping[str, str] | None,
    container: containers_pb2.Container | None,
    process: task_pb2.Process | None,
    *,
    oom_killed: bool,
) -> Observed:
    """The attempt ``id``, of its snapshot's labels, its record and its task, as far as they are.

    Without all three it is a remnant: nothing is started in it, it is deleted and made anew. The
    record's time stands for the start, which containerd does not keep; it is a moment earlier.
    """
    of = container.labels if container is not None else snapshot or {}
    attempt = of.get(labels.LABEL_ATTEMPT, "")
    whole = snapshot is not None and container is not None and process is not None
    phase = _PHASES.get(process.status, Phase.UNKNOWN) if whole and process else Phase.REMNANT
    stopped = phase is Phase.STOPPED and process is not None
    alive = phase in (Phase.CREATED, Phase.RUNNING) and process is not None
    return Observed(
        id=container_id,
        attempt=int(attempt) if attempt.isdecimal() else 0,
        spec_digest=of.get(labels.LABEL_SPEC, ""),
        phase=phase,
        pid=process.pid if alive and process else 0,
        exit_code=process.exit_status if stopped and process else None,
        started_at_ms=milliseconds(container.created_at) if container is not None else 0,
        exited_at_ms=milliseconds(process.exited_at) if stopped and process else 0,
        oom_killed=oom_killed,
    )


def milliseconds(time: timestamp_pb2.Timestamp) -> int:
    """Since the Unix epoch; 0 for a time that was not set (Go's zero time is in the year 1)."""
    return max(0, time.seconds * 1000 + time.nanos // 1_000_000)
