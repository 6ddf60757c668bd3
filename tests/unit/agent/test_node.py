"""The node-local service over a real channel, with images that are pretended."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from warren import rpc
from warren.agent.node import LOADS_MAX, NodeLocal
from warren.agent.rebirth import Rebirth
from warren.agent.runtime.base import RuntimeUnavailable
from warren.errors import WarrenError
from warren.observe.logging import LogPipeline
from warren.pb.v1 import node_pb2, objects_pb2

IMAGE = objects_pb2.NodeImage(reference="docker.io/library/web:1", digest="sha256:1", size_bytes=5)


class PretendedImages:
    """Takes an archive, or fails as it is told."""

    def __init__(self) -> None:
        self.received = b""
        self.reference = ""
        self.fails: Exception | None = None
        self.unknown_because = ""

    async def load(
        self, pieces: AsyncIterator[bytes], reference: str
    ) -> AsyncIterator[node_pb2.LoadImageProgress]:
        self.reference = reference
        async for piece in pieces:
            self.received += piece
            yield node_pb2.LoadImageProgress(received_bytes=len(self.received), step="receiving")
        if self.fails:
            raise self.fails
        yield node_pb2.LoadImageProgress(step="done", images=[IMAGE])

    async def publish(self) -> str:
        return self.unknown_because

    async def list(self) -> list[objects_pb2.NodeImage]:
        if self.fails:
            raise self.fails
        return [IMAGE]

    async def remove(self, reference: str, *, force: bool) -> str:
        if not force:
            raise WarrenError("image_in_use", "it is used")
        return reference


class Served:
    """A server with the service, and a stub for it."""

    def __init__(self, images: PretendedImages, node: NodeLocal, stub: Any) -> None:
        self.images = images
        self.node = node
        self.stub = stub


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    images = PretendedImages()

    async def describe() -> node_pb2.GetDaemonResponse:
        return node_pb2.GetDaemonResponse(version="1", node_name="host-1")

    async def join(request: node_pb2.JoinClusterRequest) -> node_pb2.JoinClusterResponse:
        raise WarrenError("invalid", f"nobody is at {request.address}")

    async def leave(request: node_pb2.LeaveClusterRequest) -> None:
        if not request.force:
            raise WarrenError("not_in_cluster", "this host belongs to no cluster")

    async def restore(file: Path, epoch_min: int) -> node_pb2.RestoreClusterResponse:
        content = await asyncio.to_thread(file.read_bytes)
        if content == b"broken":
            raise WarrenError("backup_unusable", "the backup cannot be used")
        return node_pb2.RestoreClusterResponse(epoch=epoch_min, index=len(content))

    async def recover(
        request: node_pb2.RecoverQuorumRequest,
    ) -> node_pb2.RecoverQuorumResponse:
        if not request.force:
            raise WarrenError("invalid", "member 3 leads, so nothing is lost")
        return node_pb2.RecoverQuorumResponse(epoch=2)

    rebirth = Rebirth(tmp_path, restore, recover)
    pipeline = LogPipeline(fd=os.open(os.devnull, os.O_WRONLY), console=False)
    node = NodeLocal(
        images,  # type: ignore[arg-type]
        tmp_path / "logs",
        describe,
        join,
        leave,
        rebirth,
        pipeline,
        images.publish,
    )
    server = grpc.aio.server(options=rpc.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((node.handler(),))
    address = f"unix://{tmp_path}/s"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address, options=rpc.CLIENT_OPTIONS) as channel:
        yield Served(images, node, rpc.Stub(channel, rpc.NODE_LOCAL))
    await server.stop(0)
    pipeline.close()


def archive(*pieces: bytes, reference: str = "") -> Iterator[node_pb2.LoadImageRequest]:
    for number, piece in enumerate(pieces):
        yield node_pb2.LoadImageRequest(data=piece, reference="" if number else reference)


async def refusal(call: Any) -> WarrenError:
    async def ended() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ended()
    return rpc.failure(error.value)


async def test_an_image_that_managers_do_not_know_of_is_told(served: Served) -> None:
    served.images.unknown_because = "no session with a manager"
    error = await refusal(served.stub.LoadImage(archive(b"one"), timeout=10))
    assert error.code == "unavailable"
    assert "loaded on this host" in error.message
    assert "no session with a manager" in error.message


async def test_an_archive_arrives_whole(served: Served) -> None:
    requests = archive(b"one", b"two", b"three", reference="web:1")
    answers = [answer async for answer in served.stub.LoadImage(requests, timeout=10)]
    assert served.images.received == b"onetwothree"
    assert served.images.reference == "web:1"
    assert [answer.step for answer in answers] == ["receiving"] * 3 + ["done"]
    assert list(answers[-1].images) == [IMAGE]
    assert served.node.loads == 0


@pytest.mark.parametrize(
    ("fails", "code"),
    [
        (WarrenError("archive_invalid", "broken; load another"), "archive_invalid"),
        (RuntimeUnavailable("containerd is away"), "runtime_unavailable"),
        (OSError(5, "Input/output error"), "internal"),
    ],
)
async def test_failures_arrive_as_refusals(served: Served, fails: Exception, code: str) -> None:
    served.images.fails = fails
    error = await refusal(served.stub.LoadImage(archive(b"x"), timeout=10))
    assert error.code == code
    assert error.message
    assert served.node.loads == 0
    error = await refusal(served.stub.ListImages(node_pb2.ListImagesRequest(), timeout=10))
    assert error.code == code


async def test_loads_are_bounded(served: Served) -> None:
    served.node.loads = LOADS_MAX
    error = await refusal(served.stub.LoadImage(archive(b"x"), timeout=10))
    assert error.code == "overloaded"
    assert served.node.loads == LOADS_MAX


async def test_list_and_remove(served: Served) -> None:
    answer = await served.stub.ListImages(node_pb2.ListImagesRequest(), timeout=10)
    assert list(answer.images) == [IMAGE]
    request = node_pb2.RemoveImageRequest(reference="web:1")
    assert (await refusal(served.stub.RemoveImage(request, timeout=10))).code == "image_in_use"
    request.force = True
    assert (await served.stub.RemoveImage(request, timeout=10)).reference == "web:1"


async def test_get_daemon(served: Served) -> None:
    answer = await served.stub.GetDaemon(node_pb2.GetDaemonRequest(), timeout=10)
    assert answer.node_name == "host-1"


async def test_logs(served: Served, tmp_path: Path) -> None:
    directory = tmp_path / "logs" / ("01" * 16)
    directory.mkdir(parents=True)
    (directory / "current.log").write_text("2026-01-01T00:00:00Z stdout F hello\n")
    request = node_pb2.LogsRequest(container_ids=[bytes.fromhex("01" * 16)], tail=-1)
    (chunk,) = [chunk async for chunk in served.stub.Logs(request, timeout=10)]
    assert [line.line for line in chunk.lines] == [b"hello"]


@pytest.mark.parametrize("ids", [[b"short"], [b"x" * 16] * 5000])
async def test_ids_are_checked(served: Served, ids: list[bytes]) -> None:
    request = node_pb2.LogsRequest(container_ids=ids)
    assert (await refusal(served.stub.Logs(request, timeout=10))).code == "invalid"


async def test_joining_and_leaving_are_passed_on(served: Served) -> None:
    joining = served.stub.JoinCluster(node_pb2.JoinClusterRequest(address="a:1"), timeout=10)
    assert (await refusal(joining)).message == "nobody is at a:1"
    leaving = served.stub.LeaveCluster(node_pb2.LeaveClusterRequest(), timeout=10)
    assert (await refusal(leaving)).code == "not_in_cluster"
    await served.stub.LeaveCluster(node_pb2.LeaveClusterRequest(force=True), timeout=10)


async def upload(node: Served, *pieces: bytes, epoch_min: int = 0) -> list[Any]:
    requests = [node_pb2.RestoreClusterRequest(data=data) for data in pieces]
    requests[0].epoch_min = epoch_min
    return [answer async for answer in node.stub.RestoreCluster(iter(requests), timeout=10)]


async def test_a_backup_arrives_whole_and_leaves_nothing(served: Served, tmp_path: Path) -> None:
    (answer,) = await upload(served, b"ab", b"cde", epoch_min=4)
    assert (answer.index, answer.epoch) == (5, 4)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload(served, b"bro", b"ken")
    assert rpc.failure(refused.value).code == "backup_unusable"
    assert not [name for name in os.listdir(tmp_path) if name.startswith("restore-")]


async def test_a_recovery_is_passed_on(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.stub.RecoverQuorum(node_pb2.RecoverQuorumRequest(), timeout=10)
    assert "nothing is lost" in rpc.failure(refused.value).message
    request = node_pb2.RecoverQuorumRequest(force=True)
    assert (await served.stub.RecoverQuorum(request, timeout=10)).epoch == 2


async def test_log_levels_are_told_and_changed(served: Served) -> None:
    with restored():
        change = node_pb2.SetLogLevelRequest(component="raft", level="debug", for_ms=60_000)
        changed = await served.stub.SetLogLevel(change, timeout=10)
        told = await served.stub.GetLogLevels(node_pb2.GetLogLevelsRequest(), timeout=10)
    assert changed.configured == told.configured == "info"
    rows = {row.component: row for row in told.levels}
    assert (rows["all"].level, rows["all"].changed) == ("info", False)
    assert (rows["raft"].level, rows["raft"].changed) == ("debug", True)
    assert 0 < rows["raft"].remaining_ms <= 60_000
    for component, level in (("rafft", "debug"), ("raft", "loud"), ("", "debug")):
        change = node_pb2.SetLogLevelRequest(component=component, level=level)
        error = await refusal(served.stub.SetLogLevel(change, timeout=10))
        assert (error.code, "there are" in error.message) == ("invalid", True)


async def test_requests_of_the_host_are_found_by_name(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "warren.node")
    named = ((rpc.REQUEST_ID_KEY, "abc-1"),)
    served.images.fails = OSError(5, "Input/output error")
    await refusal(served.stub.ListImages(node_pb2.ListImagesRequest(), timeout=10, metadata=named))
    served.images.fails = WarrenError("archive_invalid", "broken; load another")
    await refusal(served.stub.LoadImage(archive(b"x"), timeout=10, metadata=named))
    fields = [vars(record) for record in caplog.records if record.name == "warren.node"]
    assert [(each["levelname"], each["msg"], each["method"]) for each in fields] == [
        ("DEBUG", "asked", "ListImages"),
        ("WARNING", "refused", "ListImages"),
        ("DEBUG", "asked", "LoadImage"),
        ("DEBUG", "refused", "LoadImage"),
    ]
    assert {each["request_id"] for each in fields} == {"abc-1"}
    assert fields[3]["code"] == "archive_invalid"


@contextmanager
def restored() -> Iterator[None]:
    """What the test sets of Python's own levels is taken back."""
    ours = logging.getLogger("warren")
    before = ours.level
    try:
        yield
    finally:
        ours.setLevel(before)
        logging.getLogger("warren.raft").setLevel(logging.NOTSET)
