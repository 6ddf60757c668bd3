"""Managers and workers that join, leave, are promoted, demoted and removed."""

from __future__ import annotations

import time

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, objects_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = {"managers": 3, "workers": 1, "spare": 1}
CHANGE_S = 20.0


async def voters(cluster: Cluster) -> set[str]:
    """The hosts whose managers vote."""
    names = {host.node_id: name for name, host in cluster.hosts.items()}
    members = await cluster.any_client().members()
    return {names.get(view.member.node_id.hex(), "?") for view in members if view.voter}


async def wait_voters(cluster: Cluster, *names: str) -> None:
    async def as_wanted() -> bool:
        return await voters(cluster) == set(names)

    began = time.monotonic()
    await cluster.wait_until(as_wanted, f"{', '.join(names)} vote", CHANGE_S)
    print(f"{', '.join(names)} vote after {time.monotonic() - began:.2f} s")


async def repeated(cluster: Cluster, method: str, kind: type, ref: str, **more: bool) -> None:
    """A change that may have to be asked for again, when it hands leadership over first."""

    async def done() -> bool:
        client = cluster.any_client()
        request = kind(request=client.request_id(), ref=ref, **more)
        await client.call(method, request)
        return True

    await cluster.wait_until(done, f"{method} {ref}", CHANGE_S)


async def nodes(cluster: Cluster) -> dict[str, objects_pb2.Node]:
    return await cluster.any_client().nodes()


async def test_a_manager_joins_and_leaves(cluster: Cluster) -> None:
    began = time.monotonic()
    await cluster.join("s1", "manager", at="m2")
    print(f"joined after {time.monotonic() - began:.2f} s")
    await wait_voters(cluster, "m1", "m2", "m3", "s1")
    await cluster.local("s1").create("via-s1", replicas=0)
    await cluster.local("s1").leave()
    await wait_voters(cluster, "m1", "m2", "m3")

    async def gone() -> bool:
        return "s1" not in await nodes(cluster)

    await cluster.wait_until(gone, "s1 is no node of the cluster", CHANGE_S)
    assert cluster.hosts["s1"].alive, "it is a blank host again, and its daemon goes on"


async def test_joining_twice_is_one_member(cluster: Cluster) -> None:
    await cluster.join("s1", "manager", at="m1")
    await wait_voters(cluster, "m1", "m2", "m3", "s1")
    before = await cluster.any_client().members()
    await cluster.join("s1", "manager", at="m3")
    after = await cluster.any_client().members()
    assert [view.member.id for view in after] == [view.member.id for view in before]
    await cluster.local("s1").leave()
    await wait_voters(cluster, "m1", "m2", "m3")


async def test_a_worker_cannot_become_what_its_certificate_does_not_say(cluster: Cluster) -> None:
    client = cluster.any_client()
    request = api_pb2.PromoteNodeRequest(request=client.request_id(), ref="w1")
    with pytest.raises(WarrenError) as refused:
        await client.call("PromoteNode", request)
    assert "certificate" in refused.value.message, refused.value.message


async def test_promoted_demoted_and_removed(cluster: Cluster) -> None:
    await cluster.join("s1", "worker", at="m3")

    async def ready() -> bool:
        there = (await nodes(cluster)).get("s1")
        return there is not None and there.status == objects_pb2.NODE_STATUS_READY

    await cluster.wait_until(ready, "s1 is a worker", CHANGE_S)
    await repeated(cluster, "PromoteNode", api_pb2.PromoteNodeRequest, "s1")
    await wait_voters(cluster, "m1", "m2", "m3", "s1")
    await cluster.wait_until(
        lambda: cluster.local("s1").services, "the new manager answers", CHANGE_S
    )
    await repeated(cluster, "DemoteNode", api_pb2.DemoteNodeRequest, "s1")
    await wait_voters(cluster, "m1", "m2", "m3")
    await cluster.wait_until(ready, "it goes on as a worker", CHANGE_S)

    client = cluster.any_client()
    request = api_pb2.RemoveNodeRequest(request=client.request_id(), ref="s1")
    with pytest.raises(WarrenError, match=r"s1|force|up"):
        await client.call("RemoveNode", request)
    cluster.kill("s1")
    await repeated(cluster, "RemoveNode", api_pb2.RemoveNodeRequest, "s1", force=True)
    assert "s1" not in await nodes(cluster)


async def test_demoting_the_leader_hands_over_first() -> None:
    async with Cluster(managers=3, workers=1) as cluster:
        await cluster.any_client().create("fleet", replicas=4)
        await cluster.wait_until(lambda: fleet.compare(cluster), "the fleet runs")
        before = {name: cluster.running(name) for name in cluster.hosts}
        leader = await cluster.one_leads()
        cluster.aside.add(leader)
        await repeated(cluster, "DemoteNode", api_pb2.DemoteNodeRequest, leader)
        await wait_voters(cluster, *(name for name in cluster.managers if name != leader))
        await cluster.one_leads()

        async def works() -> bool:
            node = (await nodes(cluster))[leader]
            return not node.manager and node.status == objects_pb2.NODE_STATUS_READY

        await cluster.wait_until(works, f"{leader} goes on as a worker", CHANGE_S)
        await cluster.wait_until(lambda: fleet.compare(cluster), "hosts run what the state says")
        assert {name: cluster.running(name) for name in cluster.hosts} == before
        assert fleet.needless_restarts(cluster) == []


async def test_who_lost_its_data_is_not_the_old_member(cluster: Cluster) -> None:
    (lost, *_) = await cluster.followers()
    host = cluster.hosts[lost]
    cluster.aside.add(lost)
    members = {
        view.member.node_id.hex(): view.member.id for view in await cluster.any_client().members()
    }
    old = members[host.node_id]
    cluster.kill(lost)
    cluster.lose_data(lost)
    await cluster.start(lost)
    # It is a blank host: it neither votes nor acknowledges as the one that it was.
    await cluster.any_client().create("meanwhile", replicas=0)
    with pytest.raises(WarrenError) as refused:
        await cluster.local(lost).services()
    assert refused.value.code == "not_in_cluster"
    keepers = [name for name in cluster.managers if name != lost]
    client = cluster.local(keepers[0])
    request = api_pb2.RemoveMemberRequest(request=client.request_id(), member_id=old)
    await client.call("RemoveMember", request)
    await cluster.join(lost, "manager", at=keepers[0])
    await wait_voters(cluster, *cluster.managers)
    cluster.aside.clear()
    now = {
        view.member.node_id.hex(): view.member.id for view in await cluster.any_client().members()
    }
    assert now[host.node_id] != old, "an id of a member is never used again"
