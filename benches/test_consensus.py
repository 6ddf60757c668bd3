"""Commits and reads of real members as pytest-benchmark sees them: one round is a batch of calls.

`pytest benches --benchmark-autosave`, and later `--benchmark-compare`, show what a change did. The
members are those of `benches.consensus`, optimised unless benchmarks are disabled.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches._peer import Peer, members

ROUNDS = 20
# The first builds the members, optimised: that takes minutes, ten where others compile too.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module", params=[1, 3], ids=["one member", "three members"])
def leader(request: pytest.FixtureRequest) -> Iterator[Peer]:
    disabled = request.config.getoption("benchmark_disable")
    with members(request.param, quick=disabled) as peers:
        peers[0].ask("worker 256")
        yield peers[0]


@pytest.mark.benchmark(group="commits and reads")
@pytest.mark.parametrize(
    "load",
    ["report 20 1", "report 2560 256", "update 1280 256", "read 2560 64"],
    ids=["1 in flight", "256 in flight", "256 updates in flight", "64 reads in flight"],
)
def test_calls(benchmark: BenchmarkFixture, leader: Peer, load: str) -> None:
    answer = benchmark.pedantic(leader.ask, args=(f"load {load}",), rounds=ROUNDS, warmup_rounds=1)
    assert answer["done"] == int(load.split()[1])
    assert answer["refused"] == {}
    benchmark.extra_info["calls"] = answer["done"]
