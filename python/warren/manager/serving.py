"""The two doors of a daemon: a Unix socket for this host, TLS for others.

Both have the API and the sessions of workers; what is local to the host is behind the first alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from warren import endpoint, rpc
from warren.config import Config
from warren.core import STREAMS_MAX
from warren.errors import StartupError
from warren.manager import api, backup, dispatcher
from warren.manager.backup import Backups
from warren.manager.core_port import CorePort
from warren.manager.forward import Forwarder
from warren.manager.identity import Identify, by_certificate, by_socket
from warren.observe.catalogue import ApiMetrics, ServiceMetrics
from warren.observe.metrics import Metrics
from warren.tls import Credentials

__all__ = ["ForwardMetrics", "Services", "serve_hosts", "serve_socket", "stop_serving"]

#: Sessions, and calls beside them. The core's own bounds are below, and refuse in words.
CONCURRENT_CALLS_MAX: Final = STREAMS_MAX + 4096
GRACE_S: Final = 1.0
_log = logging.getLogger("warren.daemon")

After = Mapping[str, Callable[[], Awaitable[None]]]


class ForwardMetrics:
    """How many requests were passed on to the leader, and how that ended."""

    def __init__(self, metrics: Metrics) -> None:
        total = metrics.counter(
            "warren_api_forwarded_total", "Requests passed on to the leader.", ("status",)
        )
        self._succeeded = total.labels("success")
        self._failed = total.labels("error")

    def record(self, *, ok: bool) -> None:
        """One has ended."""
        (self._succeeded if ok else self._failed).inc()


class Services:
    """What both doors have. `after`: by method, what follows a call before it is answered."""

    def __init__(
        self,
        core: CorePort,
        forwarder: Forwarder,
        backups: Backups,
        metrics: Metrics,
        after: After,
    ) -> None:
        services = ServiceMetrics(metrics)
        self._durations = {
            "CreateService": services.create.observe_with,
            "UpdateService": services.update.observe_with,
            "RemoveService": services.delete.observe_with,
        }
        self._core = core
        self._forwarder = forwarder
        self._after = after
        self._streams = {backup.METHOD: backups.stream}
        self._counts = ApiMetrics(metrics, api.API_METHODS)
        self._sessions = metrics.gauge("warren_sessions", "Sessions with workers, now.")
        metrics.gauge_function(
            "warren_api_forwarding",
            "Requests that wait for the leader's answer.",
            lambda: forwarder.under_way,
        )

    def handlers(self, identify: Identify) -> tuple[grpc.GenericRpcHandler, ...]:
        """For those whom `identify` knows."""
        return (
            api.service(
                self._forwarder,
                identify,
                self._counts,
                self._durations,
                self._after,
                self._streams,
            ),
            dispatcher.service(self._core, identify, self._sessions.inc),
        )


async def serve_socket(
    settings: Config, services: Services, *more: grpc.GenericRpcHandler
) -> grpc.aio.Server:
    """Serve this host. Raises StartupError."""
    server = _server((*services.handlers(by_socket), *more))
    try:
        with endpoint.bind_mode():
            server.add_insecure_port(f"unix:{settings.socket}")
    except RuntimeError as error:
        raise StartupError(f"cannot serve {settings.socket}: {error} (socket)") from None
    complaint = endpoint.give_to_group(settings.socket, settings.socket_group)
    if complaint is not None:
        _log.warning(complaint)
    await server.start()
    return server


async def serve_hosts(
    settings: Config, services: Services, credentials: Credentials
) -> grpc.aio.Server:
    """Serve those who have a certificate of our trust domain. Raises StartupError."""
    server = _server(services.handlers(by_certificate(credentials.identity.trust_domain)))
    try:
        server.add_secure_port(settings.listen_addr, credentials.server())
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {settings.listen_addr}: {error}; is another process there? "
            "(listen_addr)"
        ) from None
    await server.start()
    return server


async def stop_serving(server: grpc.aio.Server, path: Path | None = None) -> None:
    """End a server, and remove its socket."""
    await server.stop(GRACE_S)
    if path is not None:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _server(handlers: tuple[grpc.GenericRpcHandler, ...]) -> grpc.aio.Server:
    server = grpc.aio.server(
        options=rpc.SERVER_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX
    )
    server.add_generic_rpc_handlers(handlers)
    return server
