"""What one `observe` costs: Warren's histogram beside prometheus-client's, in the same run.

    python -m benches.histogram [--json] [--quick]

Each figure is the best of several repetitions, in nanoseconds an operation, with the cost of an
empty C call beside it: what any call from Python costs on this machine, now.
"""

from __future__ import annotations

import argparse
import json
import sys
import timeit

import prometheus_client
from warren._histogram import Histogram

VALUE_SECONDS = 0.003


class _Owner:
    """An object that reaches its histogram through an attribute, as most callers do."""

    __slots__ = ("latency",)

    def __init__(self, latency: Histogram) -> None:
        self.latency = latency


def _best_ns(statement: str, names: dict[str, object], calls: int, repeats: int) -> float:
    seconds = min(timeit.repeat(statement, globals=names, number=calls, repeat=repeats))
    return seconds / calls * 1e9


def run(*, quick: bool = False) -> dict[str, float]:
    """Nanoseconds an operation by name, the ratio, and bytes a child."""
    calls, repeats = (20_000, 3) if quick else (1_000_000, 7)
    ours = Histogram()
    theirs = prometheus_client.Histogram("bench", "Bench.", registry=None)
    owner = _Owner(ours)
    fine = Histogram([i / 1000 for i in range(1, 65)])

    def measure(statement: str, **names: object) -> float:
        return _best_ns(statement, {"x": VALUE_SECONDS, **names}, calls, repeats)

    results = {
        "empty_call_ns": measure("f(x)", f=abs),
        "observe_ns": measure("observe(x)", observe=ours.observe),
        "observe_through_two_attributes_ns": measure("owner.latency.observe(x)", owner=owner),
        "observe_64_buckets_ns": measure("observe(x)", observe=fine.observe),
        "timer_block_ns": measure("with time(): pass", time=ours.time),
        "prometheus_observe_ns": measure("observe(x)", observe=theirs.observe),
    }
    results["ratio"] = results["prometheus_observe_ns"] / results["observe_ns"]
    results["child_bytes"] = float(sys.getsizeof(ours))
    return results


def test_runs_small() -> None:
    """Keeps the bench from rotting; asserts no times."""
    results = run(quick=True)
    assert all(value > 0 for value in results.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.histogram", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smaller, less exact run")
    options = parser.parse_args()
    results = run(quick=options.quick)
    if options.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name:36} {value:10.1f}")


if __name__ == "__main__":
    main()
