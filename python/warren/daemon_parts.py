"""What the daemon consists of, started in order and ended in reverse.

Data directory, metrics address, core, containerd, gRPC server; then, once this node belongs to a
cluster, its worker. Each may refuse to start with a sentence (StartupError).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import grpc

from warren import __version__, endpoint, rpc
from warren.agent.node import NodeLocal
from warren.agent.runtime.base import RuntimeUnavailable
from warren.agent.runtime.containerd.images import Images
from warren.agent.runtime.containerd.runtime import ContainerdRuntime
from warren.agent.side import WorkerSide
from warren.agent.store import Store
from warren.config import Config, advertised
from warren.datadir import DataDir
from warren.errors import StartupError, WarrenError
from warren.manager import api, dispatcher, readiness
from warren.manager.core_port import OpenCore
from warren.observe.catalogue import ApiMetrics, ServiceMetrics
from warren.observe.endpoints import declare_http, routes
from warren.observe.health import CheckResult, Health, Role
from warren.observe.http import HttpServer
from warren.observe.logging import LogPipeline
from warren.observe.loop import declare_loop_lag, favour_loop, watch_loop
from warren.observe.metrics import Metrics, Scraper
from warren.pb.v1 import api_pb2, node_pb2

__all__ = ["Parts"]

PULSE_S: Final = 1.0  # liveness counts a gap of up to 2 s
GRPC_GRACE_S: Final = 1.0
CLOSE_STEP_S: Final = 1.5  # three steps wait at the end, and all of it has 5 s
PING_TIMEOUT_S: Final = 0.4
CONCURRENT_CALLS_MAX: Final = 4096
_log = logging.getLogger("warren.daemon")

CoreOpener = Callable[[Config, DataDir, LogPipeline], Awaitable[OpenCore]]


class Parts:
    """`start`, `close`; `broken` is done, with the reason, when a part ended that must not."""

    def __init__(
        self, settings: Config, pipeline: LogPipeline, open_core: CoreOpener | None = None
    ) -> None:
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._pipeline = pipeline
        self._open_core = open_core or _open_core
        self._stack = AsyncExitStack()
        self._metrics = Metrics()
        self._health = Health(__version__)
        self._side: WorkerSide | None = None
        self._data: DataDir
        self._core: OpenCore
        self._runtime: ContainerdRuntime
        self._channel: grpc.aio.Channel

    async def start(self) -> None:
        """Start everything. Raises StartupError; what was started then ends in `close`."""
        settings = self._settings
        self._data = DataDir.open(settings.data_dir)
        self._stack.callback(self._data.close)
        endpoint.prepare(settings.socket)
        await self._start_observing()
        await self._start_core()
        await self._start_runtime()
        await self._start_serving()
        self._declare_checks()
        self._background("health checks", self._health.run())
        if self._core.status()["in_cluster"]:
            await self._start_worker()
        else:
            _log.info("this node belongs to no cluster; create one: warrenctl cluster init")
        _log.info(
            "serving %s only: without certificates nothing listens on %s",
            settings.socket,
            settings.listen_addr,
        )

    async def close(self) -> None:
        """End everything that was started, in reverse, within a bounded time."""
        await self._stack.aclose()

    async def summary(self) -> str:
        """One line on how it is, for `systemctl status`."""
        if (why := await self._why_not_ready()) or self._side is None:
            return why
        if self._side.journal.problem:
            return self._side.journal.problem
        return f"ready; {len(self._side.board.assignments)} containers assigned"

    # Starting

    async def _start_observing(self) -> None:
        favour_loop()
        scraper = Scraper(self._metrics)
        self._stack.callback(scraper.close)
        server = HttpServer(routes(self._health, scraper))
        await server.listen(self._settings.metrics_addr)
        self._stack.push_async_callback(server.close)
        declare_http(self._metrics, server)
        self._pipeline.declare(self._metrics)
        self._background("loop watch", watch_loop(declare_loop_lag(self._metrics)))

    async def _start_core(self) -> None:
        try:
            self._core = await self._open_core(self._settings, self._data, self._pipeline)
        except WarrenError as error:
            raise StartupError(error.message) from None
        self._stack.push_async_callback(self._core.close)
        self._metrics.add_text_source("core", self._core.metrics)
        self._background("pulse", self._keep_pulsing())

    async def _start_runtime(self) -> None:
        settings = self._settings
        self._runtime = ContainerdRuntime(
            address=os.fspath(settings.containerd_address),
            namespace=settings.containerd_namespace,
            node_id=self._data.node_id,
            spool_dir=self._data.tmp_dir,
            log_max_bytes=settings.log_max_bytes,
            log_max_files=settings.log_max_files,
        )
        await self._runtime.open()
        self._stack.push_async_callback(self._runtime.close)
        self._runtime.images.on_change = self._images_changed

    async def _start_serving(self) -> None:
        settings = self._settings
        server = grpc.aio.server(
            options=rpc.SERVER_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX
        )
        server.add_generic_rpc_handlers(self._services())
        target = f"unix:{settings.socket}"
        try:
            with endpoint.bind_mode():
                server.add_insecure_port(target)
        except RuntimeError as error:
            raise StartupError(f"cannot serve {settings.socket}: {error} (socket)") from None
        if (
            complaint := endpoint.give_to_group(settings.socket, settings.socket_group)
        ) is not None:
            _log.warning(complaint)
        await server.start()
        self._stack.push_async_callback(_stop_serving, server, settings.socket)
        self._channel = grpc.aio.insecure_channel(target, options=rpc.CLIENT_OPTIONS)
        self._stack.push_async_callback(self._channel.close)

    def _services(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services = ServiceMetrics(self._metrics)
        durations = {
            "CreateService": services.create.observe,
            "UpdateService": services.update.observe,
            "RemoveService": services.delete.observe,
        }
        counts = ApiMetrics(self._metrics, api.API_METHODS)
        sessions = self._metrics.gauge("warren_sessions", "Sessions with workers, now.")
        node = _Node(
            self._runtime.images, self._data.logs_dir, self._describe_daemon, self._publish
        )
        return (
            api.service(self._core, counts, durations, {"InitCluster": self._start_worker}),
            dispatcher.service(self._core, sessions.inc),
            node.handler(),
        )

    async def _start_worker(self) -> None:
        if self._side is not None:
            return
        settings = self._settings
        self._side = WorkerSide(
            store=Store.open(self._data.store_file),
            runtime=self._runtime,
            images=self._runtime.images.list,
            channel=self._channel,
            metrics=self._metrics,
            node_id=self._data.node_id,
            node_name=settings.node_name,
            labels=settings.labels,
            logs_dir=self._data.logs_dir,
            concurrency=settings.worker_concurrency,
            on_runtime_change=self._health.changed,
        )
        self._background("worker", self._side.run())
        # Before, there is no log that could work or not.
        self._health.add_at_hand("raft", self._read_raft)
        self._health.set_role(Role.MANAGER | Role.WORKER)
        self._health.changed()

    def _background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until the end; if it ends before, the daemon is broken."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._stack.push_async_callback(_cancel, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.broken.done():
            return
        error = task.exception()
        if error is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)
        self.broken.set_result(f"{task.get_name()} ended unexpectedly: {error!r}")

    async def _keep_pulsing(self) -> None:
        while True:
            self._core.pulse()
            await asyncio.sleep(PULSE_S)

    # Answers about itself

    def _declare_checks(self) -> None:
        self._health.add("containerd", self._check_containerd)
        self._health.add("api", self._check_api)

    def _read_raft(self) -> CheckResult:
        why = readiness.problem(self._core.status())
        return not why, why

    async def _check_containerd(self) -> CheckResult:
        try:
            await self._runtime.version()
        except RuntimeUnavailable:
            address = self._settings.containerd_address
            return False, f"no answer at {address}; is containerd running?"
        if self._side is not None and not self._side.worker.listed:
            return False, "its containers have not been listed yet"
        return True, ""

    async def _check_api(self) -> CheckResult:
        stub = rpc.Stub(self._channel, rpc.MANAGER)
        try:
            await stub.Ping(api_pb2.PingRequest(), timeout=PING_TIMEOUT_S)
        except grpc.RpcError as error:
            refusal = rpc.failure(error)
            return refusal.code == "not_in_cluster", refusal.message
        return True, ""

    async def _why_not_ready(self) -> str:
        ready = await self._health.ready()
        return "" if ready.ok else str(ready.body.get("message", "not ready"))

    async def _describe_daemon(self) -> node_pb2.GetDaemonResponse:
        return node_pb2.GetDaemonResponse(
            version=__version__,
            node_id=bytes.fromhex(self._data.node_id),
            node_name=self._settings.node_name,
            in_cluster=self._side is not None,
            ready_message=await self._why_not_ready(),
        )

    def _images_changed(self) -> None:
        if self._side is not None:
            self._side.session.describe_again()

    async def _publish(self) -> None:
        if self._side is not None:
            await self._side.session.publish()


class _Node(NodeLocal):
    """The node-local service; an image is loaded once the managers know of it."""

    def __init__(
        self,
        images: Images,
        log_root: Path,
        describe: Callable[[], Awaitable[node_pb2.GetDaemonResponse]],
        publish: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(images, log_root, describe)
        self._publish = publish

    async def load_image(
        self, requests: AsyncIterator[node_pb2.LoadImageRequest], context: Any
    ) -> AsyncIterator[node_pb2.LoadImageProgress]:
        async for progress in super().load_image(requests, context):
            if progress.step == "done":
                await self._publish()
            yield progress


async def _open_core(settings: Config, data: DataDir, pipeline: LogPipeline) -> OpenCore:
    from warren.core import Core

    return await Core.open(
        raft_dir=data.raft_dir,
        node_id=data.node_id,
        node_name=settings.node_name,
        advertise_addr=advertised(settings),
        segment_bytes=settings.wal_segment_bytes,
        log=pipeline.emit_core,
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_STEP_S)


async def _stop_serving(server: grpc.aio.Server, path: Path) -> None:
    await server.stop(GRPC_GRACE_S)
    with suppress(FileNotFoundError):
        os.unlink(path)
