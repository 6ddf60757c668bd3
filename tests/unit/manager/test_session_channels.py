"""What a worker's session makes of its channel: one that closes under it, one that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.unit.manager import test_edges
from tests.unit.manager.test_edges import DEADLINE_S, Edges, Worker, until
from warren import rpc
from warren.errors import WarrenError
from warren.pb.v1 import objects_pb2 as pb

edges, worker = test_edges.edges, test_edges.worker

WITH_IMAGE = pb.NodeDescription(
    name="n1", images=[pb.NodeImage(reference="tiny", digest="sha256:1")]
)


async def closing(worker: Worker, tmp_path: Path, grace_s: float) -> asyncio.Task[None]:
    """Leave the session on a channel that closes, as after a renewal of certificates."""
    await until(lambda: worker.session.connected)
    now = worker.managers.channel
    old = grpc.aio.insecure_channel(f"unix:{tmp_path}/s", options=rpc.CLIENT_OPTIONS)
    worker.managers.channel = old
    dialled = len(worker.managers.dialled)
    worker.session.begin_anew()
    await until(lambda: len(worker.managers.dialled) > dialled and worker.session.connected)
    worker.managers.channel = now
    task = asyncio.create_task(old.close(grace_s))
    await asyncio.sleep(0)  # it has begun to
    return task


async def test_managers_are_asked_over_a_channel_that_is_open(
    edges: Edges, worker: Worker, tmp_path: Path
) -> None:
    task = await closing(worker, tmp_path, DEADLINE_S)
    worker.description = WITH_IMAGE
    assert not await worker.session.publish(DEADLINE_S)
    assert len(edges.core.sessions) == 2, "and the stream goes on"
    await worker.close()
    await task


async def test_a_channel_that_is_closed_is_a_lost_session(
    edges: Edges, worker: Worker, tmp_path: Path
) -> None:
    await (await closing(worker, tmp_path, 0.1))
    await until(lambda: len(edges.core.sessions) == 3 and worker.session.connected)


async def test_what_nobody_expects_is_a_lost_session(
    edges: Edges, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: worker.session.connected)
    closed = grpc.aio.insecure_channel("unix:/nowhere")
    await closed.close()
    now, worker.managers.channel = worker.managers.channel, closed
    worker.session.begin_anew()
    await until(lambda: "Channel is closed" in worker.session.problem)
    assert any(record.exc_info for record in caplog.records), "a fault of ours has a traceback"
    worker.managers.channel = now
    await until(lambda: worker.session.connected)


async def test_managers_who_were_away_are_waited_for(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    edges.core.refuse["GetNode"] = WarrenError("no_leader", "no leader")
    worker.description = WITH_IMAGE
    told = asyncio.create_task(worker.session.publish(DEADLINE_S))
    await until(lambda: any(method == "GetNode" for method, _, _ in edges.core.calls))
    edges.core.refuse.clear()
    assert await told == ""


async def test_why_managers_do_not_know_is_said(edges: Edges, worker: Worker) -> None:
    edges.core.refuse["Session"] = WarrenError("no_leader", "nobody leads")
    await until(lambda: "nobody leads" in worker.session.problem)
    assert "nobody leads" in await worker.session.publish(0.1)
