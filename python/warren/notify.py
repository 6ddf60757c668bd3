"""Telling systemd how the daemon is: sd_notify(3), the datagram protocol behind it.

Without `NOTIFY_SOCKET` every call does nothing. A message that cannot be sent is dropped: the
service manager decides by its own timeouts what silence means.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

__all__ = ["Notifier", "watchdog_interval_s"]


class Notifier:
    """Sends states to the service manager's socket; `close` it at the end."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        self._address = env.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # a name in the abstract namespace
            self._address = "\0" + self._address[1:]
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ready(self, status: str) -> None:
        """Start-up is complete."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(status)}")

    def watchdog(self) -> None:
        """The event loop is alive."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1\nSTATUS=stopping; containers keep running")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            return


def watchdog_interval_s(env: Mapping[str, str], pid: int) -> float | None:
    """How often to call `watchdog`: half of what systemd waits (WATCHDOG_USEC); None: never."""
    usec = env.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0:
        return None
    if env.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 2_000_000


def _line(text: str) -> str:
    return text.replace("\n", " ")
