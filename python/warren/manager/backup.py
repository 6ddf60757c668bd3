"""Backups of the cluster: written by the core to a file of this host, and streamed from there.

The file is temporary: it is removed when it has been sent, when nobody wants it any more, and, with
everything else in its directory, when the daemon starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from warren.errors import WarrenError
from warren.manager.identity import Caller
from warren.pb.v1 import api_pb2

__all__ = ["METHOD", "BackupCore", "Backups"]

METHOD: Final = "BackupCluster"
CHUNK_BYTES: Final = 256 * 1024
CORE_TIMEOUT_S: Final = 10.0
"""How long the newest state is waited for; writing it takes as long as it takes."""

_log = logging.getLogger("warren.backup")


class BackupCore(Protocol):
    """What the core does for a backup."""

    async def backup(
        self, identity: str, file: Path, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        """Write one to `file`, durably; its encoded header."""


class Backups:
    """One backup at a time, into `directory`, which exists."""

    def __init__(self, core: BackupCore, directory: Path) -> None:
        self._core = core
        self._directory = directory
        self._busy = False

    async def stream(self, caller: Caller, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """The encoded `BackupClusterChunk`s of a backup; refusals are `WarrenError`."""
        try:
            request = api_pb2.BackupClusterRequest.FromString(body)
        except DecodeError:
            raise WarrenError("invalid", f"the {method} request cannot be decoded") from None
        if self._busy:
            raise WarrenError(
                "overloaded",
                "this manager is giving a backup to somebody already; try again when that is done",
            )
        self._busy = True
        file = self._directory / f"backup-{secrets.token_hex(8)}"
        try:
            await self._write(caller.identity, file, stale=request.stale or caller.stale)
        except asyncio.CancelledError:
            raise  # what is being written is removed when it is there
        except BaseException:
            self._busy = False
            raise
        try:
            async for chunk in self._read(file):
                yield chunk
        except GeneratorExit:
            _log.info("whoever asked for a backup has not taken all of it")
            raise
        finally:
            self._forget(file)

    async def _write(self, identity: str, file: Path, *, stale: bool) -> None:
        work = self._core.backup(identity, file, CORE_TIMEOUT_S, stale=stale)
        writing = asyncio.ensure_future(work)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(lambda done: self._written_for_nobody(done, file))
            raise

    def _written_for_nobody(self, done: asyncio.Future[bytes], file: Path) -> None:
        if not done.cancelled():
            done.exception()
        self._forget(file)

    def _forget(self, file: Path) -> None:
        self._busy = False
        with suppress(FileNotFoundError):
            file.unlink()

    async def _read(self, file: Path) -> AsyncGenerator[bytes, None]:
        opened = await asyncio.to_thread(file.open, "rb")
        try:
            total_bytes = os.fstat(opened.fileno()).st_size
            while data := await asyncio.to_thread(opened.read, CHUNK_BYTES):
                chunk = api_pb2.BackupClusterChunk(data=data, total_bytes=total_bytes)
                yield chunk.SerializeToString()
                total_bytes = 0
        finally:
            opened.close()
