"""A containerd runtime on a bench: a namespace, an image, its events and its logs."""

# ruff: noqa: ASYNC240 - small files, and nobody else is on the loop
from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containerd import Containerd
from warren.agent import logs
from warren.agent.runtime.base import Back, ContainerRequest, Observed, RuntimeEvent
from warren.agent.runtime.containerd.runtime import ContainerdRuntime, warren_log_path
from warren.pb.v1 import objects_pb2

IMAGE = "docker.io/library/tiny:1"
DEADLINE_S = 20


class Bench:
    """A runtime in a namespace of its own, with the tiny image, its events and its logs."""

    def __init__(self, containerd: Containerd, state: Path) -> None:
        self.containerd = containerd
        self.namespace = containerd.new_namespace()
        self.log_root = state / "logs"
        self.state = state
        self.runtime = self.new_runtime()
        self.events = self.runtime.events()

    def new_runtime(self) -> ContainerdRuntime:
        """As a daemon that was just started has it."""
        return ContainerdRuntime(
            address=self.containerd.address,
            namespace=self.namespace,
            node_id="5e" * 16,
            spool_dir=self.state / "spool",
        )

    async def load(self, archive: Path, runtime: ContainerdRuntime | None = None) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield archive.read_bytes()

        async for _ in (runtime or self.runtime).images.load(pieces()):
            pass

    def request(self, *command: str, attempt: int = 1, **spec: Any) -> ContainerRequest:
        container_id = secrets.token_hex(16)
        return ContainerRequest(
            id=container_id,
            attempt=attempt,
            service_id="7a" * 16,
            service_name="web",
            slot=1,
            spec_digest="cd" * 32,
            spec=objects_pb2.ContainerSpec(**{"image": IMAGE, "command": command, **spec}),
            log_dir=self.log_root / container_id,
            node_name="host-1",
        )

    async def run(self, request: ContainerRequest) -> int:
        await self.runtime.create(request)
        return await self.runtime.start(request.id)

    async def event(self) -> RuntimeEvent:
        return await asyncio.wait_for(anext(self.events), DEADLINE_S)

    async def only(self, runtime: ContainerdRuntime | None = None) -> Observed:
        (found,) = await (runtime or self.runtime).list()
        return found

    async def output(self, request: ContainerRequest) -> list[tuple[bool, bytes]]:
        """What the container wrote, once its logger has written all of it."""
        await self.runtime.delete(request.id)
        await asyncio.to_thread(self.containerd.assert_nothing_left, self.namespace)
        return [
            (line.stderr, line.line)
            async for chunk in logs.read(
                self.log_root, [request.id], tail=-1, since_ms=0, follow=False
            )
            for line in chunk.lines
        ]


async def bench_on(containerd: Containerd, state: Path, image: Path) -> AsyncIterator[Bench]:
    if not os.access(warren_log_path(), os.X_OK):
        pytest.skip("the logger is not built; make dev builds it")
    bench = Bench(containerd, state)
    await bench.runtime.open()
    assert await bench.event() == Back()
    await bench.load(image)
    yield bench
    await bench.runtime.close()
    await asyncio.to_thread(containerd.assert_nothing_left, bench.namespace)


async def until_output(bench: Bench, request: ContainerRequest, wanted: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        async for chunk in logs.read(
            bench.log_root, [request.id], tail=-1, since_ms=0, follow=True
        ):
            if any(line.line == wanted for line in chunk.lines):
                return
