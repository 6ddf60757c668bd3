"""Workers that are lost, and workers that are alone."""

from __future__ import annotations

import asyncio

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from tests.cluster.waiting import holds_for
from warren.pb.v1 import objects_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: A node's grace of 30 s, and what detecting, placing and starting takes.
REPLACED_WITHIN_S = 75.0
DOWN = objects_pb2.NODE_STATUS_DOWN


async def fleet_on(cluster: Cluster, worker: str, replicas: int = 12) -> set[str]:
    """A service that also runs on `worker`; its containers there."""
    await cluster.any_client().create("fleet", replicas)
    await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs")
    there = set(cluster.running(worker))
    assert there, f"nothing was placed on {worker}"
    return there


async def test_what_ran_on_a_lost_worker_runs_elsewhere_and_once_when_it_is_back(
    cluster: Cluster,
) -> None:
    there = await fleet_on(cluster, "w1")
    elsewhere = {name: cluster.running(name) for name in cluster.hosts if name != "w1"}
    cluster.isolate("w1")

    async def lost() -> bool:
        return (await cluster.any_client().nodes())["w1"].status == DOWN

    await cluster.wait_until(lost, "w1 is down after its grace", REPLACED_WITHIN_S)

    async def replaced() -> bool:
        return (await cluster.any_client().service("fleet")).running == 12

    await cluster.wait_until(replaced, "all run again, elsewhere", REPLACED_WITHIN_S)
    assert set(cluster.running("w1")) == there, "a worker that is alone keeps what it has"
    leader = await cluster.one_leads()
    # What was given up there has not gone, and nobody waits for it.
    code, _, err = await cluster.ctl(leader, "service", "update", "fleet", "--label-add=a=b")
    assert code == 0, err
    assert f"12/12 running, {len(there)} left on nodes that are down or paused" in err
    for name, before in elsewhere.items():
        assert before.items() <= cluster.running(name).items(), f"{name} had no part in it"
    cluster.heal()
    await cluster.wait_settled()
    same = await cluster.wait_until(lambda: fleet.compare(cluster), "duplicates end", 30)
    assert same.running == 12


async def test_a_short_absence_moves_nothing(cluster: Cluster) -> None:
    await fleet_on(cluster, "w2")
    before = {name: cluster.running(name) for name in cluster.hosts}
    cluster.isolate("w2")
    await holds_for(
        lambda: {name: cluster.running(name) for name in cluster.hosts} == before,
        "nothing moves while a worker is away for less than its grace",
        8.0,
    )
    cluster.heal()
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")
    assert {name: cluster.running(name) for name in cluster.hosts} == before


async def test_alone_a_worker_restarts_what_ends_and_survives_its_own_death(
    cluster: Cluster,
) -> None:
    there = await fleet_on(cluster, "w3")
    victim = min(there)
    for name in cluster.managers:
        cluster.kill(name)

    cluster.hosts["w3"].tell(f"end {victim} 1")
    await cluster.wait_until(
        lambda: cluster.running("w3").get(victim) == 2, "what ended is restarted by the worker"
    )
    before = cluster.running("w3")
    cluster.kill("w3")
    assert cluster.running("w3") == before
    await cluster.start("w3")
    assert cluster.running("w3") == before, "started without a manager, it goes on"

    other = min(there - {victim}, default=victim)
    attempt = cluster.running("w3")[other]
    cluster.hosts["w3"].tell(f"end {other} 1")
    await cluster.wait_until(
        lambda: cluster.running("w3").get(other) == attempt + 1, "and restarts what ends"
    )
    alone = cluster.running("w3")
    await asyncio.gather(*(cluster.start(name) for name in cluster.managers))
    await cluster.wait_settled()
    await cluster.wait_until(lambda: fleet.compare(cluster), "managers know what runs")
    assert cluster.running("w3") == alone, "what it did alone is taken over, not undone"
