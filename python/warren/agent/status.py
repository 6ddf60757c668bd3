"""Between what the worker remembers of a container and the schema's words for it."""

from __future__ import annotations

from hashlib import sha256

from warren.agent.converge import Assigned, Memory
from warren.agent.runtime.base import Observed, Phase
from warren.pb.v1 import commands_pb2, objects_pb2, session_pb2

__all__ = ["assigned", "observed_item", "remembered", "set_hash_term", "status_item"]

_STATE_OF_PHASE = {
    Phase.REMNANT: objects_pb2.CONTAINER_STATE_PREPARING,
    Phase.CREATED: objects_pb2.CONTAINER_STATE_PREPARING,
    Phase.RUNNING: objects_pb2.CONTAINER_STATE_RUNNING,
    # Until the restart policy has spoken it is not terminal: the worker says so itself.
    Phase.STOPPED: objects_pb2.CONTAINER_STATE_RUNNING,
    Phase.UNKNOWN: objects_pb2.CONTAINER_STATE_PREPARING,
}


def assigned(
    assignment: session_pb2.Assignment, spec: objects_pb2.ContainerSpec | None
) -> Assigned | None:
    """What `converge` needs of an assignment; None where it needs the spec and there is none."""
    if spec is None:
        if assignment.desired == objects_pb2.DESIRED_STATE_RUN:
            return None
        spec = objects_pb2.ContainerSpec()
    return Assigned(
        id=assignment.container_id.hex(),
        desired=assignment.desired,
        restart=spec.restart or objects_pb2.RESTART_CONDITION_ANY,
        restart_max_attempts=spec.restart_max_attempts,
        stop_timeout_ms=spec.stop_timeout_ms or 10_000,
        known=remembered(assignment.status) if assignment.HasField("status") else None,
        stop_after_ms=spec.partition_stop_after_ms,
    )


def remembered(known: objects_pb2.ContainerStatus) -> Memory:
    """A status as it crossed the wire; how often the container failed before is not in it."""
    return Memory(
        attempt=known.attempt,
        state=known.state,
        message=known.message,
        exit_code=known.exit_code if known.exited else None,
        oom_killed=known.oom_killed,
        pid=known.pid,
        started_at_ms=known.started_at_ms,
        finished_at_ms=known.finished_at_ms,
        retry_at_ms=known.retry_at_ms,
        removed=known.removed,
    )


def status_item(container_id: str, memory: Memory) -> commands_pb2.StatusItem:
    """A remembered status as it crosses the wire.

    Only managers call a container lost. A host that has heard it says what it did about it: without
    that, a container that was replaced while its host was away would never be known to be gone.
    """
    lost = memory.state == objects_pb2.CONTAINER_STATE_LOST
    state = objects_pb2.CONTAINER_STATE_SHUTDOWN if lost else memory.state
    status = objects_pb2.ContainerStatus(
        attempt=memory.attempt,
        state=objects_pb2.ContainerState.Name(state),
        message=memory.message,
        exit_code=memory.exit_code or 0,
        exited=memory.exit_code is not None,
        oom_killed=memory.oom_killed,
        pid=memory.pid,
        started_at_ms=memory.started_at_ms,
        finished_at_ms=memory.finished_at_ms,
        retry_at_ms=memory.retry_at_ms,
        removed=memory.removed,
    )
    return commands_pb2.StatusItem(container_id=bytes.fromhex(container_id), status=status)


def observed_item(observed: Observed) -> commands_pb2.StatusItem:
    """Something on this host of which nothing is remembered, for the hello."""
    state = _STATE_OF_PHASE[observed.phase]
    memory = Memory(
        attempt=max(observed.attempt, 1),
        state=state,
        pid=observed.pid,
        started_at_ms=observed.started_at_ms,
        oom_killed=observed.oom_killed,
    )
    return status_item(observed.id, memory)


def set_hash_term(assignment: session_pb2.Assignment) -> int:
    """One assignment's part of `Assignments.set_hash`, as session.proto defines it."""
    named = assignment.container_id + assignment.spec_digest + bytes([assignment.desired])
    return int.from_bytes(sha256(named).digest()[:8], "little")
