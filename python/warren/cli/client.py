"""The connection to a daemon: why it cannot be reached, and what is tried again when it breaks."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from warren.errors import WarrenError

# gRPC's own words about a lost connection would stand between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from warren import rpc
from warren.pb.v1 import commands_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from warren.cli.common import Settings

__all__ = ["Client", "Deadline", "socket_path"]

CALL_TIMEOUT_S: Final = 60.0
"""How long a command goes on trying where `--timeout` says nothing."""

_ATTEMPT_TIMEOUT_S: Final = 15.0
_PROBE_TIMEOUT_S: Final = 5.0
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_LAST_S: Final = 1.0
# Silence for longer than this makes people wonder.
_QUIET_S: Final = 2.0

_RETRIED: Final = frozenset(
    {
        "unavailable",
        "no_leader",
        "not_leader",
        "no_quorum",
        "handing_over",
        "overloaded",
        "shutting_down",
        "outcome_unknown",
    }
)


class Deadline:
    """A point in time of the monotonic clock."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds left; 0 once it has passed."""
        return max(0.0, self._end_s - time.monotonic())


def socket_path(host: str) -> str:
    """The path in `unix:///path`. Raises WarrenError `invalid` for any other address."""
    path = host.removeprefix("unix://")
    if path == host or not path.startswith("/"):
        raise WarrenError("invalid", f"cannot use host '{host}'; write unix:///path/of/warren.sock")
    return path


def _probe(path: str) -> None:
    # gRPC says "unavailable" of a socket that is missing and of one that is forbidden alike.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except PermissionError:
            raise WarrenError(
                "denied",
                f"permission denied on {path}; add yourself to group warren "
                "(sudo usermod -aG warren $USER) and log in again",
            ) from None
        except OSError as error:
            raise WarrenError(
                "unavailable",
                f"no daemon at {path} ({error.strerror or error}); is warrend running? "
                "systemctl status warrend",
            ) from None


class Client:
    """Calls to one daemon. Every call ends by the deadline.

    Raises WarrenError: `unavailable` or `denied` on construction, a refusal's own code later.
    """

    def __init__(self, settings: Settings, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self.settings = settings
        self.deadline = Deadline(settings.timeout_s(timeout_s))
        path = socket_path(settings.host)
        _probe(path)
        self._channel = grpc.insecure_channel(f"unix:{path}", options=rpc.CLIENT_OPTIONS)
        self._manager = rpc.Stub(self._channel, rpc.MANAGER)
        self._node = rpc.Stub(self._channel, rpc.NODE_LOCAL)
        self._name = os.urandom(16)
        self._sequence = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def request_id(self) -> commands_pb2.RequestId:
        """A new one. Sent again with the same request, it has no second effect."""
        self._sequence += 1
        return commands_pb2.RequestId(client=self._name, sequence=self._sequence)

    def call(self, method: str, request: Message, *, retry: bool = True) -> Any:
        """One call of the manager or the node service.

        Repeated while the daemon is out of reach, busy or in doubt: the request must be a read or
        carry a request id; otherwise `retry` is False.
        """
        size_bytes = request.ByteSize()
        if size_bytes > rpc.MESSAGE_LIMIT_BYTES:
            raise rpc.too_large("the request", size_bytes)
        started_s = time.monotonic()
        pause_s = _BACKOFF_FIRST_S
        said = False
        while True:
            try:
                timeout_s = min(_ATTEMPT_TIMEOUT_S, self.deadline.remaining_s())
                return self._bound(method)(request, timeout=timeout_s)
            except grpc.RpcError as error:
                why = rpc.failure(error)
            if not retry or why.code not in _RETRIED or self.deadline.remaining_s() <= pause_s:
                raise why
            if not said and time.monotonic() - started_s > _QUIET_S:
                said = True
                self._say(f"{why.message}; trying for {self.deadline.remaining_s():.0f} s more")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_LAST_S)

    def stream(
        self, method: str, request: Message | Iterator[Message], timeout_s: float | None
    ) -> Iterator[Any]:
        """The answers of a streaming call; cancelled when the iterator is closed."""
        call = self._bound(method)(request, timeout=timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise rpc.failure(error) from None
        finally:
            call.cancel()

    def _bound(self, method: str) -> Any:
        stub = self._manager if method in rpc.MANAGER else self._node
        return getattr(stub, method)

    def _say(self, text: str) -> None:
        if self.settings.format == "table":
            print(text, file=sys.stderr, flush=True)
