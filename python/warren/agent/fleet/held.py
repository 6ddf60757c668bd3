"""One container on one simulated host."""

from __future__ import annotations

from dataclasses import dataclass, field

from warren.agent.converge import STEADY_MS, backoff_ms
from warren.agent.runtime import model
from warren.agent.runtime.base import Usage
from warren.pb.v1 import commands_pb2, objects_pb2

__all__ = ["Held"]


@dataclass
class Held:
    """Invariant: (attempt, state) only grows, as the schema asks."""

    id: bytes
    service: bytes
    slot: int
    desired: int
    attempt: int = 1
    state: int = objects_pb2.CONTAINER_STATE_ASSIGNED
    #: Ends in a row, since it last ran for a good while.
    failures: int = 0
    #: When it came up last, on the clock of whoever calls.
    up_at_s: float = 0.0
    removed: bool = False
    #: What it reserves: thousandths of a CPU, and bytes.
    cpu_milli: int = 0
    memory_bytes: int = 0
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

    def up(self, now_s: float) -> None:
        """It has started."""
        self.state = objects_pb2.CONTAINER_STATE_RUNNING
        self.up_at_s = now_s

    def failed(self, now_s: float) -> float:
        """It ended by itself: for how many seconds it waits before it is started again.

        As a real worker has it: 1 s, doubled with each end in a row up to a minute; a minute of
        running begins anew.
        """
        steady = self.runs and (now_s - self.up_at_s) * 1000 >= STEADY_MS
        self.failures = 1 if steady else self.failures + 1
        self.next_attempt()
        return backoff_ms(self.failures) / 1000

    def next_attempt(self) -> None:
        """It ended although it is wanted, and waits to be started again."""
        self.attempt += 1
        self.state = objects_pb2.CONTAINER_STATE_PENDING

    def end(self) -> None:
        """It was stopped because it is not wanted any more."""
        self.state = objects_pb2.CONTAINER_STATE_SHUTDOWN
        self.removed = self.desired == objects_pb2.DESIRED_STATE_REMOVE

    def uses(self, now_s: float) -> Usage | None:
        """As `model.used` has it; None while it does not run."""
        if not self.runs:
            return None
        running_ms = int((now_s - self.up_at_s) * 1000)
        return model.used(self.id.hex(), self.cpu_milli, self.memory_bytes, running_ms)

    def item(self) -> commands_pb2.StatusItem:
        """What the manager is told of it."""
        status = objects_pb2.ContainerStatus(
            attempt=self.attempt,
            state=objects_pb2.ContainerState.Name(self.state),
            removed=self.removed,
        )
        return commands_pb2.StatusItem(container_id=self.id, status=status)
