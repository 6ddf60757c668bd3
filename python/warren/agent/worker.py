"""Makes the containers of this host what they should be, again and again.

The worker holds three tables (assigned, observed, remembered), asks `converge` what to do about
what changed, and does it: one action per container at a time, a bounded number at once. It works
from its store alone where no manager answers, and waits where the runtime does not.

Everything here runs on the event loop; only the store's writer and file removal use threads.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from warren.agent import converge as plans
from warren.agent.board import Board
from warren.agent.contact import ContactWatch
from warren.agent.converge import Assigned, Create, Delete, Memory, Start, Stop
from warren.agent.devices import DeviceMap
from warren.agent.outbox import Outbox
from warren.agent.runtime.base import (
    Back,
    ContainerRequest,
    Exited,
    Lost,
    Observed,
    Oom,
    Phase,
    Runtime,
    RuntimeEvent,
    RuntimeRefused,
    RuntimeUnavailable,
)
from warren.agent.store import Journal
from warren.agent.volumes import VolumeMap

__all__ = ["Durations", "Worker"]

STOPS_MAX: Final = 64  # a stop mostly waits for the container, and keeps no core busy
# On a disk that hangs they would hold all of the loop's threads, which others need.
PURGES_MAX: Final = 2
SWEEP_S: Final = 30.0  # everything is listed again, whether or not an event asked for it
LIST_RETRY_S: Final = 1.0
CONTACT_S: Final = 1.0  # managers wait for ten more seconds than a container may take to stop
EXIT_EVENT_WAIT_S: Final = 0.5
_log = logging.getLogger("warren.worker")

RuntimeAction = Create | Start | Stop | Delete


class _Duration(Protocol):
    def observe_with(self, seconds: float, example: str, /) -> None: ...


class Durations(Protocol):
    """Where the times of container operations go, in seconds."""

    @property
    def create(self) -> _Duration: ...
    @property
    def start(self) -> _Duration: ...
    @property
    def stop(self) -> _Duration: ...


class Worker:
    """One host's containers. `clock_ms`: milliseconds since the epoch. `run` does everything.

    `contact`: with the managers, for what must not run for long without; None: there always is.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        board: Board,
        journal: Journal,
        outbox: Outbox,
        node_name: str,
        logs_dir: Path,
        clock_ms: Callable[[], int],
        durations: Durations,
        concurrency: int = 8,
        contact: ContactWatch | None = None,
        devices: DeviceMap = DeviceMap(),  # noqa: B008 - nothing changes it
        volumes: VolumeMap = VolumeMap(),  # noqa: B008 - nothing changes it
    ) -> None:
        self._runtime = runtime
        self._devices = devices
        self._volumes = volumes
        self._board = board
        self._journal = journal
        self._outbox = outbox
        self._node_name = node_name
        self._logs_dir = logs_dir
        self._clock_ms = clock_ms
        self._durations = durations
        self._concurrency = concurrency
        self._contact = contact
        self._observed: dict[str, Observed] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._held: dict[str, _Hold] = {}
        self._exit_waits: dict[str, asyncio.Event] = {}
        # Attempts by container in which memory ran out; replaced rather than shrunk, since scrapes
        # read it from another thread.
        self.oom_kills: dict[str, int] = {}
        # What was touched after a listing began is newer than what the listing says of it.
        self._touched: dict[str, int] = {}
        self._touches = 0
        self._wakeup_ms: int | None = None
        self._wake = asyncio.Event()
        self._list_wanted = asyncio.Event()
        self._listing = False
        self._runtime_up = False
        self._logs_swept = False
        self._purges: set[asyncio.Task[None]] = set()
        self._purging = asyncio.Semaphore(PURGES_MAX)
        self._listed = asyncio.Event()
        self._list_later: asyncio.TimerHandle | None = None
        self.on_runtime_change: Callable[[], None] = lambda: None
        board.on_change = self._wake.set

    @property
    def runtime_up(self) -> bool:
        """The runtime answered last time, as far as its events tell."""
        return self._runtime_up

    @property
    def listed(self) -> bool:
        """The runtime was listed once, so that what is on this host is known."""
        return self._listed.is_set()

    async def first_listing(self, timeout_s: float) -> bool:
        """Wait until it was; False where the runtime does not answer within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._listed.wait()
        except TimeoutError:
            return False
        return True

    @property
    def busy(self) -> int:
        """Actions under way; at most `concurrency`, and STOPS_MAX stops beside them."""
        return len(self._busy)

    @property
    def observed(self) -> dict[str, Observed]:
        """What is on this host, as far as known; not to be changed."""
        return self._observed

    async def run(self) -> None:
        """Work until cancelled. Containers, and actions that containerd has begun, go on."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._journal.run())
                group.create_task(self._follow_events())
                group.create_task(self._keep_listing())
                group.create_task(self._keep_converging())
                if self._contact is not None:
                    group.create_task(self._watch_contact(self._contact))
        finally:
            if self._contact is not None:
                self._contact.save()
            if self._list_later is not None:
                self._list_later.cancel()
            under_way = [*self._busy.values(), *self._purges]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    # What the runtime says

    async def _follow_events(self) -> None:
        async for event in self._runtime.events():
            self._take(event)

    def _take(self, event: RuntimeEvent) -> None:
        match event:
            case Lost():
                self._runtime_up = False
                self.on_runtime_change()
                _log.warning("containerd does not answer; containers go on, changes wait for it")
            case Back():
                self._runtime_up = True
                self.on_runtime_change()
                _log.info("containerd answers")
                self._list_wanted.set()
            case Oom(id=container_id):
                self._amend(container_id, oom_killed=True)
            case Exited():
                self._take_exit(event)

    def _take_exit(self, event: Exited) -> None:
        seen = self._observed.get(event.id)
        # A late word about an earlier attempt. Times would not tell: the wall clock may jump.
        if seen is not None and seen.pid and event.pid and seen.pid != event.pid:
            return
        self._amend(
            event.id,
            phase=Phase.STOPPED,
            pid=0,
            exit_code=event.exit_code,
            exited_at_ms=event.at_ms,
            oom_killed=event.oom_killed or (seen is not None and seen.oom_killed),
        )
        if (waiting := self._exit_waits.get(event.id)) is not None:
            waiting.set()

    def _amend(self, container_id: str, **changes: object) -> None:
        if (seen := self._observed.get(container_id)) is not None:
            self._see(container_id, msgspec.structs.replace(seen, **changes))
        elif self._listing:
            # The listing may have looked at it before that, and nothing here can be amended.
            self._list_wanted.set()

    def _see(self, container_id: str, observed: Observed | None) -> None:
        self._touches += 1
        self._touched[container_id] = self._touches
        if observed is None:
            self._observed.pop(container_id, None)
        else:
            self._count_oom(observed)
            self._observed[container_id] = observed
        self._board.mark(container_id)

    def _count_oom(self, observed: Observed) -> None:
        """Before it is noted what was observed: once for each attempt."""
        if not observed.oom_killed:
            return
        seen = self._observed.get(observed.id)
        if seen is None or not seen.oom_killed or seen.attempt != observed.attempt:
            self.oom_kills[observed.id] = self.oom_kills.get(observed.id, 0) + 1

    async def _keep_listing(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._list_wanted.wait()
            except TimeoutError:
                if not self._runtime_up:
                    continue
            self._list_wanted.clear()
            self._listing = True
            try:
                await self._list()
            except (RuntimeUnavailable, RuntimeRefused) as error:
                _log.debug("containers cannot be listed: %s", error)
                await asyncio.sleep(LIST_RETRY_S)
                self._list_wanted.set()
            finally:
                self._listing = False

    async def _list(self) -> None:
        began = self._touches
        found = {seen.id: seen for seen in await self._runtime.list()}
        for container_id in found.keys() | self._observed.keys():
            if container_id in self._busy or self._touched.get(container_id, 0) > began:
                continue
            seen = found.get(container_id)
            if seen is None:
                self._observed.pop(container_id, None)
            else:
                self._count_oom(seen)
                self._observed[container_id] = seen
        kept = self._board.assignments.keys() | self._observed.keys()
        self.oom_kills = {one: kills for one, kills in self.oom_kills.items() if one in kept}
        self._touched = {
            container_id: at for container_id, at in self._touched.items() if at > began
        }
        if not self.listed:
            self.on_runtime_change()
        self._listed.set()
        self._board.mark_all()

    def _list_soon(self) -> None:
        """For what the runtime could not say: asking again at once would ask without end."""
        if self._list_later is None:
            self._list_later = asyncio.get_running_loop().call_later(LIST_RETRY_S, self._list_again)

    def _list_again(self) -> None:
        self._list_later = None
        self._list_wanted.set()

    # What to do about it

    async def _keep_converging(self) -> None:
        while True:
            timeout = None
            if self._wakeup_ms is not None:
                # The wall clock may jump; nothing waits for longer than the longest pause.
                pause_ms = min(self._wakeup_ms - self._clock_ms(), plans.BACKOFF_MAX_MS)
                timeout = max(0, pause_ms) / 1000
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                self._wakeup_ms = None
                self._board.mark_all()
            self._wake.clear()
            if self._listed.is_set():
                self._converge()
            if self._board.set_known and not self._logs_swept:
                self._logs_swept = True
                self._spawn(self._sweep_logs())

    async def _watch_contact(self, watch: ContactWatch) -> None:
        """Look again at what may run no longer, or may again.

        Once a second rather than when it is due: timers stand still while the host sleeps.
        """
        allowed: dict[str, bool] = {}
        while True:
            contact = watch.now()
            limited = {i: a for i, a in self._board.assigned.items() if a.stop_after_ms}
            now_allowed = {i: plans.is_allowed(a, contact) for i, a in limited.items()}
            changed = [i for i, may in now_allowed.items() if allowed.get(i, True) != may]
            if changed:
                self._board.mark(*changed)
            allowed = now_allowed
            watch.tend(assigned.stop_after_ms / 1000 for assigned in limited.values())
            await asyncio.sleep(CONTACT_S)

    def _converge(self) -> None:
        now_ms = self._clock_ms()
        ids = [
            container_id
            for container_id in self._board.take_marked(self._observed)
            if container_id not in self._busy
        ]
        ids = [container_id for container_id in ids if not self._held_back(container_id, now_ms)]
        plan = plans.converge(
            self._board.assigned,
            self._observed,
            self._board.memory,
            now_ms,
            ids=(
                container_id for container_id in ids if container_id not in self._board.without_spec
            ),
            set_known=self._board.set_known,
            contact=None if self._contact is None else self._contact.now(),
        )
        for action in plan.actions:
            self._act(action)
        if plan.wakeup_ms is not None:
            self._wake_by(plan.wakeup_ms)

    def _act(self, action: plans.Action) -> None:
        match action:
            case plans.Report(id=container_id, memory=memory):
                self._remember(container_id, memory)
            case plans.Forget(id=container_id):
                self._board.remember(container_id, None)
                self._held.pop(container_id, None)
            case plans.Inspect():
                self._list_soon()
            case Create() | Start() | Stop() | Delete():
                self._begin(action)

    def _begin(self, action: RuntimeAction) -> None:
        if not self._runtime_up:
            return  # everything is marked again when it is back
        if not self._has_room_for(action):
            self._board.mark(action.id, wake=False)  # asked again when an action ends
            return
        task = asyncio.create_task(self._perform(action), name=f"container {action.id}")
        self._busy[action.id] = task
        if isinstance(action, Stop):
            self._stopping.add(action.id)

    def _has_room_for(self, action: RuntimeAction) -> bool:
        if isinstance(action, Stop):
            return action.urgent or len(self._stopping) < STOPS_MAX
        return len(self._busy) - len(self._stopping) < self._concurrency

    def _remember(self, container_id: str, memory: Memory) -> None:
        before = self._board.memory.get(container_id)
        self._board.remember(container_id, memory)
        self._outbox.put(container_id, memory)
        if memory.removed and not (before is not None and before.removed):
            self._spawn(self._purge_logs(container_id))
        if before is None or (before.attempt, before.state) != (memory.attempt, memory.state):
            self._board.log_transition(container_id, memory)

    def _held_back(self, container_id: str, now_ms: int) -> bool:
        hold = self._held.get(container_id)
        # A clock that jumped back must not hold anything for longer than the longest pause.
        if hold is None or not now_ms < hold.until_ms <= now_ms + plans.BACKOFF_MAX_MS:
            return False
        self._wake_by(hold.until_ms)
        return True

    def _wake_by(self, at_ms: int) -> None:
        if self._wakeup_ms is None or at_ms < self._wakeup_ms:
            self._wakeup_ms = at_ms

    # Doing it

    async def _perform(self, action: RuntimeAction) -> None:
        container_id = action.id
        try:
            await self._execute(action)
            self._held.pop(container_id, None)
        except RuntimeUnavailable:
            # Nobody knows how far it came.
            seen = self._observed.get(container_id) or Observed(
                id=container_id, attempt=0, spec_digest="", phase=Phase.UNKNOWN
            )
            self._see(container_id, msgspec.structs.replace(seen, phase=Phase.UNKNOWN))
            self._list_wanted.set()
        except RuntimeRefused as refusal:
            self._refused(action, refusal)
        except Exception as error:  # noqa: BLE001 - one container's fault is not the others'
            _log.exception("a container operation failed unexpectedly", extra=self._about(action))
            self._hold(action, f"internal error: {error!r}")
        finally:
            del self._busy[container_id]
            self._stopping.discard(container_id)
            self._board.mark(container_id)

    def _about(self, action: RuntimeAction) -> dict[str, object]:
        return self._board.about(action.id) | {"operation": type(action).__name__.lower()}

    async def _execute(self, action: RuntimeAction) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        match action:
            case Create():
                await self._create(action)
                self._durations.create.observe_with(loop.time() - began, action.id)
            case Start():
                await self._start(action)
                self._durations.start.observe_with(loop.time() - began, action.id)
            case Stop():
                await self._stop(action)
                self._durations.stop.observe_with(loop.time() - began, action.id)
            case Delete():
                await self._delete(action)

    async def _create(self, action: Create) -> None:
        assignment = self._board.assignments[action.id]
        digest = assignment.spec_digest
        given = self._devices.given(assignment.devices)
        pid = await self._runtime.create(
            ContainerRequest(
                id=action.id,
                attempt=action.attempt,
                service_id=assignment.service_id.hex(),
                service_name=assignment.service_name,
                slot=assignment.slot,
                spec_digest=digest.hex(),
                spec=self._volumes.resolved(self._board.specs[digest]),
                log_dir=self._logs_dir / action.id,
                node_name=self._node_name,
                device_paths=given.paths,
                device_env=given.env,
            )
        )
        made = Observed(
            id=action.id,
            attempt=action.attempt,
            spec_digest=digest.hex(),
            phase=Phase.CREATED,
            pid=pid,
        )
        self._see(action.id, made)

    async def _start(self, action: Start) -> None:
        pid = await self._runtime.start(action.id)
        seen = self._observed.get(action.id)
        # It may have ended before the answer to `start` came; then the event was here first.
        if seen is not None and seen.phase is Phase.CREATED:
            self._amend(action.id, phase=Phase.RUNNING, pid=pid, started_at_ms=self._clock_ms())

    async def _stop(self, action: Stop) -> None:
        ended = self._exit_waits[action.id] = asyncio.Event()
        try:
            await self._runtime.stop(action.id, action.timeout_ms)
            await self._exit_code_of(action.id, ended)
        finally:
            del self._exit_waits[action.id]

    async def _exit_code_of(self, container_id: str, ended: asyncio.Event) -> None:
        """The exit event follows the end of `stop` closely; without it there is no exit code."""
        try:
            async with asyncio.timeout(EXIT_EVENT_WAIT_S):
                await ended.wait()
        except TimeoutError:
            seen = self._observed.get(container_id)
            if seen is not None and seen.phase is Phase.RUNNING:
                self._amend(container_id, phase=Phase.STOPPED, pid=0, exited_at_ms=self._clock_ms())

    async def _delete(self, action: Delete) -> None:
        # Until it is deleted the runtime tells how it ended; afterwards only the store does.
        await self._journal.durable()
        await self._runtime.delete(action.id)
        if action.logs:
            await self._purge_logs(action.id)
        self._see(action.id, None)

    async def _purge_logs(self, container_id: str) -> None:
        async with self._purging:
            await asyncio.to_thread(shutil.rmtree, self._logs_dir / container_id, True)

    async def _sweep_logs(self) -> None:
        """Logs of containers that went while this daemon was killed half-way through."""
        # Listed first, chosen then: what is assigned meanwhile is not among the names.
        for name in await asyncio.to_thread(
            lambda: [path.name for path in self._logs_dir.glob("*")]
        ):
            if name not in self._board.assignments and name not in self._observed:
                await self._purge_logs(name)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    def _refused(self, action: RuntimeAction, refusal: RuntimeRefused) -> None:
        wanted = self._board.assigned.get(action.id)
        memory = self._board.memory.get(action.id)
        if isinstance(action, Create | Start) and wanted is not None and memory is not None:
            self._attempt_failed(action, wanted, memory, refusal)
        else:
            self._hold(action, refusal.message)

    def _attempt_failed(
        self, action: Create | Start, wanted: Assigned, memory: Memory, refusal: RuntimeRefused
    ) -> None:
        failed = plans.failed_attempt(
            wanted, memory, refusal.message, self._clock_ms(), permanent=refusal.permanent
        )
        self._remember(action.id, failed)
        # Whatever is left of it goes before the next attempt; deleting nothing is no fault.
        rest = Observed(id=action.id, attempt=action.attempt, spec_digest="", phase=Phase.REMNANT)
        self._see(action.id, rest)

    def _hold(self, action: RuntimeAction, why: str) -> None:
        """Try no more for a while: 1, 2, 4 … 60 s."""
        before = self._held.get(action.id)
        failures = 1 if before is None else before.failures + 1
        pause_ms = plans.backoff_ms(failures)
        self._held[action.id] = _Hold(failures, self._clock_ms() + pause_ms)
        verb = type(action).__name__.lower()
        _log.warning(
            "could not %s a container; trying again after %d s: %s",
            verb,
            pause_ms // 1000,
            why,
            extra=self._about(action),
        )
        self._list_wanted.set()


class _Hold(msgspec.Struct, frozen=True):
    failures: int
    until_ms: int
