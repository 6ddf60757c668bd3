"""Waiting for a condition, with a deadline; nothing here sleeps for a time that was guessed."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PAUSE_S: Final = 0.05


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], what: str, deadline_s: float = 30.0
) -> T:
    """The first truthy answer; AssertionError that says what was waited for and seen last.

    An exception counts as "not yet".
    """
    ends_at = time.monotonic() + deadline_s
    last: object = None
    while True:
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                left_s = max(ends_at - time.monotonic(), PAUSE_S)
                answer = await asyncio.wait_for(answer, left_s)
            if answer:
                return answer  # type: ignore[return-value]
            last = answer
        except Exception as error:
            last = error
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; last seen: {last!r}")
        await asyncio.sleep(PAUSE_S)


async def holds_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """That it holds all the time, looked at again and again; AssertionError if it ever does not."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        assert condition(), f"ceased to hold: {what}"
        await asyncio.sleep(PAUSE_S)
