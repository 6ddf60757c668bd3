"""`converge` by tables, one line a case, and as a whole against a host that obeys it."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warren.agent import converge as plans
from warren.agent.converge import (
    Action,
    Assigned,
    Create,
    Delete,
    Forget,
    Inspect,
    Memory,
    Report,
    Start,
    Stop,
    converge,
    decide,
)
from warren.agent.runtime.base import Observed, Phase
from warren.pb.v1 import objects_pb2 as pb

NOW = 1_800_000_000_000
ID = "c" * 32

PENDING, ASSIGNED = pb.CONTAINER_STATE_PENDING, pb.CONTAINER_STATE_ASSIGNED
PREPARING, STARTING = pb.CONTAINER_STATE_PREPARING, pb.CONTAINER_STATE_STARTING
RUNNING, COMPLETE = pb.CONTAINER_STATE_RUNNING, pb.CONTAINER_STATE_COMPLETE
FAILED, SHUTDOWN = pb.CONTAINER_STATE_FAILED, pb.CONTAINER_STATE_SHUTDOWN
REJECTED = pb.CONTAINER_STATE_REJECTED
RUN, STOP, REMOVE = pb.DESIRED_STATE_RUN, pb.DESIRED_STATE_STOP, pb.DESIRED_STATE_REMOVE
NONE = pb.RESTART_CONDITION_NONE
ON_FAILURE, ANY = pb.RESTART_CONDITION_ON_FAILURE, pb.RESTART_CONDITION_ANY


def wanted(
    desired: int = RUN, restart: int = ANY, attempts: int = 0, known: Memory | None = None
) -> Assigned:
    return Assigned(ID, desired, restart, attempts, 7_000, known)


def seen(phase: Phase, attempt: int = 1, **fields: object) -> Observed:
    if phase is Phase.STOPPED:
        fields = {"exit_code": 1, "exited_at_ms": NOW - 10, "started_at_ms": NOW - 100, **fields}
    return Observed(id=ID, attempt=attempt, spec_digest="d", phase=phase, **fields)  # type: ignore[arg-type]


def known(state: int, attempt: int = 1, **fields: object) -> Memory:
    return Memory(attempt=attempt, state=state, **fields)  # type: ignore[arg-type]


def last(actions: list[Action]) -> Action | None:
    """What goes to the runtime."""
    rest = [action for action in actions if not isinstance(action, Report)]
    assert len(rest) <= 1
    return rest[0] if rest else None


def reported(actions: list[Action]) -> Memory | None:
    found = [action.memory for action in actions if isinstance(action, Report)]
    assert len(found) <= 1
    return found[0] if found else None


@dataclasses.dataclass
class Case:
    name: str
    assigned: Assigned | None
    observed: Observed | None
    memory: Memory | None
    action: Action | None
    state: tuple[int, int] | None = None  # (attempt, state) reported


CASES = [
    Case("new", wanted(), None, None, Create(ID, 1), (1, PREPARING)),
    Case("cut off in create", wanted(), None, known(PREPARING), Create(ID, 1)),
    Case("only a snapshot", wanted(), seen(Phase.REMNANT, 0), known(PREPARING), Delete(ID, False)),
    Case(
        "a remnant, memory lost",
        wanted(),
        seen(Phase.REMNANT, 0),
        None,
        Delete(ID, False),
        (1, ASSIGNED),
    ),
    Case(
        "created, not started",
        wanted(),
        seen(Phase.CREATED),
        known(PREPARING),
        Start(ID, 1),
        (1, STARTING),
    ),
    Case(
        "created, memory lost", wanted(), seen(Phase.CREATED, 3), None, Start(ID, 3), (3, STARTING)
    ),
    Case("cut off in start", wanted(), seen(Phase.CREATED), known(STARTING), Start(ID, 1)),
    Case(
        "an old attempt created",
        wanted(),
        seen(Phase.CREATED, 1),
        known(PREPARING, 2),
        Delete(ID, False),
    ),
    Case("started", wanted(), seen(Phase.RUNNING, pid=9), known(STARTING), None, (1, RUNNING)),
    Case("running on", wanted(), seen(Phase.RUNNING, pid=9), known(RUNNING, pid=9), None),
    Case("running, memory lost", wanted(), seen(Phase.RUNNING, 4, pid=9), None, None, (4, RUNNING)),
    Case(
        "running, memory stale",
        wanted(),
        seen(Phase.RUNNING, 4),
        known(RUNNING, 2),
        None,
        (4, RUNNING),
    ),
    Case(
        "given up but running", wanted(), seen(Phase.RUNNING, 1), known(PENDING, 2), Stop(ID, 7_000)
    ),
    Case("ended", wanted(), seen(Phase.STOPPED), known(RUNNING), Delete(ID, False), (2, PENDING)),
    Case("ended unseen", wanted(), seen(Phase.STOPPED), None, Delete(ID, False), (2, PENDING)),
    Case(
        "ended before it was said to run",
        wanted(),
        seen(Phase.STOPPED),
        known(STARTING),
        Delete(ID, False),
        (2, PENDING),
    ),
    Case(
        "an old attempt's rest", wanted(), seen(Phase.STOPPED), known(PENDING, 2), Delete(ID, False)
    ),
    Case("rebooted", wanted(), None, known(RUNNING), None, (2, PENDING)),
    Case(
        "rebooted, record kept",
        wanted(),
        seen(Phase.REMNANT),
        known(RUNNING),
        Delete(ID, False),
        (2, PENDING),
    ),
    Case("in its pause", wanted(), None, known(PENDING, 2, retry_at_ms=NOW + 500), None),
    Case(
        "pause over",
        wanted(),
        None,
        known(PENDING, 2, retry_at_ms=NOW),
        Create(ID, 2),
        (2, PREPARING),
    ),
    Case(
        "clock jumped back",
        wanted(),
        None,
        known(PENDING, 2, retry_at_ms=NOW + 9_000_000),
        Create(ID, 2),
        (2, PREPARING),
    ),
    Case(
        "no restart, failed",
        wanted(restart=NONE),
        seen(Phase.STOPPED),
        known(RUNNING),
        Delete(ID, False),
        (1, FAILED),
    ),
    Case(
        "no restart, done",
        wanted(restart=NONE),
        seen(Phase.STOPPED, exit_code=0),
        known(RUNNING),
        Delete(ID, False),
        (1, COMPLETE),
    ),
    Case("no restart, vanished", wanted(restart=NONE), None, known(RUNNING), None, (1, FAILED)),
    Case(
        "on failure, done",
        wanted(restart=ON_FAILURE),
        seen(Phase.STOPPED, exit_code=0),
        known(RUNNING),
        Delete(ID, False),
        (1, COMPLETE),
    ),
    Case(
        "on failure, failed",
        wanted(restart=ON_FAILURE),
        seen(Phase.STOPPED),
        known(RUNNING),
        Delete(ID, False),
        (2, PENDING),
    ),
    Case(
        "any, done",
        wanted(),
        seen(Phase.STOPPED, exit_code=0),
        known(RUNNING),
        Delete(ID, False),
        (2, PENDING),
    ),
    Case(
        "attempts left",
        wanted(attempts=2),
        seen(Phase.STOPPED, 2),
        known(RUNNING, 2),
        Delete(ID, False),
        (3, PENDING),
    ),
    Case(
        "attempts spent",
        wanted(attempts=2),
        seen(Phase.STOPPED, 3),
        known(RUNNING, 3),
        Delete(ID, False),
        (3, FAILED),
    ),
    Case("over", wanted(), None, known(FAILED), None),
    Case("over, rest left", wanted(), seen(Phase.STOPPED), known(FAILED), Delete(ID, False)),
    Case("over, yet running", wanted(), seen(Phase.RUNNING, 2), known(FAILED), Stop(ID, 7_000)),
    Case("stop: running", wanted(STOP), seen(Phase.RUNNING), known(RUNNING), Stop(ID, 7_000)),
    Case(
        "stop: stopped",
        wanted(STOP),
        seen(Phase.STOPPED),
        known(RUNNING),
        Delete(ID, False),
        (1, SHUTDOWN),
    ),
    Case(
        "stop: created",
        wanted(STOP),
        seen(Phase.CREATED),
        known(PREPARING),
        Delete(ID, False),
        (1, SHUTDOWN),
    ),
    Case("stop: nothing", wanted(STOP), None, known(RUNNING), None, (1, SHUTDOWN)),
    Case("stop: in its pause", wanted(STOP), None, known(PENDING, 3), None, (3, SHUTDOWN)),
    Case("stop: done", wanted(STOP), None, known(SHUTDOWN), None),
    Case("remove: running", wanted(REMOVE), seen(Phase.RUNNING), known(RUNNING), Stop(ID, 7_000)),
    Case(
        "remove: stopped",
        wanted(REMOVE),
        seen(Phase.STOPPED),
        known(RUNNING),
        Delete(ID, True),
        (1, SHUTDOWN),
    ),
    Case(
        "remove: remnant",
        wanted(REMOVE),
        seen(Phase.REMNANT, 0),
        None,
        Delete(ID, True),
        (1, SHUTDOWN),
    ),
    Case("remove: nothing", wanted(REMOVE), None, None, None, (1, SHUTDOWN)),
    Case("remove: failed before", wanted(REMOVE), None, known(FAILED), None, (1, FAILED)),
    Case("remove: told", wanted(REMOVE), None, known(SHUTDOWN, removed=True), None),
    Case("stray: running", None, seen(Phase.RUNNING), None, Stop(ID, 10_000)),
    Case("stray: stopped", None, seen(Phase.STOPPED), None, Delete(ID, True)),
    Case("stray: created", None, seen(Phase.CREATED), known(PREPARING), Delete(ID, True)),
    Case("stray: remnant", None, seen(Phase.REMNANT, 0), None, Delete(ID, True)),
    Case(
        "store lost: done before",
        wanted(restart=NONE, known=known(COMPLETE)),
        None,
        None,
        None,
        (1, COMPLETE),
    ),
    Case(
        "store lost: ran before a reboot",
        wanted(restart=NONE, known=known(RUNNING)),
        None,
        None,
        None,
        (1, FAILED),
    ),
    Case(
        "store lost: attempts go on",
        wanted(known=known(PENDING, 4, retry_at_ms=NOW)),
        None,
        None,
        Create(ID, 4),
        (4, PREPARING),
    ),
    Case(
        "store lost: running on",
        wanted(known=known(RUNNING, 3)),
        seen(Phase.RUNNING, 3, pid=9),
        None,
        None,
        (3, RUNNING),
    ),
    Case(
        "store lost: the runtime knows of a later attempt",
        wanted(known=known(RUNNING, 2)),
        seen(Phase.RUNNING, 3, pid=9),
        None,
        None,
        (3, RUNNING),
    ),
    Case(
        "an old copy of the store",
        wanted(restart=NONE, known=known(COMPLETE)),
        None,
        known(STARTING),
        None,
        (1, COMPLETE),
    ),
    Case("the manager knows less", wanted(known=known(STARTING)), None, known(COMPLETE, 2), None),
    Case("unassigned, gone", None, None, known(SHUTDOWN, removed=True), Forget(ID)),
    Case("nothing at all", None, None, None, None),
    Case("unknown", wanted(), seen(Phase.UNKNOWN), known(RUNNING), Inspect(ID)),
    Case("unknown stray", None, seen(Phase.UNKNOWN), None, Inspect(ID)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_container(case: Case) -> None:
    actions, wakeup_ms = decide(ID, case.assigned, case.observed, case.memory, NOW)
    assert last(actions) == case.action
    memory = reported(actions)
    assert (None if memory is None else (memory.attempt, memory.state)) == case.state
    if case.name == "in its pause":
        assert wakeup_ms == NOW + 500


def test_what_is_not_assigned_is_left_alone_until_the_set_is_known() -> None:
    running = {ID: seen(Phase.RUNNING)}
    assert converge({}, running, {}, NOW, set_known=False).actions == []
    assert converge({}, running, {}, NOW).actions == [Stop(ID, 10_000)]


def test_the_pause_doubles_to_a_minute() -> None:
    seconds = [plans.backoff_ms(failures) // 1000 for failures in range(1, 10)]
    assert seconds == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert plans.backoff_ms(10_000) == 60_000


@pytest.mark.parametrize(("ran_ms", "failures"), [(59_999, 6), (60_000, 1)])
def test_a_minute_of_running_forgives(ran_ms: int, failures: int) -> None:
    ended = seen(Phase.STOPPED, 5, started_at_ms=NOW - ran_ms, exited_at_ms=NOW)
    memory = known(RUNNING, 5, started_at_ms=NOW - ran_ms, failures=5)
    actions, _ = decide(ID, wanted(), ended, memory, NOW)
    after = reported(actions)
    assert after is not None
    assert after.failures == failures
    assert after.retry_at_ms == NOW + plans.backoff_ms(failures)


def test_the_last_exit_stays_visible_while_it_waits() -> None:
    ended = seen(Phase.STOPPED, exit_code=137, oom_killed=True)
    after = reported(decide(ID, wanted(), ended, known(RUNNING), NOW)[0])
    assert after is not None
    assert (after.exit_code, after.oom_killed, after.finished_at_ms) == (137, True, NOW - 10)
    assert "memory" in after.message
    assert "attempt 2 follows after 1 s" in after.message
    begun = reported(decide(ID, wanted(), None, after, after.retry_at_ms)[0])
    assert begun is not None
    assert (begun.exit_code, begun.oom_killed, begun.message) == (None, False, "")


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "message"),
    [
        (137, True, "the kernel killed it for memory (exit code 137); give it more memory"),
        (
            3,
            True,
            (
                "it ended with exit code 3; before that, the kernel killed a process of it for "
                "memory; its logs may say whether it ended for that, and more memory may help"
            ),
        ),
        (137, False, "it ended with exit code 137; its logs may say why"),
        (0, True, "it ended by itself with exit code 0"),
    ],
)
def test_how_it_ended_is_said(exit_code: int, oom_killed: bool, message: str) -> None:
    ended = seen(Phase.STOPPED, exit_code=exit_code, oom_killed=oom_killed)
    after = reported(decide(ID, wanted(restart=NONE), ended, known(RUNNING), NOW)[0])
    assert after is not None
    assert after.message == message


@pytest.mark.parametrize(
    ("restart", "permanent", "state"),
    [
        (ANY, True, PENDING),
        (ANY, False, PENDING),
        (ON_FAILURE, True, PENDING),
        (NONE, True, REJECTED),
        (NONE, False, FAILED),
    ],
)
def test_a_refused_attempt(restart: int, permanent: bool, state: int) -> None:
    after = plans.failed_attempt(
        wanted(restart=restart), known(STARTING), "no such command", NOW, permanent=permanent
    )
    assert after.state == state
    assert after.message.startswith("no such command")
    assert after.exit_code is None


# A host that does what it is told, and the plan asked again until there is nothing to do.

phases = st.sampled_from([Phase.REMNANT, Phase.CREATED, Phase.RUNNING, Phase.STOPPED])
observations = st.one_of(
    st.none(),
    st.builds(seen, phases, st.integers(1, 4)),
    st.just(seen(Phase.REMNANT, 0)),
)
memories = st.one_of(
    st.none(),
    st.builds(
        known,
        st.integers(PENDING, REJECTED),
        st.integers(1, 4),
        failures=st.integers(0, 9),
        retry_at_ms=st.one_of(st.just(0), st.integers(NOW - 99, NOW + 60_000)),
    ),
)
assignments = st.one_of(
    st.none(),
    st.builds(
        wanted,
        st.sampled_from([RUN, STOP, REMOVE]),
        st.sampled_from([NONE, ON_FAILURE, ANY]),
        st.integers(0, 3),
        memories,
    ),
)


class Host:
    """Obeys. `started` counts starts per attempt; `crashes` throws away what was reported."""

    def __init__(self, observed: Observed | None, memory: Memory | None) -> None:
        self.observed = observed
        self.memory = memory
        self.now_ms = NOW
        self.started: list[int] = []
        self.stopped = 0

    def act(self, action: Action) -> None:
        match action:
            case Report(memory=memory):
                self.remember(memory)
            case Forget():
                self.memory = None
            case Create(attempt=attempt):
                assert self.observed is None
                self.observed = seen(Phase.CREATED, attempt)
            case Start(attempt=attempt):
                assert self.observed == seen(Phase.CREATED, attempt)
                assert attempt not in self.started
                self.started.append(attempt)
                self.observed = seen(Phase.RUNNING, attempt, pid=77, started_at_ms=self.now_ms)
            case Stop():
                assert self.observed is not None
                assert self.observed.phase is Phase.RUNNING
                self.stopped += 1
                self.end(143)
            case Delete():
                assert self.observed is not None
                assert self.observed.phase is not Phase.RUNNING
                self.observed = None

    def remember(self, memory: Memory) -> None:
        before = self.memory
        if before is not None:
            assert (before.attempt, before.state) <= (memory.attempt, memory.state)
        self.memory = memory

    def end(self, exit_code: int) -> None:
        assert self.observed is not None
        self.observed = seen(
            Phase.STOPPED, self.observed.attempt, exit_code=exit_code, exited_at_ms=self.now_ms
        )

    def settle(self, assigned: Assigned | None) -> None:
        for _ in range(20):
            actions, wakeup_ms = decide(ID, assigned, self.observed, self.memory, self.now_ms)
            if not actions and wakeup_ms is None:
                return
            for action in actions:
                self.act(action)
            if not actions and wakeup_ms is not None:
                assert self.now_ms < wakeup_ms <= self.now_ms + 60_000
                self.now_ms = wakeup_ms
        raise AssertionError("it does not converge")


@settings(max_examples=2_000, deadline=None)
@given(assignments, observations, memories)
def test_it_converges_from_anything(
    assigned: Assigned | None, observed: Observed | None, memory: Memory | None
) -> None:
    host = Host(observed, memory)
    host.settle(assigned)
    if assigned is None:
        assert host.observed is None
        assert host.memory is None
        return
    assert host.memory is not None
    if assigned.desired == RUN and not plans.is_terminal(host.memory):
        assert host.observed is not None
        assert host.observed.phase is Phase.RUNNING
        assert host.memory.state == RUNNING
        assert host.memory.pid == host.observed.pid
    else:
        assert host.observed is None
        assert plans.is_terminal(host.memory)
        assert host.memory.removed == (
            assigned.desired == REMOVE or (memory is not None and memory.removed)
        )


@settings(deadline=None)
@given(st.integers(1, 4), memories, st.sampled_from([NONE, ON_FAILURE, ANY]))
def test_what_runs_is_never_touched(attempt: int, memory: Memory | None, restart: int) -> None:
    """Unless its attempt was given up, or ended for good, before."""
    if memory is not None and (memory.attempt > attempt or plans.is_terminal(memory)):
        return
    host = Host(seen(Phase.RUNNING, attempt, pid=5), memory)
    if memory is not None and memory.state == RUNNING and memory.attempt == attempt:
        host.memory = msgspec.structs.replace(memory, pid=5)
    host.settle(wanted(restart=restart))
    assert (host.started, host.stopped) == ([], 0)
    assert host.observed == seen(Phase.RUNNING, attempt, pid=5)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 137]), max_size=6),
    st.lists(st.booleans(), max_size=60),
)
def test_killed_at_any_step_it_goes_on(exits: list[int], kills: list[bool]) -> None:
    """The daemon dies before any action and forgets what it had not written: still no attempt
    starts twice, and the attempts count on.
    """
    host = Host(None, None)
    written: Memory | None = None
    for exit_code in [*exits, None]:
        for _ in range(100):
            actions, wakeup_ms = decide(ID, wanted(), host.observed, host.memory, host.now_ms)
            if not actions and wakeup_ms is None:
                break
            for action in actions:
                if kills and kills.pop():
                    host.memory = written
                    break
                # What the runtime alone knew goes only after the store has it.
                if isinstance(action, Delete):
                    written = host.memory
                host.act(action)
            if not actions and wakeup_ms is not None:
                host.now_ms = wakeup_ms
        else:
            raise AssertionError("it does not converge")
        if exit_code is not None:
            host.end(exit_code)
    assert host.observed is not None
    assert host.observed.phase is Phase.RUNNING
    assert host.started == sorted(set(host.started))
    assert len(host.started) == len(exits) + 1
