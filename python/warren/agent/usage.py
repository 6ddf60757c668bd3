"""What this host's containers use together, measured now and then for the next heartbeat.

Nobody waits for a measurement: a heartbeat takes the newest there is, or goes without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from warren.agent.runtime.base import Runtime, RuntimeUnavailable, Usage
from warren.pb.v1 import objects_pb2

__all__ = ["INTERVAL_S", "Measured", "Meter", "total"]

#: Between two measurements, however short the interval of the heartbeats is.
INTERVAL_S: Final = 5.0
_log = logging.getLogger("warren.session")


class Measured(msgspec.Struct, frozen=True):
    """One measurement. `at_ns`: on a clock that never goes back."""

    at_ns: int
    containers: Mapping[str, Usage]


class Meter:
    """`run` until cancelled; `take` what it has measured.

    `folder`: what is used of its file system counts as the node's disk.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        *,
        interval_s: float = INTERVAL_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._runtime = runtime
        self._folder = folder
        self._interval_s = interval_s
        self._clock_ns = clock_ns
        self._before: Measured | None = None
        self._newest: objects_pb2.NodeUsage | None = None
        self._failing = False

    async def run(self) -> None:
        """Measure again and again."""
        while True:
            await self.measure()
            await asyncio.sleep(self._interval_s)

    async def measure(self) -> None:
        """Once. The first time tells nothing yet: CPU is what was used in between."""
        try:
            containers = await self._runtime.usage()
            disk = await asyncio.to_thread(_disk_used, self._folder)
        except (RuntimeUnavailable, OSError) as error:
            level = logging.DEBUG if self._failing else logging.WARNING
            _log.log(level, "cannot measure what containers use: %s", error)
            self._failing, self._before = True, None
            return
        self._failing = False
        now = Measured(self._clock_ns(), containers)
        if self._before is not None:
            self._newest = total(self._before, now)
            self._newest.disk_bytes = disk
        self._before = now

    @property
    def measured(self) -> Mapping[str, Usage]:
        """What each container used when measured last, by id; empty where that failed."""
        return self._before.containers if self._before is not None else {}

    def take(self) -> objects_pb2.NodeUsage | None:
        """What was measured since this was asked last, with its age; None: nothing."""
        usage, self._newest = self._newest, None
        if usage is not None and self._before is not None:
            usage.age_ms = max(0, self._clock_ns() - self._before.at_ns) // 1_000_000
        return usage


def total(before: Measured, now: Measured) -> objects_pb2.NodeUsage:
    """All containers together. CPU: of those that both measurements have, on average in between."""
    cpu_ns = 0
    for container_id, usage in now.containers.items():
        if (earlier := before.containers.get(container_id)) is not None:
            spent_ns = usage.cpu_ns - earlier.cpu_ns
            # Less than before: another attempt, which began in between.
            cpu_ns += spent_ns if spent_ns >= 0 else usage.cpu_ns
    between_ns = max(now.at_ns - before.at_ns, 1)
    return objects_pb2.NodeUsage(
        cpu_milli=cpu_ns * 1000 // between_ns,
        memory_bytes=sum(usage.working_set_bytes for usage in now.containers.values()),
        pids=sum(usage.pids for usage in now.containers.values()),
    )


def _disk_used(folder: Path) -> int:
    of = os.statvfs(folder)
    return (of.f_blocks - of.f_bfree) * of.f_frsize
