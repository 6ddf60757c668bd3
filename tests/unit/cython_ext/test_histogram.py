"""The latency histogram against a naive twin that keeps every value."""

from __future__ import annotations

import math
import pickle
import struct
import sys
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warren._histogram import (
    BOUNDS_MAX,
    DEFAULT_BOUNDS,
    HIGHEST_SECONDS,
    LOWEST_SECONDS,
    RELATIVE_ERROR,
    Histogram,
    Timer,
)

SIXTEEN_KIB = 16 * 1024
SLOT_MAX = 2**48 - 1

in_range = st.floats(LOWEST_SECONDS, HIGHEST_SECONDS, exclude_max=True)
acceptable = st.floats(0, 1e6)
quantiles = st.floats(0, 1)


class Twin:
    """Keeps what it was given, sorts, and counts."""

    def __init__(self, values: list[float], bounds: tuple[float, ...] = DEFAULT_BOUNDS) -> None:
        self.values = sorted(values)
        self.bounds = bounds

    def cumulative(self) -> list[int]:
        return [sum(v <= bound for v in self.values) for bound in (*self.bounds, math.inf)]

    def quantile(self, q: float) -> float:
        return self.values[max(1, math.ceil(q * len(self.values))) - 1]


def recorded(values: list[float], bounds: tuple[float, ...] = DEFAULT_BOUNDS) -> Histogram:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram


@given(st.lists(in_range, min_size=1, max_size=200), quantiles)
def test_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    exact = Twin(values).quantile(q)
    assert abs(recorded(values).quantile(q) - exact) <= RELATIVE_ERROR * exact
    assert RELATIVE_ERROR < 0.01


@given(in_range)
def test_a_slot_holds_its_value_and_is_narrow(value: float) -> None:
    [(lower, upper, count)] = recorded([value]).slots()
    assert lower <= value < upper
    assert (upper - lower) / 2 <= RELATIVE_ERROR * lower
    assert count == 1


@pytest.mark.parametrize("exponent", range(-24, 12))
@pytest.mark.parametrize("sub", [0, 1, 31, 32, 63])
def test_slot_edges(exponent: int, sub: int) -> None:
    edge = 2.0**exponent * (1 + sub / 64)
    width = 2.0**exponent / 64
    assert recorded([edge]).slots() == [(edge, edge + width, 1)]
    assert recorded([math.nextafter(edge + width, 0)]).slots() == [(edge, edge + width, 1)]


@given(st.lists(acceptable | st.sampled_from(DEFAULT_BOUNDS), max_size=100))
def test_classic_counts_and_totals_are_exact(values: list[float]) -> None:
    histogram = recorded(values)
    cumulative, total = histogram.snapshot()
    assert cumulative == Twin(values).cumulative()
    assert histogram.count == len(values) == cumulative[-1]
    assert total == histogram.sum == sum(values)
    if values:
        assert (histogram.min, histogram.max) == (min(values), max(values))


@given(
    st.lists(st.floats(1e-6, 1e6), max_size=BOUNDS_MAX, unique=True).map(sorted).map(tuple),
    st.lists(acceptable, max_size=50),
)
def test_any_bounds_are_counted_exactly(bounds: tuple[float, ...], values: list[float]) -> None:
    histogram = recorded(values, bounds)
    assert histogram.bounds == bounds
    assert histogram.snapshot()[0] == Twin(values, bounds).cumulative()


@given(st.lists(st.integers(0, 2**62), max_size=50))
def test_nanoseconds_count_as_their_seconds(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe_ns(value)
    assert histogram.to_bytes() == recorded([value / 1e9 for value in values]).to_bytes()


def test_nanoseconds_on_a_bound_are_inside_it() -> None:
    histogram = Histogram()
    for bound in DEFAULT_BOUNDS:
        histogram.observe_ns(round(bound * 1e9))
    assert histogram.snapshot()[0] == [
        *range(1, len(DEFAULT_BOUNDS) + 1),
        len(DEFAULT_BOUNDS),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-300])
def test_impossible_values_are_counted_apart(value: float) -> None:
    histogram = recorded([value, 0.5])
    assert (histogram.rejected, histogram.count, histogram.sum) == (1, 1, 0.5)
    assert histogram.snapshot()[0][-1] == 1


def test_rejecting_takes_no_memory() -> None:
    histogram = Histogram()
    before = sys.getsizeof(histogram)
    histogram.observe(-1.0)
    histogram.observe_ns(-1)
    assert (histogram.rejected, sys.getsizeof(histogram)) == (2, before)


@pytest.mark.parametrize("value", ["1", None, b"1"])
def test_what_is_no_number_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        Histogram().observe(value)  # type: ignore[arg-type]


def test_values_outside_the_range_are_clamped_and_counted() -> None:
    low = [0.0, -0.0, 1e-9, math.nextafter(LOWEST_SECONDS, 0), 5e-324]
    high = [HIGHEST_SECONDS, 1e9, sys.float_info.max]
    histogram = recorded([*low, *high])
    assert (histogram.clamped_low, histogram.clamped_high) == (len(low), len(high))
    assert [count for _, _, count in histogram.slots()] == [len(low), len(high)]
    assert (histogram.min, histogram.max) == (0.0, sys.float_info.max)
    assert histogram.snapshot()[0] == Twin([*low, *high]).cumulative()


def test_an_empty_histogram_knows_nothing() -> None:
    histogram = Histogram()
    assert (histogram.count, histogram.sum, histogram.slots()) == (0, 0.0, [])
    assert all(map(math.isnan, (histogram.min, histogram.max, histogram.quantile(0.5))))
    assert histogram.snapshot() == ([0] * (len(DEFAULT_BOUNDS) + 1), 0.0)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_quantile_outside_zero_and_one(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        recorded([1.0]).quantile(q)


@pytest.mark.parametrize(
    "bounds",
    [(1.0, 1.0), (2.0, 1.0), (math.nan,), (math.inf,), (-math.inf,), (1.0, math.nan)],
)
def test_bounds_must_ascend(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite and strictly ascending"):
        Histogram(bounds)


def test_bounds_are_limited() -> None:
    assert len(Histogram(range(BOUNDS_MAX)).bounds) == BOUNDS_MAX
    with pytest.raises(ValueError, match=f"at most {BOUNDS_MAX}"):
        Histogram(range(BOUNDS_MAX + 1))


def overflowing(slot_count: int, bounds: tuple[float, ...] = (1.0,)) -> Histogram:
    """A histogram whose one slot, that of 0.5 s, holds `slot_count`."""
    export = bytearray(recorded([0.5], bounds).to_bytes())
    header = struct.calcsize("<4sBbBB")
    struct.pack_into("<Q", export, header, slot_count)
    exact_at = struct.calcsize("<4sBbBBQdddQQQH") + 8 * len(bounds)
    counts = [0] * (len(bounds) + 1)
    counts[bisect_left(bounds, 0.5)] = slot_count
    struct.pack_into(f"<{len(counts)}Q", export, exact_at, *counts)
    struct.pack_into("<Q", export, len(export) - 8, slot_count)
    return Histogram.from_bytes(bytes(export))


@pytest.mark.parametrize("start", [2**32 - 2, 2**32 - 1, 2**32, 2**33 - 1, SLOT_MAX - 1])
def test_a_slot_carries_beyond_32_bits(start: int) -> None:
    histogram = overflowing(start)
    histogram.observe(0.5)
    assert histogram.slots() == [(0.5, 0.5078125, start + 1)]
    assert (histogram.count, histogram.snapshot()[0]) == (
        start + 1,
        [start + 1, start + 1],
    )


def test_a_full_slot_saturates_and_the_exact_counts_go_on() -> None:
    histogram = overflowing(SLOT_MAX)
    histogram.observe(0.5)
    histogram.merge(recorded([0.5], (1.0,)))
    assert histogram.slots()[0][2] == SLOT_MAX
    assert histogram.count == SLOT_MAX + 2
    assert Histogram.from_bytes(histogram.to_bytes()).to_bytes() == histogram.to_bytes()


def test_memory_is_taken_on_first_use_and_stays_under_16_kib() -> None:
    bounds = tuple(float(i) for i in range(1, BOUNDS_MAX + 1))
    histogram = Histogram(bounds)
    empty = sys.getsizeof(histogram)
    assert empty < 1024
    histogram.observe(1.0)
    used = sys.getsizeof(histogram)
    assert used - empty >= 2304 * 4
    full = overflowing(2**32, bounds)
    assert used < sys.getsizeof(full) <= SIXTEEN_KIB
    histogram.reset()
    assert sys.getsizeof(histogram) == empty


@given(st.lists(acceptable, max_size=60), st.lists(acceptable, max_size=60))
def test_merging_is_recording_both(left: list[float], right: list[float]) -> None:
    merged = recorded(left)
    other = recorded(right)
    before = other.to_bytes()
    merged.merge(other)
    both = recorded(left + right)
    assert other.to_bytes() == before
    assert merged.slots() == both.slots()
    assert merged.snapshot()[0] == both.snapshot()[0]
    assert merged.sum == pytest.approx(both.sum)
    assert (merged.clamped_low, merged.clamped_high) == (
        both.clamped_low,
        both.clamped_high,
    )


def test_merging_with_itself_doubles() -> None:
    histogram = recorded([0.1, 2.0, -1.0])
    histogram.merge(histogram)
    assert (histogram.count, histogram.rejected, histogram.sum) == (4, 2, 4.2)


def test_merging_carries() -> None:
    histogram = overflowing(2**32 - 1)
    histogram.merge(overflowing(2**32 - 1))
    assert histogram.slots()[0][2] == 2 * (2**32 - 1)


def test_merging_other_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="different bucket bounds"):
        Histogram().merge(Histogram((1.0,)))
    with pytest.raises(TypeError):
        Histogram().merge(None)  # type: ignore[arg-type]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_export_and_import_are_lossless(values: list[float]) -> None:
    histogram = recorded(values, (0.001, 1.0, 30.0))
    again = Histogram.from_bytes(histogram.to_bytes())
    assert again.to_bytes() == histogram.to_bytes()
    assert again.rejected == histogram.rejected
    histogram.observe(0.25)
    again.observe(0.25)
    assert again.to_bytes() == histogram.to_bytes()


def test_every_cut_of_an_export_is_refused() -> None:
    export = recorded([1e-6, 0.5, 0.5, 7e5, -1.0]).to_bytes()
    for length in range(len(export)):
        with pytest.raises(ValueError, match="histogram export"):
            Histogram.from_bytes(export[:length])
    with pytest.raises(ValueError, match="1 bytes too many"):
        Histogram.from_bytes(export + b"\0")


@settings(max_examples=500)
@given(st.data())
def test_a_changed_export_is_refused_or_consistent(data: st.DataObject) -> None:
    export = bytearray(recorded([1e-6, 0.5, 0.5, 7e5, -1.0], (0.1, 1.0)).to_bytes())
    at = data.draw(st.integers(0, len(export) - 1))
    export[at] ^= data.draw(st.integers(1, 255))
    try:
        histogram = Histogram.from_bytes(bytes(export))
    except ValueError:
        return
    cumulative, _ = histogram.snapshot()
    assert cumulative == sorted(cumulative)
    assert cumulative[-1] == histogram.count == sum(count for _, _, count in histogram.slots())
    assert histogram.min <= histogram.quantile(0.5) <= histogram.max


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Histogram.from_bytes(data)


def test_pickle_is_refused() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(recorded([1.0]))


def test_summary_and_comparison() -> None:
    slow = recorded([0.002] * 99 + [0.5])
    fast = recorded([0.001] * 99 + [0.25])
    assert slow.summary()["count"] == 100
    assert slow.summary()["max"] == 0.5
    ratios = slow.compare(fast)
    assert ratios["count"] == 1.0
    assert all(ratios[key] == pytest.approx(2.0) for key in ("sum", "min", "p50", "p99", "max"))
    assert math.isnan(slow.compare(Histogram())["p50"])


def test_a_timer_records_once_for_each_block_and_stop() -> None:
    histogram = Histogram()
    with histogram.time() as timer:
        assert histogram.count == 0
    assert histogram.count == 1
    assert 0 < histogram.sum == histogram.max
    elapsed = timer.stop()
    assert histogram.count == 2
    assert elapsed == histogram.max > 0


def test_a_timer_records_what_failed_and_lets_it_pass() -> None:
    histogram = Histogram()
    with pytest.raises(KeyError), histogram.time():
        raise KeyError
    assert histogram.count == 1
    with pytest.raises(TypeError, match=r"Histogram\.time"):
        Timer()


def test_reset_is_like_new() -> None:
    histogram = recorded([0.1, -1.0, 1e9, 0.0])
    histogram.reset()
    assert histogram.to_bytes() == Histogram().to_bytes()
    histogram.observe(0.1)
    assert histogram.count == 1


def test_an_exemplar_is_the_newest_of_its_bucket() -> None:
    histogram = Histogram((0.1, 1.0))
    assert histogram.exemplars() == []
    histogram.observe(0.05)
    for seconds, example in ((0.05, "a"), (0.07, "b"), (5.0, "c"), (math.nan, "d"), (-1.0, "e")):
        histogram.observe_with(seconds, example)
    low, middle, high = histogram.exemplars()
    assert low is not None
    assert high is not None
    assert (low[:2], middle, high[:2]) == (("b", 0.07), None, ("c", 5.0))
    assert low[2] <= high[2]
    assert (histogram.count, histogram.rejected) == (4, 2)
    histogram.reset()
    assert histogram.exemplars() == []
    with pytest.raises(TypeError):
        histogram.observe_with(1.0, None)  # type: ignore[arg-type]
