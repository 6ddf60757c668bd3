"""`warrend simulate`: options, progress, and the order of things."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from warren import amounts
from warren.agent.fleet.cost import Cost, memory
from warren.agent.fleet.fleet import Fleet
from warren.agent.fleet.manager import Manager
from warren.agent.fleet.plan import Plan
from warren.agent.fleet.summary import summary, table

__all__ = ["main"]

PROGRESS_S: Final = 2.0
POLL_S: Final = 0.1
CONNECT_TIMEOUT_S: Final = 300.0
#: Without one more in so long, no more are waited for.
STUCK_S: Final = 20.0
_NODES_MAX: Final = 100_000


def main(argv: Sequence[str]) -> int:
    """Runs it; exit code 0, or 1 if not everything runs at the end, or not where it should."""
    options = _parser().parse_args(argv)
    plan = Plan(**{field.name: getattr(options, field.name) for field in fields(Plan)})
    found = asyncio.run(_simulate(plan))
    print(json.dumps(found) if options.format == "json" else table(found))
    whole = found["containers_running"] >= found["containers_wanted"]
    return 0 if whole and not found["containers_astray"] else 1


def _parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="warrend simulate",
        description="A fleet in one process: a real manager, and workers that run nothing.",
        epilog="Mean times between failures are in hours; 0: never. Progress goes to standard "
        "error. Ctrl-C ends the run early, and what was measured is shown.",
        allow_abbrev=False,
    )

    def add(flag: str, kind: Any, default: Any, meaning: str, name: str | None = None) -> None:
        parser.add_argument(
            f"--{flag}", type=kind, default=default, metavar="N", help=meaning,
            dest=name or flag.replace("-", "_"),
        )  # fmt: skip

    add("nodes", _count(_NODES_MAX), plan.nodes, f"hosts ({plan.nodes})")
    add("node-cpus", amounts.cpu_milli, plan.node_cpu_milli, "CPUs of each (16)", "node_cpu_milli")
    add(
        "node-memory", amounts.memory_bytes, plan.node_memory_bytes, "memory of each (64g)",
        "node_memory_bytes",
    )  # fmt: skip
    add("zones", _count(1_000), plan.zones, f"values of the label zone ({plan.zones})")
    add("services", _count(100_000), plan.services, f"services ({plan.services})")
    add("replicas", _count(1_000_000), plan.replicas, f"containers of each ({plan.replicas})")
    add(
        "container-cpus", amounts.cpu_milli, plan.container_cpu_milli, "CPUs of each (0.25)",
        "container_cpu_milli",
    )  # fmt: skip
    add(
        "container-memory", amounts.memory_bytes, plan.container_memory_bytes,
        "memory of each (512m)", "container_memory_bytes",
    )  # fmt: skip
    add("start-s", _amount, plan.start_s, "mean time a start takes (0.5)")
    add("stop-s", _amount, plan.stop_s, "mean time a stop takes (0.2)")
    add("container-mtbf-h", _amount, plan.container_mtbf_h, "between failures of a container (0)")
    add("node-mtbf-h", _amount, plan.node_mtbf_h, "between failures of a host (0)")
    add("node-down-s", _amount, plan.node_down_s, "mean time a host is away (60)")
    add("scalings-per-minute", _amount, plan.scalings_per_minute, "services scaled (0)")
    add("seconds", _amount, plan.seconds, "how long it goes on once all is deployed (60)")
    add("seed", int, plan.seed, "what fails when (1)")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser


def _count(most: int) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between 1 and {most:,}")
        return value

    return parse


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def _say(began: float, fleet: Fleet, what: str) -> None:
    seen = fleet.seen
    print(
        f"{time.perf_counter() - began:6.1f} s  {what}: {seen.connected:,} of "
        f"{fleet.plan.nodes:,} nodes, {fleet.count():,} of {fleet.wanted:,} containers run",
        file=sys.stderr,
        flush=True,
    )


async def _simulate(plan: Plan) -> dict[str, Any]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print(f"seed {plan.seed}", file=sys.stderr)
    async with Manager() as manager, Fleet(plan, manager.target) as fleet:
        began = time.perf_counter()
        teller = asyncio.create_task(_tell(began, fleet))
        try:
            await _until(lambda: fleet.seen.connected, plan.nodes, stop, CONNECT_TIMEOUT_S)
            connect_s = time.perf_counter() - began
            deploy_began = time.perf_counter()
            if not stop.is_set():
                await fleet.deploy()
            await _until(lambda: fleet.seen.placed.count, fleet.wanted, stop, STUCK_S)
            deploy_s = time.perf_counter() - deploy_began
            fleet.deployed()
            theirs, ours = Cost(manager.pid), Cost(os.getpid())
            await _go_on(fleet, stop)
            cpu = theirs.percent(), ours.percent()
            resident = memory(manager.pid).resident, memory(os.getpid()).resident
            await fleet.calm()
            await _until(fleet.count, fleet.wanted, stop, STUCK_S)
            whole = fleet.count() >= fleet.wanted
            why_not = "" if whole else await fleet.why_not()
            astray = await _settled(fleet, stop)
        finally:
            teller.cancel()
        return summary(
            fleet,
            connect_s=connect_s,
            deploy_s=deploy_s,
            cpu_percent=cpu,
            memory_bytes=resident,
            astray=astray,
            why_not=why_not,
        )


async def _settled(fleet: Fleet, stop: asyncio.Event) -> int | None:
    """How many containers are astray, once no more are on their way."""
    until = time.perf_counter() + STUCK_S
    while (astray := await fleet.strays()) and time.perf_counter() < until:
        if stop.is_set():
            break
        await asyncio.sleep(POLL_S)
    return astray


async def _tell(began: float, fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        _say(began, fleet, "so far")


async def _go_on(fleet: Fleet, stop: asyncio.Event) -> None:
    """The time that was asked for, with everything that goes wrong in it."""
    trouble = asyncio.create_task(fleet.trouble())
    try:
        async with asyncio.timeout(fleet.plan.seconds):
            await stop.wait()
    except TimeoutError:
        pass
    finally:
        trouble.cancel()
        outcome = await asyncio.gather(trouble, return_exceptions=True)
    for error in outcome:
        if isinstance(error, Exception):
            raise error


async def _until(count: Any, goal: int, stop: asyncio.Event, stuck_s: float) -> None:
    """Until so many are there; or no more come; or it is to end."""
    most, since = -1, time.perf_counter()
    while not stop.is_set():
        now = count()
        if now >= goal:
            return
        if now > most:
            most, since = now, time.perf_counter()
        if time.perf_counter() - since > stuck_s:
            return
        await asyncio.sleep(POLL_S)
