"""One container on one simulated host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from warren.pb.v1 import commands_pb2, objects_pb2

__all__ = ["Held", "backoff_s"]

BACKOFF_MAX_S: Final = 60.0


def backoff_s(failures: int) -> float:
    """How long a container that failed so often in a row waits: 1 s, doubled to 60 s."""
    return min(2.0 ** (max(failures, 1) - 1), BACKOFF_MAX_S)


@dataclass
class Held:
    """Invariant: (attempt, state) only grows, as the schema asks."""

    id: bytes
    service: bytes
    slot: int
    desired: int
    attempt: int = 1
    state: int = objects_pb2.CONTAINER_STATE_ASSIGNED
    failures: int = 0
    removed: bool = False
    #: Raised with each step that is planned: one that was planned before is void.
    step: int = field(default=0, repr=False)

    @property
    def runs(self) -> bool:
        """It is up."""
        return bool(self.state == objects_pb2.CONTAINER_STATE_RUNNING)

    @property
    def wanted(self) -> bool:
        """It is meant to be up."""
        return bool(self.desired == objects_pb2.DESIRED_STATE_RUN)

    def next_attempt(self) -> None:
        """It ended although it is wanted, and waits to be started again."""
        self.attempt += 1
        self.failures += 1
        self.state = objects_pb2.CONTAINER_STATE_PENDING

    def end(self) -> None:
        """It was stopped because it is not wanted any more."""
        self.state = objects_pb2.CONTAINER_STATE_SHUTDOWN
        self.removed = self.desired == objects_pb2.DESIRED_STATE_REMOVE

    def item(self) -> commands_pb2.StatusItem:
        """What the manager is told of it."""
        status = objects_pb2.ContainerStatus(
            attempt=self.attempt,
            state=objects_pb2.ContainerState.Name(self.state),
            removed=self.removed,
        )
        return commands_pb2.StatusItem(container_id=self.id, status=status)
