"""The worker against a simulated runtime: what it makes of assignments, events and failures."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.store import on_disk
from warren.agent import status
from warren.agent.board import Board
from warren.agent.converge import Memory
from warren.agent.outbox import Outbox
from warren.agent.runtime.base import (
    ContainerRequest,
    Exited,
    Observed,
    Phase,
    RuntimeEvent,
    RuntimeRefused,
)
from warren.agent.runtime.simulated import Behaviour, RealClock, SimulatedRuntime
from warren.agent.store import Fence, Journal, Store
from warren.agent.worker import PURGES_MAX, STOPS_MAX, Worker
from warren.pb.v1 import objects_pb2 as pb
from warren.pb.v1 import session_pb2

DIGEST = bytes(range(32))
RUN, REMOVE = pb.DESIRED_STATE_RUN, pb.DESIRED_STATE_REMOVE
DEADLINE_S = 10.0


class Durations:
    """Counts observations by operation."""

    class _One:
        def __init__(self) -> None:
            self.count = 0

        def observe_with(self, seconds: float, example: str, /) -> None:
            assert seconds >= 0
            assert len(example) == 32
            self.count += 1

    def __init__(self) -> None:
        self.create, self.start, self.stop = self._One(), self._One(), self._One()


def container_id(number: int) -> str:
    return f"{number:032x}"


def assignments(
    numbers: range | list[int], desired: int = RUN, spec: pb.ContainerSpec | None = None
) -> session_pb2.Assignments:
    """The whole set: containers of these numbers."""
    message = session_pb2.Assignments(complete=True, revision=pb.Revision(epoch=1, index=7))
    for number in numbers:
        message.upsert.add(
            container_id=bytes.fromhex(container_id(number)),
            service_id=bytes(16),
            service_name="web",
            slot=number,
            spec_digest=DIGEST,
            desired=pb.DesiredState.ValueType(desired),
        )
    message.specs.add(digest=DIGEST, spec=spec or pb.ContainerSpec(stop_timeout_ms=1000))
    message.set_hash = sum(map(status.set_hash_term, message.upsert)) % (1 << 64)
    return message


class Rig:
    """A worker with everything around it; a second one over the same host is a restart."""

    def __init__(
        self,
        runtime: SimulatedRuntime,
        directory: Path,
        concurrency: int = 4,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self.runtime = runtime
        self.directory = directory
        store = Store.open(directory / "worker.db")
        self.journal = Journal(store)
        self.outbox = Outbox()
        self.board = Board(store.load(), self.journal)
        self.durations = Durations()
        self.worker = Worker(
            runtime=runtime,
            board=self.board,
            journal=self.journal,
            outbox=self.outbox,
            node_name="n1",
            logs_dir=directory / "logs",
            clock_ms=clock_ms or RealClock().now_ms,
            durations=self.durations,
            concurrency=concurrency,
        )

    def state(self, number: int) -> tuple[int, int]:
        memory = self.board.memory.get(container_id(number))
        return (0, 0) if memory is None else (memory.attempt, memory.state)

    async def until(self, probe: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not probe():  # noqa: ASYNC110 - a condition with a deadline
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    task = asyncio.create_task(rig.worker.run())
    try:
        yield rig
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.journal.close()


async def opened(behave: Callable[[ContainerRequest], Behaviour] | None = None) -> SimulatedRuntime:
    runtime = SimulatedRuntime(RealClock(), behave or (lambda _: Behaviour()))
    await runtime.open()
    return runtime


async def test_assigned_containers_run_and_removed_ones_go(tmp_path: Path) -> None:
    runtime = await opened()
    async with running(Rig(runtime, tmp_path)) as rig:
        assert rig.board.apply(assignments(range(1, 31)))
        await rig.until(
            lambda: all(rig.state(n) == (1, pb.CONTAINER_STATE_RUNNING) for n in range(1, 31))
        )
        assert rig.durations.create.count == rig.durations.start.count == 30
        log = tmp_path / "logs" / container_id(1) / "current.log"
        log.parent.mkdir(parents=True)
        log.write_text("line")
        assert rig.board.apply(assignments(range(1, 31), REMOVE))
        await rig.until(
            lambda: all(rig.board.memory[container_id(n)].removed for n in range(1, 31))
        )
        assert await runtime.list() == []
        assert not log.parent.exists()
        assert rig.board.apply(assignments([]))
        await rig.until(lambda: not rig.board.memory)
    stored = on_disk(tmp_path / "worker.db")
    assert (stored.assignments, stored.memory) == ({}, {})


async def test_no_more_at_once_than_allowed_and_one_per_container(tmp_path: Path) -> None:
    under_way: Counter[str] = Counter()
    most = 0

    async def before(step: str, target: str) -> None:
        nonlocal most
        if step in ("create", "start"):
            under_way[target] += 1
            assert under_way[target] == 1
            most = max(most, under_way.total())
            await asyncio.sleep(0.001)
            del under_way[target]

    runtime = SimulatedRuntime(RealClock(), before=before)
    await runtime.open()
    async with running(Rig(runtime, tmp_path, concurrency=3)) as rig:
        rig.board.apply(assignments(range(1, 41)))
        await rig.until(lambda: rig.durations.start.count == 40)
    assert most == 3


async def test_stops_that_wait_keep_nothing_else_waiting(tmp_path: Path) -> None:
    stopping: set[str] = set()

    async def before(step: str, target: str) -> None:
        if step == "stop":
            stopping.add(target)
            await asyncio.Event().wait()

    runtime = SimulatedRuntime(RealClock(), before=before)
    await runtime.open()
    async with running(Rig(runtime, tmp_path, concurrency=2)) as rig:
        rig.board.apply(assignments(range(1, 101)))
        await rig.until(lambda: rig.durations.start.count == 100)
        rig.board.apply(assignments(range(1, 101), REMOVE))
        await rig.until(lambda: len(stopping) == STOPS_MAX)
        rig.board.apply(assignments([200]))
        await rig.until(lambda: rig.state(200) == (1, pb.CONTAINER_STATE_RUNNING))
        assert rig.worker.busy == len(stopping) == STOPS_MAX


async def test_a_restart_adopts_what_runs(tmp_path: Path) -> None:
    runtime = await opened()
    async with running(Rig(runtime, tmp_path)) as rig:
        rig.board.apply(assignments([1, 2]))
        await rig.until(lambda: rig.state(2) == rig.state(1) == (1, pb.CONTAINER_STATE_RUNNING))
    before = await runtime.list()
    runtime.end(container_id(2), 3)
    await runtime.open()
    async with running(Rig(runtime, tmp_path)) as rig:
        await rig.until(lambda: rig.state(2) == (2, pb.CONTAINER_STATE_RUNNING))
        assert (await runtime.list())[0] == before[0]
        assert rig.durations.create.count == 1
        memory = rig.board.memory[container_id(2)]
        assert memory.failures == 1


async def test_strays_wait_for_the_managers_word(tmp_path: Path) -> None:
    runtime = await opened()
    runtime.plant(
        Observed(id=container_id(9), attempt=1, spec_digest="", phase=Phase.RUNNING, pid=5)
    )
    async with running(Rig(runtime, tmp_path)) as rig:
        await rig.worker.first_listing(DEADLINE_S)
        assert [seen.id for seen in await runtime.list()] == [container_id(9)]
        rig.board.apply(assignments([1]))
        await rig.until(lambda: container_id(9) not in rig.worker.observed)
        assert [seen.id for seen in await runtime.list()] == [container_id(1)]


async def test_one_that_ends_at_once_is_not_lost(tmp_path: Path) -> None:
    runtime = await opened(lambda _: Behaviour(exit_after_ms=0, exit_code=3))
    spec = pb.ContainerSpec(restart=pb.RESTART_CONDITION_NONE)
    async with running(Rig(runtime, tmp_path)) as rig:
        rig.board.apply(assignments(range(1, 11), spec=spec))
        failed = (1, pb.CONTAINER_STATE_FAILED)
        await rig.until(lambda: all(rig.state(n) == failed for n in range(1, 11)))
        assert {rig.board.memory[container_id(n)].exit_code for n in range(1, 11)} == {3}
        await rig.until(lambda: not rig.worker.observed)
        assert rig.durations.start.count == 10


async def test_logs_go_with_their_container_however_it_went(tmp_path: Path) -> None:
    ended, stray, running_on = (tmp_path / "logs" / container_id(n) for n in (1, 2, 3))
    for directory in (ended, stray, running_on):
        directory.mkdir(parents=True)
        (directory / "current.log").write_text("line")
    runtime = await opened(
        lambda request: Behaviour(exit_after_ms=0 if request.slot == 1 else None)
    )
    spec = pb.ContainerSpec(restart=pb.RESTART_CONDITION_NONE)
    async with running(Rig(runtime, tmp_path)) as rig:
        rig.board.apply(assignments([1, 3], spec=spec))
        await rig.until(lambda: rig.state(1) == (1, pb.CONTAINER_STATE_COMPLETE))
        await rig.until(lambda: container_id(1) not in rig.worker.observed)
        await rig.until(lambda: not stray.exists())
        assert ended.exists()
        rig.board.apply(assignments([1], REMOVE))
        await rig.until(lambda: not ended.exists() and not running_on.exists())


async def test_purges_that_hang_leave_threads_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, purged = threading.Event(), []

    def hang(path: Path, _ignore_errors: bool) -> None:
        purged.append(path)
        assert released.wait(30)

    monkeypatch.setattr("warren.agent.worker.shutil.rmtree", hang)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(PURGES_MAX + 1))
    rig = Rig(await opened(), tmp_path)
    purges = [asyncio.create_task(rig.worker._purge_logs(container_id(n))) for n in range(9)]
    try:
        await rig.until(lambda: len(purged) == PURGES_MAX)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.to_thread(lambda: None)
        assert len(purged) == PURGES_MAX
    finally:
        released.set()
    await asyncio.wait_for(asyncio.gather(*purges), DEADLINE_S)
    assert len(purged) == 9
    await rig.journal.close()


async def test_a_refused_start_pauses_and_says_why(tmp_path: Path) -> None:
    refusal = RuntimeRefused("the image has no command `/no/such`", permanent=True)
    runtime = await opened(
        lambda request: Behaviour(refuse_start=refusal if request.attempt == 1 else None)
    )
    async with running(Rig(runtime, tmp_path)) as rig:
        rig.board.apply(assignments([1]))
        await rig.until(lambda: rig.state(1) == (2, pb.CONTAINER_STATE_PENDING))
        memory = rig.board.memory[container_id(1)]
        assert "/no/such" in memory.message
        assert memory.retry_at_ms > 0
        await rig.until(lambda: rig.state(1) == (2, pb.CONTAINER_STATE_RUNNING))


async def test_an_exit_is_heard_after_the_wall_clock_steps_back(tmp_path: Path) -> None:
    runtime = await opened()
    ahead_ms = 3_600_000
    rig = Rig(runtime, tmp_path, clock_ms=lambda: RealClock().now_ms() + ahead_ms)
    async with running(rig):
        rig.board.apply(assignments([1]))
        await rig.until(lambda: rig.state(1) == (1, pb.CONTAINER_STATE_RUNNING))
        ahead_ms = 0
        runtime.end(container_id(1), 3)
        await rig.until(lambda: rig.state(1)[0] == 2)
        assert rig.board.memory[container_id(1)].exit_code == 3


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.RUNNING])
async def test_a_late_word_of_an_earlier_attempt_ends_no_later_one(
    tmp_path: Path, phase: Phase
) -> None:
    def behave(_: ContainerRequest) -> Behaviour:
        return Behaviour(start_ms=60_000 if phase is Phase.CREATED else 0)

    async with running(Rig(await opened(behave), tmp_path)) as rig:
        rig.board.apply(assignments([1]))
        await rig.until(
            lambda: (
                container_id(1) in rig.worker.observed
                and rig.worker.observed[container_id(1)].phase is phase
            )
        )
        before = rig.worker.observed[container_id(1)]
        rig.worker._take(Exited(container_id(1), 3, 1 << 50, False, pid=before.pid + 1))
        assert rig.worker.observed[container_id(1)] == before
        rig.worker._take(Exited(container_id(1), 3, 1, False, pid=before.pid))
        assert rig.worker.observed[container_id(1)].exit_code == 3


async def test_an_end_during_the_first_listing_is_seen(tmp_path: Path) -> None:
    class ListsSlowly(SimulatedRuntime):
        """What it lists first is old when it is told: the container has ended meanwhile."""

        ended = False

        async def list(self) -> list[Observed]:
            found = await super().list()
            if not self.ended:
                self.ended = True
                self.end(container_id(1), 3)
                await heard.wait()
            return found

    heard = asyncio.Event()
    runtime = ListsSlowly(RealClock())
    runtime.plant(
        Observed(id=container_id(1), attempt=1, spec_digest="", phase=Phase.RUNNING, pid=5)
    )
    await runtime.open()
    rig = Rig(runtime, tmp_path)
    take = rig.worker._take

    def take_and_tell(event: RuntimeEvent) -> None:
        take(event)
        if isinstance(event, Exited):
            heard.set()

    rig.worker._take = take_and_tell  # type: ignore[method-assign]
    async with running(rig):
        rig.board.apply(assignments([1]))
        await rig.until(lambda: rig.state(1)[0] == 2)
        assert rig.board.memory[container_id(1)].exit_code == 3


async def test_without_the_runtime_it_waits_and_goes_on(tmp_path: Path) -> None:
    runtime = await opened()
    async with running(Rig(runtime, tmp_path)) as rig:
        rig.board.apply(assignments([1]))
        await rig.until(lambda: rig.state(1) == (1, pb.CONTAINER_STATE_RUNNING))
        runtime.go_away()
        await rig.until(lambda: not rig.worker.runtime_up)
        runtime.end(container_id(1), 1)
        rig.board.apply(assignments([1, 2]))
        runtime.come_back()
        await rig.until(lambda: rig.state(2) == (1, pb.CONTAINER_STATE_RUNNING))
        await rig.until(lambda: rig.state(1)[0] == 2)


async def test_a_delete_waits_until_the_end_is_on_disk(tmp_path: Path) -> None:
    deleted_with: list[Memory | None] = []

    async def before(step: str, target: str) -> None:
        if step == "delete":
            deleted_with.append(on_disk(tmp_path / "worker.db").memory.get(target))

    runtime = SimulatedRuntime(RealClock(), lambda _: Behaviour(exit_after_ms=0), before)
    await runtime.open()
    spec = pb.ContainerSpec(restart=pb.RESTART_CONDITION_ON_FAILURE)
    async with running(Rig(runtime, tmp_path)) as rig:
        rig.board.apply(assignments([1], spec=spec))
        await rig.until(lambda: len(deleted_with) == 1)
    assert deleted_with[0] is not None
    assert deleted_with[0].state == pb.CONTAINER_STATE_COMPLETE


async def test_a_spec_that_never_came_is_waited_for(tmp_path: Path) -> None:
    runtime = await opened()
    async with running(Rig(runtime, tmp_path)) as rig:
        message = assignments([1])
        del message.specs[:]
        assert not rig.board.apply(message)
        assert rig.board.hello(bytes(16), pb.NodeDescription(), []).set_hash == 0
        assert rig.board.apply(assignments([1]))
        await rig.until(lambda: rig.state(1) == (1, pb.CONTAINER_STATE_RUNNING))


async def test_the_images_of_all_that_is_assigned_are_known(tmp_path: Path) -> None:
    rig = Rig(await opened(), tmp_path)
    assert rig.board.image_digests() == set()
    spec = pb.ContainerSpec(image="web:1", image_digest="sha256:5a")
    assert rig.board.apply(assignments([1, 2], spec=spec))
    assert rig.board.image_digests() == {"sha256:5a"}
    assert rig.board.apply(assignments([]))
    assert rig.board.image_digests() == set()
    await rig.journal.close()


async def test_deltas_hash_and_fence(tmp_path: Path) -> None:
    rig = Rig(await opened(), tmp_path)
    whole = assignments([1, 2])
    assert rig.board.apply(whole)
    delta = session_pb2.Assignments(remove=[bytes.fromhex(container_id(2))])
    delta.set_hash = status.set_hash_term(whole.upsert[0])
    assert rig.board.apply(delta)
    delta.set_hash += 1
    assert not rig.board.apply(delta)
    assert rig.board.obey(Fence(1, 5))
    assert rig.board.obey(Fence(1, 5))
    assert not rig.board.obey(Fence(1, 4))
    assert not rig.board.obey(Fence(0, 9))
    await rig.journal.close()
    again = Rig(rig.runtime, tmp_path)
    assert not again.board.obey(Fence(1, 4))
    assert again.board.set_hash == status.set_hash_term(whole.upsert[0])
    hello = again.board.hello(bytes(16), pb.NodeDescription(), [])
    assert (hello.fence_epoch, hello.fence_term, hello.set_hash) == (1, 5, again.board.set_hash)
    await again.journal.close()


async def test_attempts_out_of_memory_are_counted_once_each(tmp_path: Path) -> None:
    runtime = await opened()
    always = pb.ContainerSpec(stop_timeout_ms=1000, restart=pb.RESTART_CONDITION_ANY)
    one = container_id(1)
    rig = Rig(runtime, tmp_path)
    async with running(rig):
        assert rig.board.apply(assignments([1, 2], spec=always))
        await rig.until(lambda: rig.state(1) == (1, pb.CONTAINER_STATE_RUNNING))
        runtime.end(one, 137, oom_killed=True)  # an event of its own, and the end's word
        await rig.until(lambda: rig.state(1) == (2, pb.CONTAINER_STATE_RUNNING))
        assert rig.worker.oom_kills == {one: 1}
        runtime.available = False  # the end is found by listing alone
        runtime.end(one, 137, oom_killed=True)
        runtime.available = True
        rig.worker._list_wanted.set()
        await rig.until(lambda: rig.worker.oom_kills == {one: 2})
        assert rig.board.apply(assignments([2]))
        await rig.until(lambda: one not in rig.worker.observed)
        rig.worker._list_wanted.set()
        await rig.until(lambda: rig.worker.oom_kills == {})
