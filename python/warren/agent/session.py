"""The worker's side of its stream to the manager: hello, then assignments one way, reports the
other.

What a stream loses costs nothing: the next hello carries everything that is remembered, and the
set's hash tells whether assignments were missed. So no report is repeated and none is awaited; a
newer status simply takes the older one's place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

import grpc

from warren import rpc
from warren.agent import status
from warren.agent.board import Board
from warren.agent.converge import Memory, is_terminal
from warren.agent.outbox import Outbox
from warren.agent.runtime.base import Observed
from warren.agent.store import Fence, Journal
from warren.pb.v1 import api_pb2, objects_pb2, session_pb2

__all__ = ["Session", "reconnect_pause_s"]

# What a manager takes in one message.
REPORT_ITEMS_MAX: Final = 256
# Steps on the way to running follow one another in tens of milliseconds: tell the last.
LINGER_S: Final = 0.02
WELCOME_TIMEOUT_S: Final = 10.0
WRITE_TIMEOUT_S: Final = 30.0
HEARTBEAT_MIN_MS: Final = 100
DESCRIBE_AGAIN_S: Final = 60.0
PUBLISH_TIMEOUT_S: Final = 5.0
PUBLISH_POLL_S: Final = 0.02
RECONNECT_FIRST_S: Final = 0.2
RECONNECT_MAX_S: Final = 5.0
_log = logging.getLogger("warren.session")


class _Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class SessionEndedError(Exception):
    """The stream ended, or must not go on; the sentence says why."""


class Session:
    """Keeps one stream to the manager open. `run` until cancelled.

    `describe` gives this node's description; `describe_again` says that it may have changed.
    `random` gives numbers in [0, 1). `reconnects` counts streams after the first.
    """

    def __init__(
        self,
        *,
        channel: grpc.aio.Channel,
        node_id: str,
        board: Board,
        journal: Journal,
        outbox: Outbox,
        describe: Callable[[], Awaitable[objects_pb2.NodeDescription]],
        observed: Callable[[], Iterable[Observed]],
        random: Callable[[], float],
        reconnects: _Counter,
    ) -> None:
        self.problem = "not connected yet"
        self.last_acknowledged_s: float | None = None
        self._anew = asyncio.Event()
        self._stub = rpc.Stub(channel, rpc.DISPATCHER)
        self._manager = rpc.Stub(channel, rpc.MANAGER)
        self._node_id = bytes.fromhex(node_id)
        self._board = board
        self._journal = journal
        self._outbox = outbox
        self._describe = describe
        self._observed = observed
        self._random = random
        self._reconnects = reconnects
        self._description = objects_pb2.NodeDescription()
        self._stale = asyncio.Event()
        # How often somebody asked for a description, and up to which time managers know it.
        self._asked = 0
        self._known = 0
        self._spread = asyncio.Condition()
        self._writing = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """A manager has welcomed this worker and the stream stands."""
        return not self.problem

    def describe_again(self) -> None:
        """The node's description may have changed (an image came, the runtime went)."""
        self._asked += 1
        self._stale.set()

    def begin_anew(self) -> None:
        """End the stream, if there is one: only a hello tells what is still wanted here."""
        self._anew.set()

    async def publish(self, timeout_s: float = PUBLISH_TIMEOUT_S) -> bool:
        """Describe this node anew and wait until the managers know; False: not in time.

        Who has loaded an image wants to use it in the next command.
        """
        self.describe_again()
        goal = self._asked
        try:
            async with asyncio.timeout(timeout_s), self._spread:
                await self._spread.wait_for(lambda: self._known >= goal)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                await self._once()
            except (grpc.RpcError, SessionEndedError, TimeoutError) as error:
                failures = 1 if self.connected else failures + 1
                self._lost(error, failures)
            await asyncio.sleep(reconnect_pause_s(failures, self._random()))
            self._reconnects.inc()

    def _lost(self, error: Exception, failures: int) -> None:
        why = str(rpc.failure(error) if isinstance(error, grpc.RpcError) else error)
        self.problem = f"no session with a manager: {why or 'no answer in time'}"
        level = logging.WARNING if failures == 1 else logging.DEBUG
        _log.log(level, "%s; containers go on, trying again", self.problem)

    async def _once(self) -> None:
        self._stale.clear()
        self._anew.clear()
        self._description = await self._describe()
        call = self._stub.Session()
        try:
            # The hello tells everything that waits to be told.
            self._outbox.clear()
            hello = self._board.hello(self._node_id, self._description, self._observed())
            await self._send(call, hello=hello)
            welcome = await self._welcomed(call)
            await self._converse(call, welcome.heartbeat_interval_ms)
        finally:
            call.cancel()

    async def _welcomed(self, call: Any) -> session_pb2.Welcome:
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            message = await call.read()
        if message is grpc.aio.EOF or message.WhichOneof("body") != "welcome":
            raise SessionEndedError("the manager did not welcome this worker")
        welcome: session_pb2.Welcome = message.welcome
        if not self._board.obey(Fence(welcome.epoch, welcome.term)):
            raise SessionEndedError("that manager led in the past and does not know it yet")
        await self._journal.durable()  # a fence that a restart forgets is none
        self.problem = ""
        _log.info("session with a manager", extra={"term": welcome.term})
        return welcome

    async def _converse(self, call: Any, heartbeat_interval_ms: int) -> None:
        interval_s = max(heartbeat_interval_ms, HEARTBEAT_MIN_MS) / 1000
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(call))
                group.create_task(self._report(call))
                group.create_task(self._beat(call, interval_s))
                group.create_task(self._keep_describing(call))
                group.create_task(self._end_when_asked())
        except* (grpc.RpcError, SessionEndedError, TimeoutError) as errors:
            # One fault ends the stream, and shows in each of its tasks.
            raise errors.exceptions[0] from None

    async def _read(self, call: Any) -> None:
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise SessionEndedError("the manager ended the session")
            if message.WhichOneof("body") != "assignments":
                continue  # of a newer manager
            if self._board.apply(message.assignments):
                continue
            if message.assignments.complete:
                raise SessionEndedError("the whole set of assignments contradicts its own hash")
            _log.info("assignments are not what the manager means; asking for all of them")
            await self._send(call, resync=session_pb2.Resync())

    async def _report(self, call: Any) -> None:
        while True:
            await self._outbox.filled()
            if not self._outbox.holds(_is_news):
                await asyncio.sleep(LINGER_S)
            items = [status.status_item(*taken) for taken in self._outbox.take(REPORT_ITEMS_MAX)]
            await self._send(call, report=session_pb2.StatusReport(items=items))

    async def _beat(self, call: Any, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self._send(call, heartbeat=session_pb2.Heartbeat())

    async def _keep_describing(self, call: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(DESCRIBE_AGAIN_S):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            asked = self._asked
            description = await self._describe()
            if description != self._description:
                self._description = description
                await self._send(call, description=description)
            if asked > self._known and await self._managers_know(description):
                async with self._spread:
                    self._known = asked
                    self._spread.notify_all()

    async def _end_when_asked(self) -> None:
        await self._anew.wait()
        raise SessionEndedError("for too long no heartbeat was acknowledged; beginning anew")

    async def _managers_know(self, description: objects_pb2.NodeDescription) -> bool:
        """Wait until a read shows `description`; a stream has no answers to wait for."""
        request = api_pb2.GetNodeRequest(ref=self._node_id.hex())
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                while True:
                    answer = await self._manager.GetNode(request, timeout=PUBLISH_TIMEOUT_S)
                    if answer.node.node.description == description:
                        return True
                    await asyncio.sleep(PUBLISH_POLL_S)
        except (grpc.RpcError, TimeoutError):
            return False

    async def _send(self, call: Any, **body: Any) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S), self._writing:
            await call.write(session_pb2.WorkerMessage(**body))


def reconnect_pause_s(failures: int, random: float) -> float:
    """The pause before the next stream: doubling to 5 s, and spread over its second half so that
    the workers of a cluster do not come back all at once.
    """
    full = min(RECONNECT_FIRST_S * (1 << min(max(failures - 1, 0), 16)), RECONNECT_MAX_S)
    return full * (0.5 + random / 2)


def _is_news(memory: Memory) -> bool:
    """Somebody waits for this one."""
    running = memory.state == objects_pb2.CONTAINER_STATE_RUNNING
    return running or is_terminal(memory) or memory.removed
