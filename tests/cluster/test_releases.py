"""Managers of the commit before this one and of this one are one cluster, whoever of them leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster import fleet, release
from tests.cluster.cluster import Cluster
from tests.cluster.host import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLICAS = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three managers and two workers of the release before."""
    commit = release.previous()
    if commit is None:
        pytest.skip("the checkout has no earlier commit: clone it with its history")
    tree = release.build(commit, tmp_path_factory.mktemp("previous"))
    async with Cluster(managers=3, workers=2, tree=tree) as formed:
        await formed.open_clients()
        yield formed


async def replace(cluster: Cluster, name: str, tree: Path) -> None:
    """The host goes on with another release."""
    assert cluster.stop(name) == 0
    cluster.hosts[name].tree = tree
    await cluster.start(name)
    await cluster.wait_settled()


async def lead(cluster: Cluster, name: str) -> None:
    """Hands the lead to this manager."""
    members = await cluster.any_client().members()
    node = cluster.hosts[name].node_id
    member = next(view.member.id for view in members if view.member.node_id.hex() == node)
    code, _, err = await cluster.ctl(name, "cluster", "transfer-leadership", str(member))
    assert code == 0, err

    async def leads() -> bool:
        return await cluster.leader() == name

    await cluster.wait_until(leads, f"{name} leads")


async def works(cluster: Cluster, what: str) -> None:
    """A write through each manager, which all others read; hosts run what the state says."""
    for name in cluster.managers:
        await cluster.client(name).create(f"{what}-{name}", replicas=0)
        for other in cluster.managers:
            assert await cluster.client(other).service(f"{what}-{name}")
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")


async def test_hosts_are_upgraded_one_by_one_and_every_mixture_works(cluster: Cluster) -> None:
    await cluster.any_client().create("fleet", REPLICAS)
    await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs")
    before = {name: cluster.running(name) for name in cluster.hosts}
    old = cluster.hosts["m1"].tree
    assert old != ROOT

    await replace(cluster, "m1", ROOT)
    await lead(cluster, "m1")
    await works(cluster, "a-new-one-leads-two-old-ones")
    await lead(cluster, "m2")
    await works(cluster, "an-old-one-leads-a-new-one")
    await replace(cluster, "w1", ROOT)
    await replace(cluster, "m2", ROOT)
    await lead(cluster, "m3")
    await works(cluster, "an-old-one-leads-two-new-ones")

    await replace(cluster, "m3", ROOT)
    await works(cluster, "the-last-worker-is-old")
    await replace(cluster, "w2", ROOT)
    await works(cluster, "all-are-new")
    assert {name: cluster.running(name) for name in cluster.hosts} == before
    assert fleet.needless_restarts(cluster) == []
