"""Reading what `warren-log` wrote: the last lines, lines since a time, lines as they come.

The format is that of docs/container-logs.md. A container's directory holds ``current.log`` and,
older, ``current.log.1`` and so on, over all its attempts. Files are renamed while they are read;
a file is known by its inode.
"""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import heapq
import itertools
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from warren.pb.v1 import node_pb2

CONTAINERS_MAX: Final = 4096
"""Containers whose logs one call may read."""

_CHUNK_LINES_MAX: Final = 500
_CHUNK_BYTES_MAX: Final = 256 * 1024
_BLOCK_BYTES: Final = 64 * 1024
# The logger ends a line after 16 KiB; what is far longer is no line of its.
_LINE_BYTES_MAX: Final = 1024 * 1024
_POLL_S: Final = 0.2
_NAME: Final = "current.log"


async def read(
    root: Path, container_ids: Sequence[str], *, tail: int, since_ms: int, follow: bool
) -> AsyncIterator[node_pb2.LogsChunk]:
    """The lines of these containers, by time; with ``follow`` also those that come, without end.

    ``tail``: at most so many of each container's last lines to begin with; negative: all. A
    container without a log has no lines (yet). Disks are read in a thread; memory is bounded.
    """
    readers = [_Reader(root / one, bytes.fromhex(one), tail, since_ms) for one in container_ids]
    try:
        while True:
            lines = _merged(readers)
            while chunk := await asyncio.to_thread(_chunk, lines):
                yield node_pb2.LogsChunk(lines=chunk)
            if not follow:
                return
            await asyncio.sleep(_POLL_S)
    finally:
        for reader in readers:
            reader.close()


def forget(root: Path, container_id: str) -> None:
    """Removes a container's logs, of all attempts. Success if there are none."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root / container_id)


def _chunk(lines: Iterator[node_pb2.LogLine]) -> list[node_pb2.LogLine]:
    chunk = []
    size = 0
    for line in itertools.islice(lines, _CHUNK_LINES_MAX):
        chunk.append(line)
        size += len(line.line) + 64
        if size >= _CHUNK_BYTES_MAX:
            break
    return chunk


def _merged(readers: Sequence[_Reader]) -> Iterator[node_pb2.LogLine]:
    """What all of them have now, by time; lines of one container stay in their order."""
    # An iterator per reader, not one list: a head of each is all that is in memory.
    return heapq.merge(*(reader.available() for reader in readers), key=lambda line: line.time_ns)


class _Reader:
    """One container's log, from oldest to newest, across rotations."""

    def __init__(self, directory: Path, container_id: bytes, tail: int, since_ms: int) -> None:
        self._directory = directory
        self._container_id = container_id
        self._tail = tail
        self._since_ns = since_ms * 1_000_000
        self._file: BinaryIO | None = None
        self._next: BinaryIO | None = None
        self._rest = b""
        self._clock = _Clock()

    def close(self) -> None:
        """Closes what is being read."""
        for file in (self._file, self._next):
            if file is not None:
                file.close()
        self._file = self._next = None

    def available(self) -> Iterator[node_pb2.LogLine]:
        """The lines from where it stands to what is the end now."""
        while True:
            block = self._block()
            if block is None:
                return
            *lines, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > _LINE_BYTES_MAX:
                self._rest = b""
            for raw in lines:
                line = self._parsed(raw)
                if line.time_ns >= self._since_ns:
                    yield line

    def _block(self) -> bytes | None:
        """The next bytes, of this file or a newer one; None at the end of the newest."""
        if self._file is None and not self._begin():
            return None
        while True:
            assert self._file is not None
            block = self._file.read(_BLOCK_BYTES)
            if block:
                return block
            if self._next is not None:
                self._file.close()
                self._file, self._next = self._next, None
                # A torn end is a line of its own, not the beginning of the next file's first.
                if self._rest:
                    return b"\n"
                continue
            self._next = self._newer()
            # Once a file is renamed nothing is added to it: what came until then is read first.
            if self._next is None:
                return None

    def _begin(self) -> bool:
        paths = _files(self._directory)
        if not paths:
            # From now on all of it is new.
            self._tail = -1
            return False
        wanted = self._tail
        for path in reversed(paths):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            self.close()
            self._file = file
            if wanted >= 0:
                offset, found = _last_lines(file, wanted)
                file.seek(offset)
                wanted -= found
                if wanted <= 0:
                    break
        return self._file is not None

    def _newer(self) -> BinaryIO | None:
        """The file after the one that is open, opened; None if that is the newest."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno()).st_ino
        for _ in range(8):
            listed = [(path, _inode(path)) for path in _files(self._directory)]
            inodes = [inode for _, inode in listed]
            # Not there any more: everything that is there is newer.
            after = inodes.index(mine) + 1 if mine in inodes else 0
            if after >= len(listed):
                return None
            path, inode = listed[after]
            with contextlib.suppress(FileNotFoundError):
                file = path.open("rb")
                if os.fstat(file.fileno()).st_ino == inode:
                    return file
                # Renamed in between: the name leads to a newer one still.
                file.close()
        return None

    def _parsed(self, raw: bytes) -> node_pb2.LogLine:
        parts = raw.split(b" ", 3)
        time_ns = self._clock.parse(parts[0]) if len(parts) == 4 else None
        if time_ns is None:
            # A line that a crash tore: shown as it is, with the time of the one before it.
            return node_pb2.LogLine(
                container_id=self._container_id, time_ns=self._clock.last_ns, line=raw
            )
        return node_pb2.LogLine(
            container_id=self._container_id,
            time_ns=time_ns,
            stderr=parts[1] != b"stdout",
            line=parts[3],
            partial=parts[2] == b"P",
        )


class _Clock:
    """RFC 3339 times in UTC with up to nine decimals, to nanoseconds since the epoch."""

    def __init__(self) -> None:
        self.last_ns = 0
        self._second = b""
        self._second_ns = 0

    def parse(self, text: bytes) -> int | None:
        """None if it is no such time."""
        second, fraction = text[:19], text[20:-1]
        if text[-1:] != b"Z" or not (fraction.isdigit() or len(text) == 20):
            return None
        # Lines come in their order, many in one second.
        if second != self._second:
            try:
                year, month, day = second[:4], second[5:7], second[8:10]
                clock = (int(second[11:13]), int(second[14:16]), int(second[17:19]))
                since = calendar.timegm((int(year), int(month), int(day), *clock))
            except (ValueError, OverflowError):
                return None
            self._second, self._second_ns = second, since * 1_000_000_000
        self.last_ns = self._second_ns + int(fraction[:9].ljust(9, b"0") or b"0")
        return self.last_ns


def _files(directory: Path) -> list[Path]:
    """A container's log files, oldest first."""
    numbered: deque[tuple[int, str]] = deque()
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        number = name.removeprefix(f"{_NAME}.")
        if name == _NAME:
            numbered.append((0, name))
        elif number != name and number.isdecimal():
            numbered.append((int(number), name))
    return [directory / name for _, name in sorted(numbered, reverse=True)]


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def _last_lines(file: BinaryIO, wanted: int) -> tuple[int, int]:
    """Where the last ``wanted`` lines of a file begin, and how many lines are there, at most."""
    end = file.seek(0, os.SEEK_END)
    position = end
    found = 0
    while position > 0:
        start = max(0, position - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(position - start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            # The newline at the very end closes the last line; each other one opens a line.
            if start + at + 1 == end:
                continue
            found += 1
            if found == wanted:
                return start + at + 1, found
        position = start
    if wanted == 0:
        return end, 0
    return 0, found + (1 if end else 0)
