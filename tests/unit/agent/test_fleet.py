"""Containers of simulated hosts: what they are told to be, and what they say they are."""

from __future__ import annotations

import pytest

from warren.agent.fleet.held import Held
from warren.agent.fleet.host import exponential_s
from warren.agent.fleet.plan import Plan
from warren.pb.v1 import objects_pb2 as pb


def held(desired: int = pb.DESIRED_STATE_RUN) -> Held:
    return Held(b"c" * 16, b"s" * 16, 1, desired)


def test_a_container_that_fails_is_the_next_attempt_of_itself() -> None:
    one = held()
    one.state = pb.CONTAINER_STATE_RUNNING
    before = (one.attempt, one.state)
    one.next_attempt()
    assert (one.attempt, one.state) > before
    assert one.item().status.state == pb.CONTAINER_STATE_PENDING
    assert one.wanted
    assert not one.runs


@pytest.mark.parametrize(
    ("desired", "removed"), [(pb.DESIRED_STATE_STOP, False), (pb.DESIRED_STATE_REMOVE, True)]
)
def test_what_is_to_be_removed_leaves_nothing(desired: int, removed: bool) -> None:
    one = held(desired)
    one.end()
    status = one.item().status
    assert (status.state, status.removed) == (pb.CONTAINER_STATE_SHUTDOWN, removed)


def test_back_off_doubles_up_to_a_minute_and_begins_anew_after_a_good_while() -> None:
    one, now_s = held(), 1_000.0
    pauses = []
    for ran_s in (5.0, 59.9, 1.0, 3.0, 8.0, 1.0, 2.0, 60.0, 1.0):
        one.up(now_s)
        now_s += ran_s
        pauses.append(one.failed(now_s))
        now_s += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 1, 2]
    assert one.attempt == 10


def test_an_end_before_it_ran_again_is_no_good_while() -> None:
    one = held()
    one.up(0.0)
    assert one.failed(1.0) == 1
    assert one.failed(500.0) == 2


def test_randomness_is_the_seeds_and_apart_for_each_purpose() -> None:
    plan = Plan(seed=7)
    draws = [plan.stream("hosts").random() for _ in range(2)]
    assert draws[0] == draws[1] == Plan(seed=7).stream("hosts").random()
    assert plan.stream("scalings").random() != draws[0]
    assert Plan(seed=8).stream("hosts").random() != draws[0]


def test_times_have_their_mean() -> None:
    source = Plan(seed=3).stream("times")
    times = [exponential_s(source, 2.0) for _ in range(20_000)]
    assert 1.9 < sum(times) / len(times) < 2.1
    assert exponential_s(source, 0.0) == 0.0
