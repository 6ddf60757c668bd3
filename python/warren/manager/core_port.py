"""What the manager's edges need of the core: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
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

    async def backup(
        self, identity: str, file: Path, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        """Write a backup to `file`, durably; its encoded header."""

    async def restore(
        self, file: Path, epoch_min: int = 0, cluster_id: bytes | None = None
    ) -> bytes:
        """Go on as the only member of the cluster in a backup; for a core that belongs to none."""

    async def recover_quorum(self) -> bytes:
        """Go on as the only member of this member's cluster."""

    def pulse(self) -> None:
        """The event loop is alive: liveness time counts only while this is called."""

    def status(self) -> Mapping[str, Any]:
        """How it is, at once; see `warren.manager.readiness`."""

    def metrics(self, *, fine: bool) -> bytes:
        """Its series as Prometheus text, from any thread."""

    async def close(self) -> None:
        """End it cleanly."""
