"""No quorum: writes and default reads fail at once and say who is missing; --stale answers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from warren.errors import WarrenError

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE_S = 2.0


async def lose_quorum(cluster: Cluster) -> str:
    """Only one manager is left, and it knows; which."""
    leader = await cluster.one_leads()
    for name in cluster.managers:
        if name != leader:
            cluster.kill(name)

    async def knows() -> bool:
        """It does not lead any more, and does not take what is missing for an election."""
        if (await cluster.hosts[leader].metrics())["warren_raft_is_leader"] == 1:
            return False
        try:
            await cluster.local(leader).create("never", replicas=0)
        except WarrenError as error:
            return error.code == "no_quorum"
        return False

    await cluster.wait_until(knows, "what is left knows that it is alone", 15)
    return leader


async def refused_at_once(call: Any) -> WarrenError:
    began = time.monotonic()
    with pytest.raises(WarrenError) as refused:
        await call
    assert time.monotonic() - began < AT_ONCE_S, "it has to fail at once"
    return refused.value


async def test_it_says_who_is_missing(cluster: Cluster) -> None:
    await cluster.any_client().create("kept", replicas=3)
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")
    left = await lose_quorum(cluster)
    client = cluster.local(left)
    missing = [name for name in cluster.managers if name != left]
    for call in (client.create("never", 1), client.services(), client.nodes()):
        refusal = await refused_at_once(call)
        assert refusal.code == "no_quorum"
        said = refusal.message
        for name in missing:
            host = cluster.hosts[name]
            assert name in said or host.place.address in said or host.node_id in said, said
    views = await client.services(stale=True)
    assert [view.service.spec.name for view in views] == ["kept"]
    assert (await client.cluster(stale=True)).stale


async def test_the_command_line_says_so_too(cluster: Cluster) -> None:
    left = await lose_quorum(cluster)
    began = time.monotonic()
    code, _, words = await cluster.ctl(left, "service", "ls")
    assert code != 0
    assert time.monotonic() - began < AT_ONCE_S + 3, "at once, and the start of an interpreter"
    assert "--stale" in words, words
    code, _, words = await cluster.ctl(left, "service", "ls", "--stale")
    assert code == 0, words


async def test_it_serves_again_when_one_comes_back(cluster: Cluster) -> None:
    left = await lose_quorum(cluster)
    back = next(name for name in cluster.managers if name != left)
    await cluster.start(back)

    async def written() -> bool:
        await cluster.local(left).create("again", replicas=0)
        return True

    await cluster.wait_until(written, "a write", 30)
