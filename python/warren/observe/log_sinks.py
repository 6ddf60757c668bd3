"""Where log lines go: a descriptor, or journald's own socket. For one thread, which may wait."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

__all__ = ["JOURNAL_SOCKET", "JournalSink", "Sink", "StreamSink", "is_journal"]

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
_SEND_TIMEOUT_S: Final = 1.0


class Sink(Protocol):
    """Takes encoded lines."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Write them, waiting for room; how many could be written."""

    def close(self) -> None:
        """Give back what is held. No lines follow."""


class StreamSink:
    """A descriptor, which stays open: a line each."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, lines: Sequence[bytes]) -> int:
        """All or none."""
        view = memoryview(b"".join(line + b"\n" for line in lines))
        try:
            while view:
                view = view[self._write_some(view) :]
        except OSError:
            return 0
        return len(lines)

    def _write_some(self, view: memoryview) -> int:
        """Write at least a byte; waits for room, also on a descriptor that does not block."""
        while True:
            try:
                return os.write(self._fd, view)
            except BlockingIOError:
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll(1000)

    def close(self) -> None:
        """Nothing is held."""


class JournalSink:
    """journald's native protocol: a datagram each.

    Lines are far below what a datagram holds, so that the protocol's way for large ones, a sealed
    file, is not needed. systemd holds the socket while journald is restarted: then sending waits. A
    line that journald does not take in a second, twice, is lost.
    """

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> int:
        """Each by itself."""
        return sum(self._send(line) or self._send(line) for line in lines)

    def _send(self, line: bytes) -> bool:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(_SEND_TIMEOUT_S)
                self._socket.connect(os.fspath(self._path))
            self._socket.send(line)
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close the connection; the next line opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def is_journal(env: Mapping[str, str], fd: int) -> bool:
    """Whether `fd` is the stream to journald that systemd made for this process.

    A variable that was inherited is not enough: the descriptor may lead elsewhere since. Source:
    systemd.exec(5), JOURNAL_STREAM.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return env.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"
