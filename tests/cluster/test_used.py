"""What a node uses, through managers that the worker does not talk to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from warren.agent.runtime import model

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = {"managers": 3, "workers": 1}
MANAGERS = ("m1", "m2", "m3")


async def inspect(cluster: Cluster, through: str, *flags: str) -> Any:
    words = ("node", "inspect", "w1", "--format=json", *flags)
    found, out, err = await cluster.ctl(through, *words)
    assert found == 0, err
    return json.loads(out)


async def test_every_manager_shows_what_a_node_uses(cluster: Cluster) -> None:
    found, _, err = await cluster.ctl(
        "m1", "service", "create", "busy", "--image=tiny:1", "--replicas=2",
        "--reserve-cpu=0.1", "--reserve-memory=10m", "--constraint=node.name==w1",
    )  # fmt: skip
    assert found == 0, err
    ids = [it["id"] for it in (await inspect(cluster, "m1"))["assigned"]]
    assert len(ids) == 2
    shares = [model.share(one) for one in ids]
    memory = sum((10 << 20) * share // 1000 for share in shares)

    async def told() -> bool:
        used = (await inspect(cluster, "m1"))["used"]
        return used is not None and used["pids"] == 2 and used["cpu_milli"] > 0

    await cluster.wait_until(told, "the worker has measured both")
    for manager in MANAGERS:
        used = (await inspect(cluster, manager))["used"]
        assert used["memory_bytes"] == memory, manager
        assert used["disk_bytes"] > 0
        # So does a list of several nodes.
        found, out, err = await cluster.ctl(manager, "top", "--once", "--format=json")
        assert found == 0, err
        (row,) = (it for it in json.loads(out)["nodes"] if it["name"] == "w1")
        assert row["memory_used_bytes"] == memory, manager
    shown = [(await inspect(cluster, manager, "--stale"))["used"] for manager in MANAGERS]
    assert sum(used is not None for used in shown) == 1, "the leader alone holds it"
    assert "USED" in (await cluster.ctl("m2", "node", "inspect", "w1"))[1]
