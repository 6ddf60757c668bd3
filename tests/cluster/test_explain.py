"""Explaining, planning and draining, through the command line and in daemons: three hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = {"managers": 1, "workers": 2}


async def ctl(cluster: Cluster, *words: str, code: int = 0) -> str:
    found, out, err = await cluster.ctl("m1", *words)
    assert found == code, f"{words}: {err}"
    return out


async def shown(cluster: Cluster, *words: str, code: int = 0) -> Any:
    return json.loads(await ctl(cluster, *words, "--format=json", code=code))


async def running_on(cluster: Cluster, service: str) -> list[str]:
    slots = await shown(cluster, "service", "ps", service)
    return sorted(it["node"] for it in slots if it["state"] == "running")


async def create(cluster: Cluster, name: str, *flags: str) -> None:
    await ctl(cluster, "service", "create", name, "--image=tiny:1", "--detach", *flags)


async def test_an_explanation_agrees_with_where_containers_go(cluster: Cluster) -> None:
    await ctl(cluster, "node", "update", "w1", "--label=zone=eu")
    await create(
        cluster, "zoned", "--replicas=2", "--constraint=node.labels.zone==eu",
        "--max-replicas-per-node=1",
    )  # fmt: skip

    async def one_runs() -> bool:
        return await running_on(cluster, "zoned") == ["w1"]

    await cluster.wait_until(one_runs, "one goes where the label is")
    told = await shown(cluster, "explain", "zoned")
    assert (told["nodes_fit"], told["nodes_total"]) == (0, 3)
    assert told["summary"].startswith("0 of 3 nodes could take another; 2: node.labels.zone==eu")
    against = {it["node"]: [each["kind"] for each in it["against"]] for it in told["nodes"]}
    assert against == {"w1": ["max_per_node"], "w2": ["constraint"], "m1": ["constraint"]}
    waiting = await shown(cluster, "explain", "zoned.2")
    assert "has no node" in waiting["summary"]
    assert "label zone is not there" in waiting["pending_reason"]
    placed = await shown(cluster, "explain", "zoned.1")
    assert placed["node"] == "w1"
    assert "zoned.1 is on w1, and no other node would be better" in placed["summary"]
    assert "AGAINST" in await ctl(cluster, "explain", "zoned")
    await ctl(cluster, "node", "update", "w1", "--label-rm=zone")
    moved = await shown(cluster, "explain", "zoned.1")
    assert "which would not take it today: label zone is not there" in moved["summary"]
    await ctl(cluster, "service", "rm", "zoned")


async def test_a_plan_is_what_then_happens_and_changes_nothing(cluster: Cluster) -> None:
    flags = ("--image=tiny:1", "--replicas=3", "--max-replicas-per-node=1")
    plan = await shown(cluster, "service", "create", "spread", *flags, "--plan")
    (service,) = plan["services"]
    assert (plan["fits"], service["action"], service["pending"]) == (True, "create", 0)
    assert sorted(it["node"] for it in service["placed"]) == ["m1", "w1", "w2"]
    assert await shown(cluster, "service", "ls") == []
    await ctl(cluster, "service", "create", "spread", *flags)
    assert await running_on(cluster, "spread") == ["m1", "w1", "w2"]
    more = await shown(cluster, "service", "update", "spread", "--replicas=5", "--plan", code=7)
    (service,) = more["services"]
    assert (service["unchanged"], service["pending"]) == (3, 2)
    assert service["changes"] == [{"field": "replicas", "old": 3, "new": 5}]
    assert "as one node may" in service["pending_reason"]
    other = await shown(cluster, "service", "update", "spread", "--env=A=1", "--plan")
    (service,) = other["services"]
    assert sum(it["containers"] for it in service["stopped"]) == 3
    assert sum(it["containers"] for it in service["placed"]) == 3
    assert await running_on(cluster, "spread") == ["m1", "w1", "w2"]
    await ctl(cluster, "service", "rm", "spread")


async def test_events_tell_what_was_decided(cluster: Cluster) -> None:
    await create(cluster, "told", "--constraint=node.labels.nowhere exists")

    async def decided() -> list[dict[str, Any]]:
        return [it for it in await shown(cluster, "events", "told") if it["sequence"]]

    async def kinds() -> list[str]:
        return [it["kind"] for it in await decided()]

    async def waits() -> bool:
        return await kinds() == ["pending"]

    await cluster.wait_until(waits, "it finds no node")
    await ctl(cluster, "node", "update", "w2", "--label=nowhere=here")

    async def placed() -> bool:
        return await kinds() == ["pending", "placed"]

    await cluster.wait_until(placed, "there is one now")
    await ctl(cluster, "service", "update", "told", "--replicas=0")
    found = await decided()
    assert [it["kind"] for it in found] == ["pending", "placed", "scaled_down"]
    assert [it["node"] for it in found] == [None, "w2", "w2"]
    assert "label nowhere is not there" in found[0]["why"]
    await ctl(cluster, "service", "rm", "told")


async def test_a_drain_is_planned_then_done(cluster: Cluster) -> None:
    await create(cluster, "mobile", "--replicas=3")
    await create(cluster, "pinned", "--constraint=node.name==w1")

    async def settled(mobile: list[str], pinned: list[str]) -> bool:
        found = (await running_on(cluster, "mobile"), await running_on(cluster, "pinned"))
        return found == (mobile, pinned)

    everywhere = ["m1", "w1", "w2"]
    await cluster.wait_until(lambda: settled(everywhere, ["w1"]), "both run")
    plan = await shown(cluster, "node", "drain", "w1", "--plan", code=7)
    by_name = {it["service"]: it for it in plan["services"]}
    assert (by_name["mobile"]["action"], by_name["mobile"]["pending"]) == ("moved", 0)
    assert [it["node"] for it in by_name["mobile"]["stopped"]] == ["w1"]
    assert by_name["pinned"]["blocked"] == 1
    assert await settled(everywhere, ["w1"]), "a plan changes nothing"

    await ctl(cluster, "node", "drain", "w1", "--deadline=8s", "--detach")
    inspected = await shown(cluster, "node", "inspect", "w1")
    assert inspected["availability"] == "drain"
    assert inspected["drain_deadline"] is not None

    async def moved() -> bool:
        return "w1" not in await running_on(cluster, "mobile")

    await cluster.wait_until(moved, "what has room elsewhere moves")

    async def gone() -> bool:
        return await running_on(cluster, "pinned") == []

    await cluster.wait_until(gone, "what has none goes at the deadline")
    inspected = await shown(cluster, "node", "inspect", "w1")
    assert inspected["drain_overdue"]
    assert "overdue" in await ctl(cluster, "node", "ls")
    await ctl(cluster, "node", "activate", "w1")

    async def back() -> bool:
        return await running_on(cluster, "pinned") == ["w1"]

    await cluster.wait_until(back, "it comes back when the node does")
