"""The manager's API: who asks, how long, how large; everything else is the core's.

Requests reach the core as the bytes that came over the wire, and its answers go out as they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol

import grpc

from warren import rpc
from warren.errors import WarrenError
from warren.manager.forward import Forwarder
from warren.manager.identity import Caller, Identify

__all__ = ["API_METHODS", "ApiCounts", "Observe", "OpenStream", "service"]

DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 60.0
API_METHODS: Final = tuple(rpc.MANAGER)
_log = logging.getLogger("warren.api")

Context = grpc.aio.ServicerContext[Any, Any]
Observe = Callable[[float], None]
OpenStream = Callable[[Caller, str, bytes], AsyncGenerator[bytes, None]]


class _MethodCount(Protocol):
    def record(self, seconds: float, *, ok: bool) -> None: ...


class ApiCounts(Protocol):
    """Where requests are counted, by method."""

    def method(self, name: str) -> _MethodCount: ...


def service(
    core: Forwarder,
    identify: Identify,
    counts: ApiCounts,
    succeeded: Mapping[str, Observe],
    after: Mapping[str, Callable[[], Awaitable[None]]],
    streams: Mapping[str, OpenStream] | None = None,
) -> grpc.GenericRpcHandler:
    """The gRPC service `warren.v1.Manager` over `core`, for those whom `identify` knows.

    `succeeded`: by method, where the seconds of calls that were not refused also go.
    `after`: by method, what is awaited after such a call, before it is answered.
    `streams`: by method, what answers instead of the core.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for name, method in rpc.MANAGER.items():
        count = counts.method(name)
        if method.server_streaming:
            opened = (streams or {}).get(name, core.stream)
            functions[name] = _streaming(opened, identify, name, count)
        else:
            observe, then = succeeded.get(name), after.get(name)
            functions[name] = _unary(core, identify, name, count, observe, then)
    return rpc.service(rpc.MANAGER, functions, raw=True)


def _unary(
    core: Forwarder,
    identify: Identify,
    name: str,
    count: _MethodCount,
    succeeded: Observe | None,
    after: Callable[[], Awaitable[None]] | None,
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(request: bytes, context: Context) -> bytes:
        began = time.perf_counter()
        try:
            _check_size(name, request)
            answer = await core.call(identify(context), name, request, timeout_s(context))
            if after is not None:
                await after()
        except Exception as error:
            count.record(time.perf_counter() - began, ok=False)
            await rpc.abort(context, _refusal(name, error))
            raise  # unreachable: abort raises
        seconds = time.perf_counter() - began
        count.record(seconds, ok=True)
        if succeeded is not None:
            succeeded(seconds)
        return answer

    return handle


def _streaming(
    open_stream: OpenStream, identify: Identify, name: str, count: _MethodCount
) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
    async def handle(request: bytes, context: Context) -> AsyncIterator[bytes]:
        began = time.perf_counter()
        try:
            _check_size(name, request)
            async with aclosing(open_stream(identify(context), name, request)) as items:
                async for item in items:
                    yield item
        except (asyncio.CancelledError, GeneratorExit):
            count.record(time.perf_counter() - began, ok=True)  # the caller has seen enough
            raise
        except Exception as error:  # noqa: BLE001 - answered and logged
            count.record(time.perf_counter() - began, ok=False)
            await rpc.abort(context, _refusal(name, error))
        else:
            count.record(time.perf_counter() - began, ok=True)

    return handle


def timeout_s(context: Context) -> float:
    """How long the core may take: what the caller waits, 10 s if it does not say, at most 60 s."""
    remaining = context.time_remaining()
    if remaining is None:
        return DEFAULT_TIMEOUT_S
    return float(min(max(remaining, 0.0), MAX_TIMEOUT_S))


def _check_size(name: str, request: bytes) -> None:
    if len(request) > rpc.MESSAGE_LIMIT_BYTES:
        raise rpc.too_large(f"the {name} request", len(request))


def _refusal(name: str, error: Exception) -> WarrenError:
    if isinstance(error, WarrenError):
        return error
    _log.exception("%s failed unexpectedly", name, extra={"method": name})
    return WarrenError("internal", f"{name} failed inside the daemon; its log says why")
