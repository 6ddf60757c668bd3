"""What a worker without managers stops, and what it takes to start it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.store import on_disk
from tests.unit.agent.test_converge import (
    FAILED,
    ID,
    NOW,
    PENDING,
    PREPARING,
    REMOVE,
    RUNNING,
    STARTING,
    known,
    last,
    reported,
    seen,
    wanted,
)
from tests.unit.agent.test_worker import (
    Rig,
    container_id,
    opened,
    running,
)
from warren.agent import status
from warren.agent.contact import Contact, ContactWatch, boot_id, uptime_s
from warren.agent.converge import Assigned, Create, Delete, Memory, Stop, converge, decide
from warren.agent.runtime.base import Observed, Phase
from warren.agent.store import Store
from warren.pb.v1 import objects_pb2 as pb
from warren.pb.v1 import session_pb2


class Bench:
    """A watch, with a clock and acknowledgements set by hand."""

    def __init__(self, stored: Contact | None = None, boot: str = "b1") -> None:
        self.clock_s = 100.0
        self.acknowledged_s: float | None = None
        self.saved: list[Contact] = []
        self.broken = 0
        self.watch = ContactWatch(
            stored=stored or Contact(),
            boot_id=boot,
            clock_s=lambda: self.clock_s,
            acknowledged_s=lambda: self.acknowledged_s,
            save=self.saved.append,
        )
        self.watch.on_broken = self._count

    def _count(self) -> None:
        self.broken += 1

    def at(self, clock_s: float, acknowledged_s: float | None = None) -> Bench:
        self.clock_s = clock_s
        self.acknowledged_s = acknowledged_s if acknowledged_s is not None else self.acknowledged_s
        return self

    def allows(self, limit_s: float) -> bool:
        contact, now_s = self.watch.now()
        return contact.allows(limit_s, now_s)

    def told(self) -> Bench:
        self.watch.hello()
        self.watch.agreed()
        return self


def test_nothing_limited_runs_before_a_manager_has_told_everything() -> None:
    bench = Bench()
    assert bench.allows(0)
    assert not bench.at(101, acknowledged_s=101).allows(30)
    bench.watch.hello()
    assert not bench.at(102, acknowledged_s=102).allows(30)
    bench.watch.agreed()
    assert bench.allows(30)


def test_what_counts_is_when_the_acknowledged_heartbeat_was_sent() -> None:
    bench = Bench().told()
    assert bench.at(125, acknowledged_s=104).allows(30)
    assert bench.at(133.9).allows(30)
    assert not bench.at(134).allows(30)
    assert bench.allows(60)


def test_an_acknowledgement_alone_mends_nothing() -> None:
    bench = Bench().told().at(131)
    assert not bench.allows(30)
    assert not bench.at(132, acknowledged_s=131).allows(30)
    assert bench.allows(60)
    bench.watch.tend([30, 60])
    assert bench.broken == 1
    bench.watch.hello()
    bench.watch.tend([30, 60])
    assert bench.broken == 1, "one is under way"
    # It takes a while to be told, and heartbeats go on meanwhile.
    for second in range(133, 170, 3):
        bench.at(second, acknowledged_s=second).allows(30)
    assert not bench.allows(30)
    bench.watch.agreed()
    assert bench.allows(30)


def test_the_chain_outlives_the_daemon_and_no_reboot() -> None:
    bench = Bench().told().at(110, acknowledged_s=110)
    bench.watch.tend([50])
    assert bench.saved == [Contact(boot_id="b1", heard_s=110, gap_s=10)]
    bench.at(115, acknowledged_s=115).watch.tend([50])
    assert len(bench.saved) == 1, "close enough to what is saved"
    bench.watch.tend([])
    bench.watch.save()
    assert bench.saved[-1].heard_s == 115
    again = Bench(bench.saved[-1]).at(160)
    assert again.allows(50)
    assert not again.at(165).allows(50)
    assert not Bench(bench.saved[-1], boot="b2").at(116).allows(50)


def test_this_host_has_a_boot_and_a_clock() -> None:
    assert len(boot_id()) == 36
    assert uptime_s() > 0


LIMITED = Assigned(ID, pb.DESIRED_STATE_RUN, pb.RESTART_CONDITION_ANY, 0, 7_000, None, 30_000)


def step(
    observed: Observed | None, memory: Memory | None, assigned: Assigned = LIMITED
) -> tuple[object, Memory]:
    actions, _ = decide(ID, assigned, observed, memory, NOW, may_run=False)
    after = reported(actions) or memory
    assert after is not None
    return last(actions), after


def test_cut_off_it_is_stopped_deleted_and_waits_as_the_next_attempt() -> None:
    action, memory = step(seen(Phase.RUNNING, pid=9), known(RUNNING, pid=9))
    assert action == Stop(ID, 7_000, urgent=True)
    action, memory = step(seen(Phase.STOPPED, exit_code=143), memory)
    assert action == Delete(ID, logs=False)
    assert (memory.attempt, memory.state, memory.exit_code) == (2, PENDING, 143)
    assert "no manager" in memory.message
    assert memory.failures == 0
    assert step(None, memory) == (None, memory)
    actions, _ = decide(ID, LIMITED, None, memory, NOW)
    assert last(actions) == Create(ID, 2)


def test_cut_off_on_its_way_up_it_is_taken_back() -> None:
    assert step(seen(Phase.CREATED), known(PREPARING))[0] == Delete(ID, logs=False)
    action, memory = step(seen(Phase.CREATED), known(STARTING))
    assert action == Delete(ID, logs=False)
    action, memory = step(None, memory)
    assert (action, memory.attempt, memory.state, memory.failures) == (None, 2, PENDING, 0)
    action, memory = step(None, None)
    assert action is None
    assert "not started" in memory.message


def test_what_ends_by_itself_while_cut_off_ends_by_its_policy() -> None:
    action, memory = step(seen(Phase.STOPPED, exit_code=3), known(RUNNING))
    assert action == Delete(ID, logs=False)
    assert (memory.attempt, memory.state, memory.failures) == (2, PENDING, 1)
    never = Assigned(ID, pb.DESIRED_STATE_RUN, pb.RESTART_CONDITION_NONE, 0, 7_000, None, 30_000)
    assert step(seen(Phase.STOPPED, exit_code=3), known(RUNNING), never)[1].state == FAILED


def test_what_is_to_go_goes_whether_or_not_a_manager_is_heard() -> None:
    going = Assigned(ID, REMOVE, pb.RESTART_CONDITION_ANY, 0, 7_000, None, 30_000)
    assert step(seen(Phase.RUNNING), known(RUNNING), going)[0] == Stop(ID, 7_000)


def test_a_manager_heard_in_time_is_enough() -> None:
    _, memory = step(seen(Phase.RUNNING, pid=9), known(RUNNING, pid=9))
    actions, _ = decide(ID, LIMITED, seen(Phase.RUNNING, pid=9), memory, NOW)
    after = reported(actions)
    assert last(actions) is None
    assert after is not None
    assert after.message == ""


def test_only_those_with_a_limit_are_concerned() -> None:
    assigned = {ID: wanted()}
    observed = {ID: seen(Phase.RUNNING, pid=9)}
    memory = {ID: known(RUNNING, pid=9)}
    plan = converge(assigned, observed, memory, NOW, contact=(Contact(), 1.0))
    assert plan.actions == []
    plan = converge({ID: LIMITED}, observed, memory, NOW, contact=(Contact(), 1.0))
    assert last(plan.actions) == Stop(ID, 7_000, urgent=True)


# With a worker around it.

KEEP, LIMIT = bytes(32), bytes([1]) * 32


def both(index: int = 7) -> session_pb2.Assignments:
    """Container 1 is kept, 2 must not run for 30 s without a manager."""
    message = session_pb2.Assignments(complete=True, revision=pb.Revision(epoch=1, index=index))
    for number, digest in ((1, KEEP), (2, LIMIT)):
        message.upsert.add(
            container_id=bytes.fromhex(container_id(number)),
            service_id=bytes(16),
            service_name="web",
            slot=number,
            spec_digest=digest,
            desired=pb.DESIRED_STATE_RUN,
        )
    singleton = pb.ContainerSpec(
        stop_timeout_ms=1000,
        partition=pb.PARTITION_POLICY_SINGLETON,
        partition_stop_after_ms=30_000,
    )
    message.specs.add(digest=KEEP, spec=pb.ContainerSpec(stop_timeout_ms=1000))
    message.specs.add(digest=LIMIT, spec=singleton)
    message.set_hash = sum(map(status.set_hash_term, message.upsert)) % (1 << 64)
    return message


class Watched(Rig):
    """A rig whose worker watches the contact of a bench."""

    def __init__(self, *args: object, boot: str = "b1", clock_s: float = 100.0) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.bench = Bench(self.board.contact, boot).at(clock_s)
        self.watch = self.bench.watch
        self.watch._save = self.board.save_contact
        self.board.on_hello, self.board.on_agreed = self.watch.hello, self.watch.agreed
        self.worker._contact = self.watch

    def hear(self, message: session_pb2.Assignments) -> None:
        """A session with a manager, from its hello to the whole set."""
        self.board.hello(bytes(16), pb.NodeDescription(), [])
        assert self.board.apply(message)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warren.agent.worker.CONTACT_S", 0.02)


async def test_a_singleton_stops_alone_and_starts_when_it_is_told_to(tmp_path: Path) -> None:
    runtime = await opened()
    async with running(Watched(runtime, tmp_path)) as rig:
        assert isinstance(rig, Watched)
        rig.hear(both())
        await rig.until(lambda: rig.state(1) == rig.state(2) == (1, RUNNING))
        rig.bench.at(131)
        await rig.until(lambda: rig.state(2) == (2, PENDING))
        # What is left of the attempt that was stopped goes later.
        running_ids = [seen.id for seen in await runtime.list() if seen.phase is Phase.RUNNING]
        assert running_ids == [container_id(1)]
        # A heartbeat is acknowledged after all; that does not tell what was replaced meanwhile.
        rig.bench.at(132, acknowledged_s=131.5)
        await rig.until(lambda: rig.bench.broken > 0)
        assert rig.state(2) == (2, PENDING)
        rig.hear(both())
        await rig.until(lambda: rig.state(2) == (2, RUNNING))
        assert rig.state(1) == (1, RUNNING)


@pytest.mark.parametrize("rebooted", [False, True])
async def test_without_managers_through_a_restart(tmp_path: Path, rebooted: bool) -> None:
    runtime = await opened()
    async with running(Watched(runtime, tmp_path)) as rig:
        assert isinstance(rig, Watched)
        rig.hear(both())
        await rig.until(lambda: rig.state(1) == rig.state(2) == (1, RUNNING))
    assert on_disk(tmp_path / "worker.db").meta.contact.heard_s == 100
    if rebooted:
        for number in (1, 2):
            runtime.end(container_id(number), 255)
    await runtime.open()
    boot, clock_s = ("b2", 3.0) if rebooted else ("b1", 110.0)
    async with running(Watched(runtime, tmp_path, boot=boot, clock_s=clock_s)) as rig:
        assert isinstance(rig, Watched)
        if not rebooted:
            await rig.until(lambda: rig.worker.listed)
            assert rig.state(2) == (1, RUNNING)
            rig.bench.at(131)
            await rig.until(lambda: rig.state(2) == (2, PENDING))
            assert rig.state(1) == (1, RUNNING)
            return
        await rig.until(lambda: rig.state(1) == (2, RUNNING))
        assert rig.state(2) == (2, PENDING)
        rig.hear(both())
        await rig.until(lambda: rig.state(2) == (2, RUNNING))


def test_an_old_store_has_no_contact(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "worker.db")
    assert store.load().meta.contact == Contact()
    store.close()
