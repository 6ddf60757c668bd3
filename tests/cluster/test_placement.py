"""What services ask of nodes, through the command line and in daemons: one manager, two workers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = {"managers": 1, "workers": 2}


async def ctl(cluster: Cluster, *words: str) -> str:
    code, out, err = await cluster.ctl("m1", *words)
    assert code == 0, f"{words}: {err}"
    return out


async def slots(cluster: Cluster, service: str) -> list[dict[str, Any]]:
    answer = await ctl(cluster, "service", "ps", service, "--format=json")
    listed: list[dict[str, Any]] = json.loads(answer)
    return listed


async def create(cluster: Cluster, name: str, *flags: str) -> None:
    await ctl(cluster, "service", "create", name, "--image=tiny:1", "--detach", *flags)


async def test_a_service_follows_labels_that_operators_set(cluster: Cluster) -> None:
    await ctl(cluster, "node", "update", "w1", "--label=zone=eu")
    await create(
        cluster, "zoned", "--replicas=2", "--constraint=node.labels.zone==eu",
        "--max-replicas-per-node=1",
    )  # fmt: skip

    async def placed(on: list[str | None]) -> bool:
        found = await slots(cluster, "zoned")
        return [it["node"] for it in found] == on and found[0]["state"] == "running"

    await cluster.wait_until(lambda: placed(["w1", None]), "one goes where the label is")
    waiting = (await slots(cluster, "zoned"))[1]["reason"]
    assert "label zone is not there, asked eu" in waiting
    assert "as many containers of the service as one node may" in waiting
    await ctl(cluster, "node", "update", "w2", "--label=zone=eu")
    await cluster.wait_until(lambda: placed(["w1", "w2"]), "the other one follows")
    await ctl(cluster, "node", "update", "w1", "w2", "--label-rm=zone")
    assert await placed(["w1", "w2"]), "what runs stays"


async def test_a_taint_keeps_away_who_does_not_tolerate_it(cluster: Cluster) -> None:
    await ctl(cluster, "node", "update", "m1", "w1", "--taint=kept=yes:no-schedule")
    await create(cluster, "plain", "--replicas=3")
    await create(cluster, "tolerant", "--mode=global", "--tolerate=kept")

    async def nodes(service: str) -> list[str]:
        found = await slots(cluster, service)
        return sorted(it["node"] for it in found if it["state"] == "running")

    async def as_asked() -> bool:
        return await nodes("plain") == ["w2"] * 3 and await nodes("tolerant") == ["m1", "w1", "w2"]

    await cluster.wait_until(as_asked, "only the tolerant one is on nodes with a taint")
    await ctl(cluster, "node", "update", "m1", "w1", "--taint-rm=kept")


async def test_a_port_is_one_containers_on_its_node(cluster: Cluster) -> None:
    await create(cluster, "first", "--mode=global", "--host-port=8080")
    await create(cluster, "second", "--host-port=8080")

    async def waits() -> bool:
        (slot,) = await slots(cluster, "second")
        return slot["state"] == "pending" and "host port 8080/tcp is taken" in slot["reason"]

    await cluster.wait_until(waits, "every node's port is taken")
    await ctl(cluster, "service", "rm", "first", "--detach")

    async def runs() -> bool:
        (slot,) = await slots(cluster, "second")
        return bool(slot["state"] == "running")

    await cluster.wait_until(runs, "it is free when that is gone")


async def test_more_may_be_reserved_than_there_is_if_operators_say_so(cluster: Cluster) -> None:
    shown = json.loads(await ctl(cluster, "node", "inspect", "w1", "--format=json"))
    cpus = shown["allocatable"]["cpu_milli"] / 1000
    name = f"--constraint=node.name=={shown['attributes']['node.name']}"
    await create(cluster, "big", "--replicas=2", f"--cpus={cpus}", name)

    async def running(count: int) -> bool:
        found = await slots(cluster, "big")
        return sum(it["state"] == "running" for it in found) == count

    await cluster.wait_until(lambda: running(1), "one fills the node")
    assert "not enough CPU" in (await slots(cluster, "big"))[1]["reason"]
    await ctl(cluster, "cluster", "update", "--overcommit-cpu=200")
    await cluster.wait_until(lambda: running(2), "the other one is let in")
    await ctl(cluster, "cluster", "update", "--overcommit-cpu=100")
    assert await running(2), "what runs stays"


async def test_what_is_kept_for_the_system_is_given_to_nobody(cluster: Cluster) -> None:
    host = cluster.hosts["w2"]
    host.stop()
    host.env |= {
        "WARREN_CAPACITY_CPUS": "4",
        "WARREN_RESERVED_CPUS": "1.5",
        "WARREN_RESERVED_MEMORY": "64m",
        "WARREN_LABELS": "disk=ssd",
    }
    await cluster.start("w2")
    await cluster.wait_settled()

    async def told() -> bool:
        shown = json.loads(await ctl(cluster, "node", "inspect", "w2", "--format=json"))
        capacity, kept, left = (
            (it["cpu_milli"], it["memory_bytes"])
            for it in (shown["capacity"], shown["reserved"], shown["allocatable"])
        )
        return (
            capacity[0] == 4000
            and kept == (1500, 64 << 20)
            and left == (2500, capacity[1] - (64 << 20))
        )

    try:
        await cluster.wait_until(told, "the node says what it keeps")
        on_it = "--constraint=node.labels.disk==ssd"
        await create(cluster, "too-big", "--cpus=2.6", on_it)
        await create(cluster, "just-fits", "--cpus=2.5", on_it)

        async def placed() -> bool:
            (big,) = await slots(cluster, "too-big")
            (fits,) = await slots(cluster, "just-fits")
            pending = big["state"] == "pending" and "not enough CPU (asked 2.6" in big["reason"]
            return pending and (fits["state"], fits["node"]) == ("running", "w2")

        await cluster.wait_until(placed, "what is left is given out, and no more")
    finally:
        host.env.clear()
        host.stop()
        await cluster.start("w2")


async def test_what_hosts_say_of_themselves_can_be_asked_for(cluster: Cluster) -> None:
    shown = json.loads(await ctl(cluster, "node", "inspect", "w1", "--format=json"))
    said = shown["attributes"]
    for key in ("kernel", "arch", "os", "containerd", "warren", "cpus", "memory_gib"):
        assert said[f"node.{key}"], key
    # A small disk has less than one.
    assert int(said["node.disk_free_gib"]) == shown["disk_free_bytes"] >> 30
    asked = [
        f"--constraint=node.kernel=={said['node.kernel']}",
        f"--constraint=node.arch=={said['node.arch']}",
        f"--constraint=node.containerd=={said['node.containerd']}",
        "--constraint=node.disk_free_gib>=0",
        "--constraint=node.kernel>=2.6",
    ]
    await create(cluster, "picky", *asked)
    await create(cluster, "elsewhere", "--constraint=node.kernel<2.6")

    async def placed() -> bool:
        (one,) = await slots(cluster, "picky")
        (other,) = await slots(cluster, "elsewhere")
        return one["state"] == "running" and "kernel" in (other["reason"] or "")

    await cluster.wait_until(placed, "one has its node, and the other is told why not")
