"""Rounds with and without instrumentation, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches import _runs, compare
from benches._common import Report, arguments
from benches.instrumentation import Round, Spread, Turns
from warren._histogram import Histogram


def of(milliseconds: float) -> Histogram:
    """Calls that all took as long."""
    found = Histogram()
    for _ in range(1000):
        found.observe(milliseconds / 1e3)
    return found


def test_within_a_run_off_is_compared_with_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns([(Round(99.0, 10.1), Round(100.0, 10.0))] * 4, {True: of(2.0), False: of(1.0)})
    report = Report("cost")
    turns.report(report, "commit")
    monkeypatch.setattr("sys.argv", ["benches/instrumentation.py"])
    report.finish(arguments("", ["--json", "--save", str(tmp_path)]))
    found = compare.within(_runs.load(tmp_path))
    assert [(pair.bench, pair.name) for pair in found.pairs] == [("cost", "commit")]
    assert found.pairs[0].ratios["p50"].ratio == pytest.approx(2, rel=0.02)
    assert report.rows["commit: on against off"]["per_second_ratio"] == 0.99
    (goal,) = report.goals
    assert goal.met
    assert goal.measured == "1.00 % (1.00 to 1.00)"


def test_the_spread_of_a_median_takes_in_what_chance_would() -> None:
    assert Spread.of([3.0, 1.0]) == Spread(2.0, 1.0, 3.0)
    ratios = [1 + number / 1000 for number in range(-50, 51)]
    spread = Spread.of(ratios)
    assert spread.middle == 1.0
    assert spread.low == pytest.approx(0.99)
    assert spread.high == pytest.approx(1.01)


async def test_rounds_take_turns_and_each_meets_its_neighbour() -> None:
    told: list[bool] = [True]
    measured: list[bool] = []

    async def work(into: Histogram) -> Round:
        measured.append(told[-1])
        into.observe(1.0)
        return Round(1.0 if told[-1] else 2.0, 1.0)

    taken = await Turns().take(4, told.append, work)
    assert measured == [True, True, False, False, True, True, False, False, True]
    assert told[-1], "it is on again"
    assert taken.pairs == [(Round(1.0, 1.0), Round(2.0, 1.0))] * 4
    assert {on: found.count for on, found in taken.latencies.items()} == {True: 4, False: 4}
