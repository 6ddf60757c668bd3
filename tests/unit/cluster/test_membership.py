"""What a host writes down when it becomes or ceases to be a manager: by other threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warren.cluster import files
from warren.cluster.files import ClusterFile, MemberFile
from warren.cluster.membership import Membership
from warren.config import Config
from warren.datadir import DataDir
from warren.manager.seat import Seat
from warren.pb.v1 import session_pb2

CLUSTER_ID = bytes(range(16))
DEADLINE_S = 10.0


class Core:
    """One that belongs to a cluster once it has joined it, and can be told that it is removed."""

    def __init__(self) -> None:
        self.is_member = self.removed = self.closed = False

    def status(self) -> dict[str, Any]:
        return {"is_member": self.is_member, "leader": False, "removed": self.removed, "term": 1}

    async def join(self, **_: Any) -> None:
        self.is_member = True

    async def close(self) -> None:
        self.closed = True


class Worker:
    """Begun and ended, and no more."""

    connected, epoch = False, 0

    def __init__(self) -> None:
        self.begun = False

    async def begin(self) -> None:
        self.begun = True

    async def end(self) -> None:
        self.begun = False

    async def empty(self, timeout_s: float) -> bool:
        return True

    def describe_again(self) -> None:
        pass


class Host:
    """A membership over a data directory, and what it did."""

    def __init__(self, directory: Path) -> None:
        self.data = DataDir.open(directory)
        self.worker = Worker()
        self.cores: list[Core] = []
        identity = SimpleNamespace(role="manager", trust_domain="warren")
        self.here = Membership(
            settings=Config(node_name="n1", data_dir=directory, listen_addr="10.0.0.1:2377"),
            data=self.data,
            credentials=cast("Any", SimpleNamespace(identity=identity)),
            channels=cast("Any", None),
            seat=Seat(),
            open_core=self._open_core,
            worker=self.worker,
            on_change=lambda: None,
            grace_s=0,
        )

    async def _open_core(self) -> Any:
        self.cores.append(Core())
        return self.cores[-1]

    def cluster_file(self) -> ClusterFile | None:
        return files.read(self.data.cluster_file, ClusterFile)

    def member_file(self) -> MemberFile | None:
        return files.read(self.data.member_file, MemberFile)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    await made.here.start()
    yield made
    made.data.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each fsync, whether it held up the loop."""
    found: list[bool] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        found.append(threading.current_thread() is threading.main_thread())
        fsync(fd)

    monkeypatch.setattr("os.fsync", noted)
    return found


def told(host: Host, *addresses: str, member: bool) -> session_pb2.Managers:
    message = session_pb2.Managers(api_addresses=addresses)
    if member:
        data_dir = bytes.fromhex(host.here.member.data_dir)
        message.membership.MergeFrom(
            session_pb2.Membership(member_id=7, cluster_id=CLUSTER_ID, epoch=1, data_dir=data_dir)
        )
    return message


async def test_no_step_of_a_membership_holds_up_the_loop(host: Host, synced: list[bool]) -> None:
    here = host.here
    async with here.lock:
        await here.remember(
            ClusterFile(
                cluster_id=CLUSTER_ID.hex(), trust_domain="warren", managers=("m1",), role="worker"
            )
        )
        await here.become_worker()
    assert host.worker.begun
    assert here.as_manager() is not None
    following = asyncio.create_task(here.run())

    async def until(managers: tuple[str, ...], *, manages: bool) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while here.lock.locked() or here.known_managers() != managers:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            while here.manages != manages:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    here.told(told(host, "m1", "m2", member=False))
    await until(("m1", "m2"), manages=False)
    here.told(told(host, "m1", "m3", member=True))
    await until(("m1", "m3"), manages=True)
    assert host.member_file() == MemberFile(data_dir=here.member.data_dir, opened=True)
    core = cast("Core", here.seat.core)
    core.removed = True
    here.told(told(host, "m1", "m4", member=False))
    await until(("m1", "m4"), manages=False)
    assert core.closed
    following.cancel()
    async with here.lock:
        await here.forget()
        await here.reborn(cast("Any", await here.blank_core()), CLUSTER_ID)
        await here.forget()
    assert host.cluster_file() is host.member_file() is None
    assert len(synced) > 10
    assert not any(synced)


async def test_a_cluster_that_is_founded_is_written_down_though_the_caller_has_gone(
    host: Host, synced: list[bool]
) -> None:
    cast("Core", host.here.seat.core).is_member = True
    async with host.here.lock:
        calling = asyncio.create_task(host.here.founded())
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    async with asyncio.timeout(DEADLINE_S):
        while not host.worker.begun:  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0.005)
    assert (member := host.member_file()) is not None
    assert member.opened
    assert host.cluster_file() == host.here.cluster is not None
    assert not any(synced)
