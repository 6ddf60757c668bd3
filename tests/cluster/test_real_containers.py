"""The same with real containers: containerd below, a namespace of it for each host."""

from __future__ import annotations

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from tests.cluster.test_leader_lost import everything_that_runs, writes_again

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = {"managers": 3, "workers": 2, "runtime": "containerd"}


async def test_the_leader_is_killed_and_no_process_ends(cluster: Cluster) -> None:
    await cluster.any_client().create("fleet", replicas=10)
    await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs", 60)
    before = everything_that_runs(cluster)
    assert sum(map(len, before.values())) == 10
    leader = await cluster.one_leads()
    cluster.kill(leader)
    other = next(name for name in cluster.managers if name != leader)
    await writes_again(cluster, other, "after")
    await cluster.start(leader)
    await cluster.wait_settled()
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says", 60)
    assert everything_that_runs(cluster) == before, "each container is the process that it was"


async def test_all_daemons_are_killed_at_once_and_no_process_ends(cluster: Cluster) -> None:
    await cluster.any_client().create("fleet", replicas=5)
    await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs", 60)
    before = everything_that_runs(cluster)
    for name in cluster.hosts:
        cluster.kill(name)
    for name in cluster.hosts:
        await cluster.start(name)
    await cluster.wait_settled()
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says", 60)
    assert everything_that_runs(cluster) == before
