"""What the manager's edges need of the core: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

__all__ = ["LOCAL", "CorePort"]

LOCAL = "local"
"""Who calls through the Unix socket: its mode and group decide who can."""


class CorePort(Protocol):
    """The core, as `warren.core.Core` is it. Refusals are `WarrenError`."""

    async def call(self, identity: str, method: str, body: bytes, timeout_s: float) -> bytes: ...

    def stream(self, identity: str, method: str, body: bytes) -> AsyncGenerator[bytes, None]: ...
