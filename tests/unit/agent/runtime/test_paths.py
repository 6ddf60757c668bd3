"""What a container mounts is looked for, and what hangs holds up nothing else."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from warren.agent.runtime.base import ContainerRequest, RuntimeRefused, RuntimeUnavailable
from warren.agent.runtime.containerd.paths import THREADS_MAX, HostPaths
from warren.agent.runtime.containerd.runtime import ContainerdRuntime
from warren.pb.v1 import objects_pb2 as pb

DEADLINE_S = 10.0


class Hanging:
    """Paths below /hangs are not answered for until `released`."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked = 0

    def exists(self, path: str) -> bool:
        if path.startswith("/hangs"):
            self.asked += 1
            assert self.released.wait(30)
        return os.path.lexists(path)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    made = Hanging()
    monkeypatch.setattr("os.path.exists", made.exists)
    yield made
    made.released.set()


@pytest.fixture
async def paths() -> AsyncIterator[HostPaths]:
    made = HostPaths(timeout_s=0.2)
    yield made
    made.close()


def bind(source: str) -> pb.Mount:
    return pb.Mount(type=pb.MOUNT_TYPE_BIND, source=source, target="/at")


async def test_what_is_there_and_what_is_not(paths: HostPaths, tmp_path: Path) -> None:
    there = bind(str(tmp_path))
    await paths.check([])
    await paths.check([there, pb.Mount(type=pb.MOUNT_TYPE_TMPFS, target="/none")])
    with pytest.raises(RuntimeRefused, match="there is no /no/such on this node") as refusal:
        await paths.check([there, bind("/no/such")])
    assert refusal.value.permanent


async def test_what_hangs_is_named_and_may_be_tried_again(
    paths: HostPaths, hanging: Hanging, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeRefused, match="file system of /hangs/one does not") as refusal:
        await paths.check([bind(str(tmp_path)), bind("/hangs/one")])
    assert not refusal.value.permanent


async def test_who_waits_behind_what_hangs_is_told_of_it(
    paths: HostPaths, hanging: Hanging, tmp_path: Path
) -> None:
    for number in range(THREADS_MAX):
        with pytest.raises(RuntimeRefused):
            await paths.check([bind(f"/hangs/{number}")])
    there = [bind(str(tmp_path))]
    with pytest.raises(RuntimeRefused, match="of /hangs/0, /hangs/1 does not") as refusal:
        await paths.check(there)
    assert f"whether {tmp_path} is there" in refusal.value.message
    assert hanging.asked == THREADS_MAX
    hanging.released.set()
    await paths.check(there)


async def test_what_hangs_keeps_no_thread_of_others(hanging: Hanging, tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    logger = tmp_path / "warren-log"
    logger.touch(0o755)
    runtime = ContainerdRuntime(
        address=str(tmp_path / "none.sock"), namespace="n", node_id="0b" * 16, spool_dir=tmp_path
    )
    runtime._logger = logger

    def create(number: int, *mounts: pb.Mount) -> asyncio.Task[int]:
        request = ContainerRequest(
            id=f"{number:032x}",
            attempt=1,
            service_id="0c" * 16,
            service_name="web",
            slot=number,
            spec_digest="",
            spec=pb.ContainerSpec(image="web:1", mounts=mounts),
            log_dir=tmp_path,
            node_name="n1",
        )
        return asyncio.create_task(runtime.create(request))

    hung = [create(number, bind("/hangs/one")) for number in range(4)]
    async with asyncio.timeout(DEADLINE_S):
        while not hanging.asked:  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0.005)
        await asyncio.to_thread(lambda: None)
        with pytest.raises(RuntimeUnavailable, match=r"none\.sock"):
            await create(9)
        assert not any(task.done() for task in hung)
        hanging.released.set()
        for result in await asyncio.gather(*hung, return_exceptions=True):
            assert isinstance(result, RuntimeRefused)
            assert "there is no /hangs/one" in result.message
    await runtime.close()
