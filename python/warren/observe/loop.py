"""How late the event loop is: the time that every request waits before anyone looks at it."""

from __future__ import annotations

import asyncio

from warren._histogram import Histogram
from warren.observe.metrics import Metrics


def declare_loop_lag(metrics: Metrics) -> Histogram:
    """Declare the histogram that `watch_loop` records into."""
    return metrics.histogram(
        "warren_event_loop_lag_seconds", "How much later than asked the event loop woke a timer."
    ).child()


async def watch_loop(lag: Histogram, *, interval_ms: int = 100) -> None:
    """Record the loop's lag every `interval_ms` until cancelled."""
    loop = asyncio.get_running_loop()
    interval = interval_ms / 1000
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        lag.observe(max(0.0, loop.time() - due))
