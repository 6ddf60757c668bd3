"""The interface between the worker and what runs containers.

A runtime knows *attempts*: a container id names what Warren scheduled, an attempt is one run
of it. At most one attempt of a container exists on a host at a time; ``delete`` of the old one
comes before ``create`` of the next.

Every operation is idempotent and may be repeated after any failure, also by another process:
what exists is found by label, never by memory. Cancelling a call does not undo it; ``delete``
does, whatever was reached.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from warren.pb.v1 import objects_pb2


class RuntimeUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault
    """The runtime does not answer. Nothing is known about the call: retry when it is back."""


class RuntimeRefused(Exception):  # noqa: N818 - an answer
    """The runtime answered and will not do it.

    ``message`` is a sentence for people: what is wrong and what to do. ``permanent`` says that
    the same request can never succeed on this host (the node rejects the container); otherwise
    another attempt may (it counts as a failed attempt).
    """

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.message = message
        self.permanent = permanent


class DevicePath(NamedTuple):
    """A device node: its path on the host, and in the container."""

    host: str
    target: str


class ContainerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to create one attempt of a container.

    ``id``: 32 lowercase hex digits. ``attempt``: from 1. ``spec_digest``: hex, may be empty.
    ``log_dir``: where the logger keeps this container's files, of all attempts; absolute.
    ``device_paths`` and ``device_env``: what comes with the devices that the container holds.
    """

    id: str
    attempt: int
    service_id: str
    service_name: str
    slot: int
    spec_digest: str
    spec: objects_pb2.ContainerSpec
    log_dir: Path
    node_name: str
    device_paths: tuple[DevicePath, ...] = ()
    device_env: tuple[str, ...] = ()


class Phase(enum.Enum):
    """How far an attempt has come, as the runtime sees it."""

    REMNANT = "remnant"
    """A snapshot or a container record, but no task: a create or a delete was cut short."""
    CREATED = "created"
    """The task is made, its process is not started."""
    RUNNING = "running"
    STOPPED = "stopped"
    """The process has ended; the exit code is kept until ``delete``."""
    UNKNOWN = "unknown"
    """It exists and the runtime cannot say more, now: list again later."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of ours that is on this host.

    ``attempt`` is 0 and ``spec_digest`` empty where a remnant no longer tells. ``pid`` is 0
    unless created or running. Times are milliseconds since the Unix epoch, 0 where unknown.
    ``exit_code`` is 0 to 255 (128 + n: killed by signal n), None unless stopped.
    ``oom_killed``: the kernel killed a process of it for memory, as far as this host remembers.
    """

    id: str
    attempt: int
    spec_digest: str
    phase: Phase
    pid: int = 0
    exit_code: int | None = None
    started_at_ms: int = 0
    exited_at_ms: int = 0
    oom_killed: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt of a container uses.

    ``cpu_ns``: CPU time in nanoseconds since the attempt began. ``memory_bytes``: everything that
    is charged to it; ``working_set_bytes``: that without page cache which the kernel may drop at
    once. ``pids``: its processes and threads. ``read_bytes`` and ``written_bytes``: on block
    devices since the attempt began; None where the kernel does not count them.
    """

    cpu_ns: int
    memory_bytes: int
    working_set_bytes: int
    pids: int
    read_bytes: int | None = None
    written_bytes: int | None = None


class Exited(msgspec.Struct, frozen=True):
    """The process ``pid`` of container ``id`` ended; 0 where the runtime does not say which."""

    id: str
    exit_code: int
    at_ms: int
    oom_killed: bool
    pid: int = 0


class Oom(msgspec.Struct, frozen=True):
    """The kernel killed a process of container ``id``; the container itself may go on."""

    id: str


class Lost(msgspec.Struct, frozen=True):
    """The runtime went away; containers go on without it, events are missed meanwhile."""


class Back(msgspec.Struct, frozen=True):
    """The runtime answers, at first or again: list, then trust events once more."""


RuntimeEvent = Exited | Oom | Lost | Back


class Runtime(Protocol):
    """What runs containers on this host.

    Every method but ``events`` raises ``RuntimeUnavailable`` when the runtime does not answer
    in time, and is bounded in time by itself. The caller bounds how many run at once.
    """

    async def open(self) -> None:
        """Prepares the connection and starts to follow events; does not wait for an answer."""

    async def close(self) -> None:
        """Ends the connection; containers go on running. Idempotent."""

    async def version(self) -> str:
        """The runtime's version, as it says it, without a leading ``v``."""

    async def list(self) -> list[Observed]:
        """Everything on this host that is this node's, also half-made, sorted by id."""

    async def usage(self) -> dict[str, Usage]:
        """What each container of this node uses now, by id.

        What has no process (any more), or vanished meanwhile, may be missing. Calls at the same
        time share one answer.
        """

    async def create(self, request: ContainerRequest) -> int:
        """Makes the attempt ready to start, and returns the pid that it will have.

        Raises ``RuntimeRefused`` and leaves nothing behind where it cannot be made. If the
        attempt exists already it is left as it is; a remnant or another attempt of the same
        container must be deleted first (``RuntimeRefused``, not permanent).
        """

    async def start(self, container_id: str, /) -> int:
        """Starts the created attempt and returns its pid; of a running one, the pid it has.

        Raises ``RuntimeRefused`` where the process cannot be started, or was before and ended.
        """

    async def stop(self, container_id: str, timeout_ms: int, /) -> None:
        """Sends SIGTERM, waits up to ``timeout_ms``, sends SIGKILL, and waits for the end.

        What is not running (or not there) is left as it is.
        """

    async def delete(self, container_id: str, /) -> None:
        """Removes every trace of it, killing what runs. Success if there is nothing."""

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """What happens from now on. One reader; ``Lost`` and ``Back`` alternate. One that follows
        another reader is first given ``Back`` if the runtime is there.

        The queue is bounded: where a reader falls behind, events are dropped and it is given
        ``Lost`` and ``Back`` instead, so that it lists again.
        """
