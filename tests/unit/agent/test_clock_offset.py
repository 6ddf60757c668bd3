"""The offset of a clock, by what a heartbeat and its acknowledgement can tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warren.agent.clock_offset import ClockOffset

ways = st.floats(0, 5)


@given(st.floats(-1e5, 1e5), ways, ways)
def test_the_truth_lies_within_the_error(ahead: float, there: float, back: float) -> None:
    sent_by_leader = 1.7e9
    told_ms = int((sent_by_leader + there) * 1000)
    found = ClockOffset.of(sent_by_leader + ahead, there + back, told_ms / 1000)
    assert abs(found.ahead - ahead) <= found.error + 1e-5
    assert found.error <= (there + back) / 2 + 0.0011
