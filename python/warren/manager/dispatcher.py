"""Sessions with workers: one gRPC stream each, tied to one stream of the core.

What the core has for the worker goes out as it is. What the worker says goes to the core under
the session's id, one message at a time: a report is taken when it is applied, and until then the
worker's next one waits in its own bounded outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from warren import rpc
from warren.errors import WarrenError
from warren.manager.core_port import CorePort
from warren.manager.identity import Identify
from warren.pb.v1 import session_pb2

__all__ = ["SessionCount", "service"]

HELLO_TIMEOUT_S: Final = 10.0
MESSAGE_TIMEOUT_S: Final = 10.0
# What the core answers to a message, heartbeats mostly; a worker that takes none has its messages
# wait.
ANSWERS_MAX: Final = 16
_log = logging.getLogger("warren.session")

Context = grpc.aio.ServicerContext[Any, Any]
SessionCount = Callable[[int], None]


def service(core: CorePort, identify: Identify, count: SessionCount) -> grpc.GenericRpcHandler:
    """The gRPC service `warren.v1.Dispatcher` over `core`, for those whom `identify` knows.

    `count` gets +1 and -1. Sessions are not forwarded: a manager that does not lead says who does.
    """

    async def session(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        count(1)
        try:
            who = identify(context).identity
            hello = await _hello(requests)
            stream = core.stream(who, "Session", hello.SerializeToString())
            async with (
                aclosing(stream) as items,
                aclosing(_both_ways(core, who, requests, items)) as out,
            ):
                async for item in out:
                    yield item
        except WarrenError as error:
            await rpc.abort(context, error)
        finally:
            count(-1)

    return rpc.service(rpc.DISPATCHER, {"Session": session}, raw=True)


async def _hello(requests: AsyncIterator[bytes]) -> session_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first = session_pb2.WorkerMessage.FromString(await anext(requests))
    except (TimeoutError, StopAsyncIteration, DecodeError):
        raise WarrenError("invalid", "a session has to begin with a hello") from None
    if first.WhichOneof("body") != "hello":
        raise WarrenError("invalid", "a session has to begin with a hello")
    return first.hello


async def _both_ways(
    core: CorePort, who: str, requests: AsyncIterator[bytes], items: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    """What the core has for the worker; meanwhile, what the worker says goes to the core.

    Ends with the core's stream; raises what made the other direction end.
    """
    welcome = await anext(items, None)
    if welcome is None:
        raise WarrenError("stale_session", "the session ended before it began; open a new one")
    session_id = session_pb2.ManagerMessage.FromString(welcome).welcome.session_id
    yield welcome
    answers: asyncio.Queue[bytes] = asyncio.Queue(ANSWERS_MAX)
    listening = asyncio.create_task(_listen(core, who, session_id, requests, answers))
    following = asyncio.create_task(_next(items))
    answering = asyncio.create_task(answers.get())
    tasks: set[asyncio.Task[Any]] = {listening, following, answering}
    try:
        while True:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                yield answering.result()
                tasks.discard(answering)
                answering = asyncio.create_task(answers.get())
                tasks.add(answering)
            if listening.done():
                listening.result()
                return
            if following.done():
                item = following.result()
                if item is None:
                    raise WarrenError("stale_session", "a newer session took over; open a new one")
                yield item
                tasks.discard(following)
                following = asyncio.create_task(_next(items))
                tasks.add(following)
    finally:
        # The core's stream can be closed only when nobody waits in it.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(items: AsyncIterator[bytes]) -> bytes | None:
    return await anext(items, None)


async def _listen(
    core: CorePort,
    who: str,
    session_id: bytes,
    requests: AsyncIterator[bytes],
    answers: asyncio.Queue[bytes],
) -> None:
    async for message in requests:
        if len(message) > rpc.MESSAGE_LIMIT_BYTES:
            raise rpc.too_large("the worker's message", len(message))
        # The worker takes what it has sent for told, so a message that is refused ends the
        # session: the next hello tells everything again.
        answer = await core.call(who, "SessionMessage", session_id + message, MESSAGE_TIMEOUT_S)
        if answer:
            await answers.put(answer)
