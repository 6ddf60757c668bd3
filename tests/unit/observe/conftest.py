"""Event loops to run each asynchronous test on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import uvloop

T = TypeVar("T")
Run = Callable[[Callable[[], Awaitable[T]]], T]

DEADLINE_S = 20


def _debugging_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


@pytest.fixture(params=["asyncio", "asyncio-debug", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[object]:
    """Runs a coroutine function under plain asyncio, in its debug mode, and under uvloop."""
    factory = {
        "asyncio": asyncio.new_event_loop,
        "asyncio-debug": _debugging_loop,
        "uvloop": uvloop.new_event_loop,
    }[request.param]

    def runner(main: Callable[[], Awaitable[object]]) -> object:
        async def bounded() -> object:
            async with asyncio.timeout(DEADLINE_S):
                return await main()

        with asyncio.Runner(loop_factory=factory) as loop:
            return loop.run(bounded())

    return runner
