"""Simulated containers that outlive the daemon, and what tests see of them from outside.

A host's containers are files in a directory, one each, as containerd keeps them in earnest: a
daemon that is killed finds them again. What was started and what ended also goes into a journal,
so that a restart that nobody asked for cannot hide.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any, Final

import msgspec

from warren.agent.runtime.base import ContainerRequest, Observed, Phase, RuntimeRefused
from warren.agent.runtime.simulated import Behaviour, RealClock, SimulatedRuntime
from warren.errors import WarrenError
from warren.pb.v1 import node_pb2, objects_pb2

IMAGE: Final = "docker.io/library/tiny:1"
JOURNAL: Final = "journal"


class Start(msgspec.Struct, frozen=True):
    """One start of an attempt, as the journal has it."""

    at_ms: int
    container_id: str
    attempt: int


class WallClock(RealClock):
    """Time since the Unix epoch: what is reported of containers is compared between processes."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000


class KeptRuntime(SimulatedRuntime):
    """A simulated runtime whose containers are kept in a directory.

    A write is a rename without fsync: what has to survive is the death of the process.
    """

    def __init__(self, folder: Path, behave: Callable[[ContainerRequest], Behaviour]) -> None:
        super().__init__(WallClock(), behave)
        folder.mkdir(parents=True, exist_ok=True)
        self.images = SimulatedImages()
        self._folder = folder
        for observed in containers(folder):
            self.plant(observed)
            self._next_pid = max(self._next_pid, observed.pid)

    async def create(self, request: ContainerRequest) -> int:
        """See `Runtime.create`."""
        pid = await super().create(request)
        self._keep(self._containers[request.id].observed)
        return pid

    async def delete(self, container_id: str, /) -> None:
        """See `Runtime.delete`."""
        await super().delete(container_id)
        (self._folder / f"{container_id}.json").unlink(missing_ok=True)

    def _set(self, container: Any, **changes: object) -> None:
        super()._set(container, **changes)
        observed: Observed = container.observed
        if observed.phase is Phase.RUNNING:
            start = Start(observed.started_at_ms, observed.id, observed.attempt)
            with (self._folder / JOURNAL).open("ab") as journal:
                journal.write(msgspec.json.encode(start) + b"\n")
        self._keep(observed)

    def _keep(self, observed: Observed) -> None:
        draft = self._folder / f"{observed.id}.draft"
        draft.write_bytes(msgspec.json.encode(observed))
        os.replace(draft, self._folder / f"{observed.id}.json")


class SimulatedImages:
    """One image that is on every host."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.assigned: Callable[[], Set[str]] = frozenset

    async def list(self) -> list[objects_pb2.NodeImage]:
        """That image."""
        digest = f"sha256:{'5a' * 32}"
        return [objects_pb2.NodeImage(reference=IMAGE, digest=digest, size_bytes=1 << 20)]

    async def by_need(self) -> list[objects_pb2.NodeImage]:
        """That image."""
        return await self.list()

    async def load(self, pieces: Any, reference: str = "") -> Any:
        """Refused."""
        raise WarrenError("invalid", f"simulated hosts have the image {IMAGE} and no other")
        yield node_pb2.LoadImageProgress()  # makes this an iterator, as its callers expect

    async def remove(self, reference: str, *, force: bool) -> str:
        """Refused."""
        raise WarrenError("invalid", f"simulated hosts always have the image {IMAGE}")


def behave(request: ContainerRequest) -> Behaviour:
    """By command: `exit CODE` ends after a second, `reject` never fits, all else runs on."""
    command = list(request.spec.command)
    if command[:1] == ["exit"]:
        return Behaviour(exit_after_ms=1000, exit_code=int(command[1]))
    if command[:1] == ["reject"]:
        refusal = RuntimeRefused("it is to be rejected; ask for something else", permanent=True)
        return Behaviour(refuse_create=refusal)
    return Behaviour(stop_after_ms=20)


def containers(folder: Path) -> list[Observed]:
    """What is in a host's directory, whether or not its daemon runs."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Observed))
        except FileNotFoundError:
            continue  # it went while it was looked at
    return found


def starts(folder: Path) -> list[Start]:
    """Every start of a host's containers so far."""
    path = folder / JOURNAL
    lines: Iterable[bytes] = path.read_bytes().splitlines() if path.exists() else ()
    return [msgspec.json.decode(line, type=Start) for line in lines]
