"""Which log lines are left out when there are too many, and how that is told.

Lines of one kind have the same component, level and constant text. In each interval the first few
of a kind are written; one line at its end tells how many more there were. Beyond that a component
has a rate. Errors, and the first of a kind in an interval, are written whatever else there is.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from warren.observe.log_levels import COMPONENTS, OTHER
from warren.observe.log_lines import CORRELATING, LEVELS, bounded_text

__all__ = ["INTERVAL_S", "KINDS_MAX", "REASONS", "REPEATS_MAX", "LeftOut", "Sampler"]

INTERVAL_S: Final = 10.0

REPEATS_MAX: Final = {"debug": 1000, "info": 20, "warn": 20}
"""Lines of one kind in an interval. Who asks for debug wants to see it: there the bound is only
to survive. Errors have none."""

RATE_PER_S: Final = 200.0
BURST: Final = 2000.0
KINDS_MAX: Final = 1024
"""Kinds told apart at once; what comes beyond counts as one more kind of its component."""

REPEATED: Final = "repeated"
RATE: Final = "rate"
REASONS: Final = (REPEATED, RATE)

_TEXT_CHARS_MAX: Final = 200
# A text without arguments may have its values in it: what is quoted, and words with a digit.
_WORDS: Final = re.compile(r"`[^`]*`|'[^']*'|\"[^\"]*\"|[\w.:/-]+")


class LeftOut(NamedTuple):
    """That lines were left out. `text`: the constant one; `fields`: what correlates of the last."""

    level: str
    component: str
    text: str
    missing: int
    fields: dict[str, object]


@dataclass(slots=True)
class _Kind:
    began_s: float
    seen: int = 0
    left_out: int = 0
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class _Allowance:
    """A token bucket: it fills by RATE_PER_S, and holds BURST."""

    tokens: float
    filled_s: float

    def take(self, now_s: float) -> bool:
        """Take one, if there is one."""
        self.tokens = min(BURST, self.tokens + (now_s - self.filled_s) * RATE_PER_S)
        self.filled_s = now_s
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Sampler:
    """Decides line by line. For any thread; may be entered again by a destructor that logs.

    `clock`: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._allowances: dict[str, _Allowance] = {}
        self.suppressed: dict[tuple[str, ...], int] = {
            (component, reason): 0 for component in (*COMPONENTS, OTHER) for reason in REASONS
        }
        """By component and reason, the lines left out so far; no other keys are added."""

    def admit(
        self, level: str, component: str, text: str, fields: Mapping[str, object], *, constant: bool
    ) -> bool:
        """Whether a line is to be written. `constant`: `text` has no values in it."""
        if level not in REPEATS_MAX:
            return True
        now_s = self._clock()
        with self._lock:
            kind = self._kind(level, component, _kind_text(text, constant=constant), now_s)
            kind.seen += 1
            label = component if component in COMPONENTS else OTHER
            if kind.seen > REPEATS_MAX[level]:
                reason = REPEATED
            # The first of a kind uses the allowance up too, but is not refused by it.
            elif self._allowance(label, now_s).take(now_s) or kind.seen == 1:
                return True
            else:
                reason = RATE
            kind.left_out += 1
            kind.fields = fields
            self.suppressed[label, reason] += 1
            return False

    def _kind(self, level: str, component: str, text: str, now_s: float) -> _Kind:
        key = (level, component, text)
        kind = self._kinds.get(key)
        if kind is None and len(self._kinds) >= KINDS_MAX:
            label = component if component in COMPONENTS else OTHER
            key = (level, label, "")
            kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(now_s)
        elif kind.left_out == 0 and now_s - kind.began_s >= INTERVAL_S:
            kind.began_s, kind.seen = now_s, 0
        return kind

    def _allowance(self, label: str, now_s: float) -> _Allowance:
        allowance = self._allowances.get(label)
        if allowance is None:
            allowance = self._allowances[label] = _Allowance(BURST, now_s)
        return allowance

    @property
    def busy(self) -> bool:
        """Whether an interval is under way, which `collect` ends."""
        return bool(self._kinds)

    def collect(self, *, everything: bool = False) -> list[LeftOut]:
        """End the intervals that are over, or all: what was left out in them."""
        now_s = self._clock()
        found = []
        with self._lock:
            for key, kind in list(self._kinds.items()):
                if not everything and now_s - kind.began_s < INTERVAL_S:
                    continue
                self._kinds.pop(key, None)
                if kind.left_out:
                    level, component, text = key
                    kept = {name: kind.fields[name] for name in CORRELATING if name in kind.fields}
                    found.append(LeftOut(level, component, text, kind.left_out, kept))
        return sorted(found, key=lambda each: -LEVELS[each.level])


def _kind_text(text: str, *, constant: bool) -> str:
    short = bounded_text(text)[:_TEXT_CHARS_MAX]
    return short if constant else _WORDS.sub(_without_value, short)


def _without_value(found: re.Match[str]) -> str:
    word = found[0]
    return "#" if word[0] in "`'\"" or any(map(str.isdigit, word)) else word
