"""What services say of workers that are cut off, and the freeze when too many are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from warren.pb.v1 import api_pb2, objects_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = ("w1", "w2", "w3")
GRACE_MS = 8_000
ALONE_MS = 6_000
STOP_MS = 2_000
#: After the grace period: what deciding, placing and starting takes, and a busy machine.
SLACK_S = 40.0


async def set_grace(cluster: Cluster) -> None:
    """A shorter one, or these tests would wait for most of their time."""

    async def taken() -> bool:
        client = cluster.any_client()
        request = api_pb2.UpdateClusterRequest(request=client.request_id(), node_grace_ms=GRACE_MS)
        answer = await client.call("UpdateCluster", request)
        return bool(answer.settings.node_grace_ms == GRACE_MS)

    await cluster.wait_until(taken, "every member knows level 3, and the setting is taken")


def where(cluster: Cluster, ids: set[str]) -> list[str]:
    """The hosts that run one of these; managers are workers too."""
    return [name for name in cluster.hosts if ids & cluster.running(name).keys()]


async def ids_of(cluster: Cluster, service: str) -> set[str]:
    """All containers of a service that the managers know, lost ones among them."""
    listed = await cluster.any_client().call(
        "ListContainers", api_pb2.ListContainersRequest(all=True)
    )
    return {
        view.container.id.hex()
        for view in listed.containers
        if view.container.service_name == service
    }


async def singleton(cluster: Cluster) -> tuple[set[str], str]:
    """A new one called `one`, once it runs: its ids, and where."""
    await cluster.any_client().create(
        "one",
        partition=objects_pb2.PARTITION_POLICY_SINGLETON,
        partition_stop_after_ms=ALONE_MS,
        stop_timeout_ms=STOP_MS,
    )

    async def runs() -> bool:
        return (await cluster.any_client().service("one")).running == 1

    await cluster.wait_until(runs, "it runs")
    ids = await ids_of(cluster, "one")
    (home,) = where(cluster, ids)
    return ids, home


def leave_alone(cluster: Cluster, host: str) -> None:
    """Cut off from all others, and asked nothing: it may be a manager."""
    cluster.isolate(host)
    cluster.aside.add(host)


@asynccontextmanager
async def never_twice(cluster: Cluster, service: str) -> AsyncIterator[None]:
    """Looks all the while at what really runs: a container of the service on one host at most."""
    twice: list[list[str]] = []
    seen: set[str] = set()

    async def look() -> None:
        while True:
            with suppress(Exception):
                seen.update(await ids_of(cluster, service))
            here = where(cluster, seen)
            if len(here) > 1:
                twice.append(here)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not twice, f"it ran on {twice[0]} at one moment"


async def test_a_singleton_moves_and_never_runs_twice(cluster: Cluster) -> None:
    await set_grace(cluster)
    first, home = await singleton(cluster)
    async with never_twice(cluster, "one"):
        leave_alone(cluster, home)
        await cluster.wait_until(
            lambda: not where(cluster, first), "its worker stops it", ALONE_MS / 1000 + SLACK_S
        )

        async def moved() -> bool:
            here = where(cluster, await ids_of(cluster, "one"))
            return bool(here) and home not in here

        await cluster.wait_until(moved, "it runs elsewhere", GRACE_MS / 1000 + 20 + SLACK_S)
        cluster.heal()
        cluster.aside.clear()
        await cluster.wait_settled()
        await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")


async def test_what_is_stopped_alone_starts_again_where_it_was(cluster: Cluster) -> None:
    await set_grace(cluster)
    ids, home = await singleton(cluster)
    leave_alone(cluster, home)
    await cluster.wait_until(lambda: not where(cluster, ids), "it is stopped", SLACK_S)
    cluster.heal()
    cluster.aside.clear()
    await cluster.wait_until(lambda: where(cluster, ids) == [home], "it is back", SLACK_S)
    assert await ids_of(cluster, "one") == ids, "nobody has replaced it"


async def test_many_lost_at_once_freeze_replacement(cluster: Cluster) -> None:
    await set_grace(cluster)
    await cluster.any_client().create("fleet", 6)
    await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs")
    before = {name: cluster.running(name) for name in WORKERS}
    ids = await ids_of(cluster, "fleet")
    for name in WORKERS:
        cluster.isolate(name)

    async def info() -> api_pb2.GetClusterResponse:
        answer: api_pb2.GetClusterResponse = await cluster.any_client().call(
            "GetCluster", api_pb2.GetClusterRequest()
        )
        return answer

    async def frozen() -> bool:
        return "were lost at once" in (await info()).frozen_reason

    await cluster.wait_until(frozen, "replacement is frozen", GRACE_MS / 1000 + SLACK_S)
    cluster.heal()

    async def thawed() -> bool:
        return not (await info()).frozen_reason

    await cluster.wait_until(thawed, "and goes on when they are back", SLACK_S)
    await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")
    assert {name: cluster.running(name) for name in WORKERS} == before
    assert await ids_of(cluster, "fleet") == ids
