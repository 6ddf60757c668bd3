"""What is urgent takes the place of what is not, through the command line and in daemons."""

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


async def slots(cluster: Cluster, service: str, *words: str) -> list[dict[str, Any]]:
    answer = await ctl(cluster, "service", "ps", service, "--format=json", *words)
    listed: list[dict[str, Any]] = json.loads(answer)
    return listed


async def running(cluster: Cluster, service: str) -> list[str]:
    found = await slots(cluster, service)
    return sorted(it["node"] for it in found if it["state"] == "running")


async def create(cluster: Cluster, name: str, *flags: str) -> None:
    await ctl(cluster, "service", "create", name, "--image=tiny:1", "--detach", *flags)


async def test_the_urgent_starts_where_less_urgent_ones_have_stopped(cluster: Cluster) -> None:
    shown = json.loads(await ctl(cluster, "node", "inspect", "w1", "--format=json"))
    half = shown["allocatable"]["cpu_milli"] / 2000
    here = "--constraint=node.role==worker"
    await create(
        cluster, "batch", "--replicas=4", f"--cpus={half}", "--priority=10", here,
    )  # fmt: skip

    async def full() -> bool:
        return await running(cluster, "batch") == ["w1", "w1", "w2", "w2"]

    await cluster.wait_until(full, "both workers are full")
    await create(cluster, "polite", f"--cpus={half}", "--priority=90", here)
    flags = ("--image=tiny:1", f"--cpus={half}", "--priority=80", "--preempt", here)
    # What had to make room would wait: exit code 7.
    code, out, err = await cluster.ctl(
        "m1", "service", "create", "web", *flags, "--plan", "--format=json"
    )
    assert code == 7, err
    (planned,) = json.loads(out)["preempted"]
    assert (planned["service"], planned["priority"]) == ("batch", 10)
    assert (planned["by_service"], planned["by_slot"]) == ("web", 1)

    async def off() -> bool:
        told = json.loads(await ctl(cluster, "explain", "polite.1", "--format=json"))
        victims = [it["victims"] for it in told["nodes"] if it["victims"]]
        return (
            "preemption is off: with --preempt, 1 container of a lower priority" in told["summary"]
            and victims == [{"containers": 1, "priority": 10}] * 2
        )

    await cluster.wait_until(off, "it is said what would help")
    await create(cluster, "web", f"--cpus={half}", "--priority=80", "--preempt", here)

    async def preempted() -> bool:
        return len(await running(cluster, "web")) == 1 and len(await running(cluster, "batch")) == 3

    await cluster.wait_until(preempted, "one of batch made room")
    events = json.loads(await ctl(cluster, "events", "batch", "--format=json"))
    (made_room,) = [it for it in events if it["kind"] == "preempted"]
    assert made_room["why"] == "makes room for web.1 (priority 80 > 10)"
    # Which of the four that are equally good is drawn, and not by a plan's seed.
    assert made_room["node"] in {"w1", "w2"}
    told = json.loads(await ctl(cluster, "events", "web", "--format=json"))
    waits = next(it for it in told if it["sequence"])
    assert (waits["kind"], "to stop" in waits["why"]) == ("pending", True)
    (waits,) = (it for it in await slots(cluster, "batch") if it["state"] == "pending")
    assert "not enough CPU" in waits["reason"]
    (polite,) = await slots(cluster, "polite")
    assert polite["state"] == "pending", "who does not preempt waits"
    for node in ("w1", "w2"):
        shown = json.loads(await ctl(cluster, "node", "inspect", node, "--format=json"))
        assert shown["holds"] == [], "nothing is kept once its successor is there"

    await ctl(cluster, "service", "rm", "web", "--detach")

    async def by_priority() -> bool:
        return len(await running(cluster, "polite")) == 1

    await cluster.wait_until(by_priority, "the more urgent of those that wait comes first")
    assert len(await running(cluster, "batch")) == 3
    await ctl(cluster, "service", "rm", "polite", "--detach")
    await cluster.wait_until(full, "what had to go comes back when there is room")


async def test_a_service_that_shrinks_keeps_what_runs_and_stays_spread(cluster: Cluster) -> None:
    await create(cluster, "wide", "--replicas=6", "--constraint=node.role==worker")

    async def spread(each: int) -> bool:
        return await running(cluster, "wide") == ["w1"] * each + ["w2"] * each

    await cluster.wait_until(lambda: spread(3), "three on each worker")
    before = {it["container_id"] for it in await slots(cluster, "wide")}
    await ctl(cluster, "service", "update", "wide", "--replicas=2")
    await cluster.wait_until(lambda: spread(1), "one on each worker")
    left = await slots(cluster, "wide")
    assert {it["container_id"] for it in left} <= before, "what stays was not started anew"
    assert [it["slot"] for it in left] == [1, 2]
