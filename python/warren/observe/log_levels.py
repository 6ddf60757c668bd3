"""From which level on lines are written: as configured, and by component what was asked since."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from warren.observe.log_lines import LEVELS, level_number

__all__ = ["ALL", "COMPONENTS", "DEFAULT", "OTHER", "LevelRow", "Levels", "UnknownError"]

ALL: Final = "all"
DEFAULT: Final = "default"
OTHER: Final = "other"
"""In metrics, whatever is none of COMPONENTS: libraries."""

COMPONENTS: Final = (
    "api",
    "backup",
    "cluster",
    "control",
    "daemon",
    "health",
    "log",
    "node",
    "observe",
    "peer",
    "peers",
    "raft",
    "runtime",
    "session",
    "snapshot",
    "tls",
    "wal",
    "worker",
    "worker.store",
)
"""Those that log, in Python and in the core; a test compares them with the sources."""


class UnknownError(ValueError):
    """No such component or level; the sentence says which there are."""


class LevelRow(NamedTuple):
    """The level of one component, or of `all`. `remaining_s`: 0 where it does not end."""

    component: str
    level: str
    changed: bool
    remaining_s: float


class _Own(NamedTuple):
    level: str
    end_s: float | None


class Levels:
    """The level of each component. What is set for `worker` counts for `worker.store` too.

    `clock`: seconds of a monotonic clock. For any thread.
    """

    def __init__(self, configured: str, clock: Callable[[], float] = time.monotonic) -> None:
        level_number(configured)
        self.configured = configured
        self._clock = clock
        self._own: dict[str, _Own] = {}
        self._lock = threading.RLock()

    def configure(self, level: str) -> None:
        """Another level is configured. ValueError when it is none of LEVELS."""
        level_number(level)
        self.configured = level

    def set(self, component: str, level: str, for_s: float = 0.0) -> None:
        """Give `component`, or `all`, a level of its own: for good, or for `for_s` seconds.

        `default` takes it away; with `all`, everyone's. Raises UnknownError.
        """
        if component not in (ALL, *COMPONENTS):
            raise UnknownError(
                f"no component '{component}' logs; there are {ALL}, {', '.join(COMPONENTS)}"
            )
        if level not in (DEFAULT, *LEVELS):
            raise UnknownError(f"no level '{level}'; there are {DEFAULT}, {', '.join(LEVELS)}")
        with self._lock:
            if level != DEFAULT:
                self._own[component] = _Own(level, self._clock() + for_s if for_s > 0 else None)
            elif component == ALL:
                self._own.clear()
            else:
                self._own.pop(component, None)

    def level(self, component: str) -> str:
        """The level of a component; of `all`: of those that have none of their own."""
        name = component
        while name:
            if (own := self._own.get(name)) is not None:
                return own.level
            name = name.rpartition(".")[0]
        for_all = self._own.get(ALL)
        return self.configured if for_all is None else for_all.level

    def threshold(self, component: str) -> int:
        """The same as a number of Python's logging."""
        return LEVELS[self.level(component)]

    @property
    def any_debug(self) -> bool:
        """Whether some component logs from debug."""
        return any(self.level(name) == "debug" for name in COMPONENTS)

    def own(self) -> dict[str, str]:
        """The components that have a level of their own, and `all` if it has one."""
        with self._lock:
            return {name: own.level for name, own in self._own.items()}

    @property
    def ending(self) -> bool:
        """Whether one of them ends by itself, which `expire` does."""
        with self._lock:
            return any(own.end_s is not None for own in self._own.values())

    def expire(self) -> list[str]:
        """Take away those whose time is over; which these were."""
        now_s = self._clock()
        with self._lock:
            over = [
                name
                for name, own in self._own.items()
                if own.end_s is not None and own.end_s <= now_s
            ]
            for name in over:
                del self._own[name]
        return over

    def rows(self) -> list[LevelRow]:
        """`all` first, then every component."""
        return [self._row(name) for name in (ALL, *COMPONENTS)]

    def _row(self, component: str) -> LevelRow:
        own = self._own.get(component)
        remaining_s = 0.0
        if own is not None and own.end_s is not None:
            remaining_s = max(0.001, own.end_s - self._clock())
        return LevelRow(component, self.level(component), own is not None, remaining_s)
