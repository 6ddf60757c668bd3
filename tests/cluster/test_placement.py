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
