"""`service create` through the API, on a log that is fsynced before the answer.

Rows: one caller and 64 callers at once, each create a request of its own over the Unix socket
(services of no replicas, so that no container interferes); beside them, in the same run, an empty
RPC on the same socket (what gRPC alone costs) and a 512-byte write + fdatasync into a preallocated
file on the same disk (what durability alone costs). Latencies are milliseconds.

    python -m benches.api [--json] [--quick]
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from benches._common import Report, arguments, raw_fdatasync
from benches._stack import one_node
from warren._histogram import Histogram
from warren.pb.v1 import api_pb2

MANAGER = "/warren.v1.Manager/"


class Caller:
    """Creates services, or only pings, and times each call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._create = channel.unary_unary(
            MANAGER + "CreateService",
            request_serializer=api_pb2.CreateServiceRequest.SerializeToString,
        )
        self._ping = channel.unary_unary(MANAGER + "Ping")
        self._client = secrets.token_bytes(16)
        self._sequence = 0

    async def create(self, image: str) -> None:
        self._sequence += 1
        request = api_pb2.CreateServiceRequest()
        request.request.client = self._client
        request.request.sequence = self._sequence
        request.spec.name = f"s{self._client.hex()[:12]}-{self._sequence}"
        request.spec.mode = 1  # type: ignore[assignment]  # SERVICE_MODE_REPLICATED
        request.spec.container.image = image
        await self._create(request, timeout=30)

    async def ping(self, _image: str) -> None:
        await self._ping(b"", timeout=30)


async def measure(socket: Path, action: str, callers: int, calls: int) -> tuple[Histogram, float]:
    """`calls` calls by `callers` at once; their latencies and calls per second."""
    histogram = Histogram()

    async def work(caller: Caller, share: int) -> None:
        act = getattr(caller, action)
        for _ in range(share):
            began = time.perf_counter()
            await act("tiny:1")
            histogram.observe(time.perf_counter() - began)

    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        await Caller(channel).ping("")
        began = time.perf_counter()
        await asyncio.gather(*(work(Caller(channel), calls // callers) for _ in range(callers)))
        return histogram, histogram.count / (time.perf_counter() - began)


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    calls = 128 if options.quick else 6400
    report = Report("service create through the API")
    with one_node() as node:
        disk = raw_fdatasync(node.data_dir, calls)
        report.latency("raw fdatasync, 512 B", disk, limit=True)
        for action, callers in (("ping", 1), ("ping", 64), ("create", 1), ("create", 64)):
            share = calls // 4 if callers == 1 else calls
            histogram, rate = uvloop.run(measure(node.socket, action, callers, share))
            name = {"ping": "empty RPC", "create": "service create"}[action]
            report.latency(f"{name}, {callers} callers", histogram, per_second=rate)
    one = report.rows["service create, 1 callers"]
    floor = report.rows["empty RPC, 1 callers"]["p50"] + report.rows["raw fdatasync, 512 B"]["p50"]
    report.row("one caller, against empty RPC + fdatasync", ratio_p50=one["p50"] / floor)
    report.finish(options)


if __name__ == "__main__":
    main()
