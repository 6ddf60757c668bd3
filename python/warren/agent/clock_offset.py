"""How far this host's wall clock is from the leader's, by heartbeats and their acknowledgements."""

from __future__ import annotations

import msgspec

__all__ = ["ClockOffset"]


class ClockOffset(msgspec.Struct, frozen=True):
    """In seconds: `ahead` of the leader's clock (negative: behind), off by `error` at most.

    The leader's time lies somewhere between sending and receiving; half of that is the error
    (F. Cristian, Probabilistic clock synchronization, Distributed Computing 3, 1989, section 3).
    """

    ahead: float
    error: float

    @classmethod
    def of(cls, sent_s: float, took_s: float, leader_s: float) -> ClockOffset:
        """A heartbeat sent at `sent_s` by our wall clock, answered `took_s` later.

        `took_s` is by a clock that nobody sets. The leader tells milliseconds.
        """
        return cls(sent_s + took_s / 2 - leader_s, took_s / 2 + 0.001)
