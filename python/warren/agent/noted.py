"""The node service's requests in the log: each at debug, what broke at warn."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from warren import rpc
from warren.errors import WarrenError

__all__ = ["noted", "refused"]

_log = logging.getLogger("warren.node")

Context = grpc.aio.ServicerContext[Any, Any]


def noted(functions: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The same functions, by method, which say in the log that they were asked."""
    return {name: _noted(name, function) for name, function in functions.items()}


def _noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def note(context: Context) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("asked", extra=_fields(name, context))

    async def unary(request: Any, context: Context) -> Any:
        note(context)
        return await function(request, context)

    async def streaming(request: Any, context: Context) -> AsyncIterator[Any]:
        note(context)
        async with aclosing(function(request, context)) as items:
            async for item in items:
                yield item

    # gRPC tells the two apart by looking at the function.
    return streaming if inspect.isasyncgenfunction(function) else unary


def refused(name: str, context: Context, error: Exception, refusal: WarrenError) -> None:
    """Note that a request was refused: with a warning, unless it was the caller's to do better."""
    level = logging.DEBUG if error is refusal else logging.WARNING
    fields = {"code": refusal.code, "error": str(error)}
    _log.log(level, "refused", extra={**_fields(name, context), **fields})


def _fields(name: str, context: Context) -> dict[str, object]:
    metadata = dict(context.invocation_metadata() or ())
    return {"method": name, "request_id": rpc.request_id_of(metadata)}
