"""The leader is killed, stopped or cut off in every way: another leads, nothing is restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from warren.errors import WarrenError

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELECTED_WITHIN_S = 15.0
REPLICAS = 9


async def running_fleet(cluster: Cluster) -> dict[str, dict[str, int]]:
    """Containers on every host, and what runs where."""
    await cluster.any_client().create("fleet", REPLICAS)
    await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs")
    return everything_that_runs(cluster)


def everything_that_runs(cluster: Cluster) -> dict[str, dict[str, int]]:
    return {name: cluster.running(name) for name in cluster.hosts}


async def writes_again(cluster: Cluster, through: str, name: str) -> None:
    """A write through a manager is acknowledged, in time and by repeating it if need be."""

    async def written() -> bool:
        try:
            await cluster.local(through).create(name, replicas=0, timeout_s=3)
        except WarrenError as error:
            if error.code != "name_taken":
                raise
        return True

    await cluster.wait_until(written, f"a write through {through}", ELECTED_WITHIN_S)


async def check_nothing_was_restarted(cluster: Cluster, before: dict[str, dict[str, int]]) -> None:
    await cluster.wait_settled()
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")
    assert everything_that_runs(cluster) == before
    assert fleet.needless_restarts(cluster) == []


async def test_killed(cluster: Cluster) -> None:
    before = await running_fleet(cluster)
    leader = await cluster.one_leads()
    cluster.kill(leader)
    assert everything_that_runs(cluster) == before, "containers go on without their daemon"
    other = next(name for name in cluster.managers if name != leader)
    await writes_again(cluster, other, "after")
    await cluster.start(leader)
    await check_nothing_was_restarted(cluster, before)


async def test_stopped_in_its_tracks(cluster: Cluster) -> None:
    """SIGSTOP: to others it is dead; when it goes on it must not believe that it leads."""
    before = await running_fleet(cluster)
    leader = await cluster.one_leads()
    cluster.pause(leader)
    new = await cluster.one_leads(other_than=leader, deadline_s=ELECTED_WITHIN_S)
    await writes_again(cluster, new, "meanwhile")
    cluster.resume(leader)
    names = {view.service.spec.name for view in await cluster.local(leader).services()}
    assert "meanwhile" in names, "a default read after SIGCONT is not of the past"
    await check_nothing_was_restarted(cluster, before)


def symmetric(cluster: Cluster, leader: str, others: list[str]) -> None:
    cluster.isolate(leader)


def unheard(cluster: Cluster, leader: str, others: list[str]) -> None:
    """What the leader sends is lost; it hears everyone."""
    for other in others:
        cluster.cut_one_way(leader, other)


def deaf(cluster: Cluster, leader: str, others: list[str]) -> None:
    """Everyone hears the leader, which hears no other manager."""
    for other in others:
        cluster.cut_one_way(other, leader)


@pytest.mark.parametrize("partition", [symmetric, unheard, deaf])
async def test_cut_off(
    cluster: Cluster, partition: Callable[[Cluster, str, list[str]], None]
) -> None:
    before = await running_fleet(cluster)
    leader = await cluster.one_leads()
    others = [name for name in cluster.managers if name != leader]
    partition(cluster, leader, others)
    new = await cluster.one_leads(other_than=leader, deadline_s=ELECTED_WITHIN_S)
    await writes_again(cluster, new, "meanwhile")
    with pytest.raises(WarrenError) as refused:
        await cluster.local(leader).create("never", replicas=0, timeout_s=5)
    assert refused.value.code in ("no_quorum", "no_leader", "not_leader", "outcome_unknown")
    cluster.heal()
    await writes_again(cluster, leader, "healed")
    names = {view.service.spec.name for view in await cluster.local(new).services()}
    assert {"meanwhile", "healed"} <= names
    await check_nothing_was_restarted(cluster, before)


async def test_a_bridge(cluster: Cluster) -> None:
    """Leader and one follower do not see each other, the third sees both: somebody serves all."""
    before = await running_fleet(cluster)
    leader = await cluster.one_leads()
    cut_off, bridge = [name for name in cluster.managers if name != leader]
    cluster.cut(leader, cut_off)
    await writes_again(cluster, bridge, "over-the-bridge")
    # No endless elections: who leads after a while leads on.
    terms = [(await cluster.hosts[bridge].metrics())["warren_raft_term"]]
    for number in range(5):
        await writes_again(cluster, bridge, f"steady-{number}")
        await asyncio.sleep(0.5)
    terms.append((await cluster.hosts[bridge].metrics())["warren_raft_term"])
    assert terms[1] - terms[0] <= 2, "elections without end"
    cluster.heal()
    await check_nothing_was_restarted(cluster, before)
