"""What `/live`, `/health` and `/ready` say.

Components register a check, or a reading where their state is at hand. While anybody asks, a
background task measures each check again and again; an answer is made from what was measured at
most STALE_MS ago, so that probes cost nothing and never hang, and a component that dies shows
within two seconds. What is older (the first to ask after a pause, a background task that was held
up) is measured before it is told. A reading is taken for every answer: a daemon that has refused a
write must not call itself ready a moment later. Nobody asking, the task looks every
IDLE_REFRESH_MS, for the log.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

REFRESH_MS: Final = 800
IDLE_REFRESH_MS: Final = 10_000
ASKED_MS: Final = 5_000  # after the last question, how long the next is expected
CHECK_TIMEOUT_MS: Final = 500
STALE_MS: Final = 1000

NO_CLUSTER: Final = (
    "this host belongs to no cluster yet: run `warrenctl cluster init` to create one here"
)

#: Every component that a daemon may have.
COMPONENTS: Final = ("api", "containerd", "raft", "session")

CheckResult = tuple[bool, str]
Check = Callable[[], Awaitable[CheckResult]]
Reading = Callable[[], CheckResult]
Details = Callable[[], Mapping[str, object]]

_log = logging.getLogger("warren.health")


class Role(enum.Flag):
    """What this daemon is in its cluster; `NONE` while it belongs to none."""

    NONE = 0
    MANAGER = enum.auto()
    WORKER = enum.auto()


def critical_components(role: Role) -> tuple[str, ...]:
    """The components that `/ready` waits for: what the role has.

    A worker that is no manager has no `raft`, but depends on its `session` with one.
    """
    if role is Role.NONE:
        return ()
    names = ["raft"] if Role.MANAGER in role else ["session"]
    if Role.WORKER in role:
        names.append("containerd")
    return (*names, "api")


def format_uptime(seconds: float) -> str:
    """`2h15m30s`: whole seconds, without leading zero units."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minute}m{second}s"
    return f"{minute}m{second}s" if minute else f"{second}s"


def format_time(when: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2031-05-04T03:02:01.123Z`."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """A probe's answer: whether it is a 200 or a 503, and the body's fields."""

    ok: bool
    body: dict[str, object]


@dataclass(slots=True)
class _Component:
    name: str
    check: Check | None = None
    reading: Reading | None = None
    why: str = "not checked yet"
    measured_at: float = float("-inf")
    details: Details = dict
    since: datetime | None = None
    running: asyncio.Task[None] | None = None


class Health:
    """The health of one daemon. `clock` is monotonic, in seconds; `wall` gives the date."""

    def __init__(
        self,
        version: str,
        *,
        role: Role = Role.NONE,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        refresh_ms: int = REFRESH_MS,
        check_timeout_ms: int = CHECK_TIMEOUT_MS,
        stale_ms: int = STALE_MS,
    ) -> None:
        self._version = version
        self._role = role
        self._outside = NO_CLUSTER
        self._clock = clock
        self._wall = wall
        self._started_at = clock()
        self._refresh = refresh_ms / 1000
        self._timeout = check_timeout_ms / 1000
        self._stale = stale_ms / 1000
        self._asked_at = float("-inf")
        self._components: dict[str, _Component] = {}
        self._changed = asyncio.Event()

    def add(self, name: str, check: Check, details: Details = dict) -> None:
        """Register a component. `check` answers `(ok, why not)`; raising or taking longer than
        the time limit is a failure too. `details` gives at once what the component's own page says
        besides. ValueError when the name is taken.
        """
        self._add(_Component(name, check=check, details=details))

    def add_at_hand(self, name: str, reading: Reading, details: Details = dict) -> None:
        """Register a component whose state is at hand. `reading` answers as a check does, but at
        once: it is taken on the event loop for every answer. ValueError when the name is taken.
        """
        self._add(_Component(name, reading=reading, details=details))

    def _add(self, component: _Component) -> None:
        if component.name in self._components:
            raise ValueError(f"health component {component.name!r} is registered already")
        self._components[component.name] = component

    def remove(self, name: str) -> None:
        """Forget a component; nothing happens when it is not registered."""
        component = self._components.pop(name, None)
        if component is not None and component.running is not None:
            component.running.cancel()

    def set_role(self, role: Role, outside: str = NO_CLUSTER) -> None:
        """What `/ready` waits for from now on; `outside`: what it says where that is a cluster."""
        self._role = role
        self._outside = outside

    def changed(self) -> None:
        """Something that a check looks at has changed: `run` measures now, not at its next turn."""
        self._changed.set()

    async def run(self) -> None:
        """Measure all components every `refresh_ms` while somebody asks, else every
        IDLE_REFRESH_MS, and on `changed`, until cancelled.
        """
        while True:
            self._changed.clear()
            await self._measure(list(self._components.values()))
            self._read()
            idle = not self._is_asked()
            pause = max(self._refresh, IDLE_REFRESH_MS / 1000) if idle else self._refresh
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def live(self) -> Answer:
        """`/live`: that there is an answer is the answer."""
        return Answer(True, {"status": "alive", "uptime": self._uptime()})

    async def health(self) -> Answer:
        """`/health`: whether every component that exists works."""
        await self._measure_stale()
        why = self._why_not()
        states = {name: f"unhealthy: {why[name]}" if why[name] else "healthy" for name in why}
        failed = [name for name in why if why[name]]
        message = f"failing: {', '.join(failed)}" if failed else ""
        return self._answer(not failed, ("healthy", "unhealthy"), states, message)

    async def ready(self) -> Answer:
        """`/ready`: whether all that the role needs works, and if not, what it waits for."""
        await self._measure_stale()
        why = self._why_not()
        critical = critical_components(self._role)
        why |= {name: "not started yet" for name in critical if name not in why}
        states = {name: f"not ready: {why[name]}" if why[name] else "ready" for name in why}
        waiting = [f"{name} ({why[name]})" for name in critical if why[name]]
        message = f"waiting for {', '.join(waiting)}" if waiting else ""
        if self._role is Role.NONE:
            message = self._outside
        return self._answer(not message, ("ready", "not_ready"), states, message)

    async def look(self) -> None:
        """Measure what is old, for `works`. Not taken for a question: the next may be far away."""
        await self._measure_old()

    def works(self) -> dict[str, bool]:
        """Of each component that exists, whether it worked when it was looked at last."""
        return {name: not why for name, why in self._why_not().items()}

    async def component(self, name: str) -> Answer | None:
        """A component's own page, `/health/<name>`; None where this daemon has no such thing now.

        `since`: when it began to be as it is, as far as this process saw; `measured_ms_ago`: how
        old the answer is.
        """
        if name not in self._components:
            return None
        await self._measure_stale()
        component, why = self._components.get(name), self._why_not().get(name)
        if component is None or why is None:
            return None
        body: dict[str, object] = {
            "status": "unhealthy" if why else "healthy",
            "timestamp": format_time(self._wall()),
            "component": name,
            "critical": name in critical_components(self._role),
        }
        if component.since is not None:
            body["since"] = format_time(component.since)
            body["measured_ms_ago"] = round((self._clock() - component.measured_at) * 1000)
        if why:
            body["message"] = why
        body["details"] = dict(component.details())
        return Answer(not why, body)

    def _why_not(self) -> dict[str, str]:
        """Why each component does not work; empty for those that do."""
        self._read()
        oldest = self._clock() - self._stale
        return {
            name: component.why if component.measured_at >= oldest else "its check hangs"
            for name, component in sorted(self._components.items())
        }

    def _uptime(self) -> str:
        return format_uptime(self._clock() - self._started_at)

    def _answer(
        self, ok: bool, statuses: tuple[str, str], states: dict[str, str], message: str
    ) -> Answer:
        body: dict[str, object] = {
            "status": statuses[0] if ok else statuses[1],
            "timestamp": format_time(self._wall()),
            "version": self._version,
            "uptime": self._uptime(),
            "components": states,
        }
        if message:
            body["message"] = message
        return Answer(ok, body)

    def _is_asked(self) -> bool:
        return self._clock() - self._asked_at <= ASKED_MS / 1000

    async def _measure_stale(self) -> None:
        if not self._is_asked():
            self.changed()  # `run` is in a long pause
        self._asked_at = self._clock()
        await self._measure_old()

    async def _measure_old(self) -> None:
        oldest = self._clock() - self._stale
        stale = [c for c in self._components.values() if c.measured_at < oldest]
        if stale:
            await self._measure(stale)

    async def _measure(self, components: list[_Component]) -> None:
        """Measure those with a check side by side; joins a measurement that is under way."""
        for component in components:
            under_way = component.running is not None and not component.running.done()
            if component.check is not None and not under_way:
                component.running = asyncio.create_task(self._check(component, component.check))
        running = [c.running for c in components if c.running is not None]
        if running:
            # Twice: a check that does not even heed its cancellation must not hold up the rest.
            await asyncio.wait(running, timeout=2 * self._timeout)

    async def _check(self, component: _Component, check: Check) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                result = await check()
        except TimeoutError:
            result = False, f"no answer within {self._timeout * 1000:.0f} ms"
        except Exception as error:  # noqa: BLE001 - whatever a check raises is its answer
            result = _failure(error)
        self._note(component, result)

    def _read(self) -> None:
        for component in self._components.values():
            if component.reading is not None:
                try:
                    result = component.reading()
                except Exception as error:  # noqa: BLE001 - as with a check
                    result = _failure(error)
                self._note(component, result)

    def _note(self, component: _Component, result: CheckResult) -> None:
        ok, why = result
        # The first result is news whatever it is.
        if component.since is None or ok == bool(component.why):
            level = logging.INFO if ok else logging.WARNING
            state = "works" if ok else "does not work"
            _log.log(level, "%s %s", component.name, state, extra={"why": why} if why else None)
            component.since = self._wall()
        component.why = "" if ok else why or "no reason given"
        component.measured_at = self._clock()


def _failure(error: Exception) -> CheckResult:
    return False, str(error) or type(error).__name__
