"""The checker of histories finds what it must: it agrees with a naive twin, and it bites."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.cluster.linearizability import IMPOSSIBLE, Operation, State, check, check_key


def naively(history: Sequence[Operation]) -> bool:
    """Every order of every subset that has all known operations: no cleverness at all."""
    known = [one for one in history if one.is_known]
    unknown = [one for one in history if not one.is_known]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(unknown, size) for size in range(len(unknown) + 1)
    )
    return any(
        fits(order) for subset in subsets for order in itertools.permutations([*known, *subset])
    )


def fits(order: Sequence[Operation]) -> bool:
    for earlier, later in itertools.combinations(order, 2):
        if later.returned_at < earlier.called_at:
            return False
    state: State = None
    for operation in order:
        after = operation.after(state)
        if after == IMPOSSIBLE:
            return False
        state = after  # type: ignore[assignment]
    return True


def made_up(seed: int, length: int, clients: int = 3) -> list[Operation]:
    """What clients of a correct register could have seen; some outcomes were lost."""
    rng = random.Random(seed)
    state: State = None
    history = []
    free_at = [0.0] * clients
    known: list[State] = [None] * clients
    for number in range(length):
        client = rng.randrange(clients)
        called_at = free_at[client] + rng.random()
        # They take effect in the order in which they are made up.
        acts_at = max(called_at, history[-1][0] if history else 0.0) + rng.random() * 0.2
        returned_at = free_at[client] = acts_at + rng.random()
        kind = rng.choice(["create", "update", "get", "get"])
        seen = known[client]
        operation = Operation(
            key="k",
            kind=kind,  # type: ignore[arg-type]
            called_at=called_at,
            returned_at=returned_at,
            client=f"c{client}",
            value=f"v{number}",
            expected=seen[0] if seen else 1,
        )
        operation, state = answered(operation, state)
        known[client] = state
        if operation.kind != "get" and rng.random() < 0.25:
            operation = replace(operation, returned_at=math.inf, outcome="", answer=None)
        history.append((acts_at, operation))
    return [operation for _, operation in history]


def answered(operation: Operation, state: State) -> tuple[Operation, State]:
    """The operation with the answer of a correct register in `state`, and the state after it."""
    if operation.kind == "get":
        outcome = "absent" if state is None else "ok"
        return replace(operation, outcome=outcome, answer=state), state
    after = replace(operation, outcome="ok").after(state)
    if after == IMPOSSIBLE:
        refusal = "taken" if operation.kind == "create" else "conflict"
        return replace(operation, outcome=refusal), state
    assert not isinstance(after, str)
    return replace(operation, outcome="ok", answer=after), after


def spoilt(history: list[Operation], rng: random.Random) -> list[Operation]:
    """One answer is changed: often, but not always, to one that cannot be."""
    index = rng.randrange(len(history))
    operation = history[index]
    if operation.kind == "get":
        wrong: State = (rng.randrange(1, 4), f"v{rng.randrange(len(history))}")
        operation = replace(operation, outcome="ok", answer=wrong)
    else:
        wrong_outcome = rng.choice(["ok", "taken" if operation.kind == "create" else "conflict"])
        operation = replace(
            operation,
            outcome=wrong_outcome,
            answer=None,
            returned_at=min(operation.returned_at, operation.called_at + 1),
        )
    return [*history[:index], operation, *history[index + 1 :]]


def test_it_agrees_with_a_naive_twin_on_small_histories() -> None:
    verdicts = {"linearizable": 0, "violated": 0}
    for seed in range(400):
        history = made_up(seed, length=6)
        if seed % 2:
            history = spoilt(history, random.Random(seed))
        finding = check_key("k", history)
        assert (finding.verdict == "linearizable") == naively(history), (seed, history)
        verdicts[finding.verdict] += 1
    assert min(verdicts.values()) > 50, f"both kinds have to come up: {verdicts}"


def test_correct_histories_are_found_correct_however_long() -> None:
    began = time.monotonic()
    for seed in range(10):
        assert check_key("k", made_up(seed, length=1000)).verdict == "linearizable", seed
    assert time.monotonic() - began < 60, "a search that takes so long is not what it should be"


@pytest.mark.parametrize("seed", range(10))
def test_a_stale_read_in_a_long_history_is_found(seed: int) -> None:
    """Planted: a read that begins after a write was acknowledged answers what was before it."""
    history = made_up(seed, length=300, clients=5)
    writes = [one for one in history if one.kind == "update" and one.outcome == "ok"]
    newest = max(writes, key=lambda one: one.returned_at)
    assert newest.answer is not None
    older: State = (newest.answer[0] - 1, "older")
    end = newest.returned_at
    stale = Operation("k", "get", end + 1, end + 2, "reader", outcome="ok", answer=older)
    finding = check_key("k", [*history, stale])
    assert finding.verdict == "violated"
    assert stale in finding.stuck or stale in finding.placed
    assert "violated" in str(finding)


def test_a_write_that_was_acknowledged_and_lost_is_found() -> None:
    history = [
        Operation("k", "create", 0, 1, value="a", outcome="ok", answer=(1, "")),
        Operation("k", "update", 2, 3, value="b", expected=1, outcome="ok", answer=(2, "")),
        Operation("k", "get", 4, 5, outcome="ok", answer=(1, "a")),
    ]
    assert [finding.verdict for finding in check(history)] == ["violated"]
    assert [finding.verdict for finding in check(history[:2])] == ["linearizable"]


def test_a_retry_that_was_applied_twice_is_found() -> None:
    history = [
        Operation("k", "create", 0, 1, value="a", outcome="ok", answer=(1, "")),
        Operation("k", "update", 2, math.inf, value="b", expected=1),
        Operation("k", "get", 9, 10, outcome="ok", answer=(3, "b")),
    ]
    assert check_key("k", history).verdict == "violated"


def test_what_nobody_knows_may_have_happened_or_not() -> None:
    create = Operation("k", "create", 0, 1, value="a", outcome="ok", answer=(1, ""))
    lost = Operation("k", "update", 2, math.inf, value="b", expected=1)
    before = Operation("k", "get", 3, 4, outcome="ok", answer=(1, "a"))
    after = Operation("k", "get", 5, 6, outcome="ok", answer=(2, "b"))
    again = Operation("k", "get", 7, 8, outcome="ok", answer=(1, "a"))
    assert check_key("k", [create, lost, before]).verdict == "linearizable"
    assert check_key("k", [create, lost, before, after]).verdict == "linearizable"
    assert check_key("k", [create, lost, after, again]).verdict == "violated"


def test_too_large_a_search_is_undecided_not_wrong() -> None:
    assert check_key("k", made_up(0, length=300), limit=100).verdict == "undecided"
