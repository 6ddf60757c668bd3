"""What to do about the containers of this host: pure, level-triggered, one container at a time.

Three things are compared for each container: what is *assigned* (the manager's word), what is
*observed* (the runtime's word) and what is *remembered* (its status as last reported, and the
count behind its back-off). The answer is a list of actions. Nothing here waits, and nothing is
lost when the answer is thrown away: asked again, it is given again.

Rules
- A running attempt is adopted as it is, whoever started it; it is never restarted.
- An attempt is created and started at most once. What cannot be known about it (half made, or
  gone) is deleted, and the same or the next attempt begins from nothing.
- (attempt, state) only grows, also over the loss of the store: the manager tells what it knows.
- The pause between attempts is 1, 2, 4 … 60 s and begins anew after an attempt that ran for 60 s.
- What must not run for long without a manager is stopped once it has been without one for that
  long (`contact`), and not started before one has said again that it is wanted here.
- What is ours and assigned to nobody is a stray: stopped and deleted, but only once the whole set
  of assignments is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from warren.agent.contact import Contact
from warren.agent.runtime.base import Observed, Phase
from warren.pb.v1 import objects_pb2 as pb

__all__ = [
    "Action",
    "Assigned",
    "Create",
    "Delete",
    "Forget",
    "Inspect",
    "Memory",
    "Plan",
    "Report",
    "Start",
    "Stop",
    "backoff_ms",
    "converge",
    "decide",
    "failed_attempt",
    "is_allowed",
    "is_terminal",
]

BACKOFF_FIRST_MS: Final = 1_000
BACKOFF_MAX_MS: Final = 60_000
STEADY_MS: Final = 60_000  # an attempt that ran this long was no failure to start
STRAY_STOP_TIMEOUT_MS: Final = 10_000  # nobody says how long a stray may take
INSPECT_AGAIN_MS: Final = 1_000
_SIGKILLED: Final = 137

# Also a mark: how it ends after this is no failure of its own.
_STOPPING: Final = "being stopped: no manager has been heard for too long"
_PARKED: Final = (
    "stopped, because no manager has been heard for too long; it starts again once one says that "
    "it is still wanted here"
)
_NOT_STARTED: Final = (
    "not started, because no manager has been heard for too long; it starts once one says that it "
    "is still wanted here"
)

_TERMINAL: Final = frozenset(
    {
        pb.CONTAINER_STATE_COMPLETE,
        pb.CONTAINER_STATE_FAILED,
        pb.CONTAINER_STATE_SHUTDOWN,
        pb.CONTAINER_STATE_REJECTED,
        pb.CONTAINER_STATE_LOST,
    }
)
_BEGUN: Final = frozenset({pb.CONTAINER_STATE_STARTING, pb.CONTAINER_STATE_RUNNING})


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A container's status as reported, and `failures`: ends in a row that earned a pause.

    Fields otherwise as in `ContainerStatus`. `attempt` ≥ 1.
    """

    attempt: int
    state: int
    message: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    pid: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    retry_at_ms: int = 0
    removed: bool = False
    failures: int = 0


class Assigned(msgspec.Struct, frozen=True):
    """What the manager wants of one container; `desired` and `restart` as in the schema.

    `restart_max_attempts` counts restarts on this host, 0: no end. Never holds the unspecified
    values: what crosses the wire is normalised before. `known`: its status as the manager knew it
    when it said this; the truth is that, or beyond. `stop_after_ms`: for longer it must not run
    without a manager; 0: it may.
    """

    id: str
    desired: int
    restart: int
    restart_max_attempts: int
    stop_timeout_ms: int
    known: Memory | None = None
    stop_after_ms: int = 0


class Create(msgspec.Struct, frozen=True):
    """Make the attempt ready to start."""

    id: str
    attempt: int


class Start(msgspec.Struct, frozen=True):
    """Start the created attempt."""

    id: str
    attempt: int


class Stop(msgspec.Struct, frozen=True):
    """SIGTERM, and SIGKILL after `timeout_ms`. `urgent`: it waits for no other one."""

    id: str
    timeout_ms: int
    urgent: bool = False


class Delete(msgspec.Struct, frozen=True):
    """Remove every trace from the runtime; `logs`: its log files too."""

    id: str
    logs: bool


class Inspect(msgspec.Struct, frozen=True):
    """The runtime could not say what it is: list again."""

    id: str


class Report(msgspec.Struct, frozen=True):
    """Remember this as the container's status, and tell the manager."""

    id: str
    memory: Memory


class Forget(msgspec.Struct, frozen=True):
    """Nobody asks for it and nothing is left of it: drop what is remembered."""

    id: str


Action = Create | Start | Stop | Delete | Inspect | Report | Forget


class Plan(msgspec.Struct, frozen=True):
    """Actions in the order of ids, of one container in the order given; at most one of them
    (the last) goes to the runtime. `wakeup_ms`: when to ask again, if nothing happens before.
    """

    actions: list[Action]
    wakeup_ms: int | None


def converge(
    assigned: Mapping[str, Assigned],
    observed: Mapping[str, Observed],
    memory: Mapping[str, Memory],
    now_ms: int,
    *,
    ids: Iterable[str] | None = None,
    set_known: bool = True,
    contact: tuple[Contact, float] | None = None,
) -> Plan:
    """The plan for `ids`, or for everything that any of the three knows.

    `set_known`: `assigned` is the whole set, so what is not in it is assigned to nobody.
    `contact`: with the managers, and the time to hold against it; None: there always is.
    """
    if ids is None:
        ids = assigned.keys() | observed.keys() | memory.keys()
    actions: list[Action] = []
    wakeup_ms: int | None = None
    for container_id in sorted(ids):
        wanted = assigned.get(container_id)
        if wanted is None and not set_known:
            continue
        steps, at_ms = decide(
            container_id,
            wanted,
            observed.get(container_id),
            memory.get(container_id),
            now_ms,
            may_run=wanted is None or is_allowed(wanted, contact),
        )
        actions += steps
        if at_ms is not None:
            wakeup_ms = at_ms if wakeup_ms is None else min(wakeup_ms, at_ms)
    return Plan(actions, wakeup_ms)


def is_allowed(assigned: Assigned, contact: tuple[Contact, float] | None) -> bool:
    """Managers have been heard lately enough for it."""
    if contact is None:
        return True
    chain, now_s = contact
    return chain.allows(assigned.stop_after_ms / 1000, now_s)


def decide(
    container_id: str,
    assigned: Assigned | None,
    observed: Observed | None,
    memory: Memory | None,
    now_ms: int,
    *,
    may_run: bool = True,
) -> tuple[list[Action], int | None]:
    """Actions for one container, and when to ask again (milliseconds since the epoch)."""
    if observed is not None and observed.phase is Phase.UNKNOWN:
        return [Inspect(container_id)], now_ms + INSPECT_AGAIN_MS
    if assigned is None:
        return _unassigned(container_id, observed, memory), None
    before = memory
    memory = _caught_up(_at_least(assigned.known, memory), observed)
    actions: list[Action] = []
    if assigned.desired != pb.DESIRED_STATE_RUN or is_terminal(memory):
        memory, last = _wind_down(assigned, observed, memory, now_ms)
        wakeup_ms = None
    elif not may_run:
        memory, last = _park(assigned, observed, memory, now_ms)
        wakeup_ms = None
    else:
        memory, last, wakeup_ms = _keep_running(assigned, observed, memory, now_ms)
    if memory != before:
        actions.append(Report(container_id, memory))
    if last is not None:
        actions.append(last)
    return actions, wakeup_ms


def is_terminal(memory: Memory) -> bool:
    """No attempt of it will run again."""
    return memory.state in _TERMINAL


def backoff_ms(failures: int) -> int:
    """The pause after the `failures`-th end in a row (from 1)."""
    doublings = min(failures - 1, BACKOFF_MAX_MS.bit_length())
    return min(BACKOFF_FIRST_MS << doublings, BACKOFF_MAX_MS)


def failed_attempt(
    assigned: Assigned, memory: Memory, message: str, now_ms: int, *, permanent: bool
) -> Memory:
    """The status after the runtime refused to create or start the attempt.

    `permanent`: this host can never run it. With restarts allowed it is tried again all the same,
    with a pause: an image may be loaded, a path to mount may appear.
    """
    ended = msgspec.structs.replace(memory, exit_code=None, pid=0, finished_at_ms=now_ms)
    spent = pb.CONTAINER_STATE_REJECTED if permanent else pb.CONTAINER_STATE_FAILED
    return _next_attempt(assigned, ended, message.rstrip("."), spent, success=False, now_ms=now_ms)


def _unassigned(
    container_id: str, observed: Observed | None, memory: Memory | None
) -> list[Action]:
    if observed is None:
        return [Forget(container_id)] if memory is not None else []
    if observed.phase is Phase.RUNNING:
        return [Stop(container_id, STRAY_STOP_TIMEOUT_MS)]
    return [Delete(container_id, logs=True)]


def _at_least(known: Memory | None, memory: Memory | None) -> Memory | None:
    """What was reported once is not forgotten with the store, nor with an old copy of it."""
    if known is None or memory is None:
        return memory or known
    behind = (memory.attempt, memory.state) < (known.attempt, known.state)
    return known if behind else memory


def _caught_up(memory: Memory | None, observed: Observed | None) -> Memory:
    """The runtime's labels are newer than a memory that was lost or never written."""
    if observed is None or observed.attempt == 0:
        return memory or Memory(attempt=1, state=pb.CONTAINER_STATE_ASSIGNED)
    if memory is not None and (memory.attempt >= observed.attempt or is_terminal(memory)):
        return memory
    failures = 0 if memory is None else memory.failures
    return Memory(attempt=observed.attempt, state=pb.CONTAINER_STATE_PREPARING, failures=failures)


def _wind_down(
    assigned: Assigned, observed: Observed | None, memory: Memory, now_ms: int
) -> tuple[Memory, Action | None]:
    """Nothing of it shall run: because it is not wanted, or because it ended for good."""
    container_id = assigned.id
    if observed is not None and observed.phase is Phase.RUNNING:
        if memory.attempt == observed.attempt and not is_terminal(memory):
            memory = _running(memory, observed)
        return memory, Stop(container_id, assigned.stop_timeout_ms)
    if not is_terminal(memory):
        memory = _shut_down(memory, observed, now_ms)
    removing = assigned.desired == pb.DESIRED_STATE_REMOVE
    if observed is not None:
        return memory, Delete(container_id, logs=removing)
    if removing and not memory.removed:
        memory = msgspec.structs.replace(memory, removed=True)
    return memory, None


def _park(
    assigned: Assigned, observed: Observed | None, memory: Memory, now_ms: int
) -> tuple[Memory, Action | None]:
    """It is wanted, but nothing of it shall run until a manager is heard again."""
    container_id = assigned.id
    if observed is not None and observed.phase is Phase.RUNNING:
        if observed.attempt == memory.attempt:
            memory = msgspec.structs.replace(_running(memory, observed), message=_STOPPING)
        return memory, Stop(container_id, assigned.stop_timeout_ms, urgent=True)
    if _is_over(memory, observed):
        if memory.message == _STOPPING:
            memory = _parked(observed, memory, now_ms)
        else:
            memory = _ended(assigned, observed, memory, now_ms)
    elif memory.state in _BEGUN:
        # It was about to be started: what follows its deletion is no end of its own.
        memory = msgspec.structs.replace(memory, message=_STOPPING)
    if observed is not None:
        return memory, Delete(container_id, logs=False)
    if not is_terminal(memory) and not memory.message:
        memory = msgspec.structs.replace(memory, message=_NOT_STARTED)
    return memory, None


def _parked(observed: Observed | None, memory: Memory, now_ms: int) -> Memory:
    """The next attempt, which waits for a manager and for nothing else."""
    ended = msgspec.structs.replace(memory, exit_code=None, pid=0, finished_at_ms=now_ms)
    if observed is not None and observed.phase is Phase.STOPPED:
        ended = _with_exit(memory, observed, now_ms)
    return msgspec.structs.replace(
        ended,
        attempt=ended.attempt + 1,
        state=pb.CONTAINER_STATE_PENDING,
        message=_PARKED,
        retry_at_ms=0,
    )


def _keep_running(
    assigned: Assigned, observed: Observed | None, memory: Memory, now_ms: int
) -> tuple[Memory, Action | None, int | None]:
    container_id = assigned.id
    if observed is not None and observed.phase is Phase.RUNNING:
        if observed.attempt == memory.attempt:
            running = _running(memory, observed)
            if running.message == _STOPPING:  # a manager was heard before it was stopped
                running = msgspec.structs.replace(running, message="")
            return running, None, None
        return (
            memory,
            Stop(container_id, assigned.stop_timeout_ms),
            None,
        )  # an attempt given up before
    if _is_over(memory, observed):
        memory = _ended(assigned, observed, memory, now_ms)
    if observed is not None and (observed.phase is not Phase.CREATED or is_terminal(memory)):
        return memory, Delete(container_id, logs=False), None
    if observed is not None and observed.attempt != memory.attempt:
        return memory, Delete(container_id, logs=False), None
    if is_terminal(memory):
        return memory, None, None
    if memory.state == pb.CONTAINER_STATE_PENDING and _pause_lasts(memory, now_ms):
        return memory, None, memory.retry_at_ms
    if observed is not None:
        return (
            _advanced(memory, pb.CONTAINER_STATE_STARTING),
            Start(container_id, memory.attempt),
            None,
        )
    return (
        _advanced(memory, pb.CONTAINER_STATE_PREPARING),
        Create(container_id, memory.attempt),
        None,
    )


def _is_over(memory: Memory, observed: Observed | None) -> bool:
    """The attempt ended, seen or unseen."""
    if observed is not None and observed.phase is Phase.STOPPED:
        return observed.attempt == memory.attempt
    begun = memory.state in _BEGUN
    return begun and (observed is None or observed.phase is Phase.REMNANT)


def _pause_lasts(memory: Memory, now_ms: int) -> bool:
    # The wall clock may jump back by hours; no pause is longer than the longest.
    return now_ms < memory.retry_at_ms <= now_ms + BACKOFF_MAX_MS


def _advanced(memory: Memory, state: int) -> Memory:
    """Into `state` unless it is there or beyond; what belonged to the last attempt goes."""
    if memory.state >= state:
        return memory
    return msgspec.structs.replace(
        memory,
        state=state,
        message="",
        exit_code=None,
        oom_killed=False,
        started_at_ms=0,
        finished_at_ms=0,
        retry_at_ms=0,
    )


def _running(memory: Memory, observed: Observed) -> Memory:
    advanced = _advanced(memory, pb.CONTAINER_STATE_RUNNING)
    return msgspec.structs.replace(
        advanced,
        pid=observed.pid,
        started_at_ms=advanced.started_at_ms or observed.started_at_ms,
        oom_killed=advanced.oom_killed or observed.oom_killed,
    )


def _shut_down(memory: Memory, observed: Observed | None, now_ms: int) -> Memory:
    ended = memory
    if observed is not None and observed.phase is Phase.STOPPED:
        ended = _with_exit(memory, observed, now_ms)
    return msgspec.structs.replace(
        ended,
        state=pb.CONTAINER_STATE_SHUTDOWN,
        message="stopped because it was asked to",
        pid=0,
        retry_at_ms=0,
        finished_at_ms=ended.finished_at_ms or now_ms,
    )


def _with_exit(memory: Memory, observed: Observed, now_ms: int) -> Memory:
    return msgspec.structs.replace(
        memory,
        exit_code=observed.exit_code,
        oom_killed=observed.oom_killed or memory.oom_killed,
        started_at_ms=memory.started_at_ms or observed.started_at_ms,
        finished_at_ms=observed.exited_at_ms or now_ms,
        pid=0,
    )


def _ended(assigned: Assigned, observed: Observed | None, memory: Memory, now_ms: int) -> Memory:
    """The attempt is over and nobody asked for that: what now, by the restart policy."""
    memory = _advanced(memory, pb.CONTAINER_STATE_RUNNING)
    if observed is None or observed.phase is not Phase.STOPPED or observed.exit_code is None:
        ended = msgspec.structs.replace(memory, exit_code=None, pid=0, finished_at_ms=now_ms)
        message = "it is gone and nobody saw it end (was the host restarted?)"
    else:
        ended = _with_exit(memory, observed, now_ms)
        message = _exit_message(ended)
    success = ended.exit_code == 0
    spent = pb.CONTAINER_STATE_COMPLETE if success else pb.CONTAINER_STATE_FAILED
    return _next_attempt(assigned, ended, message, spent, success=success, now_ms=now_ms)


def _exit_message(ended: Memory) -> str:
    if ended.exit_code == 0:
        return "it ended by itself with exit code 0"
    if ended.oom_killed and ended.exit_code == _SIGKILLED:
        return f"the kernel killed it for memory (exit code {ended.exit_code}); give it more memory"
    if ended.oom_killed:
        return (
            f"it ended with exit code {ended.exit_code}; before that, the kernel killed a process "
            "of it for memory; its logs may say whether it ended for that, and more memory may help"
        )
    return f"it ended with exit code {ended.exit_code}; its logs may say why"


def _next_attempt(
    assigned: Assigned, ended: Memory, message: str, spent: int, *, success: bool, now_ms: int
) -> Memory:
    """PENDING as the next attempt where the policy restarts, else the terminal state `spent`."""
    if not _restarts(assigned, ended.attempt, success=success):
        return msgspec.structs.replace(ended, state=spent, message=message, retry_at_ms=0)
    ran_ms = ended.finished_at_ms - ended.started_at_ms if ended.started_at_ms else 0
    failures = 1 if ran_ms >= STEADY_MS else ended.failures + 1
    pause_ms = backoff_ms(failures)
    return msgspec.structs.replace(
        ended,
        attempt=ended.attempt + 1,
        state=pb.CONTAINER_STATE_PENDING,
        message=f"{message}; attempt {ended.attempt + 1} follows after {pause_ms // 1000} s",
        retry_at_ms=now_ms + pause_ms,
        failures=failures,
    )


def _restarts(assigned: Assigned, attempt: int, *, success: bool) -> bool:
    if assigned.restart == pb.RESTART_CONDITION_NONE:
        return False
    if success and assigned.restart == pb.RESTART_CONDITION_ON_FAILURE:
        return False
    return assigned.restart_max_attempts == 0 or attempt <= assigned.restart_max_attempts
