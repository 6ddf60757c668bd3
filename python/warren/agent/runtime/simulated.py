"""A runtime without containers, for tests and for scale: same interface, an injected clock.

What a container does is decided by ``behave``: by default it runs until it is stopped. Nothing is
random, and time passes only in ``clock``, so that a run can be repeated exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import msgspec

from warren.agent.runtime import model
from warren.agent.runtime.base import (
    Back,
    ContainerRequest,
    Exited,
    Lost,
    Observed,
    Oom,
    Phase,
    RuntimeEvent,
    RuntimeRefused,
    RuntimeUnavailable,
    Usage,
)
from warren.pb.v1 import objects_pb2

EVENTS_MAX: Final = 65_536


class Clock(Protocol):
    """Where the simulation takes its time from."""

    def now_ms(self) -> int:
        """Milliseconds since some epoch; never goes back."""

    async def sleep(self, ms: int) -> None:
        """Returns when so much time has passed."""


class RealClock:
    """Time as the event loop has it."""

    def now_ms(self) -> int:
        """Milliseconds of the loop's monotonic clock."""
        return int(asyncio.get_running_loop().time() * 1000)

    async def sleep(self, ms: int) -> None:
        """Sleeps."""
        await asyncio.sleep(ms / 1000)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt of a container does.

    ``exit_after_ms``: None runs until it is stopped. ``stop_after_ms``: how long it takes to end
    after SIGTERM; None ignores it. The ``refuse_`` ones are raised as they are.
    """

    create_ms: int = 0
    start_ms: int = 0
    exit_after_ms: int | None = None
    exit_code: int = 0
    oom_killed: bool = False
    stop_after_ms: int | None = 0
    refuse_create: RuntimeRefused | None = None
    refuse_start: RuntimeRefused | None = None


class _Container(msgspec.Struct):
    observed: Observed
    behaviour: Behaviour
    exiting: asyncio.Task[None] | None = None
    reserved: objects_pb2.Resources = objects_pb2.Resources()


class SimulatedRuntime:
    """`Runtime` in memory. Containers outlive `close`, as they do in earnest.

    ``before`` is awaited at each step, with its name (``create``, ``start``, ``stop``,
    ``delete``, ``list``, ``usage``) and the container's id: tests stop a daemon there.
    """

    def __init__(
        self,
        clock: Clock,
        behave: Callable[[ContainerRequest], Behaviour] = lambda _: Behaviour(),
        before: Callable[[str, str], Awaitable[None]] | None = None,
        version: str = "simulated",
    ) -> None:
        self.available = True
        self._clock = clock
        self._behave = behave
        self._before = before
        self._version = version
        self._containers: dict[str, _Container] = {}
        self._events: asyncio.Queue[RuntimeEvent] = asyncio.Queue(EVENTS_MAX)
        self._was_read = False
        self._next_pid = 1000

    async def open(self) -> None:
        """Gives `Back` at once if it is available."""
        if self.available:
            self._put(Back())

    async def close(self) -> None:
        """Does nothing: containers go on."""

    def go_away(self) -> None:
        """Every call fails from now on; containers go on and end unheard."""
        self.available = False
        self._put(Lost())

    def come_back(self) -> None:
        """Calls work again."""
        self.available = True
        self._put(Back())

    async def version(self) -> str:
        """A fixed name."""
        await self._step("version", "")
        return self._version

    async def list(self) -> list[Observed]:
        """Everything there is, sorted by id."""
        await self._step("list", "")
        return [self._containers[one].observed for one in sorted(self._containers)]

    async def usage(self) -> dict[str, Usage]:
        """Of those that run, as `model.used` has it."""
        await self._step("usage", "")
        now_ms = self._clock.now_ms()
        return {
            one: model.used(
                one,
                there.reserved.cpu_milli,
                there.reserved.memory_bytes,
                now_ms - there.observed.started_at_ms,
            )
            for one, there in sorted(self._containers.items())
            if there.observed.phase is Phase.RUNNING
        }

    async def create(self, request: ContainerRequest) -> int:
        """See `Runtime.create`."""
        await self._step("create", request.id)
        there = self._containers.get(request.id)
        if there is not None:
            same = there.observed.attempt == request.attempt
            if same and there.observed.phase is not Phase.REMNANT:
                return there.observed.pid
            raise RuntimeRefused(
                f"the container {request.id} has a remnant here; delete it first", permanent=False
            )
        behaviour = self._behave(request)
        await self._clock.sleep(behaviour.create_ms)
        if behaviour.refuse_create is not None:
            raise behaviour.refuse_create
        self._next_pid += 1
        observed = Observed(
            id=request.id,
            attempt=request.attempt,
            spec_digest=request.spec_digest,
            phase=Phase.CREATED,
            pid=self._next_pid,
        )
        self._containers[request.id] = _Container(
            observed, behaviour, reserved=request.spec.resources
        )
        return observed.pid

    async def start(self, container_id: str, /) -> int:
        """See `Runtime.start`."""
        await self._step("start", container_id)
        there = self._containers.get(container_id)
        if there is None or there.observed.phase in (Phase.REMNANT, Phase.STOPPED):
            raise RuntimeRefused(f"the container {container_id} is not created", permanent=False)
        if there.observed.phase is Phase.CREATED:
            await self._clock.sleep(there.behaviour.start_ms)
            if there.behaviour.refuse_start is not None:
                raise there.behaviour.refuse_start
            self._set(there, phase=Phase.RUNNING, started_at_ms=self._clock.now_ms())
            if there.behaviour.exit_after_ms is not None:
                there.exiting = asyncio.create_task(
                    self._exit_later(there, there.behaviour.exit_after_ms)
                )
        return there.observed.pid

    async def stop(self, container_id: str, timeout_ms: int, /) -> None:
        """See `Runtime.stop`."""
        await self._step("stop", container_id)
        there = self._containers.get(container_id)
        if there is None or there.observed.phase not in (Phase.RUNNING, Phase.CREATED):
            return
        wait_ms = there.behaviour.stop_after_ms
        if there.observed.phase is Phase.CREATED:
            self._end(there, 137)
        elif wait_ms is not None and wait_ms <= timeout_ms:
            await self._clock.sleep(wait_ms)
            self._end(there, 143)
        else:
            await self._clock.sleep(timeout_ms)
            self._end(there, 137)

    async def delete(self, container_id: str, /) -> None:
        """See `Runtime.delete`."""
        await self._step("delete", container_id)
        there = self._containers.pop(container_id, None)
        if there is not None and there.exiting is not None:
            there.exiting.cancel()

    def plant(self, observed: Observed, behaviour: Behaviour | None = None) -> None:
        """Puts something there that nobody created: a remnant, a stray, an old attempt."""
        chosen = behaviour or Behaviour()
        self._containers[observed.id] = _Container(observed, chosen)

    def end(self, container_id: str, exit_code: int, *, oom_killed: bool = False) -> None:
        """Lets a running container end now."""
        there = self._containers[container_id]
        if oom_killed and self.available:
            self._put(Oom(container_id))
        self._end(there, exit_code, oom_killed=oom_killed)

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """Events as they come, without end. A second reader begins anew."""
        if self._was_read:
            while not self._events.empty():
                self._events.get_nowait()
            if self.available:
                yield Back()
        self._was_read = True
        while True:
            yield await self._events.get()

    async def _step(self, name: str, container_id: str) -> None:
        if self._before is not None:
            await self._before(name, container_id)
        if not self.available:
            raise RuntimeUnavailable("the simulated runtime is away")

    async def _exit_later(self, container: _Container, after_ms: int) -> None:
        await self._clock.sleep(after_ms)
        behaviour = container.behaviour
        if behaviour.oom_killed and self.available:
            self._put(Oom(container.observed.id))
        self._end(container, behaviour.exit_code, oom_killed=behaviour.oom_killed)

    def _end(self, container: _Container, exit_code: int, *, oom_killed: bool = False) -> None:
        if container.observed.phase is Phase.STOPPED:
            return
        at_ms, pid = self._clock.now_ms(), container.observed.pid
        self._set(
            container,
            phase=Phase.STOPPED,
            pid=0,
            exit_code=exit_code,
            exited_at_ms=at_ms,
            oom_killed=oom_killed,
        )
        if self.available:
            self._put(Exited(container.observed.id, exit_code, at_ms, oom_killed, pid))

    def _set(self, container: _Container, **changes: object) -> None:
        container.observed = msgspec.structs.replace(container.observed, **changes)

    def _put(self, event: RuntimeEvent) -> None:
        if self._events.full():
            # As in earnest: what was missed is found by listing.
            while not self._events.empty():
                self._events.get_nowait()
            self._events.put_nowait(Lost())
            self._events.put_nowait(Back())
        self._events.put_nowait(event)
