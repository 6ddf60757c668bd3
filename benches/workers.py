"""Thousands of simulated workers on one manager: what their sessions cost, and how fast it is.

One real daemon; the workers are coroutines of another process that speak the real session over a
few connections: hello, assignments, reports, heartbeats as often as the manager says. Each takes a
container to be running as soon as it is assigned. A service of as many containers as there are
workers is scaled up and down by a twentieth of them, over and over.

- heartbeat lag: from sending a heartbeat to its acknowledgement
- assignment lag: from the call that scales the service until each container it adds has reached its
  worker
- CPU and memory of the daemon, over the quiet first third (heartbeats only) and with the scaling

    python -m benches.workers [--workers 2000] [--seconds 300] [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from benches._common import Report, arguments, latency
from benches._stack import IMAGE, one_node
from benches.idle import cpu_seconds, memory_mib
from tests.support.node import WarrenNode
from warren import rpc
from warren._histogram import Histogram
from warren.pb.v1 import api_pb2, commands_pb2, objects_pb2, session_pb2

SEED = 5
CONNECTIONS = 8
RAMP_TIMEOUT_S = 120.0
CALL_TIMEOUT_S = 60.0
SCALE_EVERY_S = 5.0
#: What a manager tells to come back: more hellos at once than it takes.
COMES_BACK_S = 0.5


def options_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="how many (2,000; 50 with --quick)")
    parser.add_argument("--seconds", type=int, help="how long (300; 12 with --quick)")


@dataclass
class Measured:
    """What all workers have seen."""

    heartbeats: Histogram = field(default_factory=Histogram)
    assignments: Histogram = field(default_factory=Histogram)
    connected: int = 0
    refused: int = 0
    lost: int = 0
    #: When the scaling was asked for that adds containers now; None while none is.
    scaled_at: float | None = None
    awaited: int = 0
    goal: Callable[[], bool] = lambda: False
    met: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, goal: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `goal` holds."""
        self.goal = goal
        self.met.clear()
        self.changed()
        async with asyncio.timeout(timeout_s):
            await self.met.wait()

    def changed(self) -> None:
        """A count is another one."""
        if self.goal():
            self.met.set()


class Worker:
    """One session, kept open."""

    def __init__(self, number: int, stub: Any, image: objects_pb2.NodeImage, seen: Measured):
        self.node_id = (0xEE << 120 | number).to_bytes(16, "big")
        self._name = f"worker-{number}"
        self._stub, self._image, self._seen = stub, image, seen
        self._running: set[bytes] = set()
        self._sent: dict[int, float] = {}
        self._writing = asyncio.Lock()
        self._random = random.Random(SEED << 20 | number)

    async def run(self) -> None:
        while True:
            call = self._stub.Session()
            try:
                await self._converse(call)
            except grpc.RpcError as error:
                overloaded = rpc.failure(error).code == "overloaded"
                self._seen.refused += overloaded
                self._seen.lost += not overloaded
            finally:
                call.cancel()
            await asyncio.sleep(COMES_BACK_S * (0.5 + self._random.random()))

    async def _converse(self, call: Any) -> None:
        capacity = objects_pb2.Resources(cpu_milli=64_000, memory_bytes=1 << 38)
        description = objects_pb2.NodeDescription(
            name=self._name, capacity=capacity, images=[self._image]
        )
        hello = session_pb2.Hello(node_id=self.node_id, description=description)
        await self._send(call, hello=hello)
        message = await call.read()
        if message is grpc.aio.EOF:
            return
        interval_s = message.welcome.heartbeat_interval_ms / 1000
        self._seen.connected += 1
        self._seen.changed()
        beats = asyncio.create_task(self._beat(call, interval_s))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                await self._take(call, message)
        finally:
            self._seen.connected -= 1
            beats.cancel()

    async def _beat(self, call: Any, interval_s: float) -> None:
        await asyncio.sleep(interval_s * self._random.random())
        sequence = 0
        while True:
            sequence += 1
            self._sent[sequence] = time.perf_counter()
            await self._send(call, heartbeat=session_pb2.Heartbeat(sequence=sequence))
            await asyncio.sleep(interval_s)

    async def _take(self, call: Any, message: session_pb2.ManagerMessage) -> None:
        now = time.perf_counter()
        if message.WhichOneof("body") == "heartbeat_ack":
            sent = self._sent.pop(message.heartbeat_ack.sequence, None)
            if sent is not None:
                self._seen.heartbeats.observe(now - sent)
            return
        items = [self._status(each, now) for each in message.assignments.upsert]
        if items:
            await self._send(call, report=session_pb2.StatusReport(items=items))

    def _status(self, assignment: session_pb2.Assignment, now: float) -> Any:
        leaves = assignment.desired != objects_pb2.DESIRED_STATE_RUN
        if not leaves and assignment.container_id not in self._running:
            self._running.add(assignment.container_id)
            if self._seen.scaled_at is not None:
                self._seen.assignments.observe(now - self._seen.scaled_at)
                self._seen.awaited -= 1
                self._seen.changed()
        if leaves:
            self._running.discard(assignment.container_id)
        state = "SHUTDOWN" if leaves else "RUNNING"
        status = objects_pb2.ContainerStatus(
            attempt=max(1, assignment.status.attempt),
            state=objects_pb2.ContainerState.Value(f"CONTAINER_STATE_{state}"),
            removed=assignment.desired == objects_pb2.DESIRED_STATE_REMOVE,
        )
        return commands_pb2.StatusItem(container_id=assignment.container_id, status=status)

    async def _send(self, call: Any, **body: Any) -> None:
        async with self._writing:
            await call.write(session_pb2.WorkerMessage(**body))


class Scaler:
    """The service, made larger and smaller."""

    def __init__(self, manager: Any, seen: Measured) -> None:
        self._manager, self._seen = manager, seen
        self._client, self._sequence = secrets.token_bytes(16), 0
        self._service = b""
        self._version = 0

    async def to(self, replicas: int) -> None:
        """Ask for as many; returns when it is acknowledged."""
        container = objects_pb2.ContainerSpec(image=IMAGE, command=["true"])
        spec = objects_pb2.ServiceSpec(
            name="fleet",
            mode=objects_pb2.SERVICE_MODE_REPLICATED,
            replicas=replicas,
            container=container,
        )
        self._sequence += 1
        if not self._service:
            create = api_pb2.CreateServiceRequest(spec=spec)
            create.request.client, create.request.sequence = self._client, self._sequence
            made = await self._manager.CreateService(create, timeout=CALL_TIMEOUT_S)
            self._service, self._version = made.service_id, made.version
            return
        update = api_pb2.UpdateServiceRequest(
            service_id=self._service, expected_version=self._version, spec=spec
        )
        update.request.client, update.request.sequence = self._client, self._sequence
        changed = await self._manager.UpdateService(update, timeout=CALL_TIMEOUT_S)
        self._version = changed.version

    async def grow(self, replicas: int, more: int) -> None:
        """Ask for more, and wait until each has reached its worker."""
        self._seen.awaited, self._seen.scaled_at = more, time.perf_counter()
        await self.to(replicas + more)
        await self._seen.until(lambda: self._seen.awaited <= 0, CALL_TIMEOUT_S)
        self._seen.scaled_at = None


@dataclass
class Cost:
    """CPU of the daemon between two moments."""

    pid: int
    began: float = field(default_factory=time.perf_counter)
    used: float = 0.0

    def __post_init__(self) -> None:
        self.used = cpu_seconds(self.pid)

    def percent(self) -> float:
        """Of one core, since the beginning."""
        return (cpu_seconds(self.pid) - self.used) / (time.perf_counter() - self.began) * 100


async def measure(report: Report, node: WarrenNode, workers: int, seconds: int) -> None:
    """The whole run."""
    seen = Measured()
    target = f"unix:{node.socket}"
    # Otherwise gRPC shares one connection among channels of the same arguments.
    channels = [
        grpc.aio.insecure_channel(target, options=[*rpc.CLIENT_OPTIONS, ("warren.number", n)])
        for n in range(CONNECTIONS)
    ]
    manager = rpc.Stub(channels[0], rpc.MANAGER)
    listed = await manager.ListNodes(api_pb2.ListNodesRequest(), timeout=CALL_TIMEOUT_S)
    image = next(i for n in listed.nodes for i in n.node.description.images)
    fleet = [
        Worker(number, rpc.Stub(channels[number % CONNECTIONS], rpc.DISPATCHER), image, seen)
        for number in range(workers)
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in fleet]
    try:
        began, cost = time.perf_counter(), Cost(node.pid)
        await seen.until(lambda: seen.connected >= workers, RAMP_TIMEOUT_S)
        ramp_s = time.perf_counter() - began
        report.row("all connect", seconds=ramp_s, sent_back=seen.refused, cpu=cost.percent())
        scaler = Scaler(manager, seen)
        await scaler.grow(0, workers)
        report.latency(f"the first {workers:,} containers, assigned", seen.assignments)
        quiet = Cost(node.pid)
        seen.heartbeats = Histogram()
        await asyncio.sleep(seconds / 3)
        report.latency("heartbeat lag, quiet", seen.heartbeats, cpu_percent=quiet.percent())
        seen.assignments, seen.heartbeats = Histogram(), Histogram()
        busy, until = Cost(node.pid), time.perf_counter() + seconds * 2 / 3
        while time.perf_counter() < until:
            await scaler.grow(workers, max(1, workers // 20))
            await asyncio.sleep(SCALE_EVERY_S / 2)
            await scaler.to(workers)
            await asyncio.sleep(SCALE_EVERY_S / 2)
        report.latency("heartbeat lag, scaling", seen.heartbeats, cpu_percent=busy.percent())
        report.latency("assignment lag, scaling", seen.assignments)
        report.row("memory of the daemon", **memory_mib(node.pid))
        lags = {"heartbeat": seen.heartbeats, "assignment": seen.assignments}
        report.headline = {f"{name}_p99_ms": latency(of)["p99"] for name, of in lags.items()}
        report.headline |= {"lost_sessions": seen.lost, "workers": workers}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in channels))


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "", more=options_of)
    workers = options.workers or (50 if options.quick else 2_000)
    seconds = options.seconds or (12 if options.quick else 300)
    report = Report(f"{workers:,} simulated workers on one manager for {seconds} s")
    report.note(f"{CONNECTIONS} connections; client and daemon share the machine's cores")
    with one_node() as node:
        asyncio.run(measure(report, node, workers, seconds))
    report.finish(options)


if __name__ == "__main__":
    main()
