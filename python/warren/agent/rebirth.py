"""A cluster that begins anew on this host: out of a backup that is uploaded, or out of this
manager's own log when the others are lost.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from warren.errors import WarrenError
from warren.pb.v1 import node_pb2

__all__ = ["Rebirth", "Recover", "Restore"]

PIECE_TIMEOUT_S: Final = 300.0
"""Between two pieces of an upload."""

Restore = Callable[[Path, int], Awaitable[node_pb2.RestoreClusterResponse]]
"""Makes a cluster of the backup in a file; the new epoch is at least the number."""

Recover = Callable[[node_pb2.RecoverQuorumRequest], Awaitable[node_pb2.RecoverQuorumResponse]]
"""Makes this manager the only one, or says what that would mean."""


Answer = TypeVar("Answer")


class Rebirth:
    """One at a time, each to its end once an upload is complete: half of it would leave a core that
    is reborn on a host that is not. `directory` is for uploads, and is emptied when the daemon
    starts.
    """

    def __init__(self, directory: Path, restore: Restore, recover: Recover) -> None:
        self._directory = directory
        self._restore = restore
        self._recover = recover
        self._busy = False
        self._under_way: asyncio.Task[object] | None = None

    async def restore(
        self, requests: AsyncIterator[node_pb2.RestoreClusterRequest]
    ) -> node_pb2.RestoreClusterResponse:
        """Take the upload in, and begin anew from it. WarrenError where that cannot be."""
        self._begin()
        file = self._directory / f"restore-{secrets.token_hex(8)}"
        try:
            epoch_min = await _receive(requests, file)
        except BaseException:
            self._end(file)
            raise
        return await self._whole(self._restore(file, epoch_min), file)

    async def recover(
        self, request: node_pb2.RecoverQuorumRequest
    ) -> node_pb2.RecoverQuorumResponse:
        """Go on alone, or say what that would mean. WarrenError where that should not be."""
        self._begin()
        return await self._whole(self._recover(request))

    def _begin(self) -> None:
        if self._busy:
            raise WarrenError(
                "overloaded", "a restore or recovery is under way here; look again when it is done"
            )
        self._busy = True

    async def _whole(self, steps: Awaitable[Answer], file: Path | None = None) -> Answer:
        """What they answer. Who asked may go; they are done to the end."""

        async def whole() -> Answer:
            try:
                return await steps
            finally:
                self._end(file)

        task = asyncio.create_task(whole())
        self._under_way = task  # the loop itself would not keep it
        return await asyncio.shield(task)

    def _end(self, file: Path | None) -> None:
        self._busy = False
        if file is not None:
            file.unlink(missing_ok=True)


async def _receive(requests: AsyncIterator[node_pb2.RestoreClusterRequest], file: Path) -> int:
    """Write what comes to `file`; the smallest epoch that was asked for."""
    epoch_min = 0
    out = await asyncio.to_thread(file.open, "xb")
    try:
        while (request := await _next(requests)) is not None:
            epoch_min = max(epoch_min, request.epoch_min)
            await asyncio.to_thread(out.write, request.data)
    finally:
        await asyncio.to_thread(out.close)
    return epoch_min


async def _next(
    requests: AsyncIterator[node_pb2.RestoreClusterRequest],
) -> node_pb2.RestoreClusterRequest | None:
    try:
        async with asyncio.timeout(PIECE_TIMEOUT_S):
            return await anext(requests, None)
    except TimeoutError:
        raise WarrenError(
            "backup_unusable",
            f"nothing of the backup arrived for {PIECE_TIMEOUT_S:.0f} s; restore it again",
        ) from None
