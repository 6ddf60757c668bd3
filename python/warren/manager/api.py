"""The manager's API: who asks, how long, how large; everything else is the core's.

Requests reach the core as the bytes that came over the wire, and its answers go out as they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
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
PATIENCE_S: Final = 60.0
API_METHODS: Final = tuple(rpc.MANAGER)
_log = logging.getLogger("warren.api")

# Refusals that are no answer to a wrong request: who runs the cluster has to hear of them.
_TROUBLES: Final = frozenset({"internal", "log_damaged", "no_space", "outcome_unknown"})

Context = grpc.aio.ServicerContext[Any, Any]
Observe = Callable[[float, str], None]
OpenStream = Callable[[Caller, str, bytes], AsyncGenerator[bytes, None]]


class _MethodCount(Protocol):
    def record(self, seconds: float, request_id: str, *, ok: bool) -> None: ...


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
    patience_s: float = PATIENCE_S,
) -> grpc.GenericRpcHandler:
    """The gRPC service `warren.v1.Manager` over `core`, for those whom `identify` knows.

    `succeeded`: by method, where the seconds of calls that were not refused also go, with their
    request ids.
    `after`: by method, what is awaited after such a call, before it is answered.
    `streams`: by method, what answers instead of the core, and gives up a reader that takes nothing
    for `patience_s`: what it holds others may want.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for name, method in rpc.MANAGER.items():
        count = counts.method(name)
        if method.server_streaming:
            own = (streams or {}).get(name)
            limit_s = patience_s if own else None
            functions[name] = _streaming(own or core.stream, identify, name, count, limit_s)
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
        caller = None
        try:
            caller = identify(context)
            _check_size(name, request)
            answer = await core.call(caller, name, request, timeout_s(context))
            if after is not None:
                await after()
        except asyncio.CancelledError:
            # gRPC's way to say that nobody waits any more: deadline, cancelled call, end of server.
            seconds = time.perf_counter() - began
            request_id = _request_id(caller, context)
            count.record(seconds, request_id, ok=False)
            fields = _fields(name, request_id, caller, seconds)
            _log.warning("whoever asked gave up before there was an answer", extra=fields)
            raise
        except Exception as error:
            seconds = time.perf_counter() - began
            count.record(seconds, _request_id(caller, context), ok=False)
            await rpc.abort(context, _refused(name, caller, context, error, seconds))
            raise  # unreachable: abort raises
        seconds = time.perf_counter() - began
        count.record(seconds, caller.request_id, ok=True)
        _note_answered(name, caller, seconds)
        if succeeded is not None:
            succeeded(seconds, caller.request_id)
        return answer

    return handle


def _streaming(
    open_stream: OpenStream,
    identify: Identify,
    name: str,
    count: _MethodCount,
    limit_s: float | None,
) -> Callable[[bytes, Context], Awaitable[None]]:
    # Writes, and does not yield: an item that is not taken is cancelled here, with time to say so.
    async def handle(request: bytes, context: Context) -> None:
        began = time.perf_counter()
        caller = None
        try:
            caller = identify(context)
            _check_size(name, request)
            async with aclosing(open_stream(caller, name, request)) as items:
                async for item in items:
                    await _write(context, item, limit_s)
        except asyncio.CancelledError:
            # The caller has seen enough.
            seconds = time.perf_counter() - began
            count.record(seconds, _request_id(caller, context), ok=True)
            raise
        except Exception as error:  # noqa: BLE001 - answered and logged
            seconds = time.perf_counter() - began
            count.record(seconds, _request_id(caller, context), ok=False)
            await rpc.abort(context, _refused(name, caller, context, error, seconds))
        else:
            seconds = time.perf_counter() - began
            count.record(seconds, caller.request_id, ok=True)
            _note_answered(name, caller, seconds)

    return handle


async def _write(context: Context, item: bytes, limit_s: float | None) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await context.write(item)
    except TimeoutError:
        raise WarrenError(
            "unavailable",
            f"nothing was taken for {limit_s:g} s, and others may wait; ask again, and read on",
        ) from None


def timeout_s(context: Context) -> float:
    """How long the core may take: what the caller waits, 10 s if it does not say, at most 60 s."""
    remaining = context.time_remaining()
    if remaining is None:
        return DEFAULT_TIMEOUT_S
    return float(min(max(remaining, 0.0), MAX_TIMEOUT_S))


def _check_size(name: str, request: bytes) -> None:
    if len(request) > rpc.MESSAGE_LIMIT_BYTES:
        raise rpc.too_large(f"the {name} request", len(request))


def _note_answered(name: str, caller: Caller, seconds: float) -> None:
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("answered", extra=_fields(name, caller.request_id, caller, seconds))


def _request_id(caller: Caller | None, context: Context) -> str:
    if caller is not None:
        return caller.request_id
    return rpc.request_id_of(dict(context.invocation_metadata() or ()))


def _refused(
    name: str, caller: Caller | None, context: Context, error: Exception, seconds: float
) -> WarrenError:
    """What the caller is told, once it is logged; `caller` is None where nobody knows who asks."""
    fields = _fields(name, _request_id(caller, context), caller, seconds)
    if not isinstance(error, WarrenError):
        _log.exception("%s failed unexpectedly", name, extra=fields, exc_info=error)
        return WarrenError("internal", f"{name} failed inside the daemon; its log says why")
    level = logging.WARNING if error.code in _TROUBLES else logging.DEBUG
    fields |= {"code": error.code, "error": error.message}
    _log.log(level, "refused", extra=fields)
    return error


def _fields(name: str, request_id: str, caller: Caller | None, seconds: float) -> dict[str, object]:
    fields: dict[str, object] = {"method": name, "request_id": request_id}
    if caller is not None:
        fields["identity"] = caller.identity
        if caller.forwarded:
            fields["forwarded"] = True
    return {**fields, "duration_ms": round(1000 * seconds, 3)}
