"""A reader that takes nothing of a stream is given up, and told so when it looks again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.unit.manager.test_edges import Counts, Forwarded, ScriptedCore
from warren import rpc
from warren.channels import Channels
from warren.manager import api, backup
from warren.manager.forward import Forwarder
from warren.manager.identity import Caller, by_socket
from warren.pb.v1 import api_pb2

DEADLINE_S = 20.0
CHUNK = api_pb2.BackupClusterChunk(data=b"x" * backup.CHUNK_BYTES).SerializeToString()


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_reader_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    closed = asyncio.Event()

    async def endless(caller: Caller, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield CHUNK
        finally:
            closed.set()

    server = grpc.aio.server(options=rpc.SERVER_OPTIONS)
    forwarder = Forwarder(ScriptedCore(), Channels(None), Forwarded(), lambda: 1)
    served = api.service(
        forwarder, by_socket, Counts(), {}, {}, {backup.METHOD: endless}, patience_s=0.2
    )
    server.add_generic_rpc_handlers((served,))
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(
        f"unix:{tmp_path}/s", options=rpc.CLIENT_OPTIONS
    ) as channel:
        call = rpc.Stub(channel, rpc.MANAGER).BackupCluster(
            api_pb2.BackupClusterRequest(), timeout=600
        )
        await call.read()
        await asyncio.wait_for(closed.wait(), DEADLINE_S)
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.wait_for(to_the_end(call), DEADLINE_S)
        refusal = rpc.failure(caught.value)
        assert (refusal.code, "nothing was taken" in refusal.message) == ("unavailable", True)
    await server.stop(None)
