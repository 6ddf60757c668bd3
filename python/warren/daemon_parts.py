"""What the daemon consists of, started in order and ended in reverse.

Data directory, metrics address, containerd, gRPC servers; then what this host is in its cluster:
core, worker, both or none. Each may refuse to start with a sentence (StartupError).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import grpc

from warren import __version__, endpoint, rpc
from warren.agent.node import NodeLocal
from warren.agent.rebirth import Rebirth
from warren.agent.runtime.base import RuntimeUnavailable
from warren.agent.runtime.containerd.runtime import ContainerdRuntime
from warren.agent.side import WorkerMetrics, WorkerSide
from warren.channels import Channels
from warren.cluster import joining, rebirth
from warren.cluster.membership import Membership
from warren.cluster.worker import HostWorker
from warren.config import Config, advertised, advertised_peer, tls_files
from warren.datadir import DataDir
from warren.errors import StartupError, WarrenError
from warren.manager import readiness
from warren.manager.backup import Backups
from warren.manager.core_port import OpenCore
from warren.manager.forward import Forwarder
from warren.manager.seat import Seat
from warren.manager.serving import (
    ForwardMetrics,
    Services,
    serve_hosts,
    serve_socket,
    stop_serving,
)
from warren.observe.endpoints import Works, declare_http, routes
from warren.observe.health import NO_CLUSTER, CheckResult, Health, Role
from warren.observe.histograms import FINE_BOUNDS
from warren.observe.host import declare_host
from warren.observe.http import HttpServer
from warren.observe.logging import LogPipeline
from warren.observe.loop import declare_loop_lag, favour_loop, watch_loop
from warren.observe.metrics import Metrics, Scraper
from warren.pb.v1 import api_pb2, node_pb2
from warren.tls import Credentials, credentials_of

__all__ = ["Parts"]

PULSE_S: Final = 1.0  # liveness counts a gap of up to 2 s
CLOSE_STEP_S: Final = 1.5  # three steps wait at the end, and all of it has 5 s
PING_TIMEOUT_S: Final = 0.4
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
        self._metrics = Metrics(
            extra_bounds=FINE_BOUNDS if settings.metrics_buckets == "fine" else ()
        )
        self._health = Health(__version__)
        self._seat = Seat()
        self._data: DataDir
        self._credentials: Credentials | None
        self._channels: Channels
        self._runtime: ContainerdRuntime
        self._worker: HostWorker
        self._membership: Membership

    async def start(self) -> None:
        """Start everything. Raises StartupError; what was started then ends in `close`."""
        settings = self._settings
        self._credentials = credentials_of(tls_files(settings))
        node_id = None
        if self._credentials is not None:
            if self._credentials.identity.role == "client":
                raise StartupError(
                    "the certificate in tls_cert is a client's; a daemon has a manager's or a "
                    "worker's",
                    2,
                )
            node_id = self._credentials.identity.name
        self._data = DataDir.open(settings.data_dir, node_id)
        self._stack.callback(self._data.close)
        endpoint.prepare(settings.socket)
        await self._start_observing()
        await self._start_runtime()
        await self._start_membership()
        await self._start_serving()
        self._stack.push_async_callback(self._worker.end)
        await self._membership.begin()
        self._health.add("containerd", self._check_containerd, self._of_containerd)
        self._health.add("api", self._check_api)
        self._background("health checks", self._health.run())
        self._background("membership", self._membership.run())
        if not self._membership.in_cluster:
            _log.info("this node belongs to no cluster; create one: warrenctl cluster init")
        self._say_what_is_served()

    async def close(self) -> None:
        """End everything that was started, in reverse, within a bounded time."""
        await self._stack.aclose()

    async def summary(self) -> str:
        """One line on how it is, for `systemctl status`."""
        side = self._side
        if (why := await self._why_not_ready()) or side is None:
            return why
        if problem := self._membership.problem:
            return problem
        return f"ready; {len(side.board.assignments)} containers assigned"

    @property
    def _side(self) -> WorkerSide | None:
        return self._worker.side

    # Starting

    async def _start_observing(self) -> None:
        favour_loop()
        scraper = Scraper(self._metrics)
        self._stack.callback(scraper.close)
        works = Works(self._health)
        self._metrics.register(works)
        server = HttpServer(routes(self._health, works, scraper))
        await server.listen(self._settings.metrics_addr)
        self._stack.push_async_callback(server.close)
        declare_http(self._metrics, server)
        declare_host(self._metrics, self._settings.data_dir)
        self._pipeline.declare(self._metrics)
        self._background("loop watch", watch_loop(declare_loop_lag(self._metrics)))

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

    async def _start_membership(self) -> None:
        self._channels = Channels(self._credentials)
        self._stack.push_async_callback(self._channels.close)
        self._worker = HostWorker(
            self._settings,
            self._data,
            self._runtime,
            WorkerMetrics(self._metrics),
            self._ended,
            self._health.changed,
        )
        self._membership = self._worker.membership = Membership(
            settings=self._settings,
            data=self._data,
            credentials=self._credentials,
            channels=self._channels,
            seat=self._seat,
            open_core=lambda: self._open_core(self._settings, self._data, self._pipeline),
            worker=self._worker,
            on_change=self._follow_role,
        )
        self._runtime.images.on_change = self._worker.describe_again
        self._runtime.images.assigned = self._worker.image_digests
        self._stack.push_async_callback(self._membership.close)
        try:
            await self._membership.start()
        except WarrenError as error:
            raise StartupError(error.message) from None
        fine = self._settings.metrics_buckets == "fine"
        self._metrics.add_text_source("core", lambda: self._seat.metrics(fine=fine))
        self._background("pulse", self._keep_pulsing())

    async def _start_serving(self) -> None:
        settings = self._settings
        forwarder = Forwarder(
            self._seat,
            self._channels,
            ForwardMetrics(self._metrics),
            lambda: self._seat.term,
        )
        after = {"InitCluster": self._membership.founded}
        backups = Backups(self._seat, self._data.tmp_dir)
        services = Services(self._seat, forwarder, backups, self._metrics, after)
        node = NodeLocal(
            self._runtime.images,
            self._data.logs_dir,
            self.describe_daemon,
            self.join_cluster,
            self.leave_cluster,
            Rebirth(self._data.tmp_dir, self.restore_cluster, self.recover_quorum),
            self._pipeline,
            self._worker.publish,
        )
        server = await serve_socket(settings, services, node.handler())
        self._stack.push_async_callback(stop_serving, server, settings.socket)
        if self._credentials is not None and self._membership.may_manage:
            outside = await serve_hosts(settings, services, self._credentials)
            self._stack.push_async_callback(stop_serving, outside)

    def _say_what_is_served(self) -> None:
        settings = self._settings
        if self._credentials is None:
            _log.info(
                "serving %s only: without certificates nothing listens on %s",
                settings.socket,
                settings.listen_addr,
            )
        elif not self._membership.may_manage:
            _log.info("serving %s only: a worker's host has no API for others", settings.socket)
        else:
            _log.info(
                "serving %s, and as %s on %s",
                settings.socket,
                self._credentials.identity,
                settings.listen_addr,
            )

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
            self._seat.pulse()
            await asyncio.sleep(PULSE_S)

    # Answers about itself

    def _follow_role(self) -> None:
        """What `/ready` waits for follows from what this host is."""
        health, here = self._health, self._membership
        for name in ("raft", "session"):
            health.remove(name)
        role = Role.NONE
        if here.in_cluster:
            role = Role.WORKER
            if here.manages:
                role |= Role.MANAGER
                health.add_at_hand("raft", self._read_raft, lambda: self._seat.status() or {})
            else:
                health.add_at_hand("session", self._read_session, self._of_session)
        health.set_role(role, here.problem or NO_CLUSTER)
        health.changed()

    def _read_raft(self) -> CheckResult:
        status = self._seat.status()
        why = "its log is being closed" if status is None else readiness.problem(status)
        # Where there is no `session` to tell of the worker's store: it is on the same disk.
        why = why or self._store_problem()
        return not why, why

    def _read_session(self) -> CheckResult:
        side = self._side
        # Without a disk that answers there may be no session either: the disk is the cause.
        why = self._membership.problem or self._store_problem()
        why = why or (side.session.problem if side else "not started yet")
        return not why, why

    def _store_problem(self) -> str:
        side = self._side
        return "" if side is None else side.journal.problem

    def _of_session(self) -> dict[str, object]:
        if (side := self._side) is None:
            return {}
        return {
            "connected": side.session.connected,
            "assigned": len(side.board.assignments),
            "statuses_to_tell": len(side.outbox),
        }

    def _of_containerd(self) -> dict[str, object]:
        settings, side = self._settings, self._side
        return {
            "address": os.fspath(settings.containerd_address),
            "namespace": settings.containerd_namespace,
            "containers": len(side.worker.observed) if side is not None else 0,
        }

    async def _check_containerd(self) -> CheckResult:
        try:
            await self._runtime.version()
        except RuntimeUnavailable:
            address = self._settings.containerd_address
            return False, f"no answer at {address}; is containerd running?"
        side = self._side
        if side is not None and not side.worker.listed:
            return False, "its containers have not been listed yet"
        return True, ""

    async def _check_api(self) -> CheckResult:
        stub = rpc.Stub(self._channels.get(f"unix:{self._settings.socket}"), rpc.MANAGER)
        try:
            await stub.Ping(api_pb2.PingRequest(), timeout=PING_TIMEOUT_S)
        except grpc.RpcError as error:
            refusal = rpc.failure(error, "Ping")
            if refusal.code == "no_answer":
                return False, f"its socket has not answered for {PING_TIMEOUT_S} s"
            return refusal.code == "not_in_cluster", refusal.message
        return True, ""

    async def _why_not_ready(self) -> str:
        ready = await self._health.ready()
        return "" if ready.ok else str(ready.body.get("message", "not ready"))

    # What the node's own service asks

    async def describe_daemon(self) -> node_pb2.GetDaemonResponse:
        """Who answers, and whether it is ready."""
        return node_pb2.GetDaemonResponse(
            version=__version__,
            node_id=bytes.fromhex(self._data.node_id),
            node_name=self._settings.node_name,
            in_cluster=self._membership.in_cluster,
            manages=self._membership.manages,
            ready_message=await self._why_not_ready(),
            metrics_address=self._settings.metrics_addr,
            clock=self._clock_offset(),
        )

    def _clock_offset(self) -> node_pb2.ClockOffset | None:
        side = self._worker.side
        found = None if side is None else side.session.clock
        if found is None:
            return None
        return node_pb2.ClockOffset(seconds=found.ahead, error_seconds=found.error)

    async def join_cluster(
        self, request: node_pb2.JoinClusterRequest
    ) -> node_pb2.JoinClusterResponse:
        """Become a part of a cluster."""
        return await joining.join(self._membership, request)

    async def leave_cluster(self, request: node_pb2.LeaveClusterRequest) -> None:
        """Leave it."""
        await joining.leave(self._membership, request)

    async def restore_cluster(self, file: Path, epoch_min: int) -> node_pb2.RestoreClusterResponse:
        """Become the only manager of the cluster in a backup."""
        return await rebirth.restore(self._membership, file, epoch_min)

    async def recover_quorum(
        self, request: node_pb2.RecoverQuorumRequest
    ) -> node_pb2.RecoverQuorumResponse:
        """Become the only manager of this one's cluster."""
        return await rebirth.recover(self._membership, request)


async def _open_core(settings: Config, data: DataDir, pipeline: LogPipeline) -> OpenCore:
    from warren.core import Core, PeerSettings

    peers = None
    files = tls_files(settings)
    if files is not None:
        peers = PeerSettings(
            listen=settings.peer_addr,
            address=advertised_peer(settings),
            ca=files.ca,
            cert=files.cert,
            key=files.key,
        )
    core = await Core.open(
        raft_dir=data.raft_dir,
        node_id=data.node_id,
        node_name=settings.node_name,
        advertise_addr=advertised(settings),
        segment_bytes=settings.wal_segment_bytes,
        log=pipeline.emit_core,
        peers=peers,
    )
    loop = asyncio.get_running_loop()

    def tell(verbose: bool) -> None:
        with suppress(RuntimeError):  # the loop is closed: the daemon ends
            loop.call_soon_threadsafe(core.set_verbose, verbose)

    pipeline.on_verbosity(tell)
    return core


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_STEP_S)
