"""The daemon, or containerd itself, ends between any two steps."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.bench import Bench
from tests.support.containerd import Containerd, runtime_tasks
from warren.agent.runtime.base import (
    Back,
    Exited,
    Lost,
    Phase,
    RuntimeRefused,
    RuntimeUnavailable,
)
from warren.agent.runtime.containerd.runtime import ContainerdRuntime

# -- a daemon that is killed between two steps -----------------------------------------------


class Killed(Exception):  # noqa: N818 - the daemon's end is what is meant
    """The daemon ended before this call."""


def kill_before(runtime: ContainerdRuntime, method: str) -> None:
    """From now on the runtime dies at the first call of ``method``."""
    unary = runtime.client.unary

    async def dying(call: Any, request: Any, **options: Any) -> Any:
        if f"{call.service}/{call.method}" == method:
            raise Killed
        return await unary(call, request, **options)

    runtime.client.unary = dying  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("method", "phase"),
    [
        ("snapshots.v1.Snapshots/Prepare", None),
        ("containers.v1.Containers/Create", Phase.REMNANT),
        ("tasks.v1.Tasks/Create", Phase.REMNANT),
        ("tasks.v1.Tasks/Start", Phase.CREATED),
    ],
)
async def test_what_a_killed_create_leaves_is_found_and_removed(
    bench: Bench, method: str, phase: Phase | None
) -> None:
    request = bench.request("sleep", "1000")
    dying = bench.new_runtime()
    kill_before(dying, method)

    async def create_and_start() -> None:
        await dying.create(request)
        await dying.start(request.id)

    with pytest.raises(Killed):
        await create_and_start()
    await dying.close()
    found = await bench.runtime.list()
    assert [(one.id, one.phase, one.attempt) for one in found] == (
        [(request.id, phase, 1)] if phase else []
    )
    if phase is Phase.REMNANT:
        with pytest.raises(RuntimeRefused, match="delete it first"):
            await bench.runtime.create(request)
    await bench.runtime.delete(request.id)
    await asyncio.to_thread(bench.containerd.assert_nothing_left, bench.namespace)
    await bench.run(request)
    await bench.runtime.delete(request.id)


@pytest.mark.parametrize(
    "method",
    [
        "tasks.v1.Tasks/Kill",
        "tasks.v1.Tasks/Wait",
        "tasks.v1.Tasks/Delete",
        "containers.v1.Containers/Delete",
        "snapshots.v1.Snapshots/Remove",
    ],
)
async def test_a_killed_delete_is_resumed(bench: Bench, method: str) -> None:
    request = bench.request("sleep", "1000")
    await bench.run(request)
    dying = bench.new_runtime()
    kill_before(dying, method)
    with pytest.raises(Killed):
        await dying.delete(request.id)
    await dying.close()
    assert [one.id for one in await bench.runtime.list()] == [request.id]
    await bench.runtime.delete(request.id)
    assert await bench.runtime.list() == []


async def test_another_node_s_containers_are_not_seen(bench: Bench) -> None:
    request = bench.request("sleep", "1000")
    await bench.run(request)
    other = ContainerdRuntime(
        address=bench.containerd.address,
        namespace=bench.namespace,
        node_id="0f" * 16,
        spool_dir=bench.state / "spool",
    )
    assert await other.list() == []
    await other.close()
    await bench.runtime.delete(request.id)


async def test_containerd_stops_and_comes_back(own_bench: Bench) -> None:
    runtime = own_bench.runtime
    stays, ends = own_bench.request("sleep", "1000"), own_bench.request("sleep", "1000")
    pid = await own_bench.run(stays)
    ending_pid = await own_bench.run(ends)
    own_bench.containerd.stop()
    assert await own_bench.event() == Lost()
    for call in (runtime.version(), runtime.list(), runtime.start(stays.id)):
        with pytest.raises(RuntimeUnavailable, match=r"is it running\?"):
            await call
    os.kill(ending_pid, 9)
    await asyncio.to_thread(own_bench.containerd.start)
    assert await own_bench.event() == Back()
    found = {one.id: one for one in await runtime.list()}
    assert (found[stays.id].phase, found[stays.id].pid) == (Phase.RUNNING, pid)
    assert (found[ends.id].phase, found[ends.id].exit_code) == (Phase.STOPPED, 137)
    tasks = await asyncio.to_thread(
        runtime_tasks, own_bench.containerd.address, own_bench.namespace
    )
    assert tasks[stays.id] == pid
    os.kill(pid, 9)
    end = await own_bench.event()
    assert isinstance(end, Exited)
    assert (end.id, end.exit_code) == (stays.id, 137)
    for request in (stays, ends):
        await runtime.delete(request.id)


async def test_a_runtime_opens_before_containerd(
    own_containerd: Containerd, tmp_path: Path
) -> None:
    own_containerd.stop()
    bench = Bench(own_containerd, tmp_path)
    await bench.runtime.open()
    with pytest.raises(RuntimeUnavailable):
        await bench.runtime.version()
    await asyncio.to_thread(own_containerd.start)
    assert await bench.event() == Back()
    assert (await bench.runtime.version())[0] in "12"
    await bench.runtime.close()


@pytest.mark.parametrize(
    "method",
    [
        "snapshots.v1.Snapshots/Prepare",
        "containers.v1.Containers/Create",
        "tasks.v1.Tasks/Create",
        "tasks.v1.Tasks/Start",
        "tasks.v1.Tasks/Kill",
        "tasks.v1.Tasks/Wait",
        "tasks.v1.Tasks/Delete",
        "containers.v1.Containers/Delete",
        "snapshots.v1.Snapshots/Remove",
    ],
)
async def test_containerd_ends_after_each_step_of_a_life(own_bench: Bench, method: str) -> None:
    runtime, containerd = own_bench.runtime, own_bench.containerd
    request = own_bench.request("sleep", "1000")
    unary = runtime.client.unary
    ended = False

    async def ending(call: Any, message: Any, **options: Any) -> Any:
        nonlocal ended
        answer = await unary(call, message, **options)
        if f"{call.service}/{call.method}" == method and not ended:
            ended = True
            containerd.stop()
        return answer

    runtime.client.unary = ending  # type: ignore[method-assign]

    async def life() -> None:
        await runtime.create(request)
        await runtime.start(request.id)
        await runtime.delete(request.id)
        await runtime.version()

    with pytest.raises(RuntimeUnavailable):
        await life()
    assert ended
    await asyncio.to_thread(containerd.start)
    while await own_bench.event() != Back():
        pass
    assert {one.id for one in await runtime.list()} <= {request.id}
    await runtime.delete(request.id)
    await asyncio.to_thread(containerd.assert_nothing_left, own_bench.namespace)
    await own_bench.run(request)
    await runtime.delete(request.id)
