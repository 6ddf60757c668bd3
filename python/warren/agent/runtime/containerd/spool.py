"""An uploaded archive on disk: written in pieces, unzipped on the way, without a name.

The file has no name (O_TMPFILE), so that nothing of it is left however the daemon ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from warren.agent.runtime.containerd.archive import invalid
from warren.errors import WarrenError

ARCHIVE_BYTES_MAX: Final = 32 * 1024**3
"""Bound of one archive, unzipped."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_XZ: Final = b"\xfd7zXZ"
_PIECE_BYTES: Final = 1024 * 1024


class Spool:
    """``async with Spool(directory) as spool``; `write` pieces, `finish`, then read `file`."""

    def __init__(self, directory: Path, bytes_max: int = ARCHIVE_BYTES_MAX) -> None:
        self.received_bytes = 0
        self._directory = directory
        self._bytes_max = bytes_max
        self._written_bytes = 0
        self._head: bytes | None = b""
        self._inflate: zlib._Decompress | None = None
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Spool:
        self._file = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    @property
    def file(self) -> BinaryIO:
        """What was written, at position 0 after `finish`."""
        assert self._file is not None
        return self._file

    async def write(self, piece: bytes) -> None:
        """Appends the next bytes of the upload, unzipped if it is gzipped."""
        await asyncio.to_thread(self._write, piece)

    async def finish(self) -> None:
        """Ends the upload. Raises ``WarrenError`` if it is empty or ends too early."""
        await asyncio.to_thread(self._finish)

    def _open(self) -> BinaryIO:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            return os.fdopen(os.open(self._directory, flags, 0o600), "w+b")
        except OSError as error:
            raise self._disk(error) from error

    def _write(self, piece: bytes) -> None:
        self.received_bytes += len(piece)
        if self._head is None:
            self._decoded(piece)
            return
        self._head += piece
        if len(self._head) >= 6:
            self._begin()

    def _begin(self) -> None:
        head, self._head = self._head or b"", None
        if head.startswith((_ZSTD, _XZ)):
            raise invalid("the archive is compressed with zstd or xz; gzip or none is understood")
        if head.startswith(_GZIP):
            self._inflate = zlib.decompressobj(wbits=31)
        self._decoded(head)

    def _decoded(self, piece: bytes) -> None:
        while piece and self._inflate is not None:
            try:
                self._append(self._inflate.decompress(piece, _PIECE_BYTES))
            except zlib.error as error:
                raise invalid(f"the archive's gzip data is damaged ({error})") from error
            piece = self._inflate.unconsumed_tail
            if self._inflate.eof:
                # gzip files may be several, one after the other; zeros may pad the last.
                piece = self._inflate.unused_data.lstrip(b"\0")
                self._inflate = zlib.decompressobj(wbits=31) if piece else self._inflate
                if not piece:
                    return
        if self._inflate is None:
            self._append(piece)

    def _append(self, data: bytes) -> None:
        self._written_bytes += len(data)
        if self._written_bytes > self._bytes_max:
            raise WarrenError(
                "too_large",
                f"the archive is larger than {self._bytes_max:,} bytes unzipped; "
                "load its images one by one",
            )
        try:
            self.file.write(data)
        except OSError as error:
            raise self._disk(error) from error

    def _finish(self) -> None:
        if self._head is not None:
            self._begin()
        if self._inflate is not None:
            self._append(self._inflate.flush())
        if self._inflate is not None and not self._inflate.eof:
            raise invalid("the archive's gzip data is cut short")
        if not self._written_bytes:
            raise invalid("the archive is empty")
        try:
            self.file.flush()
        except OSError as error:
            raise self._disk(error) from error
        self.file.seek(0)

    def _disk(self, error: OSError) -> WarrenError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return WarrenError(
                "no_space",
                f"there is not enough space under {self._directory} to receive the archive; "
                "free some and load it again",
            )
        return WarrenError(
            "data_dir", f"cannot write under {self._directory}: {error.strerror}; check it"
        )
