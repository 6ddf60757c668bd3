"""One simulated worker: the real session, and containers that are only remembered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc

from warren.agent.fleet.held import Held
from warren.agent.fleet.plan import IMAGE, IMAGE_DIGEST, Plan
from warren.agent.usage import INTERVAL_S, Measured, total
from warren.pb.v1 import objects_pb2, session_pb2

__all__ = ["Host", "Watch"]

LINGER_S: Final = 0.05
#: A manager that takes no more hellos for now, or another one leads.
COMES_BACK_S: Final = 0.5
REPORT_ITEMS_MAX: Final = 1024


class Watch(Protocol):
    """Is told what happens."""

    def connected(self, by: int) -> None:
        """A session stands, or (-1) stands no more."""

    def acknowledged(self, seconds: float) -> None:
        """A heartbeat was, after so long."""

    def assigned(self, container: Held) -> None:
        """The host has been told to run it."""

    def up(self, container: Held) -> None:
        """It runs now."""

    def failed(self, container: Held) -> None:
        """It ended by itself."""


class Host:
    """`run` until cancelled. `stub`: of the dispatcher, on a connection that hosts share."""

    def __init__(self, number: int, plan: Plan, stub: Any, watch: Watch) -> None:
        self.number = number
        self.node_id = (0x5E << 120 | number).to_bytes(16, "big")
        self.held: dict[bytes, Held] = {}
        self.away = False
        #: Nothing fails by itself any more.
        self.calm = False
        self._plan, self._stub, self._watch = plan, stub, watch
        self._random = plan.stream(f"host {number}")
        self._loop = asyncio.get_running_loop()
        self._call: Any = None
        self._sent: dict[int, float] = {}
        self._writing = asyncio.Lock()
        self._untold: dict[bytes, Held] = {}
        self._telling: asyncio.Task[None] | None = None
        self._back = asyncio.Event()
        self._measured: Measured | None = None
        #: By the digest of what is to run.
        self._reserved: dict[bytes, objects_pb2.Resources] = {}

    async def run(self) -> None:
        """Keep a session, but while the host is away."""
        while True:
            if self.away:
                self._back.clear()
                await self._back.wait()
            call = self._call = self._stub.Session()
            try:
                await self._converse(call)
            except grpc.RpcError:
                pass  # whatever it was, the next hello says everything
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            finally:
                self._call = None
                call.cancel()
            await asyncio.sleep(COMES_BACK_S * (0.5 + self._random.random()))

    def fail(self) -> list[Held]:
        """The power is gone; what ran."""
        self.away = True
        ran = [one for one in self.held.values() if one.runs]
        for one in self.held.values():
            one.step += 1
        if self._call is not None:
            self._call.cancel()
        return ran

    def recover(self) -> None:
        """The host is up again, and starts what it remembers."""
        self.away = False
        for one in self.held.values():
            if one.wanted:
                one.next_attempt()
                one.failures = 0
                self._begin(one, self._plan.start_s)
        self._back.set()

    async def _converse(self, call: Any) -> None:
        self._untold.clear()
        await self._send(call, hello=self._hello())
        message = await call.read()
        if message is grpc.aio.EOF:
            return
        interval_s = message.welcome.heartbeat_interval_ms / 1000
        self._watch.connected(1)
        beats = asyncio.create_task(self._beat(call, interval_s))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                match message.WhichOneof("body"):
                    case "heartbeat_ack":
                        sent = self._sent.pop(message.heartbeat_ack.sequence, None)
                        if sent is not None:
                            self._watch.acknowledged(time.perf_counter() - sent)
                    case "assignments":
                        self._assign(message.assignments)
        finally:
            self._watch.connected(-1)
            beats.cancel()

    def _hello(self) -> session_pb2.Hello:
        plan = self._plan
        return session_pb2.Hello(
            node_id=self.node_id,
            description=objects_pb2.NodeDescription(
                name=f"node-{self.number:05}",
                capacity=objects_pb2.Resources(
                    cpu_milli=plan.node_cpu_milli, memory_bytes=plan.node_memory_bytes
                ),
                labels={"zone": f"z{self.number % max(plan.zones, 1) + 1}"},
                images=[objects_pb2.NodeImage(reference=IMAGE, digest=IMAGE_DIGEST, size_bytes=1)],
                architecture="amd64",
                os_name="simulated",
                containerd_version="simulated",
            ),
            observed=[one.item() for one in self.held.values()],
        )

    async def _beat(self, call: Any, interval_s: float) -> None:
        await asyncio.sleep(interval_s * self._random.random())
        self._sent.clear()
        sequence = 0
        while True:
            sequence += 1
            self._sent[sequence] = time.perf_counter()
            heartbeat = session_pb2.Heartbeat(sequence=sequence, usage=self._measure())
            await self._send(call, heartbeat=heartbeat)
            await asyncio.sleep(interval_s)

    async def _send(self, call: Any, **body: Any) -> None:
        async with self._writing:
            await call.write(session_pb2.WorkerMessage(**body))

    def _measure(self) -> objects_pb2.NodeUsage | None:
        """As often as a real worker does, and as it does from the second time on."""
        now_s = self._loop.time()
        if self._measured is not None and now_s * 1e9 < self._measured.at_ns + INTERVAL_S * 1e9:
            return None
        used = {one.id.hex(): one.uses(now_s) for one in self.held.values()}
        running = {of: usage for of, usage in used.items() if usage is not None}
        before, self._measured = self._measured, Measured(int(now_s * 1e9), running)
        return None if before is None else total(before, self._measured)

    # What it is to run

    def _assign(self, assignments: session_pb2.Assignments) -> None:
        for blob in assignments.specs:
            self._reserved[blob.digest] = blob.spec.resources
        if assignments.complete:
            listed = {each.container_id for each in assignments.upsert}
            for container_id in self.held.keys() - listed:
                self._forget(container_id)
        for container_id in assignments.remove:
            self._forget(container_id)
        for each in assignments.upsert:
            self._take(each)

    def _forget(self, container_id: bytes) -> None:
        if (gone := self.held.pop(container_id, None)) is not None:
            gone.step += 1
        self._untold.pop(container_id, None)

    def _take(self, assignment: session_pb2.Assignment) -> None:
        one = self.held.get(assignment.container_id)
        if one is None:
            one = Held(
                assignment.container_id,
                assignment.service_id,
                assignment.slot,
                assignment.desired,
                max(1, assignment.status.attempt),
            )
            if (reserved := self._reserved.get(assignment.spec_digest)) is not None:
                one.cpu_milli, one.memory_bytes = reserved.cpu_milli, reserved.memory_bytes
            self.held[one.id] = one
            if one.wanted:
                self._watch.assigned(one)
                self._begin(one, self._plan.start_s)
                return
        one.desired = assignment.desired
        if not one.wanted:
            self._later(one, self._plan.stop_s, lambda: self._end(one))

    def _begin(self, one: Held, mean_s: float) -> None:
        self._later(one, mean_s, lambda: self._up(one))

    def _up(self, one: Held) -> None:
        one.up(self._loop.time())
        self._watch.up(one)
        self._tell(one)
        if self._plan.container_mtbf_h:
            self._later(one, self._plan.container_mtbf_h * 3600, lambda: self._fail_one(one))

    def _fail_one(self, one: Held) -> None:
        if self.calm:
            return
        self._watch.failed(one)
        pause_s = one.failed(self._loop.time())
        self._tell(one)
        self._begin(one, pause_s + self._plan.start_s)

    def _end(self, one: Held) -> None:
        one.end()
        self._tell(one)

    def _later(self, one: Held, mean_s: float, act: Callable[[], None]) -> None:
        """The container's next step, unless another one comes first."""
        one.step += 1
        step = one.step

        def due() -> None:
            if one.step == step and not self.away:
                act()

        self._loop.call_later(exponential_s(self._random, mean_s), due)

    # What it says of that

    def _tell(self, one: Held) -> None:
        self._untold[one.id] = one
        if self._call is not None and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_all(self._call))

    async def _tell_all(self, call: Any) -> None:
        await asyncio.sleep(LINGER_S)
        try:
            while self._untold and call is self._call:
                items = [one.item() for one in list(self._untold.values())[:REPORT_ITEMS_MAX]]
                for item in items:
                    self._untold.pop(item.container_id, None)
                await self._send(call, report=session_pb2.StatusReport(items=items))
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the stream is gone; the next hello says it


def exponential_s(source: random.Random, mean_s: float) -> float:
    """A time with that mean; 0 for a mean of 0."""
    return source.expovariate(1 / mean_s) if mean_s > 0 else 0.0
