"""The place where a core is, if this host has one: managers come and go while the daemon runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final

from warren.errors import WarrenError
from warren.manager.core_port import OpenCore

__all__ = ["Seat"]

_PING: Final = "Ping"


class Seat:
    """Passes calls to the core that is there, and refuses them where there is none.

    `vacancy` says, while there is none, what to do instead.
    """

    def __init__(self) -> None:
        self.core: OpenCore | None = None
        self.vacancy = "this daemon is starting; try again in a moment"

    @property
    def manages(self) -> bool:
        """There is a core, and it is a member of a cluster."""
        return self.core is not None and bool(self.core.status()["is_member"])

    @property
    def leads(self) -> bool:
        """There is one, and it leads the cluster."""
        return self.core is not None and bool(self.core.status()["leader"])

    @property
    def term(self) -> int:
        """The newest term that the core here knows of; 0 without a core."""
        return 0 if self.core is None else int(self.core.status()["term"])

    async def call(
        self, identity: str, method: str, body: bytes, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        """As the core's."""
        if self.core is None:
            if method == _PING:
                return b""
            raise self._vacant()
        return await self.core.call(identity, method, body, timeout_s, stale=stale)

    def stream(self, identity: str, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """As the core's."""
        if self.core is None:
            return _refused(self._vacant())
        return self.core.stream(identity, method, body)

    async def backup(
        self, identity: str, file: Path, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        """As the core's."""
        if self.core is None:
            raise self._vacant()
        return await self.core.backup(identity, file, timeout_s, stale=stale)

    def pulse(self) -> None:
        """As the core's."""
        if self.core is not None:
            self.core.pulse()

    def status(self) -> Mapping[str, Any] | None:
        """The core's; None without one."""
        return None if self.core is None else self.core.status()

    def metrics(self, *, fine: bool) -> bytes:
        """The core's; nothing without one. From any thread."""
        core = self.core
        return b"" if core is None else core.metrics(fine=fine)

    async def vacate(self, vacancy: str) -> None:
        """End the core that is there; calls are refused at once, with `vacancy`."""
        core, self.core = self.core, None
        self.vacancy = vacancy
        if core is not None:
            await core.close()

    def _vacant(self) -> WarrenError:
        return WarrenError("worker_only", self.vacancy)


async def _refused(error: WarrenError) -> AsyncGenerator[bytes, None]:
    raise error
    yield b""  # never: makes it a generator
