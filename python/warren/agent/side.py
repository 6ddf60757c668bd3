"""The worker's half of a daemon, put together: store, board, worker, session."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import grpc

from warren.agent.board import Board
from warren.agent.contact import ContactWatch, boot_id, uptime_s
from warren.agent.description import Describer
from warren.agent.outbox import Outbox
from warren.agent.runtime.base import Runtime
from warren.agent.session import Session
from warren.agent.store import Journal, Store
from warren.agent.worker import Worker
from warren.observe.catalogue import ContainerMetrics
from warren.observe.metrics import Metrics
from warren.pb.v1 import objects_pb2

__all__ = ["WorkerSide"]

FIRST_LISTING_S = 2.0


class WorkerSide:
    """Everything that makes this host run what it is assigned. `run` until cancelled."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        images: Callable[[], Awaitable[Iterable[objects_pb2.NodeImage]]],
        channel: grpc.aio.Channel,
        metrics: Metrics,
        node_id: str,
        node_name: str,
        labels: Mapping[str, str],
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
        self.worker = Worker(
            runtime=runtime,
            board=self.board,
            journal=self.journal,
            outbox=self.outbox,
            node_name=node_name,
            logs_dir=logs_dir,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            durations=ContainerMetrics(metrics),
            concurrency=concurrency,
            contact=self.contact,
        )
        describer = Describer(name=node_name, labels=labels, runtime=runtime, images=images)
        self.session = Session(
            channel=channel,
            node_id=node_id,
            board=self.board,
            journal=self.journal,
            outbox=self.outbox,
            describe=describer.describe,
            observed=lambda: self.worker.observed.values(),
            random=random.random,
            reconnects=metrics.counter(
                "warren_session_reconnects_total", "Streams to a manager opened after the first."
            ),
        )
        self.contact.on_broken = self.session.begin_anew
        self._on_runtime_change = on_runtime_change
        self.worker.on_runtime_change = self._runtime_changed
        self._declare(metrics)

    async def run(self) -> None:
        """Work, and once it is known what is on this host, say so to a manager."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.worker.run())
                await self.worker.first_listing(FIRST_LISTING_S)
                group.create_task(self.session.run())
        finally:
            await self.journal.close()

    def _runtime_changed(self) -> None:
        self.session.describe_again()
        self._on_runtime_change()

    def _declare(self, metrics: Metrics) -> None:
        metrics.gauge_function(
            "warren_session_connected",
            "1 while a manager has welcomed this worker, else 0.",
            lambda: float(self.session.connected),
        )
        metrics.gauge_function(
            "warren_worker_actions", "Container operations under way.", lambda: self.worker.busy
        )
        metrics.gauge_function(
            "warren_worker_outbox_depth",
            "Container statuses waiting to be told to the manager.",
            lambda: len(self.outbox),
        )
        metrics.gauge_function(
            "warren_worker_store_failing",
            "1 while the worker's store cannot be written, else 0.",
            lambda: float(bool(self.journal.problem)),
        )
