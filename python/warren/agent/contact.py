"""How long this worker has been without a manager, and what may go on running meanwhile.

A container whose spec says so is stopped once no manager has acknowledged a heartbeat for a time T.
What counts is when the acknowledged heartbeat was *sent*, on the clock that goes on while the host
sleeps: managers count from when they heard it, which is later, and replace a singleton only when
this worker has surely stopped it.

So an acknowledgement alone does not let a container start again that was stopped, or had to be: by
then it may have been replaced, and the word of that may still be on its way. Contact is therefore a
chain. It begins with the hello of a session in which a manager has told the whole of what this
worker is to run, goes on from one acknowledged heartbeat to the next, and has broken for a
container where two of them lie further apart than its T. What mends it is another hello.

The chain outlives the daemon, which may be restarted in between, but not a reboot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Contact", "ContactWatch", "boot_id", "uptime_s"]

# A restarted daemon counts from what was written last: this share of the shortest T may be lost.
SAVE_SHARE: Final = 0.2


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """The chain as a value. `boot_id`: of the boot whose clock the times are of.

    `heard_s`: when the last acknowledged message was sent; None before the first.
    `gap_s`: the longest time between two of them, since the chain began.
    """

    boot_id: str = ""
    heard_s: float | None = None
    gap_s: float = 0.0

    def allows(self, limit_s: float, now_s: float) -> bool:
        """What must not run without a manager for `limit_s` may run; 0: there is no limit."""
        if limit_s == 0:
            return True
        in_time = self.heard_s is not None and now_s - self.heard_s < limit_s
        return in_time and self.gap_s < limit_s

    def extended(self, sent_s: float | None) -> Contact:
        """The chain with one more link, if it is a later one."""
        if sent_s is None or self.heard_s is None or sent_s <= self.heard_s:
            return self
        gap_s = max(self.gap_s, sent_s - self.heard_s)
        return msgspec.structs.replace(self, heard_s=sent_s, gap_s=gap_s)


class ContactWatch:
    """Follows the chain. `acknowledged_s`: when the newest acknowledged heartbeat was sent.

    `stored`: the chain as it was saved last; one of another boot counts for nothing.
    """

    def __init__(
        self,
        *,
        stored: Contact,
        boot_id: str,
        clock_s: Callable[[], float],
        acknowledged_s: Callable[[], float | None],
        save: Callable[[Contact], None],
    ) -> None:
        self.on_broken: Callable[[], None] = lambda: None
        self._clock_s = clock_s
        self._acknowledged_s = acknowledged_s
        self._save = save
        self._saved = stored if stored.boot_id == boot_id else Contact(boot_id=boot_id)
        self._chain = self._saved
        # Of a session that has said hello and was not told everything yet.
        self._candidate: Contact | None = None

    def hello(self) -> None:
        """A session begins: its hello is about to be sent."""
        self._candidate = Contact(boot_id=self._chain.boot_id, heard_s=self._clock_s())

    def agreed(self) -> None:
        """A manager has told all that this worker is to run, since the hello."""
        if self._candidate is not None:
            self._chain, self._candidate = self._candidate, None
        self._follow()

    def now(self) -> tuple[Contact, float]:
        """The chain as it is, and the time to hold against it."""
        self._follow()
        return self._chain, self._clock_s()

    def tend(self, limits_s: Iterable[float]) -> None:
        """Once a second: asks for a new session where only that mends the chain, and saves it as
        often as the shortest of `limits_s`, those of what is assigned, needs it.
        """
        shortest_s = min(limits_s, default=0.0)
        if shortest_s == 0:
            return
        chain, now_s = self.now()
        heard = chain.heard_s is not None and now_s - chain.heard_s < shortest_s
        if heard and chain.gap_s >= shortest_s and self._candidate is None:
            self.on_broken()
        self.save(shortest_s * SAVE_SHARE)

    def save(self, by_s: float = 0.0) -> None:
        """Save the chain unless what is saved is the same, or less than `by_s` older."""
        before = self._saved
        old = (before.heard_s or 0.0) + by_s <= (self._chain.heard_s or 0.0)
        if self._chain != before and (old or self._chain.gap_s != before.gap_s):
            self._saved = self._chain
            self._save(self._chain)

    def _follow(self) -> None:
        sent_s = self._acknowledged_s()
        self._chain = self._chain.extended(sent_s)
        if self._candidate is not None:
            self._candidate = self._candidate.extended(sent_s)


def uptime_s() -> float:
    """Seconds since the host was started, those in which it slept among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names this run of the kernel; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
