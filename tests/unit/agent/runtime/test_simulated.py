"""The simulated runtime keeps the interface's promises, in time that the test passes."""

from __future__ import annotations

import asyncio
import heapq
from pathlib import Path

import pytest

from warren.agent.runtime import model
from warren.agent.runtime.base import (
    Back,
    ContainerRequest,
    Exited,
    Lost,
    Observed,
    Oom,
    Phase,
    Runtime,
    RuntimeRefused,
    RuntimeUnavailable,
)
from warren.agent.runtime.simulated import Behaviour, SimulatedRuntime
from warren.pb.v1 import objects_pb2


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self._now_ms = 0
        self._sleepers: list[tuple[int, int, asyncio.Event]] = []

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep(self, ms: int) -> None:
        if ms <= 0:
            return
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now_ms + ms, id(woken), woken))
        await woken.wait()

    async def advance(self, ms: int) -> None:
        end = self._now_ms + ms
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now_ms, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await self.settle()
        self._now_ms = end

    @staticmethod
    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def request(container_id: str = "a", attempt: int = 1) -> ContainerRequest:
    return ContainerRequest(
        id=container_id,
        attempt=attempt,
        service_id="s",
        service_name="web",
        slot=1,
        spec_digest="cd",
        spec=objects_pb2.ContainerSpec(),
        log_dir=Path("/logs"),
        node_name="n",
    )


async def test_a_second_reader_begins_anew() -> None:
    runtime = SimulatedRuntime(clock=ManualClock())
    await runtime.open()
    assert await anext(runtime.events()) == Back()
    assert await anext(runtime.events()) == Back()
    runtime.go_away()
    second = runtime.events()
    waiting = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    runtime.come_back()
    assert await asyncio.wait_for(waiting, 5) == Back()


async def test_a_life_that_ends_by_itself() -> None:
    clock = ManualClock()
    simulated = SimulatedRuntime(
        clock, lambda _: Behaviour(exit_after_ms=500, exit_code=3, oom_killed=True)
    )
    runtime: Runtime = simulated
    events = runtime.events()
    await runtime.open()
    assert await anext(events) == Back()
    await runtime.create(request())
    await runtime.create(request())
    pid = await runtime.start("a")
    assert await runtime.start("a") == pid
    await clock.advance(499)
    assert [one.phase for one in await runtime.list()] == [Phase.RUNNING]
    await clock.advance(1)
    assert await anext(events) == Oom("a")
    assert await anext(events) == Exited("a", 3, 500, True, pid=1001)
    (found,) = await runtime.list()
    assert (found.phase, found.exit_code, found.oom_killed) == (Phase.STOPPED, 3, True)
    with pytest.raises(RuntimeRefused):
        await runtime.start("a")
    await runtime.delete("a")
    await runtime.delete("a")
    assert await runtime.list() == []


@pytest.mark.parametrize(
    ("stop_after_ms", "timeout_ms", "took_ms", "code"),
    [(0, 1000, 0, 143), (700, 1000, 700, 143), (2000, 1000, 1000, 137), (None, 1000, 1000, 137)],
)
async def test_stopping(
    stop_after_ms: int | None, timeout_ms: int, took_ms: int, code: int
) -> None:
    clock = ManualClock()
    runtime = SimulatedRuntime(clock, lambda _: Behaviour(stop_after_ms=stop_after_ms))
    await runtime.create(request())
    await runtime.start("a")
    stopping = asyncio.create_task(runtime.stop("a", timeout_ms))
    await clock.advance(5000)
    await stopping
    (found,) = await runtime.list()
    assert (found.exit_code, found.exited_at_ms) == (code, took_ms)


async def test_refusals_leave_nothing_and_another_attempt_waits() -> None:
    refusal = RuntimeRefused("no", permanent=True)
    runtime = SimulatedRuntime(
        ManualClock(), lambda r: Behaviour(refuse_create=refusal if r.attempt == 1 else None)
    )
    with pytest.raises(RuntimeRefused):
        await runtime.create(request())
    assert await runtime.list() == []
    await runtime.create(request(attempt=2))
    with pytest.raises(RuntimeRefused, match="delete it first"):
        await runtime.create(request(attempt=3))


async def test_away_and_back() -> None:
    clock = ManualClock()
    runtime = SimulatedRuntime(clock, lambda _: Behaviour(exit_after_ms=10))
    events = runtime.events()
    await runtime.create(request())
    await runtime.start("a")
    runtime.go_away()
    for call in (runtime.version(), runtime.list(), runtime.delete("a")):
        with pytest.raises(RuntimeUnavailable):
            await call
    await clock.advance(10)
    runtime.come_back()
    assert [await anext(events), await anext(events)] == [Lost(), Back()]
    assert [one.phase for one in await runtime.list()] == [Phase.STOPPED]


async def test_what_was_planted_is_there() -> None:
    runtime = SimulatedRuntime(ManualClock())
    runtime.plant(Observed(id="a", attempt=1, spec_digest="", phase=Phase.REMNANT))
    with pytest.raises(RuntimeRefused, match="delete it first"):
        await runtime.create(request())
    with pytest.raises(RuntimeRefused):
        await runtime.start("a")
    await runtime.delete("a")
    await runtime.create(request())


async def test_a_test_can_stop_it_before_each_step() -> None:
    seen = []

    async def before(step: str, container_id: str) -> None:
        seen.append((step, container_id))
        if step == "start":
            raise RuntimeUnavailable("killed")

    runtime = SimulatedRuntime(ManualClock(), before=before)
    await runtime.create(request())
    with pytest.raises(RuntimeUnavailable):
        await runtime.start("a")
    assert seen == [("create", "a"), ("start", "a")]
    assert [one.phase for one in await runtime.list()] == [Phase.CREATED]


async def test_what_runs_uses_a_share_of_what_it_reserves() -> None:
    clock = ManualClock()
    runtime = SimulatedRuntime(clock)
    asked = request()
    asked.spec.resources.CopyFrom(objects_pb2.Resources(cpu_milli=2_000, memory_bytes=1 << 30))
    await runtime.create(asked)
    assert await runtime.usage() == {}
    await runtime.start("a")
    await clock.advance(3_000)
    assert await runtime.usage() == {"a": model.used("a", 2_000, 1 << 30, 3_000)}
    runtime.end("a", 0)
    assert await runtime.usage() == {}
    runtime.go_away()
    with pytest.raises(RuntimeUnavailable):
        await runtime.usage()
