"""Any manager answers: what only the leader can do is passed on to it.

The core passes writes on by itself, over the connections between managers. What is left for here
are streams, and calls that the core refuses because another manager leads whose core takes none: it
is of an older release, or has not said yet what it can do. The core says where its API is. The
request goes there with the name of whoever asked, under what is left of its deadline. What comes
back is the answer as it is. A request that was forwarded once is not forwarded again: who leads
then is asked for anew here.

Whether a write took effect whose connection broke, nobody here can know: `outcome_unknown`.
A leader that is stopped or cut off answers nothing and breaks nothing; when the core here hears of
a newer term, what waits for that leader is given up: a read is asked anew, a write is
`outcome_unknown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, Protocol

import grpc

from warren import rpc
from warren.channels import Channels
from warren.errors import WarrenError
from warren.manager.core_port import CorePort
from warren.manager.identity import Caller

__all__ = ["FORWARDS_MAX", "Forwarder", "Outcomes"]

FORWARDS_MAX: Final = 1024
"""Requests that wait for another manager at once, watches among them."""

# While the lead moves: the core here learns of it, or the cluster says that nobody leads.
_ATTEMPTS_MAX: Final = 4
_PAUSE_S: Final = 0.05
# Between two looks at the term while an answer is awaited: a part of what an election takes.
_LOOK_S: Final = 0.1


class Outcomes(Protocol):
    """Where forwarded requests are counted."""

    def record(self, *, ok: bool) -> None: ...


class Forwarder:
    """The core here, and behind it the leader's.

    `outcomes` counts what was passed on; `term` is the newest that the core here knows of.
    """

    def __init__(
        self,
        core: CorePort,
        channels: Channels,
        outcomes: Outcomes,
        term: Callable[[], int],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.under_way = 0
        self._core = core
        self._channels = channels
        self._outcomes = outcomes
        self._term = term
        self._clock = clock or asyncio.get_running_loop().time

    async def call(self, caller: Caller, method: str, body: bytes, timeout_s: float) -> bytes:
        """The answer to one call, within `timeout_s`; refusals are `WarrenError`."""
        deadline = self._clock() + timeout_s
        last: WarrenError | None = None
        for _ in range(_ATTEMPTS_MAX):
            left = deadline - self._clock()
            if left <= 0:
                break
            try:
                return await self._core.call(
                    caller.identity, method, body, left, stale=caller.stale
                )
            except WarrenError as error:
                leader = _elsewhere(caller, error)
            try:
                return await self._ask(leader, caller, method, body, deadline - self._clock())
            except WarrenError as error:
                if error.code != "not_leader":
                    raise
                last = error
            await asyncio.sleep(_PAUSE_S)
        raise last or _too_late(method)

    async def stream(self, caller: Caller, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """The items of a stream, the core's or the leader's; closing it ends it there too."""
        try:
            async with aclosing(self._core.stream(caller.identity, method, body)) as items:
                async for item in items:
                    yield item
            return
        except WarrenError as error:
            leader = _elsewhere(caller, error)
        call = self._open(leader, "unary_stream", method)(body, metadata=_metadata(caller))
        self._enter()
        ok = False
        try:
            async for item in call:
                yield item
            ok = True
        except grpc.RpcError as error:
            raise _translated(error, leader, method) from None
        except asyncio.CancelledError:
            raise _unless_cancelled_here(leader, method) from None
        finally:
            call.cancel()
            self._leave(ok=ok)

    async def _ask(
        self, leader: str, caller: Caller, method: str, body: bytes, left_s: float
    ) -> bytes:
        if left_s <= 0:
            raise _too_late(method)
        ask = self._open(leader, "unary_unary", method)
        self._enter()
        ok = False
        try:
            asked = ask(body, timeout=left_s, metadata=_metadata(caller))
            answer = await self._unless_overtaken(asked, leader, method)
            ok = True
            return answer
        except grpc.RpcError as error:
            raise _translated(error, leader, method) from None
        except asyncio.CancelledError:
            raise _unless_cancelled_here(leader, method) from None
        finally:
            self._leave(ok=ok)

    async def _unless_overtaken(self, asked: Any, leader: str, method: str) -> bytes:
        """The answer, if it comes before the lead moves."""
        term = self._term()
        answer = asyncio.ensure_future(asked)
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=_LOOK_S)
                if not answer.done() and self._term() > term:
                    raise _overtaken(leader, method)
        finally:
            answer.cancel()
        got: bytes = answer.result()
        return got

    def _open(self, leader: str, arity: str, method: str) -> Any:
        return getattr(self._channels.get(leader), arity)(rpc.MANAGER[method].path)

    def _enter(self) -> None:
        if self.under_way >= FORWARDS_MAX:
            raise WarrenError(
                "overloaded",
                f"{FORWARDS_MAX} requests wait for the leader already; try again in a moment",
            )
        self.under_way += 1

    def _leave(self, *, ok: bool) -> None:
        self.under_way -= 1
        self._outcomes.record(ok=ok)


def _elsewhere(caller: Caller, error: WarrenError) -> str:
    """Where to ask instead; raises the refusal if that is nowhere."""
    if error.code != "not_leader" or caller.forwarded or not error.leader_address:
        raise error
    return error.leader_address


def _metadata(caller: Caller) -> tuple[tuple[str, str], ...]:
    named = ((rpc.REQUEST_ID_KEY, caller.request_id),) if caller.request_id else ()
    return ((rpc.ON_BEHALF_KEY, caller.identity), *named)


def _translated(error: grpc.RpcError, leader: str, method: str) -> WarrenError:
    """What a failed forwarded call means for who asked."""
    refusal = rpc.failure(error)
    if refusal.code != "unavailable":
        return refusal
    return _broke(leader, method, sent=not rpc.never_sent(refusal.message))


def _unless_cancelled_here(leader: str, method: str) -> BaseException:
    """What a forwarded call means that was cancelled: its channel was closed, or nobody waits.

    gRPC tells who asked nothing at all of a handler that is cancelled by anything but itself.
    """
    if rpc.cancelled_here():
        return asyncio.CancelledError()
    return _broke(leader, method, sent=True)


def _broke(leader: str, method: str, *, sent: bool) -> WarrenError:
    # Nothing was sent where there was no connection; reads change nothing.
    if not sent or rpc.is_read(method):
        return WarrenError(
            "no_leader",
            f"the manager that leads does not answer at {leader}; try again in a few seconds: "
            "another one takes over",
        )
    return WarrenError(
        "outcome_unknown",
        f"the connection to the manager that leads, at {leader}, broke; the request may still "
        "take effect: look at the result before trying anew",
    )


def _overtaken(leader: str, method: str) -> WarrenError:
    if rpc.is_read(method):
        return WarrenError("not_leader", f"the manager at {leader} does not lead any more")
    return WarrenError(
        "outcome_unknown",
        f"the manager that led, at {leader}, did not answer, and the lead moves; the request may "
        "still take effect: look at the result before trying anew",
    )


def _too_late(method: str) -> WarrenError:
    if rpc.is_read(method):
        return WarrenError("no_leader", "nobody leads the cluster yet; try again in a few seconds")
    return WarrenError(
        "outcome_unknown",
        "no answer in time; the request may still take effect: look at the result before trying "
        "anew",
    )
