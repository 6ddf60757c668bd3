"""The worker's half of a daemon, put together: store, board, worker, session."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from warren.agent.board import Board
from warren.agent.contact import ContactWatch, boot_id, uptime_s
from warren.agent.container_series import ContainerReading, ContainerSeries
from warren.agent.description import Declared, Describer, ManagerAddresses, disk_folder
from warren.agent.devices import DeviceMap
from warren.agent.outbox import Outbox
from warren.agent.route import Route
from warren.agent.runtime.base import Runtime
from warren.agent.session import Managers, Session
from warren.agent.store import Journal, Store
from warren.agent.usage import Meter
from warren.agent.volumes import VolumeMap
from warren.agent.worker import Worker
from warren.observe.catalogue import ContainerMetrics
from warren.observe.metrics import Metrics
from warren.pb.v1 import objects_pb2, session_pb2

__all__ = ["WorkerMetrics", "WorkerSide"]

FIRST_LISTING_S: Final = 2.0
_EMPTY_POLL_S: Final = 0.05


class WorkerMetrics:
    """The worker's series. `side` is the one that they tell of; None while there is none."""

    def __init__(self, metrics: Metrics) -> None:
        self.side: WorkerSide | None = None
        self.containers = ContainerMetrics(metrics)
        metrics.register(ContainerSeries(self._readings))
        self.reconnects = metrics.counter(
            "warren_session_reconnects_total",
            "Streams to a manager that it has welcomed, after the first.",
        )
        metrics.gauge_function(
            "warren_session_connected",
            "1 while a manager has welcomed this worker, else 0.",
            lambda: float(self.side is not None and self.side.session.connected),
        )
        metrics.register(_ClockSeries(self))
        metrics.gauge_function(
            "warren_worker_actions",
            "Container operations under way.",
            lambda: self.side.worker.busy if self.side else 0,
        )
        metrics.gauge_function(
            "warren_worker_outbox_depth",
            "Container statuses waiting to be told to the manager.",
            lambda: len(self.side.outbox) if self.side else 0,
        )
        metrics.gauge_function(
            "warren_worker_store_failing",
            "1 while the worker's store cannot be written or its disk does not answer, else 0.",
            lambda: float(bool(self.side and self.side.journal.problem)),
        )
        metrics.gauge_function(
            "warren_worker_images_left_out",
            "Images of this host that managers are not told of, because they are too many.",
            lambda: self.side.describer.images_left_out if self.side else 0,
        )

    def _readings(self) -> dict[str, ContainerReading]:
        if self.side is None:
            return {}
        board, measured = self.side.board, self.side.meter.measured
        readings: dict[str, ContainerReading] = {}
        # A copy, because this is not the loop's thread.
        for container_id, assignment in board.assignments.copy().items():
            memory = board.memory.get(container_id)
            readings[container_id] = ContainerReading(
                service=assignment.service_name,
                slot=assignment.slot,
                restarts=memory.attempt - 1 if memory is not None else 0,
                oom_kills=self.side.worker.oom_kills.get(container_id, 0),
                usage=measured.get(container_id),
            )
        return readings


class _ClockSeries(Collector):
    """Absent until a heartbeat was acknowledged: until then it is not known."""

    def __init__(self, of: WorkerMetrics) -> None:
        self._of = of

    def collect(self) -> Iterator[Metric]:
        """The offset."""
        family = GaugeMetricFamily(
            "warren_clock_offset_seconds", "How far the wall clock is ahead of the leader's."
        )
        if self._of.side is not None and (clock := self._of.side.session.clock) is not None:
            family.add_metric((), clock.ahead)
        yield family


class WorkerSide:
    """Everything that makes this host run what it is assigned. `run` until cancelled."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        images: Callable[[], Awaitable[Iterable[objects_pb2.NodeImage]]],
        route: Route,
        managers: Managers,
        manages: Callable[[], bool],
        as_manager: Callable[[], ManagerAddresses | None],
        metrics: WorkerMetrics,
        node_id: str,
        node_name: str,
        declared: Declared,
        logs_dir: Path,
        concurrency: int,
        on_runtime_change: Callable[[], None],
    ) -> None:
        self.journal = Journal(store)
        self.outbox = Outbox()
        self.board = Board(store.load(), self.journal)
        self.contact = ContactWatch(
            stored=self.board.contact,
            boot_id=boot_id(),
            clock_s=uptime_s,
            acknowledged_s=lambda: self.session.last_acknowledged_s,
            save=self.board.save_contact,
        )
        self.board.on_hello = self.contact.hello
        self.board.on_agreed = self.contact.agreed
        volumes = VolumeMap(declared.volumes)
        self.worker = Worker(
            runtime=runtime,
            board=self.board,
            journal=self.journal,
            outbox=self.outbox,
            node_name=node_name,
            logs_dir=logs_dir,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            durations=metrics.containers,
            concurrency=concurrency,
            contact=self.contact,
            devices=DeviceMap(declared.devices),
            volumes=volumes,
        )
        self.describer = Describer(
            name=node_name,
            declared=declared,
            disk=logs_dir,
            runtime=runtime,
            images=images,
            volumes=volumes,
            as_manager=as_manager,
        )
        self.meter = Meter(runtime, disk_folder(logs_dir))
        self.session = Session(
            route=route,
            managers=managers,
            manages=manages,
            node_id=node_id,
            board=self.board,
            journal=self.journal,
            outbox=self.outbox,
            describe=self.describer.describe,
            observed=lambda: self.worker.observed.values(),
            random=random.random,
            reconnects=metrics.reconnects,
            usage=self.meter.take,
        )
        self.contact.on_broken = self.session.begin_anew
        self._session_task: asyncio.Task[None] | None = None
        self._on_runtime_change = on_runtime_change
        self.worker.on_runtime_change = self._runtime_changed
        metrics.side = self

    async def run(self) -> None:
        """Work, and once it is known what is on this host, say so to a manager."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.worker.run())
                await self.worker.first_listing(FIRST_LISTING_S)
                group.create_task(self.meter.run())
                self._session_task = group.create_task(self.session.run())
        finally:
            await self.journal.close()

    async def empty(self, timeout_s: float) -> bool:
        """Listen to no manager any more, and remove every container; False: not all in time."""
        if self._session_task is not None:
            self._session_task.cancel()
        nothing = session_pb2.Assignments(complete=True)
        self.board.apply(nothing)
        try:
            async with asyncio.timeout(timeout_s):
                while self._holds_any():  # noqa: ASYNC110 - once in a host's life
                    await asyncio.sleep(_EMPTY_POLL_S)
        except TimeoutError:
            return False
        return True

    def _holds_any(self) -> bool:
        return bool(self.worker.observed or self.worker.busy) or not self.worker.listed

    def _runtime_changed(self) -> None:
        self.session.describe_again()
        self._on_runtime_change()
