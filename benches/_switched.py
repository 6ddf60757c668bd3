"""A daemon whose own measuring a bench turns off and on again while it serves.

    python -m benches._switched SOCKET warrend [OPTIONS…]

It is `warrend` as it is, and a thread beside it that obeys what comes over the Unix socket: `off`,
or `on`, each answered by the same word once it is so. The daemon itself has no such switch: this
program sets the core's (`warren._core.measure`), and takes away what counts and times API requests.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from warren import _core, daemon
from warren.observe.catalogue import ApiMethod

OFF, ON = b"off", b"on"
_record = ApiMethod.record


def _nothing(self: ApiMethod, seconds: float, request_id: str, *, ok: bool) -> None:
    """Instead of counting a request."""


def measure(on: bool) -> None:
    """Of this process. What stays is in `benches.instrumentation`'s text."""
    _core.measure(on)
    ApiMethod.record = _record if on else _nothing  # type: ignore[method-assign]


def obey(listener: socket.socket) -> None:
    """Whoever connects, one after the other, for as long as the process lives."""
    while True:
        connection, _ = listener.accept()
        with connection:
            word = connection.recv(16)
            measure(word != OFF)
            connection.sendall(word)


def tell(path: Path, on: bool) -> None:
    """What a bench calls: the daemon that listens there measures itself from now on, or not."""
    word = ON if on else OFF
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(word)
        if connection.recv(16) != word:
            raise RuntimeError("the daemon did not obey")


def main() -> int:
    """Run the daemon until it is told to stop."""
    path, program, *options = sys.argv[1:]
    sys.argv = [program, *options]
    with socket.socket(socket.AF_UNIX) as listener:
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        listener.listen()
        threading.Thread(target=obey, args=(listener,), daemon=True).start()
        return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
