"""Thousands of simulated workers on one manager: what their sessions cost, and how fast it is.

A real daemon in a process of its own, and the hosts of `warrend simulate` in this one: they speak
the real session over a few connections and run nothing; a container is up as soon as its host has
been told. A service of as many containers as there are workers is scaled up and down by a twentieth
of them, over and over.

- heartbeat lag: from sending a heartbeat to its acknowledgement
- assignment lag: from the call that scales the service until each container it adds has reached its
  worker
- CPU and memory of the daemon, over the quiet first third (heartbeats only) and with the scaling

    python -m benches.workers [--workers 2000] [--seconds 300] [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

from benches._common import Report, arguments, latency
from benches._stack import memory_mib
from warren._histogram import Histogram
from warren.agent.fleet.cost import Cost
from warren.agent.fleet.fleet import CONNECTIONS, Fleet
from warren.agent.fleet.manager import Manager
from warren.agent.fleet.plan import Plan

SEED = 5
RAMP_TIMEOUT_S = 300.0
CALL_TIMEOUT_S = 60.0
SCALE_EVERY_S = 5.0
POLL_S = 0.02
#: Of its host's 64 CPUs.
ASKED_MILLI = 8_000


def options_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="how many (2,000; 50 with --quick)")
    parser.add_argument("--seconds", type=int, help="how long (300; 12 with --quick)")


def plan_of(workers: int) -> Plan:
    """As many containers as hosts; they start and stop in no time, and never fail."""
    return Plan(
        nodes=workers,
        node_cpu_milli=64_000,
        services=1,
        replicas=workers,
        container_cpu_milli=ASKED_MILLI,
        start_s=0.0,
        stop_s=0.0,
        seed=SEED,
    )


async def until(holds: Callable[[], bool], timeout_s: float) -> None:
    """Wait until it does."""
    async with asyncio.timeout(timeout_s):
        while True:
            if holds():
                return
            await asyncio.sleep(POLL_S)


async def measure(report: Report, workers: int, seconds: int) -> None:
    """The whole run."""
    async with Manager() as manager:
        began, cost = time.perf_counter(), Cost(manager.pid)
        async with Fleet(plan_of(workers), manager.target) as fleet:
            seen = fleet.seen
            await until(lambda: seen.connected >= workers, RAMP_TIMEOUT_S)
            ramp_s = time.perf_counter() - began
            report.row("all connect", seconds=ramp_s, cpu=cost.percent())
            await fleet.deploy()
            await until(lambda: fleet.count() == workers, CALL_TIMEOUT_S)
            report.latency(f"the first {workers:,} containers, assigned", seen.assigned)
            quiet = Cost(manager.pid)
            seen.heartbeats = Histogram()
            await asyncio.sleep(seconds / 3)
            report.latency("heartbeat lag, quiet", seen.heartbeats, cpu_percent=quiet.percent())
            seen.assigned, seen.heartbeats = Histogram(), Histogram()
            busy = Cost(manager.pid)
            await scale(fleet, workers, time.perf_counter() + seconds * 2 / 3)
            report.latency("heartbeat lag, scaling", seen.heartbeats, cpu_percent=busy.percent())
            report.latency("assignment lag, scaling", seen.assigned)
            report.row("memory of the daemon", **memory_mib(manager.pid))
            lags = {"heartbeat": seen.heartbeats, "assignment": seen.assigned}
            report.headline = {f"{name}_p99_ms": latency(of)["p99"] for name, of in lags.items()}
            report.headline |= {"lost_sessions": seen.sessions_lost, "workers": workers}


async def scale(fleet: Fleet, workers: int, until_s: float) -> None:
    """A twentieth more and fewer, over and over; each time until it is so."""
    goal = workers + max(1, workers // 20)
    while time.perf_counter() < until_s:
        await fleet.scale(0, goal)
        await until(lambda: fleet.count() == goal, CALL_TIMEOUT_S)
        await asyncio.sleep(SCALE_EVERY_S / 2)
        await fleet.scale(0, workers)
        await asyncio.sleep(SCALE_EVERY_S / 2)
    await until(lambda: fleet.count() == workers, CALL_TIMEOUT_S)


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=options_of)
    workers = options.workers or (50 if options.quick else 2_000)
    seconds = options.seconds or (12 if options.quick else 300)
    report = Report(f"{workers:,} simulated workers on one manager for {seconds} s")
    report.note(f"{CONNECTIONS} connections; client and daemon share the machine's cores")
    asyncio.run(measure(report, workers, seconds))
    report.finish(options)


if __name__ == "__main__":
    main()
