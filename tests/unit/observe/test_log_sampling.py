"""What is left out of the log, and that it is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from warren.observe.log_levels import COMPONENTS, OTHER
from warren.observe.log_sampling import (
    BURST,
    INTERVAL_S,
    KINDS_MAX,
    RATE_PER_S,
    REASONS,
    REPEATS_MAX,
    LeftOut,
    Sampler,
)

N = REPEATS_MAX["info"]


class Sampled:
    """A sampler with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sampler = Sampler(lambda: self.now_s)

    def admitted(
        self,
        times: int,
        text: str,
        *,
        level: str = "info",
        component: str = "api",
        fields: Mapping[str, object] | None = None,
        constant: bool = False,
    ) -> int:
        """How many of so many lines are written."""
        return sum(
            self.sampler.admit(level, component, text, fields or {}, constant=constant)
            for _ in range(times)
        )


@pytest.fixture
def sampled() -> Sampled:
    return Sampled()


def test_the_first_of_a_kind_are_written_and_the_others_counted(sampled: Sampled) -> None:
    fields = {"container_id": "c1", "request_id": "r1", "detail": "no"}
    assert sampled.admitted(N + 4, "slow") == N
    assert sampled.admitted(1, "slow", fields=fields) == 0
    assert sampled.sampler.suppressed["api", "repeated"] == 5
    assert sampled.sampler.collect() == []
    sampled.now_s += INTERVAL_S
    kept = {"container_id": "c1", "request_id": "r1"}
    assert sampled.sampler.collect() == [LeftOut("info", "api", "slow", 5, kept)]
    assert not sampled.sampler.busy
    assert sampled.admitted(N + 1, "slow") == N


def test_an_interval_without_repeats_is_no_news(sampled: Sampled) -> None:
    assert sampled.admitted(N, "slow") == N
    sampled.now_s += INTERVAL_S
    # Before anybody collects: what was within the bound begins anew.
    assert sampled.admitted(N, "slow") == N
    sampled.now_s += INTERVAL_S
    assert sampled.sampler.collect() == []


@pytest.mark.parametrize(
    "other", [{"component": "raft"}, {"level": "warn"}, {"text": "fast"}, {"level": "debug"}]
)
def test_kinds_are_told_apart(sampled: Sampled, other: dict[str, str]) -> None:
    sampled.admitted(N + 1, "slow")
    assert sampled.admitted(1, **{"text": "slow", **other}) == 1  # type: ignore[arg-type]


def test_values_in_a_text_make_no_kinds(sampled: Sampled) -> None:
    texts = [
        f"no answer from 10.0.0.{n}:2377 for `node-{n}` in 'a b' after {n}ms" for n in range(N)
    ]
    assert sum(sampled.admitted(1, text) for text in texts) == N
    assert sampled.admitted(1, "no answer from h1:1 for `x` in 'c' after 1.5s") == 0
    # What is constant is taken as it is.
    assert sampled.admitted(1, "no answer from 1", constant=True) == 1
    assert sampled.admitted(N, "no answer from 2", constant=True) == N


@pytest.mark.parametrize("level", ["error", "fatal"])
def test_errors_are_never_left_out(sampled: Sampled, level: str) -> None:
    count = int(BURST) + 10
    assert sampled.admitted(count, "broken", level=level) == count
    assert not sampled.sampler.busy


def test_a_component_has_a_rate_and_the_first_of_a_kind_passes_it(sampled: Sampled) -> None:
    kinds = int(BURST) // N
    words = [f"kind {'x' * n}" for n in range(1, kinds + 1)]
    assert kinds < KINDS_MAX
    assert sum(sampled.admitted(N, word, constant=True) for word in words) == BURST
    assert sampled.admitted(N, "another") == 1
    assert sampled.sampler.suppressed["api", "rate"] == N - 1
    # Others have a rate of their own, and it fills again.
    assert sampled.admitted(N, "another", component="raft") == N
    sampled.now_s += 5.5 / RATE_PER_S
    assert sampled.admitted(N, "a third") == 5
    sampled.now_s += INTERVAL_S
    told = {left.text: left.missing for left in sampled.sampler.collect()}
    assert told == {"another": N - 1, "a third": N - 5}


def test_what_is_held_and_counted_has_bounds(sampled: Sampled) -> None:
    for number in range(KINDS_MAX):
        sampled.admitted(1, f"kind {number}", component=f"library{number}", constant=True)
    # One more kind for all that follow, of each component.
    assert sum(sampled.admitted(1, f"more {n}", constant=True) for n in range(N + 7)) == N
    assert sampled.admitted(N + 1, "x", component="unheard.of") == N
    labels = {(component, reason) for component in (*COMPONENTS, OTHER) for reason in REASONS}
    assert sampled.sampler.suppressed.keys() == labels
    left = {each.component: each.missing for each in sampled.sampler.collect(everything=True)}
    assert left == {"api": 7, OTHER: 1}
