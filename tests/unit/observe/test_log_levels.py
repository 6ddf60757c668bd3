"""Levels by component: what counts for whom, and for how long."""

from __future__ import annotations

import pytest

from warren.observe.log_levels import ALL, COMPONENTS, LevelRow, Levels, UnknownError


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def levels(clock: Clock) -> Levels:
    return Levels("info", clock)


def test_each_has_its_own_and_its_parents_level(levels: Levels) -> None:
    levels.set("worker", "debug")
    levels.set(ALL, "error")
    assert levels.level("worker") == levels.level("worker.store") == "debug"
    assert levels.level("workers") == levels.level("raft") == "error"
    levels.set("worker.store", "warn")
    assert (levels.level("worker"), levels.level("worker.store")) == ("debug", "warn")
    levels.set("worker", "default")
    assert levels.level("worker") == "error"
    levels.set(ALL, "default")
    assert levels.own() == {}
    assert levels.level("worker.store") == "info"


def test_what_is_configured_changes_under_what_was_asked(levels: Levels) -> None:
    levels.set("raft", "debug")
    levels.configure("error")
    assert (levels.level("raft"), levels.level("api")) == ("debug", "error")
    with pytest.raises(ValueError, match="must be one of"):
        levels.configure("loud")
    assert levels.configured == "error"


def test_a_level_for_a_time_goes_back(levels: Levels, clock: Clock) -> None:
    levels.set("api", "warn")
    assert not levels.ending
    levels.set("raft", "debug", 10.0)
    assert levels.ending
    clock.now_s += 9.5
    assert levels.expire() == []
    assert levels.rows()[1 + COMPONENTS.index("raft")] == LevelRow("raft", "debug", True, 0.5)
    clock.now_s += 0.5
    assert levels.expire() == ["raft"]
    assert levels.own() == {"api": "warn"}
    assert not levels.ending


def test_the_newest_word_counts(levels: Levels, clock: Clock) -> None:
    levels.set("raft", "debug", 10.0)
    levels.set("raft", "error")
    clock.now_s += 11.0
    assert levels.expire() == []
    assert levels.level("raft") == "error"


def test_rows_have_all_of_them(levels: Levels) -> None:
    levels.set(ALL, "warn")
    rows = levels.rows()
    assert [row.component for row in rows] == [ALL, *COMPONENTS]
    assert rows[0] == LevelRow(ALL, "warn", True, 0.0)
    assert rows[1] == LevelRow(COMPONENTS[0], "warn", False, 0.0)


@pytest.mark.parametrize(
    ("component", "level", "says"),
    [("rafft", "debug", "there are all, api, "), ("raft", "loud", "there are default, debug, ")],
)
def test_what_is_unknown_is_refused_with_what_there_is(
    levels: Levels, component: str, level: str, says: str
) -> None:
    with pytest.raises(UnknownError, match=says):
        levels.set(component, level)
    assert levels.own() == {}
