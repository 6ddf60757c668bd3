"""What one `observe` costs: Warren's histogram beside prometheus-client's, in the same run.

Rows: an empty C call, which is what any call from Python costs on this machine, now; `observe`
called directly, through two attributes as most callers do, and with 64 buckets; a timed block;
prometheus-client's `observe`. Each is the best of several repetitions, in nanoseconds an
operation. `child` is what one histogram takes once it is used.

    python -m benches.histogram [--json] [--quick]
"""

from __future__ import annotations

import sys
import timeit

import prometheus_client

from benches._common import Report, arguments
from warren._histogram import Histogram

VALUE_SECONDS = 0.003


class Owner:
    """An object that reaches its histogram through an attribute."""

    __slots__ = ("latency",)

    def __init__(self, latency: Histogram) -> None:
        self.latency = latency


def best_ns(statement: str, names: dict[str, object], calls: int, repeats: int) -> float:
    """Nanoseconds for one execution of `statement`, of the best repetition."""
    seconds = min(timeit.repeat(statement, globals=names, number=calls, repeat=repeats))
    return seconds / calls * 1e9


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    calls, repeats = (20_000, 3) if options.quick else (1_000_000, 7)
    ours = Histogram()
    theirs = prometheus_client.Histogram("bench", "Bench.", registry=None)
    fine = Histogram([number / 1000 for number in range(1, 65)])
    statements: dict[str, tuple[str, dict[str, object]]] = {
        "empty call": ("f(x)", {"f": abs}),
        "observe": ("observe(x)", {"observe": ours.observe}),
        "through two attributes": ("owner.latency.observe(x)", {"owner": Owner(ours)}),
        "64 buckets": ("observe(x)", {"observe": fine.observe}),
        "timed block": ("with time(): pass", {"time": ours.time}),
        "prometheus-client": ("observe(x)", {"observe": theirs.observe}),
    }
    report = Report("one observation in a histogram")
    for name, (statement, names) in statements.items():
        report.row(name, ns=best_ns(statement, {"x": VALUE_SECONDS, **names}, calls, repeats))
    report.row("child", bytes=sys.getsizeof(ours))
    report.finish(options)


if __name__ == "__main__":
    main()
