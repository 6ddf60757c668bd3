"""The meter: what containers use together, for the next heartbeat."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from warren.agent.fleet.held import Held
from warren.agent.runtime import model
from warren.agent.runtime.base import Runtime, RuntimeUnavailable, Usage
from warren.agent.usage import Measured, Meter, total
from warren.pb.v1 import objects_pb2

SECOND_NS = 1_000_000_000


def using(cpu_ns: int, memory_bytes: int = 0, pids: int = 1) -> Usage:
    return Usage(
        cpu_ns=cpu_ns, memory_bytes=2 * memory_bytes, working_set_bytes=memory_bytes, pids=pids
    )


class Script:
    """A runtime that answers what the test says; None: it is away."""

    def __init__(self) -> None:
        self.containers: Mapping[str, Usage] | None = {}
        self.now_ns = 7 * SECOND_NS
        self.calls = 0

    async def usage(self) -> Mapping[str, Usage]:
        self.calls += 1
        if self.containers is None:
            raise RuntimeUnavailable("away")
        return self.containers

    def meter(self, folder: Path, interval_s: float = 5.0) -> Meter:
        runtime = cast("Runtime", self)
        return Meter(runtime, folder, interval_s=interval_s, clock_ns=lambda: self.now_ns)


async def test_cpu_is_what_was_used_between_two_measurements(tmp_path: Path) -> None:
    script = Script()
    meter = script.meter(tmp_path)
    script.containers = {"a": using(50 * SECOND_NS, 100, 2)}
    await meter.measure()
    assert meter.take() is None, "one measurement says nothing of CPU"
    script.now_ns += 4 * SECOND_NS
    script.containers = {"a": using(52 * SECOND_NS, 300, 5)}
    await meter.measure()
    script.now_ns += SECOND_NS // 4
    usage = meter.take()
    assert usage is not None
    assert (usage.cpu_milli, usage.memory_bytes, usage.pids) == (500, 300, 5)
    assert usage.age_ms == 250
    assert usage.disk_bytes > 0
    assert meter.take() is None, "each is told once"


async def test_after_a_failure_nothing_old_is_told_and_cpu_begins_anew(tmp_path: Path) -> None:
    script = Script()
    meter = script.meter(tmp_path)
    for cpu_s in (1, 2):
        script.containers = {"a": using(cpu_s * SECOND_NS)}
        await meter.measure()
        script.now_ns += SECOND_NS
    assert meter.take() is not None
    script.containers = None
    await meter.measure()
    assert meter.take() is None
    script.containers = {"a": using(1_000 * SECOND_NS)}
    await meter.measure()
    assert meter.take() is None
    script.now_ns += SECOND_NS
    await meter.measure()
    usage = meter.take()
    assert usage is not None
    assert usage.cpu_milli == 0


def test_what_came_went_or_began_anew_in_between() -> None:
    before = Measured(0, {"stays": using(10), "went": using(99), "anew": using(800)})
    now = Measured(1_000, {"stays": using(110, 1), "came": using(10**9, 2), "anew": using(300, 4)})
    usage = total(before, now)
    # One that came was measured once only; the second attempt of `anew` began at nothing.
    assert (usage.cpu_milli, usage.memory_bytes, usage.pids) == ((100 + 300), 7, 3)


async def test_it_measures_by_itself_and_no_more_often_than_that(tmp_path: Path) -> None:
    script = Script()
    meter = script.meter(tmp_path, interval_s=3600)
    running = asyncio.create_task(meter.run())
    while script.calls == 0:  # noqa: ASYNC110 - it takes one turn of the loop
        await asyncio.sleep(0)
    for _ in range(100):
        meter.take()
        await asyncio.sleep(0)
    running.cancel()
    assert script.calls == 1


def test_simulated_containers_use_a_share_of_what_they_reserve() -> None:
    source = random.Random(5)
    shares = set()
    for _ in range(500):
        one = source.randbytes(16).hex()
        cpu_milli, memory_bytes = source.randrange(8_000), source.randrange(1 << 40)
        running_ms = source.randrange(10**7)
        usage = model.used(one, cpu_milli, memory_bytes, running_ms)
        assert usage == model.used(one, cpu_milli, memory_bytes, running_ms)
        share = model.share(one)
        shares.add(share)
        assert model.SHARE_MIN <= share <= model.SHARE_MAX
        assert usage.working_set_bytes == memory_bytes * share // 1000
        # Thousandths of thousandths of a CPU, for milliseconds: nanoseconds.
        assert usage.cpu_ns == cpu_milli * share * running_ms
    assert len(shares) > 200, "they differ"


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_a_container_of_a_fleet_uses_something_while_it_runs(state: str) -> None:
    run = objects_pb2.DESIRED_STATE_RUN
    one = Held(b"c" * 16, b"s" * 16, 1, run, cpu_milli=1000, memory_bytes=1 << 20)
    one.up(5.0)
    one.state = objects_pb2.ContainerState.Value(f"CONTAINER_STATE_{state}")
    expected = model.used((b"c" * 16).hex(), 1000, 1 << 20, 2_000)
    assert one.uses(7.0) == (expected if state == "RUNNING" else None)
