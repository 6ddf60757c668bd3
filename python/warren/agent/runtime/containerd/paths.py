"""Whether what a container mounts is on this host. File systems that hang may keep it from knowing.

They are asked by threads of their own: one whose server is away keeps each thread for as long as it
hangs, which may be for ever, and images, logs and cgroups need those that everybody shares.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from warren.agent.runtime.base import RuntimeRefused
from warren.pb.v1 import objects_pb2

THREADS_MAX: Final = 2
TIMEOUT_S: Final = 5.0
_BIND: Final = objects_pb2.MOUNT_TYPE_BIND


class HostPaths:
    """Looks for the sources of bind mounts, `THREADS_MAX` containers' at once."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="host-paths")
        # Asked for and not answered yet; written by those threads, one key each.
        self._asked: dict[object, str] = {}

    async def check(self, mounts: Sequence[objects_pb2.Mount]) -> None:
        """Raises ``RuntimeRefused`` where a source is not there (permanent), or where that cannot
        be known in time because a file system does not answer (not permanent).
        """
        wanted = [(mount.source, mount.target) for mount in mounts if mount.type == _BIND]
        if not wanted:
            return
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._missing, wanted)
        try:
            async with asyncio.timeout(self._timeout_s):
                missing = await looking
        except TimeoutError:
            raise self._unanswered([source for source, _ in wanted]) from None
        if missing is not None:
            source, target = missing
            raise RuntimeRefused(
                f"there is no {source} on this node to mount at {target}; "
                "create it, or correct the mount",
                permanent=True,
            )

    def close(self) -> None:
        """Asks for nothing any more; does not wait for what hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _missing(self, wanted: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
        key = object()
        try:
            for source, target in wanted:
                self._asked[key] = source
                if not os.path.exists(source):
                    return source, target
        finally:
            self._asked.pop(key, None)
        return None

    def _unanswered(self, wanted: Sequence[str]) -> RuntimeRefused:
        hanging = sorted(set(self._asked.copy().values()))
        return RuntimeRefused(
            f"whether {', '.join(wanted)} is there to mount could not be known within "
            f"{self._timeout_s:g} s: the file system of {', '.join(hanging or wanted)} does not "
            "answer on this node; look at what it is mounted from",
            permanent=False,
        )
