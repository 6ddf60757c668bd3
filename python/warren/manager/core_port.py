"""What the manager's edges need of the core: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

__all__ = ["LOCAL", "CorePort", "OpenCore"]

LOCAL = "local"
"""Who calls through the Unix socket: its mode and group decide who can."""


class CorePort(Protocol):
    """The core, as `warren.core.Core` is it. Refusals are `WarrenError`."""

    async def call(
        self, identity: str, method: str, body: bytes, timeout_s: float, *, stale: bool = False
    ) -> bytes: ...

    def stream(self, identity: str, method: str, body: bytes) -> AsyncGenerator[bytes, None]: ...


class OpenCore(CorePort, Protocol):
    """A core that runs, as the daemon holds it."""

    async def join(self, *, cluster_id: bytes, epoch: int, member_id: int, data_dir: bytes) -> None:
        """Go on as that member of a cluster; for a core that belongs to none."""

    def pulse(self) -> None:
        """The event loop is alive: liveness time counts only while this is called."""

    def status(self) -> Mapping[str, Any]:
        """How it is, at once; see `warren.manager.readiness`."""

    def metrics(self) -> bytes:
        """Its series as Prometheus text, from any thread."""

    async def close(self) -> None:
        """End it cleanly."""
