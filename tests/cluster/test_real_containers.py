"""The same with real containers: containerd below, a namespace of it for each host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from tests.cluster.test_leader_lost import everything_that_runs, writes_again
from warren.pb.v1 import api_pb2, objects_pb2

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


async def test_each_device_is_had_by_the_container_that_holds_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    for number in range(2):
        node = tmp_path / f"toy{number}"
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    host = cluster.hosts["w1"]
    host.stop()
    host.env["WARREN_DEVICES"] = f"toy=2:A,path={tmp_path}/toy{{n}}:/dev/toy{{n}},env=TOYS"
    await cluster.start("w1")
    await cluster.wait_settled()
    client = cluster.any_client()
    asked = objects_pb2.DeviceAsk(kind="toy", milli=1000, models=["A"])
    await client.create("holder", replicas=3, devices=[asked])
    await client.create("other", replicas=2)

    def seen() -> list[tuple[list[str], list[str]]]:
        """Of each container: its devices of that name, and what it is told of them."""
        found = []
        for pid in [pid for name in cluster.hosts for pid in cluster.running(name).values()]:
            devices = sorted(path.name for path in Path(f"/proc/{pid}/root/dev").glob("toy*"))
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            told = sorted(it for it in variables if it.startswith(("TOYS=", "WARREN_DEVICE")))
            found.append((devices, told))
        return sorted(found)

    async def as_asked() -> bool:
        return seen() == [
            ([], []),
            ([], []),
            (["toy0"], ["TOYS=0", "WARREN_DEVICE_TOY=0"]),
            (["toy1"], ["TOYS=1", "WARREN_DEVICE_TOY=1"]),
        ]

    try:
        await cluster.wait_until(as_asked, "two of three have a device each", 60)
        host.kill()
        await cluster.start("w1")
        await cluster.wait_settled()
        assert await as_asked(), "nothing was started anew"
    finally:
        del host.env["WARREN_DEVICES"]


async def test_containers_go_where_their_volume_is(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "what").write_text("orders")
    host = cluster.hosts["w2"]
    host.stop()
    host.env["WARREN_VOLUMES"] = f"orders={tmp_path}"
    await cluster.start("w2")
    await cluster.wait_settled()
    client = cluster.any_client()

    def mount(**how: bool) -> objects_pb2.Mount:
        kind = objects_pb2.MOUNT_TYPE_VOLUME
        return objects_pb2.Mount(type=kind, source="orders", target="/orders", **how)

    async def waiting(service: str) -> str:
        request = api_pb2.ListSlotsRequest(ref=service)
        slots = (await client.call("ListSlots", request)).slots
        return " ".join(slot.pending_reason for slot in slots)

    try:
        await client.create("readers", replicas=3, mounts=[mount(read_only=True)])
        await cluster.wait_until(lambda: len(cluster.running("w2")) == 3, "all are there", 60)
        for pid in cluster.running("w2").values():
            seen = Path(f"/proc/{pid}/root/orders")
            assert (seen / "what").read_text() == "orders"
        await client.create("owner", replicas=1, mounts=[mount(exclusive=True)])

        async def waits() -> bool:
            return "volume orders is used by another container" in await waiting("owner")

        await cluster.wait_until(waits, "the owner waits for the readers to go", 30)
        await client.remove("readers")
        await cluster.wait_until(lambda: fleet.compare(cluster), "the owner has it alone", 60)
        assert len(cluster.running("w2")) == 1
    finally:
        del host.env["WARREN_VOLUMES"]
