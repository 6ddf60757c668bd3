"""How late the event loop is: the time that every request waits before anyone looks at it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from warren._histogram import Histogram
from warren.observe.metrics import Metrics

SWITCH_INTERVAL_S: Final = 0.0005


def favour_loop() -> None:
    """Make other threads give the interpreter to the event loop within half a millisecond.

    Python's own interval is 5 ms, and the loop waits for it at each of its system calls while,
    say, a large scrape is rendered: probes would take more than the 5 ms they may. Call once,
    when the daemon starts; it holds for the process.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def declare_loop_lag(metrics: Metrics) -> Histogram:
    """Declare the histogram that `watch_loop` records into."""
    return metrics.histogram(
        "warren_event_loop_lag_seconds", "How much later than asked the event loop woke a timer."
    ).child()


async def watch_loop(lag: Histogram, *, interval_ms: int = 500) -> None:
    """Record the loop's lag every `interval_ms` until cancelled."""
    loop = asyncio.get_running_loop()
    interval = interval_ms / 1000
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        lag.observe(max(0.0, loop.time() - due))
