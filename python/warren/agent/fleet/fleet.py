"""All hosts, what fails when, and what was measured."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from warren import rpc
from warren._histogram import Histogram
from warren.agent.fleet.held import Held
from warren.agent.fleet.host import Host, exponential_s
from warren.agent.fleet.plan import IMAGE, Plan
from warren.pb.v1 import api_pb2, objects_pb2

__all__ = ["Fleet", "Measured"]

CONNECTIONS: Final = 8
CALL_TIMEOUT_S: Final = 60.0
CREATES_AT_ONCE: Final = 16
OVERLOADED_PAUSE_S: Final = 0.1
#: Containers of one answer that lists them all.
COMPARED_MAX: Final = 100_000
#: Of what a service had first, it is scaled up or down by as much at most.
SCALED_PART: Final = 10

Slot = tuple[bytes, int]


@dataclass
class Measured:
    """Counts only grow; times are in seconds."""

    connected: int = 0
    sessions_lost: int = 0
    started: int = 0
    failures: int = 0
    hosts_lost: int = 0
    scalings: int = 0
    heartbeats: Histogram = field(default_factory=Histogram)
    #: The same, of the time before everything was deployed.
    heartbeats_before: Histogram = field(default_factory=Histogram)
    #: From asking for a container until its host knows.
    assigned: Histogram = field(default_factory=Histogram)
    #: From asking for a container (a service is created, or gets more replicas) until it runs.
    placed: Histogram = field(default_factory=Histogram)
    #: From the loss of a host until what ran there runs again, there or elsewhere.
    replaced: Histogram = field(default_factory=Histogram)


class Fleet:
    """Hosts that are `Plan.nodes`, and services on them. Use as `async with`."""

    def __init__(self, plan: Plan, target: str) -> None:
        self.plan = plan
        self.seen = Measured()
        self.hosts: list[Host] = []
        self._target = target
        self._channels: list[grpc.aio.Channel] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._client, self._sequence = secrets.token_bytes(16), 0
        self._services: list[tuple[bytes, int, objects_pb2.ServiceSpec]] = []
        #: When more of a service was asked for last.
        self._asked_at: dict[bytes, float] = {}
        self._scaling: asyncio.Task[None] | None = None
        #: Slots whose host is lost, since when.
        self._lost_at: dict[Slot, float] = {}

    async def __aenter__(self) -> Fleet:
        # Otherwise gRPC shares one connection among channels of the same arguments.
        self._channels = [
            grpc.aio.insecure_channel(
                self._target, options=[*rpc.CLIENT_OPTIONS, ("warren.number", number)]
            )
            for number in range(CONNECTIONS)
        ]
        stubs = [rpc.Stub(channel, rpc.DISPATCHER) for channel in self._channels]
        self.hosts = [
            Host(number, self.plan, stubs[number % CONNECTIONS], self)
            for number in range(self.plan.nodes)
        ]
        self._tasks = [asyncio.create_task(host.run()) for host in self.hosts]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    @property
    def manager(self) -> Any:
        """Calls of the manager's API."""
        return rpc.Stub(self._channels[0], rpc.MANAGER)

    @property
    def wanted(self) -> int:
        """Containers that are asked for."""
        return sum(spec.replicas for _, _, spec in self._services)

    # What hosts tell (`host.Watch`)

    def connected(self, by: int) -> None:
        """A session stands, or no more."""
        self.seen.connected += by
        self.seen.sessions_lost += by < 0

    def acknowledged(self, seconds: float) -> None:
        """A heartbeat was."""
        self.seen.heartbeats.observe(seconds)

    def assigned(self, container: Held) -> None:
        """Its host knows of it now."""
        if (asked_at := self._asked_for_at(container)) is not None:
            self.seen.assigned.observe(time.perf_counter() - asked_at)

    def up(self, container: Held) -> None:
        """It runs now."""
        self.seen.started += 1
        asked_at = self._asked_for_at(container)
        slot = (container.service, container.slot)
        if (lost_at := self._lost_at.pop(slot, None)) is not None:
            self.seen.replaced.observe(time.perf_counter() - lost_at)
        elif asked_at is not None:
            self.seen.placed.observe(time.perf_counter() - asked_at)

    def _asked_for_at(self, container: Held) -> float | None:
        """When somebody asked for it; None if it replaces another one."""
        if container.attempt > 1 or (container.service, container.slot) in self._lost_at:
            return None
        return self._asked_at.get(container.service)

    def failed(self, container: Held) -> None:
        """It ended by itself."""
        self.seen.failures += 1

    # What is asked of the manager

    async def deploy(self) -> None:
        """Creates all services; returns when each is acknowledged."""
        room = asyncio.Semaphore(CREATES_AT_ONCE)

        async def create(number: int) -> None:
            async with room:
                await self._create(f"service-{number:04}")

        await asyncio.gather(*(create(number) for number in range(self.plan.services)))

    async def _create(self, name: str) -> None:
        asked = objects_pb2.Resources(
            cpu_milli=self.plan.container_cpu_milli,
            memory_bytes=self.plan.container_memory_bytes,
        )
        spec = objects_pb2.ServiceSpec(
            name=name,
            mode=objects_pb2.SERVICE_MODE_REPLICATED,
            replicas=self.plan.replicas,
            container=objects_pb2.ContainerSpec(image=IMAGE, resources=asked),
        )
        request = api_pb2.CreateServiceRequest(spec=spec)
        self._name(request)
        began = time.perf_counter()
        made = await self._ask(self.manager.CreateService, request)
        self._asked_at[made.service_id] = began
        self._services.append((made.service_id, made.version, spec))

    async def _ask(self, call: Any, request: Any) -> Any:
        """The answer; asked again, under the same id, while the manager takes no more calls."""
        until = time.perf_counter() + CALL_TIMEOUT_S
        while True:
            try:
                return await call(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                if rpc.failure(error).code != "overloaded" or time.perf_counter() > until:
                    raise
            await asyncio.sleep(OVERLOADED_PAUSE_S)

    def _name(self, request: Any) -> None:
        self._sequence += 1
        request.request.client, request.request.sequence = self._client, self._sequence

    # What goes wrong, and what changes

    async def trouble(self) -> None:
        """Hosts fail and come back, and services are scaled, until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self.plan.node_mtbf_h:
                group.create_task(self._lose_hosts())
            if self.plan.scalings_per_minute:
                group.create_task(self._scale())

    async def _lose_hosts(self) -> None:
        source = self.plan.stream("hosts")
        mean_s = self.plan.node_mtbf_h * 3600 / max(self.plan.nodes, 1)
        while True:
            await asyncio.sleep(exponential_s(source, mean_s))
            host = source.choice(self.hosts)
            if host.away:
                continue
            now = time.perf_counter()
            for one in host.fail():
                self._lost_at.setdefault((one.service, one.slot), now)
            self.seen.hosts_lost += 1
            down_s = exponential_s(source, self.plan.node_down_s)
            asyncio.get_running_loop().call_later(down_s, self._bring_back, host)

    @staticmethod
    def _bring_back(host: Host) -> None:
        if host.away:
            host.recover()

    async def _scale(self) -> None:
        source = self.plan.stream("scalings")
        while True:
            await asyncio.sleep(exponential_s(source, 60 / self.plan.scalings_per_minute))
            at = source.randrange(len(self._services))
            most = max(1, self.plan.replicas // SCALED_PART)
            replicas = max(1, self.plan.replicas + source.randint(-most, most))
            if replicas != self._services[at][2].replicas:
                # Not ended half-way: nobody would know how many were asked for.
                self._scaling = asyncio.create_task(self.scale(at, replicas))
                await asyncio.shield(self._scaling)

    async def scale(self, at: int, replicas: int) -> None:
        """Another number of containers for one service; returns when that is acknowledged."""
        service, version, spec = self._services[at]
        more = replicas > spec.replicas
        spec.replicas = replicas
        request = api_pb2.UpdateServiceRequest(
            service_id=service, expected_version=version, spec=spec
        )
        self._name(request)
        if more:
            self._asked_at[service] = time.perf_counter()
        changed = await self._ask(self.manager.UpdateService, request)
        self._services[at] = (service, changed.version, spec)
        self.seen.scalings += 1

    def deployed(self) -> None:
        """From here on it is another time: a manager that deploys is busy."""
        seen = self.seen
        seen.heartbeats_before, seen.heartbeats = seen.heartbeats, Histogram()

    async def calm(self) -> None:
        """Nothing fails or changes any more, and every host is there."""
        if self._scaling is not None:
            await self._scaling
        for host in self.hosts:
            host.calm = True
            if host.away:
                host.recover()

    # What there is

    def count(self) -> int:
        """Containers that run on hosts that are there."""
        here = (host for host in self.hosts if not host.away)
        return sum(one.runs and one.wanted for host in here for one in host.held.values())

    def per_host(self) -> list[int]:
        """How many containers each host that is there runs."""
        return [sum(one.runs for one in host.held.values()) for host in self.hosts if not host.away]

    async def strays(self) -> int | None:
        """How many containers are not as the manager has it, on either side; None of too many.

        Host by host: what it is to run and runs, and what it has besides.
        """
        if self.wanted > COMPARED_MAX:
            return None
        request = api_pb2.ListContainersRequest()
        listed = await self.manager.ListContainers(request, timeout=CALL_TIMEOUT_S)
        wanted = {
            (view.container.node_id, view.container.id)
            for view in listed.containers
            if view.container.desired == objects_pb2.DESIRED_STATE_RUN
        }
        running = {
            (host.node_id, one.id) for host in self.hosts for one in host.held.values() if one.runs
        }
        return len(wanted ^ running)

    async def why_not(self) -> str:
        """What the manager says of a service that does not run whole; empty if there is none."""
        for service, _, spec in self._services:
            request = api_pb2.WatchServiceRequest(service_id=service)
            async for progress in self.manager.WatchService(request, timeout=CALL_TIMEOUT_S):
                if progress.running < progress.desired:
                    return f"{spec.name}: {progress.reason or 'on its way'}"
                break
        return ""
