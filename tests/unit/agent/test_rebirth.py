"""A restore or recovery that was begun is ended, whether or not the caller waits for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from warren.agent.rebirth import Rebirth
from warren.errors import WarrenError
from warren.pb.v1 import node_pb2

DEADLINE_S = 10.0
RECOVERY = node_pb2.RecoverQuorumRequest()


class Steps:
    """What `Rebirth` does, in two steps; between them it waits for `go`."""

    def __init__(self) -> None:
        self.began, self.go, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.content = b""

    async def restore(self, file: Path, epoch_min: int) -> node_pb2.RestoreClusterResponse:
        await self._both()
        self.content = await asyncio.to_thread(file.read_bytes)
        self.ended.set()
        return node_pb2.RestoreClusterResponse(epoch=epoch_min)

    async def recover(
        self, request: node_pb2.RecoverQuorumRequest
    ) -> node_pb2.RecoverQuorumResponse:
        await self._both()
        self.ended.set()
        return node_pb2.RecoverQuorumResponse(epoch=2)

    async def _both(self) -> None:
        self.began.set()
        await self.go.wait()


async def upload() -> AsyncIterator[node_pb2.RestoreClusterRequest]:
    yield node_pb2.RestoreClusterRequest(epoch_min=4, data=b"back")
    yield node_pb2.RestoreClusterRequest(data=b"up")


def restoring(rebirth: Rebirth) -> Awaitable[object]:
    return rebirth.restore(upload())


def recovering(rebirth: Rebirth) -> Awaitable[object]:
    return rebirth.recover(RECOVERY)


@pytest.mark.parametrize("begin", [restoring, recovering])
async def test_what_was_begun_is_ended_though_the_caller_has_gone(
    tmp_path: Path, begin: Callable[[Rebirth], Awaitable[object]]
) -> None:
    steps = Steps()
    rebirth = Rebirth(tmp_path, steps.restore, steps.recover)
    calling = asyncio.ensure_future(begin(rebirth))
    async with asyncio.timeout(DEADLINE_S):
        await steps.began.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        with pytest.raises(WarrenError) as refusal:
            await rebirth.recover(RECOVERY)
        assert refusal.value.code == "overloaded"
        steps.go.set()
        await steps.ended.wait()
        assert await rebirth.recover(RECOVERY) == node_pb2.RecoverQuorumResponse(epoch=2)
    assert steps.content == (b"backup" if begin is restoring else b"")
    assert os.listdir(tmp_path) == []


async def test_an_upload_that_is_cut_short_is_forgotten(tmp_path: Path) -> None:
    async def cut() -> AsyncIterator[node_pb2.RestoreClusterRequest]:
        yield node_pb2.RestoreClusterRequest(data=b"ba")
        cutting.set()
        await asyncio.Event().wait()

    cutting, steps = asyncio.Event(), Steps()
    rebirth = Rebirth(tmp_path, steps.restore, steps.recover)
    calling = asyncio.ensure_future(rebirth.restore(cut()))
    async with asyncio.timeout(DEADLINE_S):
        await cutting.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        assert os.listdir(tmp_path) == []
        steps.go.set()
        assert (await rebirth.restore(upload())).epoch == 4
    assert os.listdir(tmp_path) == []
