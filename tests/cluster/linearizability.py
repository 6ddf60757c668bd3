"""Is a history of calls what one correct register, asked one call at a time, could have answered?

The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of
Lowe ("Testing for linearizability", 2017): an operation takes effect at one moment between its call
and its return; orders are tried in which each answer is the right one, and no set of operations
done is tried twice with the same state. Keys are independent of one another, so that each is
searched by itself (locality, Herlihy and Wing 1990).

An operation whose outcome is not known may take effect at any time after its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

#: Configurations looked at before a history counts as undecided.
CONFIGURATIONS_MAX: Final = 500_000

#: Of a key: (version, value), or None while it does not exist.
State = tuple[int, str] | None
IMPOSSIBLE: Final = "impossible"

Verdict = Literal["linearizable", "violated", "undecided"]


@dataclass(frozen=True)
class Operation:
    """One call on a key, and what came of it.

    `returned_at` is infinite where the outcome is not known; such a read says nothing and is left
    out of histories. What the fields mean is in `after`.
    """

    key: str
    kind: Literal["create", "update", "get"]
    called_at: float
    returned_at: float = math.inf
    client: str = ""
    #: What is written.
    value: str = ""
    #: The version that an update expects.
    expected: int = 0
    #: "ok", "taken" (create), "conflict" (update), "absent" (get, update); "": not known.
    outcome: str = ""
    #: What a successful call answered: the new version, or what was read.
    answer: State = None

    @property
    def is_known(self) -> bool:
        """It has returned: it took effect, or it will not."""
        return self.returned_at != math.inf

    def after(self, state: State) -> State | str:
        """The state after it took effect in `state`; IMPOSSIBLE if it could not answer as it did.

        A key is created once, at version 1; an update names the version that it expects and raises
        it by one.
        """
        if self.kind == "get":
            seen = None if self.outcome == "absent" else self.answer
            return state if state == seen else IMPOSSIBLE
        if self.kind == "create":
            applies = state is None
            made = (1, self.value)
        else:
            applies = state is not None and state[0] == self.expected
            made = (self.expected + 1, self.value)
        if self.outcome == "absent":
            return IMPOSSIBLE if state is not None else state
        if self.outcome in ("taken", "conflict"):
            return IMPOSSIBLE if applies else state
        # An unknown one that would change nothing need not be placed at all.
        if not applies or (self.answer is not None and self.answer[0] != made[0]):
            return IMPOSSIBLE
        return made


@dataclass
class Finding:
    """The verdict on one key; of a violation, how far the best order got and what did not fit."""

    key: str
    verdict: Verdict
    operations: int
    configurations: int
    placed: list[Operation] = field(default_factory=list)
    stuck: list[Operation] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.key}: {self.verdict}, {self.operations} operations"
        if self.verdict != "violated":
            return text
        lines = [f"{text}; {len(self.placed)} fit, the last of them:"]
        lines += [f"    {operation}" for operation in self.placed[-3:]]
        lines += ["  then none of:", *(f"    {operation}" for operation in self.stuck[:8])]
        return "\n".join(lines)


def check(history: Sequence[Operation], limit: int = CONFIGURATIONS_MAX) -> list[Finding]:
    """A finding for each key of the history."""
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    return [check_key(key, operations, limit) for key, operations in sorted(by_key.items())]


def check_key(key: str, history: Sequence[Operation], limit: int = CONFIGURATIONS_MAX) -> Finding:
    """Searches for an order of the operations of one key."""
    operations = sorted(history, key=lambda operation: operation.called_at)
    search = _Search(operations)
    verdict = search.run(limit)
    finding = Finding(key, verdict, len(operations), len(search.seen))
    if verdict == "violated":
        finding.placed = [operations[index] for index in search.best]
        done = sum(1 << index for index in search.best)
        finding.stuck = [operations[index] for index in search.candidates(done)]
    return finding


class _Search:
    """Depth first, without recursion: histories are longer than Python's stack."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations
        self._must = sum(1 << i for i, one in enumerate(operations) if one.is_known)
        #: Which operations are done, and the state that they led to.
        self.seen: set[tuple[int, Any]] = set()
        #: The longest order of operations that fit.
        self.best: list[int] = []

    def run(self, limit: int) -> Verdict:
        """Until an order is found, all are tried, or there are too many."""
        done, state = 0, None
        path: list[tuple[int, Iterator[int], int, State]] = []
        choices = self._choices(done, state)
        while self._must & ~done:
            step = self._next(choices, done, state)
            if step is not None:
                index, after = step
                path.append((index, choices, done, state))
                done, state = done | 1 << index, after
                choices = self._choices(done, state)
                if len(path) > len(self.best):
                    self.best = [taken for taken, *_ in path]
            elif path:
                _, choices, done, state = path.pop()
            else:
                return "violated"
            if len(self.seen) > limit:
                return "undecided"
        return "linearizable"

    def _next(self, choices: Iterator[int], done: int, state: State) -> tuple[int, State] | None:
        """The next operation that can take effect and leads to something new."""
        for index in choices:
            after = self._operations[index].after(state)
            if after == IMPOSSIBLE:
                continue
            configuration = (done | 1 << index, after)
            if configuration not in self.seen:
                self.seen.add(configuration)
                return index, after  # type: ignore[return-value]
        return None

    def _choices(self, done: int, state: State) -> Iterator[int]:
        """Candidates; only one, where it changes nothing and fits: any order that has it later is
        as good with it here.
        """
        candidates = list(self.candidates(done))
        for index in candidates:
            operation = self._operations[index]
            if operation.is_known and operation.after(state) == state:
                return iter([index])
        return iter(candidates)

    def candidates(self, done: int) -> Iterator[int]:
        """Operations not done that were called before any other one not done had returned."""
        index = _trailing_ones(done)
        first_return = math.inf
        while index < len(self._operations):
            operation = self._operations[index]
            if operation.called_at > first_return:
                return
            if not done >> index & 1:
                first_return = min(first_return, operation.returned_at)
                yield index
            index += 1


def _trailing_ones(number: int) -> int:
    return (~number & (number + 1)).bit_length() - 1
