"""The connection to containerd: its namespace, deadlines, reconnects, and what failures mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import Message

from warren.agent.runtime.base import RuntimeUnavailable
from warren.agent.runtime.containerd.api import Call

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

# With gRPC's own back-off it took 6 s to notice that containerd was back; with this one 0.5 s.
_OPTIONS: Final = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
    # Tasks.List answers for the whole host in one message, about 200 bytes a task.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]

# CANCELLED is what a call sees when the connection under it is closed.
_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


class CallFailed(Exception):  # noqa: N818 - an answer
    """containerd answered a call with an error: gRPC's ``code``, and its ``details``."""

    def __init__(self, call: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{call}: {code.name}: {details}")
        self.code = code
        self.details = details


class NotFound(CallFailed):
    """What the call names is not there."""


class AlreadyExists(CallFailed):
    """What the call would make is there already."""


_TYPES: Final[dict[grpc.StatusCode, type[CallFailed]]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
}


class Client:
    """Calls containerd at ``address`` (path of its Unix socket) within ``namespace``.

    Connects when first used, and again by itself. Calls raise ``RuntimeUnavailable`` when
    containerd is not there or does not answer in time, and ``CallFailed`` with its own error.
    """

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}
        self._metadata = (("containerd-namespace", namespace),)

    async def close(self) -> None:
        """Ends the connection and every call on it. Idempotent."""
        channel, self._channel = self._channel, None
        self._calls.clear()
        if channel is not None:
            await channel.close()

    async def unary(
        self, call: Call[Q, R], request: Q, *, timeout_s: float | None = None, lease: str = ""
    ) -> R:
        """One request, one answer; within ``lease`` if one is named."""
        made = self._made(call, "unary_unary")
        with self._failures(call):
            answer = await made(
                request,
                timeout=call.timeout_s if timeout_s is None else timeout_s,
                metadata=self._with(lease),
            )
        return cast("R", answer)

    async def stream(self, call: Call[Q, R], request: Q) -> AsyncGenerator[R, None]:
        """One request, answers until the other side ends."""
        made = self._made(call, "unary_stream")
        with self._failures(call):
            stream = made(request, timeout=call.timeout_s, metadata=self._metadata)
            try:
                async for answer in stream:
                    yield cast("R", answer)
            finally:
                stream.cancel()

    async def exchange(
        self, call: Call[Q, R], requests: AsyncIterator[Q], *, lease: str = ""
    ) -> AsyncGenerator[R, None]:
        """Requests and answers in turn: the next request is taken after an answer."""
        made = self._made(call, "stream_stream")
        with self._failures(call):
            stream = made(timeout=call.timeout_s, metadata=self._with(lease))
            try:
                async for request in requests:
                    await stream.write(request)
                    answer = await stream.read()
                    if answer is grpc.aio.EOF:
                        break
                    yield cast("R", answer)
                await stream.done_writing()
            finally:
                stream.cancel()

    def _with(self, lease: str) -> tuple[tuple[str, str], ...]:
        return (*self._metadata, ("containerd-lease", lease)) if lease else self._metadata

    def _made(self, call: Call[Q, R], kind: str) -> Any:
        made = self._calls.get(call.path)
        if made is None:
            if self._channel is None:
                self._channel = grpc.aio.insecure_channel(f"unix://{self.address}", _OPTIONS)
            made = getattr(self._channel, kind)(
                call.path,
                request_serializer=call.request.SerializeToString,
                response_deserializer=call.response.FromString,
            )
            self._calls[call.path] = made
        return made

    @contextmanager
    def _failures(self, call: Call[Q, R]) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if code in _AWAY:
                raise RuntimeUnavailable(self._sentence(call, code, details)) from error
            raise _TYPES.get(code, CallFailed)(call.path, code, details) from error
        except grpc.aio.UsageError as error:
            # A call that was under way when the channel was closed.
            raise RuntimeUnavailable("the connection to containerd was closed") from error

    def _sentence(self, call: Call[Q, R], code: grpc.StatusCode, details: str) -> str:
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"containerd at {self.address} did not answer {call.method} in time; "
                "see its log (journalctl -u containerd)"
            )
        return (
            f"containerd at {self.address} cannot be reached ({details}); "
            "is it running? (systemctl status containerd)"
        )
