"""A cluster of three managers and three workers: it forms, and any manager answers."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.cluster import fleet
from tests.cluster.certificates import Authority, Files
from tests.cluster.client import Client, Door
from tests.cluster.cluster import Cluster
from tests.cluster.host import API_PORT
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_everyone_is_there(cluster: Cluster) -> None:
    nodes = await cluster.any_client().nodes()
    assert set(nodes) == {"m1", "m2", "m3", "w1", "w2", "w3"}
    assert {name for name, node in nodes.items() if node.manager} == {"m1", "m2", "m3"}
    assert {node.id.hex() for node in nodes.values()} == {
        host.node_id for host in cluster.hosts.values()
    }, "a node's id is the one in its certificate"
    members = await cluster.any_client().members()
    assert [view.voter for view in members] == [True] * 3
    assert sum(view.leader for view in members) == 1


async def test_any_manager_takes_a_write_and_every_other_reads_it_at_once(
    cluster: Cluster,
) -> None:
    for number, name in enumerate(cluster.managers):
        await cluster.client(name).create(f"via-{name}", replicas=0)
        for other in cluster.managers:
            there = await cluster.client(other).services()
            assert len(there) == number + 1, f"written through {name}, read through {other}"


async def test_containers_are_spread_over_hosts_and_run(cluster: Cluster) -> None:
    await cluster.client("m2").create("spread", replicas=12)
    same = await cluster.wait_until(
        lambda: fleet.compare(cluster), "hosts run what the state says", 30
    )
    assert same.running == 12
    assert all(cluster.running(name) for name in cluster.hosts), "no host has been left out"


async def test_the_command_line_works_on_every_host_that_manages(cluster: Cluster) -> None:
    done = await asyncio.gather(
        *(cluster.ctl(name, "node", "ls", "--format", "json") for name in cluster.managers)
    )
    assert [code for code, _, _ in done] == [0, 0, 0], done
    assert all(out.count('"w1"') for _, out, _ in done)


async def refusal(cluster: Cluster, files: Files, server_name: str) -> WarrenError:
    """What a client with such a certificate is told by m1."""
    path = cluster.root / "stranger.door"
    door = Door(path, cluster.network.switch, cluster.hosts["m1"].place.address, API_PORT)
    stranger = await Client.over_tls(door, files, server_name)
    try:
        with pytest.raises(WarrenError) as refused:
            await stranger.call("GetCluster", api_pb2.GetClusterRequest(), timeout_s=5)
        return refused.value
    finally:
        await stranger.close()


async def test_strangers_are_refused(cluster: Cluster) -> None:
    server_name = f"manager.{cluster.authority.trust_domain}"
    folder = cluster.root / "strangers"
    theirs = Authority()  # of the same name, with another key
    files = theirs.write(folder / "other-authority", "client", "eve")
    files.ca.write_bytes(cluster.authority.pem)
    assert (await refusal(cluster, files, server_name)).code == "unavailable"

    files = cluster.authority.write(folder / "other-domain", "client", "eve")
    cert, key = cluster.authority.issue("client", "eve", trust_domain="elsewhere.test")
    files.cert.write_bytes(cert)
    files.key.write_bytes(key)
    assert (await refusal(cluster, files, server_name)).code in ("denied", "unavailable")

    files = cluster.authority.write(folder / "worker", "worker", cluster.hosts["w1"].node_id)
    assert (await refusal(cluster, files, server_name)).code == "denied"


async def test_nothing_answers_without_a_certificate(cluster: Cluster) -> None:
    door = Door(
        cluster.root / "bare.door",
        cluster.network.switch,
        cluster.hosts["m1"].place.address,
        API_PORT,
    )
    await door.open()
    try:
        async with grpc.aio.insecure_channel(f"unix:{door.path}") as channel:
            bare = Client(channel)
            with pytest.raises(WarrenError, match="reach"):
                await bare.call("GetCluster", api_pb2.GetClusterRequest(), timeout_s=5)
    finally:
        await door.close()
