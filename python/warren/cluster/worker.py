"""The life of this host's worker: begun when it joins a cluster, ended when it leaves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from warren.agent.description import Declared
from warren.agent.route import Route
from warren.agent.runtime.containerd.runtime import ContainerdRuntime
from warren.agent.side import WorkerMetrics, WorkerSide
from warren.agent.store import Store
from warren.cluster.membership import Membership
from warren.config import Config
from warren.datadir import DataDir

__all__ = ["HostWorker"]

_END_TIMEOUT_S: Final = 10.0


class HostWorker:
    """Makes and ends the `WorkerSide`. `ended` is told of a task of it that ended by itself."""

    def __init__(
        self,
        settings: Config,
        data: DataDir,
        runtime: ContainerdRuntime,
        metrics: WorkerMetrics,
        ended: Callable[[asyncio.Task[None]], None],
        on_runtime_change: Callable[[], None],
    ) -> None:
        self.side: WorkerSide | None = None
        self.membership: Membership | None = None
        self._settings = settings
        self._data = data
        self._runtime = runtime
        self._metrics = metrics
        self._ended = ended
        self._on_runtime_change = on_runtime_change
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """It has a session with a manager."""
        return self.side is not None and self.side.session.connected

    @property
    def epoch(self) -> int:
        """The highest epoch of the cluster that it has obeyed; 0 where there was none."""
        return 0 if self.side is None else self.side.board.epoch

    async def begin(self) -> None:
        """Start it, unless it runs."""
        if self.side is not None:
            return
        membership, settings = self.membership, self._settings
        assert membership is not None
        route = Route(
            membership.known_managers, membership.own_target, membership.own_api, random.random
        )
        self.side = WorkerSide(
            store=Store.open(self._data.store_file),
            runtime=self._runtime,
            images=self._runtime.images.by_need,
            route=route,
            managers=membership,
            manages=lambda: membership.manages,
            as_manager=membership.as_manager,
            metrics=self._metrics,
            node_id=self._data.node_id,
            node_name=settings.node_name,
            declared=Declared.of(settings),
            logs_dir=self._data.logs_dir,
            concurrency=settings.worker_concurrency,
            on_runtime_change=self._on_runtime_change,
        )
        self._task = asyncio.create_task(self.side.run(), name="worker")
        self._task.add_done_callback(self._ended)

    async def empty(self, timeout_s: float) -> bool:
        """Remove all its containers; False: not in time."""
        return self.side is None or await self.side.empty(timeout_s)

    async def end(self) -> None:
        """End it. Containers, where there are any, go on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=_END_TIMEOUT_S)
        self.side = self._metrics.side = None

    def image_digests(self) -> set[str]:
        """Those of the images that this host is to run containers of."""
        return set() if self.side is None else self.side.board.image_digests()

    def describe_again(self) -> None:
        """What the host says of itself may have changed."""
        if self.side is not None:
            self.side.session.describe_again()

    async def publish(self) -> str:
        """Wait until managers know what the host says of itself; why they do not, else nothing."""
        return "" if self.side is None else await self.side.session.publish()
