"""The worker's side of its stream to the leader: hello, then assignments one way, reports the
other. A manager that does not lead says who does; if nobody answers, containers go on.

What a stream loses costs nothing: the next hello carries everything that is remembered, and the
set's hash tells whether assignments were missed. So no report is repeated and none is awaited; a
newer status simply takes the older one's place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

import grpc

from warren import rpc
from warren.agent import status
from warren.agent.board import Board
from warren.agent.clock_offset import ClockOffset
from warren.agent.converge import Memory, is_terminal
from warren.agent.outbox import Outbox
from warren.agent.route import Route
from warren.agent.runtime.base import Observed
from warren.agent.store import Fence, Journal
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, objects_pb2, session_pb2

__all__ = ["Managers", "Session", "reconnect_pause_s"]

# What a manager takes in one message.
REPORT_ITEMS_MAX: Final = 256
# Steps on the way to running follow one another in tens of milliseconds: tell the last.
LINGER_S: Final = 0.02
WELCOME_TIMEOUT_S: Final = 10.0
WRITE_TIMEOUT_S: Final = 30.0
HEARTBEAT_MIN_MS: Final = 100
DESCRIBE_AGAIN_S: Final = 60.0
PUBLISH_TIMEOUT_S: Final = 10.0
PUBLISH_AGAIN_S: Final = 1.0
KNOWN_TIMEOUT_S: Final = 5.0
PUBLISH_POLL_S: Final = 0.02
RECONNECT_FIRST_S: Final = 0.2
RECONNECT_MAX_S: Final = 5.0
# Redirects in a row that are followed at once: more is a cluster that does not know who leads.
REDIRECTS_MAX: Final = 3
# Without an acknowledged heartbeat for so many intervals the stream is given up.
SILENT_INTERVALS: Final = 3
SILENCE_MIN_S: Final = 1.0
# Heartbeats whose acknowledgement is awaited.
UNACKNOWLEDGED_MAX: Final = 16
# So often a leader has to say that this node was removed, and none to welcome it, before it is
# believed: one that is cut off from the others may know less than they do.
REMOVED_ANSWERS: Final = 3
_log = logging.getLogger("warren.session")


class _Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class SessionEndedError(Exception):
    """The stream ended, or must not go on; the sentence says why."""


_EXPECTED: Final = (grpc.RpcError, WarrenError, SessionEndedError, TimeoutError)


class Managers(Protocol):
    """What the session needs to know of the cluster's managers, and tells of them."""

    def dial(self, address: str) -> grpc.aio.Channel:
        """The channel to one; WarrenError where there can be none."""

    async def explain(self, address: str) -> str:
        """Why one does not answer; empty where nothing is found."""

    def told(self, managers: session_pb2.Managers) -> None:
        """The leader says who manages, and whether this node is to."""

    def removed(self, why: str) -> None:
        """The cluster has removed this node, for good."""


class Session:
    """Keeps one stream to the leader open. `run` until cancelled.

    `describe` gives this node's description; `describe_again` says that it may have changed.
    `manages` says whether a manager runs in this process. `random` gives numbers in [0, 1).
    `reconnects` counts the streams on which a manager has welcomed it, after the first. `usage`
    gives what is new of what containers use, for the next heartbeat; it must not take long.

    `last_acknowledged_s` is when the newest heartbeat was sent that a leader has acknowledged, on
    the clock that goes on while the host sleeps (CLOCK_BOOTTIME); None before there was one.
    `clock` is how far the wall clock was from the leader's then.
    """

    def __init__(
        self,
        *,
        route: Route,
        managers: Managers,
        manages: Callable[[], bool],
        node_id: str,
        board: Board,
        journal: Journal,
        outbox: Outbox,
        describe: Callable[[], Awaitable[objects_pb2.NodeDescription]],
        observed: Callable[[], Iterable[Observed]],
        random: Callable[[], float],
        reconnects: _Counter,
        usage: Callable[[], objects_pb2.NodeUsage | None] = lambda: None,
    ) -> None:
        self.problem = "not connected yet"
        self.last_acknowledged_s: float | None = None
        self._anew = asyncio.Event()
        self._route = route
        self._managers = managers
        self._manages = manages
        self._manager = ""
        self._fault = ""
        self._refused_as_removed = 0
        self._was_welcomed = False
        self._explaining: asyncio.Task[None] | None = None
        self.clock: ClockOffset | None = None
        self._sent_s: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self._acknowledged = asyncio.Event()
        self._node_id = bytes.fromhex(node_id)
        self._board = board
        self._journal = journal
        self._outbox = outbox
        self._describe = describe
        self._observed = observed
        self._random = random
        self._reconnects = reconnects
        self._usage = usage
        self._description = objects_pb2.NodeDescription()
        self._stale = asyncio.Event()
        # How often somebody asked for a description, and up to which time managers know it.
        self._asked = 0
        self._known = 0
        self._awaiting = 0
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

    async def publish(self, timeout_s: float = PUBLISH_TIMEOUT_S) -> str:
        """Describe this node anew and wait until the managers know; why they do not, if not in
        time, else nothing.

        Who has loaded an image wants to use it in the next command.
        """
        self.describe_again()
        goal = self._asked
        self._awaiting += 1
        try:
            async with asyncio.timeout(timeout_s), self._spread:
                await self._spread.wait_for(lambda: self._known >= goal)
        except TimeoutError:
            return self.problem or f"a manager has not confirmed it within {timeout_s:g} s"
        finally:
            self._awaiting -= 1
        return ""

    async def run(self) -> None:
        """Connect, converse, connect again, until cancelled."""
        try:
            await self._keep_connected()
        finally:
            if self._explaining is not None:
                self._explaining.cancel()

    async def _keep_connected(self) -> None:
        failures = redirects = 0
        while True:
            address = self._route.next()
            error = await self._until_lost(address)
            refusal = _refusal(error)
            stood = self.connected
            failures = 1 if stood else failures + 1
            self._note_removal(refusal)
            self._route.failed()
            redirects = 0 if stood else redirects
            if refusal.leader_address and redirects < REDIRECTS_MAX:
                redirects += 1
                self._route.redirect(refusal.leader_address)
                self.problem = "another manager leads; turning to that one"
                continue
            redirects = 0
            self._lost(address, error, failures)
            # A round through all of them counts as one failure.
            rounds = -(-failures // max(len(self._route.candidates()), 1))
            await asyncio.sleep(reconnect_pause_s(rounds, self._random()))

    async def _until_lost(self, address: str) -> Exception:
        """One stream to its end, and what ended it: whatever it was, containers go on."""
        try:
            await self._once(address)
        except asyncio.CancelledError:
            if rpc.cancelled_here():
                raise
            return SessionEndedError("the connection was closed")
        except Exception as error:  # noqa: BLE001 - told, and tried again
            return error
        return SessionEndedError("the stream has ended")

    def _lost(self, address: str, error: Exception, failures: int) -> None:
        refusal = _refusal(error)
        self.problem = f"no session with a manager: {refusal.message or 'no answer in time'}"
        level, trace = logging.WARNING if failures == 1 else logging.DEBUG, None
        if not isinstance(error, _EXPECTED) and (failures == 1 or self._fault != repr(error)):
            self._fault, level, trace = repr(error), logging.ERROR, error
        _log.log(level, "%s; containers go on, trying again", self.problem, exc_info=trace)
        looking = self._explaining is not None and not self._explaining.done()
        if refusal.code == "unavailable" and failures > 1 and not looking:
            self._explaining = asyncio.create_task(self._explain(address))

    async def _explain(self, address: str) -> None:
        """What gRPC says of a failed connection helps little; to find more takes a while."""
        why = await self._managers.explain(address)
        if why and not self.connected:
            self.problem = f"no session with a manager: {why}"

    def _note_removal(self, refusal: WarrenError) -> None:
        if refusal.code != "node_removed":
            return  # who does not lead, or does not answer, says nothing of it
        self._refused_as_removed += 1
        if self._refused_as_removed >= REMOVED_ANSWERS:
            self._managers.removed(refusal.message)

    async def _once(self, address: str) -> None:
        if not address:
            raise SessionEndedError("no manager is known; let this host join a cluster again")
        self._stale.clear()
        self._anew.clear()
        self._description = await self._describe()
        channel = self._managers.dial(address)
        call = rpc.Stub(channel, rpc.DISPATCHER).Session()
        try:
            # The hello tells everything that waits to be told.
            self._outbox.clear()
            hello = self._board.hello(self._node_id, self._description, self._observed())
            hello.manages = self._manages()
            await self._send(call, hello=hello)
            # No acknowledgement: a leader that was deposed and does not know it welcomes too.
            welcome = await self._welcomed(call)
            self._route.welcomed(address)
            self._manager = address
            if welcome.HasField("managers"):  # older releases do not say
                self._managers.told(welcome.managers)
            await self._converse(call, welcome)
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
        if self._was_welcomed:
            self._reconnects.inc()
        self._was_welcomed = True
        self.problem = ""
        self._refused_as_removed = 0
        _log.info("session with a manager", extra={"term": welcome.term})
        return welcome

    async def _converse(self, call: Any, welcome: session_pb2.Welcome) -> None:
        interval_s = max(welcome.heartbeat_interval_ms, HEARTBEAT_MIN_MS) / 1000
        self._sent_s.clear()
        self._acknowledged.clear()
        parts = [
            self._read(call),
            self._report(call),
            self._beat(call, interval_s),
            self._keep_describing(call),
            self._end_when_asked(),
        ]
        # A release that says who manages acknowledges heartbeats too.
        if welcome.HasField("managers"):
            parts.append(self._watch_silence(interval_s))
        raise _the_fault(await _until_one_ends(parts))

    async def _read(self, call: Any) -> None:
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise SessionEndedError("the manager ended the session")
            match message.WhichOneof("body"):
                case "assignments":
                    pass
                case "heartbeat_ack":
                    self._take_ack(message.heartbeat_ack)
                    continue
                case "managers":
                    self._managers.told(message.managers)
                    continue
                case _:
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
        sequence = 0
        while True:
            await asyncio.sleep(interval_s)
            sequence += 1
            self._sent_s[sequence] = (_boottime_s(), time.time())
            while len(self._sent_s) > UNACKNOWLEDGED_MAX:
                self._sent_s.popitem(last=False)
            heartbeat = session_pb2.Heartbeat(sequence=sequence, usage=self._usage())
            await self._send(call, heartbeat=heartbeat)

    def _take_ack(self, ack: session_pb2.HeartbeatAck) -> None:
        sent = self._sent_s.get(ack.sequence)
        if sent is None:
            return
        while self._sent_s and next(iter(self._sent_s)) <= ack.sequence:
            self._sent_s.popitem(last=False)
        sent_s, wall_s = sent
        if ack.time_ms:
            self.clock = ClockOffset.of(wall_s, _boottime_s() - sent_s, ack.time_ms / 1000)
        self.last_acknowledged_s = sent_s
        self._acknowledged.set()

    async def _watch_silence(self, interval_s: float) -> None:
        limit_s = max((SILENT_INTERVALS + 1) * interval_s, SILENCE_MIN_S)
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    await self._acknowledged.wait()
            except TimeoutError:
                raise SessionEndedError(
                    f"the manager has acknowledged no heartbeat for {limit_s:.0f} s"
                ) from None
            self._acknowledged.clear()

    async def _keep_describing(self, call: Any) -> None:
        while True:
            # Somebody waits, and managers were away, or are told with the hello of this stream.
            again = self._awaiting and self._asked > self._known
            try:
                async with asyncio.timeout(PUBLISH_AGAIN_S if again else DESCRIBE_AGAIN_S):
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
            async with asyncio.timeout(KNOWN_TIMEOUT_S):
                while True:
                    # The stream may be on one that is closing, after a renewal of certificates.
                    channel = self._managers.dial(self._manager)
                    manager = rpc.Stub(channel, rpc.MANAGER)
                    answer = await manager.GetNode(request, timeout=KNOWN_TIMEOUT_S)
                    # The rest may be told in another form than it is kept in.
                    if answer.node.node.description.images == description.images:
                        return True
                    await asyncio.sleep(PUBLISH_POLL_S)
        except (grpc.RpcError, WarrenError, TimeoutError):
            return False

    async def _send(self, call: Any, **body: Any) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S), self._writing:
            try:
                await call.write(session_pb2.WorkerMessage(**body))
            except asyncio.InvalidStateError:  # it ended between two messages, which is no fault
                raise SessionEndedError("the stream to the manager has ended") from None


def reconnect_pause_s(failures: int, random: float) -> float:
    """The pause before the next stream: doubling to 5 s, and spread over its second half so that
    the workers of a cluster do not come back all at once.
    """
    full = min(RECONNECT_FIRST_S * (1 << min(max(failures - 1, 0), 16)), RECONNECT_MAX_S)
    return full * (0.5 + random / 2)


def _refusal(error: Exception) -> WarrenError:
    if isinstance(error, WarrenError):
        return error
    if isinstance(error, grpc.RpcError):
        return rpc.failure(error)
    return WarrenError("internal", str(error) if isinstance(error, _EXPECTED) else repr(error))


def _boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_news(memory: Memory) -> bool:
    """Somebody waits for this one."""
    running = memory.state == objects_pb2.CONTAINER_STATE_RUNNING
    return running or is_terminal(memory) or memory.removed


async def _until_one_ends(parts: Iterable[Coroutine[Any, Any, None]]) -> list[BaseException]:
    """Run all until one ends; what each that failed says, the others being cancelled.

    Whose call was cancelled, with its channel, has ended too and says nothing.

    No task group: of one that fails while it is cancelled only the failure would come out.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [one for one in outcomes if isinstance(one, Exception)]


def _the_fault(faults: list[BaseException]) -> BaseException:
    """One fault ends the stream, and shows in each of its tasks: what nobody expects is the most
    telling, then the manager's own refusal, which says where to go next.
    """

    def telling(fault: BaseException) -> int:
        expected = isinstance(fault, grpc.RpcError | SessionEndedError | TimeoutError)
        return 0 if not expected else 1 if isinstance(fault, grpc.RpcError) else 2

    return min(faults, key=telling, default=SessionEndedError("the call was cancelled"))
